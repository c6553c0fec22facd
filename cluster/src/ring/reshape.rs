//! Agreeing on another topology, and going from phase to phase of it (ADR 0029).
//!
//! The topology of the next epoch is chosen by the members of the present layout: so of two operators who change it at once one wins, and the
//! other is told. Whoever knows an epoch's topology knows that it was chosen.

use std::{sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Result};
use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use super::{Inner, Ring, choose::Choice, quorum::Quorum, wrong::Wrong};
use crate::{
    coordinator::Consistency,
    layout::{NodeId, Phase, Staged, Topology, TopologyError},
    peer::{
        Client,
        proto::{Subject, TakenOverReply, TakenOverRequest, TopologyRequest},
    },
};

/// How long nodes may take to hear of another topology before whoever had it chosen goes on: they hear of it later otherwise.
const TELLING: Duration = Duration::from_secs(1);

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
    /// As [`reshape`](Self::reshape), and if nothing is staged, or a node that is to come does not answer. [`Error::Exhausted`] while one of them removes
    /// what it held before of what it is to hold.
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
                return Err(Error::Exhausted(format!(
                    "node {node} is to hold {left} partitions of which it still removes what it held before"
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
    pub(super) async fn reshape_by(
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

    pub(super) async fn taken_over(&self, node: NodeId, deadline: Deadline) -> Result<TakenOverReply> {
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
