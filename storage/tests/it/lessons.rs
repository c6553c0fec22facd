//! Failures that other engines had, each as a test.

use std::ops::Bound;
use std::sync::Arc;

use allidb_storage::fs::{File, Fs, RealFs, SimFs};
use allidb_storage::{Direction, Durability, Engine, Error, Options};

use crate::model::{Edit, Model, Random, apply, assert_whole, batch, contents, keyspace, open, put, tiny};

fn value(engine: &Engine, key: &str) -> Option<Vec<u8>> {
    engine.get(keyspace(engine, 0), key.as_bytes()).unwrap().map(|value| value.to_vec())
}

fn delete(engine: &Engine, key: &str) {
    let deletion = batch(engine, &[(0, key.as_bytes().to_vec(), None)]);
    engine.write(deletion, Durability::Sync).unwrap();
}

/// The newest log segment.
fn newest_log(fs: &SimFs) -> Arc<dyn File> {
    let files = fs.files();
    let path = files.iter().map(|(path, _)| path).filter(|path| path.extension().is_some_and(|e| e == "log"));
    fs.open(path.max().unwrap()).unwrap()
}

#[test]
fn get_and_scan_agree_after_tables_move_down() {
    let fs = SimFs::new();
    // Ascending keys: flushed tables do not overlap and move without being rewritten.
    let engine = open(&fs, tiny()).unwrap();
    let mut model = Model::new();
    for index in 0..300 {
        let changes = [(0, format!("{index:05}").into_bytes(), Some(vec![index as u8; 50]))];
        engine.write(batch(&engine, &changes), Durability::None).unwrap();
        apply(&mut model, &changes);
    }
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    let stats = engine.stats();
    assert!(stats.trivial_moves > 3, "{stats:?}");
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
}

#[test]
fn everything_is_there_after_reopening_a_store_of_many_keys() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options {
        keyspaces: tiny().keyspaces,
        memtable_bytes: 2 << 20,
        wal_segment_bytes: 1 << 20,
        table_bytes: 1 << 20,
        level_base_bytes: 2 << 20,
        min_free_bytes: 0,
        ..Options::default()
    };
    let open = || Engine::open(Arc::new(RealFs), dir.path(), options()).unwrap();
    let count = 100_000u32;
    let engine = open();
    for start in (0..count).step_by(100) {
        let changes: Vec<_> = (start..start + 100)
            .map(|index| {
                (
                    0,
                    index.wrapping_mul(0x9e37_79b1).to_be_bytes().to_vec(),
                    Some(index.to_le_bytes().to_vec()),
                )
            })
            .collect();
        engine.write(batch(&engine, &changes), Durability::None).unwrap();
    }
    engine.write(put(&engine, "last", b"1"), Durability::Sync).unwrap();
    for reopen in 0..2 {
        let engine = if reopen == 0 { engine.clone() } else { open() };
        let handle = keyspace(&engine, 0);
        for index in 0..count {
            let found = engine.get(handle, &index.wrapping_mul(0x9e37_79b1).to_be_bytes()).unwrap();
            assert_eq!(found.as_deref(), Some(index.to_le_bytes().as_slice()), "{index}");
        }
        let scan = engine.snapshot().scan(handle, Bound::Unbounded, Bound::Unbounded, Direction::Forward);
        assert_eq!(scan.unwrap().map(Result::unwrap).count(), count as usize + 1);
        if reopen == 0 {
            drop(engine);
            break;
        }
    }
    engine.close().unwrap();
    let engine = open();
    assert_eq!(engine.recovery().batches, 0);
    let handle = keyspace(&engine, 0);
    for index in 0..count {
        let found = engine.get(handle, &index.wrapping_mul(0x9e37_79b1).to_be_bytes()).unwrap();
        assert_eq!(found.as_deref(), Some(index.to_le_bytes().as_slice()), "{index}");
    }
    assert_whole(&engine);
}

#[test]
fn a_delete_is_not_undone_by_replay() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    engine.write(put(&engine, "key", b"1"), Durability::Sync).unwrap();
    engine.flush().unwrap();
    engine.write(put(&engine, "key", b"2"), Durability::Sync).unwrap();
    delete(&engine, "key");
    drop(engine);
    for _ in 0..3 {
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(value(&engine, "key"), None);
        drop(engine);
        fs.crash(1);
    }
}

#[test]
fn a_range_delete_is_not_undone_by_replay() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    let mut model = Model::new();
    let mut write = |edits: &[Edit]| {
        engine.write(batch(&engine, edits), Durability::Sync).unwrap();
        apply(&mut model, edits);
    };
    let set = |key: &str| Edit::Change((0, key.as_bytes().to_vec(), Some(b"1".to_vec())));
    let range = |lower: &str, upper: &str| Edit::DeleteRange(0, lower.into(), Some(upper.into()));
    write(&[set("a"), set("b"), set("c"), set("d")]);
    engine.flush().unwrap();
    // Of one batch: undone by it, and set by it.
    write(&[set("b"), set("bb"), range("b", "c"), set("bc")]);
    write(&[set("d"), set("d2")]);
    write(&[range("d", "e")]);
    drop(engine);
    let kept: Vec<&[u8]> = model.keys().map(|(_, key)| key.as_slice()).collect();
    assert_eq!(kept, [b"a".as_slice(), b"bc", b"c"]);
    for round in 0..4 {
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model, "round {round}");
        if round == 2 {
            engine.flush().unwrap();
        }
        drop(engine);
        fs.crash(round);
    }
}

#[test]
fn range_deletes_count_in_reverse_scans() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    for letter in b'a'..=b'z' {
        let key = String::from(char::from(letter));
        engine.write(put(&engine, &key, b"1"), Durability::Sync).unwrap();
    }
    let snapshot = engine.snapshot();
    let range = |lower: u8, upper: u8| [Edit::DeleteRange(0, vec![lower], Some(vec![upper]))];
    engine.write(batch(&engine, &range(b'd', b'h')), Durability::Sync).unwrap();
    engine.flush().unwrap();
    engine.write(batch(&engine, &range(b'g', b'k')), Durability::Sync).unwrap();
    engine.write(batch(&engine, &range(b'w', b'z')), Durability::Sync).unwrap();
    let handle = keyspace(&engine, 0);
    let now = engine.snapshot();
    let keys = |from: u8, to: u8, direction: Direction| -> Vec<u8> {
        let scan = now.scan(handle, Bound::Included(&[from]), Bound::Excluded(&[to]), direction).unwrap();
        scan.map(|row| row.unwrap().0[0]).collect()
    };
    // From outside into each range, from inside, from its ends, and wholly within it.
    for from in b'a'..=b'z' {
        for to in from..=b'{' {
            let mut expected: Vec<u8> =
                b"abcklmnopqrstuvz".iter().copied().filter(|key| (from..to).contains(key)).collect();
            assert_eq!(keys(from, to, Direction::Forward), expected, "{from}..{to}");
            expected.reverse();
            assert_eq!(keys(from, to, Direction::Reverse), expected, "{from}..{to} in reverse");
        }
    }
    let all = snapshot.scan(handle, Bound::Unbounded, Bound::Unbounded, Direction::Reverse).unwrap();
    assert_eq!(all.count(), 26, "an older snapshot sees them all");
}

#[test]
fn a_tombstone_stays_while_an_older_value_lies_further_down() {
    let fs = SimFs::new();
    // Nothing is compacted by itself.
    let options = || Options { level0_files: 100, level_base_bytes: 1 << 20, ..tiny() };
    let engine = open(&fs, options()).unwrap();
    for index in 0..20 {
        engine.write(put(&engine, &format!("{index:02}"), &[1; 100]), Durability::None).unwrap();
    }
    engine.flush().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    for index in 0..20 {
        delete(&engine, &format!("{index:02}"));
    }
    engine.flush().unwrap();
    engine.flush().unwrap();
    let tombstones = |engine: &Engine| -> u64 {
        engine.stats().keyspaces[0].levels.iter().map(|level| level.tombstones).sum()
    };
    assert_eq!(tombstones(&engine), 20, "the flush dropped tombstones that hide older values");
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), Model::new());
    drop(engine);
    // Level by level now, in small steps: at each one the keys stay deleted.
    for level0_files in [2, 1] {
        let engine = open(&fs, Options { level0_files, level_base_bytes: 1000, ..tiny() }).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), Model::new());
        engine.wait_idle().unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), Model::new());
    }
    let engine = open(&fs, tiny()).unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    assert_eq!(tombstones(&engine), 0, "nothing lies below any more");
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), Model::new());
}

#[test]
fn deleted_keys_do_not_show_up_in_reverse_scans() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    for key in ["a", "b", "c", "d"] {
        engine.write(put(&engine, key, b"1"), Durability::Sync).unwrap();
    }
    engine.flush().unwrap();
    delete(&engine, "b");
    delete(&engine, "d");
    for _ in 0..2 {
        let snapshot = engine.snapshot();
        let scan =
            snapshot.scan(keyspace(&engine, 0), Bound::Unbounded, Bound::Included(b"d"), Direction::Reverse);
        let keys: Vec<_> = scan.unwrap().map(|row| row.unwrap().0).collect();
        assert_eq!(keys, ["c", "a"]);
        engine.flush().unwrap();
    }
}

#[test]
fn compaction_goes_on_after_a_crash_in_the_middle_of_one() {
    let fs = SimFs::new();
    let quiet = || Options { level0_files: 100, ..tiny() };
    let engine = open(&fs, quiet()).unwrap();
    let mut random = Random(3);
    let mut model = Model::new();
    for _ in 0..100 {
        let changes = random.changes();
        engine.write(batch(&engine, &changes), Durability::None).unwrap();
        apply(&mut model, &changes);
    }
    engine.flush().unwrap();
    assert!(engine.stats().keyspaces[0].levels[0].tables > 2);
    let start = fs.operations();
    let whole = fs.fork();
    drop(engine);
    drop(open(&whole, tiny()).unwrap());
    for at in 1..whole.operations() {
        let fs = fs.fork();
        fs.power_off_at(at);
        drop(open(&fs, tiny()));
        fs.crash(at);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model, "cut at {at} after {start}");
        for keyspace in engine.stats().keyspaces {
            assert!(keyspace.levels[0].tables < 2, "cut at {at}: {keyspace:?}");
        }
        let on_disk =
            fs.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "table")).count();
        let known: usize = engine
            .stats()
            .keyspaces
            .iter()
            .flat_map(|keyspace| &keyspace.levels)
            .map(|level| level.tables)
            .sum();
        assert_eq!(on_disk, known, "cut at {at}: tables that nobody knows");
    }
}

#[test]
fn a_healthy_store_opens_after_a_power_cut_kept_a_later_write_and_lost_an_earlier_one() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { wal_segment_bytes: 1 << 20, ..tiny() }).unwrap();
    engine.write(put(&engine, "synced", b"1"), Durability::Sync).unwrap();
    let start = engine.stats().wal_bytes;
    for index in 0..5 {
        engine.write(put(&engine, &format!("lost{index}"), &[1; 100]), Durability::Flush).unwrap();
    }
    drop(engine);
    // The first unsynced record did not reach the disk; those behind it did.
    newest_log(&fs).write_all_at(start, &[0; 60]).unwrap();
    let engine = open(&fs, tiny()).unwrap();
    assert_eq!(engine.recovery().last_sequence, 1);
    assert_eq!(engine.recovery().truncated.as_ref().unwrap().offset, start);
    assert_eq!(value(&engine, "synced").as_deref(), Some(b"1".as_slice()));
}

#[test]
fn a_torn_tail_does_not_hide_what_is_acknowledged_later() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    engine.write(put(&engine, "first", b"1"), Durability::Sync).unwrap();
    drop(engine);
    for round in 0..4 {
        let log = newest_log(&fs);
        log.write_all_at(log.byte_len().unwrap(), &[0xab; 70]).unwrap();
        let engine = open(&fs, tiny()).unwrap();
        assert!(engine.recovery().truncated.is_some(), "round {round}");
        engine.write(put(&engine, &format!("round{round}"), b"1"), Durability::Sync).unwrap();
        drop(engine);
        fs.crash(round);
        let engine = open(&fs, tiny()).unwrap();
        assert!(value(&engine, "first").is_some());
        for earlier in 0..=round {
            assert!(value(&engine, &format!("round{earlier}")).is_some(), "{earlier} after {round}");
        }
    }
}

#[test]
fn a_hole_between_log_segments_is_found() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    // Flushes fail, so several segments stay.
    use allidb_storage::fs::{Fault, Operation};
    fs.inject(Fault { times: u64::MAX, ..Fault::once(Operation::Create).on(".table") });
    for index in 0..40 {
        // Refused at some point, when too much waits for the flush.
        let written = engine.write(put(&engine, &format!("{index}"), &[1; 100]), Durability::Sync);
        if written.is_err() {
            break;
        }
    }
    drop(engine);
    fs.heal();
    let logs: Vec<_> =
        fs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")).collect();
    assert!(logs.len() >= 3, "{logs:?}");
    for (path, len) in &logs[..logs.len() - 1] {
        // A missing end of a segment that another one follows.
        let damaged = fs.fork();
        damaged.open(path).unwrap().set_len(len - 1).unwrap();
        let error = open(&damaged, tiny()).unwrap_err();
        assert!(matches!(&error, Error::Corruption { path: named, .. } if named == path), "{error}");
        // A missing segment.
        let damaged = fs.fork();
        damaged.remove(path).unwrap();
        let error = open(&damaged, tiny()).unwrap_err();
        assert!(matches!(&error, Error::Corruption { path: named, .. } if named == path), "{error}");
    }
}

#[test]
fn the_newest_version_is_chosen_by_its_sequence() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { level0_files: 100, ..tiny() }).unwrap();
    // Longer, shorter, greater and smaller values in turn; tables in many places.
    let values: [&[u8]; 6] = [b"zzzz", b"a", b"", b"mmmmmmmmmm", b"\xff\xff", b"b"];
    for (index, expected) in values.iter().enumerate() {
        engine.write(put(&engine, "key", expected), Durability::Sync).unwrap();
        assert_eq!(value(&engine, "key").as_deref(), Some(*expected));
        engine.flush().unwrap();
        assert_eq!(value(&engine, "key").as_deref(), Some(*expected));
        if index % 2 == 1 {
            engine.compact(keyspace(&engine, 0)).unwrap();
            assert_eq!(value(&engine, "key").as_deref(), Some(*expected));
        }
    }
    // Within one batch the later change wins.
    let changes = [
        (0, b"key".to_vec(), Some(b"x".to_vec())),
        (0, b"key".to_vec(), None),
        (0, b"key".to_vec(), Some(b"y".to_vec())),
    ];
    engine.write(batch(&engine, &changes), Durability::Sync).unwrap();
    for _ in 0..2 {
        assert_eq!(value(&engine, "key").as_deref(), Some(b"y".as_slice()));
        engine.flush().unwrap();
    }
}

#[test]
fn a_directory_that_lost_its_manifest_is_not_taken_for_a_new_one() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    engine.write(put(&engine, "key", b"1"), Durability::Sync).unwrap();
    drop(engine);
    fs.remove(std::path::Path::new("/store/MANIFEST")).unwrap();
    for _ in 0..2 {
        let error = open(&fs, tiny()).unwrap_err();
        assert!(matches!(&error, Error::Corruption { path, .. } if path.ends_with("MANIFEST")), "{error}");
    }
}
