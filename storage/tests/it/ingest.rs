//! Files that are built apart and taken over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use allidb_storage::fs::{Fault, Fs, Operation, SimFs};
use allidb_storage::{Compression, Durability, Engine, Error, KeyspaceOptions, SortedFileWriter};

use crate::model::{Model, Random, apply, assert_whole, batch, contents, effort, keyspace, open, put, tiny};

fn options() -> KeyspaceOptions {
    KeyspaceOptions {
        block_bytes: 100,
        index_partition_bytes: 100,
        compression: vec![Compression::Lz4],
        ..KeyspaceOptions::new("")
    }
}

/// Writes a file of these rows; `None` deletes.
fn file(fs: &SimFs, name: &str, rows: &[(String, Option<Vec<u8>>)]) -> PathBuf {
    let dir = Path::new("/outside");
    fs.create_dir_all(dir).unwrap();
    let path = dir.join(name);
    let id = 1 << 60 | name.bytes().fold(0, |id, byte| id << 7 | u64::from(byte));
    let mut writer = SortedFileWriter::create(fs, &path, id, &options()).unwrap();
    for (key, value) in rows {
        match value {
            Some(value) => writer.put(key.as_bytes(), value).unwrap(),
            None => writer.delete(key.as_bytes()).unwrap(),
        }
    }
    writer.finish().unwrap();
    fs.sync_dir(dir).unwrap();
    path
}

/// Every key of the random model whose number is in the range: mostly values, some deletions.
fn rows(random: &mut Random, range: std::ops::Range<u64>) -> Vec<(String, Option<Vec<u8>>)> {
    range
        .map(|key| {
            let value =
                (random.below(4) > 0).then(|| vec![random.next() as u8; 1 + random.below(90) as usize]);
            (format!("key{key:02}"), value)
        })
        .collect()
}

fn apply_rows(model: &mut Model, index: usize, rows: &[(String, Option<Vec<u8>>)]) {
    for (key, value) in rows {
        apply(model, &[(index, key.clone().into_bytes(), value.clone())]);
    }
}

fn filled(fs: &SimFs, seed: u64) -> (Engine, Model) {
    let engine = open(fs, tiny()).unwrap();
    let mut random = Random(seed);
    let mut model = Model::new();
    for _ in 0..100 {
        let edits = random.edits();
        engine.write(batch(&engine, &edits), Durability::Flush).unwrap();
        apply(&mut model, &edits);
    }
    (engine, model)
}

#[test]
fn ingested_rows_are_there_at_once_and_after_reopen_and_can_be_changed() {
    for seed in 0..20 * effort() {
        let fs = SimFs::new();
        let (engine, mut model) = filled(&fs, seed);
        let mut random = Random(seed + 1000);
        let before = (engine.snapshot(), model.clone());
        let (low, high) = (rows(&mut random, 0..15), rows(&mut random, 20..40));
        let paths = [file(&fs, "high", &high), file(&fs, "low", &low)];
        let seen = Arc::new(AtomicU64::new(0));
        let published = seen.clone();
        let expected = engine.visible_sequence() + 1;
        let sequence = engine
            .ingest(keyspace(&engine, 0), &paths, move |sequence| {
                published.store(sequence, Ordering::Relaxed);
            })
            .unwrap();
        assert_eq!((sequence, seen.load(Ordering::Relaxed)), (expected, expected));
        assert_eq!(engine.visible_sequence(), expected);
        apply_rows(&mut model, 0, &low);
        apply_rows(&mut model, 0, &high);
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        assert_eq!(contents(&engine, &before.0).unwrap(), before.1, "an older snapshot sees ingested rows");
        assert_whole(&engine);
        drop((before, engine));
        // Durable without any later write.
        fs.crash(seed);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(engine.recovery().last_sequence, sequence);
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        for _ in 0..30 {
            let edits = random.edits();
            engine.write(batch(&engine, &edits), Durability::Flush).unwrap();
            apply(&mut model, &edits);
        }
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        engine.flush().unwrap();
        engine.compact(keyspace(&engine, 0)).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        drop(engine);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    }
}

#[test]
fn rows_of_an_empty_range_go_to_the_last_level_without_being_written_again() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    for part in 0..5u32 {
        let rows: Vec<_> =
            (0..100).map(|row| (format!("{part}-{row:04}"), Some(vec![part as u8; 30]))).collect();
        engine.ingest(keyspace(&engine, 0), &[file(&fs, &format!("part{part}"), &rows)], |_| {}).unwrap();
    }
    engine.wait_idle().unwrap();
    let stats = engine.stats();
    assert_eq!((stats.flushes, stats.compactions), (0, 0), "{stats:?}");
    assert_eq!(stats.keyspaces[0].levels[6].tables, 5);
    assert_eq!(stats.ingested_bytes, stats.keyspaces[0].levels[6].bytes);
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap().len(), 500);
}

#[test]
fn files_that_are_wrong_are_refused_by_name_and_change_nothing() {
    let fs = SimFs::new();
    let (engine, model) = filled(&fs, 7);
    let mut random = Random(7);
    let good = file(&fs, "good", &rows(&mut random, 0..40));
    let len = fs.open(&good).unwrap().byte_len().unwrap();
    let refused = |paths: &[PathBuf], is_expected: &dyn Fn(&Error) -> bool| {
        let before = fs.files().len();
        let error = engine.ingest(keyspace(&engine, 0), paths, |_| panic!("published")).unwrap_err();
        assert!(is_expected(&error), "{error}");
        engine.flush().unwrap();
        engine.wait_idle().unwrap();
        assert!(fs.files().len() <= before, "files are left behind");
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    };
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    for offset in 0..len {
        let damaged = Path::new("/outside/damaged");
        let copy = fs.create(damaged).unwrap();
        copy.write_all_at(0, &fs.open(&good).unwrap().read_all().unwrap()).unwrap();
        fs.flip_bit(damaged, offset, (offset % 8) as u8);
        refused(&[damaged.to_path_buf()], &|error| matches!(error, Error::Corruption { .. }));
        fs.remove(damaged).unwrap();
    }
    let overlapping = file(&fs, "overlapping", &rows(&mut random, 39..41));
    refused(&[good.clone(), overlapping], &|error| matches!(error, Error::InvalidArgument { .. }));
    refused(&["/outside/none".into()], &|error| matches!(error, Error::Io { .. }));
    let table = fs.files().into_iter().map(|(path, _)| path).find(|path| {
        path.starts_with(crate::model::DIR) && path.extension().is_some_and(|extension| extension == "table")
    });
    refused(&[table.unwrap()], &|error| matches!(error, Error::Corruption { .. }));
    // After all this it is taken.
    engine.ingest(keyspace(&engine, 0), &[good], |_| {}).unwrap();
}

#[test]
fn keys_out_of_order_and_empty_files_are_refused_by_the_writer() {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("/outside")).unwrap();
    let create =
        |name: &str| SortedFileWriter::create(&fs, &Path::new("/outside").join(name), 1, &options()).unwrap();
    let mut writer = create("order");
    writer.put(b"b", b"1").unwrap();
    for key in [b"b", b"a"] {
        assert!(matches!(writer.put(key, b"2"), Err(Error::InvalidArgument { .. })));
    }
    assert!(writer.put(&vec![b'c'; allidb_storage::MAX_KEY_BYTES + 1], b"").is_err());
    writer.put(b"c", b"3").unwrap();
    writer.finish().unwrap();
    assert!(matches!(create("empty").finish(), Err(Error::InvalidArgument { .. })));
}

#[test]
fn an_ingest_that_fails_half_way_can_be_tried_again() {
    for operation in
        [Operation::Link, Operation::Sync, Operation::SyncDir, Operation::Create, Operation::Read]
    {
        for skip in 0..4 {
            let fs = SimFs::new();
            let (engine, mut model) = filled(&fs, 9);
            engine.flush().unwrap();
            let rows = rows(&mut Random(9), 0..40);
            let path = file(&fs, "file", &rows);
            fs.inject(Fault { skip, ..Fault::once(operation) });
            let failed = engine.ingest(keyspace(&engine, 0), std::slice::from_ref(&path), |_| {});
            fs.heal();
            if failed.is_ok() {
                apply_rows(&mut model, 0, &rows);
            }
            // An fsync that fails in a flush or compaction is the end of all writes.
            if engine.stats().poisoned.is_some() {
                continue;
            }
            if failed.is_err() {
                assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model, "{operation:?} {skip}");
                engine.ingest(keyspace(&engine, 0), &[path], |_| {}).unwrap();
                apply_rows(&mut model, 0, &rows);
            }
            assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model, "{operation:?} {skip}");
            engine.write(put(&engine, "later", b"1"), Durability::Sync).unwrap();
        }
    }
}

#[test]
fn an_ingest_of_which_nobody_knows_whether_it_is_durable_keeps_its_files() {
    let (mut there, mut absent) = (0, 0);
    for operation in [Operation::SyncDir, Operation::Rename, Operation::Sync] {
        for skip in 0..8 {
            let fs = SimFs::new();
            let (engine, model) = filled(&fs, 10);
            engine.flush().unwrap();
            let rows = rows(&mut Random(10), 0..40);
            let path = file(&fs, "file", &rows);
            fs.inject(Fault { skip, ..Fault::once(operation) });
            engine.ingest(keyspace(&engine, 0), &[path], |_| {}).ok();
            if engine.stats().poisoned.is_none() {
                continue;
            }
            drop(engine);
            fs.kill();
            // The manifest may name the files, and then they are needed.
            let engine = open(&fs, tiny()).unwrap_or_else(|error| panic!("{operation:?} {skip}: {error}"));
            let mut with = model.clone();
            apply_rows(&mut with, 0, &rows);
            let found = contents(&engine, &engine.snapshot()).unwrap();
            assert!(found == with || found == model, "{operation:?} {skip}: a part of the files");
            there += usize::from(found == with);
            absent += usize::from(found == model);
            assert_whole(&engine);
        }
    }
    assert!(there > 0 && absent > 0, "{there} times with the files, {absent} times without");
}

#[test]
fn a_power_cut_at_any_operation_of_an_ingest_leaves_all_of_it_or_nothing() {
    let fs = SimFs::new();
    let (engine, model) = filled(&fs, 11);
    let rows = rows(&mut Random(11), 5..35);
    let path = file(&fs, "file", &rows);
    engine.write(put(&engine, "last", b"1"), Durability::Sync).unwrap();
    drop(engine);
    let base = fs.fork();
    let mut without = model;
    apply(&mut without, &[(0, b"last".to_vec(), Some(b"1".to_vec()))]);
    let mut with = without.clone();
    apply_rows(&mut with, 0, &rows);
    let operations = {
        let fs = base.fork();
        let engine = open(&fs, tiny()).unwrap();
        let before = fs.operations();
        engine.ingest(keyspace(&engine, 0), std::slice::from_ref(&path), |_| {}).unwrap();
        fs.operations() - before
    };
    for at in 0..operations {
        for seed in 0..4 * effort() {
            let fs = base.fork();
            let engine = open(&fs, tiny()).unwrap();
            fs.power_off_at(fs.operations() + at);
            let result = engine.ingest(keyspace(&engine, 0), std::slice::from_ref(&path), |_| {});
            drop(engine);
            fs.crash(seed);
            let engine = open(&fs, tiny()).unwrap();
            let found = contents(&engine, &engine.snapshot()).unwrap();
            let is_whole = found == with;
            assert!(is_whole || (found == without && result.is_err()), "operation {at}, seed {seed}");
            assert_whole(&engine);
        }
    }
}

#[test]
fn a_file_on_another_file_system_is_copied() {
    let fs = SimFs::new();
    let (engine, mut model) = filled(&fs, 13);
    let rows = rows(&mut Random(13), 0..40);
    let path = file(&fs, "file", &rows);
    let elsewhere = std::io::ErrorKind::CrossesDevices;
    fs.inject(Fault { effect: allidb_storage::fs::Effect::Fail(elsewhere), ..Fault::once(Operation::Link) });
    engine.ingest(keyspace(&engine, 0), std::slice::from_ref(&path), |_| {}).unwrap();
    apply_rows(&mut model, 0, &rows);
    // The original is not needed any more, whatever becomes of it.
    fs.remove(&path).unwrap();
    drop(engine);
    fs.crash(13);
    let engine = open(&fs, tiny()).unwrap();
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
}
