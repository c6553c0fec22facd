//! What is under way over a connection: as long as anything is, the connection is in use, though nothing may be said over it for a while.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many calls are under way over a connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<AtomicUsize>);

/// A call, which is under way until this is dropped.
#[derive(Debug)]
pub struct UnderWay(Calls);

impl Calls {
    /// One more, of somebody who was let in: who was not may not keep a connection open by it.
    pub fn begin(&self) -> UnderWay {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// Whether there are any.
    pub(super) fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
