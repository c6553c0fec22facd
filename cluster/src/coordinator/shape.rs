//! Changes of the ring's shape, as operators ask for them.

use std::{sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, PARTITIONS, Result};

use super::Coordinator;
use crate::{
    layout::{Layout, Member, NodeId, Staged, Topology},
    membership::NodeView,
    ring::{Change, TakeoverCounts},
};

/// How long members may take to agree on another topology.
const AGREEMENT: Duration = Duration::from_secs(10);
/// How long nodes may take to tell how far they are.
const TELLING: Duration = Duration::from_secs(2);

/// What is to become of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeChange {
    /// Which.
    pub node: NodeId,
    /// Whether it is to hold nothing any more.
    pub remove: bool,
    /// Its zone; what it was or, of one that is to come, what it says itself, unless given.
    pub zone: Option<String>,
    /// Its capacity; the same.
    pub capacity: Option<u32>,
}

/// What a change of shape comes to for one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub node: NodeId,
    /// Partitions that it holds.
    pub before: usize,
    /// Partitions that it holds then.
    pub after: usize,
    /// Partitions that it takes over.
    pub gains: usize,
}

impl Coordinator {
    /// Stages another shape beside what is staged already, if that is what the caller has seen.
    ///
    /// # Errors
    /// If a node is not known, there can be no such layout, the ring is changing its shape, or too few members answer.
    pub async fn stage(
        &self,
        seen: Option<u64>,
        changes: Vec<NodeChange>,
        replication: Option<usize>,
    ) -> Result<Arc<Topology>> {
        let (ring, topology, views) = (self.0.ring(), self.topology(), self.nodes());
        let staged = topology.staged();
        let layout = topology.layout();
        let mut members = staged.map_or_else(|| layout.members().to_vec(), |staged| staged.members.clone());
        for change in changes {
            apply_to(&mut members, change, &views)?;
        }
        members.sort_unstable_by_key(|member| member.node);
        let before = staged.map_or(layout.replication(), |staged| staged.replication);
        let staged = Staged { members, replication: replication.unwrap_or(before) };
        let seen = seen.unwrap_or_else(|| topology.epoch());
        made(ring.stage(seen, staged, Deadline::after(AGREEMENT)).await?)
    }

    /// Begins to move to the shape that is staged, if that is what the caller has seen.
    ///
    /// # Errors
    /// If nothing is staged, a node that is to come does not answer, or too few members do.
    pub async fn apply_staged(&self, seen: Option<u64>) -> Result<Arc<Topology>> {
        let seen = seen.unwrap_or_else(|| self.topology().epoch());
        made(self.0.ring().apply(seen, Deadline::after(AGREEMENT)).await?)
    }

    /// Goes on without members that are lost for good, though without them there is no quorum, if that is what the caller has seen. What they alone
    /// held, or had acknowledged, is lost.
    ///
    /// # Errors
    /// If no quorum is lost with them, one of them answers, or one of the others does not.
    pub async fn go_on_without(&self, seen: Option<u64>, lost: &[NodeId]) -> Result<Arc<Topology>> {
        let seen = seen.unwrap_or_else(|| self.topology().epoch());
        made(self.0.ring().go_on_without(seen, lost, Deadline::after(AGREEMENT)).await?)
    }

    /// Lets go of what is staged, or goes back from a move that is under way, if that is what the caller has seen.
    ///
    /// # Errors
    /// If there is neither, or too few members answer.
    pub async fn revert_shape(&self, seen: Option<u64>) -> Result<Arc<Topology>> {
        let seen = seen.unwrap_or_else(|| self.topology().epoch());
        made(self.0.ring().revert(seen, Deadline::after(AGREEMENT)).await?)
    }

    /// How far each node is with taking over what it is to hold; why it does not say so, if it does not. None if the ring is not changing its shape.
    pub async fn takeovers(&self) -> Vec<(NodeId, Result<TakeoverCounts>)> {
        self.0.ring().takeovers(Deadline::after(TELLING)).await
    }

    /// Partitions that only others hold by now, and of which something lies here still.
    pub fn leftovers(&self) -> usize {
        self.0.replica.leftovers().len()
    }
}

fn made(change: Change) -> Result<Arc<Topology>> {
    match change {
        Change::Made(topology) => Ok(topology),
        Change::Another(topology) => Err(Error::FailedPrecondition(format!(
            "somebody else has changed what the ring goes by: it is of epoch {} by now; look at it, and ask again",
            topology.epoch()
        ))),
    }
}

fn apply_to(members: &mut Vec<Member>, change: NodeChange, views: &[NodeView]) -> Result<()> {
    let NodeChange { node, remove, zone, capacity } = change;
    let wrong = |why: String| Err(Error::invalid("node", why));
    let at = members.iter().position(|member| member.node == node);
    match (at, remove) {
        (Some(at), true) => drop(members.remove(at)),
        (None, true) => return wrong(format!("is {node}, which is no member of the ring")),
        (Some(at), false) => {
            if let Some(member) = members.get_mut(at) {
                member.zone = zone.unwrap_or_else(|| std::mem::take(&mut member.zone));
                member.capacity = capacity.unwrap_or(member.capacity);
            }
        }
        (None, false) => {
            let Some(view) = views.iter().find(|view| view.node == node && view.is_alive) else {
                return wrong(format!("is {node}, of which nothing is heard"));
            };
            let (zone, capacity) =
                (zone.unwrap_or_else(|| view.zone.clone()), capacity.unwrap_or(view.capacity));
            members.push(Member { node, zone, capacity });
        }
    }
    Ok(())
}

/// What going from one layout to another comes to for each node, in the order of their ids.
pub fn moves(from: &Layout, to: &Layout) -> Vec<Move> {
    let mut nodes: Vec<NodeId> =
        from.members().iter().chain(to.members()).map(|member| member.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let of = |node: NodeId| {
        let holds = |layout: &Layout, partition: u16| layout.replicas(partition).contains(&node);
        let count = |is: &dyn Fn(u16) -> bool| (0..PARTITIONS).filter(|partition| is(*partition)).count();
        Move {
            node,
            before: count(&|partition| holds(from, partition)),
            after: count(&|partition| holds(to, partition)),
            gains: count(&|partition| holds(to, partition) && !holds(from, partition)),
        }
    };
    nodes.into_iter().map(of).collect()
}
