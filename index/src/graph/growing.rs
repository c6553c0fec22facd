//! Fresh nodes and edges in memory: walked by the very next query.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use allidb_storage::Sequence;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::{
    graph::{
        adjacency::{EdgeName, EdgeValue, Side},
        nodes::NodeState,
    },
    model::{CollectionId, TenantId},
    row::EntityKey,
    shelf::FreshSet,
    writing::{Grows, Writers},
};

/// Changes of a growing set at most: of a node, or of an edge at one of its ends.
const GROWING_CHANGES: usize = 128_000;
/// Bytes of a growing set at most.
pub(super) const GROWING_BYTES: usize = 24 << 20;
/// What a change of an edge takes in memory beyond the edge's id, and what a node takes beyond its name, about: with what the
/// allocator and growing maps round up.
const EDGE_BYTES: usize = 120;
const NODE_BYTES: usize = 200;

/// A set of changes that still grows, or waits to be written to a segment.
#[derive(Debug)]
pub(crate) struct Growing {
    generation: u64,
    journaled_from: u64,
    writers: Writers,
    inner: RwLock<Inner>,
    all_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: HashMap<u64, FreshNode>,
    changes: usize,
    bytes: usize,
}

/// What was written of a node.
#[derive(Debug, Default)]
pub(crate) struct FreshNode {
    /// Its name and its last state, if that was written.
    pub(crate) state: Option<(EntityKey, NodeState)>,
    sides: [FreshEdges; 2],
}

type FreshEdges = BTreeMap<EdgeName, Vec<(Sequence, Option<EdgeValue>)>>;

impl Grows for Growing {
    fn writers(&self) -> &Writers {
        &self.writers
    }
}

impl FreshSet for Growing {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn journaled_from(&self) -> u64 {
        self.journaled_from
    }

    fn fill(&self) -> usize {
        self.inner.read().changes
    }

    fn is_full(&self) -> bool {
        let inner = self.inner.read();
        inner.changes >= GROWING_CHANGES || inner.bytes >= GROWING_BYTES
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.inner.get_mut().bytes, Ordering::Relaxed);
    }
}

/// What is in a set, while nobody adds to it.
pub(crate) struct Reading<'a>(RwLockReadGuard<'a, Inner>);

impl Growing {
    pub(crate) fn new(generation: u64, journaled_from: u64, all_bytes: &Arc<AtomicUsize>) -> Self {
        let all_bytes = Arc::clone(all_bytes);
        Self { generation, journaled_from, writers: Writers::default(), inner: RwLock::default(), all_bytes }
    }

    /// Adds what was written of a node.
    pub(crate) fn put_node(&self, number: u64, name: &EntityKey, state: NodeState) {
        let mut inner = self.inner.write();
        let bytes = NODE_BYTES + name.id.len();
        inner.nodes.entry(number).or_default().state = Some((name.clone(), state));
        inner.add(bytes, &self.all_bytes);
    }

    /// Adds what was written of an edge at one of its ends; without a value it is no more.
    pub(crate) fn put_edge(
        &self,
        number: u64,
        side: Side,
        name: &EdgeName,
        value: Option<EdgeValue>,
        born: Sequence,
    ) {
        let mut inner = self.inner.write();
        let node = inner.nodes.entry(number).or_default();
        let written = node.sides[side as usize].entry(name.clone()).or_default();
        written.push((born, value));
        inner.add(EDGE_BYTES + name.edge_id.len(), &self.all_bytes);
    }

    /// Whether anything was written of a node, or of one of its edges.
    pub(crate) fn read(&self) -> Reading<'_> {
        Reading(self.inner.read())
    }
}

impl Inner {
    fn add(&mut self, bytes: usize, all_bytes: &AtomicUsize) {
        self.changes += 1;
        self.bytes += bytes;
        all_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Reading<'_> {
    /// The numbers of all nodes of which anything was written, ascending.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.0.nodes.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    pub(crate) fn node(&self, number: u64) -> Option<&FreshNode> {
        self.0.nodes.get(&number)
    }

    /// The nodes of a collection.
    pub(crate) fn of_collection(&self, tenant: TenantId, collection: CollectionId) -> Vec<u64> {
        let is_of = |name: &EntityKey| name.tenant == tenant && name.collection == collection;
        let nodes = self.0.nodes.iter();
        let of = nodes.filter(|(_, node)| node.state.as_ref().is_some_and(|(name, _)| is_of(name)));
        of.map(|(number, _)| *number).collect()
    }
}

impl FreshNode {
    /// The edges that were written on a side, as a query pinned at `at` is to see them, in the order of their names: when, and what
    /// they are since.
    pub(crate) fn edges(
        &self,
        side: Side,
        at: Sequence,
    ) -> impl Iterator<Item = (&EdgeName, Sequence, Option<EdgeValue>)> {
        self.sides[side as usize].iter().filter_map(move |(name, written)| {
            let (born, value) = written.iter().rev().find(|(born, _)| *born <= at)?;
            Some((name, *born, *value))
        })
    }

    pub(crate) fn has_edges(&self, side: Side) -> bool {
        !self.sides[side as usize].is_empty()
    }
}
