//! Founding a ring: all its first members come to the same layout, each by itself, and only then go by it.

use std::{sync::Arc, time::Duration};

use allidb_index::{Error, Result};
use tokio::time::{Instant, sleep};

use crate::{
    layout::{Layout, Member},
    membership::{Membership, NodeView},
};

/// How often it is looked whether all are there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is said who is missing.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Waits until all founders are there and say that they would found the ring with the same layout, which is a pure function of them. Who has it
/// already goes on saying so.
///
/// # Errors
/// If these founders can have no layout of so many replicas, or one of them is a member of another ring already.
pub(crate) async fn found(
    membership: &Arc<Membership>,
    founders: &[String],
    replication: usize,
) -> Result<Layout> {
    let mut said = Instant::now();
    loop {
        let nodes = membership.nodes().await;
        let present: Vec<&NodeView> = founders.iter().filter_map(|founder| at(&nodes, founder)).collect();
        let (mut missing, mut digest): (Vec<&str>, _) = (Vec::new(), None);
        if present.len() == founders.len() {
            let member = |node: &&NodeView| Member {
                node: node.node,
                zone: node.zone.clone(),
                capacity: node.capacity,
            };
            let layout = Layout::found(present.iter().map(member).collect(), replication)
                .map_err(|error| Error::FailedPrecondition(format!("the ring cannot be founded: {error}")))?;
            let own = layout.digest();
            digest = Some(own);
            membership.propose(own).await;
            let differs = |node: &&&NodeView| {
                node.node != membership.node() && node.founding != Some(own) && node.layout != Some(own)
            };
            missing.extend(present.iter().filter(differs).map(|node| node.address.as_str()));
            if missing.is_empty() {
                return Ok(layout);
            }
        } else {
            let is_absent = |founder: &&String| present.iter().all(|node| node.address != **founder);
            missing.extend(founders.iter().filter(is_absent).map(String::as_str));
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            if let Some(member) = present
                .iter()
                .find(|node| digest.is_some() && node.layout.is_some_and(|layout| Some(layout) != digest))
            {
                return Err(Error::FailedPrecondition(format!(
                    "node {} at {} is a member of a ring already, which this node is no founder of",
                    member.node, member.address
                )));
            }
            let last_lost = membership.last_lost();
            tracing::warn!(?missing, last_lost, "the ring is founded once these nodes are there and agree");
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The node of this address that is there now.
fn at<'a>(nodes: &'a [NodeView], address: &str) -> Option<&'a NodeView> {
    nodes.iter().find(|node| node.is_alive && node.address == address)
}
