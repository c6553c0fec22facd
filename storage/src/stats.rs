//! Counters, and the snapshot of them that users see.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::latency::{Latency, LatencyCounter};

use crate::quarantine::Damage;

/// Size of one level of a keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// Tables.
    pub tables: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Versions of keys, tombstones among them.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
}

/// Size of one keyspace on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceStats {
    /// Its name.
    pub name: String,
    /// By level, from 0.
    pub levels: Vec<LevelStats>,
    /// Deletions of ranges, cut where they overlap, that are not yet applied to all tables they reach.
    pub range_tombstones: usize,
}

/// What an engine did since it was opened, and how large it is. Bytes unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Memory of the memtables that take writes.
    pub memtable_bytes: u64,
    /// Memory of frozen memtables that wait for the flush.
    pub frozen_memtable_bytes: u64,
    /// Memory that flushed memtables have left for those to come.
    pub spare_memtable_bytes: u64,
    /// How many sets of memtables wait for the flush.
    pub frozen_memtables: usize,
    /// Log segments on disk.
    pub wal_bytes: u64,
    /// Tables on disk.
    pub keyspaces: Vec<KeyspaceStats>,
    /// How many blob files there are.
    pub blob_files: usize,
    /// Blob files on disk.
    pub blob_bytes: u64,
    /// About the part of them that no table refers to.
    pub blob_garbage_bytes: u64,
    /// What compaction still has to take to the next level.
    pub compaction_debt_bytes: u64,
    /// Compactions under way.
    pub running_compactions: usize,
    /// Memory in use of the budget: memtables, the cache, and open tables.
    pub memory_bytes: u64,
    /// The budget: [`Options::memory_bytes`](crate::Options::memory_bytes).
    pub memory_budget_bytes: u64,
    /// Memory of the cache.
    pub cache_bytes: u64,
    /// What the cache may take at the moment: what memtables and open tables leave of the budget.
    pub cache_capacity_bytes: u64,
    /// Memory of open tables outside of the cache: indexes and filters of small ones, the top level of the index of
    /// large ones.
    pub table_memory_bytes: u64,
    /// Blocks, and partitions of indexes and filters, found in the cache.
    pub cache_hits: u64,
    /// Blocks, and partitions of indexes and filters, read from disk by gets and scans.
    pub cache_misses: u64,
    /// Filters asked.
    pub filter_checks: u64,
    /// Filters that saved a look into their table.
    pub filter_useful: u64,
    /// Batches committed.
    pub batches: u64,
    /// Bytes of batches committed, before any overhead.
    pub batch_bytes: u64,
    /// Groups of batches written to the log together.
    pub commit_groups: u64,
    /// How long fsyncs of the log took.
    pub wal_fsyncs: Latency,
    /// Bytes of batches and record headers written to the log.
    pub wal_bytes_written: u64,
    /// Flushes of a set of memtables.
    pub flushes: u64,
    /// Compactions, without trivial moves.
    pub compactions: u64,
    /// Tables moved to the next level without being rewritten.
    pub trivial_moves: u64,
    /// Tables dropped without being read, as a range delete covers all of each.
    pub dropped_tables: u64,
    /// Bytes of tables written by flushes.
    pub flush_bytes_written: u64,
    /// Bytes of tables written by compactions.
    pub compaction_bytes_written: u64,
    /// Bytes of files that were ingested.
    pub ingested_bytes: u64,
    /// Bytes of blob files written by flushes and compactions.
    pub blob_bytes_written: u64,
    /// Bytes of tables read by compactions.
    pub compaction_bytes_read: u64,
    /// Bytes of blocks and partitions read from disk by gets and scans.
    pub bytes_read: u64,
    /// Writes that were delayed because flush or compaction lagged.
    pub slowdowns: u64,
    /// How long they were delayed, all together, in microseconds.
    pub slowdown_micros: u64,
    /// Writes that were stopped until flush or compaction caught up.
    pub stalls: u64,
    /// How long they were stopped, all together, in microseconds.
    pub stall_micros: u64,
    /// Flushes and compactions that failed.
    pub background_errors: u64,
    /// The failure of the last flush or compaction, until one succeeds.
    pub last_background_error: Option<String>,
    /// Damages found since the store was opened, by whoever read the file; a bounded number.
    pub damages: Vec<Damage>,
    /// Tables in which damage was found. Compaction leaves them alone.
    pub quarantined_tables: usize,
    /// Bytes read by scrubs.
    pub scrub_bytes_read: u64,
    /// Why no writes are accepted any more, if so.
    pub poisoned: Option<String>,
}

impl Stats {
    /// How many bytes were written to disk for each byte that was committed; 0 before the first.
    pub fn write_amplification(&self) -> f64 {
        let written = self.wal_bytes_written
            + self.flush_bytes_written
            + self.compaction_bytes_written
            + self.blob_bytes_written;
        if self.batch_bytes == 0 { 0.0 } else { written as f64 / self.batch_bytes as f64 }
    }
}

/// The counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) filter_checks: Counter,
    pub(crate) filter_useful: Counter,
    pub(crate) batches: Counter,
    pub(crate) batch_bytes: Counter,
    pub(crate) commit_groups: Counter,
    pub(crate) wal_fsyncs: LatencyCounter,
    pub(crate) wal_bytes_written: Counter,
    pub(crate) flushes: Counter,
    pub(crate) compactions: Counter,
    pub(crate) trivial_moves: Counter,
    pub(crate) dropped_tables: Counter,
    pub(crate) flush_bytes_written: Counter,
    pub(crate) compaction_bytes_written: Counter,
    pub(crate) ingested_bytes: Counter,
    pub(crate) blob_bytes_written: Counter,
    pub(crate) compaction_bytes_read: Counter,
    pub(crate) bytes_read: Counter,
    pub(crate) slowdowns: Counter,
    pub(crate) slowdown_micros: Counter,
    pub(crate) stalls: Counter,
    pub(crate) stall_micros: Counter,
    pub(crate) background_errors: Counter,
    pub(crate) scrub_bytes_read: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds a time to a counter of microseconds.
    pub(crate) fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// The counters as stats; sizes are left at zero.
    pub(crate) fn read(&self) -> Stats {
        Stats {
            cache_hits: self.cache_hits.get(),
            cache_misses: self.cache_misses.get(),
            filter_checks: self.filter_checks.get(),
            filter_useful: self.filter_useful.get(),
            batches: self.batches.get(),
            batch_bytes: self.batch_bytes.get(),
            commit_groups: self.commit_groups.get(),
            wal_fsyncs: self.wal_fsyncs.read(),
            wal_bytes_written: self.wal_bytes_written.get(),
            flushes: self.flushes.get(),
            compactions: self.compactions.get(),
            trivial_moves: self.trivial_moves.get(),
            dropped_tables: self.dropped_tables.get(),
            flush_bytes_written: self.flush_bytes_written.get(),
            compaction_bytes_written: self.compaction_bytes_written.get(),
            ingested_bytes: self.ingested_bytes.get(),
            blob_bytes_written: self.blob_bytes_written.get(),
            compaction_bytes_read: self.compaction_bytes_read.get(),
            bytes_read: self.bytes_read.get(),
            slowdowns: self.slowdowns.get(),
            slowdown_micros: self.slowdown_micros.get(),
            stalls: self.stalls.get(),
            stall_micros: self.stall_micros.get(),
            background_errors: self.background_errors.get(),
            scrub_bytes_read: self.scrub_bytes_read.get(),
            ..Stats::default()
        }
    }
}
