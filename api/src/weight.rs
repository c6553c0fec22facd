//! What the requests that are under way weigh together: so many bytes at most, whoever sends them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http_body::Body as _;
use tonic::{Status, body::Body};

use crate::{
    body::{Look, Next, looked_at},
    status,
};

/// What all requests may weigh together.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    weight: Arc<AtomicUsize>,
    most: usize,
    /// What one request counts for at most: a stream's messages come and go.
    each: usize,
}

impl Scale {
    /// At most `most` bytes, of which each request has `each` at a time.
    pub(crate) fn new(most: usize, each: usize) -> Self {
        Self { weight: Arc::default(), most: most.max(each), each }
    }

    /// The body, put on the scale as it arrives, until both what is returned and the body are dropped.
    pub(crate) fn weigh(&self, body: Body) -> (Body, Arc<Held>) {
        let held = Arc::new(Held {
            scale: self.clone(),
            bytes: AtomicUsize::default(),
            unpacked: AtomicUsize::default(),
        });
        (looked_at(body, Weighed(Arc::clone(&held))), held)
    }
}

/// What one request weighs.
#[derive(Debug)]
pub(crate) struct Held {
    scale: Scale,
    bytes: AtomicUsize,
    /// What its messages take beyond that, now that they are read: of a stream the largest.
    unpacked: AtomicUsize,
}

impl Held {
    fn add(&self, bytes: usize) -> Result<(), Status> {
        let held = self.bytes.load(Ordering::Relaxed);
        let more = bytes.min(self.scale.each.saturating_sub(held));
        self.bytes.fetch_add(more, Ordering::Relaxed);
        self.put_on(more)
    }

    /// A message is to be read that takes so much beyond its bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is no room for it.
    pub(crate) fn unpacked(&self, bytes: usize) -> Result<(), Status> {
        let before = self.unpacked.fetch_max(bytes, Ordering::Relaxed);
        self.put_on(bytes.saturating_sub(before))
    }

    fn put_on(&self, more: usize) -> Result<(), Status> {
        let before = self.scale.weight.fetch_add(more, Ordering::Relaxed);
        if before + more > self.scale.most {
            return Err(status::requests_too_large(self.scale.most));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let weight = self.bytes.load(Ordering::Relaxed) + self.unpacked.load(Ordering::Relaxed);
        self.scale.weight.fetch_sub(weight, Ordering::Relaxed);
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
    use super::*;

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
        assert!(second.unpacked(10).is_ok(), "it counts already");
        assert!(second.unpacked(50).is_ok());
        assert!(second.add(1).is_ok());
        assert!(second.unpacked(60).is_err());
        drop((other, second));
        assert_eq!(scale.weight.load(Ordering::Relaxed), 0);
    }
}
