//! Which nodes hold each partition.

use allidb_index::PARTITIONS;

/// A node of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Partition to the nodes that hold it. Ownership is never derived from who is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    version: u64,
    replicas: Vec<Vec<NodeId>>,
}

impl Layout {
    /// The layout of a ring of one: `node` holds everything.
    pub fn of_one(node: NodeId) -> Self {
        Self { version: 1, replicas: vec![vec![node]; usize::from(PARTITIONS)] }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The nodes that hold a partition.
    pub fn replicas(&self, partition: u16) -> &[NodeId] {
        self.replicas.get(usize::from(partition)).map_or(&[], Vec::as_slice)
    }
}
