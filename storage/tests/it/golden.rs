//! Files of earlier releases, which are read for ever.
//!
//! Each directory of `tests/golden` holds a store as this engine wrote it when a format was new; the numbers are those of
//! tables' formats, and from `v2` on ranges are deleted. The newest was made by running this test with
//! `ALLIDB_WRITE_GOLDEN=1`, which is for a new format only: an existing directory is never written anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allidb_storage::fs::RealFs;
use allidb_storage::{Compression, Durability, Engine, Inline, KeyspaceOptions, Options};

use crate::model::{Edit, Model, Random, apply, assert_whole, batch, contents};

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
