//! Agreeing on another topology, and going from phase to phase of it (ADR 0029).
//!
//! The topology of the next epoch is chosen by Paxos (Lamport, "Paxos Made Simple", 2001), one instance for each epoch, with the members of the
//! present layout as acceptors: so of two operators who change it at once one wins, and the other is told. Whoever knows an epoch's topology
//! knows that it was chosen.

use std::{sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Result, Version};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Inner, Ring, quorum::Quorum, read::too_few, wrong::Wrong};
use crate::{
    coordinator::Consistency,
    layout::{NodeId, Phase, Staged, Topology, TopologyError},
    peer::{
        Client, Served,
        proto::{ReshapeReply, ReshapeRequest, TakenOverReply, TakenOverRequest, TopologyRequest},
    },
};

/// How long whoever was outbid waits at first, and at most; the time doubles.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long nodes may take to hear of another topology before whoever had it chosen goes on: they hear of it later otherwise.
const TELLING: Duration = Duration::from_secs(1);

/// What an acceptor keeps of the topology to come.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ballot {
    /// After which epoch it comes.
    epoch: u64,
    /// Nothing below is accepted; zeros if nothing was promised.
    promised: [u8; 16],
    /// Zeros and nothing if nothing was accepted.
    accepted_under: [u8; 16],
    accepted: Vec<u8>,
}

/// What acceptors were asked for.
enum Asked {
    Done(Vec<ReshapeReply>),
    /// They know of a newer ballot.
    Outbid(Version),
}

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
        let ring = self.now();
        let another = || Change::Another(Arc::clone(self.now().topology()));
        if ring.topology().epoch() != seen {
            return Ok(another());
        }
        let next = change(ring.topology()).map_err(|error| Error::FailedPrecondition(error.to_string()))?;
        let digest = next.digest();
        ring.0.choose(next, deadline).await?;
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
    async fn choose(self: &Arc<Self>, next: Topology, deadline: Deadline) -> Result<()> {
        let members: Vec<NodeId> =
            self.served.topology.layout().members().iter().map(|member| member.node).collect();
        let quorum = Quorum::of(std::iter::once(members.as_slice()), Consistency::Quorum);
        let mut pause = PAUSE;
        loop {
            self.served.check_current()?;
            let ballot = self.served.replica.next_version();
            match self.choose_once(&quorum, ballot, next.encode().into(), deadline).await? {
                Ok(chosen) => {
                    self.served.adopt(&chosen).await?;
                    self.tell_all(deadline).await;
                    return Ok(());
                }
                Err(newest) => {
                    self.served.check_ahead(newest)?;
                    self.served.replica.observe_version(newest);
                }
            }
            deadline.check()?;
            let jitter = pause.mul_f64((ballot.millis() ^ self.served.node.0) as u8 as f64 / 256.0);
            sleep((pause / 2 + jitter).min(deadline.remaining())).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// What was chosen, or which newer ballot members know of.
    async fn choose_once(
        self: &Arc<Self>,
        quorum: &Quorum,
        ballot: Version,
        next: Bytes,
        deadline: Deadline,
    ) -> Result<Result<Bytes, Version>> {
        let promises = match self.ask_members(quorum, ballot, Bytes::new(), deadline).await? {
            Asked::Done(promises) => promises,
            Asked::Outbid(newest) => return Ok(Err(newest)),
        };
        let accepted = promises.into_iter().filter(|promise| !promise.accepted.is_empty());
        let newest = accepted.max_by_key(|promise| Version::from_bytes(&promise.accepted_ballot));
        let chosen = newest.map_or(next, |promise| promise.accepted);
        Ok(match self.ask_members(quorum, ballot, chosen.clone(), deadline).await? {
            Asked::Done(_) => Ok(chosen),
            Asked::Outbid(newest) => Err(newest),
        })
    }

    async fn ask_members(
        self: &Arc<Self>,
        quorum: &Quorum,
        ballot: Version,
        topology: Bytes,
        deadline: Deadline,
    ) -> Result<Asked> {
        let mut asked = JoinSet::new();
        for node in quorum.nodes() {
            let (inner, topology) = (Arc::clone(self), topology.clone());
            asked.spawn(async move { (node, inner.ask_member(node, ballot, topology, deadline).await) });
        }
        let (mut done, mut who, mut newest, mut why) = (Vec::new(), Vec::new(), None, None);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((node, Ok(reply))) if reply.is_done => {
                    who.push(node);
                    done.push(reply);
                }
                Ok((_, Ok(reply))) => newest = newest.max(Version::from_bytes(&reply.promised)),
                Ok((_, Err(error))) => why = Some(error),
                Err(error) => why = Some(Error::Internal(format!("a ballot broke off: {error}"))),
            }
            if quorum.is_met(&who) {
                asked.detach_all();
                return Ok(Asked::Done(done));
            }
        }
        match newest {
            Some(newest) => Ok(Asked::Outbid(newest)),
            None => Err(too_few(who.len(), quorum.needed(), why)),
        }
    }

    async fn ask_member(
        &self,
        node: NodeId,
        ballot: Version,
        topology: Bytes,
        deadline: Deadline,
    ) -> Result<ReshapeReply> {
        if node == self.served.node {
            return self.here_as_of(move |served| served.reshape_step(ballot, &topology)).await;
        }
        let ballot = Bytes::copy_from_slice(&ballot.to_bytes());
        let request = ReshapeRequest { fence: None, ballot, topology };
        let ask = |mut peer: Client, fence| {
            let request = ReshapeRequest { fence, ..request.clone() };
            async move { peer.reshape(request).await }
        };
        self.served.call(node, deadline, ask).await
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

impl Served {
    /// Promises to accept no topology of an older ballot, or accepts one, durably; unless it has promised more.
    pub(crate) fn reshape_step(&self, ballot: Version, topology: &[u8]) -> Result<ReshapeReply> {
        let _alone = self.reshaping.lock();
        let epoch = self.topology.epoch();
        let corrupt = |error: postcard::Error| Error::CorruptRow {
            keyspace: "cluster",
            key: "ballot".into(),
            what: error.to_string(),
        };
        let kept = self.replica.ballot()?.map(|kept| postcard::from_bytes::<Ballot>(&kept));
        let kept = kept.transpose().map_err(corrupt)?.filter(|kept| kept.epoch == epoch);
        let mut kept = kept.unwrap_or(Ballot { epoch, ..Ballot::default() });
        let ballot = ballot.to_bytes();
        if ballot < kept.promised {
            return Ok(ReshapeReply {
                promised: Bytes::copy_from_slice(&kept.promised),
                ..ReshapeReply::default()
            });
        }
        kept.promised = ballot;
        let mut reply = ReshapeReply { is_done: true, ..ReshapeReply::default() };
        if topology.is_empty() {
            reply.accepted_ballot = Bytes::copy_from_slice(&kept.accepted_under);
            reply.accepted = kept.accepted.clone().into();
        } else {
            let next = Topology::decode(topology)
                .map_err(|error| Error::invalid("topology", format!("cannot be read: {error}")))?;
            if next.epoch() != epoch + 1 {
                return Err(Error::invalid("topology", format!("is of epoch {}", next.epoch())));
            }
            (kept.accepted_under, kept.accepted) = (ballot, topology.to_vec());
        }
        let encoded = postcard::to_allocvec(&kept)
            .map_err(|error| Error::Internal(format!("a ballot cannot be encoded: {error}")))?;
        self.replica.keep_ballot(encoded)?;
        reply.promised = Bytes::copy_from_slice(&ballot);
        Ok(reply)
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
