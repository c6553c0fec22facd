//! The graph index of a node: what is fresh, what is sealed, and which nodes are there.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use allidb_storage::{Engine, Sequence, fs::Fs};
use parking_lot::{Mutex, RwLock};

use crate::{
    error::Error,
    graph::{
        adjacency::{EdgeName, EdgeValue, Side},
        growing::Growing,
        nodes::{NodeState, Nodes},
        relations::Relations,
        segment::GraphSegment,
    },
    keyspaces::Keyspaces,
    model::{CollectionId, TenantId},
    replica::Numbers,
    row::{
        EntityKey,
        key::{by_number, decode_numbered},
    },
    shelf::{FreshSet, Shelf, ShelfView},
    upkeep::Machine,
    writing::Writing,
};

/// Of the journal of a new store.
pub(super) const FIRST_GENERATION: u64 = 1;
/// Ends the journal's row of a node whose edges are no more.
pub(super) const CLEARS: u8 = 1;

/// The graph index.
pub(crate) struct GraphIndex {
    pub(super) machine: Machine,
    pub(super) shelf: RwLock<Shelf<Growing, GraphSegment>>,
    pub(crate) nodes: Nodes,
    pub(crate) relations: Relations,
    /// Held while the inventory is taken and stored, so that an older one never replaces a newer one.
    pub(super) remembering: Mutex<()>,
    /// What kept edges from being read at the start: what is missing nobody knows.
    pub(super) damage: RwLock<Option<Error>>,
    pub(super) fresh_bytes: Arc<AtomicUsize>,
    pub(super) engine: Engine,
    pub(super) keyspaces: Keyspaces,
    pub(super) numbers: Arc<Numbers>,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
}

/// The sets and segments at one moment.
pub(crate) type GraphView = ShelfView<Growing, GraphSegment>;

/// What a write did to a node.
#[derive(Debug)]
pub(crate) struct NodeChange {
    pub(crate) writing: Writing<Growing>,
    pub(crate) number: u64,
    pub(crate) name: EntityKey,
    /// What it is since; when its edges were cleared is known when the write is visible.
    pub(crate) state: NodeState,
    /// Whether the edges that it had are no more.
    pub(crate) clears: bool,
}

/// What an edge is since a write, as seen from its source and its target; `None`: unchanged there. `Some(None)`: no more.
pub(crate) type ChangedSides = [Option<Option<EdgeValue>>; 2];

/// What a write did to an edge.
#[derive(Debug)]
pub(crate) struct EdgeChange {
    pub(crate) writing: Writing<Growing>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) relation: u32,
    pub(crate) edge_id: Box<str>,
    pub(crate) sides: ChangedSides,
}

/// A change of the graph.
#[derive(Debug)]
pub(crate) enum GraphChange {
    Node(NodeChange),
    Edge(EdgeChange),
}

/// Counts of the index.
#[derive(Clone, Copy, Debug, Default)]
pub struct GraphCounts {
    /// Segments on disk.
    pub segments: usize,
    /// Nodes in them; one that is in several counts as often.
    pub nodes: u64,
    /// Edges in them, those included that were replaced or deleted.
    pub edges: u64,
    /// Changes that are in no segment yet.
    pub fresh: usize,
    /// Bytes of segments, mapped.
    pub mapped_bytes: u64,
    /// Bytes of fresh changes, and of what is known of every node, in memory.
    pub memory_bytes: usize,
}

impl GraphChange {
    /// Its row in the journal, given the place's prefix. What matters of a change must be in the key, since later ones of the same
    /// key replace it.
    pub(crate) fn journal_key(&self, prefix: &[u8]) -> Vec<u8> {
        let mut key = prefix.to_vec();
        match self {
            Self::Node(NodeChange { writing, number, clears, .. }) => {
                key.extend(writing.growing().generation().to_be_bytes());
                key.extend(number.to_be_bytes());
                if *clears {
                    key.push(CLEARS);
                }
            }
            Self::Edge(EdgeChange { writing, from, to, relation, edge_id, .. }) => {
                key.extend(writing.growing().generation().to_be_bytes());
                key.extend(from.to_be_bytes());
                key.extend(relation.to_be_bytes());
                key.extend(to.to_be_bytes());
                key.extend(edge_id.as_bytes());
            }
        }
        key
    }
}

impl GraphIndex {
    /// # Errors
    /// If edges could not be read at the start, so that no walk can be trusted.
    pub(crate) fn check_damage(&self) -> crate::Result<()> {
        self.damage.read().as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Opens the growing set for a change, whose journal row is to be written under its generation while this is held.
    pub(crate) fn begin_write(&self) -> Writing<Growing> {
        if let Some(writing) = self.shelf.read().begin_write() {
            return writing;
        }
        let mut shelf = self.shelf.write();
        if shelf.growing.is_full() {
            self.rotate(&mut shelf);
        }
        Writing::new(&shelf.growing)
    }

    pub(super) fn rotate(&self, shelf: &mut Shelf<Growing, GraphSegment>) {
        shelf
            .rotate(|generation, journaled_from| Growing::new(generation, journaled_from, &self.fresh_bytes));
    }

    /// Makes a change so from `sequence` on.
    pub(crate) fn publish(&self, change: &GraphChange, sequence: Sequence) {
        match change {
            GraphChange::Node(NodeChange { writing, number, name, state, clears }) => {
                let cleared = if *clears { sequence } else { self.nodes.get(*number).cleared };
                let state = NodeState { cleared, ..*state };
                writing.growing().put_node(*number, name, state);
                self.nodes.set(*number, state, sequence);
            }
            GraphChange::Edge(EdgeChange { writing, from, to, relation, edge_id, sides }) => {
                for (side, own, other) in [(Side::Out, *from, *to), (Side::In, *to, *from)] {
                    if let Some(value) = sides[side as usize] {
                        let name = EdgeName { relation: *relation, other, edge_id: edge_id.clone() };
                        writing.growing().put_edge(own, side, &name, value, sequence);
                    }
                }
            }
        }
    }

    pub(crate) fn view(&self) -> GraphView {
        self.shelf.read().view()
    }

    /// Whose number it is as the store has it now.
    pub(crate) fn stored_name(&self, number: u64) -> crate::Result<Option<EntityKey>> {
        let key = by_number(number);
        let Some(bytes) = self.engine.get(self.keyspaces.number, &key)? else { return Ok(None) };
        let (name, chunk) = decode_numbered(&bytes).map_err(|error| Error::corrupt("number", &key, error))?;
        Ok(chunk.is_empty().then_some(name))
    }

    /// The nodes of a collection, as far as they are in a view and not in a segment that was looked at before; and the segments
    /// that were looked at then.
    pub(crate) fn nodes_of(
        &self,
        tenant: TenantId,
        collection: CollectionId,
        known: &[u64],
    ) -> crate::Result<(Vec<u64>, Vec<u64>)> {
        let view = self.view();
        let of = |growing: &Arc<Growing>| growing.read().of_collection(tenant, collection);
        let mut numbers: Vec<u64> = view.growing.iter().flat_map(of).collect();
        for segment in view.sealed.iter().filter(|segment| !known.contains(&segment.id())) {
            for record in segment.records() {
                let (number, record) = record?;
                let name = record.name().map_err(|error| segment.damaged(error))?;
                if name.is_some_and(|name| name.tenant == tenant && name.collection == collection) {
                    numbers.push(number);
                }
            }
        }
        Ok((numbers, view.sealed.iter().map(|segment| segment.id()).collect()))
    }

    /// These entities are not there any more, and no edge that any of them had: their collection was dropped, also for queries
    /// that are under way.
    pub(crate) fn forget_nodes(&self, numbers: &[u64]) {
        let gone = NodeState { gone: true, ..NodeState::default() };
        let sequence = self.engine.visible_sequence();
        numbers.iter().for_each(|number| self.nodes.set(*number, gone, sequence));
    }

    pub(crate) fn counts(&self) -> GraphCounts {
        let view = self.view();
        GraphCounts {
            segments: view.sealed.len(),
            nodes: view.sealed.iter().map(|segment| segment.nodes()).sum(),
            edges: view.sealed.iter().map(|segment| segment.edges()).sum(),
            fresh: view.growing.iter().map(|growing| growing.fill()).sum(),
            mapped_bytes: view.sealed.iter().map(|segment| segment.bytes()).sum(),
            memory_bytes: self.fresh_bytes.load(Ordering::Relaxed) + self.nodes.memory_bytes(),
        }
    }
}
