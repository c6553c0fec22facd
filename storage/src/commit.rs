//! Group commit: many writers, one write and one fsync, one order.
//!
//! The first writer to come leads: it takes along whoever has queued up while it waited for the log, appends
//! all their batches, syncs once, and then applies them in that order. Log and apply are two locks taken hand
//! over hand, so that the next group is written and synced while this one is applied, and still none can
//! overtake another.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, MutexGuard};
use tracing::instrument;

use crate::Sequence;
use crate::batch::{ChangeKind, WriteBatch};
use crate::error::Error;
use crate::files;
use crate::group_queue::{Follower, GroupQueue, Turn};
use crate::memtable::{self, MemtableSet};
use crate::options::{Durability, MAX_KEY_BYTES};
use crate::state::Inner;
use crate::wal::record::{LOG_FORMAT, SegmentHeader};
use crate::wal::writer::{CompleteSegment, SegmentWriter};

/// Bytes of batches that one group takes to the log.
const GROUP_BYTES: usize = 4 << 20;
/// Memory of batches that may wait; further writers wait before they queue up.
const QUEUE_BYTES: usize = 32 << 20;

/// Called with a batch's sequence between its insertion and its visibility.
pub(crate) type Publish = Box<dyn FnOnce(Sequence) + Send>;

/// A batch on its way.
pub(crate) struct Request {
    batch: WriteBatch,
    byte_len: usize,
    /// What the batch will take in the memtables.
    memory_bytes: usize,
    durability: Durability,
    publish: Option<Publish>,
}

impl Request {
    /// What it counts while it waits: small changes take more memory than in the log.
    fn queued_bytes(&self) -> usize {
        self.byte_len.max(self.memory_bytes)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Request").field("byte_len", &self.byte_len).finish_non_exhaustive()
    }
}

/// What the leader owns while it writes.
#[derive(Debug)]
pub(crate) struct Log {
    segment: SegmentWriter,
    /// Complete segments that are not synced, the oldest first. Most are flushed, and removed, before that is needed.
    unsynced: Vec<CompleteSegment>,
    /// The sequence of the last batch in the log.
    last_sequence: Sequence,
    /// The memtables that the segment belongs to.
    memtables: Arc<MemtableSet>,
}

/// The state of the commit path. Locks are taken in the order of the fields `log`, `apply`, `queue`.
#[derive(Debug)]
pub(crate) struct Commit {
    log: Mutex<Log>,
    /// The memtables that take the next batch.
    apply: Mutex<Arc<MemtableSet>>,
    queue: GroupQueue<Request, Result<Sequence, Error>>,
}

impl Log {
    pub(crate) fn last_sequence(&self) -> Sequence {
        self.last_sequence
    }

    /// A sequence that no record has, as what has it is in tables already. There are no batches in memory.
    pub(crate) fn skip_to(&mut self, active: &MemtableSet, sequence: Sequence) {
        self.last_sequence = sequence;
        active.skip_to(sequence);
    }
}

impl Commit {
    /// Keeps writers out of the log.
    pub(crate) fn lock_log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    /// Keeps batches from becoming visible.
    pub(crate) fn lock_apply(&self) -> MutexGuard<'_, Arc<MemtableSet>> {
        self.apply.lock()
    }

    pub(crate) fn new(segment: SegmentWriter, last_sequence: Sequence, active: Arc<MemtableSet>) -> Commit {
        let log = Log { segment, unsynced: Vec::new(), last_sequence, memtables: active.clone() };
        Commit { log: Mutex::new(log), apply: Mutex::new(active), queue: GroupQueue::new(QUEUE_BYTES) }
    }
}

impl Inner {
    /// Takes a batch through log, memtable, publication and visibility.
    #[instrument(level = "debug", skip_all, fields(?durability, bytes = batch.byte_len()))]
    pub(crate) fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
        publish: Option<Publish>,
    ) -> Result<Sequence, Error> {
        self.check_writable()?;
        let byte_len = batch.byte_len();
        self.check_batch(&batch, byte_len)?;
        self.admit(&batch, byte_len)?;
        let memory_bytes = memtable::memory_bytes(&batch);
        let request = Request { batch, byte_len, memory_bytes, durability, publish };
        let queued_bytes = request.queued_bytes();
        match self.commit.queue.join(request, queued_bytes) {
            Turn::Lead(own) => self.lead(own),
            Turn::Done(result) => result,
        }
    }

    fn check_batch(&self, batch: &WriteBatch, byte_len: usize) -> Result<(), Error> {
        if byte_len > self.options.batch_bytes {
            let what = format!("a batch of {byte_len} bytes; the limit is {}", self.options.batch_bytes);
            return Err(Error::InvalidArgument { what });
        }
        for change in batch.changes() {
            self.check_keyspace(change.keyspace)?;
            let upper = if let ChangeKind::DeleteRange(Some(upper)) = &change.kind { upper.len() } else { 0 };
            let len = change.key.len().max(upper);
            if len > MAX_KEY_BYTES {
                let what = format!("a key of {len} bytes; the limit is {MAX_KEY_BYTES}");
                return Err(Error::InvalidArgument { what });
            }
        }
        self.check_range_deletes(batch)
    }

    fn lead(&self, own: Request) -> Result<Sequence, Error> {
        let mut log = self.commit.log.lock();
        let mut bytes = own.byte_len;
        let others = self.commit.queue.gather(|next| {
            let takes = bytes < GROUP_BYTES;
            bytes += next.byte_len;
            takes
        });
        let first = match self.log_group(&mut log, &own, &others) {
            Ok(first) => first,
            Err(error) => {
                self.commit.queue.hand_over();
                drop(log);
                for other in others {
                    other.split().1.finish(Err(error.duplicate()));
                }
                return Err(error);
            }
        };
        let active = self.commit.apply.lock();
        active.set_log_bytes(log.segment.byte_len());
        self.commit.queue.hand_over();
        drop(log);
        let result = self.apply(&active, own.batch, own.publish, first);
        let mut sequence = first;
        let mut finished = Vec::with_capacity(others.len());
        for other in others {
            sequence += 1;
            let (request, finish) = other.split();
            finished.push((finish, self.apply(&active, request.batch, request.publish, sequence)));
        }
        drop(active);
        for (finish, result) in finished {
            finish.finish(result);
        }
        result
    }

    /// Writes a group to the log as durably as its most demanding member asks for. Returns the first sequence.
    #[instrument(level = "debug", skip_all, fields(batches = 1 + others.len()))]
    fn log_group(
        &self,
        log: &mut Log,
        own: &Request,
        others: &[Follower<Request, Result<Sequence, Error>>],
    ) -> Result<Sequence, Error> {
        // Under the lock: whoever came before may have failed.
        self.check_writable()?;
        let requests = || std::iter::once(own).chain(others.iter().map(|other| &other.request));
        let memory_bytes = requests().map(|request| request.memory_bytes).sum::<usize>();
        let used = log.memtables.byte_len();
        if log.segment.byte_len() >= self.options.wal_segment_bytes
            || (used > 0 && used + memory_bytes > self.options.memtable_bytes)
            || log.memtables.has_many_range_tombstones()
        {
            let active = self.commit.apply.lock();
            self.rotate(log, active)?;
        }
        if requests().any(|request| request.durability == Durability::Sync) {
            // Before the records are written, which say so.
            self.sync_earlier(log)?;
        }
        let first = log.last_sequence + 1;
        let mark = log.segment.mark();
        let len_before = log.segment.byte_len();
        let mut durability = Durability::None;
        let mut sequence = log.last_sequence;
        for request in requests() {
            sequence += 1;
            durability = durability.max(request.durability);
            if !log.segment.append(&request.batch, sequence) {
                log.segment.roll_back(mark).map_err(|error| self.poison(error))?;
                return Err(Error::InvalidArgument { what: "a batch too long for the log".into() });
            }
        }
        let appended = log.segment.byte_len() - len_before;
        let written = match durability {
            Durability::Sync => log.segment.sync(),
            Durability::None if !log.segment.is_buffer_full() => Ok(None),
            Durability::Flush | Durability::None => log.segment.write().map(|()| None),
        };
        match written {
            Ok(time) => time.into_iter().for_each(|time| self.counters().wal_fsyncs.add(time)),
            Err(error) => return Err(self.log_failed(log, Some(mark), error)),
        }
        self.counters().wal_bytes_written.add(appended);
        self.counters().commit_groups.add(1);
        self.counters().batches.add(1 + others.len() as u64);
        let bytes = requests().map(|request| request.byte_len).sum::<usize>();
        self.counters().batch_bytes.add(bytes as u64);
        log.last_sequence = sequence;
        // Before it is inserted: meanwhile the next group is judged by it.
        if log.memtables.reserve(memory_bytes) > self.options.memtable_bytes {
            self.share_memory();
        }
        Ok(first)
    }

    /// A write that finds the disk full leaves nothing behind once the file is cut back; after any other failure
    /// nobody knows what is on disk.
    fn log_failed(&self, log: &mut Log, mark: Option<crate::wal::writer::Mark>, error: Error) -> Error {
        if !error.is_disk_full() || error.is_sync() {
            return self.poison(error);
        }
        let mark = mark.unwrap_or_else(|| log.segment.mark());
        match log.segment.roll_back(mark) {
            Ok(()) => self.disk_full(),
            Err(error) => self.poison(error),
        }
    }

    /// Inserts, publishes and shows one batch.
    fn apply(
        &self,
        active: &MemtableSet,
        batch: WriteBatch,
        publish: Option<Publish>,
        sequence: Sequence,
    ) -> Result<Sequence, Error> {
        active.insert(batch, sequence);
        if let Some(publish) = publish
            && catch_unwind(AssertUnwindSafe(|| publish(sequence))).is_err()
        {
            // What derives from the batches lacks one now, and the next would build on that.
            let reason = format!("the publication of batch {sequence} panicked");
            self.visible.store(sequence, Ordering::Release);
            return Err(self.poison(reason));
        }
        self.visible.store(sequence, Ordering::Release);
        Ok(sequence)
    }

    /// Syncs the segments before the one that takes batches, in so far as they are still needed.
    fn sync_earlier(&self, log: &mut Log) -> Result<(), Error> {
        let oldest = self.oldest_log.load(Ordering::Acquire);
        for segment in log.unsynced.iter().filter(|segment| segment.number >= oldest) {
            let time = segment.sync().map_err(|error| self.poison(error))?;
            self.counters().wal_fsyncs.add(time);
        }
        log.unsynced.clear();
        log.segment.follow_synced();
        Ok(())
    }

    /// Freezes the memtables that take writes and starts a new segment with new ones. The old segment is not synced:
    /// it may be flushed before anybody asks for that.
    fn rotate(&self, log: &mut Log, mut active: MutexGuard<'_, Arc<MemtableSet>>) -> Result<(), Error> {
        if let Err(error) = log.segment.trim() {
            return Err(self.log_failed(log, None, error));
        }
        let oldest = self.oldest_log.load(Ordering::Acquire);
        log.unsynced.retain(|segment| segment.number >= oldest);
        let is_synced = log.unsynced.is_empty() && log.segment.is_synced();
        let header = SegmentHeader {
            format: LOG_FORMAT,
            number: self.next_file_number(),
            previous: log.segment.number,
            previous_len: log.segment.byte_len(),
            previous_synced: is_synced,
        };
        let segment_bytes = self.options.wal_segment_bytes;
        let created = SegmentWriter::create(self.fs(), self.dir(), header, is_synced, segment_bytes);
        let (segment, time) = created.map_err(|error| self.segment_failed(header.number, error))?;
        self.counters().wal_fsyncs.add(time);
        if !log.segment.is_synced() {
            log.unsynced.push(log.segment.complete());
        }
        active.set_log_bytes(log.segment.byte_len());
        log.segment = segment;
        let (keyspaces, chunks) = (self.keyspaces.len(), self.chunks.clone());
        let set = Arc::new(MemtableSet::new(header.number, keyspaces, log.last_sequence, chunks));
        self.freeze(set.clone());
        log.memtables = set.clone();
        *active = set;
        drop(active);
        self.signal.notify();
        Ok(())
    }

    /// The old segment goes on if nothing remains of the new one.
    fn segment_failed(&self, number: u64, error: Error) -> Error {
        let undone = match self.fs().remove(&files::log(self.dir(), number)) {
            Ok(()) => true,
            Err(remove) => remove.kind() == std::io::ErrorKind::NotFound,
        };
        if !undone || error.is_sync() || !error.is_disk_full() {
            return self.poison(error);
        }
        self.disk_full()
    }

    /// Flushes all there is, with writers kept out.
    pub(crate) fn flush_all_of(&self, log: &mut Log) -> Result<(), Error> {
        // Batches without changes are in the log only.
        let has_records = log.last_sequence > self.super_version().version.last_sequence;
        if has_records {
            let active = self.commit.apply.lock();
            self.rotate(log, active)?;
        }
        self.drain_frozen()
    }

    /// Freezes what is in memory, if anything is. Returns the newest frozen segment's number.
    pub(crate) fn freeze_active(&self) -> Result<(), Error> {
        let mut log = self.commit.log.lock();
        self.check_writable()?;
        let active = self.commit.apply.lock();
        if active.is_empty() { Ok(()) } else { self.rotate(&mut log, active) }
    }

    /// The number of the segment that takes new batches, and how much of it is synced.
    pub(crate) fn synced_segment(&self) -> (u64, u64) {
        let log = self.commit.log.lock();
        (log.segment.number, log.segment.synced_len())
    }

    /// Hands buffered batches to the operating system, as far as that is possible: for an engine that goes away.
    pub(crate) fn write_buffered(&self) -> Result<(), Error> {
        let mut log = self.commit.log.lock();
        if self.poison.get().is_some() { Ok(()) } else { log.segment.trim() }
    }

    /// Syncs the log.
    pub(crate) fn sync_log(&self) -> Result<(), Error> {
        let mut log = self.commit.log.lock();
        self.check_writable()?;
        self.sync_earlier(&mut log)?;
        match log.segment.sync() {
            Ok(time) => {
                time.into_iter().for_each(|time| self.counters().wal_fsyncs.add(time));
                Ok(())
            }
            Err(error) => Err(self.log_failed(&mut log, None, error)),
        }
    }
}
