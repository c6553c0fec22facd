//! Stores that come back with other options each time.

use std::ops::Bound;
use std::sync::Arc;

use allidb_storage::{Compression, Direction, Engine, Error, KeyspaceOptions, Options, Snapshot, Threads};

use crate::model::{Model, Random, Rows, tiny};

/// The keyspaces there may be; the first two are always declared.
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Options that have only their small sizes in common.
pub(crate) fn options(random: &mut Random, threads: bool) -> Options {
    let mut keyspaces = Vec::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        if index >= 2 && random.below(2) == 0 {
            continue;
        }
        let compression = |random: &mut Random| match random.below(3) {
            0 => Compression::None,
            1 => Compression::Lz4,
            _ => Compression::Zstd(random.below(5) as i8 - 2),
        };
        keyspaces.push(KeyspaceOptions {
            block_bytes: 64 + random.below(600) as usize,
            separation_bytes: [0, 0, 20, 100][random.below(4) as usize],
            index_partition_bytes: [0, 60, 200, usize::MAX][random.below(4) as usize],
            filter_bits_per_key: random.below(12) as u8,
            compression: (0..1 + random.below(3)).map(|_| compression(random)).collect(),
            ..KeyspaceOptions::new(name)
        });
    }
    // Ids come from the disk, not from the order here.
    let turn = random.below(keyspaces.len() as u64) as usize;
    keyspaces.rotate_left(turn);
    let sane = Options {
        keyspaces,
        memtable_bytes: 500 + random.below(6000) as usize,
        frozen_memtables: 1 + random.below(4) as usize,
        wal_segment_bytes: 300 + random.below(4000),
        table_bytes: 300 + random.below(3000),
        blob_file_bytes: 300 + random.below(3000),
        blob_garbage_percent: random.below(101) as u8,
        level0_files: 1 + random.below(5) as usize,
        level_base_bytes: 500 + random.below(6000),
        level_multiplier: 2 + random.below(4),
        compaction_threads: 1 + random.below(3) as usize,
        ..tiny()
    };
    if threads { Options { background: Arc::new(Threads), ..sane } } else { sane }
}

/// Which keyspaces are declared.
pub(crate) fn indexes(engine: &Engine) -> Vec<usize> {
    (0..NAMES.len()).filter(|&index| engine.keyspace(NAMES[index]).is_some()).collect()
}

/// What is read of the declared keyspaces, in both directions and key by key.
pub(crate) fn contents(engine: &Engine, snapshot: &Snapshot) -> Result<Model, Error> {
    let mut model = Model::new();
    for index in indexes(engine) {
        let handle = engine.keyspace(NAMES[index]).unwrap();
        let scan = |direction| -> Result<Rows, Error> {
            snapshot
                .scan(handle, Bound::Unbounded, Bound::Unbounded, direction)?
                .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        };
        let mut reverse = scan(Direction::Reverse)?;
        reverse.reverse();
        assert_eq!(scan(Direction::Forward)?, reverse, "the directions disagree");
        for (key, value) in reverse {
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

/// The part of a model that is in declared keyspaces.
pub(crate) fn declared(engine: &Engine, model: &Model) -> Model {
    let indexes = indexes(engine);
    model.iter().filter(|((of, _), _)| indexes.contains(of)).map(|(k, v)| (k.clone(), v.clone())).collect()
}
