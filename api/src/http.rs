//! The HTTP port: metrics for Prometheus and probes for whoever runs the daemon, and the contract for those who speak HTTP.

use std::{
    io,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use allidb_cluster::{Caller, Incoming};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Extensions, HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{sync::watch, task::JoinSet};
use tonic::Code;
use tower::ServiceExt;

use crate::access::Access;

/// The type of what `/metrics` answers.
const METRICS_TYPE: [(header::HeaderName, &str); 1] =
    [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];

/// How long the head of a request may take, from when the one before it was answered. Who reads figures every fifteen seconds, as is usual, keeps
/// its connection.
const HEAD: Duration = Duration::from_secs(30);

/// What a connection holds of what comes and of what goes: the head of a request may be as long.
const BUFFER: usize = 64 << 10;

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Opening its storage.
    Starting = 0,
    /// Serving.
    Serving = 1,
    /// Finishing what it has begun and taking on nothing new.
    Draining = 2,
}

/// What the probes answer from. Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    phase: Arc<AtomicU8>,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Probes {
    /// A server that is starting. While it serves, it is ready when `ready` says so.
    pub fn new(ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { phase: Arc::new(AtomicU8::new(Phase::Starting as u8)), ready: Arc::new(ready) }
    }

    /// Enters another phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    fn is_past(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) > phase as u8
    }

    fn is_ready(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Serving as u8 && (self.ready)()
    }
}

/// What is asked of whoever wants to see figures.
#[derive(Clone)]
pub struct Guards {
    /// A certificate of a client.
    pub certificates: bool,
    /// A key.
    pub keys: bool,
    /// What decides about keys, once it is there: until then nobody who has to show one sees any.
    pub access: Arc<OnceLock<Access>>,
}

impl Guards {
    /// Whether the connection is one that more than probes is answered over.
    fn check_certificate(&self, caller: Option<Caller>) -> Result<(), (StatusCode, String)> {
        if self.certificates && !caller.is_some_and(|caller| caller.has_certificate) {
            return Err((StatusCode::FORBIDDEN, "a certificate of a client is needed\n".to_owned()));
        }
        Ok(())
    }

    async fn check(&self, caller: Option<Caller>, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        self.check_certificate(caller)?;
        if !self.keys {
            return Ok(());
        }
        let Some(access) = self.access.get() else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()));
        };
        access.admit_to_figures(headers).await.map_err(|status| {
            let code = match status.code() {
                Code::PermissionDenied => StatusCode::FORBIDDEN,
                _ => StatusCode::UNAUTHORIZED,
            };
            (code, format!("{}\n", status.message()))
        })
    }
}

/// The routes of the HTTP port. `metrics` renders all figures in the text format of Prometheus, for those whom the guards let in. Probes answer
/// everybody. `gateway` decides about keys itself.
pub fn router(
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    probes: Probes,
    guards: Guards,
    gateway: Router,
) -> Router {
    let gateway = gateway.layer(middleware::from_fn_with_state(guards.clone(), enter));
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/startupz", get(async |State(probes): State<Probes>| probe(probes.is_past(Phase::Starting))))
        .route("/readyz", get(async |State(probes): State<Probes>| probe(probes.is_ready())))
        .with_state(probes)
        .route(
            "/metrics",
            get(async move |extensions: Extensions, headers: HeaderMap| -> Response {
                if let Err(refusal) = guards.check(extensions.get().cloned(), &headers).await {
                    return refusal.into_response();
                }
                (METRICS_TYPE, metrics()).into_response()
            }),
        )
        .merge(gateway)
}

/// Lets a request through to the gateway.
async fn enter(State(guards): State<Guards>, request: Request, next: Next) -> Response {
    if let Err(refusal) = guards.check_certificate(request.extensions().get().cloned()) {
        return refusal.into_response();
    }
    next.run(request).await
}

fn probe(holds: bool) -> (StatusCode, &'static str) {
    if holds { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
}

/// Serves `routes` until `stop` turns true, over HTTP/1.1. Requests have their [`Caller`] among their extensions.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(incoming: Incoming, routes: Router, stop: watch::Receiver<bool>) -> io::Result<()> {
    serve_within(incoming, routes, stop, HEAD).await
}

/// The same, with heads that take so long at most.
async fn serve_within(
    mut incoming: Incoming,
    routes: Router,
    mut stop: watch::Receiver<bool>,
    head: Duration,
) -> io::Result<()> {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(BUFFER);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stopped = pin!(async move {
        // An error says that whoever would have told is gone: stop as well.
        stop.wait_for(|stop| *stop).await.ok();
    });
    loop {
        let connection = tokio::select! {
            connection = incoming.next() => connection,
            () = &mut stopped => break,
        };
        let connection = connection.ok_or_else(|| io::Error::other("no connections are taken any more"))?;
        while connections.try_join_next().is_some() {}
        let caller = connection.caller();
        let from = caller.address;
        let service =
            routes.clone().map_request(move |request: http::Request<hyper::body::Incoming>| -> Request {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(caller.clone());
                request
            });
        let serving = protocol.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
        let serving = graceful.watch(serving);
        connections.spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%from, %error, "a connection broke");
            }
        });
    }
    drop(incoming);
    graceful.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use allidb_cluster::Calls;
    use axum::http::Request;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    /// What a port that answers with the address of whoever asks says to these bytes until it closes the connection, and that address.
    async fn answer_to(bytes: &[u8]) -> (String, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let incoming = Incoming::plain(listener, 10).expect("an address");
        let address = incoming.address();
        let routes = Router::new().route(
            "/who",
            get(async |extensions: Extensions| {
                extensions.get::<Caller>().map(|caller| caller.address.to_string()).unwrap_or_default()
            }),
        );
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve_within(incoming, routes, stopped, Duration::from_millis(200)));
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let own = client.local_addr().expect("an address");
        client.write_all(bytes).await.expect("there is room");
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(20), client.read_to_end(&mut answer)).await;
        // What was not read is answered with a reset.
        read.expect("it is closed").ok();
        stop.send_replace(true);
        let served = timeout(Duration::from_secs(20), serving).await.expect("it stops");
        served.expect("no panic").expect("the port did not fail");
        (String::from_utf8_lossy(&answer).into_owned(), own)
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_its_connection() {
        let (answer, _) = answer_to(b"GET /who HTTP/1.1\r\nHost: a").await;
        assert!(!answer.contains("200 OK"), "{answer}");
        let whole = b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n";
        let (answer, own) = answer_to(whole).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with(&own.to_string()), "{answer}");
    }

    #[tokio::test]
    async fn nothing_but_http_1_is_spoken() {
        // The preface of HTTP/2, and settings that change nothing.
        let (answer, _) = answer_to(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    }

    #[tokio::test]
    async fn probes_follow_the_phases() {
        let probes = Probes::new(|| true);
        let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        let guards = Guards { certificates: false, keys: false, access: Arc::default() };
        let routes = router(move || metrics.render(), probes.clone(), guards, Router::new());
        let status = async |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
            routes.clone().oneshot(request).await.expect("infallible").status()
        };
        let (yes, no) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        let each = async || (status("/livez").await, status("/startupz").await, status("/readyz").await);
        assert_eq!(each().await, (yes, no, no));
        probes.enter(Phase::Serving);
        assert_eq!(each().await, (yes, yes, yes));
        probes.enter(Phase::Draining);
        assert_eq!(each().await, (yes, yes, no));
        assert_eq!(status("/metrics").await, yes);
        assert_eq!(status("/nothing").await, StatusCode::NOT_FOUND);
    }
    #[tokio::test]
    async fn figures_are_for_whoever_shows_what_is_asked_for() {
        let status = async |path: &str, (certificates, keys), shown: Option<bool>| {
            let guards = Guards { certificates, keys, access: Arc::default() };
            let gateway = Router::new().route("/v1/x", get(|| async { "x" }));
            let routes = router(|| "figures".to_owned(), Probes::new(|| true), guards, gateway);
            let mut request = Request::builder().uri(path).body(Body::empty()).expect("a request");
            if let Some(has_certificate) = shown {
                let address = SocketAddr::from(([127, 0, 0, 1], 1));
                request.extensions_mut().insert(Caller { address, has_certificate, calls: Calls::default() });
            }
            routes.oneshot(request).await.expect("infallible").status()
        };
        let (yes, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
        for (shown, expected) in [(None, no), (Some(false), no), (Some(true), yes)] {
            assert_eq!(status("/metrics", (true, false), shown).await, expected, "{shown:?}");
            assert_eq!(status("/v1/x", (true, false), shown).await, expected, "{shown:?}");
            assert_eq!(status("/livez", (true, true), shown).await, yes, "{shown:?}");
        }
        // It asks for keys itself.
        assert_eq!(status("/v1/x", (false, true), None).await, yes);
        // Until it is known who is let in.
        let unknown = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(status("/metrics", (false, true), Some(true)).await, unknown);
    }
}
