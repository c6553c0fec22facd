//! The plain cases, on the real file system.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use allidb_storage::fs::RealFs;
use allidb_storage::{Direction, Durability, Engine, Error, KeyspaceOptions, Options, WriteBatch};

use crate::model::assert_whole;

fn options() -> Options {
    Options {
        keyspaces: vec![KeyspaceOptions::new("a"), KeyspaceOptions::new("b")],
        min_free_bytes: 0,
        ..Options::default()
    }
}

fn open(dir: &Path) -> Engine {
    Engine::open(Arc::new(RealFs), dir, options()).unwrap()
}

fn put(engine: &Engine, key: &str, value: &str) -> u64 {
    let mut batch = WriteBatch::new();
    batch.put(engine.keyspace("a").unwrap(), key.to_owned(), value.to_owned());
    engine.write(batch, Durability::Sync).unwrap()
}

fn get(engine: &Engine, key: &str) -> Option<String> {
    let value = engine.get(engine.keyspace("a").unwrap(), key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn keys(engine: &Engine, direction: Direction) -> Vec<String> {
    let snapshot = engine.snapshot();
    let scan =
        snapshot.scan(engine.keyspace("a").unwrap(), Bound::Unbounded, Bound::Unbounded, direction).unwrap();
    scan.map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap()).collect()
}

#[test]
fn what_is_written_is_read_before_and_after_flush_compaction_and_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    assert!(engine.recovery().created);
    assert_eq!(put(&engine, "b", "1"), 1);
    assert_eq!(put(&engine, "a", "2"), 2);
    assert_eq!(put(&engine, "b", "3"), 3);
    let check = |engine: &Engine| {
        assert_eq!(get(engine, "a").as_deref(), Some("2"));
        assert_eq!(get(engine, "b").as_deref(), Some("3"));
        assert_eq!(get(engine, "c"), None);
        assert_eq!(keys(engine, Direction::Forward), ["a", "b"]);
        assert_eq!(keys(engine, Direction::Reverse), ["b", "a"]);
    };
    check(&engine);
    drop(engine);
    let engine = open(dir.path());
    assert_eq!((engine.recovery().batches, engine.recovery().last_sequence), (3, 3));
    check(&engine);
    engine.flush().unwrap();
    check(&engine);
    assert_eq!(engine.stats().memtable_bytes, 0);
    engine.compact(engine.keyspace("a").unwrap()).unwrap();
    check(&engine);
    assert_whole(&engine);
    engine.close().unwrap();
    let engine = open(dir.path());
    assert_eq!((engine.recovery().batches, engine.recovery().last_sequence), (0, 3));
    check(&engine);
    assert_eq!(put(&engine, "c", "4"), 4);
}

#[test]
fn a_directory_opened_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let error = Engine::open(Arc::new(RealFs), dir.path(), options()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }) && error.is_retryable(), "{error}");
    let clone = engine.clone();
    drop(engine);
    assert!(Engine::open(Arc::new(RealFs), dir.path(), options()).is_err());
    drop(clone);
    open(dir.path());
}
