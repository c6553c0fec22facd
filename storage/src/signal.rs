//! Wakes those who wait for the engine's state to change.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Counts changes. Whoever changes what others wait for calls [`notify`](Signal::notify) afterwards.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    changes: Mutex<u64>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn notify(&self) {
        *self.changes.lock() += 1;
        self.changed.notify_all();
    }

    /// Waits until `ready` returns something; it is asked again after each change.
    pub(crate) fn wait<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        loop {
            let seen = *self.changes.lock();
            if let Some(result) = ready() {
                return result;
            }
            let mut changes = self.changes.lock();
            while *changes == seen {
                self.changed.wait(&mut changes);
            }
        }
    }

    /// Waits until `ready` is true or the time is over.
    pub(crate) fn wait_for(&self, limit: Duration, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            let seen = *self.changes.lock();
            if ready() {
                return;
            }
            let mut changes = self.changes.lock();
            while *changes == seen {
                if self.changed.wait_until(&mut changes, deadline).timed_out() {
                    return;
                }
            }
        }
    }
}
