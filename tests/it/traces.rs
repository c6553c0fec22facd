//! Traces: what a collector is told of calls, over a ring too, and that nobody waits for one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use allidb_api::v1;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    client::Client,
    make::{entity, name, near, query, vectors},
    process::{Process, eventually},
    ring::Ring,
};

const COLLECTION: &str = "things";
const SPACE: &str = "plane";
/// The span that calls belong to, whichever trace that is of.
const PARENT: u64 = 0x00f0_67aa_0ba9_02b7;

/// A span, and the node that told it.
#[derive(Clone)]
struct Told {
    node: String,
    span: Span,
}

/// Takes note of what it is told.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Told>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut told = self.0.lock().expect("nobody panics with it");
        for of in request.into_inner().resource_spans {
            let attributes = of.resource.map(|resource| resource.attributes).unwrap_or_default();
            let node = text(&attributes, "service.instance.id").expect("each says who it is");
            assert_eq!(text(&attributes, "service.name").as_deref(), Some("allidb"));
            let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            told.extend(spans.map(|span| Told { node: node.clone(), span }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

impl Collector {
    /// With the address of it.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, format!("http://{address}"))
    }

    fn told(&self) -> Vec<Told> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    fn of(&self, trace: u128) -> Trace {
        let told = self.told().into_iter().filter(|told| told.span.trace_id == trace.to_be_bytes());
        Trace(told.map(|told| (told.span.span_id.clone(), told)).collect())
    }
}

/// The spans of one trace, by their ids.
struct Trace(BTreeMap<Vec<u8>, Told>);

impl Trace {
    /// Those of a kind and a name.
    fn named(&self, name: &str, kind: SpanKind) -> Vec<&Told> {
        let is = |told: &&Told| told.span.name == name && told.span.kind == kind as i32;
        self.0.values().filter(is).collect()
    }

    /// From a span's parent to the first of which nothing is known here.
    fn ancestors(&self, of: &Told) -> (Vec<&Told>, Vec<u8>) {
        let (mut ancestors, mut next) = (Vec::new(), of.span.parent_span_id.clone());
        while let Some(parent) = self.0.get(&next) {
            assert!(ancestors.len() < self.0.len(), "spans go round in circles");
            ancestors.push(parent);
            next = parent.span.parent_span_id.clone();
        }
        (ancestors, next)
    }

    /// Whether every span is below that of the caller, as far as that is told by now.
    fn is_whole(&self) -> bool {
        self.0.values().all(|told| self.ancestors(told).1 == PARENT.to_be_bytes())
    }

    fn is_below(&self, told: &Told, name: &str) -> bool {
        self.ancestors(told).0.iter().any(|told| told.span.name == name)
    }

    /// Commits of what was written. A node may note its clock besides.
    fn applied(&self) -> Vec<&Told> {
        let mut commits = self.named("commit", SpanKind::Internal);
        commits.retain(|commit| self.is_below(commit, "apply"));
        commits
    }

    fn nodes(&self, spans: &[&Told]) -> BTreeSet<String> {
        spans.iter().map(|told| told.node.clone()).collect()
    }
}

/// A request of a caller that has such a trace.
fn traced<T>(message: T, trace: u128, is_sampled: bool) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{trace:032x}-{PARENT:016x}-{:02x}", u8::from(is_sampled));
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header"));
    request
}

async fn put(client: &Client, trace: u128, is_sampled: bool) {
    let thing = v1::Entity { vectors: vectors(SPACE, &[1.0, 0.0]), ..entity(COLLECTION, "a") };
    let put = v1::PutRequest { entity: Some(thing), ..Default::default() };
    client.entities().put(traced(put, trace, is_sampled)).await.expect("put");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_s_trace_covers_the_coordinator_and_the_replicas() {
    const UNSAMPLED: u128 = 0x10;
    const WRITE: u128 = 0x20 << 64;
    const QUERY: u128 = 0x30;
    let (collector, endpoint) = Collector::start().await;
    let settings = [("ALLIDB__TRACING__OTLP_ENDPOINT", &*endpoint), ("ALLIDB__TRACING__SAMPLE_RATIO", "0")];
    let ring = Ring::start_with(3, &settings).await;
    let client = ring.client(0);
    client.create(COLLECTION, SPACE, 2).await;
    put(&client, UNSAMPLED, false).await;
    put(&client, WRITE, true).await;
    let asked = query(COLLECTION, near(SPACE, &[1.0, 0.0]));
    client.search().query(traced(asked, QUERY, true)).await.expect("answered");

    // The write: all three replicas make it, the two others as they are asked to.
    const WRITES: &str = "allidb.peer.v1.Peer/Write";
    let write = eventually("the replicas tell of the write", async || {
        let trace = collector.of(WRITE);
        let is_there = trace.is_whole()
            && trace.nodes(&trace.applied()).len() == 3
            && trace.nodes(&trace.named(WRITES, SpanKind::Server)).len() == 2
            && trace.named("allidb.v1.Entities/Put", SpanKind::Server).len() == 1;
        is_there.then_some(trace)
    })
    .await;
    let request = write.named("allidb.v1.Entities/Put", SpanKind::Server)[0];
    assert_eq!(request.span.parent_span_id, PARENT.to_be_bytes());
    for answer in write.named(WRITES, SpanKind::Server) {
        assert_ne!(answer.node, request.node, "a node that asks itself");
        let (ancestors, _) = write.ancestors(answer);
        let call = ancestors.first().expect("it was asked to");
        assert_eq!((&*call.span.name, call.span.kind), (WRITES, SpanKind::Client as i32));
        assert!(ancestors.iter().all(|told| told.node == request.node));
        assert!(ancestors.iter().any(|told| told.span.span_id == request.span.span_id));
    }
    for commit in write.applied() {
        assert!(write.is_below(commit, "work") && write.is_below(commit, "replicate"));
        // Wherever it is made, somebody has asked for it.
        assert_eq!(commit.node != request.node, write.is_below(commit, WRITES));
    }

    // The query: what others know is asked of them.
    let query = eventually("the query is told of", async || {
        let trace = collector.of(QUERY);
        let is_there = trace.is_whole()
            && trace.nodes(&trace.named("share", SpanKind::Internal)).len() >= 2
            && trace.named("allidb.v1.Search/Query", SpanKind::Server).len() == 1;
        is_there.then_some(trace)
    })
    .await;
    let request = query.named("allidb.v1.Search/Query", SpanKind::Server)[0];
    for share in query.named("share", SpanKind::Internal) {
        assert_eq!(share.node != request.node, query.is_below(share, "allidb.peer.v1.Peer/Answer"));
    }

    // What was before at the same node was told before: nothing of callers that do not want it, nor of what nobody has asked for.
    for Told { node, span } in collector.told() {
        let trace = [WRITE, QUERY].iter().any(|trace| span.trace_id == trace.to_be_bytes());
        assert!(trace, "{} of {node} belongs to no trace that was asked for", span.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_requests_begins_traces_and_the_last_spans_are_told_at_the_end() {
    let (collector, endpoint) = Collector::start().await;
    let endpoint: &'static str = endpoint.leak();
    let settings = [("ALLIDB__TRACING__OTLP_ENDPOINT", endpoint), ("ALLIDB__TRACING__SAMPLE_RATIO", "1")];
    let mut process = Process::start_with(&settings).await;
    let client = process.client();
    client.create(COLLECTION, SPACE, 2).await;
    client.get(name(COLLECTION, "nobody")).await.expect_err("not there");
    drop(client);
    process.terminate();
    assert!(process.ended().await.success());
    let told = collector.told();
    let made = told.iter().find(|told| told.span.name == "allidb.v1.Collections/CreateCollection");
    let made = made.expect("it was told of");
    assert!(made.span.parent_span_id.is_empty(), "it begins a trace");
    let missed = told.iter().find(|told| told.span.name == "allidb.v1.Entities/Get").expect("told of");
    assert_eq!(text(&missed.span.attributes, "code").as_deref(), Some("NotFound"));
    let is_failure = missed.span.status.as_ref().is_some_and(|status| status.code != 0);
    assert!(!is_failure, "that there is none is no failure of the server");
    // What the daemon does of its own accord belongs to no trace.
    let requests = told.iter().filter(|told| told.span.parent_span_id.is_empty());
    let names: BTreeSet<&str> = requests.map(|told| &*told.span.name).collect();
    assert!(names.iter().all(|name| name.starts_with("allidb.v1.")), "{names:?}");
}

/// Spans that the collector did not take.
async fn lost(process: &Process) -> Option<u64> {
    let (_, figures) = process.get("/metrics").await?;
    let lost = r#"allidb_trace_spans_total{outcome="lost"} "#;
    figures.lines().find_map(|line| line.strip_prefix(lost)?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_a_warning_and_nothing_else() {
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let endpoint: &'static str = format!("http://{port}").leak();
    let settings = [("ALLIDB__TRACING__OTLP_ENDPOINT", endpoint), ("ALLIDB__TRACING__SAMPLE_RATIO", "1")];
    let mut process = Process::start_with(&settings).await;
    let client = process.client();
    client.create(COLLECTION, SPACE, 2).await;
    let first = eventually("spans are lost", async || lost(&process).await).await;
    client.put(entity(COLLECTION, "a")).await.expect("put");
    eventually("more are lost", async || lost(&process).await.filter(|more| *more > first)).await;
    let warnings = process.log().lines().filter(|line| line.contains("traces are lost")).count();
    assert_eq!(warnings, 1, "one in a minute");
    drop(client);
    process.terminate();
    assert!(process.ended().await.success());
}
