//! Deleting ranges: what is seen, and how their space comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use allidb_storage::fs::SimFs;
use allidb_storage::{Durability, Engine, Error, Options, Threads, WriteBatch};

use crate::model::{Change, Edit, Model, Random, apply, batch, contents, keyspace, open, put, tiny};

/// Tables of a few blocks with all values in them; nothing but level 0 gets too large.
fn options() -> Options {
    let mut options = Options { level_base_bytes: 1 << 20, ..tiny() };
    options.keyspaces.iter_mut().for_each(|keyspace| keyspace.separation_bytes = 0);
    options
}

/// A hundred rows of each of these prefixes, in tables of level 1.
fn filled(fs: &SimFs, options: Options, prefixes: &str) -> (Engine, Model) {
    let engine = open(fs, options).unwrap();
    let mut model = Model::new();
    let mut random = Random(1);
    for prefix in prefixes.chars() {
        for index in 0..100 {
            // Nothing that could be compressed.
            let value = (0..60).map(|_| random.next() as u8).collect();
            let changes: [Change; 1] = [(0, format!("{prefix}{index:04}").into_bytes(), Some(value))];
            engine.write(batch(&engine, &changes), Durability::None).unwrap();
            apply(&mut model, &changes);
        }
    }
    engine.flush().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    (engine, model)
}

fn delete(engine: &Engine, model: &mut Model, lower: &str, upper: Option<&str>) {
    let upper = upper.map(|upper| upper.as_bytes().to_vec());
    let edits = [Edit::DeleteRange(0, lower.as_bytes().to_vec(), upper)];
    engine.write(batch(engine, &edits), Durability::Sync).unwrap();
    apply(model, &edits);
}

fn entries(engine: &Engine) -> u64 {
    engine.stats().keyspaces[0].levels.iter().map(|level| level.entries).sum()
}

fn range_tombstones(engine: &Engine) -> usize {
    engine.stats().keyspaces[0].range_tombstones
}

#[test]
fn tables_that_are_deleted_whole_are_dropped_without_being_read() {
    let fs = SimFs::new();
    let (engine, mut model) = filled(&fs, options(), "abc");
    let before = engine.stats();
    delete(&engine, &mut model, "b", Some("c"));
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    let after = engine.stats();
    assert!(after.dropped_tables >= 5, "{after:?}");
    // At most the two tables at the ends were rewritten.
    let read = after.compaction_bytes_read - before.compaction_bytes_read;
    assert!(after.compactions - before.compactions <= 2 && read < 6 << 10, "{after:?}");
    assert_eq!(entries(&engine), 200);
    assert_eq!(range_tombstones(&engine), 0, "it is applied to all tables and still there");
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    drop(engine);
    let engine = open(&fs, options()).unwrap();
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    delete(&engine, &mut model, "", None);
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    assert_eq!((entries(&engine), range_tombstones(&engine)), (0, 0));
    drop(engine);
    let tables = fs.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "table")).count();
    assert_eq!(tables, 0);
}

#[test]
fn a_snapshot_holds_up_what_it_sees_until_it_is_dropped() {
    let fs = SimFs::new();
    let (engine, mut model) = filled(&fs, options(), "abc");
    let (snapshot, seen) = (engine.snapshot(), model.clone());
    delete(&engine, &mut model, "a0050", Some("c0050"));
    let (later, seen_later) = (engine.snapshot(), model.clone());
    delete(&engine, &mut model, "b", None);
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    assert!(range_tombstones(&engine) > 0);
    assert_eq!(entries(&engine), 300);
    assert_eq!(contents(&engine, &snapshot).unwrap(), seen);
    assert_eq!(contents(&engine, &later).unwrap(), seen_later);
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    drop(snapshot);
    engine.wait_idle().unwrap();
    assert_eq!(contents(&engine, &later).unwrap(), seen_later);
    assert_eq!(entries(&engine), 100, "what only the older snapshot saw is still there");
    drop(later);
    engine.wait_idle().unwrap();
    assert_eq!((entries(&engine), range_tombstones(&engine)), (50, 0));
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
}

#[test]
fn dropping_the_snapshot_wakes_compaction() {
    let fs = SimFs::new();
    let options = Options { background: Arc::new(Threads), ..options() };
    let (engine, mut model) = filled(&fs, options, "ab");
    let snapshot = engine.snapshot();
    delete(&engine, &mut model, "", None);
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    assert_eq!((entries(&engine), range_tombstones(&engine)), (200, 1));
    drop(snapshot);
    let deadline = Instant::now() + Duration::from_secs(60);
    while (entries(&engine), range_tombstones(&engine)) != (0, 0) {
        assert!(Instant::now() < deadline, "nothing happens: {:?}", engine.stats());
        std::thread::yield_now();
    }
}

#[test]
fn a_small_range_waits_for_the_next_compaction_of_its_table() {
    let fs = SimFs::new();
    // One table of many blocks.
    let large = Options { table_bytes: 1 << 20, ..options() };
    let (engine, mut model) = filled(&fs, large, "abc");
    let before = engine.stats();
    delete(&engine, &mut model, "b0010", Some("b0012"));
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    assert_eq!(engine.stats().compactions, before.compactions);
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    // Of many small ones the table is rewritten.
    for index in (20..90).step_by(10) {
        delete(&engine, &mut model, &format!("b00{index}"), Some(&format!("b00{}", index + 5)));
    }
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    assert_eq!(engine.stats().compactions, before.compactions + 1);
    assert_eq!((entries(&engine), range_tombstones(&engine)), (model.len() as u64, 0));
    delete(&engine, &mut model, "a0010", Some("a0012"));
    engine.flush().unwrap();
    assert_eq!(range_tombstones(&engine), 1);
    engine.compact(keyspace(&engine, 0)).unwrap();
    assert_eq!((entries(&engine), range_tombstones(&engine)), (model.len() as u64, 0));
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
}

#[test]
fn tables_of_level_0_are_rewritten_alone_and_keep_their_tombstones() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { level0_files: 100, ..options() }).unwrap();
    let mut model = Model::new();
    for round in 0..4u8 {
        let keys = if round == 0 { 0..40 } else { 0..20 };
        let mut changes: Vec<Change> = keys.map(|key| (0, vec![b'k', key], Some(vec![round; 20]))).collect();
        // Hides a value of the oldest table.
        changes.push((0, vec![b'k', 30 + round], None));
        engine.write(batch(&engine, &changes), Durability::Sync).unwrap();
        apply(&mut model, &changes);
        engine.flush().unwrap();
    }
    let edits = [Edit::DeleteRange(0, b"k".to_vec(), Some(vec![b'k', 20]))];
    engine.write(batch(&engine, &edits), Durability::Sync).unwrap();
    apply(&mut model, &edits);
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    assert_eq!(engine.stats().keyspaces[0].levels[0].tables, 4);
    assert_eq!((entries(&engine), range_tombstones(&engine)), (20 + 3, 0));
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
}

#[test]
fn too_many_range_deletes_are_refused_until_compaction_has_applied_them() {
    let fs = SimFs::new();
    let engine = open(&fs, options()).unwrap();
    let handle = keyspace(&engine, 0);
    // One table that reaches over all of them.
    let ends: [Change; 2] = [(0, vec![0], Some(vec![1])), (0, vec![0xff], Some(vec![1]))];
    engine.write(batch(&engine, &ends), Durability::Sync).unwrap();
    engine.flush().unwrap();
    let snapshot = engine.snapshot();
    let ranges = |count: u32| {
        let mut batch = WriteBatch::new();
        for index in 1..=count {
            let key = |end: u32| (index * 2 + end).to_be_bytes().to_vec();
            batch.delete_range(handle, key(0), Some(key(1).into()));
        }
        batch
    };
    let error = engine.write(ranges(65_537), Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    engine.write(ranges(65_536), Durability::Sync).unwrap();
    for _ in 0..2 {
        let error = engine.write(ranges(1), Durability::Sync).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }) && error.is_retryable(), "{error}");
        assert!(error.to_string().contains("65536 range deletes"), "{error}");
    }
    assert_eq!(range_tombstones(&engine), 65_536, "they were not flushed");
    engine.write(put(&engine, "key", b"1"), Durability::Sync).unwrap();
    drop(snapshot);
    engine.wait_idle().unwrap();
    assert_eq!(range_tombstones(&engine), 0);
    engine.write(ranges(1), Durability::Sync).unwrap();
}

#[test]
fn a_range_with_too_long_an_end_is_refused() {
    let fs = SimFs::new();
    let engine = open(&fs, options()).unwrap();
    for (lower, upper) in [(vec![1; 65_536], None), (vec![1], Some(vec![2; 65_536]))] {
        let edits = [Edit::DeleteRange(0, lower, upper)];
        let error = engine.write(batch(&engine, &edits), Durability::Sync).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}
