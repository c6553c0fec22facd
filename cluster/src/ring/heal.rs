//! Taking part again after damage: what was let go of is taken over from others that hold it.
//!
//! Whatever a quorum acknowledged, and this node was one of it, others of that quorum hold; so it takes over what so many others hold that none of
//! these quorums is without one of them. Until then it has no say about the partition: it answers nothing that is asked about it, promises nothing
//! and makes no writes of it, so that no quorum counts on what it forgot.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Result, TreeRequest, model::TenantId};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::{Inner, Ring, Terms};
use crate::{coordinator::Consistency, layout::NodeId, peer::Served};

/// How often a node looks whether there is something to heal.
const LOOKS_EVERY: Duration = Duration::from_millis(500);
/// So many times as long as a node may take to answer, answers are counted on: it may be asked for more than one thing in a row.
const COUNTED_ON: u32 = 3;
/// How long until what could not be taken over is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long it may take at a time.
const WITHIN: Duration = Duration::from_hours(1);

/// How far a node is with healing from damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealingCounts {
    /// Partitions about which it has no say.
    pub partitions: u32,
    /// Why it does not get on, if it does not.
    pub failure: String,
}

/// Why this node did not get on last.
#[derive(Debug, Default)]
pub(crate) struct Healing(Mutex<String>);

impl Served {
    /// # Errors
    /// If this node has no say about one of some partitions.
    pub(crate) fn check_sound(&self, mut partitions: impl Iterator<Item = u16>) -> Result<()> {
        match partitions.find(|partition| self.replica.is_healing(*partition)) {
            Some(partition) => Err(Error::Unavailable(format!(
                "node {} heals partition {partition}, of which rows were damaged",
                self.node
            ))),
            None => Ok(()),
        }
    }

    /// # Errors
    /// If this node has no say about one of the partitions that it holds.
    pub(crate) fn check_all_sound(&self) -> Result<()> {
        self.check_sound(0..allidb_index::PARTITIONS)
    }
}

impl Ring {
    /// How far this node is with healing from damage.
    pub fn healing(&self) -> HealingCounts {
        let partitions = u32::try_from(self.replica().healing().len()).unwrap_or(u32::MAX);
        HealingCounts { partitions, failure: self.0.healing.0.lock().clone() }
    }

    /// Heals whenever there is something to heal.
    pub(super) async fn keep_sound(&self) {
        // Whoever asked for something before this node ended may count on its answer for so long, and others not have heard of that yet.
        sleep(COUNTED_ON * self.0.served.call_timeout).await;
        loop {
            let mut pause = LOOKS_EVERY;
            if !self.replica().healing().is_empty() {
                let healed = self.now().heal(Deadline::after(WITHIN)).await;
                *self.0.healing.0.lock() = healed.as_ref().err().map(ToString::to_string).unwrap_or_default();
                match healed {
                    Ok(()) => tracing::info!("what was damaged has been taken over from others"),
                    Err(error) => {
                        tracing::warn!(%error, "what was damaged cannot be taken over yet");
                        pause = PAUSE;
                    }
                }
            }
            sleep(pause).await;
        }
    }

    /// Takes over what was damaged.
    ///
    /// # Errors
    /// If too few others answer, or the ring goes by another topology by now.
    async fn heal(&self, deadline: Deadline) -> Result<()> {
        let inner = &self.0;
        let mut by_others: BTreeMap<Vec<NodeId>, Vec<u16>> = BTreeMap::new();
        let mut why = None;
        for partition in self.replica().healing() {
            match inner.others_enough(partition) {
                Ok(others) => by_others.entry(others).or_default().push(partition),
                Err(error) => why = Some(error),
            }
        }
        let mut healed: Vec<u16> = Vec::new();
        for (others, partitions) in by_others {
            match inner.take_over_from_all(&others, &partitions, deadline).await {
                Ok(()) => healed.extend(partitions),
                // Others may be there of whom nothing but the rest is needed.
                Err(error) => why = Some(error),
            }
        }
        if !healed.is_empty() {
            let partitions = healed.clone();
            self.tend(move |replica| replica.restore_ends(&partitions)).await?;
            inner.here_as_of(move |served| served.replica.is_healed(&healed)).await?;
        }
        why.map_or(Ok(()), Err)
    }

    /// Whether damage was found that this node heals from when it is opened again: then that is noted. Enough others hold now what is to go, as far
    /// as they say.
    ///
    /// # Errors
    /// If they do not answer, or it cannot be noted.
    pub async fn may_heal(&self, deadline: Deadline) -> Result<bool> {
        let Some(partitions) = self.replica().damaged_partitions() else { return Ok(false) };
        let (inner, mut asked) = (&self.0, BTreeMap::<NodeId, Vec<u16>>::new());
        for partition in partitions {
            for node in inner.others_enough(partition)? {
                asked.entry(node).or_default().push(partition);
            }
        }
        for (node, partitions) in asked {
            let terms = Terms {
                tenant: TenantId::DEFAULT,
                consistency: Consistency::One,
                deadline,
                may_be_partial: false,
            };
            // Who heals them itself refuses.
            let roots = TreeRequest::Roots(partitions);
            Arc::clone(inner).answer_within(deadline.remaining(), node, roots, terms).await?;
        }
        inner.here(|served| served.replica.note_damage()).await?;
        Ok(true)
    }
}

impl Inner {
    async fn take_over_from_all(
        self: &Arc<Self>,
        others: &[NodeId],
        partitions: &[u16],
        deadline: Deadline,
    ) -> Result<()> {
        for source in others {
            self.take_over_from(*source, partitions, deadline).await?;
        }
        Ok(())
    }

    /// So many others that hold a partition by the present layout that one of them has heard of whatever a quorum with this node has; none if this
    /// node does not hold it, nor is to.
    ///
    /// # Errors
    /// If there are not so many.
    fn others_enough(self: &Arc<Self>, partition: u16) -> Result<Vec<NodeId>> {
        let (here, topology) = (self.served.node, &self.served.topology);
        if !topology.holds(here, partition) {
            return Ok(Vec::new());
        }
        let replicas = topology.layout().replicas(partition);
        let quorum = Consistency::Quorum.needed(replicas.len());
        let needed = match replicas.contains(&here) {
            true => replicas.len() + 1 - quorum,
            false => quorum,
        };
        let mut others = self.order(replicas);
        others.retain(|node| *node != here);
        others.reverse();
        others.truncate(needed);
        match others.len() == needed {
            true => Ok(others),
            false => Err(Error::Unavailable(format!("no other node holds partition {partition}"))),
        }
    }
}
