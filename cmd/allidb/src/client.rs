//! The connection to a daemon.

use std::time::Duration;

use allidb_api::v1::{
    Consistency, cluster_client::ClusterClient, collections_client::CollectionsClient,
    entities_client::EntitiesClient, graph_client::GraphClient, maintenance_client::MaintenanceClient,
    search_client::SearchClient,
};
use anyhow::Result;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

/// A page of entities with their vectors may be large; the server has limits of its own.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection, shared by the clients of all services. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    /// As requests say it; 0: as the server likes.
    consistency: i32,
}

impl Client {
    /// Connects to `endpoint`: a URL, or only `host:port`.
    pub(crate) async fn connect(endpoint: &str) -> Result<Self> {
        let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        let address = Endpoint::from_shared(url.clone())
            .map_err(|error| Failure::usage(format!("`{endpoint}` is not an endpoint: {error}")))?;
        let channel =
            address.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await.map_err(|error| {
                let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), innermost);
                anyhow::Error::new(Failure::Unreachable(format!(
                    "nothing answers at {url}: {cause}\n  is the daemon running? `allidb serve` starts one"
                )))
            })?;
        Ok(Self { channel, consistency: 0 })
    }

    /// The same, for reads and writes of this consistency.
    pub(crate) fn at(self, consistency: Option<Consistency>) -> Self {
        Self { consistency: consistency.unwrap_or_default().into(), ..self }
    }

    /// How many replicas must agree on what is read, and have what is written.
    pub(crate) fn consistency(&self) -> i32 {
        self.consistency
    }

    pub(crate) fn entities(&self) -> EntitiesClient<Channel> {
        EntitiesClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn graph(&self) -> GraphClient<Channel> {
        GraphClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn search(&self) -> SearchClient<Channel> {
        SearchClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub(crate) fn collections(&self) -> CollectionsClient<Channel> {
        CollectionsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// The cause at the bottom of a chain: "connection refused" says more than "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}
