//! The state of an engine, and how it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::Sequence;
use crate::admission::Admission;
use crate::arena::Chunks;
use crate::commit::Commit;
use crate::compaction::{self, Compacting, Throttle};
use crate::error::Error;
use crate::files;
use crate::fs::{Fs, Lock};
use crate::manifest::{BlobRecord, Manifest, RangeTombstoneRecord, TableRecord};
use crate::memtable::MemtableSet;
use crate::options::{Keyspace, KeyspaceOptions, Options};
use crate::signal::Signal;
use crate::stats::{Counters, KeyspaceStats, LevelStats, Stats};
use crate::table::Table;
use crate::table::reader::TableContext;
use crate::version::{LEVELS, SuperVersion, Version, VersionEdit};
use crate::workers::Worker;

/// A keyspace, declared or only known from the disk.
#[derive(Debug)]
pub(crate) struct KeyspaceEntry {
    pub(crate) options: KeyspaceOptions,
    pub(crate) declared: bool,
}

/// What the manifest says beside the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ManifestState {
    pub(crate) log: u64,
}

/// The state of an engine.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) context: TableContext,
    pub(crate) options: Options,
    /// By id.
    pub(crate) keyspaces: Vec<KeyspaceEntry>,
    pub(crate) commit: Commit,
    /// Memory for the values of memtables.
    pub(crate) chunks: Arc<Chunks>,
    pub(crate) admission: Admission,
    pub(crate) signal: Signal,
    /// The sequence of the last visible batch.
    pub(crate) visible: AtomicU64,
    /// Why nothing is written any more.
    pub(crate) poison: OnceLock<String>,
    /// Held during a flush.
    pub(crate) flushing: Mutex<()>,
    /// Which compactions are under way.
    pub(crate) compacting: Mutex<Compacting>,
    /// What all compactions together may write.
    pub(crate) throttle: Throttle,
    /// What the cache may take; the lock orders those who change it.
    pub(crate) cache_bytes: Mutex<usize>,
    pub(crate) closing: AtomicBool,
    pub(crate) workers: AtomicU64,
    /// The last failure of each worker, until it succeeds.
    pub(crate) failures: Mutex<BTreeMap<Worker, String>>,
    pub(crate) current: RwLock<Arc<SuperVersion>>,
    pub(crate) manifest: Mutex<ManifestState>,
    pub(crate) snapshots: Mutex<BTreeMap<Sequence, usize>>,
    pub(crate) next_file: AtomicU64,
    /// The oldest log segment that the manifest needs.
    pub(crate) oldest_log: AtomicU64,
    pub(crate) lock: Mutex<Option<Box<dyn Lock>>>,
}

/// Lets the files of tables go that an edit added in vain, or removed, unless they only changed their level.
fn forget(tables: &[(usize, Arc<Table>)], edit: &VersionEdit) {
    tables.iter().filter(|(_, table)| !edit.moves(table)).for_each(|(_, table)| table.mark_obsolete());
}

impl Inner {
    pub(crate) fn fs(&self) -> &dyn Fs {
        &*self.context.fs
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.context.dir
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.context.counters
    }

    pub(crate) fn super_version(&self) -> Arc<SuperVersion> {
        self.current.read().clone()
    }

    pub(crate) fn next_file_number(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn check_keyspace(&self, keyspace: Keyspace) -> Result<(), Error> {
        if usize::from(keyspace.0) < self.keyspaces.len() {
            Ok(())
        } else {
            Err(Error::UnknownKeyspace { id: keyspace.0 })
        }
    }

    /// Refuses everything that writes once the engine is closed or poisoned.
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        if let Some(reason) = self.poison.get() {
            return Err(Error::Poisoned { reason: reason.clone() });
        }
        if self.closing.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Accepts no writes any more. Returns the error for those who are waiting.
    pub(crate) fn poison(&self, cause: impl fmt::Display) -> Error {
        let reason = self.poison.get_or_init(|| {
            tracing::error!(%cause, "the engine accepts no writes any more");
            cause.to_string()
        });
        self.signal.notify();
        Error::Poisoned { reason: reason.clone() }
    }

    pub(crate) fn sync_dir(&self) -> Result<(), Error> {
        self.fs().sync_dir(self.dir()).map_err(|source| Error::io("fsync the directory", self.dir(), source))
    }

    /// Registers a snapshot of what is visible now.
    pub(crate) fn pin(&self) -> Sequence {
        // Under the lock: a compaction sees either the snapshot or a visible sequence that is not newer.
        let mut snapshots = self.snapshots.lock();
        let sequence = self.visible.load(Ordering::Acquire);
        *snapshots.entry(sequence).or_default() += 1;
        sequence
    }

    pub(crate) fn unpin(&self, sequence: Sequence) {
        let mut snapshots = self.snapshots.lock();
        if let Some(count) = snapshots.get_mut(&sequence) {
            *count -= 1;
            if *count == 0 {
                let was_oldest = snapshots.first_key_value().is_some_and(|(&oldest, _)| oldest == sequence);
                snapshots.remove(&sequence);
                drop(snapshots);
                if was_oldest && self.current.read().version.has_range_tombstones() {
                    // It may have been what kept compaction from applying them.
                    self.signal.notify();
                }
            }
        }
    }

    /// The oldest sequence that somebody reads at or may come to read at.
    pub(crate) fn oldest_snapshot(&self) -> Sequence {
        let snapshots = self.snapshots.lock();
        let visible = self.visible.load(Ordering::Acquire);
        snapshots.first_key_value().map_or(visible, |(&oldest, _)| oldest)
    }

    /// The sequences that somebody reads at or may come to read at, ascending; of those after the last one any.
    pub(crate) fn live_snapshots(&self) -> Vec<Sequence> {
        let snapshots = self.snapshots.lock();
        let visible = self.visible.load(Ordering::Acquire);
        let mut live: Vec<Sequence> = snapshots.keys().copied().collect();
        if live.last() != Some(&visible) {
            live.push(visible);
        }
        live
    }

    /// Puts new memtables in place of those that take writes; the caller holds the locks of the commit path.
    pub(crate) fn freeze(&self, active: Arc<MemtableSet>) {
        let mut current = self.current.write();
        let mut frozen = Vec::with_capacity(current.frozen.len() + 1);
        frozen.push(current.active.clone());
        frozen.extend(current.frozen.iter().cloned());
        let next = Arc::new(SuperVersion { active, frozen, version: current.version.clone() });
        self.update_pressure(&next);
        *current = next;
        drop(current);
        self.share_memory();
    }

    /// Makes a new version durable and then current. `flushed` are memtables that are in its tables.
    pub(crate) fn install(
        &self,
        edit: &VersionEdit,
        flushed: Option<&Arc<MemtableSet>>,
    ) -> Result<(), Error> {
        let mut current_state = self.manifest.lock();
        self.check_writable()?;
        let mut state = *current_state;
        let before = self.super_version();
        let version = before.version.apply(edit, &self.live_snapshots());
        if let Some(flushed) = flushed {
            // Nothing joins the older end of the list meanwhile.
            let rest = before.frozen.iter().rev().find(|set| set.log != flushed.log);
            state.log = rest.map_or(before.active.log, |set| set.log);
        }
        if let Some(table) = version.misplaced() {
            let path = files::table(self.dir(), table.meta.number);
            return Err(self.poison(format!("{} would overlap another table of its level", path.display())));
        }
        if let Err(failed) = self.manifest_of(&version, &state).write(self.fs(), self.dir()) {
            if failed.undone {
                forget(&edit.added, edit);
                let old = before.version.blobs();
                version
                    .blobs()
                    .values()
                    .filter(|live| !old.contains_key(&live.file.meta.number))
                    .for_each(|live| live.file.mark_obsolete());
                return Err(failed.error);
            }
            return Err(self.poison(failed.error));
        }
        *current_state = state;
        self.oldest_log.store(state.log, Ordering::Release);
        let version = Arc::new(version);
        {
            let mut current = self.current.write();
            let frozen = current
                .frozen
                .iter()
                .filter(|set| flushed.is_none_or(|flushed| flushed.log != set.log))
                .cloned();
            let next =
                Arc::new(SuperVersion { active: current.active.clone(), frozen: frozen.collect(), version });
            self.update_pressure(&next);
            *current = next;
        }
        self.share_memory();
        forget(&edit.removed, edit);
        let version = self.super_version().version.clone();
        let old = before
            .version
            .blobs()
            .values()
            .filter(|old| !version.blobs().contains_key(&old.file.meta.number));
        old.for_each(|old| old.file.mark_obsolete());
        drop(current_state);
        self.signal.notify();
        Ok(())
    }

    pub(crate) fn manifest_of(&self, version: &Version, state: &ManifestState) -> Manifest {
        Manifest {
            keyspaces: self.keyspaces.iter().map(|entry| entry.options.name.clone()).collect(),
            last_sequence: version.last_sequence,
            log: state.log,
            next_file: self.next_file.load(Ordering::Relaxed),
            tables: version
                .tables()
                .map(|(level, table)| TableRecord::new(level, &table.meta, table.is_quarantined()))
                .collect(),
            blobs: version.blobs().values().map(|live| BlobRecord::new(&live.file.meta)).collect(),
            range_tombstones: version
                .range_tombstones()
                .map(|(keyspace, tombstone)| RangeTombstoneRecord::new(keyspace, tombstone))
                .collect(),
        }
    }

    /// Stops background work and releases the directory; the second time it does nothing.
    pub(crate) fn shut_down(&self) -> Result<(), Error> {
        let Some(lock) = self.lock.lock().take() else { return Ok(()) };
        self.closing.store(true, Ordering::Release);
        self.signal.notify();
        self.signal.wait(|| (self.workers.load(Ordering::Acquire) == 0).then_some(()));
        let written = self.write_buffered();
        drop(lock);
        written
    }

    pub(crate) fn stats(&self) -> Stats {
        let super_version = self.super_version();
        let mut stats = self.counters().read();
        stats.memtable_bytes = super_version.active.byte_len() as u64;
        stats.frozen_memtables = super_version.frozen.len();
        stats.spare_memtable_bytes = self.chunks.byte_len() as u64;
        stats.frozen_memtable_bytes = super_version.frozen.iter().map(|set| set.byte_len() as u64).sum();
        stats.wal_bytes = super_version.active.log_bytes()
            + super_version.frozen.iter().map(|set| set.log_bytes()).sum::<u64>();
        stats.cache_bytes = self.context.cache.byte_len();
        stats.cache_capacity_bytes = *self.cache_bytes.lock() as u64;
        stats.memory_budget_bytes = self.options.memory_bytes as u64;
        let blobs = super_version.version.blobs();
        stats.blob_files = blobs.len();
        stats.blob_bytes = blobs.values().map(|live| live.file.meta.bytes).sum();
        stats.blob_garbage_bytes = blobs.values().map(|live| live.garbage_disk_bytes()).sum();
        stats.running_compactions = self.compacting.lock().len();
        stats.compaction_debt_bytes = compaction::debt(&self.options, &super_version.version);
        for ((_, keyspace), entry) in super_version.version.keyspaces().zip(&self.keyspaces) {
            let levels = (0..LEVELS)
                .map(|level| {
                    let tables = keyspace.level(level);
                    LevelStats {
                        tables: tables.len(),
                        bytes: keyspace.level_bytes(level),
                        entries: tables.iter().map(|table| table.meta.entries).sum(),
                        tombstones: tables.iter().map(|table| table.meta.tombstones).sum(),
                    }
                })
                .collect();
            let range_tombstones = keyspace.range_tombstones.len();
            stats.keyspaces.push(KeyspaceStats {
                name: entry.options.name.clone(),
                levels,
                range_tombstones,
            });
        }
        stats.table_memory_bytes = super_version.version.memory_bytes() as u64;
        stats.memory_bytes = stats.memtable_bytes
            + stats.spare_memtable_bytes
            + stats.frozen_memtable_bytes
            + stats.cache_bytes
            + stats.table_memory_bytes;
        stats.quarantined_tables =
            super_version.version.tables().filter(|(_, table)| table.is_quarantined()).count();
        stats.damages = self.context.damages.list();
        stats.last_background_error = self.background_error();
        stats.poisoned = self.poison.get().cloned();
        stats
    }
}
