//! Which trace a call belongs to, as W3C Trace Context (<https://www.w3.org/TR/trace-context>) has callers say it: in the header `traceparent`.
//!
//! Spans are `tracing`'s. As long as nobody exports them they belong to no trace, and nothing is told to anybody.

use http::{HeaderMap, HeaderValue, Request};
pub use opentelemetry::TraceId;
use opentelemetry::{
    Context, SpanId, TraceFlags,
    trace::{SpanContext, TraceContextExt, TraceState},
};
use tonic::{
    Code,
    body::Body,
    codegen::Service,
    transport::{self, Channel},
};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// What vendors have callers pass on is passed on up to so many bytes.
const STATE_BYTES: usize = 512;

/// A span that others are to belong to, here or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(SpanContext);

impl TraceParent {
    /// The span of a caller; `None` if it names none, or not as it should.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let header = headers.get(PARENT)?.to_str().ok()?;
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_whole = is_hex(version, 2)
            && version != "ff"
            && is_hex(trace, 32)
            && is_hex(span, 16)
            && is_hex(flags, 2)
            && (version != "00" || parts.next().is_none());
        if !is_whole {
            return None;
        }
        let trace = TraceId::from_hex(trace).ok()?;
        let span = SpanId::from_hex(span).ok()?;
        // What later versions say with other bits is not known here.
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let state = headers.get(STATE).and_then(|state| state.to_str().ok());
        let state = state.filter(|state| state.len() <= STATE_BYTES).and_then(|state| state.parse().ok());
        let context = SpanContext::new(trace, span, flags, true, state.unwrap_or_default());
        context.is_valid().then_some(Self(context))
    }

    /// That span; `None` if it belongs to no trace.
    pub fn within(span: &Span) -> Option<Self> {
        let context = span.context();
        let context = context.span().span_context().clone();
        context.is_valid().then_some(Self(context))
    }

    /// Makes a span that was not entered yet a part of this one.
    pub fn adopt(&self, span: &Span) {
        // Where no traces are exported there is nothing to be a part of.
        span.set_parent(Context::new().with_remote_span_context(self.0.clone())).ok();
    }

    /// Which trace, in hexadecimal digits.
    pub fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }

    /// Which span of it.
    pub fn span_id(&self) -> SpanId {
        self.0.span_id()
    }

    /// Says so to whom is called.
    fn tell(&self, headers: &mut HeaderMap) {
        let context = &self.0;
        let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        // It is of hexadecimal digits, and is what a header may be.
        if let Ok(parent) = HeaderValue::try_from(format!("00-{trace}-{span}-{flags:02x}")) {
            headers.insert(PARENT, parent);
        }
        if context.trace_state() != &TraceState::NONE
            && let Ok(state) = HeaderValue::try_from(context.trace_state().header())
        {
            headers.insert(STATE, state);
        }
    }
}

/// Takes note of how the call ended that a span is of: in its trace alone, as lines of the log say it themselves.
pub fn note_code(span: &Span, code: Code) {
    if TraceParent::within(span).is_some() {
        span.set_attribute("code", format!("{code:?}"));
    }
}

/// The way to a node, over which calls say which trace they belong to.
#[derive(Clone, Debug)]
pub(crate) struct Traced(pub(crate) Channel);

/// In which a node is asked something.
pub(crate) fn calling(node: crate::NodeId) -> Span {
    tracing::debug_span!("call", %node, rpc = Empty)
}

/// In which what another node asks is answered; none if that belongs to no trace.
pub(crate) fn answering(request: &Request<()>) -> Span {
    let Some(parent) = TraceParent::of(request.headers()) else { return Span::none() };
    let span = tracing::debug_span!("answer", rpc = request.uri().path());
    parent.adopt(&span);
    span
}

impl Service<Request<Body>> for Traced {
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), transport::Error>> {
        Service::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let span = Span::current();
        if let Some(parent) = TraceParent::within(&span) {
            // Of the span of `calling`; others have no such field.
            span.record("rpc", request.uri().path());
            parent.tell(request.headers_mut());
        }
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn headers(parent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(PARENT, parent.parse().unwrap());
        headers
    }

    #[test]
    fn traces_are_taken_from_whole_headers_only() {
        let header = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let parent = TraceParent::of(&headers(&header)).unwrap();
        assert_eq!(parent.trace_id().to_string(), TRACE);
        assert_eq!(parent.span_id().to_string(), "00f067aa0ba902b7");
        let zeros = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for bad in [
            "",
            "00",
            "00-x-y-01",
            &header[..50],
            &header.to_uppercase(),
            &zeros,
            &header.replace("00-", "ff-"),
            &format!("{header}-more"),
        ] {
            assert_eq!(TraceParent::of(&headers(bad)), None, "{bad}");
        }
        // A later version may say more.
        let later = format!("01-{TRACE}-00f067aa0ba902b7-01-more");
        assert_eq!(TraceParent::of(&headers(&later)), Some(parent));
    }

    #[test]
    fn what_is_told_is_what_was_heard() {
        for flags in ["00", "01"] {
            let mut heard = headers(&format!("00-{TRACE}-00f067aa0ba902b7-{flags}"));
            heard.insert(STATE, "vendor=value".parse().unwrap());
            let mut told = HeaderMap::new();
            TraceParent::of(&heard).unwrap().tell(&mut told);
            assert_eq!(told, heard);
            heard.insert(STATE, format!("vendor={}", "x".repeat(STATE_BYTES)).parse().unwrap());
            told = HeaderMap::new();
            TraceParent::of(&heard).unwrap().tell(&mut told);
            assert_eq!(told.get(STATE), None, "too long");
        }
    }

    #[test]
    fn without_an_exporter_nothing_belongs_to_a_trace() {
        let parent = TraceParent::of(&headers(&format!("00-{TRACE}-00f067aa0ba902b7-01"))).unwrap();
        let span = tracing::info_span!("request");
        parent.adopt(&span);
        assert_eq!(TraceParent::within(&span), None);
    }
}
