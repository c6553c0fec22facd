//! What the calls that are under way weigh together, their requests and answers: so many bytes at most, of which one caller leaves some to others.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body::Body as _;
use parking_lot::Mutex;
use tonic::{Status, body::Body};

use crate::{
    body::{Look, Next, looked_at},
    metrics::{Short, set_held},
    share::{Counts, Party, Taken as Share},
    status,
};

/// What a stream of requests counts for, beside what is read of it.
const UNREAD: usize = 4 << 20;
/// An answer of more than this is made where no small one waits for it.
const LARGE: usize = 256 << 10;
/// So many streams there may be at least.
const STREAMS: usize = 128;

/// What all requests may weigh together, and their answers.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    weights: Arc<Mutex<Weights>>,
    most: usize,
    /// What one request's bytes count for at most.
    each: usize,
}

#[derive(Debug, Default)]
struct Weights {
    total: usize,
    /// Of callers that are known.
    of: Counts,
}

impl Weights {
    fn add(&mut self, caller: Option<Party>, bytes: usize) {
        self.total += bytes;
        set_held(self.total);
        caller.into_iter().for_each(|caller| self.of.add(caller, bytes));
    }

    fn subtract(&mut self, caller: Option<Party>, bytes: usize) {
        self.total -= bytes;
        set_held(self.total);
        caller.into_iter().for_each(|caller| self.of.subtract(caller, bytes));
    }
}

impl Scale {
    /// At most `most` bytes, of which each request has `each` at a time.
    pub(crate) fn new(most: usize, each: usize) -> Self {
        Self { weights: Arc::default(), most: most.max(each), each }
    }

    /// The body, put on the scale as it arrives, until both what is returned and the body are dropped.
    pub(crate) fn weigh(&self, body: Body) -> (Body, Arc<Held>) {
        let held = Arc::new(Held { scale: self.clone(), parts: Mutex::default() });
        (looked_at(body, Weighed(Arc::clone(&held))), held)
    }
}

/// What one call weighs.
#[derive(Debug)]
pub(crate) struct Held {
    scale: Scale,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Whose it is, once that is known.
    caller: Option<Party>,
    /// What has come of the message that is being read.
    bytes: usize,
    /// What it takes beyond that, once it is unpacked.
    unpacked: usize,
    /// Messages of a stream that are not answered yet.
    taken: usize,
    /// The answer.
    answer: usize,
    /// What may lie unread of a stream.
    unread: usize,
}

impl Parts {
    fn sum(&self) -> usize {
        self.bytes + self.unpacked + self.taken + self.answer + self.unread
    }

    fn become_answer(&mut self, bytes: usize) {
        (self.bytes, self.unpacked, self.answer) = (0, 0, bytes);
    }
}

impl Held {
    /// It is known whose it is.
    pub(crate) fn belongs_to(&self, caller: Party) {
        let (mut parts, mut weights) = (self.parts.lock(), self.scale.weights.lock());
        let sum = parts.sum();
        weights.subtract(parts.caller, sum);
        parts.caller = Some(caller);
        weights.add(parts.caller, sum);
    }

    /// Its request is a stream, of which some may lie unread where nobody weighs it, for as long as the call stands.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is no room for that.
    pub(crate) fn may_lie_unread(&self) -> Result<(), Status> {
        let unread = UNREAD.min(self.scale.most / STREAMS);
        self.change(|parts| parts.unread = unread)
    }

    fn add(&self, bytes: usize) -> Result<(), Status> {
        self.change(|parts| parts.bytes += bytes.min(self.scale.each.saturating_sub(parts.bytes)))
    }

    /// A message is to be read that takes so much beyond its bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is no room for it.
    pub(crate) fn unpacked(&self, bytes: usize) -> Result<(), Status> {
        self.change(|parts| parts.unpacked = bytes)
    }

    /// The message that was read is kept until what is returned is dropped, and the next one may come.
    pub(crate) fn taken(self: &Arc<Self>) -> Taken {
        let mut parts = self.parts.lock();
        let bytes = std::mem::take(&mut parts.bytes) + std::mem::take(&mut parts.unpacked);
        parts.taken += bytes;
        Taken { held: Arc::clone(self), bytes }
    }

    /// What was asked is done, and the answer is of so many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is no room for it.
    pub(crate) fn answered(&self, bytes: usize) -> Result<(), Status> {
        self.change(|parts| parts.become_answer(bytes))
    }

    /// Whether the answer was found to be large.
    pub(crate) fn is_answer_large(&self) -> bool {
        self.parts.lock().answer > LARGE
    }

    /// The same of what is told whatever there is room for.
    pub(crate) fn answered_anyway(&self, bytes: usize) {
        let (mut parts, mut weights) = (self.parts.lock(), self.scale.weights.lock());
        weights.subtract(parts.caller, parts.sum());
        parts.become_answer(bytes);
        weights.add(parts.caller, parts.sum());
    }

    /// What becomes lighter may always.
    fn change(&self, change: impl FnOnce(&mut Parts)) -> Result<(), Status> {
        let (mut parts, mut weights) = (self.parts.lock(), self.scale.weights.lock());
        let before = parts.sum();
        change(&mut parts);
        let after = parts.sum();
        weights.subtract(parts.caller, before);
        weights.add(parts.caller, after);
        if after <= before {
            return Ok(());
        }
        let Some(free) = self.scale.most.checked_sub(weights.total) else {
            Short::Bytes.count();
            return Err(status::requests_too_large(self.scale.most));
        };
        // Who has nothing else may have what there is.
        let check = |caller| weights.of.check(caller, after, free);
        parts.caller.map_or(Ok(()), check).map_err(|Share(bytes)| {
            Short::BytesOfCaller.count();
            status::share_of_bytes_is_taken(bytes)
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let parts = self.parts.get_mut();
        let (caller, sum) = (parts.caller, parts.sum());
        self.scale.weights.lock().subtract(caller, sum);
    }
}

/// A message of a stream that is not answered yet.
#[derive(Debug)]
pub(crate) struct Taken {
    held: Arc<Held>,
    bytes: usize,
}

impl Taken {
    /// What it weighs.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut parts = self.held.parts.lock();
        parts.taken -= self.bytes;
        self.held.scale.weights.lock().subtract(parts.caller, self.bytes);
    }
}

struct Weighed(Arc<Held>);

impl Look for Weighed {
    fn next(&mut self, body: Pin<&mut Body>, context: &mut Context<'_>) -> Next {
        let polled = body.poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Err(refusal) = self.0.add(data.len())
        {
            return Poll::Ready(Some(Err(refusal)));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use allidb_index::model::TenantId;

    use super::*;
    use crate::share::Owner;

    fn of(scale: &Scale, owner: Owner) -> Arc<Held> {
        let (_, held) = scale.weigh(Body::empty());
        held.belongs_to(Party { owner, part: 0 });
        held
    }

    #[test]
    fn what_is_dropped_weighs_nothing() {
        let scale = Scale::new(100, 60);
        let (body, first) = scale.weigh(Body::empty());
        assert!(first.add(60).is_ok());
        assert!(first.add(1_000).is_ok(), "one request counts for 60");
        let (other, second) = scale.weigh(Body::empty());
        assert!(second.add(40).is_ok());
        assert_eq!(second.add(1).expect_err("101 bytes").code(), tonic::Code::ResourceExhausted);
        assert!(second.unpacked(10).is_err());
        drop(first);
        drop(body);
        assert!(second.unpacked(50).is_ok());
        assert!(second.unpacked(70).is_err());
        assert!(second.unpacked(0).is_ok());
        drop((other, second));
        assert_eq!(scale.weights.lock().total, 0);
    }

    #[test]
    fn an_answer_takes_the_place_of_what_was_asked() {
        let scale = Scale::new(100, 60);
        let (_, held) = scale.weigh(Body::empty());
        held.add(50).expect("there is room");
        held.unpacked(50).expect("there is room");
        held.answered(90).expect("what was asked is gone");
        assert_eq!(scale.weights.lock().total, 90);
        assert!(held.answered(101).is_err());
    }

    #[test]
    fn messages_of_a_stream_weigh_until_they_are_answered() {
        let scale = Scale::new(100, 30);
        let held = of(&scale, Owner::Operators);
        let mut taken = Vec::new();
        for _ in 0..3 {
            held.add(20).expect("there is room");
            held.unpacked(10).expect("there is room");
            taken.push(held.taken());
        }
        assert_eq!((scale.weights.lock().total, taken[0].bytes()), (90, 30));
        assert!(held.add(20).is_err());
        taken.clear();
        drop(held);
        let weights = scale.weights.lock();
        assert!(weights.total == 0 && weights.of.is_empty(), "{weights:?}");
    }

    #[test]
    fn a_stream_counts_for_what_may_lie_unread_until_it_is_over() {
        let scale = Scale::new(128 * 100, 30);
        let mut held: Vec<_> = (0..128).map(|at| of(&scale, Owner::Data(TenantId(at)))).collect();
        for held in &held {
            held.may_lie_unread().expect("there is room");
            held.answered(0).expect("it is no more");
        }
        assert_eq!(scale.weights.lock().total, 128 * 100);
        assert!(of(&scale, Owner::Operators).may_lie_unread().is_err());
        held.pop();
        assert!(of(&scale, Owner::Operators).may_lie_unread().is_ok());
    }

    #[test]
    fn one_caller_leaves_room_for_others() {
        let scale = Scale::new(1_000, 100);
        let [greedy, modest] = [1, 2].map(|tenant| Owner::Data(TenantId(tenant)));
        let mut held = Vec::new();
        let refused = loop {
            let next = of(&scale, greedy);
            match next.add(100) {
                Ok(()) => held.push(next),
                Err(refused) => break refused,
            }
        };
        assert_eq!((held.len(), refused.code()), (7, tonic::Code::ResourceExhausted));
        of(&scale, modest).add(100).expect("there is room for others");
        held.clear();
        // Who has nothing else may have it all.
        of(&scale, greedy).unpacked(1_000).expect("there is room");
        assert!(scale.weights.lock().of.is_empty());
    }
}
