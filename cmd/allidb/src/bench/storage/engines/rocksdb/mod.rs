//! RocksDB: the system's library, through its C interface.

mod capi;

use std::{path::Path, time::Instant};

use anyhow::Result;

use super::{
    BACKGROUND_THREADS, Durability, FILTER_BITS, FROZEN_MEMTABLES, MEMTABLE_BYTES, SEPARATED_FROM_BYTES,
    Setup, Store, wait_while,
};
use crate::bench::storage::data::Key;
use capi::{Database, Settings};

pub(super) const SETTINGS: &str = "the system's librocksdb: blocks of 4 KiB, LZ4, 10 bits of filter a key, \
    write buffer 64 MiB (3 more may wait for the flush), LRU cache for blocks and blobs, leveled compaction with \
    dynamic level sizes, 2 background jobs, values from 1 KiB on in blob files (LZ4, garbage collection on); \
    buffered writes: log on, sync=false, one write(2) a group; durable writes: sync=true, one fdatasync a group";

pub(super) struct RocksDb {
    database: Database,
}

impl RocksDb {
    pub(super) fn open(dir: &Path, setup: Setup) -> Result<Self> {
        let settings = Settings {
            cache_bytes: setup.cache_bytes,
            write_buffer_bytes: MEMTABLE_BYTES,
            write_buffers: 1 + FROZEN_MEMTABLES,
            filter_bits: FILTER_BITS,
            blobs_from_bytes: setup.separates_values().then_some(SEPARATED_FROM_BYTES),
            background_jobs: BACKGROUND_THREADS,
        };
        Ok(Self { database: Database::open(dir, &settings)? })
    }

    fn is_busy(&self) -> Result<bool> {
        let busy = [
            c"rocksdb.mem-table-flush-pending",
            c"rocksdb.num-running-flushes",
            c"rocksdb.compaction-pending",
            c"rocksdb.num-running-compactions",
        ];
        for property in busy {
            if self.database.property(property)? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Store for RocksDb {
    fn put(&self, key: &Key, value: &[u8], durability: Durability) -> Result<()> {
        self.database.put(key, value, durability == Durability::Synced)
    }

    fn get(&self, key: &Key, read: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let value = self.database.get(key)?;
        if let Some(value) = &value {
            read(value.bytes());
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &Key, rows: usize, read: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        let mut cursor = self.database.seek(from);
        for _ in 0..rows {
            let Some((key, value)) = cursor.current()? else { break };
            read(key, value);
            cursor.advance();
        }
        Ok(())
    }

    fn settle(&self) -> Result<Instant> {
        self.database.flush()?;
        wait_while(|| self.is_busy())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
