//! Writes that were refused, and of which a replica's answer was lost: it may have made them, as it knew of what they are for, and nobody else
//! has. As hints they would be made for sure, although they were refused; so what they are for is read at all its replicas once that one
//! answers again. Of this nobody hears if this node ends before; then repair finds it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{Deadline, EntityKey, Extent, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Inner, Ring, underway::Underway};
use crate::{coordinator::Consistency, layout::NodeId};

/// Entities of which is known, for one node. What comes then is left to repair.
const MOST: usize = 4_096;
/// Those that are read at a time.
const BATCH: usize = 256;

/// What is to be compared, by the node whose answer was lost, and since when.
#[derive(Debug, Default)]
pub(super) struct Unheard(Mutex<BTreeMap<NodeId, BTreeMap<EntityKey, Instant>>>);

impl Unheard {
    fn note(&self, node: NodeId, entity: EntityKey, since: Instant) {
        let mut unheard = self.0.lock();
        let entities = unheard.entry(node).or_default();
        if entities.len() < MOST || entities.contains_key(&entity) {
            entities.insert(entity, since);
        }
    }

    /// Takes some of those that have been known for so long.
    fn take(&self, node: NodeId, for_long: Duration) -> Vec<(EntityKey, Instant)> {
        let mut unheard = self.0.lock();
        let Some(entities) = unheard.get_mut(&node) else { return Vec::new() };
        let is_due = |since: &Instant| since.elapsed() >= for_long;
        let due = entities.iter().filter(|(_, since)| is_due(since)).take(BATCH);
        let due: Vec<_> = due.map(|(entity, since)| (entity.clone(), *since)).collect();
        entities.retain(|entity, _| !due.iter().any(|(due, _)| due == entity));
        due
    }
}

impl Inner {
    /// Takes note of writes that were refused.
    pub(super) fn note_unheard(&self, writes: &[Underway]) {
        for write in writes.iter().filter(|write| write.is_made_nowhere()) {
            for node in write.unheard() {
                let of_node = |entity: &&EntityKey| self.served.topology.holds(node, entity.partition());
                for entity in write.mutation.entities().filter(of_node) {
                    self.unheard.note(node, entity.clone(), Instant::now());
                }
            }
        }
    }
}

impl Ring {
    /// Has all replicas come to the same of what a node may have made, and others refused.
    ///
    /// # Errors
    /// If not all replicas answer.
    pub(super) async fn compare_unheard(&self, node: NodeId, deadline: Deadline) -> Result<()> {
        let inner = &self.0;
        // What it began may not be done yet.
        let for_long = 2 * inner.served.call_timeout;
        let mut failed = Vec::new();
        let mut failure = Ok(());
        loop {
            let due = inner.unheard.take(node, for_long);
            if due.is_empty() || deadline.has_passed() {
                failed.extend(due);
                break;
            }
            let entities = due.iter().map(|(entity, _)| entity.clone()).collect();
            let extent = Extent { contents: true, edges: false };
            let read = Arc::clone(inner).states(entities, extent, Consistency::All, deadline).await;
            for ((entity, since), state) in due.into_iter().zip(read) {
                match state {
                    Err(error) if !self.replica().is_dropped(&entity) => {
                        failed.push((entity, since));
                        failure = Err(error);
                    }
                    // With its collection all of it has gone.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        for (entity, since) in failed {
            inner.unheard.note(node, entity, since);
        }
        failure
    }
}
