//! Compaction and restored files beside damage.

use allidb_storage::fs::{Fs, SimFs};
use allidb_storage::{Durability, Engine, Options};

use crate::damage::{
    assert_names, assert_right_or_named, describe, is_blob, is_table, quiet, scrub, store_of_two_tables,
    tables,
};
use crate::model::{
    Edit, Model, Random, apply, assert_whole, batch, contents, effort, keyspace, open, put, tiny,
};

#[test]
fn a_store_goes_on_around_damage_and_takes_restored_files_back() {
    let mut compacted_away = 0;
    for seed in 0..60 * effort() {
        let fs = SimFs::new();
        let mut random = Random(seed);
        let mut model = Model::new();
        let mut write = |engine: &Engine, random: &mut Random| {
            let mut changes: Vec<Edit> = random.changes().into_iter().map(Edit::from).collect();
            if random.below(12) == 0 {
                let key = |number| format!("key{number:02}").into_bytes();
                let lower = random.below(35);
                changes.push(Edit::DeleteRange(
                    random.below(2) as usize,
                    key(lower),
                    Some(key(lower + 1 + random.below(5))),
                ));
            }
            engine
                .write(batch(engine, &changes), Durability::Flush)
                .unwrap_or_else(|e| panic!("{seed}: {e}"));
            apply(&mut model, &changes);
            model.clone()
        };
        let engine = open(&fs, tiny()).unwrap();
        for _ in 0..80 + random.below(80) {
            write(&engine, &mut random);
        }
        engine.flush().unwrap();
        engine.close().unwrap();
        let mut all = tables(&fs);
        all.extend(fs.files().into_iter().map(|(path, _)| path).filter(|path| is_blob(path)));
        let victim = all[random.below(all.len() as u64) as usize].clone();
        let len = fs.open(&victim).unwrap().byte_len().unwrap();
        let (offset, bit) = (random.below(len), random.below(8) as u8);
        assert!(fs.flip_bit(&victim, offset, bit));
        let context = format!("seed {seed}, {} at {offset}", victim.display());

        let engine = open(&fs, tiny()).unwrap();
        let damages = scrub(&engine);
        if damages.is_empty() {
            // Compaction has replaced it in time; what it read was right.
            assert!(!tables(&fs).contains(&victim), "{context}: not found by scrub");
            compacted_away += 1;
            continue;
        }
        assert!(damages.iter().all(|damage| damage.path == victim), "{context}");
        let errors = engine.stats().background_errors;
        let mut latest = Model::new();
        for step in 0..200 {
            latest = write(&engine, &mut random);
            if step % 20 == 0 {
                assert_right_or_named(&engine, &latest, &victim, &context);
            }
            match random.below(40) {
                0 => engine.flush().unwrap(),
                1 => engine.compact(keyspace(&engine, random.below(2) as usize)).unwrap(),
                _ => {}
            }
        }
        engine.wait_idle().unwrap();
        let stats = engine.stats();
        assert_eq!(stats.background_errors, errors, "{context}: compaction ran into the damage");
        assert_eq!(stats.quarantined_tables, usize::from(is_table(&victim)), "{context}");
        assert!(stats.compactions > 0, "{context}: nothing was compacted");
        assert_right_or_named(&engine, &latest, &victim, &context);
        engine.close().unwrap();
        if is_blob(&victim) && fs.open(&victim).is_err() {
            // Nothing referred to it any more.
            continue;
        }
        assert!(fs.open(&victim).is_ok(), "{context}: the file is gone");

        // It is still known after another start, and taken back once it is what was written.
        let engine = open(&fs, tiny()).unwrap();
        let known = engine.recovery().quarantined.iter().any(|damage| damage.path == victim);
        assert!(known || is_blob(&victim), "{context}");
        drop(engine);
        assert!(fs.flip_bit(&victim, offset, bit));
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(engine.recovery().quarantined, [], "{context}");
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), latest, "{context}");
        engine.compact(keyspace(&engine, 0)).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), latest, "{context}");
        assert_whole(&engine);
        engine.close().unwrap();
        assert_eq!(open(&fs, tiny()).unwrap().stats().quarantined_tables, 0, "{context}");
    }
    assert!(compacted_away < 20 * effort(), "{compacted_away}");
}

#[test]
fn damage_met_by_compaction_is_not_tried_again_and_again() {
    let (fs, model) = store_of_two_tables();
    let path = tables(&fs)[0].clone();
    let offset = describe(&fs, &path).blocks[1].offset;
    assert!(fs.flip_bit(&path, offset, 0));
    let engine = open(&fs, quiet()).unwrap();
    let damaged = describe(&fs, &path).properties.unwrap().keyspace as usize;
    assert_names(&engine.compact(keyspace(&engine, damaged)).unwrap_err(), &path, "compact");
    let stats = engine.stats();
    assert_eq!((stats.background_errors, stats.quarantined_tables, stats.damages.len()), (1, 1, 1));
    assert_eq!((&stats.damages[0].path, stats.damages[0].offset), (&path, offset));
    assert!(stats.last_background_error.is_some());
    // From now on it is left alone, the other keyspace is not, and nothing fails any more.
    engine.compact(keyspace(&engine, damaged)).unwrap();
    engine.compact(keyspace(&engine, 1 - damaged)).unwrap();
    engine.wait_idle().unwrap();
    let stats = engine.stats();
    assert_eq!((stats.background_errors, stats.compactions, stats.last_background_error), (1, 1, None));
    assert!(assert_right_or_named(&engine, &model, &path, "after") > 0);
    assert!(tables(&fs).contains(&path));
}

#[test]
fn many_tables_held_up_by_damage_do_not_stop_writers() {
    let fs = SimFs::new();
    let options = || Options { level0_files: 2, level0_slowdown_files: 4, level0_stop_files: 6, ..tiny() };
    let engine = open(&fs, options()).unwrap();
    engine.write(put(&engine, "a", b"1"), Durability::Sync).unwrap();
    engine.write(put(&engine, "z", b"1"), Durability::Sync).unwrap();
    engine.flush().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    engine.close().unwrap();
    let path = tables(&fs)[0].clone();
    fs.remove(&path).unwrap();
    let engine = open(&fs, options()).unwrap();
    for round in 0..20u8 {
        for key in ["b", "zz"] {
            engine.write(put(&engine, key, &[round]), Durability::Sync).unwrap();
        }
        engine.flush().unwrap();
    }
    assert_eq!(engine.stats().stalls + engine.stats().slowdowns, 0);
    // Nothing is known of the keys within the lost table but what was written since.
    assert_eq!(engine.get(keyspace(&engine, 0), b"b").unwrap().as_deref(), Some([19].as_slice()));
    assert_eq!(engine.get(keyspace(&engine, 0), b"zz").unwrap().as_deref(), Some([19].as_slice()));
    assert_names(&engine.get(keyspace(&engine, 0), b"c").unwrap_err(), &path, "get");
}

#[test]
fn deleting_the_keys_of_a_damaged_table_does_away_with_it() {
    let (fs, _) = store_of_two_tables();
    let path = tables(&fs)[0].clone();
    fs.open(&path).unwrap().set_len(100).unwrap();
    let engine = open(&fs, tiny()).unwrap();
    let damaged = engine.damaged();
    let handle = damaged[0].keyspace;
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    let (smallest, largest) = (damaged[0].smallest.clone(), damaged[0].largest.clone());
    let whole = engine.get(handle, &smallest);
    assert_names(&whole.unwrap_err(), &path, "get");
    let mut deletion = allidb_storage::WriteBatch::new();
    let behind = [&largest[..], &[0]].concat();
    deletion.delete_range(handle, smallest.clone(), Some(behind.into()));
    engine.write(deletion, Durability::Sync).unwrap();
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    assert_eq!(engine.damaged(), []);
    assert_eq!(engine.stats().quarantined_tables, 0);
    assert_eq!(engine.get(handle, &smallest).unwrap(), None);
    engine.write(put(&engine, "new", b"value"), Durability::Sync).unwrap();
    engine.close().unwrap();
    let engine = open(&fs, tiny()).unwrap();
    assert_eq!(engine.recovery().quarantined, []);
    assert_eq!(engine.get(handle, &smallest).unwrap(), None);
    assert_eq!(engine.get(handle, b"new").unwrap().as_deref(), Some(b"value".as_slice()));
    assert!(scrub(&engine).is_empty());
}
