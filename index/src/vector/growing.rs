//! The growing segment: fresh rows in memory, found by the very next query.
//!
//! Rows are appended in chunks of a fixed size; full chunks are never moved or locked again. A search scans the 8-bit
//! codes of all rows, exactly, and measures the best of them by their f32.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use allidb_storage::Sequence;
use parking_lot::RwLock;
use roaring::RoaringTreemap;

use crate::{
    model::Metric,
    vector::{
        Measure,
        kernel::{CodeKind, Isa, dot_rows},
        pool::{Candidate, Pool},
        quantize::{Grid, QueryCodes},
        rotation::Rotation,
    },
    writing::{Grows, Writers},
};

/// Rows of a chunk.
const CHUNK: usize = 256;
const ALIVE: u64 = u64::MAX;
/// Stands for no row in the map of numbers.
const REMOVED: u32 = u32::MAX;

/// A segment that still grows, or waits to be sealed.
#[derive(Debug)]
pub(crate) struct Growing {
    measure: Measure,
    dimension: usize,
    rotation: Arc<Rotation>,
    /// Its rows are journaled under this generation until they are sealed, but for those that a start replayed.
    pub(crate) generation: u64,
    /// The oldest generation of the journal that any of its rows may be in.
    pub(crate) journaled_from: u64,
    capacity: usize,
    /// Writers that may still add rows.
    writers: Writers,
    removals: AtomicUsize,
    rows: RwLock<Rows>,
    /// Bytes of all growing segments of the node.
    all_bytes: Arc<AtomicUsize>,
}

/// A vector on its way into the segment.
#[derive(Debug)]
pub(crate) struct FreshRow {
    vector: Vec<f32>,
    codes: Vec<u8>,
    step: f32,
    half_square: f32,
    owner: Box<[u8]>,
}

/// A row on its way into a file.
pub(crate) struct VisibleRow<'a> {
    pub(crate) number: u64,
    pub(crate) owner: &'a [u8],
    /// Prepared.
    pub(crate) vector: &'a [f32],
}

#[derive(Debug, Default)]
struct Rows {
    full: Vec<Arc<Chunk>>,
    tail: Chunk,
    /// Number to its newest row.
    newest: HashMap<u64, u32>,
}

#[derive(Debug, Default)]
struct Chunk {
    rows: Vec<Row>,
    codes: Vec<u8>,
    steps: Vec<f32>,
    /// Half the squared lengths.
    half_squares: Vec<f32>,
    vectors: Vec<f32>,
}

#[derive(Debug)]
struct Row {
    number: u64,
    /// Whose vector it is: see [`Owner`](super::owner::Owner).
    owner: Box<[u8]>,
    /// The sequence that wrote it.
    born: Sequence,
    /// The sequence that replaced or removed it.
    dead: AtomicU64,
}

impl Row {
    fn is_visible(&self, at: Sequence) -> bool {
        self.born <= at && at < self.dead.load(Ordering::Acquire)
    }
}

impl Grows for Growing {
    fn writers(&self) -> &Writers {
        &self.writers
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

impl Growing {
    pub(crate) fn new(
        measure: Measure,
        dimension: usize,
        rotation: Arc<Rotation>,
        generation: u64,
        journaled_from: u64,
        capacity: usize,
        all_bytes: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            measure,
            dimension,
            rotation,
            generation,
            journaled_from,
            capacity,
            writers: Writers::default(),
            removals: AtomicUsize::new(0),
            rows: RwLock::default(),
            all_bytes,
        }
    }

    /// Rows, dead ones counted.
    pub(crate) fn len(&self) -> usize {
        let rows = self.rows.read();
        rows.full.len() * CHUNK + rows.tail.rows.len()
    }

    /// Whether so much is journaled that it should be sealed.
    pub(crate) fn is_full(&self) -> bool {
        self.fill() >= self.capacity
    }

    /// Whether no writer holds it open.
    pub(crate) fn is_settled(&self) -> bool {
        self.writers.are_gone()
    }

    /// Bytes of memory that rows take, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * self.row_bytes()
    }

    fn row_bytes(&self) -> usize {
        5 * self.dimension + 128
    }

    /// A vector in the form in which it is kept here.
    pub(crate) fn encode(&self, prepared: Vec<f32>, owner: Box<[u8]>) -> FreshRow {
        let mut rotated = prepared.clone();
        self.rotation.apply(&mut rotated);
        let half_square = rotated.iter().map(|x| x * x).sum::<f32>() / 2.0;
        let mut codes = vec![0; CodeKind::Bits8.row_bytes(self.dimension)];
        let step = Grid(CodeKind::Bits8).encode(&mut rotated, &mut codes);
        FreshRow { vector: prepared, codes, step, half_square, owner }
    }

    /// Adds a row: the number's vector from `born` on.
    pub(crate) fn push(&self, number: u64, fresh: &FreshRow, born: Sequence) {
        let mut rows = self.rows.write();
        let row = (rows.full.len() * CHUNK + rows.tail.rows.len()) as u32;
        rows.newest.insert(number, row);
        let tail = &mut rows.tail;
        let dead = AtomicU64::new(ALIVE);
        tail.rows.push(Row { number, owner: fresh.owner.clone(), born, dead });
        tail.codes.extend_from_slice(&fresh.codes);
        tail.steps.push(fresh.step);
        tail.half_squares.push(fresh.half_square);
        tail.vectors.extend_from_slice(&fresh.vector);
        if tail.rows.len() == CHUNK {
            let full = Arc::new(std::mem::take(tail));
            rows.full.push(full);
        }
        self.all_bytes.fetch_add(self.row_bytes(), Ordering::Relaxed);
    }

    /// The number has no vector any more. Removals are journaled as rows are, and count with them.
    pub(crate) fn note_removal(&self, number: u64) {
        self.rows.write().newest.insert(number, REMOVED);
        self.removals.fetch_add(1, Ordering::Relaxed);
    }

    /// The number's row is gone from `sequence` on; false if it has none that is alive.
    pub(crate) fn kill(&self, number: u64, sequence: Sequence) -> bool {
        let rows = self.rows.read();
        let Some(row) = rows.newest.get(&number).filter(|row| **row != REMOVED) else { return false };
        let (chunk, at) = (*row as usize / CHUNK, *row as usize % CHUNK);
        let row = rows.full.get(chunk).map_or(&rows.tail.rows[..], |chunk| &chunk.rows).get(at);
        let killed =
            row.map(|row| row.dead.compare_exchange(ALIVE, sequence, Ordering::AcqRel, Ordering::Acquire));
        matches!(killed, Some(Ok(_)))
    }

    /// Whether the number was written or removed while this segment grew.
    pub(crate) fn knows(&self, number: u64) -> bool {
        self.rows.read().newest.contains_key(&number)
    }

    /// Calls `each` with every row: its number, and when it died, if it did.
    pub(crate) fn for_each(&self, mut each: impl FnMut(u64, Option<Sequence>)) {
        let rows = self.rows.read();
        for row in rows.full.iter().map(|chunk| &**chunk).chain([&rows.tail]).flat_map(|chunk| &chunk.rows) {
            let dead = row.dead.load(Ordering::Acquire);
            each(row.number, (dead != ALIVE).then_some(dead));
        }
    }

    /// Whose vector a row is.
    pub(crate) fn owner(&self, row: u32) -> Box<[u8]> {
        let rows = self.rows.read();
        let (chunk, at) = (row as usize / CHUNK, row as usize % CHUNK);
        rows.full.get(chunk).map_or(&rows.tail.rows, |chunk| &chunk.rows)[at].owner.clone()
    }

    /// Calls `work` with the rows visible at `at`, by ascending number.
    pub(crate) fn with_visible<R>(&self, at: Sequence, work: impl FnOnce(&[VisibleRow<'_>]) -> R) -> R {
        let rows = self.rows.read();
        let mut visible: Vec<VisibleRow<'_>> = Vec::new();
        for chunk in rows.full.iter().map(|chunk| &**chunk).chain([&rows.tail]) {
            let of_chunk = chunk.rows.iter().zip(chunk.vectors.chunks_exact(self.dimension));
            visible.extend(of_chunk.filter(|(row, _)| row.is_visible(at)).map(|(row, vector)| VisibleRow {
                number: row.number,
                owner: &row.owner,
                vector,
            }));
        }
        visible.sort_unstable_by_key(|row| row.number);
        work(&visible)
    }

    /// Rows and removals: what of it is journaled.
    pub(crate) fn fill(&self) -> usize {
        self.len() + self.removals.load(Ordering::Relaxed)
    }

    /// Rows that are dead.
    pub(crate) fn dead(&self) -> usize {
        let rows = self.rows.read();
        let chunks = rows.full.iter().map(|chunk| &**chunk).chain([&rows.tail]);
        chunks.flat_map(|chunk| &chunk.rows).filter(|row| row.dead.load(Ordering::Acquire) != ALIVE).count()
    }

    /// Appends to `found` the `k` nearest rows visible at `sequence` that are accepted, by their exact distance: distance and
    /// number and row. Returns how many were compared.
    pub(crate) fn scan(
        &self,
        prepared: &[f32],
        k: usize,
        exact: bool,
        sequence: Sequence,
        accept: Option<&RoaringTreemap>,
        found: &mut Vec<(f32, u64, u32)>,
    ) -> u64 {
        let mut rotated = prepared.to_vec();
        self.rotation.apply(&mut rotated);
        let query = QueryCodes::new(CodeKind::Bits8, &rotated);
        let mut scan = Scan {
            growing: self,
            prepared,
            offset: Grid(CodeKind::Bits8).middle() * query.high_sum as f32,
            query,
            exact,
            sequence,
            accept,
            pool: Pool::default(),
            batch: Vec::with_capacity(CHUNK),
            sums: Vec::with_capacity(CHUNK),
            compared: 0,
        };
        // Codes of eight bits err by less than what lies between neighbours so far apart in rank.
        let breadth = if exact { k } else { 2 * k + 32 };
        scan.pool.begin(breadth);
        let rows = self.rows.read();
        let full = rows.full.clone();
        // The tail may move when the lock is gone: its best are measured now.
        let mut measured = Vec::new();
        scan.chunk(&rows.tail, full.len());
        let tail_starts = (full.len() * CHUNK) as u32;
        for candidate in scan.pool.candidates() {
            let at = (candidate.row() - tail_starts) as usize;
            measured.push(scan.measured(&rows.tail, at, *candidate));
        }
        drop(rows);
        scan.pool.begin(breadth);
        for (at, chunk) in full.iter().enumerate() {
            scan.chunk(chunk, at);
        }
        for candidate in scan.pool.candidates() {
            let chunk = &full[candidate.row() as usize / CHUNK];
            measured.push(scan.measured(chunk, candidate.row() as usize % CHUNK, *candidate));
        }
        measured.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        found.extend(measured.into_iter().take(k));
        scan.compared
    }
}

struct Scan<'a> {
    growing: &'a Growing,
    prepared: &'a [f32],
    query: QueryCodes,
    offset: f32,
    exact: bool,
    sequence: Sequence,
    accept: Option<&'a RoaringTreemap>,
    pool: Pool,
    batch: Vec<u32>,
    sums: Vec<i32>,
    compared: u64,
}

impl Scan<'_> {
    fn chunk(&mut self, chunk: &Chunk, at: usize) {
        let is_wanted = |row: &Row| {
            row.is_visible(self.sequence) && self.accept.is_none_or(|accept| accept.contains(row.number))
        };
        self.batch.clear();
        self.batch.extend((0..chunk.rows.len() as u32).filter(|at| is_wanted(&chunk.rows[*at as usize])));
        self.compared += self.batch.len() as u64;
        let first = (at * CHUNK) as u32;
        let dimension = self.growing.dimension;
        if self.exact {
            for row in &self.batch {
                let vector = &chunk.vectors[*row as usize * dimension..][..dimension];
                let distance = self.growing.measure.distance(self.prepared, vector);
                self.pool.offer(Candidate::new(distance, first + row));
            }
            return;
        }
        self.sums.clear();
        self.sums.resize(self.batch.len(), 0);
        let row_bytes = CodeKind::Bits8.row_bytes(dimension);
        let (isa, kind, digits) = (Isa::best(), CodeKind::Bits8, &self.query.high);
        dot_rows(isa, kind, &chunk.codes, row_bytes, &self.batch, digits, &mut self.sums);
        let is_l2 = self.growing.measure.0 == Metric::L2;
        for (row, sum) in self.batch.iter().zip(&self.sums) {
            let at = *row as usize;
            let product = (*sum as f32 - self.offset) * chunk.steps[at] * self.query.step;
            let bias = if is_l2 { chunk.half_squares[at] } else { 0.0 };
            self.pool.offer(Candidate::new(bias - product, first + row));
        }
    }

    fn measured(&self, chunk: &Chunk, at: usize, candidate: Candidate) -> (f32, u64, u32) {
        let dimension = self.growing.dimension;
        let vector = || &chunk.vectors[at * dimension..][..dimension];
        let distance = if self.exact {
            candidate.distance()
        } else {
            self.growing.measure.distance(self.prepared, vector())
        };
        (distance, chunk.rows[at].number, candidate.row())
    }
}
