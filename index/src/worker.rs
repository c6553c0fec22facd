//! Background work as operators see it: what it does, how far it is, what went wrong last, and a hand on its brake.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    error::{Error, Result},
    model::Timestamp,
};

/// The longest rest in one go, so that whoever ends the work does not wait for it.
const REST: Duration = Duration::from_millis(100);

/// A kind of background work of a node. It may be paused, and held to a share of the time; both last until a restart.
#[derive(Debug)]
pub(crate) struct Worker {
    name: &'static str,
    running: AtomicUsize,
    paused: AtomicBool,
    /// Of the time that each of its threads may work, in percent.
    share: AtomicU8,
    last_error: Mutex<Option<(Timestamp, String)>>,
    /// Told when a pause ends.
    resumed: Condvar,
    waiting: Mutex<()>,
}

/// What a worker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing is to be done.
    Idle,
    /// Something is being done.
    Working,
    /// Nothing is done, whatever there is to do, until it is resumed.
    Paused,
}

/// A worker at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Its name, such as `vector-merge`.
    pub name: &'static str,
    /// What it is at.
    pub activity: Activity,
    /// Of the time that each of its threads may work, 1 to 100 percent.
    pub share: u8,
    /// Rows done of what it is at.
    pub done: usize,
    /// Rows to do in all; zero while it is at nothing whose end is known.
    pub total: usize,
    /// What went wrong last since the start, and when. It was tried again since, or will be.
    pub last_error: Option<(Timestamp, String)>,
}

/// What is to change of a worker; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerChange {
    /// Whether it rests.
    pub paused: Option<bool>,
    /// Of the time that each of its threads may work, 1 to 100 percent.
    pub share: Option<u8>,
}

/// Counts as work under way while it lives.
pub(crate) struct Turn<'a>(&'a Worker);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Worker {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            running: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            share: AtomicU8::new(100),
            last_error: Mutex::default(),
            resumed: Condvar::new(),
            waiting: Mutex::new(()),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn begin(&self) -> Turn<'_> {
        self.running.fetch_add(1, Ordering::AcqRel);
        Turn(self)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Called by each of its threads after having worked so long: rests as long as its share of the time asks for, and for as
    /// long as the worker is paused.
    pub(crate) fn pace(&self, worked: Duration, is_over: &dyn Fn() -> bool) {
        let share = u32::from(self.share.load(Ordering::Relaxed)).max(1);
        let mut rest = worked * (100 - share.min(100)) / share;
        while !is_over() && (self.is_paused() || !rest.is_zero()) {
            let step = if self.is_paused() { REST } else { rest.min(REST) };
            let mut waiting = self.waiting.lock();
            self.resumed.wait_for(&mut waiting, step);
            rest = rest.saturating_sub(step);
        }
    }

    pub(crate) fn failed(&self, at: Timestamp, error: &dyn fmt::Display) {
        *self.last_error.lock() = Some((at, error.to_string()));
    }

    /// # Errors
    /// If the share is none.
    pub(crate) fn change(&self, change: WorkerChange) -> Result<()> {
        if let Some(share) = change.share {
            if !(1..=100).contains(&share) {
                return Err(Error::invalid("share_percent", format!("is {share}; it must be 1 to 100")));
            }
            self.share.store(share, Ordering::Relaxed);
        }
        if let Some(paused) = change.paused {
            self.paused.store(paused, Ordering::Release);
            self.resumed.notify_all();
        }
        Ok(())
    }

    pub(crate) fn status(&self, done: usize, total: usize) -> WorkerStatus {
        let activity = match self.running.load(Ordering::Acquire) {
            _ if self.is_paused() => Activity::Paused,
            0 => Activity::Idle,
            _ => Activity::Working,
        };
        let share = self.share.load(Ordering::Relaxed);
        WorkerStatus {
            name: self.name,
            activity,
            share,
            done,
            total,
            last_error: self.last_error.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Instant};

    use super::*;

    #[test]
    fn a_share_is_kept_a_pause_lasts_until_it_is_ended_and_nobody_waits_at_the_end() {
        let worker = Arc::new(Worker::new("test"));
        let since = Instant::now();
        worker.pace(Duration::from_secs(60), &|| false);
        assert!(since.elapsed() < Duration::from_secs(30), "all of the time is its own");
        worker.change(WorkerChange { share: Some(25), paused: None }).unwrap();
        let since = Instant::now();
        worker.pace(Duration::from_millis(20), &|| false);
        assert!(since.elapsed() >= Duration::from_millis(60));
        for share in [0, 101] {
            assert!(worker.change(WorkerChange { share: Some(share), paused: Some(true) }).is_err());
        }
        assert_eq!(worker.status(1, 2).activity, Activity::Idle, "a change is made whole or not at all");
        worker.change(WorkerChange { share: None, paused: Some(true) }).unwrap();
        assert_eq!(worker.status(1, 2).activity, Activity::Paused);
        worker.pace(Duration::ZERO, &|| true);
        let paced = thread::spawn({
            let worker = Arc::clone(&worker);
            move || worker.pace(Duration::ZERO, &|| false)
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!paced.is_finished());
        worker.change(WorkerChange { share: None, paused: Some(false) }).unwrap();
        paced.join().unwrap();
        let turn = worker.begin();
        assert_eq!(worker.status(1, 2).activity, Activity::Working);
        drop(turn);
        worker.failed(Timestamp(7), &"no luck");
        assert_eq!(worker.status(0, 0).last_error, Some((Timestamp(7), "no luck".to_owned())));
    }
}
