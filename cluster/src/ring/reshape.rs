//! Agreeing on another topology, and going from phase to phase of it (ADR 0029).
//!
//! The topology of the next epoch is chosen by the members of the present layout: so of two operators who change it at once one wins, and the
//! other is told. Whoever knows an epoch's topology knows that it was chosen.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, PARTITIONS, Result};
use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use super::{Inner, Ring, choose::Choice, quorum::Quorum, wrong::Wrong};
use crate::{
    coordinator::Consistency,
    layout::{NodeId, Phase, Staged, Topology, TopologyError},
    peer::{
        Client,
        proto::{AdoptCatalogueRequest, Subject, TakenOverReply, TakenOverRequest, TopologyRequest},
    },
};

/// How long nodes may take to hear of another topology before whoever had it chosen goes on: they hear of it later otherwise.
const TELLING: Duration = Duration::from_secs(1);

/// How long a node may take to say that it is not lost.
const ANSWERING: Duration = Duration::from_secs(2);

/// What came of a change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Made(Arc<Topology>),
    /// Another one was made first.
    Another(Arc<Topology>),
}

impl Ring {
    /// Stages another shape: from then on all nodes show what it would come to.
    ///
    /// # Errors
    /// As [`reshape`](Self::reshape), and if there can be no such layout.
    pub async fn stage(&self, seen: u64, staged: Staged, deadline: Deadline) -> Result<Change> {
        self.reshape(seen, |topology| topology.stage(staged), deadline).await
    }

    /// Begins to move to the shape that is staged.
    ///
    /// # Errors
    /// As [`reshape`](Self::reshape), and if nothing is staged, or a node that is to come does not answer.
    pub async fn apply(&self, seen: u64, deadline: Deadline) -> Result<Change> {
        let ring = self.now();
        let planned =
            ring.topology().planned().map_err(|error| Error::FailedPrecondition(error.to_string()))?;
        for node in planned.members().iter().map(|member| member.node) {
            // Nothing that it is to hold could be written.
            let told = ring.0.taken_over(node, deadline).await.map_err(|error| {
                Error::FailedPrecondition(format!(
                    "node {node} is to hold data, and does not answer: {error}"
                ))
            })?;
            let is_to_hold = |partition: &&u32| {
                u16::try_from(**partition).is_ok_and(|of| planned.replicas(of).contains(&node))
            };
            let left = told.leftovers.iter().filter(is_to_hold).count();
            if left > 0 {
                return Err(Error::FailedPrecondition(format!(
                    "node {node} is to hold {left} partitions of which it removes what it held before: try again soon"
                )));
            }
        }
        let closed = self.replica().closed();
        self.reshape(seen, |topology| topology.apply(closed), deadline).await
    }

    /// Lets go of the shape that is staged, or goes back from a move that is under way.
    ///
    /// # Errors
    /// As [`reshape`](Self::reshape), and if there is nothing to let go of.
    pub async fn revert(&self, seen: u64, deadline: Deadline) -> Result<Change> {
        self.reshape(seen, Topology::revert, deadline).await
    }

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
        let mut pairs = BTreeMap::<[NodeId; 2], Vec<u16>>::new();
        for partition in 0..PARTITIONS {
            let present = topology.layout().replicas(partition);
            for stays in present.iter().filter(is_left) {
                for goes in
                    next.replicas(partition).iter().filter(is_left).filter(|node| !present.contains(node))
                {
                    pairs.entry([*stays, *goes]).or_default().push(partition);
                }
            }
        }
        for (nodes, partitions) in pairs {
            self.make_alike(nodes, partitions, deadline).await?;
        }
        Ok(())
    }

    /// Changes what the ring goes by, if that is still what the caller has seen.
    ///
    /// # Errors
    /// If it cannot be changed so, or too few members of the layout answer: it may be made then, or may be later.
    async fn reshape(
        &self,
        seen: u64,
        change: impl FnOnce(&Topology) -> Result<Topology, TopologyError>,
        deadline: Deadline,
    ) -> Result<Change> {
        let majority = |now: &Topology, _: &Topology| {
            let members: Vec<NodeId> = now.layout().members().iter().map(|member| member.node).collect();
            Quorum::of(std::iter::once(members.as_slice()), Consistency::Quorum)
        };
        self.reshape_by(majority, seen, change, deadline).await
    }

    /// The same by those whom `quorum` gives of what the ring goes by, and what it is to.
    async fn reshape_by(
        &self,
        quorum: impl FnOnce(&Topology, &Topology) -> Quorum,
        seen: u64,
        change: impl FnOnce(&Topology) -> Result<Topology, TopologyError>,
        deadline: Deadline,
    ) -> Result<Change> {
        let ring = self.now();
        let another = || Change::Another(Arc::clone(self.now().topology()));
        if ring.topology().epoch() != seen {
            return Ok(another());
        }
        let next = change(ring.topology()).map_err(|error| Error::FailedPrecondition(error.to_string()))?;
        let (digest, quorum) = (next.digest(), quorum(ring.topology(), &next));
        ring.0.choose_topology(&next, quorum, deadline).await?;
        let now = self.now();
        Ok(match now.topology().digest() == digest {
            true => Change::Made(Arc::clone(now.topology())),
            false => another(),
        })
    }

    /// Goes on with what is left of a change of shape, as far as that is this node's part.
    ///
    /// # Errors
    /// If others do not answer, or what it is to hold cannot be taken over yet.
    pub(super) async fn go_on_reshaping(&self, deadline: Deadline) -> Result<()> {
        let Some(next) = self.topology().next() else { return Ok(()) };
        if !self.0.is_wrong(Wrong::UnsyncedLayout) {
            self.take_over(deadline).await?;
        }
        // One is enough; others would only outbid it.
        let nodes = self.topology().nodes();
        let leads = nodes.iter().find(|node| **node == self.node() || !self.0.served.peers.is_paused(**node));
        if leads != Some(&self.node()) {
            return Ok(());
        }
        let ignores = self.0.is_wrong(Wrong::UnsyncedLayout);
        for member in next.members().iter().filter(|_| !ignores) {
            if !self.0.taken_over(member.node, deadline).await?.is_done {
                return Ok(());
            }
        }
        if self.is_handing_over() {
            self.settle_catalogue(deadline).await?;
        }
        self.reshape(self.topology().epoch(), Topology::go_on, deadline).await.map(drop)
    }

    /// How far each node is with taking over what it is to hold, as far as they answer.
    pub async fn takeovers(&self, deadline: Deadline) -> Vec<(NodeId, Result<super::TakeoverCounts>)> {
        let mut told = Vec::new();
        for member in self.topology().next().into_iter().flat_map(|next| next.members()) {
            let reply = self.0.taken_over(member.node, deadline).await;
            told.push((member.node, reply.map(Into::into)));
        }
        told
    }

    /// Tells a node of the topology that this one goes by, and takes over that which the node does; whichever is newer.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) async fn exchange_topologies(&self, node: NodeId, deadline: Deadline) -> Result<()> {
        self.0.exchange_topologies(node, deadline).await
    }
}

impl Inner {
    /// Has a topology be chosen for the next epoch: this one, or one that may have been before.
    async fn choose_topology(
        self: &Arc<Self>,
        next: &Topology,
        quorum: Quorum,
        deadline: Deadline,
    ) -> Result<()> {
        let choice = Choice {
            subject: Subject::Topology,
            after: self.served.topology.epoch(),
            quorum,
            patience: self.served.call_timeout,
        };
        if let Some(chosen) = self.choose(&choice, (Some(next.encode().into()), &mut false), deadline).await?
        {
            self.served.adopt(&chosen).await?;
        }
        self.tell_all(deadline).await;
        Ok(())
    }

    /// Tells all nodes, those that were members until now too, what this one goes by now.
    async fn tell_all(self: &Arc<Self>, deadline: Deadline) {
        let mut nodes = self.served.topology.nodes();
        nodes.extend(self.served.newest.read().nodes());
        nodes.sort_unstable();
        nodes.dedup();
        let mut told = JoinSet::new();
        for node in nodes.into_iter().filter(|node| *node != self.served.node) {
            let inner = Arc::clone(self);
            told.spawn(async move {
                if let Err(error) = inner.exchange_topologies(node, deadline).await {
                    tracing::debug!(%node, %error, "a node is not told of the new topology");
                }
            });
        }
        let all = async { while told.join_next().await.is_some() {} };
        // The others hear of it by gossip, or when they ask somebody.
        timeout(TELLING.min(deadline.remaining()), all).await.ok();
        told.detach_all();
    }

    pub(super) async fn exchange_topologies(&self, node: NodeId, deadline: Deadline) -> Result<()> {
        let topology: Bytes = self.served.newest.read().encode().into();
        let ask = |mut peer: Client, _| {
            let request = TopologyRequest { topology: topology.clone() };
            async move { peer.topology(request).await }
        };
        let theirs = self.served.call(node, deadline, ask).await?.topology;
        self.served.adopt(&theirs).await.map(drop)
    }

    async fn taken_over(&self, node: NodeId, deadline: Deadline) -> Result<TakenOverReply> {
        if node == self.served.node {
            return Ok(self.served.taken_over());
        }
        let ask = |mut peer: Client, fence| async move { peer.taken_over(TakenOverRequest { fence }).await };
        self.served.call(node, deadline, ask).await
    }
}

impl Ring {
    /// Whether that which it changes to is handed over.
    pub(super) fn is_handing_over(&self) -> bool {
        self.topology().phase() == Phase::HandingOver
    }

    /// Whether the ring is changing its shape.
    pub(super) fn is_reshaping(&self) -> bool {
        self.topology().phase() != Phase::Settled
    }
}
