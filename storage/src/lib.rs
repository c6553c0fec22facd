//! AlliDB's storage engine: a log-structured merge tree. Bytes in, bytes out.
//!
//! A batch of changes goes to the write-ahead log, then into memtables, and becomes visible; memtables are
//! flushed into sorted tables, and compaction merges tables level by level (O'Neil et al.: The log-structured
//! merge-tree, 1996). Reads merge memtables and tables as of a sequence.
//!
//! # Map
//!
//! | module | concept |
//! |---|---|
//! | [`engine`](Engine), `state` | what users call; what everything shares |
//! | `options`, `error`, `stats`, `latency` | choices, failures, counters |
//! | `batch` | a batch and its bytes |
//! | `commit`, `group_queue`, `sync` | group commit: one order for log, memtables and visibility |
//! | `admission` | free space, slowing down and stopping writers |
//! | `wal` | segments and records of the log; torn or corrupt |
//! | `memtable`, `arena` | skip lists, and where their values lie |
//! | `flush`, `compaction` | memtables to tables, tables to tables |
//! | `retention` | which versions of a key are still seen |
//! | `range_tombstone`, `cover` | deletions of whole ranges, and what they hide |
//! | `formats` | which formats of files are written |
//! | `table` | sorted tables: blocks, index and filter (whole or in partitions), footer |
//! | `blob` | large values apart from their keys |
//! | `cache` | the block cache: blocks, partitions of indexes and filters, separated values |
//! | `memory` | one budget for memtables, cache and open tables |
//! | `manifest`, `version` | which tables there are, on disk and in memory |
//! | `recovery` | opening a store |
//! | `sorted_file`, `ingest` | files built apart, and how they come in |
//! | `checkpoint`, `replace` | a second store out of hard links, and in the place of one |
//! | `quarantine`, `scrub`, `sequential` | damage and the tables it makes unusable; looking for it |
//! | `snapshot`, `merge`, `estimate` | point-in-time reads and scans, and about how much there is to read |
//! | `background`, `workers`, `signal` | where work runs and who waits for it |
//! | [`inspect`] | describes single files |
//! | [`fs`] | all access to files, real and simulated |
//!
//! # Invariants
//!
//! - Batches are numbered without gaps; log order, sequence order, publication order and visibility are one order.
//! - A source nearer to the top has only newer versions of a key: the first hit of a lookup is the newest.
//! - From level 1 on the tables of a level do not overlap, and all versions of a key are in one of them.
//! - A range tombstone is in the log and beside its memtables, then in the version and the manifest, until no table holds
//!   a version that it deletes. What it deletes is dropped only by what becomes durable together with it or after it.
//! - A file that a manifest names was synced before, and so was its directory entry.
//! - A record that was synced says that all before it, in earlier segments too, were synced before. A log segment is
//!   removed only when its memtables are in tables.
//! - After a failed fsync, or a failed write to the log, nothing is written any more.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod admission;
mod arena;
mod background;
mod batch;
mod blob;
mod cache;
mod checkpoint;
mod coding;
mod commit;
mod compaction;
mod cover;
mod engine;
mod error;
mod estimate;
mod files;
mod flush;
mod formats;
pub mod fs;
#[cfg(test)]
mod fuzz;
mod group_queue;
#[cfg(test)]
mod group_queue_tests;
mod ingest;
pub mod inspect;
mod key;
mod latency;
mod manifest;
mod memory;
mod memtable;
mod merge;
mod options;
mod quarantine;
mod range_tombstone;
mod recovery;
mod replace;
mod retention;
mod scrub;
mod sequential;
mod signal;
mod snapshot;
mod sorted_file;
mod state;
mod stats;
mod sync;
mod table;
mod version;
mod wal;
mod workers;

pub use background::{Background, Inline, Threads, give_way};
pub use batch::WriteBatch;
pub use checkpoint::Checkpoint;
pub use compaction::Throttle;
pub use engine::Engine;
pub use error::Error;
pub use formats::FORMATS;
pub use latency::{Latency, LatencyCounter};
pub use options::{Compression, Durability, Keyspace, KeyspaceOptions, MAX_KEY_BYTES, Options, Sequence};
pub use quarantine::{Damage, DamagedKeys};
pub use recovery::{Recovery, Truncation};
pub use replace::replace;
pub use scrub::{ScrubOptions, ScrubReport};
pub use snapshot::{Direction, Scan, Snapshot};
pub use sorted_file::SortedFileWriter;
pub use stats::{KeyspaceStats, LevelStats, Stats};
