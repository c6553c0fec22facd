//! The rows of a space: full blocks, which never move, and a tail of fresh rows.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use allidb_storage::Sequence;

/// Rows of a block. Fresh rows wait in the tail until there are so many.
pub(crate) const BLOCK_ROWS: usize = 1024;

const ALIVE: u64 = u64::MAX;

/// What is known of a row besides its vector.
#[derive(Debug)]
pub(crate) struct Row {
    /// Whose vector it is.
    pub(crate) number: u64,
    /// The sequence that wrote it.
    born: Sequence,
    /// The sequence that replaced or deleted it.
    dead: AtomicU64,
}

impl Row {
    pub(crate) fn new(number: u64, born: Sequence) -> Self {
        Self { number, born, dead: AtomicU64::new(ALIVE) }
    }

    /// Whether it counts for a query pinned at `sequence`.
    pub(crate) fn is_visible(&self, sequence: Sequence) -> bool {
        self.born <= sequence && sequence < self.dead.load(Ordering::Acquire)
    }

    /// Whether no query pinned at `sequence` or later can see it.
    pub(crate) fn is_gone(&self, sequence: Sequence) -> bool {
        self.dead.load(Ordering::Acquire) <= sequence
    }

    pub(crate) fn kill(&self, sequence: Sequence) {
        self.dead.store(sequence, Ordering::Release);
    }

    pub(crate) fn copy(&self) -> Self {
        Self { number: self.number, born: self.born, dead: AtomicU64::new(self.dead.load(Ordering::Acquire)) }
    }

    /// Takes over a death that happened to `other`, of which this is a copy.
    pub(crate) fn follow(&self, other: &Row) {
        self.dead.store(other.dead.load(Ordering::Acquire), Ordering::Release);
    }
}

/// [`BLOCK_ROWS`] rows, their vectors one after the other.
#[derive(Debug)]
pub(crate) struct Block {
    rows: Box<[Row]>,
    vectors: Arc<[f32]>,
}

/// A row that is in no block yet.
#[derive(Debug)]
pub(crate) struct TailRow {
    row: Row,
    vector: Box<[f32]>,
}

/// Rows in the order of their slots: 0, 1, 2, …
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    dimension: usize,
    blocks: Arc<Vec<Arc<Block>>>,
    tail: Vec<Arc<TailRow>>,
}

impl Rows {
    pub(crate) fn new(dimension: usize) -> Self {
        Self { dimension, blocks: Arc::default(), tail: Vec::new() }
    }

    /// How many slots there are, dead ones counted.
    pub(crate) fn len(&self) -> usize {
        self.in_blocks() + self.tail.len()
    }

    /// How many slots are in full blocks.
    pub(crate) fn in_blocks(&self) -> usize {
        self.blocks.len() * BLOCK_ROWS
    }

    /// Adds a row and returns its slot.
    pub(crate) fn push(&mut self, row: Row, vector: Box<[f32]>) -> usize {
        debug_assert_eq!(vector.len(), self.dimension);
        let slot = self.len();
        self.tail.push(Arc::new(TailRow { row, vector }));
        if self.tail.len() == BLOCK_ROWS {
            let mut vectors = Vec::with_capacity(BLOCK_ROWS * self.dimension);
            self.tail.iter().for_each(|row| vectors.extend_from_slice(&row.vector));
            let rows = self.tail.drain(..).map(|tail| tail.row.copy()).collect();
            Arc::make_mut(&mut self.blocks).push(Arc::new(Block { rows, vectors: vectors.into() }));
        }
        slot
    }

    /// The row in a slot below [`Rows::len`].
    pub(crate) fn row(&self, slot: usize) -> &Row {
        match self.blocks.get(slot / BLOCK_ROWS) {
            Some(block) => &block.rows[slot % BLOCK_ROWS],
            None => &self.tail[slot - self.in_blocks()].row,
        }
    }

    /// The vector in a slot below [`Rows::len`].
    pub(crate) fn vector(&self, slot: usize) -> &[f32] {
        match self.blocks.get(slot / BLOCK_ROWS) {
            Some(block) => {
                let start = slot % BLOCK_ROWS * self.dimension;
                &block.vectors[start..start + self.dimension]
            }
            None => &self.tail[slot - self.in_blocks()].vector,
        }
    }

    /// A vector of a full block that outlives these rows.
    pub(crate) fn shared_vector(&self, slot: usize) -> SharedVector {
        let start = slot % BLOCK_ROWS * self.dimension;
        let vectors = Arc::clone(&self.blocks[slot / BLOCK_ROWS].vectors);
        SharedVector { vectors, start, end: start + self.dimension }
    }
}

/// One vector of a block that is kept alive by it.
#[derive(Clone, Debug)]
pub(crate) struct SharedVector {
    vectors: Arc<[f32]>,
    start: usize,
    end: usize,
}

impl SharedVector {
    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.vectors[self.start..self.end]
    }
}
