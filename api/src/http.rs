//! The HTTP port: metrics for Prometheus and probes for whoever runs the daemon, and the contract for those who speak HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

use allidb_cluster::{Caller, Connection, Incoming};
use axum::{
    Router,
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    http::{Extensions, HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
    serve::{IncomingStream, Listener},
};
use tokio::sync::watch;
use tonic::Code;

use crate::access::Access;

/// The type of what `/metrics` answers.
const METRICS_TYPE: [(header::HeaderName, &str); 1] =
    [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];

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
                if let Err(refusal) = guards.check(caller(&extensions), &headers).await {
                    return refusal.into_response();
                }
                (METRICS_TYPE, metrics()).into_response()
            }),
        )
        .merge(gateway)
}

/// Lets a request through to the gateway, and says who sent it.
async fn enter(State(guards): State<Guards>, mut request: Request, next: Next) -> Response {
    let caller = caller(request.extensions());
    if let Err(refusal) = guards.check_certificate(caller) {
        return refusal.into_response();
    }
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

fn caller(extensions: &Extensions) -> Option<Caller> {
    extensions.get::<ConnectInfo<Opened>>().map(|ConnectInfo(Opened(caller))| *caller)
}

/// Who opened the connection that a request came over.
#[derive(Clone, Copy, Debug)]
struct Opened(Caller);

/// The connections of the HTTP port.
struct Port(Incoming);

impl Listener for Port {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.0.next().await {
            Some(connection) => {
                let address = connection.caller().address;
                (connection, address)
            }
            // It listens as long as it is there.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.0.address())
    }
}

impl Connected<IncomingStream<'_, Port>> for Opened {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Self {
        Self(stream.io().caller())
    }
}

fn probe(holds: bool) -> (StatusCode, &'static str) {
    if holds { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
}

/// Serves `routes` until `stop` turns true.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    incoming: Incoming,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    axum::serve(Port(incoming), routes.into_make_service_with_connect_info::<Opened>())
        .with_graceful_shutdown(async move {
            // An error says that whoever would have told is gone: stop as well.
            stop.wait_for(|stop| *stop).await.ok();
        })
        .await
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

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
                request.extensions_mut().insert(ConnectInfo(Opened(Caller { address, has_certificate })));
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
