//! What is under way over a connection: as long as anything is, the connection is in use, though nothing may be said over it for a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Waker,
};

use atomic_waker::AtomicWaker;

/// The calls under way over a connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Line>);

#[derive(Debug, Default)]
struct Line {
    count: AtomicUsize,
    is_cut: AtomicBool,
    waiting: AtomicWaker,
}

/// A call, which is under way until this is dropped.
#[derive(Debug)]
pub struct UnderWay(Calls);

impl Calls {
    /// One more, of somebody who was let in: who was not may not keep a connection open by it.
    pub fn begin(&self) -> UnderWay {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// Ends the connection, and all calls over it.
    pub fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Release);
        self.0.waiting.wake();
    }

    /// Whether the connection was to end.
    pub fn was_cut(&self) -> bool {
        self.0.is_cut.load(Ordering::Acquire)
    }

    /// Whether there are any.
    pub(super) fn is_any(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Whether the connection is to end. Who is to be woken then says so before.
    pub(super) fn is_cut(&self, waker: &Waker) -> bool {
        self.0.waiting.register(waker);
        self.was_cut()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}
