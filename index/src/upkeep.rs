//! What is done for an index in the background: sealing what is full in memory, merging segments; and writes that wait for it.

use std::{
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use allidb_storage::Background;
use parking_lot::Mutex;

use crate::{
    clock::Clock,
    duty::{Duty, Work},
    error::{Error, Result},
    shelf::{FreshSet, Shelf},
    worker::{Worker, WorkerChange, WorkerStatus},
};

/// Why a worker does nothing, if the operating system gives it no thread.
pub(crate) const NO_THREAD: &str = "no thread could be started";
/// How often an index is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a write waits for room, and how often it looks.
const ROOM_WITHIN: Duration = Duration::from_secs(10);
const ROOM_EVERY: Duration = Duration::from_millis(5);
/// A growing set is sealed, and its memory given back, when nobody has written for so many ticks.
const IDLE_TICKS: u32 = 60;
/// Nobody has written for so many ticks: what is only of use at rest is done.
const QUIET_TICKS: u32 = 120;

/// An index that is seen to in the background.
pub(crate) trait Upkeep: Send + Sync + 'static {
    /// What it is of, in messages.
    const OF: &'static str;
    /// The thread that looks after it.
    const WATCH: &'static str;

    fn machine(&self) -> &Machine;

    /// Whether there is anything to do of a kind.
    fn is_due(&self, work: Work) -> bool;

    /// Does what is to be done next of a kind.
    fn do_next(&self, work: Work) -> Result<()>;

    /// Full sets that wait to be sealed, and the changes in them.
    fn frozen(&self) -> (usize, usize);

    /// Full sets that may wait before writes do.
    fn most_frozen(&self) -> usize;

    /// Whether what is fresh takes more memory than it may, that included that searches still read.
    fn is_over_budget(&self) -> bool;

    /// Closes the growing set if there is anything in it.
    fn close_growing(&self);

    /// A second has passed.
    fn tick(&self);
}

/// What background work needs, whatever it does.
pub(crate) struct Machine {
    duty: Duty,
    workers: [Worker; Work::ALL.len()],
    background: Arc<dyn Background>,
    clock: Arc<dyn Clock>,
    /// Generation and fill of the growing set at the last tick, and for how many ticks they have been so.
    idle: Mutex<(u64, usize, u32)>,
    closed: AtomicBool,
}

impl Machine {
    /// `names` are those of the workers that seal and merge.
    pub(crate) fn new(
        names: [&'static str; Work::ALL.len()],
        background: Arc<dyn Background>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (duty, closed) = (Duty::default(), AtomicBool::new(false));
        Self { duty, workers: names.map(Worker::new), background, clock, idle: Mutex::default(), closed }
    }

    fn worker(&self, work: Work) -> &Worker {
        &self.workers[work as usize]
    }

    fn is_over(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether nobody has written for so long that there is time for what would otherwise be too much work.
    pub(crate) fn is_quiet(&self) -> bool {
        self.idle.lock().2 >= QUIET_TICKS
    }

    /// A second has passed. True if the growing set is to be closed, so that it can be sealed: nobody writes to it any more.
    pub(crate) fn tick<G: FreshSet, S>(&self, shelf: &Shelf<G, S>) -> bool {
        self.duty.tick();
        let mut idle = self.idle.lock();
        let (generation, fill) = (shelf.growing.generation(), shelf.growing.fill());
        let ticks = if (idle.0, idle.1) == (generation, fill) { idle.2.saturating_add(1) } else { 0 };
        *idle = (generation, fill, ticks);
        fill > 0 && ticks >= IDLE_TICKS
    }
}

/// An index and its upkeep.
pub(crate) struct Kept<T>(Arc<T>);

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Upkeep> Kept<T> {
    pub(crate) fn new(index: T) -> Self {
        Self(Arc::new(index))
    }

    /// Sees to the index in the background, if there is anything to do.
    pub(crate) fn maintain(&self) {
        let machine = self.machine();
        for work in Work::ALL {
            if self.needs(work) && machine.duty.begin(work) {
                let index = self.clone();
                let task = move || index.work(work);
                let worker = machine.worker(work);
                if machine.background.is_inline() {
                    task();
                } else if !machine.background.spawn(worker.name(), Box::new(task)) {
                    worker.failed(machine.clock.now(), &NO_THREAD);
                    machine.duty.end(work, true);
                }
            }
        }
    }

    /// Works until nothing of its kind is due.
    fn work(&self, work: Work) {
        let machine = self.machine();
        let worker = machine.worker(work);
        let _turn = worker.begin();
        loop {
            // A defect in writing must not take the node down: searches go on without what was being written.
            let worked = catch_unwind(AssertUnwindSafe(|| self.work_off(work)));
            let has_failed = match worked {
                Ok(Ok(())) => false,
                Ok(Err(error)) => {
                    tracing::warn!(worker = worker.name(), %error, "{} could not be written to a segment; it is tried again", T::OF);
                    worker.failed(machine.clock.now(), &error);
                    true
                }
                Err(_) => {
                    tracing::error!(worker = worker.name(), "writing {} panicked; it is tried again", T::OF);
                    worker.failed(machine.clock.now(), &"it panicked; the log says where");
                    true
                }
            };
            machine.duty.end(work, has_failed);
            // What became due just before the end was left to this thread.
            if has_failed || !self.needs(work) || !machine.duty.begin(work) {
                break;
            }
        }
        if work == Work::Seal {
            self.maintain();
        }
    }

    fn needs(&self, work: Work) -> bool {
        let machine = self.machine();
        let may = !machine.is_over() && !machine.duty.rests(work) && !machine.worker(work).is_paused();
        may && self.is_due(work)
    }

    fn work_off(&self, work: Work) -> Result<()> {
        let machine = self.machine();
        let worker = machine.worker(work);
        while self.is_due(work) && !machine.is_over() && !worker.is_paused() {
            let begun = Instant::now();
            self.do_next(work)?;
            worker.pace(begun.elapsed(), &|| machine.is_over());
        }
        Ok(())
    }

    /// Looks after the index for as long as there is one.
    pub(crate) fn watch(&self) {
        let background = &self.machine().background;
        if background.is_inline() {
            return;
        }
        let index = Arc::downgrade(&self.0);
        let watch = move || {
            loop {
                std::thread::sleep(TICK);
                let Some(index) = Weak::upgrade(&index).map(Kept) else { return };
                if index.machine().is_over() {
                    return;
                }
                index.tick();
                index.maintain();
            }
        };
        background.spawn(T::WATCH, Box::new(watch));
    }

    fn has_backlog(&self) -> bool {
        self.frozen().0 >= self.most_frozen() || self.is_over_budget()
    }

    /// Waits until not as much waits to be sealed as may.
    ///
    /// # Errors
    /// If that takes too long: sealing fails, or cannot keep up.
    pub(crate) fn wait_for_room(&self) -> Result<()> {
        let begun = Instant::now();
        let machine = self.machine();
        while self.has_backlog() {
            if self.is_over_budget() && self.frozen().0 == 0 {
                self.close_growing();
            }
            self.maintain();
            let is_inline = machine.background.is_inline();
            if begun.elapsed() > ROOM_WITHIN || (is_inline && self.has_backlog()) {
                let worker = machine.worker(Work::Seal);
                let why = match worker.is_paused() {
                    true => format!("{} is paused", worker.name()),
                    false => "they are not written to segments as fast as they come".to_owned(),
                };
                let of = T::OF;
                return Err(Error::Exhausted(format!(
                    "memory for fresh {of} is full: {why}; try again later"
                )));
            }
            if !is_inline {
                std::thread::sleep(ROOM_EVERY);
            }
        }
        Ok(())
    }

    /// Writes what is fresh to a segment, and waits for that.
    pub(crate) fn seal(&self) -> Result<()> {
        self.close_growing();
        let duty = &self.machine().duty;
        while self.frozen().0 > 0 {
            if duty.begin(Work::Seal) {
                let sealed = self.work_off(Work::Seal);
                duty.end(Work::Seal, sealed.is_err());
                sealed?;
            } else {
                std::thread::sleep(ROOM_EVERY);
            }
        }
        self.maintain();
        Ok(())
    }

    /// What the workers are at.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        Work::ALL.into_iter().map(|work| self.status(work)).collect()
    }

    fn status(&self, work: Work) -> WorkerStatus {
        let waiting = if work == Work::Seal { self.frozen().1 } else { 0 };
        self.machine().worker(work).status(0, waiting)
    }

    /// Pauses, resumes or slows down a worker; gives what it is at then. `None` if none has this name.
    ///
    /// # Errors
    /// If the change cannot be.
    pub(crate) fn change_worker(&self, name: &str, change: WorkerChange) -> Result<Option<WorkerStatus>> {
        let machine = self.machine();
        let Some(work) = Work::ALL.into_iter().find(|work| machine.worker(*work).name() == name) else {
            return Ok(None);
        };
        machine.worker(work).change(change)?;
        Ok(Some(self.status(work)))
    }

    /// Ends background work soon.
    pub(crate) fn close(&self) {
        self.machine().closed.store(true, Ordering::Release);
    }
}
