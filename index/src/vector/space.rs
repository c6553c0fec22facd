//! One vector space: rows, the graph over them, and searching both.

use std::{
    collections::{BinaryHeap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use allidb_storage::Sequence;
use parking_lot::{Mutex, RwLock};

use crate::{
    model::Metric,
    vector::{
        Measure,
        build::GraphBuilder,
        flat_graph::{Candidate, FlatGraph},
        rows::{BLOCK_ROWS, Row, Rows},
    },
};

/// Rows that are always compared one by one: below this no graph is built.
const MIN_GRAPH_ROWS: usize = 8 * BLOCK_ROWS;
/// Rows inserted into the graph between looks at what else is to do.
const BUILD_STEP_ROWS: usize = 4 * BLOCK_ROWS;

/// The index of one vector space.
pub(crate) struct SpaceIndex {
    measure: Measure,
    dimension: usize,
    state: RwLock<State>,
    builder: Mutex<Option<Box<dyn GraphBuilder>>>,
    /// Set while some thread maintains this space.
    maintained: AtomicBool,
}

struct State {
    /// Changes when rows are moved to other slots.
    generation: u64,
    rows: Rows,
    /// Number to the slot of its living row.
    slots: HashMap<u64, u32>,
    graph: Option<Arc<FlatGraph>>,
}

/// A space as one query sees it, whatever is written meanwhile.
#[derive(Clone)]
pub(crate) struct View {
    generation: u64,
    rows: Rows,
    graph: Option<Arc<FlatGraph>>,
}

/// What a search found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Nearest first, by distance and then number: distance and number.
    pub(crate) nearest: Vec<(f32, u64)>,
    /// Distances computed.
    pub(crate) compared: u64,
}

impl SpaceIndex {
    pub(crate) fn new(metric: Metric, dimension: usize) -> Self {
        let state = State { generation: 0, rows: Rows::new(dimension), slots: HashMap::new(), graph: None };
        Self {
            measure: Measure(metric),
            dimension,
            state: RwLock::new(state),
            builder: Mutex::new(None),
            maintained: AtomicBool::new(false),
        }
    }

    pub(crate) fn measure(&self) -> Measure {
        self.measure
    }

    /// The number's vector is `prepared` from `sequence` on.
    pub(crate) fn upsert(&self, number: u64, prepared: Box<[f32]>, sequence: Sequence) {
        if prepared.len() != self.dimension {
            // Writes are checked at the door, so this is a row from a damaged store.
            tracing::error!(
                number,
                got = prepared.len(),
                want = self.dimension,
                "vector of a wrong dimension left out"
            );
            return;
        }
        let mut state = self.state.write();
        let slot = state.rows.push(Row::new(number, sequence), prepared) as u32;
        if let Some(old) = state.slots.insert(number, slot) {
            state.rows.row(old as usize).kill(sequence);
        }
    }

    /// The number has no vector from `sequence` on.
    pub(crate) fn remove(&self, number: u64, sequence: Sequence) {
        let mut state = self.state.write();
        if let Some(old) = state.slots.remove(&number) {
            state.rows.row(old as usize).kill(sequence);
        }
    }

    /// How many vectors there are, those in the graph, and slots of dead ones.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let state = self.state.read();
        let covered = state.graph.as_ref().map_or(0, |graph| graph.covered());
        (state.slots.len(), covered, state.rows.len() - state.slots.len())
    }

    pub(crate) fn generation(&self) -> u64 {
        self.state.read().generation
    }

    pub(crate) fn view(&self) -> View {
        let state = self.state.read();
        View { generation: state.generation, rows: state.rows.clone(), graph: state.graph.clone() }
    }

    /// Begins maintenance, unless there is nothing to do or another thread is at it.
    pub(crate) fn begin_maintenance(&self) -> bool {
        self.is_maintenance_due() && !self.maintained.swap(true, Ordering::AcqRel)
    }

    fn is_maintenance_due(&self) -> bool {
        let state = self.state.read();
        let covered = state.graph.as_ref().map_or(0, |graph| graph.covered());
        let in_blocks = state.rows.in_blocks();
        let uncovered = in_blocks >= MIN_GRAPH_ROWS && in_blocks > covered;
        uncovered || is_wasteful(&state)
    }

    /// Brings the graph up to the full blocks, and rebuilds where too many rows are dead. `new_builder`
    /// makes a builder for about so many rows; `visible` tells the sequence that new queries are pinned at.
    pub(crate) fn maintain(
        &self,
        new_builder: &dyn Fn(Measure, usize) -> Box<dyn GraphBuilder>,
        visible: &dyn Fn() -> Sequence,
        is_cancelled: &dyn Fn() -> bool,
    ) {
        loop {
            while !is_cancelled() {
                let wasteful = is_wasteful(&self.state.read());
                if wasteful {
                    self.compact(new_builder, visible, is_cancelled);
                } else if !self.extend(new_builder, is_cancelled) {
                    break;
                }
            }
            self.maintained.store(false, Ordering::Release);
            // A write that made something due just before that store left it to this thread.
            if is_cancelled() || !self.begin_maintenance() {
                return;
            }
        }
    }

    /// Takes the builder away, unless it is at work: freeing a large graph takes seconds.
    pub(crate) fn take_builder(&self) -> Option<Box<dyn GraphBuilder>> {
        self.builder.try_lock()?.take()
    }

    /// Forgets a half-built graph after a panic. What was published before stays in use.
    pub(crate) fn abandon_build(&self) {
        *self.builder.lock() = None;
        self.maintained.store(false, Ordering::Release);
    }

    /// Inserts what full blocks the graph does not cover; false if there is nothing to insert.
    fn extend(
        &self,
        new_builder: &dyn Fn(Measure, usize) -> Box<dyn GraphBuilder>,
        is_cancelled: &dyn Fn() -> bool,
    ) -> bool {
        let mut builder = self.builder.lock();
        let View { rows, graph, .. } = self.view();
        let published = graph.map_or(0, |graph| graph.covered());
        if rows.in_blocks() < MIN_GRAPH_ROWS || rows.in_blocks() == published {
            return false;
        }
        let builder = builder.get_or_insert_with(|| new_builder(self.measure, rows.in_blocks()));
        // Laying the graph out costs time for every row in it, so it is done after a good part was added.
        let target = rows.in_blocks().min(published + (published / 4).max(MIN_GRAPH_ROWS));
        while builder.covered() < target && !is_cancelled() {
            builder.extend(&rows, target.min(builder.covered() + BUILD_STEP_ROWS));
        }
        if builder.covered() > published {
            let graph = Arc::new(builder.flat());
            self.state.write().graph = Some(graph);
        }
        true
    }

    /// Moves the living rows to new blocks and builds a graph over them, then takes the old ones' place.
    fn compact(
        &self,
        new_builder: &dyn Fn(Measure, usize) -> Box<dyn GraphBuilder>,
        visible: &dyn Fn() -> Sequence,
        is_cancelled: &dyn Fn() -> bool,
    ) {
        let mut builder = self.builder.lock();
        let old = self.state.read().rows.clone();
        let since = visible();
        let mut rows = Rows::new(self.dimension);
        // Old slot of each new one.
        let mut moved: Vec<u32> = Vec::new();
        let copy = |rows: &mut Rows, moved: &mut Vec<u32>, from: &Rows, slot: usize| {
            rows.push(from.row(slot).copy(), from.vector(slot).into());
            moved.push(slot as u32);
        };
        for slot in (0..old.len()).filter(|slot| !old.row(*slot).is_gone(since)) {
            copy(&mut rows, &mut moved, &old, slot);
        }
        let mut next =
            (rows.in_blocks() >= MIN_GRAPH_ROWS).then(|| new_builder(self.measure, rows.in_blocks()));
        if let Some(next) = &mut next {
            while next.covered() < rows.in_blocks() {
                if is_cancelled() {
                    return;
                }
                next.extend(&rows, next.covered() + BUILD_STEP_ROWS);
            }
        }
        let graph = next.as_ref().map(|next| Arc::new(next.flat()));
        let mut state = self.state.write();
        // What was written meanwhile: deaths of rows already moved, and new rows.
        for (slot, old_slot) in moved.iter().enumerate() {
            rows.row(slot).follow(state.rows.row(*old_slot as usize));
        }
        for slot in old.len()..state.rows.len() {
            copy(&mut rows, &mut moved, &state.rows, slot);
        }
        let new_slot: HashMap<u32, u32> =
            moved.iter().enumerate().map(|(new, old)| (*old, new as u32)).collect();
        let slots =
            state.slots.iter().filter_map(|(number, old)| Some((*number, *new_slot.get(old)?))).collect();
        *state = State { generation: state.generation + 1, rows, slots, graph };
        *builder = next;
    }
}

/// Whether more than a fifth of a large space is dead rows.
fn is_wasteful(state: &State) -> bool {
    let dead = state.rows.len() - state.slots.len();
    dead > 4 * BLOCK_ROWS && dead * 5 > state.rows.len()
}

impl View {
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The `k` nearest rows visible at `sequence`, by a walk of breadth `ef` and a scan of fresh rows, or,
    /// if `exact`, by a scan of all.
    pub(crate) fn search(
        &self,
        measure: Measure,
        prepared: &[f32],
        k: usize,
        ef: usize,
        exact: bool,
        sequence: Sequence,
    ) -> Found {
        if k == 0 {
            return Found::default();
        }
        let is_visible = |slot: usize| self.rows.row(slot).is_visible(sequence);
        let mut compared = 0;
        let mut best: BinaryHeap<Candidate> = BinaryHeap::new();
        let mut scanned_from = 0;
        if let (Some(graph), false) = (&self.graph, exact) {
            let walked =
                graph.walk(&self.rows, measure, prepared, ef.max(k), |slot| is_visible(slot as usize));
            compared += walked.compared;
            best.extend(
                walked.nearest.iter().take(k).map(|(distance, slot)| Candidate::new(*distance, *slot)),
            );
            scanned_from = graph.covered();
        }
        for slot in (scanned_from..self.rows.len()).filter(|slot| is_visible(*slot)) {
            compared += 1;
            let candidate = Candidate::new(measure.distance(prepared, self.rows.vector(slot)), slot as u32);
            if best.len() < k {
                best.push(candidate);
            } else if best.peek().is_some_and(|worst| candidate < *worst) {
                best.pop();
                best.push(candidate);
            }
        }
        let number = |candidate: &Candidate| self.rows.row(candidate.slot() as usize).number;
        let mut nearest: Vec<(f32, u64)> = best.iter().map(|c| (c.distance(), number(c))).collect();
        nearest.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Found { nearest, compared }
    }
}
