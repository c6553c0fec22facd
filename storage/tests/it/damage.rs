//! Damaged files: named, never answered from, and worked around.

use std::collections::BTreeSet;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use allidb_storage::fs::{Effect, Fault, Fs, Operation, SimFs};
use allidb_storage::inspect::{InspectOptions, Inspection, TableFile, TablePart, inspect};
use allidb_storage::{Damage, Direction, Durability, Engine, Error, Options, ScrubOptions};

use crate::model::{
    Change, DIR, Model, Random, apply, assert_whole, batch, contents, keyspace, open, put, tiny,
};

pub(crate) fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "table")
}

pub(crate) fn is_blob(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "blob")
}

pub(crate) fn tables(fs: &SimFs) -> Vec<PathBuf> {
    fs.files().into_iter().map(|(path, _)| path).filter(|path| is_table(path)).collect()
}

pub(crate) fn describe(fs: &SimFs, path: &Path) -> TableFile {
    match inspect(fs, path, InspectOptions { entries: true, value_bytes: 0 }).unwrap() {
        Inspection::Table(table) => table,
        other => panic!("{other:?}"),
    }
}

/// No compaction of its own accord.
pub(crate) fn quiet() -> Options {
    Options { level0_files: 100, level0_slowdown_files: 200, level0_stop_files: 200, ..tiny() }
}

pub(crate) fn scrub(engine: &Engine) -> Vec<Damage> {
    engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap().damages
}

/// The error tells of damage to this file.
pub(crate) fn assert_names(error: &Error, path: &Path, context: &str) {
    match error {
        Error::Corruption { path: named, .. } => assert_eq!(named, path, "{context}: {error}"),
        error => panic!("{context}: {error}"),
    }
}

/// Reads every key that could be there: what comes is right, or the error names the file. Returns how many failed.
pub(crate) fn assert_right_or_named(engine: &Engine, model: &Model, path: &Path, context: &str) -> usize {
    let mut failed = 0;
    for index in 0..2 {
        for number in 0..40 {
            let key = format!("key{number:02}").into_bytes();
            match engine.get(keyspace(engine, index), &key) {
                Ok(found) => {
                    let expected = model.get(&(index, key.clone())).map(Vec::as_slice);
                    assert_eq!(found.as_deref(), expected, "{context}: {index} {number}");
                }
                Err(error) => {
                    assert_names(&error, path, context);
                    failed += 1;
                }
            }
        }
    }
    failed
}

/// A store with tables on several levels, a sealed and an open log segment, and what it held after each batch.
pub(crate) fn store_with_every_kind_of_file() -> (SimFs, Vec<Model>) {
    let fs = SimFs::new();
    let mut random = Random(11);
    let mut history = vec![Model::new()];
    let mut write = |engine: &Engine, durability| {
        let changes = random.changes();
        engine.write(batch(engine, &changes), durability)?;
        let mut model = history.last().unwrap().clone();
        apply(&mut model, &changes);
        history.push(model);
        Ok::<(), Error>(())
    };
    // Rotated by the length of segments.
    let engine = open(&fs, Options { memtable_bytes: 1 << 20, ..tiny() }).unwrap();
    for _ in 0..80 {
        write(&engine, Durability::Flush).unwrap();
    }
    engine.flush().unwrap();
    // From here on flushes fail, so that frozen memtables and their log segments stay.
    let fail = Effect::Fail(io::ErrorKind::Other);
    fs.inject(Fault { effect: fail, times: u64::MAX, ..Fault::once(Operation::Create).on(".table") });
    for _ in 0..40 {
        write(&engine, Durability::Sync).unwrap();
    }
    drop(engine);
    fs.heal();
    (fs, history)
}

#[test]
fn a_flipped_bit_in_any_file_is_named_and_never_answered() {
    let (fs, history) = store_with_every_kind_of_file();
    let names: BTreeSet<PathBuf> = fs.files().into_iter().map(|(path, _)| path).collect();
    let logs: Vec<&PathBuf> =
        names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    assert!(logs.len() >= 2, "{names:?}");
    assert!(names.iter().filter(|path| is_table(path)).count() >= 3, "{names:?}");
    assert!(names.iter().any(|path| is_blob(path)), "{names:?}");
    let newest_log = logs[logs.len() - 1].clone();
    let latest = history.last().unwrap();
    let mut cut_off = 0;
    for (path, len) in fs.files() {
        if path.ends_with("LOCK") {
            continue;
        }
        for offset in 0..len {
            let damaged = fs.fork();
            assert!(damaged.flip_bit(&path, offset, (offset % 8) as u8));
            let context = format!("{} at {offset}", path.display());
            let named = |error: &Error| match error {
                Error::Corruption { path: named, offset: at, .. } => {
                    assert_eq!(named, &path, "{context}: {error}");
                    assert!(*at <= offset, "{context}: {error}");
                }
                error => panic!("{context}: {error}"),
            };
            let engine = match open(&damaged, quiet()) {
                Ok(engine) => engine,
                Err(error) => {
                    let is_part = is_table(&path) || is_blob(&path);
                    assert!(!is_part, "{context}: one file is not the whole store: {error}");
                    named(&error);
                    continue;
                }
            };
            if path == newest_log {
                // Only the end that nothing says was synced may be taken for torn; then the rest is right.
                let truncated = engine.recovery().truncated.as_ref();
                let truncated = truncated.unwrap_or_else(|| panic!("{context}: not noticed"));
                assert!(truncated.path == path && truncated.offset <= offset, "{context}");
                let count = engine.recovery().last_sequence as usize;
                assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), history[count], "{context}");
                cut_off += 1;
                continue;
            }
            match contents(&engine, &engine.snapshot()) {
                Ok(found) => assert_eq!(&found, latest, "{context}: wrong data"),
                Err(error) => named(&error),
            }
            assert_right_or_named(&engine, latest, &path, &context);
            let damages = scrub(&engine);
            assert!(!damages.is_empty(), "{context}: not found by scrub");
            for damage in damages {
                assert!(damage.path == path && damage.offset <= offset, "{context}: {damage}");
            }
        }
    }
    let (_, newest_len) = fs.files().into_iter().find(|(path, _)| *path == newest_log).unwrap();
    assert!(cut_off < newest_len / 2, "{cut_off} of {newest_len} bytes of the newest segment go unnoticed");
}

#[test]
fn a_lost_or_truncated_file_is_named() {
    let (fs, history) = store_with_every_kind_of_file();
    let latest = history.last().unwrap();
    for (path, len) in fs.files() {
        if path.ends_with("LOCK") {
            continue;
        }
        for truncated in [false, true] {
            let damaged = fs.fork();
            if truncated {
                damaged.open(&path).unwrap().set_len(len / 2).unwrap();
            } else {
                damaged.remove(&path).unwrap();
            }
            let context = format!("{} truncated: {truncated}", path.display());
            match open(&damaged, quiet()) {
                Ok(engine) if is_table(&path) || is_blob(&path) => {
                    let quarantined = &engine.recovery().quarantined;
                    assert!(
                        quarantined.len() == 1 && quarantined[0].path == path,
                        "{context}: {quarantined:?}"
                    );
                    let failed = assert_right_or_named(&engine, latest, &path, &context);
                    // All that lies in a blob file may have been written anew since.
                    assert!(failed > 0 || is_blob(&path), "{context}");
                    assert!(scrub(&engine).iter().any(|damage| damage.path == path), "{context}");
                    let tables = usize::from(is_table(&path));
                    assert_eq!(engine.stats().quarantined_tables, tables, "{context}");
                }
                Ok(engine) => {
                    // The newest segment is the only one that nothing refers to: it may not have been there yet.
                    assert!(path.extension().unwrap() == "log", "{context}");
                    let recovery = engine.recovery();
                    assert!(recovery.segments > 0 && recovery.truncated.is_some() == truncated, "{context}");
                }
                Err(error) => {
                    let is_part = is_table(&path) || is_blob(&path);
                    assert!(!is_part, "{context}: one file is not the whole store: {error}");
                    // A missing segment of the middle is noticed by the one behind it.
                    if truncated {
                        assert_names(&error, &path, &context);
                    }
                }
            }
        }
    }
}

/// One table of level 1 in each keyspace, with keys of every second number.
pub(crate) fn store_of_two_tables() -> (SimFs, Model) {
    let fs = SimFs::new();
    let engine = open(&fs, Options { table_bytes: 1 << 20, ..quiet() }).unwrap();
    let mut model = Model::new();
    for index in 0..2 {
        let changes: Vec<Change> = (0..40)
            .step_by(2)
            .map(|number| (index, format!("key{number:02}").into_bytes(), Some(vec![number; 30])))
            .collect();
        engine.write(batch(&engine, &changes), Durability::Sync).unwrap();
        apply(&mut model, &changes);
    }
    engine.flush().unwrap();
    for index in 0..2 {
        engine.compact(keyspace(&engine, index)).unwrap();
    }
    engine.close().unwrap();
    assert_eq!(tables(&fs).len(), 2);
    (fs, model)
}

#[test]
fn damage_in_any_part_of_a_table_takes_no_other_keys_with_it() {
    let (fs, model) = store_of_two_tables();
    for path in tables(&fs) {
        let table = describe(&fs, &path);
        let properties = table.properties.as_ref().unwrap();
        let mut parts: Vec<(Option<TablePart>, u64, BTreeSet<Vec<u8>>)> = table
            .blocks
            .iter()
            .map(|block| {
                let keys = block.entries.iter().map(|entry| entry.key.to_vec()).collect();
                (Some(block.part), block.offset, keys)
            })
            .collect();
        assert!(parts.iter().filter(|(part, ..)| *part == Some(TablePart::Data)).count() >= 3);
        parts.push((None, table.bytes - 64, BTreeSet::new()));
        for (part, offset, block_keys) in parts {
            let damaged = fs.fork();
            assert!(damaged.flip_bit(&path, offset + 1, 3));
            let context = format!("{part:?} of {} at {offset}", path.display());
            let engine = open(&damaged, quiet()).unwrap();
            for index in 0..2 {
                for number in 0..41 {
                    let key = format!("key{number:02}").into_bytes();
                    let right = model.get(&(index, key.clone())).map(Vec::as_slice);
                    let hit = index == properties.keyspace as usize
                        && match part {
                            // Of absent keys between those of the block the filter says so, or nothing does.
                            Some(TablePart::Data) => block_keys.contains(&key),
                            _ => {
                                key.as_slice() >= &*properties.smallest
                                    && key.as_slice() <= &*properties.largest
                            }
                        };
                    match engine.get(keyspace(&engine, index), &key) {
                        Ok(found) => {
                            assert!(!hit, "{context}: {index} {number} was answered");
                            assert_eq!(found.as_deref(), right, "{context}: {index} {number}");
                        }
                        Err(Error::Corruption { path: named, offset: at, .. }) => {
                            assert!(named == path && at == offset, "{context}: {} {at}", named.display());
                            assert!(hit || right.is_none(), "{context}: {index} {number} was refused");
                        }
                        Err(error) => panic!("{context}: {error}"),
                    }
                }
            }
            let damages = scrub(&engine);
            assert!(damages.len() == 1 && damages[0].path == path, "{context}: {damages:?}");
            assert_eq!(damages[0].offset, offset, "{context}");
            assert_eq!(engine.stats().damages, damages, "{context}");
            assert_eq!(engine.stats().quarantined_tables, 1, "{context}");
            let at_open = engine.recovery().quarantined.len();
            let needed = part != Some(TablePart::Data);
            assert_eq!(at_open, usize::from(needed), "{context}");
        }
    }
}

#[test]
fn scans_fail_only_where_they_need_what_is_damaged() {
    let fs = SimFs::new();
    // Tables of one key each in level 1.
    let engine = open(&fs, Options { table_bytes: 1, ..quiet() }).unwrap();
    for key in ["a", "c", "e", "g", "i"] {
        engine.write(put(&engine, key, key.as_bytes()), Durability::Sync).unwrap();
    }
    engine.flush().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    engine.close().unwrap();
    let damaged =
        tables(&fs).into_iter().find(|path| *describe(&fs, path).properties.unwrap().smallest == *b"e");
    let damaged = damaged.unwrap();
    fs.remove(&damaged).unwrap();
    let engine = open(&fs, quiet()).unwrap();
    let snapshot = engine.snapshot();
    let scan = |lower: Bound<&[u8]>, upper: Bound<&[u8]>, direction| -> Result<String, Error> {
        let scan = snapshot.scan(keyspace(&engine, 0), lower, upper, direction)?;
        scan.map(|row| row.map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())).collect()
    };
    use Bound::{Excluded, Included, Unbounded};
    type Edge = Bound<&'static [u8]>;
    let around: [(Edge, Edge, &str); 6] = [
        (Unbounded, Excluded(b"e"), "ac"),
        (Unbounded, Included(b"d"), "ac"),
        (Included(b"b"), Included(b"c"), "c"),
        (Excluded(b"e"), Unbounded, "gi"),
        (Included(b"f"), Unbounded, "gi"),
        (Included(b"g"), Included(b"h"), "g"),
    ];
    for (lower, upper, keys) in around {
        assert_eq!(scan(lower, upper, Direction::Forward).unwrap(), keys, "{lower:?} {upper:?}");
        let reverse: String = keys.chars().rev().collect();
        assert_eq!(scan(lower, upper, Direction::Reverse).unwrap(), reverse, "{lower:?} {upper:?}");
    }
    let across: [(Edge, Edge); 4] = [
        (Unbounded, Unbounded),
        (Unbounded, Included(b"e")),
        (Included(b"e"), Unbounded),
        (Included(b"e"), Included(b"e")),
    ];
    for (lower, upper) in across {
        for direction in [Direction::Forward, Direction::Reverse] {
            assert_names(&scan(lower, upper, direction).unwrap_err(), &damaged, "across");
        }
    }
    assert_eq!(engine.get(keyspace(&engine, 0), b"d").unwrap(), None);
    assert_names(&engine.get(keyspace(&engine, 0), b"e").unwrap_err(), &damaged, "get");
}

#[test]
fn what_a_damaged_table_hid_does_not_come_back() {
    let fs = SimFs::new();
    let engine = open(&fs, quiet()).unwrap();
    engine.write(put(&engine, "deleted", b"old"), Durability::Sync).unwrap();
    engine.write(put(&engine, "changed", b"old"), Durability::Sync).unwrap();
    engine.flush().unwrap();
    engine.compact(keyspace(&engine, 0)).unwrap();
    let below = tables(&fs);
    engine.write(batch(&engine, &[(0, b"deleted".to_vec(), None)]), Durability::Sync).unwrap();
    engine.write(put(&engine, "changed", b"new"), Durability::Sync).unwrap();
    engine.flush().unwrap();
    let above = tables(&fs).into_iter().find(|path| !below.contains(path)).unwrap();
    engine.write(put(&engine, "changed", b"newest"), Durability::Sync).unwrap();
    engine.close().unwrap();
    fs.open(&above).unwrap().set_len(100).unwrap();
    let engine = open(&fs, tiny()).unwrap();
    let handle = keyspace(&engine, 0);
    assert_names(&engine.get(handle, b"deleted").unwrap_err(), &above, "get");
    assert_eq!(engine.get(handle, b"changed").unwrap().as_deref(), Some(b"newest".as_slice()));
    // Merging what lies around it would let the old values out.
    engine.flush().unwrap();
    engine.compact(handle).unwrap();
    engine.wait_idle().unwrap();
    assert_names(&engine.get(handle, b"deleted").unwrap_err(), &above, "get");
    assert_eq!(engine.get(handle, b"changed").unwrap().as_deref(), Some(b"newest".as_slice()));
}

#[test]
fn a_foreign_file_in_place_of_a_damaged_one_is_refused() {
    // Two tables that differ only in a value have the same numbers, properties and length.
    let store = |value: &[u8]| {
        let fs = SimFs::new();
        let engine = open(&fs, quiet()).unwrap();
        let changes = [(1, b"key".to_vec(), Some(value.to_vec()))];
        engine.write(batch(&engine, &changes), Durability::Sync).unwrap();
        engine.close().unwrap();
        fs
    };
    let (fs, other) = (store(b"ours"), store(b"them"));
    let path = tables(&fs)[0].clone();
    let bytes = |fs: &SimFs| fs.open(&path).unwrap().read_all().unwrap();
    let replace = |bytes: &[u8]| fs.open(&path).unwrap().write_all_at(0, bytes).unwrap();
    let (ours, theirs) = (bytes(&fs), bytes(&other));
    assert_eq!(ours.len(), theirs.len());
    assert!(fs.flip_bit(&path, ours.len() as u64 - 1, 0));
    let refused = |context| {
        let engine = open(&fs, quiet()).unwrap();
        assert_eq!(engine.recovery().quarantined.len(), 1, "{context}");
        assert_names(&engine.get(keyspace(&engine, 1), b"key").unwrap_err(), &path, context);
    };
    refused("damaged");
    replace(&theirs);
    refused("foreign");
    replace(&ours);
    let engine = open(&fs, quiet()).unwrap();
    assert_eq!(engine.recovery().quarantined, []);
    assert_eq!(engine.get(keyspace(&engine, 1), b"key").unwrap().as_deref(), Some(b"ours".as_slice()));
    assert_eq!(fs.list(Path::new(DIR)).unwrap().iter().filter(|name| name.ends_with(".table")).count(), 1);
}

#[test]
fn a_damaged_value_in_a_blob_file_is_named_and_its_file_left_alone() {
    let fs = SimFs::new();
    let options =
        || Options { blob_file_bytes: 1 << 20, blob_garbage_percent: 30, table_bytes: 1 << 20, ..quiet() };
    let engine = open(&fs, options()).unwrap();
    let handle = keyspace(&engine, 0);
    let all = |value: u8, keys: std::ops::Range<u8>| -> Vec<Change> {
        keys.map(|key| (0, vec![key], Some(vec![value; 100]))).collect()
    };
    engine.write(batch(&engine, &all(1, 0..10)), Durability::Sync).unwrap();
    engine.flush().unwrap();
    let path = fs.files().into_iter().map(|(path, _)| path).find(|path| is_blob(path)).unwrap();
    let Inspection::Blob(blob) = inspect(&fs, &path, InspectOptions::default()).unwrap() else {
        panic!("{} is no blob file", path.display());
    };
    assert_eq!((blob.blocks.len(), blob.keyspace, blob.damages.len()), (10, Some(0), 0));
    assert!(blob.blocks.iter().all(|value| value.bytes == 100));
    let place = blob.blocks[8].offset;
    assert!(fs.flip_bit(&path, place + 7, 2));
    // Of the first file only two values are left, so compaction wants to move them, once.
    engine.write(batch(&engine, &all(2, 0..8)), Durability::Sync).unwrap();
    engine.flush().unwrap();
    engine.compact(handle).unwrap();
    assert_names(&engine.wait_idle().unwrap_err(), &path, "moved");
    engine.wait_idle().unwrap();
    engine.compact(handle).unwrap();
    let stats = engine.stats();
    assert_eq!((stats.background_errors, stats.damages.len(), stats.quarantined_tables), (1, 1, 0));
    assert_eq!((&stats.damages[0].path, stats.damages[0].offset), (&path, place));
    assert_eq!(scrub(&engine), stats.damages);
    for key in 0..10 {
        match engine.get(handle, &[key]) {
            Ok(value) => assert_eq!(value.unwrap()[0], if key < 8 { 2 } else { 1 }),
            Err(error) => {
                assert_eq!(key, 8, "{error}");
                assert_names(&error, &path, "get");
            }
        }
    }
    engine.close().unwrap();
    assert!(fs.flip_bit(&path, place + 7, 2));
    let engine = open(&fs, options()).unwrap();
    assert_eq!(engine.get(keyspace(&engine, 0), &[8]).unwrap().unwrap()[0], 1);
    assert_whole(&engine);
}

#[test]
fn damage_in_a_value_that_is_overwritten_hides_nothing() {
    let fs = SimFs::new();
    let engine = open(&fs, quiet()).unwrap();
    engine.write(put(&engine, "key", &[1; 100]), Durability::Sync).unwrap();
    engine.flush().unwrap();
    let path = fs.files().into_iter().map(|(path, _)| path).find(|path| is_blob(path)).unwrap();
    let snapshot = engine.snapshot();
    engine.write(put(&engine, "key", &[2; 100]), Durability::Sync).unwrap();
    assert!(fs.flip_bit(&path, 40, 2));
    // Both ways: in reverse the old version comes first.
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap().len(), 1);
    assert_names(&contents(&engine, &snapshot).unwrap_err(), &path, "the old version");
}
