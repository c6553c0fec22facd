//! When the message of a request must be here: a call has its place from its beginning, so whoever begins one and does not go on would keep it from
//! others.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::Body as _;
use tokio::time::{Sleep, sleep};
use tonic::body::Body;

use crate::{
    body::{Look, Next, looked_at},
    status,
};

/// The body of a request, which fails if it is not whole by then.
pub(crate) fn within(limit: Duration, body: Body) -> Body {
    looked_at(body, Awaited { late: Box::pin(sleep(limit)), is_whole: false })
}

struct Awaited {
    late: Pin<Box<Sleep>>,
    is_whole: bool,
}

impl Look for Awaited {
    fn next(&mut self, body: Pin<&mut Body>, context: &mut Context<'_>) -> Next {
        let polled = body.poll_frame(context);
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
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio_stream::StreamExt;
    use tonic::Status;

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
