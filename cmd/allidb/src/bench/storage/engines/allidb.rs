//! Our own engine.

use std::{ops::Bound, path::Path, sync::Arc, time::Instant};

use allidb_storage::{Direction, Engine, Keyspace, KeyspaceOptions, Options, WriteBatch, fs::RealFs};
use anyhow::{Context, Result};
use bytes::Bytes;

use super::{
    BACKGROUND_THREADS, Durability, FILTER_BITS, FROZEN_MEMTABLES, MEMTABLE_BYTES, SEPARATED_FROM_BYTES,
    Setup, Store,
};
use crate::bench::storage::data::Key;

pub(super) const SETTINGS: &str = "blocks of 8 KiB, LZ4, 10 bits of filter a key, memtable 64 MiB (3 more may \
    wait for the flush), leveled compaction with dynamic level sizes, a thread for flushes and one for \
    compactions, values from 1 KiB on in blob files (LZ4, default garbage collection); buffered writes: Durability::Flush, one \
    write(2) a group; durable writes: Durability::Sync, one fdatasync a group";

const KEYSPACE: &str = "bench";

pub(super) struct Allidb {
    engine: Engine,
    keyspace: Keyspace,
}

impl Allidb {
    pub(super) fn open(dir: &Path, setup: Setup) -> Result<Self> {
        let mut keyspace = KeyspaceOptions::new(KEYSPACE);
        keyspace.filter_bits_per_key = FILTER_BITS;
        keyspace.separation_bytes = SEPARATED_FROM_BYTES;
        let options = Options {
            keyspaces: vec![keyspace],
            memtable_bytes: MEMTABLE_BYTES,
            frozen_memtables: FROZEN_MEMTABLES,
            memory_bytes: setup.configured_memory_bytes(),
            // The other one flushes.
            compaction_threads: BACKGROUND_THREADS - 1,
            ..Options::default()
        };
        let engine = Engine::open(Arc::new(RealFs), dir, options)?;
        let keyspace = engine.keyspace(KEYSPACE).context("the engine lost its keyspace")?;
        Ok(Self { engine, keyspace })
    }
}

impl Store for Allidb {
    fn put(&self, key: &Key, value: &[u8], durability: Durability) -> Result<()> {
        let mut batch = WriteBatch::with_capacity(1);
        batch.put(self.keyspace, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        let durability = match durability {
            Durability::Buffered => allidb_storage::Durability::Flush,
            Durability::Synced => allidb_storage::Durability::Sync,
        };
        self.engine.write(batch, durability)?;
        Ok(())
    }

    fn get(&self, key: &Key, read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.engine.get(self.keyspace, key)?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &Key, rows: usize, read: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        let snapshot = self.engine.snapshot();
        let scan =
            snapshot.scan(self.keyspace, Bound::Included(from), Bound::Unbounded, Direction::Forward)?;
        for row in scan.take(rows) {
            let (key, value) = row?;
            read(&key, &value);
        }
        Ok(())
    }

    fn settle(&self) -> Result<Instant> {
        self.engine.flush()?;
        self.engine.wait_idle()?;
        Ok(Instant::now())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.engine.close()?)
    }
}
