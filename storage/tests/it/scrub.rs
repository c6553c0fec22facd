//! Scrub beside everything else.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use allidb_storage::fs::SimFs;
use allidb_storage::{Durability, Engine, Error, Options, ScrubOptions, Threads};

use crate::damage::store_with_every_kind_of_file;
use crate::faults::NoThreads;
use crate::model::{Model, Random, apply, assert_whole, batch, contents, keyspace, open, put, tiny};

fn quiet() -> Options {
    Options { level0_files: 100, level0_slowdown_files: 200, level0_stop_files: 200, ..tiny() }
}

#[test]
fn a_scrub_reads_every_byte_that_is_synced_and_no_more_often_than_once() {
    let (fs, _) = store_with_every_kind_of_file();
    let engine = open(&fs, quiet()).unwrap();
    engine.write(put(&engine, "synced", b"1"), Durability::Sync).unwrap();
    let files: u64 = fs.files().iter().filter(|(path, _)| !path.ends_with("LOCK")).count() as u64;
    let stats = engine.stats();
    let tables: u64 =
        stats.keyspaces.iter().flat_map(|keyspace| &keyspace.levels).map(|level| level.bytes).sum();
    let blobs = stats.blob_bytes;
    let manifest = fs.files().into_iter().find(|(path, _)| path.ends_with("MANIFEST")).unwrap().1;
    let mut calls = 0;
    let report = engine
        .scrub(ScrubOptions::default(), |so_far| {
            calls += 1;
            assert!(so_far.bytes <= so_far.bytes_total && so_far.files < so_far.files_total);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(report.damages, []);
    assert_eq!((report.files, report.files_total), (files, files));
    assert_eq!(
        (report.bytes, report.bytes_total),
        (tables + blobs + stats.wal_bytes + manifest, report.bytes)
    );
    assert!(calls >= files);
    assert_eq!(engine.stats().scrub_bytes_read, report.bytes);
}

#[test]
fn a_scrub_leaves_the_cache_alone_and_ends_when_its_caller_wants() {
    let (fs, _) = store_with_every_kind_of_file();
    let engine = open(&fs, quiet()).unwrap();
    contents(&engine, &engine.snapshot()).unwrap();
    let before = engine.stats();
    assert_whole(&engine);
    let after = engine.stats();
    assert_eq!(
        (after.cache_bytes, after.cache_hits, after.cache_misses),
        (before.cache_bytes, before.cache_hits, before.cache_misses)
    );
    let mut calls = 0;
    let report = engine
        .scrub(ScrubOptions::default(), |_| {
            calls += 1;
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert!(report.cancelled && calls == 3);
    assert_eq!(report.files, 2);
}

#[test]
fn a_scrub_that_waits_for_its_rate_ends_with_the_engine() {
    let (fs, _) = store_with_every_kind_of_file();
    let engine = open(&fs, quiet()).unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let scrubbing = thread::spawn({
        let engine = engine.clone();
        move || {
            let options = ScrubOptions { bytes_per_second: 1 };
            engine.scrub(options, |_| {
                begun.send(()).unwrap();
                ControlFlow::Continue(())
            })
        }
    });
    // A byte a second: it is not over before the day is.
    has_begun.recv().unwrap();
    engine.close().unwrap();
    assert!(matches!(scrubbing.join().unwrap(), Err(Error::Closed)));
}

#[test]
fn a_scrub_finds_nothing_wrong_while_everything_changes() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { background: Arc::new(Threads), ..tiny() }).unwrap();
    let done = AtomicBool::new(false);
    let scrubs = thread::scope(|scope| {
        let scrubbing = scope.spawn(|| {
            let mut scrubs = 0;
            while !done.load(Ordering::Acquire) || scrubs == 0 {
                assert_whole(&engine);
                scrubs += 1;
            }
            scrubs
        });
        let mut random = Random(3);
        let mut model = Model::new();
        for round in 0..400 {
            let changes = random.changes();
            let durability = if round % 3 == 0 { Durability::Sync } else { Durability::None };
            write(&engine, &changes, durability);
            apply(&mut model, &changes);
            if round % 50 == 0 {
                engine.compact(keyspace(&engine, 0)).unwrap();
            }
        }
        done.store(true, Ordering::Release);
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        scrubbing.join().unwrap()
    });
    assert!(scrubs > 0);
}

fn write(engine: &Engine, changes: &[crate::model::Change], durability: Durability) {
    engine.write(batch(engine, changes), durability).unwrap();
}

#[test]
fn damage_to_the_manifest_and_the_log_of_an_open_store_is_found() {
    let (fs, _) = store_with_every_kind_of_file();
    // Nothing is flushed, so that all segments stay.
    let engine = open(&fs, Options { background: Arc::new(NoThreads), ..quiet() }).unwrap();
    engine.write(put(&engine, "synced", b"1"), Durability::Sync).unwrap();
    let (paths, lens): (Vec<_>, Vec<_>) =
        fs.files().into_iter().filter(|(path, _)| path.ends_with("MANIFEST") || is_log(path)).unzip();
    assert!(paths.len() >= 4, "{paths:?}");
    let active = paths.iter().filter(|path| is_log(path)).max().unwrap();
    for (path, len) in paths.iter().zip(lens) {
        // Behind the header of the active segment there is one record, and then space allocated ahead.
        let offset = if path == active { 45 } else { len / 2 };
        assert!(fs.flip_bit(path, offset, 0));
        let report = engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.damages.len(), 1, "{}: {:?}", path.display(), report.damages);
        assert!(&report.damages[0].path == path && report.damages[0].offset <= offset);
        assert!(fs.flip_bit(path, offset, 0));
    }
    let report = engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.damages, []);
}

fn is_log(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}
