//! Writes that were refused, and of which a replica's answer was lost: it may have made them, as it knew of what they are for, and nobody else
//! has. As hints they would be made for sure, although they were refused; so what they are for is read at all its replicas once that one
//! answers again. Of this nobody hears if this node ends before; then repair finds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allidb_index::{Deadline, EntityKey, Extent, Result};
use parking_lot::Mutex;

use super::{Inner, Ring, underway::Underway};
use crate::{coordinator::Consistency, layout::NodeId};

/// Entities of which is known, for one node. What comes then is left to repair.
const MOST: usize = 4_096;
/// Those that are read at a time.
const BATCH: usize = 256;

/// What is to be compared, by the node whose answer was lost.
#[derive(Debug, Default)]
pub(super) struct Unheard(Mutex<BTreeMap<NodeId, BTreeSet<EntityKey>>>);

impl Unheard {
    /// Whether there is something to be compared with what a node holds.
    pub(super) fn is_of(&self, node: NodeId) -> bool {
        self.0.lock().get(&node).is_some_and(|entities| !entities.is_empty())
    }
}

impl Inner {
    /// Takes note of writes that were refused.
    pub(super) fn note_unheard(&self, writes: &[Underway]) {
        for write in writes.iter().filter(|write| write.is_made_nowhere()) {
            let silent = write.unheard();
            if silent.is_empty() {
                continue;
            }
            let mut unheard = self.unheard.0.lock();
            for node in silent {
                let entities = unheard.entry(node).or_default();
                let of_node =
                    |entity: &&EntityKey| self.served.layout.replicas(entity.partition()).contains(&node);
                for entity in write.mutation.entities().filter(of_node) {
                    if entities.len() < MOST {
                        entities.insert(entity.clone());
                    }
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
        while inner.unheard.is_of(node) {
            let some = |entities: &BTreeSet<EntityKey>| entities.iter().take(BATCH).cloned().collect();
            let entities: Vec<EntityKey> = inner.unheard.0.lock().get(&node).map(some).unwrap_or_default();
            let extent = Extent { contents: true, edges: false };
            let read = Arc::clone(inner).states(entities.clone(), extent, Consistency::All, deadline).await;
            let mut failure = Ok(());
            let mut unheard = inner.unheard.0.lock();
            let rest = unheard.entry(node).or_default();
            for (entity, state) in entities.iter().zip(read) {
                match state {
                    Err(error) if !self.replica().is_dropped(entity) => failure = Err(error),
                    // With its collection all of it has gone.
                    Ok(_) | Err(_) => {
                        rest.remove(entity);
                    }
                }
            }
            drop(unheard);
            failure?;
        }
        Ok(())
    }
}
