//! The gRPC port: every service of the contract, health and reflection behind one listener.

use std::time::Duration;

use allidb_cluster::{Coordinator, Incoming};
use tokio::sync::watch;
use tonic::{server::NamedService, service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    FILE_DESCRIPTOR_SET,
    access::Access,
    embedding::Embedder,
    layer::SurroundLayer,
    rest::Gateway,
    services::Services,
    slow::SlowLog,
    v1::{
        cluster_server::ClusterServer, collections_server::CollectionsServer,
        entities_server::EntitiesServer, graph_server::GraphServer, keys_server::KeysServer,
        maintenance_server::MaintenanceServer, quotas_server::QuotasServer, search_server::SearchServer,
        snapshots_server::SnapshotsServer,
    },
};

/// How the gRPC port behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest message taken, in bytes.
    pub message_bytes: usize,
    /// The largest message given, in bytes.
    pub answer_bytes: usize,
    /// Calls under way in all; more are refused.
    pub concurrent_requests: usize,
    /// Bytes of their requests together; more are refused.
    pub request_bytes: usize,
    /// Calls under way on one connection; more wait.
    pub concurrent_streams: u32,
    /// Queries of one batch that run at once.
    pub batch_concurrency: usize,
    /// Who turns texts into vectors, if anybody does.
    pub embedder: Option<Embedder>,
    /// Queries that take so long or longer are logged; 0: none.
    pub slow_query: Duration,
    /// How long the message of a request may take to come.
    pub arrival: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            message_bytes: 16 << 20,
            answer_bytes: 64 << 20,
            concurrent_requests: 1_024,
            request_bytes: 512 << 20,
            concurrent_streams: 256,
            batch_concurrency: 8,
            embedder: None,
            slow_query: Duration::from_secs(1),
            arrival: Duration::from_secs(30),
        }
    }
}

/// Bytes in flight on one stream before the sender waits: enough to keep vectors coming over a link of some milliseconds.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same of one connection. HTTP/2's implementation here ends a connection on which so many small messages lie unread that what they
/// lack to 256 bytes each, which is about what they take, comes to half of this. A stream may hold 10,000 messages of 25 bytes: of these it is
/// enough for three.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How often a silent connection is asked for a sign of life, and how long it may take to give one.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why serving ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener or a connection failed.
    #[error("the gRPC port failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The contract built into this program cannot be read.
    #[error("the contract cannot be served for reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Every service of the contract with what surrounds its calls, whichever port they come over.
pub struct Contract {
    routes: Routes,
    surround: SurroundLayer,
    health: HealthReporter,
    settings: Settings,
    stop: watch::Receiver<bool>,
}

impl Contract {
    /// Answers from `coordinator` whom `access` lets in, until `stop` turns true.
    ///
    /// # Errors
    /// Where the contract cannot be reflected.
    pub async fn new(
        (coordinator, access): (Coordinator, Access),
        settings: Settings,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, ServeError> {
        let services = Services {
            coordinator,
            batch_concurrency: settings.batch_concurrency.max(1),
            embedder: settings.embedder.clone(),
            slow: SlowLog::new(settings.slow_query),
            draining: stop.clone(),
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::Serving).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let reflection_alpha = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let surround = SurroundLayer::new(
            settings.concurrent_requests,
            settings.request_bytes,
            settings.message_bytes,
            settings.answer_bytes,
        )
        .arriving_within(settings.arrival)
        .guarded_by(access);
        macro_rules! bounded {
            ($server:ident) => {
                $server::new(services.clone())
                    .max_decoding_message_size(settings.message_bytes)
                    .max_encoding_message_size(settings.answer_bytes)
            };
        }
        let routes = Routes::default()
            .add_service(bounded!(ClusterServer))
            .add_service(bounded!(CollectionsServer))
            .add_service(bounded!(EntitiesServer))
            .add_service(bounded!(GraphServer))
            .add_service(bounded!(KeysServer))
            .add_service(bounded!(MaintenanceServer))
            .add_service(bounded!(QuotasServer))
            .add_service(bounded!(SearchServer))
            .add_service(bounded!(SnapshotsServer))
            .add_service(health_service)
            .add_service(reflection.build_v1()?)
            .add_service(reflection_alpha.build_v1alpha()?)
            .prepare();
        Ok(Self { routes, surround, health, settings, stop })
    }

    /// The same services for the HTTP port.
    pub fn gateway(&self) -> Gateway {
        Gateway::new(self.routes.clone(), &self.surround, self.settings.message_bytes, self.stop.clone())
    }
}

/// Serves until it is told to stop, then finishes what is under way, over the HTTP port, too: unary calls run to their end, streams
/// of writes take no further item, answer those they took and end with UNAVAILABLE.
///
/// # Errors
/// Where the port cannot be served.
pub async fn serve(incoming: Incoming, contract: Contract) -> Result<(), ServeError> {
    let Contract { routes, surround, health, settings, stop } = contract;
    Server::builder()
        .max_concurrent_streams(settings.concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(surround.clone())
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, drain(stop, health))
        .await?;
    surround.ended(settings.concurrent_requests).await;
    Ok(())
}

/// Returns when serving is to end, having told everyone who watches the server's health.
async fn drain(mut stop: watch::Receiver<bool>, mut health: HealthReporter) {
    // An error says that whoever would have told is gone: stop as well.
    stop.wait_for(|stop| *stop).await.ok();
    set_health(&health, ServingStatus::NotServing).await;
    // Ends the streams of those who watch, which would otherwise keep their connections open.
    for service in names() {
        health.clear_service_status(service).await;
    }
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in names() {
        health.set_service_status(service, status).await;
    }
}

/// The services of the contract.
pub(crate) fn services() -> impl Iterator<Item = &'static str> {
    names().into_iter().filter(|name| !name.is_empty())
}

/// The services of the contract, and the empty name for the server as a whole.
fn names() -> [&'static str; 10] {
    [
        "",
        ClusterServer::<Services>::NAME,
        CollectionsServer::<Services>::NAME,
        EntitiesServer::<Services>::NAME,
        GraphServer::<Services>::NAME,
        KeysServer::<Services>::NAME,
        MaintenanceServer::<Services>::NAME,
        QuotasServer::<Services>::NAME,
        SearchServer::<Services>::NAME,
        SnapshotsServer::<Services>::NAME,
    ]
}
