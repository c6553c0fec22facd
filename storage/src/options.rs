//! What a user can choose, with defaults.

use std::sync::Arc;

use crate::background::{Background, Threads};
use crate::error::Error;

/// The number of a batch: batches are numbered without gaps, from 1, in the order in which they become
/// visible.
pub type Sequence = u64;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 65_535;

/// A handle of a keyspace: an ordered map of its own inside an engine. See [`crate::Engine::keyspace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keyspace(pub(crate) u16);

/// What a write waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nothing: the log is written when its buffer is full. Lost when the process is killed.
    None,
    /// The log was handed to the operating system. Lost when the machine loses power.
    Flush,
    /// The log was fsynced. Lost when the disk is.
    #[default]
    Sync,
}

/// How blocks of tables are compressed, those that become at least an eighth smaller by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: quick in both directions.
    #[default]
    Lz4,
    /// ZSTD, with its compression level: up to 22, and below 1 faster and larger; 0 is ZSTD's default, 3. Smaller than
    /// LZ4, and slower: for deep levels, where most data lies and which are written seldom. A block of more than
    /// 64 MiB, that is one with a huge value, is compressed with LZ4 all the same.
    Zstd(i8),
}

impl Compression {
    /// Whether ZSTD has such a level; true for the others.
    pub fn exists(self) -> bool {
        match self {
            Compression::Zstd(level) => zstd::compression_level_range().contains(&i32::from(level)),
            Compression::None | Compression::Lz4 => true,
        }
    }
}

/// How one keyspace is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceOptions {
    /// Its name, which the store remembers.
    pub name: String,
    /// The size of a table's block before compression, in bytes. What a read of one key reads.
    pub block_bytes: usize,
    /// How blocks are compressed, by level from 0; the last one counts for all deeper levels. Not empty.
    pub compression: Vec<Compression>,
    /// Bits of bloom filter for each key; 10 let about one in a hundred absent keys through. 0: no filter.
    pub filter_bits_per_key: u8,
    /// Values from this size on lie in blob files, apart from their keys, and are not rewritten with each compaction,
    /// in bytes. 0: never.
    pub separation_bytes: usize,
    /// How many bytes of separated values, before compression, share a block of a blob file; at most 1 MiB. More make
    /// scans and compression better, and reads of one value from disk larger. A longer value has a block of its own.
    pub blob_block_bytes: usize,
    /// The size of a partition of a table's index together with its filter, in bytes; 32 times that in level 0. Those of a
    /// table that are smaller stay in memory while it is open. Larger ones are cut into partitions, of which only the index
    /// stays in memory in any case: they themselves do so as long as those of all tables fit into a quarter of the budget that
    /// memtables leave, and are read through the block cache otherwise. [`usize::MAX`]: never cut.
    pub index_partition_bytes: usize,
}

impl KeyspaceOptions {
    /// The defaults: blocks of 8 KiB, LZ4, 10 bits of filter, partitions of 32 KiB, values from 1 KiB on apart.
    pub fn new(name: &str) -> KeyspaceOptions {
        KeyspaceOptions {
            name: name.to_owned(),
            block_bytes: 8 << 10,
            compression: vec![Compression::Lz4],
            filter_bits_per_key: 10,
            separation_bytes: 1 << 10,
            blob_block_bytes: 8 << 10,
            index_partition_bytes: 32 << 10,
        }
    }

    /// How blocks of a level are compressed.
    pub(crate) fn compression_at(&self, level: usize) -> Compression {
        self.compression.get(level).or(self.compression.last()).copied().unwrap_or(Compression::None)
    }
}

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The keyspaces; more may be added when a store is opened again.
    pub keyspaces: Vec<KeyspaceOptions>,
    /// Memory of all keyspaces' memtables together before they are frozen and flushed, in bytes.
    pub memtable_bytes: usize,
    /// How many frozen sets of memtables may wait for the flush before writers are stopped.
    pub frozen_memtables: usize,
    /// Memory of everything together, in bytes: memtables, what open tables keep of their indexes and filters, and the
    /// cache of blocks, partitions and separated values, which gets what the others leave. At least
    /// [`least_memory_bytes`](Options::least_memory_bytes). Beyond it come, for a time, batches on their way into the
    /// memtables and the buffers of flushes and compactions: see "Memory" in `docs/architecture.md`.
    pub memory_bytes: usize,
    /// The size of a segment of the write-ahead log, in bytes.
    pub wal_segment_bytes: u64,
    /// The largest batch, in bytes.
    pub batch_bytes: usize,
    /// The size at which compaction starts a new table, in bytes.
    pub table_bytes: u64,
    /// The size at which flush and compaction start a new blob file, in bytes.
    pub blob_file_bytes: u64,
    /// The part of a keyspace's separated values, in percent, that nothing refers to any more from which on the blob files
    /// that hold most of it are given up, and what is still in use there is moved. More saves writing, less saves
    /// space; 100: a file goes only when nothing of it is in use.
    pub blob_garbage_percent: u8,
    /// Tables in level 0 of a keyspace at which compaction starts.
    pub level0_files: usize,
    /// Tables in level 0 at which writers are slowed down.
    pub level0_slowdown_files: usize,
    /// Tables in level 0 at which writers are stopped.
    pub level0_stop_files: usize,
    /// The size up to which a keyspace has one level below level 0, in bytes; and that of the uppermost one when there
    /// are more.
    pub level_base_bytes: u64,
    /// How many times larger each further level is.
    pub level_multiplier: u64,
    /// Compactions that may run at once.
    pub compaction_threads: usize,
    /// Bytes a second that all compactions together may write; 0: as many as the disk takes.
    pub compaction_bytes_per_second: u64,
    /// Below this much free space writes other than deletes are refused, in bytes. Leaves room for
    /// compaction to give space back.
    pub min_free_bytes: u64,
    /// Where flush and compaction run.
    pub background: Arc<dyn Background>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            keyspaces: Vec::new(),
            memtable_bytes: 64 << 20,
            frozen_memtables: 3,
            memory_bytes: 512 << 20,
            wal_segment_bytes: 64 << 20,
            batch_bytes: 64 << 20,
            table_bytes: 64 << 20,
            blob_file_bytes: 256 << 20,
            blob_garbage_percent: 50,
            level0_files: 4,
            level0_slowdown_files: 12,
            level0_stop_files: 24,
            level_base_bytes: 256 << 20,
            level_multiplier: 10,
            compaction_threads: 2,
            compaction_bytes_per_second: 0,
            min_free_bytes: 256 << 20,
            background: Arc::new(Threads),
        }
    }
}

impl Options {
    /// Refuses options that contradict each other, or that nothing can be done with.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |what| Err(Error::InvalidArgument { what });
        for (index, keyspace) in self.keyspaces.iter().enumerate() {
            let twice = self.keyspaces.iter().skip(index + 1).any(|other| other.name == keyspace.name);
            if twice || keyspace.name.is_empty() {
                return refuse(format!("a keyspace without a name or declared twice: {:?}", keyspace.name));
            }
            if keyspace.compression.is_empty()
                || !keyspace.compression.iter().all(|compression| compression.exists())
            {
                return refuse(format!(
                    "no compression, or none that exists, for {}: {:?}",
                    keyspace.name, keyspace.compression
                ));
            }
        }
        if self.batch_bytes > 1 << 30 {
            return refuse("batch_bytes is more than 1 GiB".to_owned());
        }
        let (budget, least) = (self.memory_bytes, self.least_memory_bytes());
        if budget < least {
            return refuse(format!(
                "memory_bytes is {budget}; with memtable_bytes {} and frozen_memtables {} it must be at least {least}",
                self.memtable_bytes, self.frozen_memtables
            ));
        }
        Ok(())
    }
}
