//! Which entities and edges a stream has writes under way for, so that two writes of the same one are made
//! in the order in which they came.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use allidb_index::model::{EntityRef, Write};

/// Stands for an entity or an edge. Two that collide only wait for each other needlessly.
pub(super) type Target = u64;

/// The targets of the groups under way.
#[derive(Default)]
pub(super) struct InFlight {
    targets: HashSet<Target>,
    hasher: RandomState,
}

impl InFlight {
    /// What a write changes.
    pub(super) fn target(&self, write: &Write) -> Target {
        match write {
            Write::Put { collection, entity } => self.hasher.hash_one((0u8, collection, &entity.id)),
            Write::Update(patch) => self.entity(&patch.entity),
            Write::Delete(entity) => self.entity(entity),
            Write::PutEdge(edge) => {
                self.hasher.hash_one((1u8, &edge.from, &edge.relation, &edge.to, &edge.edge_id))
            }
            Write::DeleteEdge(edge) => {
                self.hasher.hash_one((1u8, &edge.from, &edge.relation, &edge.to, &edge.edge_id))
            }
        }
    }

    fn entity(&self, entity: &EntityRef) -> Target {
        self.hasher.hash_one((0u8, &entity.collection, &entity.id))
    }

    /// Whether a write of this target has to wait.
    pub(super) fn holds(&self, target: Target) -> bool {
        self.targets.contains(&target)
    }

    /// A group of writes of these targets sets out.
    pub(super) fn depart(&mut self, targets: &[Target]) {
        self.targets.extend(targets);
    }

    /// The group has landed.
    pub(super) fn land(&mut self, targets: &[Target]) {
        for target in targets {
            self.targets.remove(target);
        }
    }
}
