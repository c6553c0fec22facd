//! Random histories against a map: writes, ingested files, flushes, compactions, snapshots, checkpoints, and reopening with
//! other options, in any order. The one in which everything fails is `adversity`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allidb_storage::fs::{Fs, SimFs};
use allidb_storage::{
    Compression, Direction, Durability, Engine, KeyspaceOptions, Options, Snapshot, SortedFileWriter,
};
use proptest::prelude::*;

use crate::model::{
    Change, Edit, Model, Rows, apply, assert_whole, batch, contents, effort, keyspace, open, tiny,
};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Edit>, Durability),
    Flush,
    Compact(usize),
    WaitIdle,
    /// With or without a flush before.
    Reopen(bool, Box<Options>),
    /// Sorted rows, `None` deletes, in so many files.
    Ingest(usize, BTreeMap<Vec<u8>, Option<Vec<u8>>>, usize),
    /// Opened and compared at once, and at the end.
    Checkpoint,
    Snapshot,
    DropSnapshot(prop::sample::Index),
    Get(usize, Vec<u8>),
    Scan {
        keyspace: usize,
        lower: Bound<Vec<u8>>,
        upper: Bound<Vec<u8>>,
        at: prop::sample::Index,
        reverse: bool,
    },
    Prefix {
        keyspace: usize,
        prefix: Vec<u8>,
        at: prop::sample::Index,
        reverse: bool,
    },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(0u8..4, 0..4),
        1 => prop::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..4),
        1 => Just(vec![7; 300]),
    ]
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![
        1 => Just(None),
        3 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Some),
        1 => (any::<u8>(), 0usize..600).prop_map(|(byte, len)| Some(vec![byte; len])),
    ];
    (0usize..2, key(), value)
}

fn edit() -> impl Strategy<Value = Edit> {
    let range = (0usize..2, key(), prop::option::weighted(0.9, key()));
    prop_oneof![
        15 => change().prop_map(Edit::from),
        1 => range.prop_map(|(keyspace, lower, upper)| Edit::DeleteRange(keyspace, lower, upper)),
    ]
}

fn rows() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..80));
    prop::collection::btree_map(key(), value, 1..20)
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![Just(Durability::None), Just(Durability::Flush), Just(Durability::Sync)];
    prop_oneof![
        20 => (prop::collection::vec(edit(), 0..8), durability).prop_map(|(c, d)| Step::Write(c, d)),
        2 => Just(Step::Flush),
        1 => (0usize..2).prop_map(Step::Compact),
        1 => Just(Step::WaitIdle),
        2 => (any::<bool>(), options()).prop_map(|(flush, options)| Step::Reopen(flush, Box::new(options))),
        2 => (0usize..2, rows(), 1usize..4).prop_map(|(keyspace, rows, files)| Step::Ingest(keyspace, rows, files)),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Snapshot),
        1 => any::<prop::sample::Index>().prop_map(Step::DropSnapshot),
        4 => (0usize..2, key()).prop_map(|(k, key)| Step::Get(k, key)),
        4 => (0usize..2, bound(), bound(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
            |(keyspace, lower, upper, at, reverse)| Step::Scan { keyspace, lower, upper, at, reverse }
        ),
        2 => (0usize..2, key(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
            |(keyspace, prefix, at, reverse)| Step::Prefix { keyspace, prefix, at, reverse }
        ),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let compression =
        prop_oneof![Just(Compression::None), Just(Compression::Lz4), (-3i8..4).prop_map(Compression::Zstd)];
    let sizes = (64usize..2000, 256u64..4000, 256u64..4000, 1usize..5, 500usize..8000, 0usize..600);
    let blobs = (0usize..100, 256u64..4000, 0u8..=100, 0usize..1000);
    (sizes, prop::collection::vec(compression, 1..4), 0u8..12, blobs).prop_map(
        |((block, segment, table, level0, memtable, partition), compression, filter, blobs)| {
            let mut options = tiny();
            options.memtable_bytes = memtable;
            options.wal_segment_bytes = segment;
            options.table_bytes = table;
            options.level0_files = level0;
            options.keyspaces[0].block_bytes = block;
            options.keyspaces[0].filter_bits_per_key = filter;
            options.keyspaces[0].compression = compression;
            options.keyspaces[0].index_partition_bytes = partition;
            (
                options.keyspaces[0].separation_bytes,
                options.blob_file_bytes,
                options.blob_garbage_percent,
                options.keyspaces[0].blob_block_bytes,
            ) = blobs;
            options
        },
    )
}

fn direction(reverse: bool) -> Direction {
    if reverse { Direction::Reverse } else { Direction::Forward }
}

fn inside(key: &[u8], lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> bool {
    let above = match lower {
        Bound::Included(bound) => key >= bound.as_slice(),
        Bound::Excluded(bound) => key > bound.as_slice(),
        Bound::Unbounded => true,
    };
    above
        && match upper {
            Bound::Included(bound) => key <= bound.as_slice(),
            Bound::Excluded(bound) => key < bound.as_slice(),
            Bound::Unbounded => true,
        }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn expected(model: &Model, keyspace: usize, reverse: bool, inside: impl Fn(&[u8]) -> bool) -> Rows {
    let mut rows: Rows = model
        .iter()
        .filter(|((of, key), _)| *of == keyspace && inside(key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    if reverse {
        rows.reverse();
    }
    rows
}

struct Run {
    fs: SimFs,
    options: Options,
    engine: Engine,
    model: Model,
    sequence: u64,
    snapshots: Vec<(Snapshot, Model)>,
    checkpoints: Vec<(PathBuf, Model)>,
    files: u64,
}

impl Run {
    /// A point in time to read at: one of the snapshots or now.
    fn at(&self, index: prop::sample::Index) -> (Snapshot, Model) {
        let index = index.index(self.snapshots.len() + 1);
        match self.snapshots.get(index) {
            Some((snapshot, model)) => (snapshot.clone(), model.clone()),
            None => (self.engine.snapshot(), self.model.clone()),
        }
    }

    fn ingest(&mut self, index: usize, rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>, files: usize) {
        let rows: Vec<_> = rows.into_iter().collect();
        let (mut paths, mut edits) = (Vec::new(), Vec::new());
        for part in rows.chunks(rows.len().div_ceil(files)) {
            self.files += 1;
            let path = PathBuf::from(format!("/outside{}", self.files));
            let options = KeyspaceOptions {
                block_bytes: self.options.keyspaces[0].block_bytes,
                index_partition_bytes: self.options.keyspaces[0].index_partition_bytes,
                compression: self.options.keyspaces[0].compression.clone(),
                ..KeyspaceOptions::new("")
            };
            let mut writer =
                SortedFileWriter::create(&self.fs, &path, 1 << 60 | self.files, &options).unwrap();
            for (key, value) in part {
                match value {
                    Some(value) => writer.put(key, value).unwrap(),
                    None => writer.delete(key).unwrap(),
                }
                edits.push((index, key.clone(), value.clone()));
            }
            writer.finish().unwrap();
            paths.push(path);
        }
        let sequence = self.engine.ingest(keyspace(&self.engine, index), &paths, |_| {}).unwrap();
        self.sequence += 1;
        assert_eq!(sequence, self.sequence);
        apply(&mut self.model, &edits);
        paths.iter().for_each(|path| self.fs.remove(path).unwrap());
    }

    fn check_checkpoint(&self, dir: &Path, model: &Model) {
        let engine = Engine::open(Arc::new(self.fs.clone()), dir, tiny()).unwrap();
        assert_eq!(&contents(&engine, &engine.snapshot()).unwrap(), model, "a checkpoint is another store");
        assert_whole(&engine);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(changes, durability) => {
                let sequence = self.engine.write(batch(&self.engine, &changes), durability).unwrap();
                self.sequence += 1;
                assert_eq!(sequence, self.sequence);
                apply(&mut self.model, &changes);
            }
            Step::Flush => self.engine.flush().unwrap(),
            Step::Compact(index) => self.engine.compact(keyspace(&self.engine, index)).unwrap(),
            Step::WaitIdle => self.engine.wait_idle().unwrap(),
            Step::Reopen(flush, options) => {
                self.snapshots.clear();
                self.options = *options;
                let engine = self.engine.clone();
                if flush {
                    engine.close().unwrap();
                } else {
                    drop(engine);
                }
                // The only other handle must go before the store can be opened again.
                let placeholder = open(&SimFs::new(), tiny()).unwrap();
                drop(std::mem::replace(&mut self.engine, placeholder));
                self.engine = open(&self.fs, self.options.clone()).unwrap();
                assert_eq!(self.engine.recovery().last_sequence, self.sequence);
                assert_eq!(self.engine.recovery().truncated, None);
            }
            Step::Ingest(index, rows, files) => self.ingest(index, rows, files),
            Step::Checkpoint => {
                let dir = PathBuf::from(format!("/checkpoint{}", self.checkpoints.len()));
                let made = self.engine.checkpoint(&dir).unwrap();
                assert_eq!(made.sequence, self.sequence);
                self.check_checkpoint(&dir, &self.model);
                self.checkpoints.push((dir, self.model.clone()));
            }
            Step::Snapshot => {
                if self.snapshots.len() < 5 {
                    self.snapshots.push((self.engine.snapshot(), self.model.clone()));
                }
            }
            Step::DropSnapshot(index) => {
                if !self.snapshots.is_empty() {
                    self.snapshots.swap_remove(index.index(self.snapshots.len()));
                }
            }
            Step::Get(index, key) => {
                let value = self.engine.get(keyspace(&self.engine, index), &key).unwrap();
                assert_eq!(value.map(|value| value.to_vec()), self.model.get(&(index, key)).cloned());
            }
            Step::Scan { keyspace: index, lower, upper, at, reverse } => {
                let (snapshot, model) = self.at(at);
                let scan = snapshot
                    .scan(
                        keyspace(&self.engine, index),
                        as_slice(&lower),
                        as_slice(&upper),
                        direction(reverse),
                    )
                    .unwrap();
                let rows: Rows =
                    scan.map(|row| row.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                assert_eq!(rows, expected(&model, index, reverse, |key| inside(key, &lower, &upper)));
            }
            Step::Prefix { keyspace: index, prefix, at, reverse } => {
                let (snapshot, model) = self.at(at);
                let scan =
                    snapshot.prefix(keyspace(&self.engine, index), &prefix, direction(reverse)).unwrap();
                let rows: Rows =
                    scan.map(|row| row.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                assert_eq!(rows, expected(&model, index, reverse, |key| key.starts_with(&prefix)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400 * effort() as u32, ..ProptestConfig::default() })]

    #[test]
    fn every_history_agrees_with_a_map(options in options(), steps in prop::collection::vec(step(), 1..150)) {
        let fs = SimFs::new();
        let engine = open(&fs, options.clone()).unwrap();
        let mut run = Run { fs, options, engine, model: Model::new(), sequence: 0, snapshots: Vec::new(), checkpoints: Vec::new(), files: 0 };
        for step in steps {
            run.step(step);
        }
        for (snapshot, model) in &run.snapshots {
            prop_assert_eq!(&contents(&run.engine, snapshot).unwrap(), model);
        }
        prop_assert_eq!(&contents(&run.engine, &run.engine.snapshot()).unwrap(), &run.model);
        assert_whole(&run.engine);
        for (dir, model) in &run.checkpoints {
            run.check_checkpoint(dir, model);
        }
    }
}
