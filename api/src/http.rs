//! The HTTP port: metrics for Prometheus and probes for whoever runs the daemon.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use allidb_cluster::{Caller, Connection, Incoming};
use axum::{
    Router,
    extract::{ConnectInfo, State, connect_info::Connected},
    http::{Extensions, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::{IncomingStream, Listener},
};
use tokio::sync::watch;

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

/// The routes of the HTTP port. `metrics` renders all figures in the text format of Prometheus: for those only who have shown a certificate, if
/// that `is_asked_for`. Probes answer everybody.
pub fn router(
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    probes: Probes,
    is_asked_for: bool,
) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/startupz", get(async |State(probes): State<Probes>| probe(probes.is_past(Phase::Starting))))
        .route("/readyz", get(async |State(probes): State<Probes>| probe(probes.is_ready())))
        .with_state(probes)
        .route(
            "/metrics",
            get(async move |extensions: Extensions| -> Response {
                let caller = extensions.get::<ConnectInfo<Opened>>();
                if is_asked_for && !caller.is_some_and(|ConnectInfo(Opened(by))| by.has_certificate) {
                    return (StatusCode::FORBIDDEN, "a certificate of a client is needed\n").into_response();
                }
                (METRICS_TYPE, metrics()).into_response()
            }),
        )
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
        let routes = router(move || metrics.render(), probes.clone(), false);
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
    async fn figures_are_for_whoever_has_shown_a_certificate() {
        let routes = router(|| "figures".to_owned(), Probes::new(|| true), true);
        let status = async |path: &str, has_certificate: Option<bool>| {
            let mut request = Request::builder().uri(path).body(Body::empty()).expect("a request");
            let address = SocketAddr::from(([127, 0, 0, 1], 1));
            let opened =
                has_certificate.map(|shown| ConnectInfo(Opened(Caller { address, has_certificate: shown })));
            opened.map(|opened| request.extensions_mut().insert(opened));
            routes.clone().oneshot(request).await.expect("infallible").status()
        };
        for (shown, expected) in [
            (None, StatusCode::FORBIDDEN),
            (Some(false), StatusCode::FORBIDDEN),
            (Some(true), StatusCode::OK),
        ] {
            assert_eq!(status("/metrics", shown).await, expected, "{shown:?}");
            assert_eq!(status("/livez", shown).await, StatusCode::OK, "{shown:?}");
        }
    }
}
