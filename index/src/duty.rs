//! Which work is under way for an index, and when work that failed is tried again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Most ticks that pass between two tries of work that fails.
const MAX_REST: u32 = 64;

/// What is done for an index in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Writing what is full in memory to files.
    Seal,
    /// Making one segment of several; reading missing rows again.
    Merge,
}

impl Work {
    pub(crate) const ALL: [Work; 2] = [Work::Seal, Work::Merge];
}

/// The work of one index: one thread at most for each kind, and rests after failures.
#[derive(Debug, Default)]
pub(crate) struct Duty {
    /// Set while some thread does that kind of work.
    busy: [AtomicBool; Work::ALL.len()],
    failures: [AtomicU32; Work::ALL.len()],
    /// Ticks that are still to pass before failed work is tried again.
    rest: [AtomicU32; Work::ALL.len()],
}

impl Duty {
    /// Begins a kind of work, unless another thread is at it.
    pub(crate) fn begin(&self, work: Work) -> bool {
        !self.busy[work as usize].swap(true, Ordering::AcqRel)
    }

    /// Ends it. After a failure some time passes before anything is tried again.
    pub(crate) fn end(&self, work: Work, has_failed: bool) {
        if has_failed {
            let failures = self.failures[work as usize].fetch_add(1, Ordering::Relaxed);
            self.rest[work as usize].store((1 << failures.min(31)).min(MAX_REST), Ordering::Relaxed);
        } else {
            self.failures[work as usize].store(0, Ordering::Relaxed);
        }
        self.busy[work as usize].store(false, Ordering::Release);
    }

    pub(crate) fn is_busy(&self, work: Work) -> bool {
        self.busy[work as usize].load(Ordering::Acquire)
    }

    /// Whether this work failed not long ago.
    pub(crate) fn rests(&self, work: Work) -> bool {
        self.rest[work as usize].load(Ordering::Relaxed) > 0
    }

    /// A second has passed.
    pub(crate) fn tick(&self) {
        for rest in &self.rest {
            rest.store(rest.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        }
    }
}
