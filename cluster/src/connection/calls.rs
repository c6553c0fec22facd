//! What is under way over a connection: as long as anything is, the connection is in use, though nothing may be said over it for a while.
//!
//! And whether what is said over it is taken: if not, answers had better stay with those who made them, and count for them, than pile up beneath.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Waker,
};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

/// The calls under way over a connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Line>);

#[derive(Debug, Default)]
struct Line {
    count: AtomicUsize,
    is_cut: AtomicBool,
    waiting: AtomicWaker,
    is_stalled: AtomicBool,
    /// Who has more to say once it is taken again.
    stalled: Mutex<Vec<Waker>>,
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

    /// Whether nothing more of what is said over it is taken for now. Who asks is woken then once something is.
    pub fn is_stalled(&self, waker: &Waker) -> bool {
        let is_stalled = || self.0.is_stalled.load(Ordering::Acquire);
        if !is_stalled() {
            return false;
        }
        let mut stalled = self.0.stalled.lock();
        // Whoever says that it is taken wakes those who are here by then.
        if is_stalled() && !stalled.iter().any(|other| other.will_wake(waker)) {
            stalled.push(waker.clone());
        }
        is_stalled()
    }

    /// Whether the other end takes no more for now.
    pub(super) fn stall(&self, is_stalled: bool) {
        let was_stalled = self.0.is_stalled.swap(is_stalled, Ordering::AcqRel);
        if was_stalled && !is_stalled {
            let stalled = std::mem::take(&mut *self.0.stalled.lock());
            stalled.into_iter().for_each(Waker::wake);
        }
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Wake};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_has_more_to_say_is_woken_once_it_is_taken_again() {
        let calls = Calls::default();
        let woken = [(); 2].map(|()| Arc::new(Woken::default()));
        let wakers = woken.clone().map(Waker::from);
        let counts = || woken.each_ref().map(|woken| woken.0.load(Ordering::Relaxed));
        assert!(!calls.is_stalled(&wakers[0]));
        calls.stall(true);
        assert!(calls.is_stalled(&wakers[0]) && calls.is_stalled(&wakers[1]) && calls.is_stalled(&wakers[0]));
        calls.stall(true);
        assert_eq!(counts(), [0, 0]);
        calls.stall(false);
        assert_eq!(counts(), [1, 1]);
        assert!(!calls.is_stalled(&wakers[0]));
        calls.stall(true);
        calls.stall(false);
        assert_eq!(counts(), [1, 1], "nobody waits any more");
    }
}
