//! The flush and the compaction worker: loops on threads of their own, or a turn in the writer's call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Error;
use crate::state::Inner;

/// The wait after the first failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Those who work in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Worker {
    Flush,
    /// One of several.
    Compaction(usize),
}

/// Counts a worker as long as it may touch the store, also if it never gets to run.
struct Presence(Arc<Inner>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Ordering::AcqRel);
        self.0.signal.notify();
    }
}

impl Inner {
    /// Starts the workers, unless their work is done inline.
    pub(crate) fn start_workers(self: &Arc<Inner>) {
        if self.options.background.is_inline() {
            return;
        }
        for worker in self.worker_list() {
            let name = match worker {
                Worker::Flush => "allidb-flush",
                Worker::Compaction(_) => "allidb-compact",
            };
            self.workers.fetch_add(1, Ordering::AcqRel);
            let presence = Presence(self.clone());
            // One that is not started counts as one that has ended.
            self.options.background.spawn(name, Box::new(move || presence.0.work(worker)));
        }
    }

    fn worker_list(&self) -> impl Iterator<Item = Worker> {
        let compactions = self.options.compaction_threads.max(1);
        std::iter::once(Worker::Flush).chain((0..compactions).map(Worker::Compaction))
    }

    /// Whether a worker has ended although the engine is open.
    pub(crate) fn lacks_workers(&self) -> bool {
        self.workers.load(Ordering::Acquire) < self.worker_list().count() as u64
    }

    fn turn(&self, worker: Worker) -> Result<bool, Error> {
        let done = match worker {
            Worker::Flush => self.flush_oldest(),
            Worker::Compaction(_) => self.compact_once(),
        };
        self.note(worker, done)
    }

    fn work(&self, worker: Worker) {
        let mut retry = FIRST_RETRY;
        loop {
            let go_on = self.signal.wait(|| {
                if self.check_writable().is_err() {
                    return Some(false);
                }
                let is_due = match worker {
                    Worker::Flush => self.needs_flush(),
                    Worker::Compaction(_) => self.needs_compaction(),
                };
                is_due.then_some(true)
            });
            if !go_on {
                return;
            }
            if self.turn(worker).is_ok() {
                retry = FIRST_RETRY;
            } else {
                self.signal.wait_for(retry, || self.check_writable().is_err());
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }

    /// Does what is due, in this call. A failure is shown in the stats and tried again with the next call.
    pub(crate) fn run_inline(&self) {
        if !self.options.background.is_inline() {
            return;
        }
        for worker in [Worker::Flush, Worker::Compaction(0)] {
            while self.check_writable().is_ok() && matches!(self.turn(worker), Ok(true)) {}
        }
    }

    /// Whether memtables wait for the flush.
    pub(crate) fn needs_flush(&self) -> bool {
        !self.super_version().frozen.is_empty()
    }

    /// Waits until no frozen memtables are left, or until flushing fails.
    pub(crate) fn drain_frozen(&self) -> Result<(), Error> {
        // In this call instead of waiting for the worker: the error comes back as it is.
        while self.needs_flush() {
            self.turn(Worker::Flush)?;
        }
        Ok(())
    }

    /// Waits until nothing is due.
    pub(crate) fn wait_idle(&self) -> Result<(), Error> {
        loop {
            self.drain_frozen()?;
            if !self.turn(Worker::Compaction(0))? && !self.needs_flush() {
                self.wait_for_compactions();
                if !self.needs_compaction() && !self.needs_flush() {
                    return Ok(());
                }
            }
        }
    }

    /// Remembers how a flush or compaction went. A failed fsync is the end of all writes; anything else left
    /// the store as it was and is tried again.
    pub(crate) fn note<T>(&self, worker: Worker, result: Result<T, Error>) -> Result<T, Error> {
        let error = match result {
            Ok(done) => {
                self.failures.lock().remove(&worker);
                return Ok(done);
            }
            Err(error) => error,
        };
        if matches!(error, Error::Closed | Error::Poisoned { .. }) {
            return Err(error);
        }
        self.counters().background_errors.add(1);
        tracing::warn!(%error, "flush or compaction failed");
        self.failures.lock().insert(worker, error.to_string());
        self.signal.notify();
        if error.is_sync() { Err(self.poison(error)) } else { Err(error) }
    }

    /// The failure of the last flush or compaction, until one succeeds.
    pub(crate) fn background_error(&self) -> Option<String> {
        self.failures.lock().values().next().cloned()
    }
}
