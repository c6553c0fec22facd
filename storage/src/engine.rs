//! The engine: what users call.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::Sequence;
use crate::admission::Admission;
use crate::arena::Chunks;
use crate::batch::WriteBatch;
use crate::cache::BlockCache;
use crate::checkpoint::Checkpoint;
use crate::commit::Commit;
use crate::compaction::Throttle;
use crate::error::Error;
use crate::files;
use crate::fs::Fs;
use crate::memtable::MemtableSet;
use crate::options::{Durability, Keyspace, KeyspaceOptions, Options};
use crate::quarantine::DamagedKeys;
use crate::recovery::{Recovery, recover};
use crate::scrub::{ScrubOptions, ScrubReport};
use crate::signal::Signal;
use crate::snapshot::Snapshot;
use crate::state::{Inner, KeyspaceEntry, ManifestState};
use crate::stats::{Counters, Stats};
use crate::table::pins::PinBudget;
use crate::table::reader::TableContext;
use crate::version::{SuperVersion, VersionEdit};
use crate::wal::record::{LOG_FORMAT, SegmentHeader};
use crate::wal::writer::SegmentWriter;
use crate::workers::Worker;

/// A store that is open. Clones share it; when the last one is dropped, background work stops and the
/// directory is released, without a flush.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").field("dir", &self.inner().dir()).finish_non_exhaustive()
    }
}

/// What the clones of an [`Engine`] share: dropped with the last one, while snapshots may live on.
#[derive(Debug)]
struct Shared {
    inner: Arc<Inner>,
    recovery: Recovery,
}

impl Engine {
    /// Opens the store in `dir`, which is created if it does not exist, and replays its log.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is open already, [`Error::Corruption`] if a file is damaged or missing,
    /// [`Error::NewerFormat`], [`Error::InvalidArgument`] for options that contradict each other, [`Error::Io`].
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, options: Options) -> Result<Engine, Error> {
        options.check()?;
        fs.create_dir_all(dir).map_err(|source| Error::io("create", dir, source))?;
        let lock_path = dir.join(files::LOCK);
        let lock = fs.lock(&lock_path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: lock_path.clone() },
            _ => Error::io("lock", &lock_path, source),
        })?;
        let context = TableContext {
            fs,
            dir: dir.to_path_buf(),
            cache: Arc::new(BlockCache::new(options.memory_bytes)),
            pins: Arc::new(PinBudget::new(options.pinned_bytes())),
            counters: Arc::new(Counters::default()),
            damages: Arc::default(),
        };
        let recovered = recover(&context, &options.keyspaces)?;
        let mut recovery = recovered.recovery;
        let (previous, previous_len) = recovered.previous;
        let number = recovered.next_file;
        let header =
            SegmentHeader { format: LOG_FORMAT, number, previous, previous_len, previous_synced: true };
        let (segment, _) = SegmentWriter::create(&*context.fs, dir, header, true, options.wal_segment_bytes)?;
        let last_sequence = recovery.last_sequence;
        let chunks = Arc::new(Chunks::new(options.all_memtables_bytes()));
        let keyspaces = recovered.keyspaces.len();
        let active = Arc::new(MemtableSet::new(header.number, keyspaces, last_sequence, chunks.clone()));
        let keyspaces = recovered
            .keyspaces
            .iter()
            .map(|name| {
                let declared = options.keyspaces.iter().find(|options| options.name == *name);
                let options = declared.cloned().unwrap_or_else(|| KeyspaceOptions::new(name));
                KeyspaceEntry { options, declared: declared.is_some() }
            })
            .collect();
        let log = recovered.frozen.last().map_or(header.number, |set| set.log);
        let current = SuperVersion {
            active: active.clone(),
            frozen: recovered.frozen,
            version: Arc::new(recovered.version),
        };
        let memory_bytes = options.memory_bytes;
        let throttle = Throttle::new(options.compaction_bytes_per_second);
        let inner = Arc::new(Inner {
            context,
            options,
            keyspaces,
            commit: Commit::new(segment, last_sequence, active),
            chunks,
            admission: Admission::default(),
            signal: Signal::default(),
            visible: AtomicU64::new(last_sequence),
            poison: OnceLock::new(),
            flushing: Mutex::default(),
            compacting: Mutex::default(),
            throttle,
            cache_bytes: Mutex::new(memory_bytes),
            closing: AtomicBool::new(false),
            workers: AtomicU64::new(0),
            failures: Mutex::default(),
            current: RwLock::new(Arc::new(current)),
            manifest: Mutex::new(ManifestState { log }),
            snapshots: Mutex::default(),
            next_file: AtomicU64::new(header.number + 1),
            oldest_log: AtomicU64::new(log),
            lock: Mutex::new(Some(lock)),
        });
        if recovered.needs_manifest {
            inner.install(&VersionEdit::default(), None)?;
        }
        for orphan in &recovered.orphans {
            match inner.fs().remove(orphan) {
                // A manifest that was being written makes room for the first one written now.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", orphan, error));
                }
                _ => {}
            }
        }
        recovery.removed_files += recovered.orphans.len();
        inner.update_pressure(&inner.super_version());
        inner.share_memory();
        inner.start_workers();
        inner.run_inline();
        Ok(Engine { shared: Arc::new(Shared { inner, recovery }) })
    }

    /// What opening the store found.
    pub fn recovery(&self) -> &Recovery {
        &self.shared.recovery
    }

    /// The handle of a keyspace that the options declare; `None` for others, those on disk included.
    pub fn keyspace(&self, name: &str) -> Option<Keyspace> {
        let keyspaces = &self.inner().keyspaces;
        let id = keyspaces.iter().position(|entry| entry.declared && entry.options.name == name)?;
        u16::try_from(id).ok().map(Keyspace)
    }

    /// Appends the batch to the log, inserts it into the memtables, runs `publish` with its sequence and makes it
    /// visible. The last three steps happen in log order, one batch at a time, so `publish` must be quick and
    /// must not write to the engine. With [`Durability::Sync`] the call returns when the log is synced; others
    /// may see the batch before. An empty batch takes a sequence like any other.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed write or fsync, and if `publish` panics; the batch may then come back
    /// when the store is opened again. [`Error::DiskFull`] and [`Error::Busy`]: nothing was written, try again later.
    /// [`Error::InvalidArgument`] beyond a limit, [`Error::UnknownKeyspace`], [`Error::Closed`].
    pub fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
        publish: impl FnOnce(Sequence) + Send + 'static,
    ) -> Result<Sequence, Error> {
        let result = self.inner().commit(batch, durability, Some(Box::new(publish)));
        self.inner().run_inline();
        result
    }

    /// [`commit`](Engine::commit) without publication.
    ///
    /// # Errors
    /// As [`commit`](Engine::commit).
    pub fn write(&self, batch: WriteBatch, durability: Durability) -> Result<Sequence, Error> {
        let result = self.inner().commit(batch, durability, None);
        self.inner().run_inline();
        result
    }

    /// Takes over files that a [`SortedFileWriter`](crate::SortedFileWriter) made: all of their entries become visible at
    /// once, under one sequence and durably, with `publish` as in [`commit`](Engine::commit). They get a second name in
    /// the store, or are copied where that is impossible, and must not be changed afterwards. Each is read once to check
    /// it. Writers wait while the last memtables are flushed. Separation of large values begins with the next
    /// compaction of the entries.
    ///
    /// # Errors
    /// [`Error::Corruption`] names a file that is damaged or none of these, [`Error::InvalidArgument`] if two of them
    /// overlap, and as [`commit`](Engine::commit). Unless writes are poisoned nothing has changed.
    pub fn ingest(
        &self,
        keyspace: Keyspace,
        files: &[PathBuf],
        publish: impl FnOnce(Sequence) + Send + 'static,
    ) -> Result<Sequence, Error> {
        self.inner().check_keyspace(keyspace)?;
        let result = self.inner().ingest(keyspace, files, Box::new(publish));
        self.inner().run_inline();
        result
    }

    /// The value of a key as of now.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Corruption`] when a table cannot be read, [`Error::UnknownKeyspace`].
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner().check_keyspace(keyspace)?;
        // In this order: what a compaction that is part of the super-version dropped is older than some
        // version that was visible then, and so is now.
        let super_version = self.inner().super_version();
        let sequence = self.inner().visible.load(Ordering::Acquire);
        super_version.get(keyspace, key, sequence)
    }

    /// All keyspaces as of now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.shared.inner.clone())
    }

    /// The sequence of the last visible batch.
    pub fn visible_sequence(&self) -> Sequence {
        self.inner().visible.load(Ordering::Acquire)
    }

    /// The oldest sequence that somebody reads at or may come to read at.
    pub fn oldest_snapshot(&self) -> Sequence {
        self.inner().oldest_snapshot()
    }

    /// How many bytes are free for files.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if that is less than writes must leave; if it cannot be told.
    pub fn free_space(&self) -> Result<u64, Error> {
        self.inner().free_space()
    }

    /// Makes all batches durable that were committed before the call.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::DiskFull`], [`Error::Closed`].
    pub fn sync(&self) -> Result<(), Error> {
        self.inner().sync_log()
    }

    /// Writes all memtables to tables and waits for that.
    ///
    /// # Errors
    /// What the flush failed with; it is tried again in the background.
    pub fn flush(&self) -> Result<(), Error> {
        self.inner().freeze_active()?;
        self.inner().drain_frozen()
    }

    /// Merges all tables of a keyspace into one level, and waits for that. Memtables are not part of it.
    ///
    /// # Errors
    /// What the compaction failed with; nothing has changed then.
    pub fn compact(&self, keyspace: Keyspace) -> Result<(), Error> {
        self.inner().check_keyspace(keyspace)?;
        let result = self.inner().compact_all(keyspace);
        self.inner().note(Worker::Compaction(0), result)
    }

    /// Waits until no flush and no compaction is due.
    ///
    /// # Errors
    /// What a flush or compaction failed with.
    pub fn wait_idle(&self) -> Result<(), Error> {
        self.inner().wait_idle()
    }

    /// Reads everything on disk as of now: the manifest, the log as far as it was synced, every block of every table,
    /// every value of every blob file.
    /// Reads and writes go on meanwhile, and the block cache keeps what it holds. `progress` is called after each
    /// piece of at most a mebibyte, and every 100 ms, with what was found so far, and stops the scrub by breaking. Tables
    /// in which damage is found are quarantined: see [`Stats::damages`].
    ///
    /// # Errors
    /// [`Error::Closed`]. Damage and files that cannot be read are in the report.
    pub fn scrub(
        &self,
        options: ScrubOptions,
        mut progress: impl FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport, Error> {
        self.inner().scrub(options, &mut progress)
    }

    /// Makes a second store in `dir` out of hard links to the files of this one: everything that was committed before
    /// the call, consistent across keyspaces, at the cost of a flush. `dir` must be empty or absent, and on the same file
    /// system. What is unfinished is not taken for a store when it is opened, and removed where that is possible.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `dir` cannot be used, and what the flush or the file system failed with.
    pub fn checkpoint(&self, dir: &Path) -> Result<Checkpoint, Error> {
        self.inner().checkpoint(dir)
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        self.inner().stats()
    }

    /// Where damage was found: the keys of tables that cannot be read whole. They are read as far as they can be; deleting such keys as
    /// ranges, and flushing that, does away with tables of which nothing else is left.
    pub fn damaged(&self) -> Vec<DamagedKeys> {
        let version = Arc::clone(&self.inner().super_version().version);
        let mut damaged = Vec::new();
        for (keyspace, of) in version.keyspaces() {
            for (_, table) in of.tables().filter(|(_, table)| table.lacks_something()) {
                let (smallest, largest) = (table.meta.smallest.clone(), table.meta.largest.clone());
                damaged.push(DamagedKeys { keyspace, smallest, largest });
            }
        }
        damaged
    }

    /// Flushes, stops background work and releases the directory. Other clones of the engine refuse writes from
    /// then on; snapshots can still be read.
    ///
    /// # Errors
    /// What the flush failed with; the engine is closed all the same, and the log keeps what was not flushed.
    pub fn close(self) -> Result<(), Error> {
        let flushed = self.flush();
        let written = self.shared.inner.shut_down();
        flushed.and(written)
    }

    fn inner(&self) -> &Inner {
        &self.shared.inner
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.inner.shut_down() {
            tracing::warn!(%error, "the last unsynced batches could not be written to the log");
        }
    }
}
