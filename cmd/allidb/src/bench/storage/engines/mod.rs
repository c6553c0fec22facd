//! Storage engines behind one face, set up as alike as they allow.

mod allidb;
#[cfg(feature = "peers")]
mod fjall;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use std::{path::Path, time::Instant};
#[cfg(feature = "peers")]
use std::{thread, time::Duration};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::data::Key;

/// Memory of the memtable that takes writes.
const MEMTABLE_BYTES: usize = 64 << 20;
/// Memtables that may wait for the flush before writers are stopped, where that can be set.
const FROZEN_MEMTABLES: usize = 3;
/// Bits of bloom filter for each key.
const FILTER_BITS: u8 = 10;
/// Values from this length on are kept apart from keys.
const SEPARATED_FROM_BYTES: usize = 1024;
/// Threads for flush and compaction: one each where they are counted apart.
const BACKGROUND_THREADS: usize = 2;

/// An engine that this program was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineName {
    /// Ours.
    Allidb,
    /// The Rust crate of that name.
    #[cfg(feature = "peers")]
    Fjall,
    /// The system's librocksdb.
    #[cfg(feature = "rocksdb")]
    Rocksdb,
}

impl EngineName {
    /// As it is called in reports.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Allidb => "allidb",
            #[cfg(feature = "peers")]
            Self::Fjall => "fjall",
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => "rocksdb",
        }
    }

    /// Opens the store in a directory, or makes one.
    pub(super) fn open(self, dir: &Path, setup: Setup) -> Result<Box<dyn Store>> {
        Ok(match self {
            Self::Allidb => Box::new(allidb::Allidb::open(dir, setup)?),
            #[cfg(feature = "peers")]
            Self::Fjall => Box::new(fjall::Fjall::open(dir, setup)?),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => Box::new(rocksdb::RocksDb::open(dir, setup)?),
        })
    }

    /// What was chosen for this engine, for people.
    pub(super) fn settings(self) -> &'static str {
        match self {
            Self::Allidb => allidb::SETTINGS,
            #[cfg(feature = "peers")]
            Self::Fjall => fjall::SETTINGS,
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => rocksdb::SETTINGS,
        }
    }
}

/// What differs between stores of one engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// Memory for blocks, and values where an engine caches them.
    pub(super) cache_bytes: usize,
    /// The length of all values.
    #[cfg_attr(
        not(feature = "peers"),
        expect(dead_code, reason = "only peers must be told what to separate")
    )]
    pub(super) value_bytes: usize,
}

impl Setup {
    /// The memory that an engine was told to keep to. Ours takes it as one budget, of which the cache has at least a
    /// sixteenth.
    pub(super) fn configured_memory_bytes(self) -> usize {
        let memtables = MEMTABLE_BYTES * (1 + FROZEN_MEMTABLES);
        memtables + self.cache_bytes.max(memtables.div_ceil(15))
    }

    /// Whether values are to be kept apart from keys.
    #[cfg(feature = "peers")]
    fn separates_values(self) -> bool {
        self.value_bytes >= SEPARATED_FROM_BYTES
    }
}

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// The operating system has it.
    Buffered,
    /// The disk has it.
    Synced,
}

/// A store that is open.
pub(super) trait Store: Sync {
    /// Sets a key to a value.
    fn put(&self, key: &Key, value: &[u8], durability: Durability) -> Result<()>;

    /// Shows the value of a key; returns whether there is one.
    fn get(&self, key: &Key, read: &mut dyn FnMut(&[u8])) -> Result<bool>;

    /// Shows up to `rows` keys and values, from a key on.
    fn scan(&self, from: &Key, rows: usize, read: &mut dyn FnMut(&[u8], &[u8])) -> Result<()>;

    /// Flushes, and waits until no flush and no compaction is under way. Returns when that was.
    fn settle(&self) -> Result<Instant>;

    /// Closes the store.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Waits for an engine that only tells whether it is busy now: quiet for so long is idle since then.
#[cfg(feature = "peers")]
fn wait_while(mut is_busy: impl FnMut() -> Result<bool>) -> Result<Instant> {
    const QUIET: Duration = Duration::from_millis(300);
    let mut idle_since = Instant::now();
    while idle_since.elapsed() < QUIET {
        thread::sleep(Duration::from_millis(5));
        if is_busy()? {
            idle_since = Instant::now();
        }
    }
    Ok(idle_since)
}
