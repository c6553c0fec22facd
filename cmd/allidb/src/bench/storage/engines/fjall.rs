//! fjall: a log-structured engine in Rust (<https://github.com/fjall-rs/fjall>).

use std::{path::Path, time::Instant};

use ::fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
    config::{BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry},
};
use anyhow::Result;

use super::{
    BACKGROUND_THREADS, Durability, FILTER_BITS, MEMTABLE_BYTES, SEPARATED_FROM_BYTES, Setup, Store,
    wait_while,
};
use crate::bench::storage::data::Key;

pub(super) const SETTINGS: &str = "crate 3.1: blocks of 4 KiB, LZ4 in all levels, 10 bits of filter a key, \
    memtable 64 MiB, leveled compaction, 2 worker threads, values from 1 KiB on separated (LZ4, default garbage \
    collection); buffered writes: PersistMode::Buffer, one write(2) each; durable writes: insert, then \
    PersistMode::SyncData (fdatasync)";

pub(super) struct Fjall {
    keyspace: Keyspace,
    database: Database,
}

impl Fjall {
    pub(super) fn open(dir: &Path, setup: Setup) -> Result<Self> {
        let database = Database::builder(dir)
            .cache_size(setup.cache_bytes as u64)
            .worker_threads(BACKGROUND_THREADS)
            .open()?;
        let separation = KvSeparationOptions::default()
            .separation_threshold(u32::try_from(SEPARATED_FROM_BYTES)?)
            .compression(CompressionType::Lz4);
        let filter = BloomConstructionPolicy::BitsPerKey(f32::from(FILTER_BITS));
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES as u64)
                .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(filter)))
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
                .with_kv_separation(setup.separates_values().then_some(separation))
        };
        let keyspace = database.keyspace("bench", options)?;
        Ok(Self { keyspace, database })
    }
}

impl Store for Fjall {
    fn put(&self, key: &Key, value: &[u8], durability: Durability) -> Result<()> {
        // Hands the write to the operating system.
        self.keyspace.insert(*key, value)?;
        if durability == Durability::Synced {
            self.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }

    fn get(&self, key: &Key, read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.keyspace.get(key)?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &Key, rows: usize, read: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        for row in self.keyspace.range(*from..).take(rows) {
            let (key, value) = row.into_inner()?;
            read(&key, &value);
        }
        Ok(())
    }

    fn settle(&self) -> Result<Instant> {
        self.keyspace.rotate_memtable_and_wait()?;
        wait_while(|| Ok(self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0))
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
