//! Each option changes behaviour.

use std::ops::Bound;

use allidb_storage::fs::{Operation, SimFs};
use allidb_storage::{
    Compression, Direction, Durability, Engine, Error, KeyspaceOptions, MAX_KEY_BYTES, Options, WriteBatch,
};

use crate::model::{keyspace, open, put, tiny};

/// Bytes of all tables after writing compressible rows.
fn table_bytes(options: Options) -> u64 {
    let fs = SimFs::new();
    let engine = open(&fs, options).unwrap();
    for index in 0..200 {
        engine.write(put(&engine, &format!("{index:04}"), &[index as u8; 100]), Durability::None).unwrap();
    }
    engine.flush().unwrap();
    engine.stats().keyspaces.iter().flat_map(|keyspace| &keyspace.levels).map(|level| level.bytes).sum()
}

#[test]
fn compression_block_size_and_filters_change_the_tables() {
    let with = |change: fn(&mut KeyspaceOptions)| {
        let mut options = Options { memtable_bytes: 1 << 20, wal_segment_bytes: 1 << 20, ..tiny() };
        options.keyspaces[0].block_bytes = 4096;
        options.keyspaces[0].separation_bytes = 0;
        change(&mut options.keyspaces[0]);
        table_bytes(options)
    };
    let usual = with(|_| {});
    assert!(with(|options| options.compression = vec![Compression::None]) > usual * 2);
    assert!(with(|options| options.compression = vec![Compression::Zstd(3)]) < usual);
    assert!(with(|options| options.block_bytes = 128) > usual);
    assert!(with(|options| options.filter_bits_per_key = 0) < usual);
}

#[test]
fn each_level_has_its_compression() {
    let bytes = |deeper| {
        let mut options = Options { memtable_bytes: 1 << 20, wal_segment_bytes: 1 << 20, ..tiny() };
        options.keyspaces[0].block_bytes = 4096;
        options.keyspaces[0].compression = vec![Compression::None, deeper];
        options.keyspaces[0].separation_bytes = 0;
        let fs = SimFs::new();
        let engine = open(&fs, options).unwrap();
        for index in 0..200 {
            engine
                .write(put(&engine, &format!("{index:04}"), &[index as u8; 100]), Durability::None)
                .unwrap();
        }
        engine.flush().unwrap();
        let bytes = || engine.stats().keyspaces[0].levels.iter().map(|level| level.bytes).sum::<u64>();
        let flushed = bytes();
        engine.compact(keyspace(&engine, 0)).unwrap();
        assert_eq!(engine.stats().keyspaces[0].levels[0].tables, 0);
        (flushed, bytes())
    };
    let (lz4, zstd) = (bytes(Compression::Lz4), bytes(Compression::Zstd(9)));
    assert_eq!(lz4.0, zstd.0, "level 0 is written as its own entry says");
    assert!(lz4.1 * 2 < lz4.0 && zstd.1 < lz4.1, "{lz4:?} {zstd:?}");
}

#[test]
fn partitions_of_indexes_give_their_memory_to_the_cache() {
    let memory = |partition_bytes| {
        let mut options =
            Options { memtable_bytes: 256 << 10, frozen_memtables: 1, table_bytes: 1 << 20, ..tiny() };
        // Too little is left for partitions to stay outside of the cache.
        options.memory_bytes = options.least_memory_bytes();
        options.keyspaces[0].index_partition_bytes = partition_bytes;
        let engine = open(&SimFs::new(), options).unwrap();
        // Two tables, or the compaction would only move one.
        for half in 0..2 {
            let mut batch = WriteBatch::new();
            for index in 0..1_000 {
                batch.put(keyspace(&engine, 0), format!("{:04}", index * 2 + half), vec![1; 20]);
            }
            engine.write(batch, Durability::None).unwrap();
            engine.flush().unwrap();
        }
        engine.compact(keyspace(&engine, 0)).unwrap();
        assert_eq!(engine.stats().cache_bytes, 0);
        for index in 0..2_000 {
            assert!(engine.get(keyspace(&engine, 0), format!("{index:04}").as_bytes()).unwrap().is_some());
        }
        let stats = engine.stats();
        (stats.table_memory_bytes, stats.cache_bytes)
    };
    let (whole, partitioned) = (memory(usize::MAX), memory(1 << 10));
    assert!(partitioned.0 * 6 < whole.0, "{partitioned:?} {whole:?}");
    assert!(partitioned.1 > whole.1 + (whole.0 - partitioned.0) / 2, "{partitioned:?} {whole:?}");
}

#[test]
fn filters_save_lookups() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    for index in 0..50 {
        engine.write(put(&engine, &format!("{:04}", index * 2), b"1"), Durability::None).unwrap();
    }
    engine.flush().unwrap();
    for index in 0..50 {
        let key = format!("{:04}", index * 2 + 1);
        assert_eq!(engine.get(keyspace(&engine, 0), key.as_bytes()).unwrap(), None);
    }
    let stats = engine.stats();
    assert!(stats.filter_checks >= 40 && stats.filter_useful * 10 > stats.filter_checks * 9, "{stats:?}");
}

#[test]
fn more_memory_saves_reads() {
    let misses = |memory_bytes| {
        let engine = open(&SimFs::new(), Options { memory_bytes, ..tiny() }).unwrap();
        for index in 0..200 {
            engine.write(put(&engine, &format!("{index:04}"), &[1; 50]), Durability::None).unwrap();
        }
        engine.flush().unwrap();
        for _ in 0..3 {
            let scan = engine.snapshot().scan(
                keyspace(&engine, 0),
                Bound::Unbounded,
                Bound::Unbounded,
                Direction::Forward,
            );
            assert_eq!(scan.unwrap().count(), 200);
        }
        engine.stats().cache_misses
    };
    assert!(misses(1 << 20) * 2 < misses(0));
}

#[test]
fn a_budget_that_cannot_hold_the_memtables_is_refused() {
    let with = |memory_bytes| {
        let options = Options { memory_bytes, memtable_bytes: 15 << 10, frozen_memtables: 1, ..tiny() };
        Engine::open(std::sync::Arc::new(SimFs::new()), std::path::Path::new("/store"), options)
    };
    let error = with((32 << 10) - 1).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("memory_bytes is 32767")
            && text.contains("frozen_memtables 1")
            && text.contains("at least 32768"),
        "{text}"
    );
    assert_eq!(with(32 << 10).unwrap().stats().memory_budget_bytes, 32 << 10);
}

#[test]
fn smaller_tables_memtables_segments_and_levels_mean_more_of_them() {
    let count = |change: fn(&mut Options)| {
        let fs = SimFs::new();
        let mut options = Options {
            memtable_bytes: 64 << 10,
            wal_segment_bytes: 1 << 20,
            table_bytes: 1 << 20,
            level0_files: 4,
            level_base_bytes: 1 << 20,
            ..tiny()
        };
        options.keyspaces[0].compression = vec![Compression::None];
        options.keyspaces[0].separation_bytes = 0;
        change(&mut options);
        let engine = open(&fs, options).unwrap();
        for index in 0..1000u32 {
            let key = format!("{:08x}", index.wrapping_mul(0x9e37_79b1));
            engine.write(put(&engine, &key, &[index as u8; 100]), Durability::None).unwrap();
        }
        engine.flush().unwrap();
        engine.wait_idle().unwrap();
        engine.stats()
    };
    let usual = count(|_| {});
    assert!(count(|options| options.memtable_bytes = 8 << 10).flushes > usual.flushes);
    assert!(count(|options| options.wal_segment_bytes = 8 << 10).flushes > usual.flushes);
    assert!(count(|options| options.level0_files = 2).compactions > usual.compactions);
    let tables = |stats: &allidb_storage::Stats| -> usize {
        stats.keyspaces[0].levels.iter().map(|level| level.tables).sum()
    };
    assert!(tables(&count(|options| options.table_bytes = 4 << 10)) > tables(&usual));
    let levels = |stats: &allidb_storage::Stats| {
        stats.keyspaces[0].levels.iter().skip(1).filter(|level| level.tables > 0).count()
    };
    assert_eq!(levels(&usual), 1);
    let deep = count(|options| (options.memtable_bytes, options.level_base_bytes) = (8 << 10, 4 << 10));
    assert!(levels(&deep) > 1, "{deep:?}");
    let steep = count(|options| {
        (options.memtable_bytes, options.level_base_bytes, options.level_multiplier) =
            (8 << 10, 4 << 10, 100);
    });
    assert!(levels(&deep) > levels(&steep), "{steep:?}");
}

/// Overwrites two of three of 50 keys with large values, again and again.
fn overwritten(change: fn(&mut Options)) -> (SimFs, allidb_storage::Stats) {
    let fs = SimFs::new();
    let mut options = Options { level0_files: 2, ..tiny() };
    options.keyspaces[0].compression = vec![Compression::None];
    change(&mut options);
    let engine = open(&fs, options).unwrap();
    for round in 0..20u8 {
        for index in (0..50u32).filter(|index| round == 0 || (index * 7 + u32::from(round)) % 3 > 0) {
            engine.write(put(&engine, &format!("{index:04}"), &[round; 200]), Durability::None).unwrap();
        }
        engine.flush().unwrap();
        engine.wait_idle().unwrap();
    }
    for index in 0..50u32 {
        let value = engine.get(keyspace(&engine, 0), format!("{index:04}").as_bytes()).unwrap();
        let last = if (index * 7 + 19) % 3 > 0 { 19 } else { 18 };
        assert_eq!(value.as_deref(), Some([last; 200].as_slice()));
    }
    let stats = engine.stats();
    (fs, stats)
}

#[test]
fn large_values_lie_apart_and_their_garbage_is_collected() {
    let (fs, usual) = overwritten(|_| {});
    let blobs = fs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "blob"));
    assert_eq!(blobs.map(|(_, bytes)| bytes).sum::<u64>(), usual.blob_bytes);
    // 50 values of 200 bytes are alive, each file is at most half garbage, and a table or two are not compacted.
    assert!((10_000..30_000).contains(&usual.blob_bytes), "{usual:?}");
    let (_, inline) = overwritten(|options| options.keyspaces[0].separation_bytes = 201);
    assert_eq!((inline.blob_files, inline.blob_bytes_written), (0, 0));
    assert!(usual.compaction_bytes_written * 3 < inline.compaction_bytes_written, "{usual:?} {inline:?}");
    let (_, large) = overwritten(|options| options.blob_file_bytes = 1 << 20);
    assert!(large.blob_files < usual.blob_files);
    let (_, thrifty) = overwritten(|options| options.blob_garbage_percent = 5);
    assert!(thrifty.blob_garbage_bytes < usual.blob_garbage_bytes.max(1), "{thrifty:?}");
    assert!(thrifty.blob_bytes_written > usual.blob_bytes_written);
}

#[test]
fn compaction_is_held_back_to_its_rate() {
    let time = |rate| {
        let mut options =
            Options { level0_files: 10, memtable_bytes: 1 << 20, wal_segment_bytes: 8 << 20, ..tiny() };
        options.keyspaces[0].separation_bytes = 0;
        options.keyspaces[0].compression = vec![Compression::None];
        options.compaction_bytes_per_second = rate;
        options.background = std::sync::Arc::new(allidb_storage::Threads);
        let engine = open(&SimFs::new(), options).unwrap();
        for index in 0..2000u32 {
            engine.write(put(&engine, &format!("{index:08}"), &[1; 1000]), Durability::None).unwrap();
        }
        engine.flush().unwrap();
        let start = std::time::Instant::now();
        engine.compact(keyspace(&engine, 0)).unwrap();
        start.elapsed()
    };
    // 2 MB; what is written within the first tenth of a second is free.
    assert!(time(4 << 20).as_millis() >= 350);
}

#[test]
fn too_many_tables_in_level_0_slow_writers_and_then_refuse_them() {
    let never = || Options { level0_files: 1000, ..tiny() };
    let fs = SimFs::new();
    let engine = open(&fs, Options { level0_stop_files: 3, ..never() }).unwrap();
    for index in 0..3 {
        engine.write(put(&engine, &format!("{index}"), b"1"), Durability::Sync).unwrap();
        engine.flush().unwrap();
    }
    let error = engine.write(put(&engine, "more", b"1"), Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.is_retryable(), "{error}");
    engine.compact(keyspace(&engine, 0)).unwrap();
    engine.write(put(&engine, "more", b"1"), Durability::Sync).unwrap();
    let slowdowns = |level0_slowdown_files| {
        let background = std::sync::Arc::new(allidb_storage::Threads);
        let options = Options { level0_slowdown_files, background, memtable_bytes: 1 << 20, ..never() };
        let engine = open(&SimFs::new(), options).unwrap();
        engine.write(put(&engine, "key", b"1"), Durability::Sync).unwrap();
        engine.flush().unwrap();
        engine.write(put(&engine, "key", &[2; 200 << 10]), Durability::Sync).unwrap();
        let stats = engine.stats();
        (stats.slowdowns, stats.slowdown_micros)
    };
    let (slowed, micros) = slowdowns(1);
    // Three lots of 64 KiB, two milliseconds each.
    assert!(slowed == 1 && micros >= 6_000, "{micros}");
    assert_eq!(slowdowns(2), (0, 0));
}

#[test]
fn limits_are_refused_with_a_reason() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { batch_bytes: 1000, ..tiny() }).unwrap();
    let mut large = WriteBatch::new();
    large.put(keyspace(&engine, 0), "key", vec![0; 1001]);
    let error = engine.write(large, Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    drop(engine);
    let engine = open(&fs, Options { batch_bytes: 1 << 20, ..tiny() }).unwrap();
    let mut longest = WriteBatch::new();
    longest.put(keyspace(&engine, 0), vec![7; MAX_KEY_BYTES], "value");
    engine.write(longest, Durability::Sync).unwrap();
    let mut longer = WriteBatch::new();
    longer.put(keyspace(&engine, 0), vec![7; MAX_KEY_BYTES + 1], "value");
    let error = engine.write(longer, Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    engine.flush().unwrap();
    assert!(engine.get(keyspace(&engine, 0), &[7; MAX_KEY_BYTES]).unwrap().is_some());
    for compression in [vec![], vec![Compression::Lz4, Compression::Zstd(23)]] {
        let keyspaces = vec![KeyspaceOptions { compression, ..KeyspaceOptions::new("x") }];
        let error = open(&SimFs::new(), Options { keyspaces, ..tiny() }).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    for keyspaces in
        [vec![KeyspaceOptions::new("x"), KeyspaceOptions::new("x")], vec![KeyspaceOptions::new("")]]
    {
        let error = open(&SimFs::new(), Options { keyspaces, ..tiny() }).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

#[test]
fn keyspaces_may_be_added_and_left_out_and_keep_their_content() {
    let fs = SimFs::new();
    let only = |names: &[&str]| Options {
        keyspaces: names.iter().map(|name| KeyspaceOptions::new(name)).collect(),
        ..tiny()
    };
    let write = |engine: &allidb_storage::Engine, name: &str| {
        let mut batch = WriteBatch::new();
        batch.put(engine.keyspace(name).unwrap(), "key", name.to_owned());
        engine.write(batch, Durability::Sync).unwrap();
    };
    let engine = open(&fs, only(&["one"])).unwrap();
    let one = engine.keyspace("one").unwrap();
    write(&engine, "one");
    drop(engine);
    let engine = open(&fs, only(&["two", "one"])).unwrap();
    assert_eq!(engine.keyspace("one"), Some(one), "ids are stable");
    assert_eq!(engine.keyspace("three"), None);
    write(&engine, "two");
    drop(engine);
    fs.crash(1);
    let engine = open(&fs, only(&["two"])).unwrap();
    assert_eq!(engine.keyspace("one"), None);
    engine.flush().unwrap();
    drop(engine);
    let engine = open(&fs, only(&["three", "two", "one"])).unwrap();
    for name in ["one", "two"] {
        let found = engine.get(engine.keyspace(name).unwrap(), b"key").unwrap();
        assert_eq!(found.as_deref(), Some(name.as_bytes()));
    }
    assert_eq!(engine.get(engine.keyspace("three").unwrap(), b"key").unwrap(), None);
    // A handle of another engine.
    let other = open(&SimFs::new(), only(&["x"])).unwrap();
    let error = other.get(engine.keyspace("three").unwrap(), b"key").unwrap_err();
    assert!(matches!(error, Error::UnknownKeyspace { id: 2 }), "{error}");
}

#[test]
fn durability_decides_what_is_synced() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { wal_segment_bytes: 1 << 20, ..tiny() }).unwrap();
    // The first write allocates space as well.
    engine.write(put(&engine, "key", b"0"), Durability::Flush).unwrap();
    let before = (fs.operations(), engine.stats().wal_fsyncs.count());
    engine.write(put(&engine, "key", b"1"), Durability::None).unwrap();
    assert_eq!((fs.operations(), engine.stats().wal_fsyncs.count()), before, "neither written nor synced");
    engine.write(put(&engine, "key", b"2"), Durability::Flush).unwrap();
    assert_eq!(
        (fs.operations(), engine.stats().wal_fsyncs.count()),
        (before.0 + 1, before.1),
        "written, not synced"
    );
    engine.write(put(&engine, "key", b"3"), Durability::Sync).unwrap();
    assert_eq!(
        (fs.operations(), engine.stats().wal_fsyncs.count()),
        (before.0 + 3, before.1 + 1),
        "written and synced"
    );
    engine.write(put(&engine, "key", b"4"), Durability::None).unwrap();
    engine.sync().unwrap();
    assert_eq!(
        (fs.operations(), engine.stats().wal_fsyncs.count()),
        (before.0 + 5, before.1 + 2),
        "synced by request"
    );
}

#[test]
fn fsyncs_of_the_log_are_timed() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { wal_segment_bytes: 1 << 20, ..tiny() }).unwrap();
    let slow = |engine: &Engine| {
        let bounds = allidb_storage::Latency::BOUNDS_MICROS;
        let first = bounds.partition_point(|&bound| bound <= 16_384);
        engine.stats().wal_fsyncs.counts()[first..].iter().sum::<u64>()
    };
    engine.write(put(&engine, "key", b"1"), Durability::Sync).unwrap();
    let before = (engine.stats().wal_fsyncs, slow(&engine));
    fs.set_delay(Operation::Sync, std::time::Duration::from_millis(20));
    engine.write(put(&engine, "key", b"2"), Durability::Sync).unwrap();
    let after = (engine.stats().wal_fsyncs, slow(&engine));
    assert_eq!((after.0.count(), after.1), (before.0.count() + 1, before.1 + 1));
    assert!(after.0.sum_micros() >= before.0.sum_micros() + 20_000, "{after:?}");
}

#[test]
fn a_closed_engine_refuses_writes_and_its_snapshots_can_be_read() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    engine.write(put(&engine, "key", b"1"), Durability::None).unwrap();
    let (clone, snapshot) = (engine.clone(), engine.snapshot());
    engine.close().unwrap();
    let error = clone.write(put(&clone, "key", b"2"), Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(snapshot.get(keyspace(&clone, 0), b"key").unwrap().as_deref(), Some(b"1".as_slice()));
    let again = open(&fs, tiny()).unwrap();
    assert_eq!(again.get(keyspace(&again, 0), b"key").unwrap().as_deref(), Some(b"1".as_slice()));
}
