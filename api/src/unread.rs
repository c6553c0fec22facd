//! Answers that nobody reads: their places and what they hold are others' once too little of them is taken for too long.
//!
//! A transport asks for more of an answer when there is room for it where it is read. So whoever opens no window, or none any more, leaves an answer
//! standing that is ready. Its connection is ended, which ends all calls over it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use allidb_cluster::{Calls, Pace};
use parking_lot::Mutex;

/// How long an answer may stand, and how many bytes of it are to be taken in a second beyond that.
const PATIENCE: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: u64 = 256 << 10;
/// How often at most is looked, when calls come.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// All answers that stand. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Unread(Arc<Inner>);

struct Inner {
    begun: Instant,
    looking: Pace,
    next: AtomicU64,
    standing: Mutex<HashMap<u64, Arc<Standing>>>,
}

/// An answer.
struct Standing {
    calls: Calls,
    /// When more of it is to be asked for at the latest, in milliseconds; `u64::MAX`: it is not there yet.
    until: AtomicU64,
}

/// An answer, until this is dropped.
pub(crate) struct Answer {
    unread: Unread,
    number: u64,
    standing: Arc<Standing>,
}

impl Default for Unread {
    fn default() -> Self {
        Self(Arc::new(Inner {
            begun: Instant::now(),
            looking: Pace::of(LOOKS_EVERY),
            next: AtomicU64::new(0),
            standing: Mutex::default(),
        }))
    }
}

impl Unread {
    /// An answer over a connection, which is there and of which nothing was asked for yet.
    pub(crate) fn answer(&self, calls: Calls) -> Answer {
        // Before anybody looks at it.
        let until = AtomicU64::new(self.now() + patience(0));
        let standing = Arc::new(Standing { calls, until });
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.standing.lock().insert(number, Arc::clone(&standing));
        Answer { unread: self.clone(), number, standing }
    }

    /// Ends the connections of those that nobody reads, if that was not looked at just now.
    pub(crate) fn look(&self) {
        if self.0.looking.is_due() {
            self.cut_off(self.now());
        }
    }

    fn cut_off(&self, now: u64) {
        for standing in self.0.standing.lock().values() {
            if standing.until.load(Ordering::Relaxed) < now && !standing.calls.was_cut() {
                tracing::info!("a connection is closed: nobody reads the answers over it");
                standing.calls.cut();
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// For how many milliseconds so many bytes may stand.
fn patience(bytes: usize) -> u64 {
    PATIENCE.as_millis() as u64 + bytes as u64 * 1_000 / BYTES_PER_SECOND
}

impl Answer {
    /// So many bytes more of it are there, to be taken.
    pub(crate) fn is_there(&self, bytes: usize) {
        self.standing.until.store(self.unread.now() + patience(bytes), Ordering::Relaxed);
    }

    /// Whether nothing of what is said over its connection is taken for now. Who asks is woken then once something is.
    pub(crate) fn is_stalled(&self, waker: &Waker) -> bool {
        self.standing.calls.is_stalled(waker)
    }

    /// More of it is waited for: whoever reads it is not to blame.
    pub(crate) fn is_awaited(&self) {
        self.standing.until.store(u64::MAX, Ordering::Relaxed);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.unread.0.standing.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever looks may come in between.
    #[test]
    fn an_answer_that_has_just_come_ends_no_connection() {
        let unread = Unread::default();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let calls = Calls::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    unread.cut_off(unread.now() + 1);
                }
            });
            for _ in 0..100_000 {
                drop(unread.answer(calls.clone()));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(!calls.was_cut());
    }

    #[test]
    fn what_stands_for_too_long_ends_its_connection_and_what_is_waited_for_does_not() {
        let unread = Unread::default();
        let calls: Vec<Calls> = (0..4).map(|_| Calls::default()).collect();
        let answers: Vec<Answer> = calls.iter().map(|calls| unread.answer(calls.clone())).collect();
        answers[1].is_awaited();
        answers[2].is_there(10 * BYTES_PER_SECOND as usize);
        let cut = || -> Vec<bool> { calls.iter().map(Calls::was_cut).collect() };
        unread.cut_off(unread.now() + 29_000);
        assert_eq!(cut(), [false; 4]);
        drop(answers.into_iter().nth(3));
        assert!(unread.0.standing.lock().is_empty());
        let answers: Vec<Answer> = calls.iter().take(3).map(|calls| unread.answer(calls.clone())).collect();
        answers[1].is_awaited();
        answers[2].is_there(10 * BYTES_PER_SECOND as usize);
        unread.cut_off(unread.now() + 31_000);
        assert_eq!(cut(), [true, false, false, false]);
        unread.cut_off(unread.now() + 41_000);
        assert_eq!(cut(), [true, false, true, false]);
    }
}
