//! One look at a node and its ring.

use std::time::{Duration, Instant};

use allidb_api::v1::{DescribeClusterRequest, DescribeClusterResponse, Worker};
use anyhow::{Result, bail};
use tokio::time::timeout;

use crate::{client::Client, failure::Failure, metrics_port::MetricsPort, prometheus::Figures, worker};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) cluster: DescribeClusterResponse,
    pub(super) workers: Vec<Worker>,
    /// Or why there are none: they are at another port.
    pub(super) figures: Result<Figures, String>,
}

impl Look {
    pub(super) async fn at(client: &Client, port: &MetricsPort) -> Result<Self> {
        let Ok(look) = timeout(PATIENCE, Self::ask(client, port)).await else {
            bail!("no answer within {} s", PATIENCE.as_secs());
        };
        look
    }

    async fn ask(client: &Client, port: &MetricsPort) -> Result<Self> {
        let mut service = client.cluster();
        let (cluster, workers) =
            tokio::join!(service.describe_cluster(DescribeClusterRequest {}), worker::list(client));
        let cluster = cluster.map_err(Failure::from_status)?.into_inner();
        // Last, so that what was asked here counts in each look alike.
        let figures = port.read().await;
        let figures = figures.map_err(|error| format!("{error:#}"));
        Ok(Self { at: Instant::now(), cluster, workers: workers?, figures })
    }
}
