//! Anti-entropy: replicas that hold the same compare Merkle trees of it, and have each other hold what they hold together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{
    BRANCH, Deadline, EntityKey, Error, Extent, Result, Sum, TreeAnswer, TreeRequest, model::TenantId,
};
use allidb_storage::Throttle;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{Inner, Ring, Terms, counts::add};
use crate::{coordinator::Consistency, layout::NodeId};

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

/// When this node compared with whom last.
#[derive(Debug, Default)]
pub(super) struct Comparisons(Mutex<BTreeMap<NodeId, (Instant, Repaired)>>);

impl Inner {
    fn every_partition(&self, node: NodeId) -> Vec<u16> {
        let holds_both = |partition: &u16| {
            let replicas = self.served.layout.replicas(*partition);
            replicas.contains(&node) && replicas.contains(&self.served.node)
        };
        (0..allidb_index::PARTITIONS).filter(holds_both).collect()
    }

    /// What the trees of this node and another one say.
    async fn both(
        self: &Arc<Self>,
        node: NodeId,
        request: &TreeRequest,
        deadline: Deadline,
    ) -> Result<[TreeAnswer; 2]> {
        let terms = Terms {
            tenant: TenantId::DEFAULT,
            consistency: Consistency::One,
            deadline,
            may_be_partial: false,
        };
        let ask = |node: NodeId| Arc::clone(self).answer(node, request.clone(), terms);
        let (here, there) = tokio::try_join!(ask(self.served.node), ask(node))?;
        Ok([here, there])
    }

    /// The places at which both say something else.
    async fn differing(
        self: &Arc<Self>,
        node: NodeId,
        request: &TreeRequest,
        deadline: Deadline,
    ) -> Result<Vec<usize>> {
        let [TreeAnswer::Sums(here), TreeAnswer::Sums(there)] = self.both(node, request, deadline).await?
        else {
            return Err(unexpected(node));
        };
        if here.len() != there.len() {
            return Err(unexpected(node));
        }
        let pairs = here.iter().zip(&there).enumerate();
        Ok(pairs.filter(|(_, (here, there))| here != there).map(|(at, _)| at).collect())
    }

    /// The leaves in which a partition differs.
    async fn differing_leaves(
        self: &Arc<Self>,
        node: NodeId,
        partition: u16,
        deadline: Deadline,
    ) -> Result<Vec<u16>> {
        let branches = self.differing(node, &TreeRequest::Branches(partition), deadline).await?;
        let branches: Vec<u16> = branches.into_iter().filter_map(|at| u16::try_from(at).ok()).collect();
        let request = TreeRequest::Leaves { partition, branches: branches.clone() };
        let leaves = self.differing(node, &request, deadline).await?;
        let leaf = |at: usize| {
            let branch = branches.get(at / usize::from(BRANCH))?;
            Some(branch * BRANCH + u16::try_from(at % usize::from(BRANCH)).ok()?)
        };
        Ok(leaves.into_iter().filter_map(leaf).collect())
    }

    /// The entities of some leaves that are not the same at both, and how many there are.
    async fn differing_entities(
        self: &Arc<Self>,
        node: NodeId,
        request: &TreeRequest,
        deadline: Deadline,
    ) -> Result<(Vec<EntityKey>, u64)> {
        let [TreeAnswer::Entities(here), TreeAnswer::Entities(there)] =
            self.both(node, request, deadline).await?
        else {
            return Err(unexpected(node));
        };
        let here: BTreeMap<EntityKey, Sum> = here.into_iter().collect();
        let mut there: BTreeMap<EntityKey, Sum> = there.into_iter().collect();
        let mut all = here.len() as u64;
        let mut differing = Vec::new();
        for (entity, sum) in here {
            if there.remove(&entity) != Some(sum) {
                differing.push(entity);
            }
        }
        all += there.len() as u64;
        differing.extend(there.into_keys());
        Ok((differing, all))
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
        mut progress: impl FnMut(&Repaired),
    ) -> Result<Repaired> {
        let inner = &self.0;
        let partitions = inner.every_partition(node);
        let mut done = Repaired { partitions: partitions.len() as u64, ..Repaired::default() };
        let throttle = Throttle::new(BYTES_PER_SECOND);
        let differing = inner.differing(node, &TreeRequest::Roots(partitions.clone()), deadline).await?;
        let differing: Vec<u16> =
            differing.into_iter().filter_map(|at| partitions.get(at).copied()).collect();
        done.differing = differing.len() as u64;
        progress(&done);
        for partition in differing {
            let leaves = inner.differing_leaves(node, partition, deadline).await?;
            for leaves in leaves.chunks(LEAVES_AT_A_TIME) {
                let request = TreeRequest::Entities { partition, leaves: leaves.to_vec() };
                let (entities, all) = inner.differing_entities(node, &request, deadline).await?;
                done.compared += all;
                for entities in entities.chunks(ENTITIES_AT_A_TIME) {
                    let (repaired, failed, bytes) = inner.have_both_hold(node, entities, deadline).await?;
                    done.repaired += repaired;
                    done.failed += failed;
                    add(
                        &inner.served.counters.entities_repaired,
                        usize::try_from(repaired).unwrap_or(usize::MAX),
                    );
                    progress(&done);
                    sleep(throttle.delay(bytes, Instant::now().into_std()).min(deadline.remaining())).await;
                }
            }
        }
        inner.comparisons.0.lock().insert(node, (Instant::now(), done));
        Ok(done)
    }

    /// How long ago this node compared with another one, and what came of it; `None` if it has not since it was started.
    pub fn compared(&self, node: NodeId) -> Option<(Duration, Repaired)> {
        self.0.comparisons.0.lock().get(&node).map(|(at, repaired)| (at.elapsed(), *repaired))
    }
}

impl Inner {
    /// Has this node and another one hold what they hold together of some entities. Says of how many they did not and do now, of how many they
    /// do not yet, and how much it is.
    ///
    /// # Errors
    /// If the other one does not answer.
    async fn have_both_hold(
        self: &Arc<Self>,
        node: NodeId,
        entities: &[EntityKey],
        deadline: Deadline,
    ) -> Result<(u64, u64, usize)> {
        let both = vec![self.served.node, node];
        let asked = |entity: &EntityKey| (entity.clone(), both.clone(), both.len());
        let read = self.read_from(entities.iter().map(asked).collect(), Extent::ALL, deadline).await;
        let (mut repaired, mut failed, mut bytes) = (0, 0, 0);
        for (entity, read) in entities.iter().zip(read) {
            let read = match read {
                Ok(read) => Ok(read),
                // They stand and fall together: each is tried alone.
                Err(_) => {
                    let alone = self.read_from(vec![asked(entity)], Extent::ALL, deadline).await.pop();
                    alone.unwrap_or_else(|| Err(unexpected(node)))
                }
            };
            match read {
                Ok((state, has_differed)) => {
                    repaired += u64::from(has_differed);
                    bytes += 2 * state.bytes();
                }
                Err(error) if deadline.has_passed() || self.served.peers.is_paused(node) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%node, id = entity.id(), %error, "an entity cannot be made the same");
                    failed += 1;
                }
            }
        }
        Ok((repaired, failed, bytes))
    }
}

fn unexpected(node: NodeId) -> Error {
    Error::Unavailable(format!("node {node} answered something else than it was asked"))
}
