//! The engine: what users call, and the state that everything shares.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::Sequence;
use crate::admission::Admission;
use crate::batch::WriteBatch;
use crate::cache::BlockCache;
use crate::commit::{Commit, Log};
use crate::compaction::Pointers;
use crate::error::Error;
use crate::files;
use crate::fs::{Fs, Lock};
use crate::manifest::{Manifest, TableRecord};
use crate::memtable::MemtableSet;
use crate::options::{Durability, Keyspace, KeyspaceOptions, Options};
use crate::recovery::{Recovery, recover};
use crate::signal::Signal;
use crate::snapshot::Snapshot;
use crate::stats::{Counters, KeyspaceStats, LevelStats, Stats};
use crate::table::reader::TableContext;
use crate::version::{LEVELS, SuperVersion, Version, VersionEdit};
use crate::wal::record::SegmentHeader;
use crate::wal::writer::SegmentWriter;
use crate::workers::Worker;

/// A store that is open. Clones share it; when the last one is dropped, background work stops and the
/// directory is released, without a flush.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What the clones of an [`Engine`] share: dropped with the last one, while snapshots may live on.
#[derive(Debug)]
struct Shared {
    inner: Arc<Inner>,
    recovery: Recovery,
}

/// A keyspace, declared or only known from the disk.
#[derive(Debug)]
pub(crate) struct KeyspaceEntry {
    pub(crate) options: KeyspaceOptions,
    declared: bool,
}

/// What the manifest says beside the tables.
#[derive(Clone, Copy, Debug)]
struct ManifestState {
    last_sequence: Sequence,
    log: u64,
}

/// The state of an engine.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) context: TableContext,
    pub(crate) options: Options,
    /// By id.
    pub(crate) keyspaces: Vec<KeyspaceEntry>,
    pub(crate) commit: Commit,
    pub(crate) admission: Admission,
    pub(crate) signal: Signal,
    /// The sequence of the last visible batch.
    pub(crate) visible: AtomicU64,
    /// Why nothing is written any more.
    pub(crate) poison: OnceLock<String>,
    /// Held during a flush.
    pub(crate) flushing: Mutex<()>,
    /// Held during a compaction.
    pub(crate) compacting: Mutex<Pointers>,
    pub(crate) closing: AtomicBool,
    pub(crate) workers: AtomicU64,
    /// The last failure of each worker, until it succeeds.
    pub(crate) failures: Mutex<BTreeMap<Worker, String>>,
    current: RwLock<Arc<SuperVersion>>,
    manifest: Mutex<ManifestState>,
    snapshots: Mutex<BTreeMap<Sequence, usize>>,
    next_file: AtomicU64,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl Engine {
    /// Opens the store in `dir`, which is created if it does not exist, and replays its log.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is open already, [`Error::Corruption`] if a file is damaged or missing,
    /// [`Error::NewerFormat`], [`Error::InvalidArgument`] for options that contradict each other, [`Error::Io`].
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, options: Options) -> Result<Engine, Error> {
        check_options(&options)?;
        fs.create_dir_all(dir).map_err(|source| Error::io("create", dir, source))?;
        let lock_path = dir.join(files::LOCK);
        let lock = fs.lock(&lock_path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: lock_path.clone() },
            _ => Error::io("lock", &lock_path, source),
        })?;
        let context = TableContext {
            fs,
            dir: dir.to_path_buf(),
            cache: Arc::new(BlockCache::new(options.block_cache_bytes)),
            counters: Arc::new(Counters::default()),
        };
        let recovered = recover(&context, &options.keyspaces)?;
        let mut recovery = recovered.recovery;
        let (previous, previous_len) = recovered.previous;
        let header = SegmentHeader { number: recovered.next_file, previous, previous_len };
        let segment = SegmentWriter::create(&*context.fs, dir, header)?;
        let last_sequence = recovery.last_sequence;
        let active = Arc::new(MemtableSet::new(header.number, recovered.keyspaces.len(), last_sequence));
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
        let inner = Arc::new(Inner {
            context,
            options,
            keyspaces,
            commit: Commit::new(Log { segment, last_sequence }, active),
            admission: Admission::default(),
            signal: Signal::default(),
            visible: AtomicU64::new(last_sequence),
            poison: OnceLock::new(),
            flushing: Mutex::default(),
            compacting: Mutex::default(),
            closing: AtomicBool::new(false),
            workers: AtomicU64::new(0),
            failures: Mutex::default(),
            current: RwLock::new(Arc::new(current)),
            manifest: Mutex::new(ManifestState { last_sequence: recovered.flushed_sequence, log }),
            snapshots: Mutex::default(),
            next_file: AtomicU64::new(header.number + 1),
            lock: Mutex::new(Some(lock)),
        });
        if recovered.needs_manifest {
            inner.install(&VersionEdit::default(), None)?;
        }
        for orphan in &recovered.orphans {
            inner.fs().remove(orphan).map_err(|source| Error::io("remove", orphan, source))?;
        }
        recovery.removed_files = recovered.orphans.len();
        inner.update_pressure(&inner.super_version());
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
        self.inner().note(Worker::Compaction, result)
    }

    /// Waits until no flush and no compaction is due.
    ///
    /// # Errors
    /// What a flush or compaction failed with.
    pub fn wait_idle(&self) -> Result<(), Error> {
        self.inner().wait_idle()
    }

    /// Reads all tables and the manifest and compares them with their checksums.
    ///
    /// # Errors
    /// [`Error::Corruption`] names the first damage that was found.
    pub fn verify(&self) -> Result<(), Error> {
        let inner = self.inner();
        Manifest::read(inner.fs(), inner.dir())?;
        inner.super_version().version.tables().try_for_each(|(_, table)| table.verify())
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        self.inner().stats()
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

fn check_options(options: &Options) -> Result<(), Error> {
    for (index, keyspace) in options.keyspaces.iter().enumerate() {
        let twice = options.keyspaces.iter().skip(index + 1).any(|other| other.name == keyspace.name);
        if twice || keyspace.name.is_empty() {
            let what = format!("a keyspace without a name or declared twice: {:?}", keyspace.name);
            return Err(Error::InvalidArgument { what });
        }
    }
    if options.batch_bytes > 1 << 30 {
        return Err(Error::InvalidArgument { what: "batch_bytes is more than 1 GiB".to_owned() });
    }
    Ok(())
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

    /// Removes what an unfinished flush or compaction wrote.
    pub(crate) fn remove_tables(&self, numbers: &[u64]) {
        for &number in numbers {
            let path = files::table(self.dir(), number);
            match self.fs().remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // The next open removes it.
                    tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished table");
                }
                _ => {}
            }
        }
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
                snapshots.remove(&sequence);
            }
        }
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
        let version = before.version.apply(edit);
        if let Some(flushed) = flushed {
            // Nothing joins the older end of the list meanwhile.
            let rest = before.frozen.iter().rev().find(|set| set.log != flushed.log);
            state.log = rest.map_or(before.active.log, |set| set.log);
            state.last_sequence = flushed.last_sequence();
        }
        if let Some(table) = version.misplaced() {
            let path = files::table(self.dir(), table.meta.number);
            return Err(self.poison(format!("{} would overlap another table of its level", path.display())));
        }
        if let Err(failed) = self.manifest_of(&version, &state).write(self.fs(), self.dir()) {
            if failed.undone {
                edit.added.iter().for_each(|(_, table)| self.forget_added(edit, table));
                return Err(failed.error);
            }
            return Err(self.poison(failed.error));
        }
        *current_state = state;
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
        for (_, table) in &edit.removed {
            self.forget_removed(edit, table);
        }
        drop(current_state);
        self.signal.notify();
        Ok(())
    }

    /// Lets the file of a table go that did not make it into the version; one that only moves is still in use.
    fn forget_added(&self, edit: &VersionEdit, table: &Arc<crate::table::Table>) {
        if !edit.removed.iter().any(|(_, removed)| removed.meta.number == table.meta.number) {
            table.mark_obsolete();
        }
    }

    /// Lets the file of a table go that is no longer in the version, unless it only moved.
    fn forget_removed(&self, edit: &VersionEdit, table: &Arc<crate::table::Table>) {
        if !edit.added.iter().any(|(_, added)| added.meta.number == table.meta.number) {
            table.mark_obsolete();
        }
    }

    fn manifest_of(&self, version: &Version, state: &ManifestState) -> Manifest {
        Manifest {
            keyspaces: self.keyspaces.iter().map(|entry| entry.options.name.clone()).collect(),
            last_sequence: state.last_sequence,
            log: state.log,
            next_file: self.next_file.load(Ordering::Relaxed),
            tables: version.tables().map(|(level, table)| TableRecord::new(level, &table.meta)).collect(),
        }
    }

    /// Stops background work and releases the directory; the second time it does nothing.
    fn shut_down(&self) -> Result<(), Error> {
        let Some(lock) = self.lock.lock().take() else { return Ok(()) };
        self.closing.store(true, Ordering::Release);
        self.signal.notify();
        self.signal.wait(|| (self.workers.load(Ordering::Acquire) == 0).then_some(()));
        let written = self.write_buffered();
        drop(lock);
        written
    }

    fn stats(&self) -> Stats {
        let super_version = self.super_version();
        let mut stats = self.counters().read();
        stats.memtable_bytes = super_version.active.byte_len() as u64;
        stats.frozen_memtables = super_version.frozen.len();
        stats.frozen_memtable_bytes = super_version.frozen.iter().map(|set| set.byte_len() as u64).sum();
        stats.wal_bytes = super_version.active.log_bytes()
            + super_version.frozen.iter().map(|set| set.log_bytes()).sum::<u64>();
        stats.cache_bytes = self.context.cache.byte_len();
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
            stats.keyspaces.push(KeyspaceStats { name: entry.options.name.clone(), levels });
        }
        stats.table_memory_bytes =
            super_version.version.tables().map(|(_, table)| table.memory_bytes() as u64).sum();
        stats.last_background_error = self.background_error();
        stats.poisoned = self.poison.get().cloned();
        stats
    }
}
