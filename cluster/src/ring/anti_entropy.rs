//! Anti-entropy: replicas that hold the same compare Merkle trees of it, and have each other hold what they hold together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{
    BRANCH, Deadline, EntityKey, Error, Extent, Result, Sum, TreeAnswer, TreeRequest, model::TenantId,
};
use allidb_storage::Throttle;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{Inner, Ring, Terms, counts::add, quorum::Quorum};
use crate::{coordinator::Consistency, layout::NodeId};

/// How long a node may take to tell of its trees.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Leaves whose entities are asked for at a time, and entities that are repaired at a time.
const LEAVES_AT_A_TIME: usize = 64;
const ENTITIES_AT_A_TIME: usize = 64;
/// Bytes that repairs move a second.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// What a comparison with another node found, and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Partitions that both hold.
    pub partitions: u64,
    /// Those whose trees differed.
    pub differing: u64,
    /// Entities in leaves that differed.
    pub compared: u64,
    /// Entities that were not the same at both, and are now.
    pub repaired: u64,
    /// Entities that could not be made the same.
    pub failed: u64,
}

/// What two nodes compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// What is there: what says that something is gone, one of them may have forgotten by now.
    WhatIsThere,
    /// That, too.
    Everything,
}

impl Compared {
    fn is_alike(self, a: &Sum, b: &Sum) -> bool {
        match self {
            Self::WhatIsThere => a.is_there_alike(b),
            Self::Everything => a == b,
        }
    }
}

/// Two nodes that are compared, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) nodes: [NodeId; 2],
    pub(super) compared: Compared,
    pub(super) deadline: Deadline,
}

/// When this node compared with whom last.
#[derive(Debug, Default)]
pub(super) struct Comparisons(Mutex<BTreeMap<NodeId, (Instant, Repaired)>>);

impl Inner {
    /// Partitions that two nodes hold, and not only are to.
    pub(super) fn held_by_both(&self, nodes: [NodeId; 2]) -> Vec<u16> {
        let holds_both = |partition: &u16| {
            let replicas = self.served.topology.layout().replicas(*partition);
            nodes.iter().all(|node| replicas.contains(node))
        };
        (0..allidb_index::PARTITIONS).filter(holds_both).collect()
    }

    /// What the trees of two nodes say.
    async fn both(self: &Arc<Self>, pair: Pair, request: &TreeRequest) -> Result<[TreeAnswer; 2]> {
        let terms = Terms {
            tenant: TenantId::DEFAULT,
            consistency: Consistency::One,
            deadline: pair.deadline,
            may_be_partial: false,
        };
        let ask = |node: NodeId| Arc::clone(self).answer_within(PATIENCE, node, request.clone(), terms);
        let [a, b] = pair.nodes;
        let (a, b) = tokio::try_join!(ask(a), ask(b))?;
        Ok([a, b])
    }

    /// The places at which both say something else.
    pub(super) async fn differing(self: &Arc<Self>, pair: Pair, request: &TreeRequest) -> Result<Vec<usize>> {
        let [TreeAnswer::Sums(a), TreeAnswer::Sums(b)] = self.both(pair, request).await? else {
            return Err(unexpected(pair));
        };
        if a.len() != b.len() {
            return Err(unexpected(pair));
        }
        let pairs = a.iter().zip(&b).enumerate();
        Ok(pairs.filter(|(_, (a, b))| !pair.compared.is_alike(a, b)).map(|(at, _)| at).collect())
    }

    /// The leaves in which a partition differs.
    pub(super) async fn differing_leaves(self: &Arc<Self>, pair: Pair, partition: u16) -> Result<Vec<u16>> {
        let branches = self.differing(pair, &TreeRequest::Branches(partition)).await?;
        let branches: Vec<u16> = branches.into_iter().filter_map(|at| u16::try_from(at).ok()).collect();
        let request = TreeRequest::Leaves { partition, branches: branches.clone() };
        let leaves = self.differing(pair, &request).await?;
        let leaf = |at: usize| {
            let branch = branches.get(at / usize::from(BRANCH))?;
            Some(branch * BRANCH + u16::try_from(at % usize::from(BRANCH)).ok()?)
        };
        Ok(leaves.into_iter().filter_map(leaf).collect())
    }

    /// The entities of some leaves that are not the same at both, and how many there are.
    async fn differing_entities(
        self: &Arc<Self>,
        pair: Pair,
        request: &TreeRequest,
    ) -> Result<(Vec<EntityKey>, u64)> {
        let [TreeAnswer::Entities(a), TreeAnswer::Entities(b)] = self.both(pair, request).await? else {
            return Err(unexpected(pair));
        };
        let mut sums: BTreeMap<EntityKey, [Sum; 2]> = BTreeMap::new();
        for (entity, sum) in a {
            sums.entry(entity).or_default()[0] = sum;
        }
        for (entity, sum) in b {
            sums.entry(entity).or_default()[1] = sum;
        }
        let all = sums.len() as u64;
        let differing = sums.into_iter().filter(|(_, [a, b])| !pair.compared.is_alike(a, b));
        Ok((differing.map(|(entity, _)| entity).collect(), all))
    }
}

impl Ring {
    /// Compares what lies here with what another node holds of the same, and has both hold what they hold together. `progress` is told how far
    /// it is.
    ///
    /// # Errors
    /// If the node does not answer, or the trees of either are being made; what was repaired until then stays so.
    pub async fn repair_with(
        &self,
        node: NodeId,
        deadline: Deadline,
        progress: impl FnMut(&Repaired),
    ) -> Result<Repaired> {
        let inner = &self.0;
        let nodes = [inner.served.node, node];
        // What one of them still removes, or will, the other is not to be given back.
        let compared = match inner.have_both_swept(nodes, deadline).await? {
            true => Compared::Everything,
            false => Compared::WhatIsThere,
        };
        let partitions = inner.held_by_both(nodes);
        let done = inner.make_alike(nodes, (partitions, compared), deadline, progress).await?;
        inner.comparisons.0.lock().insert(node, (Instant::now(), done));
        Ok(done)
    }

    /// How long ago this node compared with another one, and what came of it; `None` if it has not since it was started.
    pub fn compared(&self, node: NodeId) -> Option<(Duration, Repaired)> {
        self.0.comparisons.0.lock().get(&node).map(|(at, repaired)| (at.elapsed(), *repaired))
    }
}

impl Inner {
    /// Whether two nodes have forgotten the same of what was deleted.
    pub(super) async fn have_both_swept(
        self: &Arc<Self>,
        nodes: [NodeId; 2],
        deadline: Deadline,
    ) -> Result<bool> {
        let pair = Pair { nodes, compared: Compared::Everything, deadline };
        match self.both(pair, &TreeRequest::Swept).await? {
            [
                TreeAnswer::Swept { upto: here, is_done: a, .. },
                TreeAnswer::Swept { upto: there, is_done: b, .. },
            ] => Ok(a && b && here == there),
            _ => Err(unexpected(pair)),
        }
    }

    /// Has two nodes hold what they hold together of some partitions. `progress` is told how far it is.
    ///
    /// # Errors
    /// If either does not answer, or its trees are being made; what was repaired until then stays so.
    pub(super) async fn make_alike(
        self: &Arc<Self>,
        nodes: [NodeId; 2],
        (partitions, compared): (Vec<u16>, Compared),
        deadline: Deadline,
        mut progress: impl FnMut(&Repaired),
    ) -> Result<Repaired> {
        let pair = Pair { nodes, compared, deadline };
        let mut done = Repaired { partitions: partitions.len() as u64, ..Repaired::default() };
        let throttle = Throttle::new(BYTES_PER_SECOND);
        let differing = self.differing(pair, &TreeRequest::Roots(partitions.clone())).await?;
        let differing: Vec<u16> =
            differing.into_iter().filter_map(|at| partitions.get(at).copied()).collect();
        done.differing = differing.len() as u64;
        progress(&done);
        for partition in differing {
            let leaves = self.differing_leaves(pair, partition).await?;
            for leaves in leaves.chunks(LEAVES_AT_A_TIME) {
                let request = TreeRequest::Entities { partition, leaves: leaves.to_vec() };
                let (entities, all) = self.differing_entities(pair, &request).await?;
                done.compared += all;
                for entities in entities.chunks(ENTITIES_AT_A_TIME) {
                    let (repaired, failed, bytes) = self.have_both_hold(pair, entities).await?;
                    done.repaired += repaired;
                    done.failed += failed;
                    let repaired = usize::try_from(repaired).unwrap_or(usize::MAX);
                    add(&self.served.counters.entities_repaired, repaired);
                    progress(&done);
                    sleep(throttle.delay(bytes, Instant::now().into_std()).min(deadline.remaining())).await;
                }
            }
        }
        Ok(done)
    }

    /// Has both hold what they hold together of some entities. Says of how many they did not and do now, of how many they do not yet, and how
    /// much it is.
    ///
    /// # Errors
    /// If either does not answer.
    async fn have_both_hold(
        self: &Arc<Self>,
        pair: Pair,
        entities: &[EntityKey],
    ) -> Result<(u64, u64, usize)> {
        let Pair { nodes, deadline, .. } = pair;
        let both = Quorum::of_nodes(nodes.to_vec(), nodes.len());
        let asked = |entity: &EntityKey| (entity.clone(), both.clone());
        let read = self.read_to_hold(entities.iter().map(asked).collect(), Extent::ALL, deadline).await;
        let (mut repaired, mut failed, mut bytes) = (0, 0, 0);
        for (entity, read) in entities.iter().zip(read) {
            let read = match read {
                Ok(read) => Ok(read),
                // They stand and fall together: each is tried alone.
                Err(_) => {
                    let alone = self.read_to_hold(vec![asked(entity)], Extent::ALL, deadline).await.pop();
                    alone.unwrap_or_else(|| Err(unexpected(pair)))
                }
            };
            match read {
                Ok((state, has_differed)) => {
                    repaired += u64::from(has_differed);
                    bytes += 2 * state.bytes();
                }
                Err(error)
                    if deadline.has_passed()
                        || nodes.iter().any(|node| self.served.peers.is_paused(*node)) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(?nodes, id = entity.id(), %error, "an entity cannot be made the same");
                    failed += 1;
                }
            }
        }
        Ok((repaired, failed, bytes))
    }
}

fn unexpected(pair: Pair) -> Error {
    let [a, b] = pair.nodes;
    Error::Unavailable(format!("node {a} or {b} answered something else than it was asked"))
}
