//! Whole stores with one file changed: opened, read in every way, written to, compacted and opened again.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::mutation::Mutation;
use super::{ZSTD_BYTES, rounds, tables, wal, within};
use crate::blob::BlobWriter;
use crate::files::{self, Name};
use crate::fs::{Fault, Fs, Operation, SimFs};
use crate::manifest::{MANIFEST_FORMAT, Manifest};
use crate::{
    Compression, Direction, Durability, Engine, Error, Inline, Keyspace, KeyspaceOptions, Options,
    ScrubOptions, WriteBatch,
};

const DIR: &str = "/store";
const KEYSPACES: [&str; 2] = ["a", "b"];

/// Caches, buffers and tables of a store that has some 30 KiB on disk.
const STORE_BYTES: u64 = 24 << 20;

fn options() -> Options {
    let mut first = KeyspaceOptions::new("a");
    first.block_bytes = 128;
    first.separation_bytes = 40;
    first.index_partition_bytes = 150;
    first.compression = vec![Compression::Lz4, Compression::Zstd(1)];
    let mut second = KeyspaceOptions::new("b");
    second.block_bytes = 256;
    second.compression = vec![Compression::None];
    second.separation_bytes = 0;
    Options {
        keyspaces: vec![first, second],
        memtable_bytes: 4 << 10,
        wal_segment_bytes: 2 << 10,
        table_bytes: 1 << 10,
        blob_file_bytes: 1 << 10,
        level0_files: 2,
        level_base_bytes: 2 << 10,
        level_multiplier: 3,
        min_free_bytes: 0,
        background: Arc::new(Inline),
        ..Options::default()
    }
}

pub(super) fn open(fs: &SimFs) -> Result<Engine, Error> {
    Engine::open(Arc::new(fs.clone()), Path::new(DIR), options())
}

fn change(engine: &Engine, mutation: &mut Mutation) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..1 + mutation.below(4) {
        let keyspace = engine.keyspace(KEYSPACES[mutation.below(2)]).unwrap();
        let key = format!("key{:02}", mutation.below(40));
        match mutation.below(12) {
            0 => batch.delete_range(keyspace, key, Some("key99".into())),
            1 | 2 => batch.delete(keyspace, key),
            _ => batch.put(keyspace, key, vec![mutation.next() as u8; mutation.below(90)]),
        }
    }
    batch
}

/// A sound store to start from.
pub(super) struct Base {
    pub(super) fs: SimFs,
}

impl Base {
    /// Everything a store can hold: tables of all layouts and compressions on several levels, blob files, range
    /// tombstones and several log segments.
    pub(super) fn small() -> Base {
        let fs = SimFs::new();
        let engine = open(&fs).unwrap();
        let mut mutation = Mutation::new(1);
        let mut snapshots = Vec::new();
        for turn in 0..90 {
            engine.write(change(&engine, &mut mutation), Durability::Sync).unwrap();
            if turn % 30 == 20 {
                snapshots.push(engine.snapshot());
            }
        }
        fs.inject(Fault { times: u64::MAX, ..Fault::once(Operation::Create).on(".table") });
        for turn in 0..40 {
            let durability = if turn % 8 == 7 { Durability::Sync } else { Durability::Flush };
            // Refused once too many memtables wait for the flush.
            if engine.write(change(&engine, &mut mutation), durability).is_err() {
                break;
            }
        }
        let stats = engine.stats();
        assert!(stats.blob_files > 1 && stats.frozen_memtables > 1, "{stats:?}");
        assert!(stats.keyspaces.iter().any(|keyspace| keyspace.range_tombstones > 0), "{stats:?}");
        drop((engine, snapshots));
        fs.heal();
        Base { fs }
    }

    /// One that an earlier release wrote.
    fn golden(version: &str) -> Base {
        let fs = SimFs::new();
        fs.create_dir_all(Path::new(DIR)).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
        for entry in std::fs::read_dir(golden).unwrap() {
            let path = entry.unwrap().path();
            let file = fs.create(&Path::new(DIR).join(path.file_name().unwrap())).unwrap();
            file.write_all_at(0, &std::fs::read(path).unwrap()).unwrap();
        }
        Base { fs }
    }

    pub(super) fn manifest(&self) -> Manifest {
        Manifest::read(&self.fs, Path::new(DIR)).unwrap().unwrap()
    }
}

pub(super) fn read(fs: &SimFs, path: &Path) -> Vec<u8> {
    fs.open(path).unwrap().read_all().unwrap()
}

fn replace(fs: &SimFs, path: &Path, bytes: &[u8]) {
    let file = fs.open(path).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(0, bytes).unwrap();
}

fn write_manifest(fs: &SimFs, manifest: &Manifest) {
    manifest.write(fs, Path::new(DIR)).unwrap();
}

/// Lets the manifest say what the files are now.
fn agree(fs: &SimFs, manifest: &mut Manifest) {
    let dir = Path::new(DIR);
    for record in &mut manifest.tables {
        let bytes = read(fs, &files::table(dir, record.number));
        (record.bytes, record.checksum) = (bytes.len() as u64, xxh3_64(&bytes));
    }
    for record in &mut manifest.blobs {
        let bytes = read(fs, &files::blob(dir, record.number));
        (record.bytes, record.checksum) = (bytes.len() as u64, xxh3_64(&bytes));
    }
    write_manifest(fs, manifest);
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads a keyspace forward, in reverse and key by key.
fn read_all(engine: &Engine, keyspace: Keyspace) -> [Result<Rows, Error>; 3] {
    let snapshot = engine.snapshot();
    let scan = |direction| {
        let rows = snapshot.scan(keyspace, Bound::Unbounded, Bound::Unbounded, direction)?;
        rows.enumerate()
            .map(|(at, row)| {
                assert!(at < 100_000, "a scan does not end");
                row.map(|(key, value)| (key.to_vec(), value.to_vec()))
            })
            .collect::<Result<Rows, Error>>()
    };
    let gets = || {
        let mut rows = Rows::new();
        for key in (0..45).map(|number| format!("key{number:02}").into_bytes()) {
            if let Some(value) = snapshot.get(keyspace, &key)? {
                rows.insert(key, value.to_vec());
            }
        }
        Ok(rows)
    };
    let [forward, reverse, gets] = [scan(Direction::Forward), scan(Direction::Reverse), gets()];
    [forward, reverse, gets]
}

/// Damage may show, but only as what it is.
fn expect_damage<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(result) => Some(result),
        Err(Error::Corruption { .. } | Error::NewerFormat { .. } | Error::Poisoned { .. }) => None,
        Err(error) => panic!("damage is shown as: {error:?}"),
    }
}

/// Uses a store in every way. If it is `sound`, whatever is read has to agree. False if it does not open.
pub(super) fn exercise(fs: &SimFs, sound: bool) -> bool {
    let Some(engine) = expect_damage(open(fs)) else { return false };
    let handles = KEYSPACES.map(|name| engine.keyspace(name).unwrap());
    let mut before = Vec::new();
    for handle in handles {
        let [forward, reverse, gets] = read_all(&engine, handle).map(expect_damage);
        if sound {
            assert!(forward.is_some() && forward == reverse, "the directions disagree");
            let known: Rows =
                forward.iter().flatten().filter(|(key, _)| is_asked_for(key)).map(owned).collect();
            assert_eq!(Some(&known), gets.as_ref(), "get and scan disagree");
        }
        before.push(forward);
    }
    expect_damage(engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())));
    let mut batch = WriteBatch::new();
    batch.put(handles[0], "zz", vec![9; 200]);
    batch.delete_range(handles[1], "zz", None);
    let written = expect_damage(engine.write(batch, Durability::Sync)).is_some();
    let flushed = expect_damage(engine.flush()).is_some();
    for handle in handles {
        expect_damage(engine.compact(handle));
    }
    match engine.checkpoint(Path::new("/checkpoint")) {
        // A file that the manifest names and that is not there.
        Err(Error::Io { op: "link", .. }) => {}
        made => drop(expect_damage(made)),
    }
    let _stats = engine.stats();
    let healthy = engine.stats().poisoned.is_none();
    let closed = expect_damage(engine.close()).is_some();
    if !(written && flushed && healthy && closed) {
        return true;
    }
    let engine = open(fs).expect("a store that was opened, written to and closed opens again");
    let kept = expect_damage(engine.get(handles[0], b"zz"));
    assert!(!sound || kept.flatten().is_some_and(|value| value.len() == 200), "a write is lost");
    for (handle, before) in handles.into_iter().zip(before) {
        let [forward, reverse, _] = read_all(&engine, handle).map(expect_damage);
        if sound {
            let mut forward = forward.unwrap();
            assert!(Some(&forward) == reverse.as_ref(), "the directions disagree after a compaction");
            let mut before = before.unwrap();
            // The range delete.
            for rows in [&mut forward, &mut before] {
                rows.retain(|key, _| key.as_slice() < &b"zz"[..]);
            }
            assert_eq!(forward, before, "a compaction changed what is read");
        }
    }
    true
}

fn is_asked_for(key: &[u8]) -> bool {
    (0..45).any(|number| format!("key{number:02}").as_bytes() == key)
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

fn bases() -> Vec<Base> {
    vec![Base::small(), Base::golden("v1"), Base::golden("v2")]
}

/// Changes a copy of a store and exercises it within bounds.
fn fuzz(name: &str, count: u64, sound: bool, change: impl Fn(&mut Mutation, &SimFs, Manifest)) {
    let bases = bases();
    for base in &bases {
        assert!(exercise(&base.fs.fork(), true), "a store without damage");
    }
    let mut opened = 0;
    rounds(name, count, |mutation| {
        let base = mutation.pick(&bases);
        let fs = base.fs.fork();
        change(mutation, &fs, base.manifest());
        within(STORE_BYTES + ZSTD_BYTES, || opened += u64::from(exercise(&fs, sound)));
    });
    assert!(opened > 0, "no store gets past the first check");
}

/// The files of a kind.
fn paths(fs: &SimFs, is_wanted: impl Fn(Name) -> bool) -> Vec<PathBuf> {
    let paths = fs.files().into_iter().map(|(path, _)| path);
    paths.filter(|path| is_wanted(files::parse(path.file_name().unwrap().to_str().unwrap()))).collect()
}

#[test]
fn any_file_damaged_without_a_right_checksum() {
    fuzz("any file", 1_500, false, |mutation, fs, _| {
        let all = paths(fs, |name| !matches!(name, Name::Lock | Name::Foreign));
        let path = mutation.pick(&all).clone();
        let before = read(fs, &path);
        let mut bytes = before.clone();
        mutation.bytes(&mut bytes);
        replace(fs, &path, &bytes);
    });
}

#[test]
fn tables_behind_right_checksums() {
    fuzz("tables", 4_000, false, |mutation, fs, mut manifest| {
        let number = mutation.pick(&manifest.tables).number;
        let path = files::table(Path::new(DIR), number);
        let file = read(fs, &path);
        if crate::table::footer::Footer::decode_any(&file[file.len() - 64..]).is_ok() {
            replace(fs, &path, &tables::change(mutation, &file));
        } else {
            // Format 1 does not name its id, which all its checksums need.
            let mut bytes = file;
            mutation.bytes(&mut bytes);
            replace(fs, &path, &bytes);
        }
        agree(fs, &mut manifest);
    });
}

#[test]
fn log_segments_behind_right_checksums() {
    // Whatever is in the log is taken for what somebody wrote, so it has to be sound.
    fuzz("log segments", 3_000, true, |mutation, fs, _| {
        let mut logs = paths(fs, |name| matches!(name, Name::Log(_)));
        logs.sort();
        let at = mutation.below(logs.len());
        let changed = wal::change(mutation, &read(fs, &logs[at]));
        if let Some(next) = logs.get(at + 1)
            && !mutation.once_in(4)
        {
            let next_bytes = read(fs, next);
            replace(fs, next, &wal::follow(&next_bytes, changed.len() as u64));
        }
        replace(fs, &logs[at], &changed);
        if mutation.once_in(20) {
            let lost = mutation.pick(&logs).clone();
            fs.remove(&lost).unwrap();
        }
    });
}

fn change_manifest(mutation: &mut Mutation, manifest: &mut Manifest) {
    mutation.maybe(&mut manifest.last_sequence, 8);
    mutation.maybe(&mut manifest.log, 12);
    mutation.maybe(&mut manifest.next_file, 8);
    match mutation.below(8) {
        0 => mutation.parts(&mut manifest.tables),
        1 => mutation.parts(&mut manifest.blobs),
        2 => mutation.parts(&mut manifest.range_tombstones),
        3 => mutation.parts(&mut manifest.keyspaces),
        _ => {}
    }
    let first = mutation.below(manifest.tables.len());
    for table in manifest.tables.iter_mut().skip(first).take(1 + mutation.below(3)) {
        for number in [
            &mut table.number,
            &mut table.smallest_sequence,
            &mut table.largest_sequence,
            &mut table.entries,
            &mut table.tombstones,
            &mut table.id,
            &mut table.global_sequence,
            &mut table.cleaned,
            &mut table.bytes,
        ] {
            mutation.maybe(number, 12);
        }
        if mutation.once_in(6) {
            table.level = mutation.number(u64::from(table.level)) as u32;
        }
        if mutation.once_in(12) {
            table.keyspace = mutation.number(u64::from(table.keyspace)) as u32;
        }
        if mutation.once_in(8) {
            std::mem::swap(&mut table.smallest, &mut table.largest);
        }
    }
    let at = mutation.below(manifest.blobs.len());
    if let Some(blob) = manifest.blobs.get_mut(at) {
        for number in [&mut blob.number, &mut blob.bytes, &mut blob.blobs, &mut blob.value_bytes] {
            mutation.maybe(number, 8);
        }
    }
    let at = mutation.below(manifest.range_tombstones.len());
    if let Some(range) = manifest.range_tombstones.get_mut(at) {
        mutation.maybe(&mut range.sequence, 6);
    }
}

#[test]
fn manifests_behind_right_checksums() {
    fuzz("manifests", 4_000, false, |mutation, fs, mut manifest| {
        if mutation.once_in(3) {
            let mut body = manifest.encode_to_vec();
            mutation.bytes(&mut body);
            let mut bytes = b"ALLIMAN\n".to_vec();
            let mut checked = crc32fast::Hasher::new();
            checked.update(&MANIFEST_FORMAT.to_le_bytes());
            checked.update(&body);
            for field in [MANIFEST_FORMAT, body.len() as u32, checked.finalize()] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            replace(fs, &Path::new(DIR).join(files::MANIFEST), &[bytes, body].concat());
        } else {
            change_manifest(mutation, &mut manifest);
            write_manifest(fs, &manifest);
        }
    });
}

#[test]
fn blob_files_behind_right_checksums() {
    fuzz("blob files", 2_000, false, |mutation, fs, mut manifest| {
        if manifest.blobs.is_empty() {
            return;
        }
        let record = *mutation.pick(&manifest.blobs);
        let path = files::blob(Path::new(DIR), record.number);
        if mutation.once_in(2) {
            let mut bytes = read(fs, &path);
            mutation.bytes(&mut bytes);
            replace(fs, &path, &bytes);
        } else {
            // A sound file, with other values than those that are referred to.
            let compression = *mutation.pick(&[Compression::None, Compression::Lz4, Compression::Zstd(1)]);
            let keyspace = Keyspace(mutation.below(3) as u16);
            let options = KeyspaceOptions { compression: vec![compression], ..KeyspaceOptions::new("") };
            fs.remove(&path).unwrap();
            let mut writer =
                BlobWriter::create(fs, Path::new(DIR), record.number, keyspace, &options, 1).unwrap();
            for _ in 0..mutation.below(30) {
                let value = vec![mutation.next() as u8; mutation.below(120)];
                writer.add(&value).unwrap();
            }
            writer.finish().unwrap();
        }
        agree(fs, &mut manifest);
    });
}
