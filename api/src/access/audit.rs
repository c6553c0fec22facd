//! What the log says of calls that change more than data: that they were made, and what came of them.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, Response};
use http_body::Body as _;
use tokio::time::sleep;
use tonic::{Code, Status, body::Body};

use super::AUDIT;
use crate::{
    body::{Look, Next, looked_at},
    metrics::Method,
};

/// A call that is noted. Noted as cut off if it is dropped without an end.
pub(crate) struct Audited {
    method: Method,
    key: Option<Arc<str>>,
    from: Option<SocketAddr>,
    begun: Instant,
    is_over: bool,
}

/// Who shows what is good for something else.
#[derive(Debug, thiserror::Error)]
#[error("shown was {:?}", .0.as_deref().unwrap_or("nothing"))]
pub(super) struct By(pub(super) Option<Arc<str>>);

/// How often it is noted how many refusals were not.
const COUNTS_EVERY: Duration = Duration::from_secs(1);

/// How many refusals were not noted, and not counted in a note either. It ends with one that does.
#[derive(Debug, Default)]
pub(super) struct Withheld(AtomicU64);

impl Withheld {
    pub(super) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// To be counted in a note.
    pub(super) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// Notes how many there are that the next refusal would count, which may never come.
    fn note(&self) {
        let withheld = self.take();
        if withheld > 0 {
            tracing::info!(target: AUDIT, withheld, "refused");
        }
    }

    /// The same, time and again, until it is aborted.
    pub(super) async fn keep_noting(self: Arc<Self>) {
        loop {
            sleep(COUNTS_EVERY).await;
            self.note();
        }
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        self.note();
    }
}

impl Audited {
    /// Notes that somebody was let in to this.
    pub(crate) fn begin(method: Method, key: Option<Arc<str>>, from: Option<SocketAddr>) -> Self {
        tracing::info!(target: AUDIT, service = method.service, method = method.name, key = key.as_deref(), from = from.map(display), "called");
        Self { method, key, from, begun: Instant::now(), is_over: false }
    }

    /// The answer, of which the code is noted: it is at its end, unless it is nothing else.
    pub(crate) fn watch(mut self, answer: Response<Body>) -> Response<Body> {
        self.see(answer.headers());
        if self.is_over {
            return answer;
        }
        answer.map(|body| looked_at(body, self))
    }

    fn see(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get(Status::GRPC_STATUS) {
            let Self { method, key, from, .. } = &*self;
            let (code, took) = (Code::from_bytes(code.as_bytes()), self.begun.elapsed());
            tracing::info!(target: AUDIT, service = method.service, method = method.name, key = key.as_deref(), from = from.map(display), ?code, ?took, "answered");
            self.is_over = true;
        }
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        if !self.is_over {
            let Self { method, key, from, .. } = &*self;
            let took = self.begun.elapsed();
            tracing::info!(target: AUDIT, service = method.service, method = method.name, key = key.as_deref(), from = from.map(display), ?took, "cut off");
        }
    }
}

impl Look for Audited {
    fn next(&mut self, body: Pin<&mut Body>, context: &mut Context<'_>) -> Next {
        let polled = body.poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.see(trailers);
        }
        polled
    }
}
