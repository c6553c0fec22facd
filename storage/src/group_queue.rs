//! Who leads a group, who is taken along, and who waits: the queue in front of the log.
//!
//! The first to come leads. Those who come while somebody leads wait until a leader takes them along and tells
//! them how it went, or until the lead is handed over to them. There is never more than one leader between joining and
//! [`hand_over`](GroupQueue::hand_over), and all are served in the order in which they came.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::sync::{Condvar, Mutex};

/// A queue of requests of type `R`, each of which ends with a `T`.
pub(crate) struct GroupQueue<R, T> {
    state: Mutex<State<R, T>>,
    /// There is room in the queue.
    room: Condvar,
    /// How many bytes may wait; further ones wait before they queue up.
    limit_bytes: usize,
}

struct State<R, T> {
    waiting: VecDeque<Follower<R, T>>,
    bytes: usize,
    is_led: bool,
}

/// What joining comes to.
pub(crate) enum Turn<R, T> {
    /// To lead; [`GroupQueue::hand_over`] has to follow.
    Lead(R),
    /// Another one took the request along.
    Done(T),
}

/// Somebody who waits. Its request is done by whoever gathered it, who has to [`finish`](Follower::finish) it.
pub(crate) struct Follower<R, T> {
    pub(crate) request: R,
    bytes: usize,
    waiter: Arc<Waiter<R, T>>,
}

/// How a request was finished: told to the one who waits.
pub(crate) struct Finish<R, T>(Arc<Waiter<R, T>>);

struct Waiter<R, T> {
    turn: Mutex<Option<Turn<R, T>>>,
    changed: Condvar,
}

impl<R, T> fmt::Debug for GroupQueue<R, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("GroupQueue").field("limit_bytes", &self.limit_bytes).finish_non_exhaustive()
    }
}

impl<R, T> GroupQueue<R, T> {
    pub(crate) fn new(limit_bytes: usize) -> GroupQueue<R, T> {
        let state = State { waiting: VecDeque::new(), bytes: 0, is_led: false };
        GroupQueue { state: Mutex::new(state), room: Condvar::new(), limit_bytes }
    }

    /// Waits until the request is done, or until it is the caller's turn to lead. `bytes` is what it counts while it waits.
    pub(crate) fn join(&self, request: R, bytes: usize) -> Turn<R, T> {
        let mut state = self.state.lock();
        while state.bytes > self.limit_bytes {
            self.room.wait(&mut state);
        }
        if !state.is_led {
            state.is_led = true;
            return Turn::Lead(request);
        }
        let waiter = Arc::new(Waiter { turn: Mutex::new(None), changed: Condvar::new() });
        state.bytes += bytes;
        state.waiting.push_back(Follower { request, bytes, waiter: waiter.clone() });
        drop(state);
        waiter.wait()
    }

    /// How many wait.
    #[cfg(test)]
    #[allow(dead_code, reason = "only where the queue is tested")]
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// For the leader: takes along those who wait, as long as `takes` says so.
    pub(crate) fn gather(&self, mut takes: impl FnMut(&R) -> bool) -> Vec<Follower<R, T>> {
        let mut state = self.state.lock();
        let mut followers = Vec::new();
        while let Some(next) = state.waiting.front()
            && takes(&next.request)
            && let Some(follower) = state.waiting.pop_front()
        {
            state.bytes -= follower.bytes;
            followers.push(follower);
        }
        if !followers.is_empty() {
            self.room.notify_all();
        }
        followers
    }

    /// For the leader: lets the next in the queue lead, or nobody.
    pub(crate) fn hand_over(&self) {
        let next = {
            let mut state = self.state.lock();
            let next = state.waiting.pop_front();
            match &next {
                Some(follower) => state.bytes -= follower.bytes,
                None => state.is_led = false,
            }
            self.room.notify_all();
            next
        };
        if let Some(Follower { request, waiter, .. }) = next {
            waiter.set(Turn::Lead(request));
        }
    }
}

impl<R, T> Follower<R, T> {
    /// The request, and the one to tell how it went.
    pub(crate) fn split(self) -> (R, Finish<R, T>) {
        (self.request, Finish(self.waiter))
    }
}

impl<R, T> Finish<R, T> {
    /// Wakes the one who waits.
    pub(crate) fn finish(self, result: T) {
        self.0.set(Turn::Done(result));
    }
}

impl<R, T> Waiter<R, T> {
    fn set(&self, turn: Turn<R, T>) {
        *self.turn.lock() = Some(turn);
        self.changed.notify_one();
    }

    fn wait(&self) -> Turn<R, T> {
        let mut turn = self.turn.lock();
        loop {
            if let Some(turn) = turn.take() {
                return turn;
            }
            self.changed.wait(&mut turn);
        }
    }
}
