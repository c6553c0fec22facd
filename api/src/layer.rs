//! What surrounds every call: a span with the caller's trace, counts and times, a bound on calls under way,
//! and the refusals of the transport put into the contract's words.

use std::{
    error::Error,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Limited, StreamBody};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{
    Instrument, Span,
    field::{Empty, display},
};

use allidb_cluster::{Asker, Caller, OnBehalf, TraceId, TraceParent, UnderWay, note_code};

use crate::{
    access::{AUDIT, Access, Audited, Right},
    arrival, aside, codec, deadline,
    metrics::{Call, Method, Short},
    oversize::{self, MessageBounds},
    share::Share,
    status,
    unread::{Answer, Unread},
    weight::{Held, Scale},
};

/// Puts [`Surround`] around a service.
#[derive(Clone)]
pub struct SurroundLayer {
    access: Option<Access>,
    slots: Arc<Semaphore>,
    /// Places of those who may call without a key: probes answer also when the server is full, as that is when they matter.
    doors: Arc<Semaphore>,
    scale: Scale,
    limit: usize,
    bounds: MessageBounds,
    arrival: Option<Duration>,
    unread: Unread,
}

impl SurroundLayer {
    /// At most `limit` calls under way, whose requests are of `request_bytes` together; the largest messages in and out, in bytes.
    pub fn new(limit: usize, request_bytes: usize, incoming_bytes: usize, outgoing_bytes: usize) -> Self {
        let [slots, doors] = [(); 2].map(|()| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))));
        let bounds = MessageBounds { incoming: incoming_bytes, outgoing: outgoing_bytes };
        let scale = Scale::new(request_bytes, incoming_bytes);
        Self { access: None, slots, doors, scale, limit, bounds, arrival: None, unread: Unread::default() }
    }

    /// The message of a request must be here within this time, unless it is a stream of them.
    #[must_use]
    pub fn arriving_within(self, limit: Duration) -> Self {
        Self { arrival: Some(limit), ..self }
    }

    /// Calls are let through to whom this admits.
    #[must_use]
    pub fn guarded_by(self, access: Access) -> Self {
        Self { access: Some(access), ..self }
    }

    /// Returns when no call is under way any more. To be asked once nobody begins another one: those are refused meanwhile.
    pub(crate) async fn ended(&self, limit: usize) {
        let all = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        // It is never closed.
        self.slots.acquire_many(all).await.ok();
    }

    /// The places of which calls of a method have one each.
    fn places(&self, method: Method) -> &Arc<Semaphore> {
        match Right::of(method) {
            Right::Anybody => &self.doors,
            _ => &self.slots,
        }
    }
}

impl<S> Layer<S> for SurroundLayer {
    type Service = Surround<S>;

    fn layer(&self, inner: S) -> Surround<S> {
        Surround { inner, layer: self.clone() }
    }
}

/// A service with everything that surrounds a call.
#[derive(Clone)]
pub struct Surround<S> {
    inner: S,
    layer: SurroundLayer,
}

impl<S> Service<Request<Body>> for Surround<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<SurroundedBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.layer.unread.look();
        let method = Method::at(request.uri().path());
        let (span, trace) = span(method, request.headers());
        let call = Call::begin(method);
        let bounds = self.layer.bounds;
        let (head, body) = request.into_parts();
        let (body, held) = self.layer.scale.weigh(body);
        let body = match self.layer.arrival {
            Some(limit) if !method.takes_stream => arrival::within(limit, body),
            _ => body,
        };
        let body = match Right::of(method) {
            Right::Anybody => small(body),
            _ => body,
        };
        let mut request = Request::from_parts(head, body);
        if let Some(trace) = trace {
            request.extensions_mut().insert(trace);
        }
        let Ok(slot) = Arc::clone(self.layer.places(method)).try_acquire_owned() else {
            Short::Places.count();
            let refusal = status::too_many_requests(self.layer.limit).into_http();
            let refusal = SurroundedBody::watch(refusal, call, Arc::new(Room::new(None, held)), bounds, span);
            return Box::pin(async move { Ok(refusal) });
        };
        let room = Arc::new(Room::new(Some(slot), held));
        request.extensions_mut().insert(Arc::clone(&room));
        let patience = deadline::requested(request.headers());
        let calls = request.extensions().get::<Caller>().map(|caller| caller.calls.clone());
        let unread = self.layer.unread.clone();
        // The one that is ready is this one.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        let answer =
            in_time(patience, admitted(self.layer.clone(), method, Arc::clone(&room), inner, request));
        let calling = span.clone();
        let answering = async move {
            let mut answer = SurroundedBody::watch(answer.await?, call, room, bounds, span);
            answer.body_mut().standing = calls.map(|calls| unread.answer(calls));
            Ok(answer)
        };
        Box::pin(answering.instrument(calling))
    }
}

/// The answer to whoever may ask. What changes more than data is noted, also where it is refused.
async fn admitted<S>(
    layer: SurroundLayer,
    method: Method,
    room: Arc<Room>,
    mut inner: S,
    mut request: Request<Body>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    let held = room.held();
    let Some(access) = &layer.access else { return answered(method, held, inner.call(request)).await };
    let caller = request.extensions().get::<Caller>().cloned();
    let from = caller.as_ref().map(|caller| caller.address);
    match access.admit(method, request.headers()).await {
        Ok(identity) => {
            let audited = Right::of(method).is_audited();
            let audited = audited.then(|| Audited::begin(method, identity.key.clone(), from));
            let noted = |answer| match audited {
                Some(call) => call.watch(answer),
                None => answer,
            };
            let (right, free) = (Right::of(method), layer.places(method).available_permits());
            let party = Access::party(right, &identity, from);
            if let Some(party) = party {
                held.belongs_to(party);
            }
            let asker = party.map_or(Asker::default(), |party| party.owner.asker());
            let place = party.map(|party| access.place(party, free)).transpose();
            let admitted = place.and_then(|share| {
                if method.may_lie_unread() {
                    held.may_lie_unread()?;
                }
                Ok((share, access.pace(right, &identity)?))
            });
            let (share, meter) = match admitted {
                Ok(admitted) => admitted,
                Err(refusal) => return Ok(noted(refusal.into_http())),
            };
            room.keep(caller.map(|caller| caller.calls.begin()), share);
            request.extensions_mut().insert(identity);
            let Some(meter) = meter else {
                return answered(method, held, inner.call(request)).on_behalf_of(asker).await.map(noted);
            };
            let request = request.map(|body| meter.incoming(body, layer.bounds.incoming));
            let answer = answered(method, held, inner.call(request)).on_behalf_of(asker).await?;
            Ok(noted(answer.map(|body| meter.outgoing(body))))
        }
        Err(refusal) => {
            if let Some(withheld) = access.note_refusal() {
                let withheld = (withheld > 0).then_some(withheld);
                tracing::info!(target: AUDIT, service = method.service, method = method.name, from = from.map(tracing::field::display), withheld, code = ?refusal.code(), why = refusal.message(), because = refusal.source().map(tracing::field::display), "refused");
            }
            Ok(refusal.into_http())
        }
    }
}

/// What is asked by whoever may do so without a key is a name at most.
const SMALL: usize = 4 << 10;

/// The body of a request, which fails if it is of more.
fn small(body: Body) -> Body {
    Body::new(Limited::new(body, SMALL).map_err(|error| match error.downcast::<Status>() {
        Ok(status) => *status,
        Err(_) => Status::invalid_argument(format!("the request is of more than {SMALL} bytes")),
    }))
}

/// Puts an answer on the scale.
///
/// # Errors
/// RESOURCE_EXHAUSTED if there is no room for what was read. What was done is done, and told whatever there is room for.
fn weighed_answer(method: Method, held: &Held, bytes: usize) -> Result<(), Status> {
    match Right::of(method) {
        Right::Read => held.answered(bytes),
        _ => {
            held.answered_anyway(bytes);
            Ok(())
        }
    }
}

/// Bytes of an answer that are handed on at a time.
const PIECE: usize = 64 << 10;
/// The transport holds up to 400 KiB of an answer that counts as sent then.
const LAST: usize = 512 << 10;

/// An answer piece by piece, as what is taken as a whole counts as sent. The last pieces are not parts of the whole: they would keep it.
#[derive(Debug, Default)]
struct Pieces {
    most: Bytes,
    last: Bytes,
}

impl Pieces {
    fn of(mut data: Bytes) -> Self {
        let last = match data.len() {
            0..=LAST => Bytes::new(),
            length => Bytes::copy_from_slice(&data.split_off(length - LAST)),
        };
        Self { most: data, last }
    }

    fn is_empty(&self) -> bool {
        self.most.is_empty() && self.last.is_empty()
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let of = if self.most.is_empty() { &mut self.last } else { &mut self.most };
        let length = of.len().min(PIECE);
        (length > 0).then(|| of.split_to(length))
    }
}

/// What a service answers. What is no stream is asked for as a whole, as it is ready, and put on the scale: so it is known what it takes until it is read.
/// What is or may be large is made aside, also if that is known only once it is found.
async fn answered<E: Send + 'static>(
    method: Method,
    held: Arc<Held>,
    answer: impl Future<Output = Result<Response<Body>, E>> + Send + 'static,
) -> Result<Response<Body>, E> {
    let weighed = Arc::clone(&held);
    let mut answer = Box::pin(async move {
        let answer = codec::weighed(Arc::clone(&weighed), answer).await?;
        if method.gives_stream { Ok(answer) } else { Ok(whole(method, &weighed, answer).await) }
    });
    if !method.may_be_large() {
        let answered = poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Pending if held.is_answer_large() => Poll::Ready(None),
            polled => polled.map(Some),
        });
        if let Some(answer) = answered.await {
            return answer;
        }
    }
    aside::driven(answer).await
}

/// An answer that is all there.
async fn whole(method: Method, held: &Held, answer: Response<Body>) -> Response<Body> {
    let (head, mut body) = answer.into_parts();
    let (mut frames, mut bytes, mut is_over) = (Vec::new(), 0, false);
    // One that is larger than it may be has its end first, and then what it would have been.
    while !is_over && let Some(frame) = body.frame().await {
        let length = frame.as_ref().ok().and_then(Frame::data_ref).map(Bytes::len);
        is_over = length.is_none();
        bytes += length.unwrap_or_default();
        frames.push(frame);
    }
    match weighed_answer(method, held, bytes) {
        // A status alone ends with its headers, or it is none to those who are strict.
        Ok(()) if frames.is_empty() => Response::from_parts(head, Body::empty()),
        Ok(()) => Response::from_parts(head, Body::new(StreamBody::new(tokio_stream::iter(frames)))),
        Err(refusal) => refusal.into_http(),
    }
}

/// The answer, or DEADLINE_EXCEEDED once the caller's time is over. The transport watches the clock as well,
/// but would answer CANCELLED; it looks at us first, and its clock starts after ours.
async fn in_time<E>(
    patience: Option<Duration>,
    answer: impl Future<Output = Result<Response<Body>, E>>,
) -> Result<Response<Body>, E> {
    match patience {
        None => answer.await,
        Some(patience) => {
            timeout(patience, answer).await.unwrap_or_else(|_| Ok(status::deadline_exceeded().into_http()))
        }
    }
}

/// The span of a call and which trace it belongs to: that of the caller, if it sent one.
fn span(method: Method, headers: &HeaderMap) -> (Span, Option<TraceId>) {
    let span = tracing::info_span!(
        "request",
        service = method.service,
        method = method.name,
        trace_id = Empty,
        parent_id = Empty,
    );
    let caller = TraceParent::of(headers);
    if let Some(caller) = &caller {
        caller.adopt(&span);
        span.record("parent_id", display(caller.span_id()));
    }
    let trace = TraceParent::within(&span).or(caller).map(|parent| parent.trace_id());
    if let Some(trace) = trace {
        span.record("trace_id", display(trace));
    }
    (span, trace)
}

/// The body of an answer, watched to its end: there, in the trailers, is the code.
pub struct SurroundedBody {
    inner: Body,
    call: Call,
    bounds: MessageBounds,
    span: Span,
    /// Given back with the status at the end of the body, so that streams count as under way.
    room: Arc<Room>,
    standing: Option<Answer>,
    /// What is there of it and was not handed on yet.
    pieces: Pieces,
}

/// What a call takes up until it is answered.
#[derive(Default)]
struct Place {
    /// Of all callers.
    slot: Option<OwnedSemaphorePermit>,
    /// Of its caller, once it is known who that is.
    share: Option<Share>,
    /// How much of its work may go on after it is answered.
    staying: usize,
    is_answered: bool,
}

impl Place {
    fn give_back_if_over(&mut self) {
        if self.is_answered && self.staying == 0 {
            (self.slot, self.share) = (None, None);
        }
    }
}

/// Work that goes on after its caller has gone, and takes up the call's place as long as it does.
pub(crate) struct Staying(Arc<Room>);

impl Drop for Staying {
    fn drop(&mut self) {
        let mut place = self.0.place.lock();
        place.staying -= 1;
        place.give_back_if_over();
    }
}

/// A call's place among those that are under way.
/// Requests have it among their extensions, for work that goes on after its caller has gone.
pub(crate) struct Room {
    held: Arc<Held>,
    place: Mutex<Place>,
    /// Its connection has something to do.
    under_way: OnceLock<Option<UnderWay>>,
}

impl Room {
    fn new(slot: Option<OwnedSemaphorePermit>, held: Arc<Held>) -> Self {
        Self { held, place: Mutex::new(Place { slot, ..Place::default() }), under_way: OnceLock::new() }
    }

    /// What its request weighs.
    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held)
    }

    /// Keeps this until the call is over.
    fn keep(&self, call: Option<UnderWay>, share: Option<Share>) {
        // A call is admitted once.
        self.under_way.get_or_init(|| call);
        self.place.lock().share = share;
    }

    /// The call is answered: whoever hears of that finds its place free.
    fn leave(&self) {
        let mut place = self.place.lock();
        place.is_answered = true;
        place.give_back_if_over();
    }

    /// For work that may go on after that.
    pub(crate) fn stay(self: &Arc<Self>) -> Staying {
        self.place.lock().staying += 1;
        Staying(Arc::clone(self))
    }
}

impl SurroundedBody {
    fn watch(
        answer: Response<Body>,
        call: Call,
        room: Arc<Room>,
        bounds: MessageBounds,
        span: Span,
    ) -> Response<Self> {
        let (mut head, inner) = answer.into_parts();
        let pieces = Pieces::default();
        let mut body = Self { inner, call, bounds, span, room, standing: None, pieces };
        body.see(&mut head.headers);
        Response::from_parts(head, body)
    }

    /// What is sent in its place is of so many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is no room for it.
    pub(crate) fn weigh(&self, bytes: usize) -> Result<(), Status> {
        weighed_answer(self.call.method(), &self.room.held, bytes)
    }

    /// So many bytes more are there for whoever reads it; `None`: they are waited for.
    pub(crate) fn gives(&self, bytes: Option<usize>) {
        match (&self.standing, bytes) {
            (Some(standing), Some(bytes)) => standing.is_there(bytes),
            (Some(standing), None) => standing.is_awaited(),
            (None, _) => {}
        }
    }

    /// Whether its connection takes nothing: what were given away now would lie unsent, and count for nobody.
    pub(crate) fn is_stalled(&self, context: &Context<'_>) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.is_stalled(context.waker()))
    }

    /// The next frame as the service gives it, once the connection takes anything.
    pub(crate) fn poll_whole(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_stalled(context) {
            return Poll::Pending;
        }
        let mut polled = {
            let _entered = self.span.enter();
            Pin::new(&mut self.inner).poll_frame(context)
        };
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    // What would come after these is nothing that others are to take for a part of it.
                    self.inner = Body::empty();
                    self.see(trailers);
                }
                self.gives(Some(frame.data_ref().map_or(0, Bytes::len)));
            }
            Poll::Ready(_) => {}
            Poll::Pending => self.gives(None),
        }
        polled
    }

    /// An answer that holds nothing but a status has it in its headers, every other one in its trailers.
    fn see(&mut self, headers: &mut HeaderMap) {
        oversize::rewrite(headers, self.bounds);
        if let Some(code) = headers.get(Status::GRPC_STATUS) {
            let code = Code::from_bytes(code.as_bytes());
            self.call.end(code);
            self.room.leave();
            note_code(&self.span, code);
            tracing::debug!(parent: &self.span, ?code, "answered");
        }
    }
}

impl HttpBody for SurroundedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.pieces.is_empty() {
            let whole = ready!(this.poll_whole(context));
            match whole.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.pieces = Pieces::of(data),
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        } else if this.is_stalled(context) {
            return Poll::Pending;
        }
        let piece = this.pieces.next().unwrap_or_default();
        this.gives(Some(piece.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.pieces.is_empty() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_s_time_ends_its_call() {
        let inner =
            tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Status>>());
        let mut service = SurroundLayer::new(1, 10, 10, 10).layer(inner);
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert("grpc-timeout", "50m".parse().expect("a header"));
        let answer = service.call(request).await.expect("an answer");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[test]
    fn what_was_done_is_told_though_there_is_no_room() {
        let scale = Scale::new(10, 10);
        let answered = |path: &str| {
            let (_, held) = scale.weigh(Body::empty());
            weighed_answer(Method::at(path), &held, 11).map_err(|refusal| refusal.code())
        };
        assert_eq!(answered("/allidb.v1.Entities/Get"), Err(Code::ResourceExhausted));
        for path in ["/allidb.v1.Entities/Put", "/allidb.v1.Keys/CreateKey", "/allidb.v1.Cluster/Drain"] {
            assert_eq!(answered(path), Ok(()), "{path}");
        }
    }

    #[tokio::test]
    async fn a_status_alone_ends_with_its_headers() {
        let inner = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, Status>(Status::not_found("x").into_http())
        });
        let mut service = SurroundLayer::new(1, 10, 10, 10).layer(inner);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/allidb.v1.Entities/Get".parse().expect("a path");
        let answer = service.call(request).await.expect("an answer");
        assert!(answer.body().is_end_stream());
        assert_eq!(
            Status::from_header_map(answer.headers()).map(|status| status.code()),
            Some(Code::NotFound)
        );
    }

    #[tokio::test]
    async fn nothing_comes_after_the_end_of_an_answer() {
        for path in ["/allidb.v1.Entities/Get", "/allidb.v1.Entities/Scan"] {
            let inner = tower::service_fn(|_: Request<Body>| async {
                let mut end = HeaderMap::new();
                Status::out_of_range("too large").add_header(&mut end)?;
                let data = || Ok::<_, Status>(Frame::data(Bytes::from_static(b"more")));
                let frames = [data(), Ok(Frame::trailers(end)), data()];
                Ok::<_, Status>(Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames)))))
            });
            let mut service = SurroundLayer::new(1, 1 << 20, 10, 10).layer(inner);
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().expect("a path");
            let mut body = service.call(request).await.expect("an answer").into_body();
            let mut frames = Vec::new();
            while let Some(frame) = body.frame().await {
                frames.push(frame.expect("a frame"));
            }
            let [data, end] = &frames[..] else { panic!("{path}: {frames:?}") };
            assert_eq!(data.data_ref().map(Bytes::len), Some(4), "{path}");
            assert!(end.trailers_ref().is_some(), "{path}");
        }
    }

    #[tokio::test]
    async fn what_needs_no_key_is_small() {
        let inner = tower::service_fn(|request: Request<Body>| async {
            request.into_body().collect().await.map(|_| Response::new(Body::empty()))
        });
        let mut service = SurroundLayer::new(1, 1 << 20, 1 << 20, 10).layer(inner);
        let mut call = async |path: &str, bytes: usize| {
            let body = Body::new(Full::new(Bytes::from(vec![0; bytes])));
            let mut request = Request::new(body);
            *request.uri_mut() = path.parse().expect("a path");
            service.call(request).await.map(drop).map_err(|refusal| refusal.code())
        };
        assert_eq!(call("/grpc.health.v1.Health/Check", SMALL).await, Ok(()));
        assert_eq!(call("/grpc.health.v1.Health/Check", SMALL + 1).await, Err(Code::InvalidArgument));
        assert_eq!(call("/allidb.v1.Search/Query", SMALL + 1).await, Ok(()));
    }

    #[tokio::test]
    async fn what_is_found_to_be_large_is_made_aside() {
        let inner = tower::service_fn(|request: Request<Body>| async move {
            let thread = || std::thread::current().name().map(str::to_owned);
            let begun = thread();
            let bytes = request.headers()["found"].to_str().ok().and_then(|bytes| bytes.parse().ok());
            codec::found(bytes.expect("a number")).await?;
            Ok::<_, Status>(Response::new(Body::new(Full::new(format!("{begun:?}, {:?}", thread()).into()))))
        });
        let mut service = SurroundLayer::new(9, 1 << 20, 1 << 20, 10).layer(inner);
        let mut call = async |method: &str, bytes: usize| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = format!("/allidb.v1.{method}").parse().expect("a path");
            request.headers_mut().insert("found", bytes.into());
            let answer = service.call(request).await?;
            answer
                .into_body()
                .collect()
                .await
                .map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned())
        };
        let here = format!("{:?}", std::thread::current().name());
        let aside = "Some(\"answers\")";
        assert_eq!(call("Search/Query", 1_000).await.ok(), Some(format!("{here}, {here}")));
        assert_eq!(call("Search/Query", 1 << 19).await.ok(), Some(format!("{here}, {aside}")));
        assert_eq!(call("Entities/RangeScan", 1_000).await.ok(), Some(format!("{aside}, {aside}")));
        assert_eq!(
            call("Search/Query", 2 << 20).await.err().map(|refusal| refusal.code()),
            Some(Code::ResourceExhausted)
        );
    }

    #[tokio::test]
    async fn a_body_gives_all_of_an_answer_in_pieces() {
        let data: Bytes = (0..3 * LAST + 7).map(|at| at as u8).collect::<Vec<_>>().into();
        let told = data.clone();
        let inner = tower::service_fn(move |_: Request<Body>| {
            let body = Body::new(Full::new(told.clone()));
            async { Ok::<_, Status>(Response::new(body)) }
        });
        let mut service = SurroundLayer::new(1, 1 << 30, 10, 10).layer(inner);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/allidb.v1.Entities/Get".parse().expect("a path");
        let mut body = service.call(request).await.expect("an answer").into_body();
        let mut given = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.expect("a frame").into_data().expect("data");
            assert!(piece.len() <= PIECE);
            given.push(piece);
            assert!(!body.is_end_stream() || given.concat().len() == data.len());
        }
        assert_eq!(given.concat(), data);
    }

    #[test]
    fn an_answer_is_handed_on_piece_by_piece_and_the_last_ones_do_not_keep_it() {
        for length in [0, 1, PIECE, LAST, LAST + 1, 3 * LAST + 7] {
            let data: Bytes = (0..length).map(|at| at as u8).collect::<Vec<_>>().into();
            let pieces: Vec<Bytes> = Pieces::of(data.clone()).collect();
            assert!(pieces.iter().all(|piece| (1..=PIECE).contains(&piece.len())));
            assert_eq!(pieces.concat(), data);
            let is_part = |piece: &Bytes| data.as_ptr_range().contains(&piece.as_ptr());
            let own: usize = pieces.iter().filter(|piece| !is_part(piece)).map(Bytes::len).sum();
            assert_eq!(own, if length > LAST { LAST } else { 0 });
        }
    }

    #[tokio::test]
    async fn a_full_server_refuses_calls_and_still_answers_probes() {
        let inner =
            tower::service_fn(|_: Request<Body>| async { Ok::<_, Status>(Response::new(Body::empty())) });
        let mut service = SurroundLayer::new(1, 10, 10, 10).layer(inner);
        let request = |path: &str| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().expect("a path");
            request
        };
        let first = service.call(request("/allidb.v1.Search/Query")).await.expect("the first");
        let second = service.call(request("/allidb.v1.Search/Query")).await.expect("an answer");
        let refusal = Status::from_header_map(second.headers()).expect("a status");
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        let probe = service.call(request("/grpc.health.v1.Health/Check")).await.expect("an answer");
        assert!(Status::from_header_map(probe.headers()).is_none());
        // They have places of their own, of which there are as many.
        let watch = service.call(request("/grpc.health.v1.Health/Watch")).await.expect("an answer");
        assert!(Status::from_header_map(watch.headers()).is_some());
        drop((first, probe));
        let third = service.call(request("/allidb.v1.Search/Query")).await.expect("an answer");
        assert!(Status::from_header_map(third.headers()).is_none());
    }
}
