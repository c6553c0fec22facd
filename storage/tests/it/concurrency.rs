//! Many threads: order, durability, and reads while everything changes.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use allidb_storage::fs::{Fault, Fs, Operation, RealFs, SimFs};
use allidb_storage::{Direction, Durability, Engine, Options, Threads, WriteBatch};

use crate::model::{keyspace, open, put, tiny};

fn threaded() -> Options {
    Options { background: Arc::new(Threads), ..tiny() }
}

#[test]
fn eight_synced_writers_share_fsyncs_and_keep_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let options = || Options {
        wal_segment_bytes: 64 << 10,
        memtable_bytes: 256 << 10,
        memory_bytes: 2 << 20,
        ..threaded()
    };
    let engine = Engine::open(fs.clone(), dir.path(), options()).unwrap();
    let published = Arc::new(Mutex::new(Vec::new()));
    let writers = 8;
    let each = 200;
    thread::scope(|scope| {
        for writer in 0..writers {
            let (engine, published) = (engine.clone(), published.clone());
            scope.spawn(move || {
                for index in 0..each {
                    let published = published.clone();
                    let visible = engine.clone();
                    let batch = put(&engine, &format!("{writer}-{index:04}"), &[writer; 50]);
                    let sequence = engine
                        .commit(batch, Durability::Sync, move |sequence| {
                            // Not visible yet, and all those before are.
                            assert_eq!(visible.visible_sequence(), sequence - 1);
                            published.lock().unwrap().push(sequence);
                        })
                        .unwrap();
                    assert!(engine.visible_sequence() >= sequence, "acknowledged and not visible");
                }
            });
        }
    });
    let total = u64::from(writers) * each;
    assert_eq!(*published.lock().unwrap(), (1..=total).collect::<Vec<u64>>());
    let stats = engine.stats();
    assert_eq!(stats.batches, total);
    assert!(
        stats.commit_groups < total && stats.wal_fsyncs.count() < total,
        "nothing was grouped: {stats:?}"
    );
    drop(engine);
    let engine = Engine::open(fs, dir.path(), options()).unwrap();
    assert_eq!(engine.recovery().last_sequence, total);
    for writer in 0..writers {
        for index in 0..each {
            let key = format!("{writer}-{index:04}");
            let found = engine.get(keyspace(&engine, 0), key.as_bytes()).unwrap();
            assert_eq!(found.as_deref(), Some([writer; 50].as_slice()), "{key}");
        }
    }
}

#[test]
fn snapshots_stay_consistent_while_writers_flushes_and_compactions_run() {
    let fs = SimFs::new();
    let engine = open(&fs, threaded()).unwrap();
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    thread::scope(|scope| {
        // Each batch sets all keys of both keyspaces to the same value: no reader may see two values.
        scope.spawn(|| {
            for round in 0..600u32 {
                let mut batch = WriteBatch::new();
                for key in 0..10u8 {
                    for index in 0..2 {
                        batch.put(keyspace(&engine, index), vec![key], round.to_be_bytes().to_vec());
                    }
                }
                engine.write(batch, Durability::None).unwrap();
                rounds.store(u64::from(round), Ordering::Relaxed);
            }
            stop.store(true, Ordering::Release);
        });
        for reader in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let direction = if reader == 0 { Direction::Forward } else { Direction::Reverse };
                let mut newest = 0;
                while !stop.load(Ordering::Acquire) {
                    let snapshot = engine.snapshot();
                    let mut values = Vec::new();
                    for index in 0..2 {
                        let scan = snapshot
                            .scan(keyspace(engine, index), Bound::Unbounded, Bound::Unbounded, direction)
                            .unwrap();
                        values.extend(scan.map(|row| row.unwrap().1));
                        if let Some(value) = snapshot.get(keyspace(engine, index), &[3]).unwrap() {
                            values.push(value);
                        }
                    }
                    assert!(values.is_empty() || values.len() == 22, "{} values", values.len());
                    assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "a batch was seen in part");
                    if let Some(value) = values.first() {
                        let round = u32::from_be_bytes(value.as_ref().try_into().unwrap());
                        assert!(round >= newest, "time went backwards");
                        newest = round;
                    }
                    assert!(engine.get(keyspace(engine, 0), &[3]).unwrap().is_some() || newest == 0);
                }
            });
        }
    });
    engine.flush().unwrap();
    engine.wait_idle().unwrap();
    let stats = engine.stats();
    assert!(stats.flushes > 5 && stats.compactions > 1, "{stats:?}");
    assert_eq!(stats.poisoned, None);
    let known: usize =
        stats.keyspaces.iter().flat_map(|keyspace| &keyspace.levels).map(|level| level.tables).sum();
    let tables =
        || fs.files().iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "table")).count();
    // Obsolete tables go with whoever read them last: a compaction that has just ended, maybe.
    let limit = Instant::now() + Duration::from_secs(10);
    while tables() != known {
        assert!(Instant::now() < limit, "{} tables instead of {known}", tables());
        thread::yield_now();
    }
}

#[test]
fn a_scan_outlives_the_tables_it_reads() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    for index in 0..100 {
        engine.write(put(&engine, &format!("{index:03}"), &[1; 50]), Durability::None).unwrap();
    }
    engine.flush().unwrap();
    let mut scan = engine.snapshot().prefix(keyspace(&engine, 0), b"", Direction::Forward).unwrap();
    assert_eq!(scan.next().unwrap().unwrap().0, "000");
    for index in 0..100 {
        engine.write(put(&engine, &format!("{index:03}"), &[2; 50]), Durability::None).unwrap();
    }
    engine.flush().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    let rest: Vec<_> = scan.map(Result::unwrap).collect();
    assert_eq!(rest.len(), 99);
    assert!(rest.iter().all(|(_, value)| value == [1; 50].as_slice()));
}

#[test]
fn writers_are_slowed_and_stopped_while_the_flush_lags_and_go_on_afterwards() {
    let fs = SimFs::new();
    fs.set_delay(Operation::Create, Duration::from_millis(3));
    let engine = open(&fs, Options { frozen_memtables: 3, ..threaded() }).unwrap();
    for index in 0..600 {
        engine.write(put(&engine, &format!("{index:04}"), &[1; 100]), Durability::None).unwrap();
        assert!(engine.stats().frozen_memtables <= 4);
    }
    let stats = engine.stats();
    assert!(stats.slowdowns > 0 && stats.stalls > 0, "{stats:?}");
    assert!(stats.stall_micros >= 1_000, "{stats:?}");
    engine.flush().unwrap();
    assert_eq!(engine.snapshot().prefix(keyspace(&engine, 0), b"", Direction::Forward).unwrap().count(), 600);
}

#[test]
fn dropping_the_engine_stops_its_threads_and_releases_the_directory() {
    let fs = SimFs::new();
    for round in 0..20u64 {
        let engine = open(&fs, threaded()).unwrap();
        for index in 0..20 {
            engine.write(put(&engine, &format!("{round}-{index}"), &[1; 100]), Durability::Flush).unwrap();
        }
        assert_eq!(engine.recovery().last_sequence, round * 20);
    }
}

#[test]
fn a_failed_flush_is_tried_again_in_the_background() {
    let fs = SimFs::new();
    let engine = open(&fs, threaded()).unwrap();
    fs.inject(Fault { times: 2, ..Fault::once(Operation::Create).on(".table") });
    let mut index = 0;
    while engine.stats().background_errors < 2 {
        // Refused while the flush fails and too much waits for it.
        let written = engine.write(put(&engine, &format!("{index:04}"), &[1; 100]), Durability::None);
        index += u64::from(written.is_ok());
        thread::yield_now();
    }
    // The third attempt succeeds, after a pause of the worker.
    let deadline = Instant::now() + Duration::from_secs(30);
    while engine.stats().flushes == 0 || engine.stats().last_background_error.is_some() {
        assert!(Instant::now() < deadline, "{:?}", engine.stats());
        thread::sleep(Duration::from_millis(5));
    }
    engine.write(put(&engine, "last", b"1"), Durability::Sync).unwrap();
    let rows = engine.snapshot().prefix(keyspace(&engine, 0), b"", Direction::Forward).unwrap().count();
    assert_eq!(rows as u64, index + 1);
}
