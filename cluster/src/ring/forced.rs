//! Going on without members that are lost, though without them there is no quorum: an operator's way out (ADR 0045).

use std::{collections::BTreeMap, time::Duration};

use allidb_index::{
    Deadline, EntityKey, EntityState, Error, HoldingsRequest, PARTITIONS, Result, TreeRequest,
};
use bytes::Bytes;

use super::{
    Change, Ring,
    anti_entropy::{Compared, Pair},
    quorum::Quorum,
    whole::TAKING,
};
use crate::{
    layout::{NodeId, Topology},
    peer::{Client, proto::AdoptCatalogueRequest},
};

/// How long a node may take to say that it is not lost.
const ANSWERING: Duration = Duration::from_secs(2);

impl Ring {
    /// Goes on without members that are lost, though without them there is no quorum: what is left of each partition is what there is from then on.
    /// All others must answer, and agree, and hold together what any of them does first; so whoever else forces anything with one of these comes before, or after.
    ///
    /// # Errors
    /// If no quorum is lost with them, one of them answers, or one of the others does not: it may be made then, or may be later.
    pub async fn go_on_without(&self, seen: u64, lost: &[NodeId], deadline: Deadline) -> Result<Change> {
        let ring = self.now();
        let topology = ring.topology();
        let refused = |why: String| Err(Error::FailedPrecondition(why));
        topology.without(lost).map_err(|error| Error::FailedPrecondition(error.to_string()))?;
        if !topology.needs(lost) {
            return refused("no quorum is lost with these nodes: remove them as any other".to_owned());
        }
        for node in lost {
            let within = Deadline::after(ANSWERING.min(deadline.remaining()));
            if *node == ring.node() || ring.0.taken_over(*node, within).await.is_ok() {
                return refused(format!("node {node} answers: it is not lost"));
            }
        }
        let not_gathered = |error: Error| {
            Error::FailedPrecondition(format!(
                "all nodes that are not lost must bring together what they hold, and not all do, so nothing is changed: {error}"
            ))
        };
        ring.gather_catalogues(lost, deadline).await.map_err(not_gathered)?;
        ring.gather_from_next(lost, deadline).await.map_err(not_gathered)?;
        let all = |_: &Topology, next: &Topology| {
            let left = next.nodes();
            let count = left.len();
            Quorum::of_nodes(left, count)
        };
        let change = self.reshape_by(all, seen, |topology| topology.without(lost), deadline).await;
        change.map_err(|error| match error {
            Error::Unavailable(why) => Error::FailedPrecondition(format!(
                "all nodes that are not lost must agree, and not all do; it may be made yet: {why}"
            )),
            other => other,
        })
    }

    /// Has all nodes that are left go by the newest catalogue that any of them knows: what was acknowledged with those that are lost may be known to one
    /// alone.
    async fn gather_catalogues(&self, lost: &[NodeId], deadline: Deadline) -> Result<()> {
        let left = self.topology().nodes();
        let others = || left.iter().filter(|node| !lost.contains(node) && **node != self.node());
        for node in others() {
            self.pull_catalogue(*node, deadline).await?;
        }
        let catalogue: Bytes = self.replica().encoded_catalogue().into();
        for node in others() {
            let ask = |mut peer: Client, fence| {
                let request = AdoptCatalogueRequest { fence, catalogue: catalogue.clone() };
                async move { peer.adopt_catalogue(request).await }
            };
            self.0.served.call(*node, deadline, ask).await?;
        }
        Ok(())
    }

    /// While the ring moves: has those that are left of the replicas of each partition by the present layout hold what those do that are to hold it by the
    /// next one. They stay, and what was acknowledged by a quorum with nodes that are lost may lie there alone.
    async fn gather_from_next(&self, lost: &[NodeId], deadline: Deadline) -> Result<()> {
        let topology = self.topology();
        let Some(next) = topology.next() else { return Ok(()) };
        let is_left = |node: &&NodeId| !lost.contains(node);
        let mut pairs = BTreeMap::<(NodeId, NodeId), Vec<u16>>::new();
        for partition in 0..PARTITIONS {
            let present = topology.layout().replicas(partition);
            let goes = next.replicas(partition).iter().filter(is_left).filter(|node| !present.contains(node));
            for goes in goes {
                for stays in present.iter().filter(is_left) {
                    pairs.entry((*goes, *stays)).or_default().push(partition);
                }
            }
        }
        for ((from, to), partitions) in pairs {
            let pair = Pair { nodes: [from, to], compared: Compared::Everything, deadline };
            let differing = self.0.differing(pair, &TreeRequest::Roots(partitions.clone())).await?;
            for partition in differing.into_iter().filter_map(|at| partitions.get(at)) {
                self.bring(pair, *partition).await?;
            }
        }
        Ok(())
    }

    /// Has the second of two nodes hold what the first one does of a partition. Not the other way as well: who is only to hold it has next to nothing
    /// of it when a move has just begun, and would have to be told all.
    async fn bring(&self, pair: Pair, partition: u16) -> Result<()> {
        let Pair { nodes: [from, to], deadline, .. } = pair;
        let leaves = self.0.differing_leaves(pair, partition).await?;
        let mut after = None;
        while !leaves.is_empty() {
            let read_at = self.replica().purged();
            let request = HoldingsRequest { partition, after, leaves: Some(leaves.clone()) };
            let held = self.holdings(from, request, deadline).await?;
            let Some((last, _)) = held.last() else { break };
            after = Some(last.clone());
            let garbled =
                |error| Error::Unavailable(format!("a state of node {from} cannot be read: {error}"));
            let state = |(entity, state): (EntityKey, Vec<u8>)| {
                Ok((entity, EntityState::decode(&state).map_err(garbled)?))
            };
            let states = held.into_iter().map(state).collect::<Result<Vec<_>>>()?;
            self.0.have_absorbed(to, states, (read_at, TAKING, deadline)).await?;
        }
        Ok(())
    }
}
