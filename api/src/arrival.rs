//! When the message of a request must be here: a call has its place from its beginning, so whoever begins one and does not go on would keep it from
//! others.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use crate::status;

/// The body of a request, which fails if it is not whole by then.
pub(crate) fn within(limit: Duration, body: Body) -> Body {
    Body::new(Awaited { inner: body, late: Box::pin(sleep(limit)), is_whole: false })
}

struct Awaited {
    inner: Body,
    late: Pin<Box<Sleep>>,
    is_whole: bool,
}

impl HttpBody for Awaited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match polled {
            Poll::Pending if !self.is_whole && self.late.as_mut().poll(context).is_ready() => {
                self.is_whole = true;
                Poll::Ready(Some(Err(status::deadline_exceeded())))
            }
            Poll::Ready(None) => {
                self.is_whole = true;
                Poll::Ready(None)
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio_stream::StreamExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn what_is_whole_in_time_is_taken_and_what_stops_is_not() {
        let whole = Body::new(Full::new(Bytes::from_static(b"abc")).map_err(|never| match never {}));
        assert_eq!(within(LIMIT, whole).collect().await.expect("in time").to_bytes(), "abc");
        let begun = tokio_stream::once(Ok::<_, Status>(Frame::data(Bytes::from_static(b"a"))));
        let stopped = Body::new(StreamBody::new(begun.chain(tokio_stream::pending())));
        let at = tokio::time::Instant::now();
        let late = within(LIMIT, stopped).collect().await.expect_err("it stops");
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(at.elapsed(), LIMIT);
    }
}
