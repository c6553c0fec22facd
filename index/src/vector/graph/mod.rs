//! Building a navigable small-world graph (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor
//! search using Hierarchical Navigable Small World graphs", 2016) over rows of 8-bit codes, on several threads.
//!
//! All rows are known from the start, so layers are laid out flat at once: no node is allocated by itself, and
//! readers need no lock. A reader may see a list while it is changed; whatever it reads is a row that is in the
//! graph.
//!
//! | module | concept |
//! |---|---|
//! | `keep` | going on from the graph of an older segment |
//! | `copies` | rows that are equal |

mod copies;
mod keep;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use allidb_storage::fs::{ScratchFile, ScratchWords};
use parking_lot::Mutex;

use copies::Copies;
pub(crate) use keep::Kept;

use crate::{
    error::Result,
    vector::{
        kernel::{CodeKind, Isa, dot_rows, prefetch},
        pool::{Candidate, Pool},
        visited::Visited,
    },
};

/// How graphs are built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuildOptions {
    /// Most neighbours of a node in each layer; twice that in the bottom one.
    pub(crate) connections: usize,
    /// Breadth of the walk that finds the neighbours of a new node.
    pub(crate) breadth: usize,
    /// A neighbour is left out when one already chosen is nearer to it by this factor. Above one keeps longer edges.
    pub(crate) slack: f32,
}

/// Rows to build a graph over: whose they are, and their 8-bit codes, of which 128 stands for zero, also where a row has more room than
/// dimensions. The distance of two rows is bias + bias − step · step · Σ code · code.
#[derive(Debug, Default)]
pub(crate) struct BuildRows {
    /// Ascending. A row's layers are drawn from it.
    pub(crate) numbers: Vec<u64>,
    pub(crate) codes: BuildCodes,
    pub(crate) row_bytes: usize,
    pub(crate) steps: Vec<f32>,
    pub(crate) biases: Vec<f32>,
}

/// Codes in the making, in memory of this process or in a scratch file.
#[derive(Debug)]
pub(crate) enum BuildCodes {
    Owned(Vec<u8>),
    Scratch(ScratchFile),
}

impl Default for BuildCodes {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl Deref for BuildCodes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Scratch(file) => file.bytes(),
        }
    }
}

impl DerefMut for BuildCodes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Scratch(file) => file.bytes_mut(),
        }
    }
}

/// Links in the making, likewise.
enum Links {
    Owned(Vec<AtomicU32>),
    Scratch(ScratchWords),
}

impl Deref for Links {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        match self {
            Self::Owned(words) => words,
            Self::Scratch(words) => words,
        }
    }
}

/// One row as others are compared with it.
#[derive(Default)]
struct Probe {
    digits: Vec<i8>,
    sum: i32,
    step: f32,
    bias: f32,
}

impl BuildRows {
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    fn prefetch(&self, row: u32) {
        prefetch(&self.codes[row as usize * self.row_bytes..][..self.row_bytes]);
        prefetch(std::slice::from_ref(&self.steps[row as usize]));
        prefetch(std::slice::from_ref(&self.biases[row as usize]));
    }

    fn probe(&self, row: u32, probe: &mut Probe) {
        let start = row as usize * self.row_bytes;
        let codes = &self.codes[start..start + self.row_bytes];
        probe.digits.clear();
        probe.digits.extend(codes.iter().map(|code| (code ^ 128) as i8));
        probe.sum = probe.digits.iter().map(|digit| i32::from(*digit)).sum();
        probe.step = self.steps[row as usize];
        probe.bias = self.biases[row as usize];
    }

    fn distances(&self, probe: &Probe, rows: &[u32], sums: &mut Vec<i32>, out: &mut Vec<f32>) {
        sums.clear();
        sums.resize(rows.len(), 0);
        dot_rows(Isa::best(), CodeKind::Bits8, &self.codes, self.row_bytes, rows, &probe.digits, sums);
        out.clear();
        out.extend(rows.iter().zip(&*sums).map(|(row, sum)| {
            let product = (sum - 128 * probe.sum) as f32;
            let row = *row as usize;
            probe.bias + self.biases[row] - probe.step * self.steps[row] * product
        }));
    }
}

/// Where a graph is built, and who watches.
pub(crate) struct BuildRun<'a> {
    pub(crate) pool: Option<&'a rayon::ThreadPool>,
    pub(crate) is_cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Counts the rows inserted.
    pub(crate) inserted: &'a AtomicUsize,
    /// Called by each thread every few rows, with how long they took it. May rest.
    pub(crate) pace: &'a (dyn Fn(Duration) + Sync),
    /// Gives a scratch file of so many bytes where memory of this process is too dear for them.
    pub(crate) scratch: &'a (dyn Fn(usize) -> Result<Option<ScratchFile>> + Sync),
}

#[cfg(test)]
impl BuildRun<'static> {
    /// In the call itself, in memory, at full speed, to the end.
    pub(crate) fn alone() -> Self {
        static INSERTED: AtomicUsize = AtomicUsize::new(0);
        Self {
            pool: None,
            is_cancelled: &|| false,
            inserted: &INSERTED,
            pace: &|_| {},
            scratch: &|_| Ok(None),
        }
    }
}

impl BuildRun<'_> {
    /// So many codes that stand for zero.
    pub(crate) fn zero_codes(&self, len: usize) -> Result<BuildCodes> {
        let mut codes = match (self.scratch)(len)? {
            Some(file) => BuildCodes::Scratch(file),
            None => BuildCodes::Owned(vec![0; len]),
        };
        codes.fill(128);
        Ok(codes)
    }

    /// So many links to nobody.
    fn no_links(&self, len: usize) -> Result<Links> {
        let Some(file) = (self.scratch)(4 * len)? else {
            return Ok(Links::Owned((0..len).map(|_| AtomicU32::new(NONE)).collect()));
        };
        let words = file.into_words();
        words.iter().for_each(|word| word.store(NONE, Ordering::Relaxed));
        Ok(Links::Scratch(words))
    }
}

/// Rows between two calls of a run's pace.
const PACED_ROWS: usize = 32;

/// Rows that a list is chosen from at most: so many times its length.
const OFFERED: usize = 4;

/// No row: fills the lists of neighbours up.
pub(crate) const NONE: u32 = u32::MAX;

/// A graph, finished or in the making.
pub(crate) struct Graph {
    options: BuildOptions,
    rows: usize,
    entry: u32,
    /// Neighbours in the bottom layer, `2 * connections` a row, [`NONE`] behind the last.
    base: Links,
    /// Where the lists of a row in the layers above begin, `connections` a layer.
    upper_starts: Vec<u32>,
    upper: Links,
}

/// Layers above the bottom one at most.
pub(crate) const MAX_LAYERS: usize = 16;

/// Locks of lists of neighbours; a row has that of its number modulo this.
const LOCKS: usize = 1 << 14;

/// Highest layer of a number's row, drawn so that each layer has one row in `connections` of the one below.
fn top_layer(number: u64, connections: usize) -> usize {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uniform = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    ((-uniform.ln() / (connections as f64).ln()) as usize).min(MAX_LAYERS)
}

#[derive(Default)]
struct Scratch {
    pool: Pool,
    visited: Visited,
    probe: Probe,
    other: Probe,
    fresh: Vec<u32>,
    sums: Vec<i32>,
    distances: Vec<f32>,
    nearest: Vec<Candidate>,
    chosen: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Graph {
    pub(crate) fn entry(&self) -> u32 {
        self.entry
    }

    pub(crate) fn layers(&self) -> usize {
        if self.rows == 0 { 0 } else { self.top(self.entry) + 1 }
    }

    fn top(&self, row: u32) -> usize {
        let row = row as usize;
        (self.upper_starts[row + 1] - self.upper_starts[row]) as usize
    }

    fn list(&self, row: u32, layer: usize) -> &[AtomicU32] {
        if layer == 0 {
            let width = 2 * self.options.connections;
            &self.base[row as usize * width..][..width]
        } else {
            let width = self.options.connections;
            let at = self.upper_starts[row as usize] as usize + layer - 1;
            &self.upper[at * width..][..width]
        }
    }

    /// Neighbours of a row in a layer that it is in.
    pub(crate) fn neighbours(&self, row: u32, layer: usize) -> impl Iterator<Item = u32> {
        self.list(row, layer).iter().map(|id| id.load(Ordering::Relaxed)).take_while(|id| *id != NONE)
    }

    /// The rows of a layer above the bottom.
    pub(crate) fn rows_of_layer(&self, layer: usize) -> impl Iterator<Item = u32> {
        (0..self.rows as u32).filter(move |row| self.top(*row) >= layer)
    }

    /// Builds a graph over the rows, on the threads of the pool or, without one, in this call, where equal rows give
    /// equal graphs. What is kept of an older graph is not built again. `None` if it was cancelled.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(crate) fn build(
        rows: &BuildRows,
        options: BuildOptions,
        kept: Option<&Kept<'_>>,
        run: &BuildRun<'_>,
    ) -> Result<Option<Graph>> {
        let copies = Copies::find(rows, |row| kept.is_some_and(|kept| kept.stood(row)));
        let mut graph = Graph::empty(rows, options, &copies, run)?;
        let locks: Vec<Mutex<()>> = (0..LOCKS).map(|_| Mutex::new(())).collect();
        let is_kept: Vec<bool> = match kept {
            Some(kept) => {
                let is_kept = graph.keep(rows, kept, &copies, run);
                let stays = (0..rows.len() as u32).filter(|row| is_kept[*row as usize]);
                // Walks begin where there is a graph already, until the row on top is in it, too.
                if let Some(start) = stays.max_by_key(|row| (graph.top(*row), std::cmp::Reverse(*row)))
                    && !is_kept[graph.entry as usize]
                {
                    let entry = std::mem::replace(&mut graph.entry, start);
                    SCRATCH.with_borrow_mut(|scratch| graph.insert(rows, entry, &locks, scratch));
                    graph.entry = entry;
                }
                is_kept
            }
            None => Vec::new(),
        };
        graph.for_each_row(run, |row, scratch| {
            let is_kept = is_kept.get(row as usize).is_some_and(|is_kept| *is_kept);
            if row != graph.entry && !is_kept && !copies.hangs(row) {
                graph.insert(rows, row, &locks, scratch);
                run.inserted.fetch_add(1, Ordering::Relaxed);
            }
        });
        graph.hang(rows, &copies);
        Ok((!(run.is_cancelled)()).then_some(graph))
    }

    /// A graph without edges.
    fn empty(rows: &BuildRows, options: BuildOptions, copies: &Copies, run: &BuildRun<'_>) -> Result<Graph> {
        let count = rows.len();
        let mut upper_starts = Vec::with_capacity(count + 1);
        let (mut entry, mut lists): (Option<(u32, usize)>, u32) = (None, 0);
        for (row, number) in (0..).zip(&rows.numbers) {
            upper_starts.push(lists);
            // What hangs below another row is in no layer but the bottom one, and no walk begins there.
            if copies.hangs(row) {
                continue;
            }
            let top = top_layer(*number, options.connections);
            lists += top as u32;
            if entry.is_none_or(|(_, highest)| top > highest) {
                entry = Some((row, top));
            }
        }
        let entry = entry.map_or(0, |(row, _)| row);
        upper_starts.push(lists);
        let base = run.no_links(count * 2 * options.connections)?;
        let upper = run.no_links(lists as usize * options.connections)?;
        Ok(Graph { options, rows: count, entry, base, upper_starts, upper })
    }

    /// Calls `work` once with each row, on all threads of the run, until it is cancelled.
    fn for_each_row(&self, run: &BuildRun<'_>, work: impl Fn(u32, &mut Scratch) + Sync) {
        let next = AtomicUsize::new(0);
        let take = || {
            SCRATCH.with_borrow_mut(|scratch| {
                let (mut since, mut done) = (Instant::now(), 0);
                while !(run.is_cancelled)() {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    if row >= self.rows {
                        return;
                    }
                    work(row as u32, scratch);
                    done += 1;
                    if done == PACED_ROWS {
                        (run.pace)(since.elapsed());
                        (since, done) = (Instant::now(), 0);
                    }
                }
            });
        };
        match run.pool {
            Some(pool) => pool.scope(|scope| {
                (0..pool.current_num_threads()).for_each(|_| scope.spawn(|_| take()));
            }),
            None => take(),
        }
    }

    fn insert(&self, rows: &BuildRows, row: u32, locks: &[Mutex<()>], scratch: &mut Scratch) {
        rows.probe(row, &mut scratch.probe);
        let top = self.top(row);
        let mut at = self.entry;
        let mut layer = self.top(self.entry);
        while layer > top {
            at = self.descend(rows, at, layer, scratch);
            layer -= 1;
        }
        let mut from = vec![at];
        let mut chosen = Vec::with_capacity(top + 1);
        for layer in (0..=top.min(layer)).rev() {
            self.search(rows, &from, layer, scratch);
            scratch.nearest.clear();
            scratch.nearest.extend(scratch.pool.candidates().iter().filter(|c| c.row() != row));
            from = scratch.nearest.iter().map(|c| c.row()).collect();
            self.select(rows, self.options.connections, scratch);
            chosen.push((layer, scratch.chosen.clone()));
        }
        // From the bottom up: whoever comes upon the row in a layer finds its neighbours in those below.
        for (layer, chosen) in chosen.into_iter().rev() {
            for (slot, id) in self.list(row, layer).iter().zip(&chosen) {
                slot.store(*id, Ordering::Release);
            }
            for &neighbour in &chosen {
                let _locked = locks[neighbour as usize % LOCKS].lock();
                self.link(rows, neighbour, row, layer, scratch);
            }
        }
    }

    /// The nearest row that steps to ever nearer neighbours lead to.
    fn descend(&self, rows: &BuildRows, from: u32, layer: usize, scratch: &mut Scratch) -> u32 {
        let Scratch { probe, fresh, sums, distances, .. } = scratch;
        rows.distances(probe, &[from], sums, distances);
        let mut nearest = Candidate::new(distances[0], from);
        loop {
            fresh.clear();
            fresh.extend(self.neighbours(nearest.row(), layer));
            rows.distances(probe, fresh, sums, distances);
            let best = fresh.iter().zip(&*distances).map(|(id, d)| Candidate::new(*d, *id)).min();
            match best {
                Some(best) if best < nearest => nearest = best,
                _ => return nearest.row(),
            }
        }
    }

    /// Leaves in the pool the rows of the layer that are nearest to the probe.
    fn search(&self, rows: &BuildRows, from: &[u32], layer: usize, scratch: &mut Scratch) {
        self.search_broadly(rows, from, layer, self.options.breadth, scratch);
    }

    fn search_broadly(
        &self,
        rows: &BuildRows,
        from: &[u32],
        layer: usize,
        breadth: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { pool, visited, probe, fresh, sums, distances, .. } = scratch;
        pool.begin(breadth);
        visited.begin(self.rows);
        fresh.clear();
        fresh.extend(from.iter().filter(|id| visited.insert(**id)));
        loop {
            rows.distances(probe, fresh, sums, distances);
            for (id, distance) in fresh.iter().zip(&*distances) {
                pool.offer(Candidate::new(*distance, *id));
            }
            let Some(next) = pool.expand() else { return };
            fresh.clear();
            for id in self.neighbours(next.row(), layer).filter(|id| visited.insert(*id)) {
                rows.prefetch(id);
                fresh.push(id);
            }
            if let Some(next) = pool.next() {
                prefetch(self.list(next.row(), layer));
            }
        }
    }

    /// Chooses from `nearest` at most `most` neighbours of which none hides another: a row is left out when it is
    /// nearer to one already chosen than to the row they are for.
    fn select(&self, rows: &BuildRows, most: usize, scratch: &mut Scratch) {
        let Scratch { other, sums, distances, nearest, chosen, .. } = scratch;
        chosen.clear();
        for candidate in nearest.iter() {
            if chosen.len() == most {
                return;
            }
            rows.probe(candidate.row(), other);
            rows.distances(other, chosen, sums, distances);
            if distances.iter().all(|between| candidate.distance() < self.options.slack * between) {
                chosen.push(candidate.row());
            }
        }
    }

    /// Chooses from `ids` at most `most` neighbours for a row.
    fn choose(&self, rows: &BuildRows, row: u32, ids: &[u32], most: usize, scratch: &mut Scratch) {
        let Scratch { other, sums, distances, nearest, .. } = scratch;
        rows.probe(row, other);
        rows.distances(other, ids, sums, distances);
        nearest.clear();
        nearest.extend(ids.iter().zip(&*distances).map(|(id, d)| Candidate::new(*d, *id)));
        nearest.sort_unstable();
        nearest.truncate(OFFERED * most);
        self.select(rows, most, scratch);
    }

    /// Adds `new` to the neighbours of `row`; where there is no room, chooses anew among them.
    fn link(&self, rows: &BuildRows, row: u32, new: u32, layer: usize, scratch: &mut Scratch) {
        let list = self.list(row, layer);
        let mut ids: Vec<u32> = self.neighbours(row, layer).collect();
        if ids.contains(&new) {
            return;
        }
        if ids.len() < list.len() {
            list[ids.len()].store(new, Ordering::Relaxed);
            return;
        }
        ids.push(new);
        self.choose(rows, row, &ids, list.len(), scratch);
        for (at, slot) in list.iter().enumerate() {
            slot.store(scratch.chosen.get(at).copied().unwrap_or(NONE), Ordering::Relaxed);
        }
    }
}
