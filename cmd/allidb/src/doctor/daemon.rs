//! What checks of a daemon that runs look at, and their table.

use std::time::Duration;

use allidb_api::v1::{
    DescribeClusterRequest, DescribeClusterResponse, Key, ListKeysRequest, ListQuotasRequest, TenantQuota,
    Worker,
};
use anyhow::{Result, bail};
use tokio::time::timeout;

use super::{
    node, ring, tenants,
    verdict::{Check, Finding, Verdict},
};
use crate::{
    client::{Client, Server},
    failure::{self, Failure},
    metrics_port::MetricsPort,
    prometheus::Figures,
    worker,
};

/// How long a daemon may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why something could not be asked for.
pub(super) type Unknown = String;

/// What a daemon answers.
pub(super) struct Answers {
    pub(super) cluster: DescribeClusterResponse,
    pub(super) workers: Vec<Worker>,
    pub(super) figures: Result<Figures, Unknown>,
    pub(super) quotas: Result<Vec<TenantQuota>, Unknown>,
    pub(super) keys: Result<Vec<Key>, Unknown>,
}

/// All checks, in the order in which they are shown.
const CHECKS: &[Check<Answers>] = &[
    ("releases", ring::releases),
    ("nodes", ring::nodes),
    ("replicas", ring::replicas),
    ("clocks", ring::clocks),
    ("healing", ring::healing),
    ("hints", ring::hints),
    ("topology", ring::topology),
    ("purge", ring::purge),
    ("repair", node::repair),
    ("writes", node::writes),
    ("damage", node::damage),
    ("restore", node::restore),
    ("compaction", node::compaction),
    ("workers", node::workers),
    ("quotas", tenants::quotas),
    ("keys", tenants::keys),
];

/// Asks the daemon, and looks at what it says. One that is not there is no failure, unless it must answer.
pub(super) async fn check(
    server: &Server,
    metrics_url: Option<&str>,
    must_answer: bool,
) -> Result<Vec<Finding>> {
    // What is wrong with the arguments is not a finding.
    let port = MetricsPort::of(server, metrics_url)?;
    let answers = match ask(server, &port).await {
        Ok(answers) => answers,
        Err(error) if failure::exit_code(&error) == Some(2) => return Err(error),
        Err(error) if !must_answer && failure::exit_code(&error) == Some(4) => {
            return Ok(vec![("daemon", Verdict::skipped(format!("{error:#}")))]);
        }
        Err(error) => {
            let advice = match error.downcast_ref::<Failure>() {
                // It answers, and does not let this caller in.
                Some(Failure::Refused(_)) => "show an operator's key with --key-file or ALLIDB_KEY",
                _ => "start it, or name it with --endpoint",
            };
            return Ok(vec![("daemon", Verdict::fail(format!("{error:#}"), advice))]);
        }
    };
    let answered = Verdict::ok(format!("node {} answers at {}", answers.cluster.node, server.endpoint));
    let checked =
        CHECKS.iter().flat_map(|&(name, check)| check(&answers).into_iter().map(move |found| (name, found)));
    Ok(std::iter::once(("daemon", answered)).chain(checked).collect())
}

async fn ask(server: &Server, port: &MetricsPort) -> Result<Answers> {
    let Ok(answers) = timeout(PATIENCE, ask_all(server, port)).await else {
        bail!("{} does not answer within {} s", server.endpoint, PATIENCE.as_secs());
    };
    answers
}

async fn ask_all(server: &Server, port: &MetricsPort) -> Result<Answers> {
    let client = Client::reach(server).await?;
    let cluster = client.cluster().describe_cluster(DescribeClusterRequest {}).await;
    let cluster = cluster.map_err(Failure::from_status)?.into_inner();
    let workers = worker::list(&client).await?;
    // These are for other roles, or at another port.
    let figures = port.read().await.map_err(|error| format!("{error:#}"));
    let quotas = client.quotas().list_quotas(ListQuotasRequest {}).await;
    let quotas =
        quotas.map(|answer| answer.into_inner().quotas).map_err(|status| status.message().to_owned());
    let keys = client.keys().list_keys(ListKeysRequest {}).await;
    let keys = keys.map(|answer| answer.into_inner().keys).map_err(|status| status.message().to_owned());
    Ok(Answers { cluster, workers, figures, quotas, keys })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use allidb_api::v1::{Layout, Node, Partition, Shape, shape::Phase};
    use allidbd::build;

    use super::{super::verdict::State, *};

    /// What a ring of three answers in which nothing is wrong.
    pub(in crate::doctor) fn healthy() -> Answers {
        let ids = ["a", "b", "c"].map(str::to_owned);
        let node = |id: &String| Node {
            id: id.clone(),
            is_member: true,
            is_alive: true,
            agrees: true,
            release: build::VERSION.to_owned(),
            ..Node::default()
        };
        let partition = Partition { nodes: ids.to_vec() };
        let layout = Layout { replication: 3, partitions: vec![partition; 256], ..Layout::default() };
        let cluster = DescribeClusterResponse {
            node: "a".to_owned(),
            layout: Some(layout),
            nodes: ids.iter().map(node).collect(),
            shape: Some(Shape { phase: Phase::Settled.into(), ..Shape::default() }),
            ..DescribeClusterResponse::default()
        };
        let figures = Figures::parse("up 1");
        Answers { cluster, workers: Vec::new(), figures, quotas: Ok(Vec::new()), keys: Ok(Vec::new()) }
    }

    /// The same, with figures of one's own.
    pub(in crate::doctor) fn told(figures: &str) -> Answers {
        Answers { figures: Figures::parse(figures), ..healthy() }
    }

    #[test]
    fn every_check_has_a_name_of_its_own_and_a_healthy_ring_passes() {
        let names: HashSet<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), CHECKS.len());
        for (name, check) in CHECKS {
            for verdict in check(&healthy()) {
                let is_fine = matches!(verdict.state, State::Ok | State::Skipped);
                assert!(is_fine && !verdict.found.is_empty(), "{name}: {verdict:?}");
            }
        }
    }
}
