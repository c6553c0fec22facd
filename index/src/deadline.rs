//! When a caller stops waiting: at a moment that it names, or because it has gone away.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

thread_local! {
    /// Each turns true when somebody for whom this thread works has gone away.
    static GONE: RefCell<Vec<Arc<AtomicBool>>> = const { RefCell::new(Vec::new()) };
}

/// When a caller stops waiting. Work looks at it every so often, and ends early.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// Does work for a caller who may go away, which `gone` tells: all deadlines that are looked at on this thread have passed then.
    pub fn watch<T>(gone: Arc<AtomicBool>, work: impl FnOnce() -> T) -> T {
        Self::watch_all(vec![gone], work)
    }

    fn watch_all<T>(gone: Vec<Arc<AtomicBool>>, work: impl FnOnce() -> T) -> T {
        /// Also where the work panics, the thread goes on to work for others.
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                GONE.with_borrow_mut(|gone| gone.truncate(self.0));
            }
        }
        let _restore = Restore(GONE.with_borrow_mut(|all| {
            let before = all.len();
            all.extend(gone);
            before
        }));
        work()
    }

    /// The same work to be done on another thread, for the caller for whom this one works, and only until `unneeded` turns true.
    pub(crate) fn carried<T>(unneeded: Arc<AtomicBool>, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let mut gone = GONE.with_borrow(Clone::clone);
        gone.push(unneeded);
        move || Self::watch_all(gone, work)
    }

    /// Whether it has passed, or the caller has gone away.
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
            || GONE.with_borrow(|gone| gone.iter().any(|gone| gone.load(Ordering::Relaxed)))
    }

    /// What is left.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// # Errors
    /// [`Error::DeadlineExceeded`] if it has passed, or the caller has gone away.
    pub fn check(self) -> Result<()> {
        if self.has_passed() { Err(Error::DeadlineExceeded) } else { Ok(()) }
    }
}
