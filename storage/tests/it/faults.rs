//! Single failures: what is refused, what is told, and what goes on.

use std::io;
use std::sync::Arc;

use allidb_storage::fs::{Effect, Fault, Fs, Operation, SimFs};
use allidb_storage::{Background, Durability, Engine, Error, Options};

use crate::damage::{is_table, store_with_every_kind_of_file};
use crate::model::{Model, Random, apply, batch, contents, keyspace, open, put, tiny};

fn value(engine: &Engine, key: &str) -> Option<Vec<u8>> {
    engine.get(keyspace(engine, 0), key.as_bytes()).unwrap().map(|value| value.to_vec())
}

#[test]
fn a_failed_fsync_of_the_log_stops_all_writes_for_good() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    engine.write(put(&engine, "before", b"1"), Durability::Sync).unwrap();
    fs.inject(Fault::once(Operation::Sync).on(".log"));
    let error = engine.write(put(&engine, "lost", b"2"), Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }) && !error.is_retryable(), "{error}");
    let fsyncs = engine.stats().wal_fsyncs.count();
    for durability in [Durability::None, Durability::Flush, Durability::Sync] {
        let error = engine.write(put(&engine, "later", b"3"), durability).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    }
    assert!(matches!(engine.flush(), Err(Error::Poisoned { .. })));
    assert!(matches!(engine.compact(keyspace(&engine, 0)), Err(Error::Poisoned { .. })));
    assert_eq!(engine.stats().wal_fsyncs.count(), fsyncs, "fsync was tried again");
    assert!(engine.stats().poisoned.unwrap().contains("fsync"));
    assert_eq!(value(&engine, "before").as_deref(), Some(b"1".as_slice()));
    assert_eq!(value(&engine, "lost"), None, "a refused batch is visible");
    assert!(engine.close().is_err());
    let engine = open(&fs, tiny()).unwrap();
    assert_eq!(value(&engine, "before").as_deref(), Some(b"1".as_slice()));
    assert_eq!(value(&engine, "later"), None);
    engine.write(put(&engine, "after", b"4"), Durability::Sync).unwrap();
}

#[test]
fn a_failed_fsync_of_a_table_manifest_or_directory_stops_all_writes() {
    for (operation, suffix) in [
        (Operation::Sync, ".table"),
        (Operation::Sync, "MANIFEST.new"),
        (Operation::Rename, "MANIFEST"),
        (Operation::SyncDir, "store"),
    ] {
        let fs = SimFs::new();
        let engine = open(&fs, tiny()).unwrap();
        engine.write(put(&engine, "key", b"1"), Durability::Sync).unwrap();
        fs.inject(Fault::once(operation).on(suffix));
        let error = engine.flush().unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{operation:?} {suffix}: {error}");
        let error = engine.write(put(&engine, "key", b"2"), Durability::Sync).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{operation:?} {suffix}: {error}");
        assert_eq!(value(&engine, "key").as_deref(), Some(b"1".as_slice()));
        drop(engine);
        fs.crash(3);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(value(&engine, "key").as_deref(), Some(b"1".as_slice()), "{operation:?} {suffix}");
    }
}

#[test]
fn a_failed_or_torn_write_to_the_log_is_not_acknowledged() {
    for effect in [Effect::Fail(io::ErrorKind::Other), Effect::Torn(0), Effect::Torn(1), Effect::Torn(50)] {
        let fs = SimFs::new();
        let engine = open(&fs, tiny()).unwrap();
        engine.write(put(&engine, "before", b"1"), Durability::Sync).unwrap();
        fs.inject(Fault { effect, ..Fault::once(Operation::Write).on(".log") });
        let error = engine.write(put(&engine, "torn", &[7; 100]), Durability::Flush).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{effect:?}: {error}");
        assert_eq!(value(&engine, "torn"), None);
        drop(engine);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(engine.recovery().last_sequence, 1, "{effect:?}");
        assert_eq!(engine.recovery().truncated.is_some(), matches!(effect, Effect::Torn(1..)), "{effect:?}");
        assert_eq!(value(&engine, "before").as_deref(), Some(b"1".as_slice()));
    }
}

#[test]
fn a_batch_refused_by_a_full_disk_does_not_come_back() {
    // All of it reached the file before the disk said that it was full.
    for written in [0, 1, 40, usize::MAX] {
        let fs = SimFs::new();
        let engine = open(&fs, tiny()).unwrap();
        engine.write(put(&engine, "before", b"1"), Durability::Sync).unwrap();
        fs.inject(Fault { effect: Effect::Full(written), ..Fault::once(Operation::Write).on(".log") });
        let error = engine.write(put(&engine, "refused", &[7; 100]), Durability::Sync).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{written}: {error}");
        fs.kill();
        drop(engine);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(engine.recovery().last_sequence, 1, "{written}");
        assert_eq!(engine.recovery().truncated, None, "{written}");
        assert_eq!(value(&engine, "refused"), None);
    }
}

#[test]
fn short_writes_and_reads_are_continued() {
    let fs = SimFs::new();
    let short = |operation, len| Fault { effect: Effect::Short(len), times: 40, ..Fault::once(operation) };
    fs.inject(short(Operation::Write, 3));
    let engine = open(&fs, tiny()).unwrap();
    engine.write(put(&engine, "key", &[7; 100]), Durability::Sync).unwrap();
    fs.inject(short(Operation::Write, 11));
    engine.flush().unwrap();
    fs.inject(short(Operation::Read, 5));
    assert_eq!(value(&engine, "key").as_deref(), Some([7; 100].as_slice()));
    drop(engine);
    fs.inject(short(Operation::Read, 7));
    let engine = open(&fs, tiny()).unwrap();
    assert_eq!(value(&engine, "key").as_deref(), Some([7; 100].as_slice()));
}

#[test]
fn a_flush_that_cannot_write_is_tried_again_and_shown() {
    for (operation, suffix) in [
        (Operation::Create, ".table"),
        (Operation::Write, ".table"),
        (Operation::Open, ".table"),
        (Operation::Create, "MANIFEST.new"),
        (Operation::Write, "MANIFEST.new"),
    ] {
        let fs = SimFs::new();
        let engine = open(&fs, tiny()).unwrap();
        engine.write(put(&engine, "key", b"1"), Durability::Sync).unwrap();
        fs.inject(Fault::once(operation).on(suffix));
        let error = engine.flush().unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{operation:?} {suffix}: {error}");
        assert!(engine.stats().last_background_error.is_some());
        assert_eq!(engine.stats().background_errors, 1);
        assert_eq!(value(&engine, "key").as_deref(), Some(b"1".as_slice()));
        let orphans = |fs: &SimFs| fs.files().iter().filter(|(path, _)| is_table(path)).count();
        assert_eq!(orphans(&fs), 0, "{operation:?} {suffix} left a table behind");
        engine.write(put(&engine, "key", b"2"), Durability::Sync).unwrap();
        engine.flush().unwrap();
        assert_eq!(engine.stats().last_background_error, None);
        assert_eq!(engine.stats().frozen_memtables, 0);
        drop(engine);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(value(&engine, "key").as_deref(), Some(b"2".as_slice()), "{operation:?} {suffix}");
    }
}

#[test]
fn a_failed_compaction_changes_nothing_and_is_tried_again() {
    for (operation, suffix) in
        [(Operation::Write, ".table"), (Operation::Write, "MANIFEST.new"), (Operation::Read, ".table")]
    {
        let fs = SimFs::new();
        let engine = open(&fs, Options { level0_files: 100, ..tiny() }).unwrap();
        let mut model = Model::new();
        let mut random = Random(5);
        for _ in 0..60 {
            let changes = random.changes();
            engine.write(batch(&engine, &changes), Durability::Flush).unwrap();
            apply(&mut model, &changes);
        }
        engine.flush().unwrap();
        fs.inject(Fault::once(operation).on(suffix));
        assert!(engine.compact(keyspace(&engine, 0)).is_err(), "{operation:?} {suffix}");
        assert!(engine.stats().last_background_error.is_some());
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        engine.compact(keyspace(&engine, 0)).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        assert_eq!(engine.stats().last_background_error, None);
        drop(engine);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(engine.recovery().removed_files, 0, "{operation:?} {suffix}");
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    }
}

#[test]
fn a_full_disk_refuses_puts_and_lets_deletes_and_compaction_through() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { min_free_bytes: 10_000, ..tiny() }).unwrap();
    let mut random = Random(1);
    for _ in 0..20 {
        engine.write(batch(&engine, &random.changes()), Durability::Sync).unwrap();
    }
    engine.write(put(&engine, "old", &[1; 100]), Durability::Sync).unwrap();
    drop(engine);
    let used: u64 = fs.files().iter().map(|(_, len)| len).sum();
    fs.set_capacity(Some(used + 9_000));
    let engine = open(&fs, Options { min_free_bytes: 10_000, ..tiny() }).unwrap();
    let error = engine.write(put(&engine, "new", b"2"), Durability::Sync).unwrap_err();
    assert!(matches!(error, Error::DiskFull { required_bytes: 10_000, .. }), "{error}");
    assert!(error.is_retryable());
    engine.write(batch(&engine, &[(0, b"old".to_vec(), None)]), Durability::Sync).unwrap();
    assert_eq!(value(&engine, "old"), None);
    engine.flush().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    assert!(engine.write(put(&engine, "new", b"2"), Durability::Sync).is_err());
    fs.set_capacity(None);
    engine.write(put(&engine, "new", b"3"), Durability::Sync).unwrap();
    assert_eq!(value(&engine, "new").as_deref(), Some(b"3".as_slice()));
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_anything_loses_nothing_and_service_resumes() {
    // The reserve is off, so that every kind of write runs into the end.
    for room in (0..4_000).step_by(61) {
        let fs = SimFs::new();
        let engine = open(&fs, tiny()).unwrap();
        let mut random = Random(room);
        let mut model = Model::new();
        let mut sequence = 0;
        fs.set_capacity(Some(fs.files().iter().map(|(_, len)| len).sum::<u64>() + room));
        let mut refused = 0;
        for _ in 0..100 {
            let changes = random.changes();
            match engine.write(batch(&engine, &changes), Durability::Sync) {
                Ok(at) => {
                    sequence += 1;
                    assert_eq!(at, sequence);
                    apply(&mut model, &changes);
                }
                Err(error) => {
                    assert!(error.is_retryable(), "room {room}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "room {room}: the disk never filled up");
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        fs.set_capacity(None);
        for _ in 0..20 {
            let changes = random.changes();
            engine.write(batch(&engine, &changes), Durability::Sync).unwrap();
            apply(&mut model, &changes);
        }
        assert_eq!(engine.stats().poisoned, None);
        drop(engine);
        let engine = open(&fs, tiny()).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model, "room {room}");
    }
}

#[test]
fn a_panic_in_publish_stops_writes_and_hangs_nobody() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    let error =
        engine.commit(put(&engine, "key", b"1"), Durability::Sync, |_| panic!("for the test")).unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert!(engine.write(put(&engine, "key", b"2"), Durability::Sync).is_err());
}

#[test]
fn memory_stays_bounded_while_the_flush_fails() {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    fs.inject(Fault { times: u64::MAX, ..Fault::once(Operation::Create).on(".table") });
    let mut refused = 0;
    for _ in 0..500 {
        match engine.write(put(&engine, "key", &[1; 100]), Durability::Flush) {
            Ok(_) => {}
            Err(Error::Busy { reason }) => {
                assert!(reason.contains("table"), "{reason}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        let stats = engine.stats();
        assert!(stats.memtable_bytes + stats.frozen_memtable_bytes < 5 * (4 << 10), "{stats:?}");
    }
    assert!(refused > 0 && engine.stats().stalls > 0);
    fs.heal();
    engine.write(put(&engine, "key", b"2"), Durability::Sync).unwrap();
    assert_eq!(engine.stats().frozen_memtables, 0);
}

/// Threads that the operating system refuses to start.
#[derive(Debug)]
pub(crate) struct NoThreads;

impl Background for NoThreads {
    fn spawn(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> bool {
        drop(work);
        false
    }

    fn is_inline(&self) -> bool {
        false
    }
}

#[test]
fn writers_do_not_wait_for_workers_that_have_ended() {
    let fs = SimFs::new();
    let engine = open(&fs, Options { background: Arc::new(NoThreads), ..tiny() }).unwrap();
    let refused = (0..500).find_map(|index| {
        engine.write(put(&engine, &format!("{index}"), &[1; 100]), Durability::Flush).err()
    });
    assert!(matches!(refused, Some(Error::Busy { .. })), "{refused:?}");
    engine.flush().unwrap();
    engine.write(put(&engine, "key", b"2"), Durability::Flush).unwrap();
    drop(engine);
}

#[test]
fn files_of_a_newer_format_are_refused() {
    let (fs, _) = store_with_every_kind_of_file();
    for (path, len) in fs.files() {
        let number = path.file_stem().unwrap().to_str().unwrap().parse::<u64>();
        let newer = fs.fork();
        let file = newer.open(&path).unwrap();
        let read = |offset: u64, len: usize| {
            let mut bytes = vec![0; len];
            file.read_exact_at(offset, &mut bytes).unwrap();
            bytes
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => {
                let mut header = read(0, 36);
                header[8] = 9;
                header.extend(crc32fast::hash(&header).to_le_bytes());
                file.write_all_at(0, &header).unwrap();
            }
            Some("table") => {
                let mut footer = read(len - 64, 52);
                footer[48] = 9;
                let checked = [footer.as_slice(), &number.unwrap().to_le_bytes()].concat();
                footer.extend(crc32fast::hash(&checked).to_le_bytes());
                file.write_all_at(len - 64, &footer).unwrap();
            }
            Some("blob") => {
                let mut header = read(0, 28);
                header[8] = 9;
                header.extend(crc32fast::hash(&header).to_le_bytes());
                file.write_all_at(0, &header).unwrap();
            }
            _ if path.ends_with("MANIFEST") => {
                let body = read(20, len as usize - 20);
                let checked = [9u32.to_le_bytes().as_slice(), &body].concat();
                file.write_all_at(8, &[9]).unwrap();
                file.write_all_at(16, &crc32fast::hash(&checked).to_le_bytes()).unwrap();
            }
            _ => continue,
        }
        match open(&newer, tiny()).unwrap_err() {
            Error::NewerFormat { path: named, found: 9, supported } => {
                let is_blob = path.extension().is_some_and(|extension| extension == "blob");
                let newest = if is_blob { 1 } else { 2 };
                assert_eq!((named, supported), (path, newest));
            }
            error => panic!("{}: {error}", path.display()),
        }
    }
}
