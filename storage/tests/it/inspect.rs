//! Descriptions of single files.

use std::fs;
use std::path::{Path, PathBuf};

use allidb_storage::Error;
use allidb_storage::fs::{Fs, RealFs, SimFs};
use allidb_storage::inspect::{EntryKind, InspectOptions, Inspection, TablePart, inspect};

use crate::damage::store_with_every_kind_of_file;
use crate::model::{Random, contents, effort, open, tiny};

const EVERYTHING: InspectOptions = InspectOptions { entries: true, value_bytes: 4 };

fn golden(version: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn golden_files_are_described_in_full() {
    let (mut entries, mut in_manifest, mut records) = (0, 0, 0);
    for path in golden("v1") {
        let found = inspect(&RealFs, &path, EVERYTHING).unwrap();
        assert_eq!(found.damages(), [], "{}", path.display());
        match found {
            Inspection::Manifest(manifest) => {
                assert_eq!((manifest.format, manifest.last_sequence, manifest.log), (Some(1), 140, 6));
                assert_eq!(manifest.keyspaces, ["a", "b"]);
                assert_eq!(manifest.tables.len(), 4);
                in_manifest = manifest.tables.iter().map(|table| table.entries).sum();
            }
            Inspection::Log(log) => {
                assert_eq!(log.header.unwrap().number, 6);
                assert_eq!((log.records.len(), log.torn_bytes), (10, 0));
                records = log.records.len();
                for (index, record) in log.records.iter().enumerate() {
                    assert_eq!(record.sequence, 141 + index as u64);
                    let changes: u64 = record.changes.iter().map(|change| change.count).sum();
                    assert_eq!(changes, record.entries.len() as u64);
                }
            }
            Inspection::Table(table) => {
                assert_eq!(table.format, Some(1));
                let properties = table.properties.unwrap();
                let rows: Vec<_> = table.blocks.iter().flat_map(|block| &block.entries).collect();
                assert_eq!(rows.len() as u64, properties.entries);
                assert_eq!(rows[0].key, properties.smallest);
                assert_eq!(rows[rows.len() - 1].key, properties.largest);
                let deletes = rows.iter().filter(|row| row.kind == EntryKind::Delete).count() as u64;
                assert_eq!(deletes, properties.tombstones);
                assert!(rows.iter().all(|row| row.value.len() == row.value_len.min(4)));
                entries += properties.entries;
                let filters = table.blocks.iter().filter(|block| block.part == TablePart::Filter).count();
                assert_eq!(filters, usize::from(properties.keyspace == 0));
                let end = table.blocks.last().unwrap();
                assert!(end.offset + end.stored_bytes <= table.bytes);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(entries > 0 && records > 0);
    assert_eq!(entries, in_manifest);
}

#[test]
fn all_that_tables_of_today_s_format_hold_is_described() {
    let (mut separated, mut partitioned) = (0, 0);
    for path in golden("v2") {
        let found = inspect(&RealFs, &path, EVERYTHING).unwrap();
        assert_eq!(found.damages(), [], "{}", path.display());
        match found {
            Inspection::Table(table) => {
                assert_eq!((table.format, table.id), (Some(2), table.number));
                let rows: Vec<_> = table.blocks.iter().flat_map(|block| &block.entries).collect();
                assert_eq!(rows.len() as u64, table.properties.unwrap().entries);
                separated += rows.iter().filter(|row| row.kind == EntryKind::Separated).count();
                let indexes = table.blocks.iter().filter(|block| block.part == TablePart::Index).count();
                partitioned += usize::from(indexes > 1);
            }
            Inspection::Blob(blob) => assert!(blob.blocks.iter().all(|value| value.bytes >= 40)),
            _ => {}
        }
    }
    assert!(separated > 0 && partitioned > 0);
}

#[test]
fn what_is_still_whole_of_a_damaged_file_is_described() {
    for path in golden("v1") {
        let bytes = fs::read(&path).unwrap();
        let whole = inspect(&RealFs, &path, EVERYTHING).unwrap();
        for offset in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[offset] ^= 1 << (offset % 8);
            let (sim, at) = file(&path, &flipped);
            let context = format!("{} at {offset}", path.display());
            let found = inspect(&sim, &at, EVERYTHING).unwrap();
            match (&found, &whole) {
                (Inspection::Manifest(_), Inspection::Manifest(_)) => {
                    assert!(!found.damages().is_empty(), "{context}")
                }
                (Inspection::Log(found), Inspection::Log(whole)) => {
                    assert!(!found.damages.is_empty() || found.torn_bytes > 0, "{context}");
                    // The record itself is lost, and no other.
                    assert!(found.records.len() + 1 >= whole.records.len(), "{context}");
                }
                (Inspection::Table(found), Inspection::Table(whole)) => {
                    assert!(!found.damages.is_empty(), "{context}");
                    assert!(found.damages.iter().all(|damage| damage.offset <= offset as u64), "{context}");
                    let data = |file: &allidb_storage::inspect::TableFile| {
                        file.blocks.iter().filter(|block| block.entry_count > 0).count()
                    };
                    let index = whole.blocks.iter().find(|block| block.part == TablePart::Index).unwrap();
                    let needed = offset as u64 >= whole.bytes - 64
                        || (offset as u64 >= index.offset
                            && offset as u64 <= index.offset + index.stored_bytes + 5);
                    assert!(needed || data(found) + 1 >= data(whole), "{context}");
                }
                _ => panic!("{context}"),
            }
        }
    }
}

/// The file alone on a simulated disk.
fn file(path: &Path, bytes: &[u8]) -> (SimFs, PathBuf) {
    let sim = SimFs::new();
    let dir = Path::new("/somewhere");
    sim.create_dir_all(dir).unwrap();
    let at = dir.join(path.file_name().unwrap());
    sim.create(&at).unwrap().write_all_at(0, bytes).unwrap();
    (sim, at)
}

#[test]
fn garbage_is_described_without_a_panic() {
    for seed in 0..2_000 * effort() {
        let mut random = Random(seed);
        let paths = [golden("v1"), golden("v2")].concat();
        let path = &paths[random.below(paths.len() as u64) as usize];
        let mut bytes = fs::read(path).unwrap();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = random.next() as u8,
                2 => {
                    let end = (at + 1 + random.below(64) as usize).min(bytes.len());
                    bytes[at..end].fill(if random.below(2) == 0 { 0 } else { 0xff });
                }
                _ => {
                    let (from, len) = (random.below(bytes.len() as u64) as usize, random.below(200) as usize);
                    let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let (sim, at) = file(path, &bytes);
        match inspect(&sim, &at, EVERYTHING) {
            Ok(_) | Err(Error::NewerFormat { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

#[test]
fn files_of_other_names_are_refused_and_read_only_ones_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("MANIFEST");
    fs::copy(golden("v1").iter().find(|path| path.ends_with("MANIFEST")).unwrap(), &copy).unwrap();
    let mut permissions = fs::metadata(&copy).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&copy, permissions).unwrap();
    assert_eq!(inspect(&RealFs, &copy, EVERYTHING).unwrap().damages(), []);
    let file = RealFs.open_read(&copy).unwrap();
    assert!(file.write_at(0, b"x").is_err(), "opened for writing");
    for name in ["notes.txt", "LOCK"] {
        fs::write(dir.path().join(name), "").unwrap();
        let refused = inspect(&RealFs, &dir.path().join(name), EVERYTHING);
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    }
    let missing = inspect(&RealFs, &dir.path().join("1.table"), EVERYTHING);
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
}

#[test]
fn every_file_of_a_store_is_described() {
    let (fs, history) = store_with_every_kind_of_file();
    for (path, _) in fs.files() {
        if !path.ends_with("LOCK") {
            let found = inspect(&fs, &path, InspectOptions::default()).unwrap();
            assert_eq!(found.damages(), [], "{}", path.display());
        }
    }
    // And nothing has changed.
    let engine = open(&fs, tiny()).unwrap();
    assert_eq!(&contents(&engine, &engine.snapshot()).unwrap(), history.last().unwrap());
}
