//! Files of earlier releases, which are read for ever.
//!
//! Each directory of `tests/golden` holds a store as this engine wrote it when a format was new; the numbers are those of
//! tables' formats, and from `v2` on ranges are deleted. The newest was made by running this test with
//! `ALLIDB_WRITE_GOLDEN=1`, which is for a new format only: an existing directory is never written anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allidb_storage::fs::RealFs;
use allidb_storage::{
    Background, Compression, Durability, Engine, Inline, KeyspaceOptions, Options, SortedFileWriter,
};

use crate::faults::NoThreads;
use crate::model::{Change, Edit, Model, Random, apply, assert_whole, batch, contents};

fn directory(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

/// The versions there are, newest last.
const VERSIONS: [&str; 2] = ["v1", "v2"];
const NEWEST: &str = VERSIONS[VERSIONS.len() - 1];

/// What does not depend on a library for compression.
const UNCOMPRESSED: [&str; 6] = [
    "000000000005.table",
    "000000000008.table",
    "000000000010.table",
    "000000000007.log",
    "000000000004.blob",
    "000000000009.blob",
];

fn options() -> Options {
    // Tables with a whole index and values apart, which are compressed from level 1 on; and tables with a partitioned one, which are
    // not compressed.
    let whole = KeyspaceOptions {
        block_bytes: 512,
        compression: vec![Compression::None, Compression::Zstd(3)],
        separation_bytes: 40,
        blob_block_bytes: 16 << 10,
        ..KeyspaceOptions::new("a")
    };
    let partitioned = KeyspaceOptions {
        block_bytes: 128,
        compression: vec![Compression::None],
        index_partition_bytes: 1,
        ..KeyspaceOptions::new("b")
    };
    Options {
        keyspaces: vec![whole, partitioned],
        table_bytes: 2 << 10,
        level_base_bytes: 4 << 10,
        min_free_bytes: 0,
        background: Arc::new(Inline),
        ..Options::default()
    }
}

/// The batches of the golden store: those in tables of level 1, of level 0, and in the log.
fn history(version: &str) -> Vec<Vec<Vec<Edit>>> {
    let mut random = Random(2026);
    let mut batch = || match version {
        "v1" => random.changes().into_iter().map(Edit::from).collect(),
        _ => random.edits(),
    };
    [100, 40, 10].into_iter().map(|count| (0..count).map(|_| batch()).collect()).collect()
}

fn write(dir: &Path) {
    let engine = Engine::open(Arc::new(RealFs), dir, options()).unwrap();
    let mut snapshot = None;
    for (part, batches) in history(NEWEST).iter().enumerate() {
        for changes in batches {
            engine.write(batch(&engine, changes), Durability::Sync).unwrap();
        }
        if part < 2 {
            engine.flush().unwrap();
        }
        if part == 0 {
            engine.compact(engine.keyspace("a").unwrap()).unwrap();
            // Range tombstones stay in the manifest.
            snapshot = Some(engine.snapshot());
        }
    }
    assert!(engine.stats().keyspaces.iter().all(|keyspace| keyspace.range_tombstones > 0));
    drop((snapshot, engine));
    fs::remove_file(dir.join("LOCK")).unwrap();
}

#[test]
fn stores_of_earlier_formats_are_read() {
    if std::env::var_os("ALLIDB_WRITE_GOLDEN").is_some() && !directory(NEWEST).exists() {
        write(&directory(NEWEST));
    }
    for version in VERSIONS {
        let copy = tempfile::tempdir().unwrap();
        let mut kinds = Vec::new();
        for entry in fs::read_dir(directory(version)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            kinds.push(path.extension().map(|extension| extension.to_string_lossy().into_owned()));
        }
        for kind in [None, Some("log".to_owned()), Some("table".to_owned())] {
            assert!(kinds.contains(&kind), "{kind:?} is missing in {kinds:?}");
        }
        let mut model = Model::new();
        let history = history(version);
        history.iter().flatten().for_each(|changes| apply(&mut model, changes));
        let engine = Engine::open(Arc::new(RealFs), copy.path(), options()).unwrap();
        assert_eq!(engine.recovery().batches, 10);
        assert_eq!(engine.recovery().last_sequence, 150);
        assert_eq!(engine.recovery().truncated, None);
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
        assert_whole(&engine);
        // And it goes on in today's format.
        engine.compact(engine.keyspace("a").unwrap()).unwrap();
        engine.close().unwrap();
        let engine = Engine::open(Arc::new(RealFs), copy.path(), options()).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    }
}

#[test]
fn files_are_written_as_the_golden_ones_were() {
    // A change of the format, even an unintended one, needs a new format version and a new directory. Compressed
    // tables are left out: they may change with the libraries that compress.
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let mut layouts = Vec::new();
    for name in UNCOMPRESSED {
        let golden = fs::read(directory(NEWEST).join(name)).unwrap();
        assert!(fs::read(dir.path().join(name)).unwrap() == golden, "{name} differs");
        if name.ends_with(".table") {
            layouts.push(golden[golden.len() - 20]);
        }
    }
    assert_eq!(layouts, [2, 1, 2], "the footers say which index is whole, 1, and which is in partitions, 2");
}

/// A store of the newest formats with what `NEWEST` lacks: an ingested table, partitions and blobs that are compressed with LZ4, and log
/// segments that follow each other unsynced.
const MORE: &str = "v2-more";
/// Batches in tables, and in the log.
const MORE_BATCHES: (usize, usize) = (60, 12);

fn more_options(background: Arc<dyn Background>) -> Options {
    let keyspace = |name| KeyspaceOptions {
        block_bytes: 128,
        compression: vec![Compression::Lz4],
        index_partition_bytes: 1,
        separation_bytes: 40,
        ..KeyspaceOptions::new(name)
    };
    let keyspaces = vec![keyspace("a"), keyspace("b")];
    let memtable_bytes = 4 << 10;
    Options { keyspaces, memtable_bytes, table_bytes: 8 << 10, background, ..options() }
}

fn more_rows() -> impl Iterator<Item = Change> {
    (0..40).map(|row: u8| {
        let value = (!row.is_multiple_of(4)).then(|| vec![row; usize::from(row) * 3]);
        (0, format!("row{row:02}").into_bytes(), value)
    })
}

fn more_history() -> Vec<Vec<Edit>> {
    let mut random = Random(38);
    (0..MORE_BATCHES.0 + MORE_BATCHES.1).map(|_| random.edits()).collect()
}

fn write_more(dir: &Path) {
    let outside = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    let path = outside.path().join("rows");
    let keyspace = &more_options(Arc::new(Inline)).keyspaces[0];
    let mut file = SortedFileWriter::create(&RealFs, &path, 1 << 60, keyspace).unwrap();
    for (_, key, value) in more_rows() {
        match value {
            Some(value) => file.put(&key, &value).unwrap(),
            None => file.delete(&key).unwrap(),
        }
    }
    file.finish().unwrap();
    let history = more_history();
    let (in_tables, in_log) = history.split_at(MORE_BATCHES.0);
    let engine = Engine::open(Arc::new(RealFs), dir, more_options(Arc::new(Inline))).unwrap();
    for changes in in_tables {
        engine.write(batch(&engine, changes), Durability::Flush).unwrap();
    }
    engine.ingest(engine.keyspace("a").unwrap(), &[path], |_| ()).unwrap();
    engine.close().unwrap();
    // Nobody flushes, so memtables and their segments wait.
    let engine = Engine::open(Arc::new(RealFs), dir, more_options(Arc::new(NoThreads))).unwrap();
    for changes in in_log {
        engine.write(batch(&engine, changes), Durability::Flush).unwrap();
    }
    assert!(engine.stats().frozen_memtables > 0);
    drop(engine);
    fs::remove_file(dir.join("LOCK")).unwrap();
}

#[test]
fn a_store_with_ingested_tables_and_unsynced_segments_is_read() {
    let golden = directory(MORE);
    if std::env::var_os("ALLIDB_WRITE_GOLDEN").is_some() && !golden.exists() {
        write_more(&golden);
    }
    let copy = tempfile::tempdir().unwrap();
    let mut logs = 0;
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        logs += usize::from(path.extension().is_some_and(|extension| extension == "log"));
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(logs > 1, "{logs} segments");
    let mut model = Model::new();
    for (index, changes) in more_history().iter().enumerate() {
        apply(&mut model, changes);
        if index + 1 == MORE_BATCHES.0 {
            apply(&mut model, &more_rows().collect::<Vec<_>>());
        }
    }
    let engine = Engine::open(Arc::new(RealFs), copy.path(), more_options(Arc::new(Inline))).unwrap();
    assert_eq!(engine.recovery().batches, MORE_BATCHES.1 as u64);
    assert_eq!(engine.recovery().truncated, None);
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    assert_whole(&engine);
}
