//! What callers ask to be changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    filter::Filter,
    model::{Chunk, Edge, EdgeRef, Entity, EntityRef, Timestamp, Value},
    version::Version,
};

/// One change of one entity or edge. Several in one request are made in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Replaces the entity (all but its edges), or creates it.
    Put {
        /// The collection's name.
        collection: String,
        /// What it is from now on.
        entity: Box<Entity>,
    },
    /// Changes some fields of an entity and nothing else.
    Update(Box<EntityPatch>),
    /// Deletes an entity, and its edges in both directions.
    Delete(EntityRef),
    /// A put, an update or a deletion of an entity, made if this is so of it.
    If {
        /// What must be so.
        precondition: Precondition,
        /// What is done then.
        write: Box<Write>,
    },
    /// Deletes an entity, if it meets the filter.
    DeleteIf {
        /// Which.
        entity: EntityRef,
        /// What it must meet.
        filter: Arc<Filter>,
    },
    /// Takes a source away from what came from it, which is deleted with its last one. Says `existed` of what was deleted, and
    /// [`crate::Error::NotFound`] where nothing came from there.
    DropSource {
        /// From what.
        of: SourceOwner,
        /// Its name.
        source: String,
    },
    /// Adds or replaces an edge.
    PutEdge(Box<Edge>),
    /// Deletes an edge.
    DeleteEdge(EdgeRef),
    /// Makes two entities of a collection one: what `from` has and `into` has not goes over, and `from` is another name of `into` from then
    /// on. Its edges stay where they are.
    Merge {
        /// Which is no entity of its own any more.
        from: EntityRef,
        /// Which stays: its id.
        into: String,
    },
}

impl Write {
    /// Whether there may be more than before when it is made.
    pub fn adds(&self) -> bool {
        match self {
            Self::If { write, .. } => write.adds(),
            Self::Put { .. } | Self::PutEdge(_) => true,
            Self::Update(patch) => patch.adds(),
            Self::Delete(_)
            | Self::DeleteIf { .. }
            | Self::DropSource { .. }
            | Self::DeleteEdge(_)
            | Self::Merge { .. } => false,
        }
    }

    /// The names of the collections that it is about.
    pub fn collections(&self) -> impl Iterator<Item = &str> {
        let what = if let Self::If { write, .. } = self { write } else { self };
        let (one, other) = match what {
            // A condition has no other one in it.
            Self::If { .. } => ("", None),
            Self::Put { collection, .. } => (&**collection, None),
            Self::Update(patch) => (&*patch.entity.collection, None),
            Self::Delete(entity) | Self::DeleteIf { entity, .. } | Self::Merge { from: entity, .. } => {
                (&*entity.collection, None)
            }
            Self::PutEdge(edge) => (&*edge.from.collection, Some(&*edge.to.collection)),
            Self::DeleteEdge(edge) => (&*edge.from.collection, Some(&*edge.to.collection)),
            Self::DropSource { of, .. } => match of {
                SourceOwner::Entity(entity) | SourceOwner::Chunk(entity, _) => (&*entity.collection, None),
                SourceOwner::Edge(edge) => (&*edge.from.collection, Some(&*edge.to.collection)),
            },
        };
        std::iter::once(one).chain(other)
    }
}

/// What must be so of an entity for a write to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// It is not there.
    Absent,
    /// It is there, and this is its version.
    Version(Version),
}

/// What has sources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Eq, Hash)]
pub enum SourceOwner {
    /// An entity itself.
    Entity(EntityRef),
    /// A chunk of an entity, by its id.
    Chunk(EntityRef, String),
    /// An edge.
    Edge(EdgeRef),
}

/// Some fields of an entity to change: `None` in an outer option leaves a field as it is, in an inner
/// one removes it.
#[derive(Clone, Debug, PartialEq)]
pub struct EntityPatch {
    /// Which entity.
    pub entity: EntityRef,
    /// Creates the entity if it is not there, rather than failing with [`crate::Error::NotFound`].
    pub allow_missing: bool,
    /// A new type.
    pub entity_type: Option<String>,
    /// A new importance, or none.
    pub importance: Option<Option<f64>>,
    /// A new expiry, or none.
    pub expire_at: Option<Option<Timestamp>>,
    /// A new set of sources.
    pub sources: Option<BTreeSet<String>>,
    /// Removes every attribute that `attributes` does not name.
    pub replace_attributes: bool,
    /// Attributes to set or to remove.
    pub attributes: BTreeMap<String, Option<Value>>,
    /// The entity's own vectors to set or to remove, by space name.
    pub vectors: BTreeMap<String, Option<Vec<f32>>>,
    /// Removes every own vector that `vectors` does not name.
    pub replace_vectors: bool,
    /// Chunks to put (each replaces its predecessor whole) or to remove.
    pub chunks: BTreeMap<String, Option<Chunk>>,
}

impl EntityPatch {
    /// Whether it sets anything: what only removes leaves less than before.
    fn adds(&self) -> bool {
        let sets = self.entity_type.is_some()
            || matches!(self.importance, Some(Some(_)))
            || matches!(self.expire_at, Some(Some(_)))
            || self.sources.as_ref().is_some_and(|sources| !sources.is_empty());
        self.allow_missing
            || sets
            || self.attributes.values().any(Option::is_some)
            || self.vectors.values().any(Option::is_some)
            || self.chunks.values().any(Option::is_some)
    }

    /// A patch that changes nothing yet.
    pub fn new(entity: EntityRef) -> Self {
        Self {
            entity,
            allow_missing: false,
            entity_type: None,
            importance: None,
            expire_at: None,
            sources: None,
            replace_attributes: false,
            attributes: BTreeMap::new(),
            vectors: BTreeMap::new(),
            replace_vectors: false,
            chunks: BTreeMap::new(),
        }
    }
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version that the write carries.
    pub version: Version,
    /// Whether the entity or edge was there before.
    pub existed: bool,
    /// A newer version that was there already, where it was made, of what it writes: what came later hides it.
    pub overtaken_by: Option<Version>,
}
