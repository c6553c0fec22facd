//! Founding a ring: all its first members come to the same layout, each by itself, and only then go by it. Whoever comes later hears of it.

use std::{sync::Arc, time::Duration};

use allidb_index::{Error, Result};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    layout::{Layout, Member, Topology},
    membership::{Membership, NodeView},
    peer::{Client, Connector, proto::TopologyRequest},
    trace::Traced,
};

/// How often it is looked whether all are there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is said who is missing.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long a node may take to tell the topology.
const TELLING: Duration = Duration::from_secs(2);

/// Which ring is founded, by whom.
pub(crate) struct Founding<'o> {
    /// Where this node is.
    pub(crate) address: &'o str,
    /// Where the founders are.
    pub(crate) founders: &'o [String],
    /// How many nodes hold each partition.
    pub(crate) replication: usize,
    pub(crate) connector: &'o Connector,
}

/// The topology of the ring that is there. If there is none, waits until all founders are there and say that they would found it with the same
/// layout, which is a pure function of them; who is no founder waits until they have.
///
/// # Errors
/// If these founders can have no layout of so many replicas.
pub(crate) async fn found(membership: &Arc<Membership>, founding: Founding<'_>) -> Result<Topology> {
    let Founding { address, founders, replication, connector } = founding;
    let is_founder = founders.iter().any(|founder| founder == address);
    let mut said = Instant::now();
    loop {
        let nodes = membership.nodes().await;
        for view in nodes.iter().filter(|view| view.is_alive && view.epoch > 0) {
            match topology_of(connector, view).await {
                Ok(topology) => return Ok(topology),
                Err(error) => tracing::warn!(node = %view.node, %error, "a node does not tell the topology"),
            }
        }
        let present: Vec<&NodeView> = founders.iter().filter_map(|founder| at(&nodes, founder)).collect();
        let mut missing: Vec<&str> = Vec::new();
        if is_founder && present.len() == founders.len() {
            let member = |node: &&NodeView| Member {
                node: node.node,
                zone: node.zone.clone(),
                capacity: node.capacity,
            };
            let layout = Layout::found(present.iter().map(member).collect(), replication)
                .map_err(|error| Error::FailedPrecondition(format!("the ring cannot be founded: {error}")))?;
            let topology = Topology::founded(layout);
            let own = topology.digest();
            membership.propose(own).await;
            let differs = |node: &&&NodeView| node.node != membership.node() && node.founding != Some(own);
            missing.extend(present.iter().filter(differs).map(|node| node.address.as_str()));
            if missing.is_empty() {
                return Ok(topology);
            }
        } else {
            let is_absent = |founder: &&String| present.iter().all(|node| node.address != **founder);
            missing.extend(founders.iter().filter(is_absent).map(String::as_str));
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let last_lost = membership.last_lost();
            tracing::warn!(?missing, last_lost, "the ring is founded once these nodes are there and agree");
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What another node goes by.
async fn topology_of(connector: &Connector, view: &NodeView) -> Result<Topology> {
    let mut peer = Client::new(Traced(connector(&view.address)?));
    let unavailable = |why: String| Error::Unavailable(why);
    let reply = timeout(TELLING, peer.topology(TopologyRequest::default())).await;
    let reply = reply.map_err(|_| unavailable(format!("it did not answer within {TELLING:?}")))?;
    let topology = reply.map_err(|status| unavailable(status.message().to_owned()))?.into_inner().topology;
    Topology::decode(&topology).map_err(|error| unavailable(error.to_string()))
}

/// The node of this address that is there now.
fn at<'a>(nodes: &'a [NodeView], address: &str) -> Option<&'a NodeView> {
    nodes.iter().find(|node| node.is_alive && node.address == address)
}
