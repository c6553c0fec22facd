//! What a store should hold, and a small store to compare it with.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use allidb_storage::fs::SimFs;
use allidb_storage::{
    Compression, Direction, Engine, Error, Inline, Keyspace, KeyspaceOptions, Options, ScrubOptions,
    Snapshot, WriteBatch,
};

/// The directory of simulated stores.
pub(crate) const DIR: &str = "/store";

/// The keyspaces of all tests.
pub(crate) const KEYSPACES: [&str; 2] = ["a", "b"];

/// By keyspace and key.
pub(crate) type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

/// A change: keyspace, key, value or deletion.
pub(crate) type Change = (usize, Vec<u8>, Option<Vec<u8>>);

/// A change of one key or of a range of them.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Change(Change),
    /// Keyspace, lower end, upper end.
    DeleteRange(usize, Vec<u8>, Option<Vec<u8>>),
}

impl From<Change> for Edit {
    fn from(change: Change) -> Edit {
        Edit::Change(change)
    }
}

/// Limits so small that a few batches reach every level, everything in the caller's thread.
pub(crate) fn tiny() -> Options {
    let mut with_filter = KeyspaceOptions::new("a");
    with_filter.block_bytes = 128;
    with_filter.separation_bytes = 40;
    with_filter.blob_block_bytes = 150;
    with_filter.index_partition_bytes = 150;
    with_filter.compression = vec![Compression::Lz4, Compression::Zstd(1)];
    let mut without = KeyspaceOptions::new("b");
    without.block_bytes = 256;
    without.compression = vec![Compression::None];
    without.index_partition_bytes = 60;
    without.filter_bits_per_key = 0;
    without.separation_bytes = 0;
    Options {
        keyspaces: vec![with_filter, without],
        memtable_bytes: 4 << 10,
        memory_bytes: 24 << 10,
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

/// Opens the simulated store, with as much memory as its memtables need.
pub(crate) fn open(fs: &SimFs, options: Options) -> Result<Engine, Error> {
    let memory_bytes = options.memory_bytes.max(options.least_memory_bytes());
    let options = Options { memory_bytes, ..options };
    Engine::open(Arc::new(fs.clone()), Path::new(DIR), options)
}

/// The handle of a keyspace.
pub(crate) fn keyspace(engine: &Engine, index: usize) -> Keyspace {
    engine.keyspace(KEYSPACES[index]).expect("declared")
}

/// A batch of these changes.
pub(crate) fn batch<E: Clone + Into<Edit>>(engine: &Engine, edits: &[E]) -> WriteBatch {
    let mut batch = WriteBatch::with_capacity(edits.len());
    for edit in edits {
        match edit.clone().into() {
            Edit::Change((index, key, Some(value))) => batch.put(keyspace(engine, index), key, value),
            Edit::Change((index, key, None)) => batch.delete(keyspace(engine, index), key),
            Edit::DeleteRange(index, lower, upper) => {
                batch.delete_range(keyspace(engine, index), lower, upper.map(Into::into));
            }
        }
    }
    batch
}

/// A batch that sets one key of the first keyspace.
pub(crate) fn put(engine: &Engine, key: &str, value: &[u8]) -> WriteBatch {
    batch(engine, &[(0, key.as_bytes().to_vec(), Some(value.to_vec()))])
}

/// Keys and values in the order of a scan.
pub(crate) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Applies changes to the model.
pub(crate) fn apply<E: Clone + Into<Edit>>(model: &mut Model, edits: &[E]) {
    for edit in edits {
        match edit.clone().into() {
            Edit::Change((index, key, Some(value))) => {
                model.insert((index, key), value);
            }
            Edit::Change((index, key, None)) => {
                model.remove(&(index, key));
            }
            Edit::DeleteRange(index, lower, upper) => model.retain(|(of, key), _| {
                *of != index || *key < lower || upper.as_ref().is_some_and(|upper| key >= upper)
            }),
        }
    }
}

/// Everything a snapshot sees, read forward, in reverse and key by key, which must agree.
pub(crate) fn contents(engine: &Engine, snapshot: &Snapshot) -> Result<Model, Error> {
    let mut model = Model::new();
    for index in 0..KEYSPACES.len() {
        let handle = keyspace(engine, index);
        let scan = |direction| -> Result<Rows, Error> {
            snapshot
                .scan(handle, Bound::Unbounded, Bound::Unbounded, direction)?
                .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        };
        let forward = scan(Direction::Forward)?;
        let mut reverse = scan(Direction::Reverse)?;
        reverse.reverse();
        assert_eq!(forward, reverse, "the directions disagree");
        for (key, value) in forward {
            assert_eq!(
                snapshot.get(handle, &key)?.as_deref(),
                Some(value.as_slice()),
                "get and scan disagree"
            );
            model.insert((index, key), value);
        }
    }
    Ok(model)
}

/// Nothing on disk is damaged.
pub(crate) fn assert_whole(engine: &Engine) {
    let report = engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.damages, []);
    assert!(!report.cancelled);
    assert_eq!(engine.stats().damages, []);
}

/// A generator of test data: splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A batch over few keys, so that they have many versions.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        let count = 1 + self.below(4);
        (0..count)
            .map(|_| {
                let key = format!("key{:02}", self.below(40)).into_bytes();
                let value = (self.below(4) > 0).then(|| vec![self.next() as u8; 1 + self.below(60) as usize]);
                (self.below(2) as usize, key, value)
            })
            .collect()
    }

    /// As [`changes`](Random::changes), and now and then a range is deleted in between.
    pub(crate) fn edits(&mut self) -> Vec<Edit> {
        let mut edits: Vec<Edit> = self.changes().into_iter().map(Edit::from).collect();
        if self.below(5) == 0 {
            let lower = self.below(40);
            let upper = (self.below(6) > 0).then(|| lower + 1 + self.below(12));
            let key = |number| format!("key{number:02}").into_bytes();
            let at = self.below(edits.len() as u64 + 1) as usize;
            edits.insert(at, Edit::DeleteRange(self.below(2) as usize, key(lower), upper.map(key)));
        }
        edits
    }
}

/// How many times as many seeds as usual the random tests try.
pub(crate) fn effort() -> u64 {
    std::env::var("ALLIDB_SIM_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(1)
}
