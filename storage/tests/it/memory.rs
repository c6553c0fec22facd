//! Memory keeps to its budget.

use std::ops::Bound;
use std::sync::Arc;

use allidb_storage::fs::SimFs;
use allidb_storage::{Direction, Durability, Engine, Options, Threads, WriteBatch};

use crate::model::{Random, effort, keyspace, open, tiny};

const MEMTABLE_BYTES: usize = 32 << 10;

/// A budget that holds all memtables, and not all of the rows.
fn small() -> Options {
    let mut options = Options {
        memtable_bytes: MEMTABLE_BYTES,
        memory_bytes: 256 << 10,
        wal_segment_bytes: 1 << 20,
        table_bytes: 32 << 10,
        blob_file_bytes: 64 << 10,
        level_base_bytes: 64 << 10,
        ..tiny()
    };
    for keyspace in &mut options.keyspaces {
        keyspace.index_partition_bytes = 1 << 10;
    }
    options
}

fn check(engine: &Engine) {
    let stats = engine.stats();
    let parts = stats.memtable_bytes
        + stats.spare_memtable_bytes
        + stats.frozen_memtable_bytes
        + stats.cache_bytes
        + stats.table_memory_bytes;
    assert_eq!(stats.memory_bytes, parts, "{stats:?}");
    assert!(stats.memory_bytes <= stats.memory_budget_bytes, "{stats:?}");
    assert!(stats.cache_bytes <= stats.cache_capacity_bytes, "{stats:?}");
}

/// Writes of all sizes, gets and scans.
fn work(engine: &Engine, random: &mut Random) {
    let key = |number: u64| format!("key{number:04}");
    match random.below(10) {
        0..6 => {
            let mut batch = WriteBatch::new();
            for _ in 0..1 + random.below(20) {
                let value = vec![random.next() as u8; random.below(700) as usize];
                batch.put(keyspace(engine, random.below(2) as usize), key(random.below(1_000)), value);
            }
            engine.write(batch, Durability::None).unwrap();
        }
        6..9 => {
            for _ in 0..50 {
                let (of, key) = (keyspace(engine, random.below(2) as usize), key(random.below(1_000)));
                engine.get(of, key.as_bytes()).unwrap();
            }
        }
        _ => {
            let (snapshot, from) = (engine.snapshot(), key(random.below(1_000)));
            let of = keyspace(engine, random.below(2) as usize);
            let lower = Bound::Included(from.as_bytes());
            let scan = snapshot.scan(of, lower, Bound::Unbounded, Direction::Forward);
            scan.unwrap().take(100).for_each(|row| drop(row.unwrap()));
        }
    }
}

#[test]
fn memory_keeps_to_its_budget_whatever_is_done() {
    let (mut fullest, mut grown, mut shrunk) = (0, false, false);
    for seed in 0..4 * effort() {
        println!("seed {seed}");
        let engine = open(&SimFs::new(), small()).unwrap();
        let mut random = Random(seed);
        let mut capacity = engine.stats().cache_capacity_bytes;
        for _ in 0..1_500 {
            work(&engine, &mut random);
            check(&engine);
            let stats = engine.stats();
            fullest = fullest.max(stats.memory_bytes);
            grown |= stats.cache_capacity_bytes > capacity;
            shrunk |= stats.cache_capacity_bytes < capacity;
            capacity = stats.cache_capacity_bytes;
        }
        let stats = engine.stats();
        assert!(stats.flushes > 10 && stats.compactions > 0, "{stats:?}");
    }
    // Otherwise nothing was shown. Nothing waits for the flush here, so the room for that is not used.
    assert!(fullest > 150 << 10 && grown && shrunk, "{fullest} {grown} {shrunk}");
}

#[test]
fn memory_keeps_to_its_budget_while_flush_and_compaction_lag() {
    let options = Options { background: Arc::new(Threads), memory_bytes: 384 << 10, ..small() };
    let engine = open(&SimFs::new(), options).unwrap();
    let mut random = Random(7);
    for _ in 0..1_500 {
        work(&engine, &mut random);
        // Between two looks at its parts a flush may end, and then the cache counts what it was left by that.
        let stats = engine.stats();
        assert!(stats.memtable_bytes <= MEMTABLE_BYTES as u64, "{stats:?}");
        assert!(stats.frozen_memtable_bytes <= 3 * MEMTABLE_BYTES as u64, "{stats:?}");
    }
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    check(&engine);
}

#[test]
fn a_batch_larger_than_a_memtable_takes_its_memory_from_the_cache() {
    let engine = open(&SimFs::new(), Options { frozen_memtables: 1, ..small() }).unwrap();
    let fill = |rows: usize, value_bytes: usize| {
        let mut batch = WriteBatch::new();
        for row in 0..rows {
            batch.put(keyspace(&engine, 1), format!("{row:05}"), vec![row as u8; value_bytes]);
        }
        engine.write(batch, Durability::None).unwrap();
    };
    (0..12).for_each(|_| fill(10, 2_000));
    for row in 0..10 {
        engine.get(keyspace(&engine, 1), format!("{row:05}").as_bytes()).unwrap();
    }
    check(&engine);
    let before = engine.stats().cache_capacity_bytes;
    fill(60, 2_000);
    let after = engine.stats();
    assert!(after.memtable_bytes > 120_000 && after.cache_capacity_bytes + 60_000 < before, "{after:?}");
    check(&engine);
    // It goes at the next write, and the cache gets the memory back.
    fill(1, 10);
    assert!(
        engine.stats().memtable_bytes < 1_000 && engine.stats().cache_capacity_bytes >= before - (8 << 10)
    );
}

#[test]
fn small_changes_count_with_what_they_take_in_memory() {
    let engine = open(&SimFs::new(), Options { memtable_bytes: 1 << 20, ..small() }).unwrap();
    let bytes = |key: &[u8], value: &[u8]| {
        let before = engine.stats().memtable_bytes;
        let mut batch = WriteBatch::new();
        batch.put(keyspace(&engine, 1), key.to_vec(), value.to_vec());
        engine.write(batch, Durability::None).unwrap();
        engine.stats().memtable_bytes - before
    };
    let short = bytes(b"a", b"1");
    assert!((150..200).contains(&short), "{short}");
    assert_eq!(bytes(&[b'b'; 50], b"1"), short, "short keys lie within their nodes");
    assert_eq!(bytes(b"c", &[1; 1_001]), short + 1_000);
    assert!((short + 1_000..short + 1_100).contains(&bytes(&[b'd'; 1_000], b"1")));
}
