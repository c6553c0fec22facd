//! The HTTP port: metrics for Prometheus and probes for whoever runs the daemon.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

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

/// The routes of the HTTP port. `metrics` renders all figures in the text format of Prometheus.
pub fn router(metrics: impl Fn() -> String + Clone + Send + Sync + 'static, probes: Probes) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/startupz", get(async |State(probes): State<Probes>| probe(probes.is_past(Phase::Starting))))
        .route("/readyz", get(async |State(probes): State<Probes>| probe(probes.is_ready())))
        .with_state(probes)
        .route("/metrics", get(async move || (METRICS_TYPE, metrics())))
}

fn probe(holds: bool) -> (StatusCode, &'static str) {
    if holds { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
}

/// Serves `routes` until `stop` turns true.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    axum::serve(listener, routes)
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
        let routes = router(move || metrics.render(), probes.clone());
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
}
