//! Bodies of which each frame is looked at on its way.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

/// What comes next of a body.
pub(crate) type Next = Poll<Option<Result<Frame<Bytes>, Status>>>;

/// Looks at a body's frames: asks the body for the next one, and says what comes of it.
pub(crate) trait Look: Send + Unpin + 'static {
    /// As [`HttpBody::poll_frame`].
    fn next(&mut self, body: Pin<&mut Body>, context: &mut Context<'_>) -> Next;
}

/// The body, with what comes of a look at each of its frames.
pub(crate) fn looked_at(body: Body, look: impl Look) -> Body {
    Body::new(LookedAt { body, look })
}

struct LookedAt<L> {
    body: Body,
    look: L,
}

impl<L: Look> HttpBody for LookedAt<L> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Next {
        let Self { body, look } = &mut *self;
        look.next(Pin::new(body), context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
