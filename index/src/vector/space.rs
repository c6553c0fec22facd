//! One vector space: which segments it has, and what becomes of them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use allidb_storage::Sequence;
use parking_lot::{Mutex, RwLock};

use crate::{
    deaths::Deaths,
    duty::{Duty, Work},
    error::Result,
    model::{Codes, CollectionId, Metric, SpaceId},
    vector::{
        Measure,
        calibration::{Curve, Reservoir},
        growing::{FreshRow, Growing},
        merge,
        rotation::Rotation,
        segment::Segment,
        view::View,
    },
    writing::Writing,
};

/// Rows of a growing segment at most.
const GROWING_ROWS: usize = 16_000;
/// Bytes of f32 in a growing segment at most.
const GROWING_BYTES: usize = 32 << 20;
/// Full segments that wait in memory to be sealed, before writes wait for them.
const MAX_FROZEN: usize = 8;
/// A growing segment with so many rows is sealed when nobody has written for [`IDLE_TICKS`].
const IDLE_ROWS: usize = 1_000;
const IDLE_TICKS: u32 = 5;
/// Any growing segment is sealed, and its memory given back, when nobody has written for so long.
const UNUSED_TICKS: u32 = 600;
/// A curve is measured anew when the rows have become more or fewer by one in so many.
const CURVE_SHARE: usize = 4;
/// Every segment is rotated alike, so that a query is rotated once.
pub(crate) const ROTATION_SEED: u64 = 0x616c_6c69;

/// What vectors of a space are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) metric: Metric,
    pub(crate) dimension: usize,
    /// How segments hold them.
    pub(crate) codes: Codes,
}

/// The index of one vector space.
#[derive(Debug)]
pub(crate) struct SpaceIndex {
    pub(crate) id: (CollectionId, SpaceId),
    pub(crate) shape: Shape,
    rotation: Arc<Rotation>,
    /// Bytes of fresh vectors of the node.
    fresh_bytes: Arc<AtomicUsize>,
    state: RwLock<State>,
    pub(crate) duty: Duty,
    /// Held while the inventory is taken and stored, so that an older one never replaces a newer one.
    pub(crate) remembering: Mutex<()>,
    idle: Mutex<Idle>,
    pub(crate) progress: Progress,
    pub(crate) asked: Reservoir,
    curve: RwLock<Option<Arc<Curve>>>,
    /// Segments with numbers below are made anew; zero: none.
    rebuilt_before: AtomicU64,
    /// Set when the space was dropped: its files go.
    dropped: AtomicBool,
}

#[derive(Debug)]
struct State {
    growing: Arc<Growing>,
    /// Full, waiting to be sealed; oldest first.
    frozen: Vec<Arc<Growing>>,
    sealed: Vec<Arc<Sealed>>,
    /// Queries pinned before this sequence need a view that was taken before.
    changed_at: Sequence,
    /// Rows are missing and being read again. Numbers that were written meanwhile, and when.
    missing: Option<HashMap<u64, Sequence>>,
    /// What was read again is safe when this generation is sealed.
    complete_from: Option<u64>,
    /// Segments that were taken out since the start.
    taken_out: u64,
    /// While the journal is replayed, the oldest generation of it: rows are still in the journal under that or a later one.
    replayed_from: Option<u64>,
}

/// How far the graph is that is being built.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Rows that were inserted.
    pub(crate) inserted: AtomicUsize,
    /// Rows that are to be inserted, zero while nothing is built.
    pub(crate) to_insert: AtomicUsize,
}

/// What the growing segment was like at the last tick.
#[derive(Debug, Default)]
struct Idle {
    generation: u64,
    fill: usize,
    ticks: u32,
}

/// A sealed segment and what has died in it.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: Segment,
    pub(crate) deaths: Deaths,
}

impl Sealed {
    /// Rows that are alive.
    pub(crate) fn living(&self) -> usize {
        self.segment.rows() - self.deaths.count()
    }
}

/// Counts of one space.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpaceCounts {
    pub(crate) vectors: usize,
    pub(crate) in_graphs: usize,
    pub(crate) segments: usize,
    pub(crate) dead: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) mapped_bytes: usize,
}

/// What is turned into one new segment.
#[derive(Clone, Debug)]
pub(crate) enum Inputs {
    /// A full growing segment that nobody writes to any more.
    Frozen(Arc<Growing>),
    /// Sealed segments.
    Sealed(Vec<Arc<Sealed>>),
}

impl SpaceIndex {
    /// A space with nothing in it yet. Journaled changes belong to `generation` and those that follow.
    pub(crate) fn new(
        id: (CollectionId, SpaceId),
        shape: Shape,
        generation: u64,
        is_complete: bool,
        fresh_bytes: &Arc<AtomicUsize>,
    ) -> Self {
        let rotation = Arc::new(Rotation::new(shape.dimension, ROTATION_SEED));
        let growing = new_growing(shape, &rotation, generation, None, fresh_bytes);
        let state = State {
            growing,
            frozen: Vec::new(),
            sealed: Vec::new(),
            changed_at: 0,
            missing: (!is_complete).then(HashMap::new),
            complete_from: None,
            taken_out: 0,
            replayed_from: None,
        };
        Self {
            id,
            shape,
            rotation,
            fresh_bytes: Arc::clone(fresh_bytes),
            state: RwLock::new(state),
            duty: Duty::default(),
            remembering: Mutex::new(()),
            idle: Mutex::default(),
            progress: Progress::default(),
            asked: Reservoir::default(),
            curve: RwLock::default(),
            rebuilt_before: AtomicU64::new(0),
            dropped: AtomicBool::new(false),
        }
    }

    pub(crate) fn measure(&self) -> Measure {
        Measure(self.shape.metric)
    }

    /// Adds a segment that was sealed before the node was started.
    pub(crate) fn add_sealed(&self, segment: Segment, deaths: Deaths) {
        self.state.write().sealed.push(Arc::new(Sealed { segment, deaths }));
    }

    /// Opens the growing segment for a change. What is journaled under its generation must be so before it is dropped.
    pub(crate) fn begin_write(&self) -> Writing<Growing> {
        let state = self.state.read();
        if !state.growing.is_full() {
            return Writing::new(&state.growing);
        }
        drop(state);
        let mut state = self.state.write();
        if state.growing.is_full() {
            self.rotate(&mut state);
        }
        Writing::new(&state.growing)
    }

    fn rotate(&self, state: &mut State) {
        let next = self.new_growing(state.growing.generation + 1, state.replayed_from);
        let full = std::mem::replace(&mut state.growing, next);
        state.frozen.push(full);
    }

    fn new_growing(&self, generation: u64, journaled_from: Option<u64>) -> Arc<Growing> {
        new_growing(self.shape, &self.rotation, generation, journaled_from, &self.fresh_bytes)
    }

    /// From now on rows come from the journal, where the oldest are under this generation.
    pub(crate) fn begin_replay(&self, oldest: u64) {
        let mut state = self.state.write();
        state.replayed_from = Some(oldest);
        state.growing = self.new_growing(state.growing.generation, Some(oldest));
    }

    /// What comes now is journaled as it comes.
    pub(crate) fn end_replay(&self) {
        self.state.write().replayed_from = None;
    }

    /// The number's vector is `fresh` from `sequence` on.
    pub(crate) fn upsert(
        &self,
        writing: &Writing<Growing>,
        number: u64,
        fresh: &FreshRow,
        sequence: Sequence,
    ) {
        self.change(number, sequence);
        writing.growing().push(number, fresh, sequence);
    }

    /// The number has no vector from `sequence` on.
    pub(crate) fn remove(&self, writing: &Writing<Growing>, number: u64, sequence: Sequence) {
        self.change(number, sequence);
        writing.growing().note_removal(number);
    }

    /// Whatever row the number has is gone from `sequence` on.
    fn change(&self, number: u64, sequence: Sequence) {
        {
            let state = self.state.read();
            if state.missing.is_none() {
                return kill(&state, number, sequence);
            }
        }
        let mut state = self.state.write();
        if let Some(written) = &mut state.missing {
            // First, so that the number's older vector is either not restored any more or found here.
            written.insert(number, sequence);
        }
        kill(&state, number, sequence);
    }

    /// Adds a vector that was missing, unless it is there or was written since it was read.
    pub(crate) fn restore(&self, number: u64, fresh: &FreshRow, read_at: Sequence) {
        let mut state = self.state.write();
        // What was written later is not what was read. What was written before is, and may have been in a segment that is lost.
        let is_newer = |at: &Sequence| *at > read_at;
        if state.missing.as_ref().is_none_or(|written| written.get(&number).is_some_and(is_newer)) {
            return;
        }
        let is_known =
            std::iter::once(&state.growing).chain(&state.frozen).any(|growing| growing.knows(number));
        let is_sealed = |sealed: &Arc<Sealed>| match sealed.segment.row_of(number) {
            Ok(Some(row)) => sealed.deaths.is_visible(row, read_at),
            Ok(None) | Err(_) => false,
        };
        if is_known || state.sealed.iter().any(is_sealed) {
            return;
        }
        if state.growing.is_full() {
            self.rotate(&mut state);
        }
        state.growing.push(number, fresh, read_at);
    }

    /// Segments that were taken out so far. Whoever reads rows again asks before taking a snapshot.
    pub(crate) fn taken_out(&self) -> u64 {
        self.state.read().taken_out
    }

    /// All rows that were missing when so many segments had been taken out are there. They count as safe when they are sealed.
    /// If another segment was taken out since, its rows may have been passed over, and rows are missing still.
    /// `read_at` is when they were read: what they were before, nobody knows.
    pub(crate) fn end_restore(&self, taken_out: u64, read_at: Sequence) {
        let mut state = self.state.write();
        if state.taken_out != taken_out {
            return;
        }
        state.missing = None;
        state.changed_at = state.changed_at.max(read_at);
        state.complete_from = Some(state.growing.generation);
        self.rotate(&mut state);
    }

    /// Whether rows are missing, so that only the stored rows themselves give right answers.
    pub(crate) fn is_missing_rows(&self) -> bool {
        self.state.read().missing.is_some()
    }

    /// Whether as much waits to be sealed as may.
    pub(crate) fn has_backlog(&self) -> bool {
        self.state.read().frozen.len() >= MAX_FROZEN
    }

    /// Takes a damaged segment out of use; its rows are missing until they were read again. False if it was out already.
    pub(crate) fn take_out(&self, path: &std::path::Path) -> bool {
        let mut state = self.state.write();
        let before = state.sealed.len();
        state.sealed.retain(|sealed| sealed.segment.path() != path);
        let is_out = state.sealed.len() < before;
        if is_out {
            state.taken_out += 1;
            state.missing.get_or_insert_with(HashMap::new);
        }
        is_out
    }

    pub(crate) fn counts(&self) -> SpaceCounts {
        let state = self.state.read();
        let mut counts = SpaceCounts::default();
        for growing in state.frozen.iter().chain([&state.growing]) {
            counts.vectors += growing.len() - growing.dead();
            counts.dead += growing.dead();
            counts.memory_bytes += growing.bytes();
        }
        for sealed in &state.sealed {
            counts.vectors += sealed.living();
            counts.segments += 1;
            counts.in_graphs += if sealed.segment.is_flat() { 0 } else { sealed.living() };
            counts.dead += sealed.deaths.count();
            match sealed.segment.bytes() {
                (bytes, true) => counts.mapped_bytes += bytes,
                (bytes, false) => counts.memory_bytes += bytes,
            }
        }
        counts
    }

    /// Bytes that fresh rows take.
    pub(crate) fn fresh_bytes(&self) -> usize {
        let state = self.state.read();
        state.frozen.iter().chain([&state.growing]).map(|growing| growing.bytes()).sum()
    }

    /// Rows that wait to be sealed.
    pub(crate) fn rows_to_seal(&self) -> usize {
        self.state.read().frozen.iter().map(|frozen| frozen.len()).sum()
    }

    pub(crate) fn view(&self) -> View {
        let state = self.state.read();
        View {
            growing: state.frozen.iter().chain([&state.growing]).cloned().collect(),
            sealed: state.sealed.clone(),
            changed_at: state.changed_at,
            is_complete: state.missing.is_none(),
        }
    }

    /// Closes the growing segment if there is anything in it, and room for it to wait.
    pub(crate) fn close_growing(&self) {
        let mut state = self.state.write();
        if state.growing.fill() > 0 && state.frozen.len() < MAX_FROZEN {
            self.rotate(&mut state);
        }
    }

    /// How recall rises with the breadth of walks, if that was measured.
    pub(crate) fn curve(&self) -> Option<Arc<Curve>> {
        self.curve.read().clone().filter(|curve| !curve.is_empty())
    }

    pub(crate) fn set_curve(&self, curve: Curve) {
        *self.curve.write() = Some(Arc::new(curve));
    }

    /// Whether the curve should be measured: there is a graph, and the curve is of other rows or could be of better queries.
    pub(crate) fn is_curve_due(&self) -> bool {
        let rows = self.rows_in_graphs();
        let is_stale = |curve: &Arc<Curve>| {
            curve.rows.abs_diff(rows) * CURVE_SHARE > rows
                || (!curve.is_of_queries && self.asked.has_enough())
                || curve.is_of_queries && self.asked.has_moved_on(curve.seen)
        };
        rows > 0 && self.curve.read().as_ref().is_none_or(is_stale)
    }

    /// Living rows of segments with a graph.
    pub(crate) fn rows_in_graphs(&self) -> usize {
        let state = self.state.read();
        state.sealed.iter().filter(|sealed| !sealed.segment.is_flat()).map(|sealed| sealed.living()).sum()
    }

    /// Whether work is under way or due.
    pub(crate) fn is_busy(&self) -> bool {
        let is_busy = |work: Work| self.duty.is_busy(work) || self.due(work).is_some();
        self.is_missing_rows() || self.is_curve_due() || Work::ALL.into_iter().any(is_busy)
    }

    /// A second has passed. A growing segment that nobody writes to is closed, so that it can be sealed.
    pub(crate) fn tick(&self) {
        self.duty.tick();
        let mut idle = self.idle.lock();
        let is_stale = {
            let growing = &self.state.read().growing;
            let (generation, fill) = (growing.generation, growing.fill());
            let is_still = idle.generation == generation && idle.fill == fill;
            let ticks = if is_still { idle.ticks.saturating_add(1) } else { 0 };
            *idle = Idle { generation, fill, ticks };
            fill >= IDLE_ROWS && ticks >= IDLE_TICKS || fill > 0 && ticks >= UNUSED_TICKS
        };
        if is_stale {
            let mut state = self.state.write();
            if state.growing.generation == idle.generation && state.frozen.len() < MAX_FROZEN {
                self.rotate(&mut state);
            }
        }
    }

    /// Has the segments with numbers below be made anew.
    pub(crate) fn rebuild_before(&self, segment: u64) {
        self.rebuilt_before.store(segment, Ordering::Release);
    }

    /// Has those that are not made anew yet stay as they are.
    pub(crate) fn end_rebuild(&self) {
        self.rebuilt_before.store(0, Ordering::Release);
    }

    /// Whether there are segments still that are to be made anew.
    pub(crate) fn is_rebuilding(&self) -> bool {
        !self.old(&self.state.read()).is_empty()
    }

    /// Living rows of segments that are to be made anew.
    pub(crate) fn rows_to_rebuild(&self) -> usize {
        self.old(&self.state.read()).iter().map(|sealed| sealed.living()).sum()
    }

    fn old(&self, state: &State) -> Vec<Arc<Sealed>> {
        let before = self.rebuilt_before.load(Ordering::Acquire);
        state.sealed.iter().filter(|sealed| sealed.segment.id() < before).cloned().collect()
    }

    pub(crate) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    /// What a kind of work should be done on now, if anything.
    pub(crate) fn due(&self, work: Work) -> Option<Inputs> {
        let state = self.state.read();
        match work {
            Work::Seal => {
                let first = state.frozen.first().filter(|frozen| frozen.is_settled());
                first.map(|frozen| Inputs::Frozen(Arc::clone(frozen)))
            }
            Work::Merge => {
                let old = self.old(&state);
                let chosen = if old.is_empty() { merge::choose(&state.sealed) } else { old };
                (!chosen.is_empty()).then_some(Inputs::Sealed(chosen))
            }
        }
    }

    /// Puts a new segment, of the rows of `inputs` that were alive at `at`, in their place. `now` is the newest visible sequence.
    ///
    /// False if one of the inputs was taken out meanwhile: nobody noted any more what died in it.
    ///
    /// # Errors
    /// If the new segment cannot be read.
    pub(crate) fn install(
        &self,
        inputs: &Inputs,
        new: Option<Segment>,
        at: Sequence,
        now: &dyn Fn() -> Sequence,
    ) -> Result<bool> {
        let new = new.map(|segment| {
            let deaths = Deaths::new(segment.rows(), &roaring::RoaringBitmap::new());
            Arc::new(Sealed { segment, deaths })
        });
        let mut state = self.state.write();
        if let Inputs::Sealed(inputs) = inputs
            && !inputs.iter().all(|input| state.sealed.iter().any(|sealed| Arc::ptr_eq(input, sealed)))
        {
            return Ok(false);
        }
        if let Some(new) = &new {
            // What died while the segment was built.
            let mut died = Vec::new();
            match inputs {
                Inputs::Frozen(frozen) => frozen.for_each(|number, dead| {
                    died.extend(dead.filter(|dead| *dead > at).map(|dead| (number, dead)))
                }),
                Inputs::Sealed(inputs) => {
                    for sealed in inputs {
                        for (row, sequence) in sealed.deaths.since(at) {
                            died.push((sealed.segment.number(row)?, sequence));
                        }
                    }
                }
            }
            for (number, sequence) in died {
                if let Some(row) = new.segment.row_of(number)? {
                    new.deaths.kill(row, sequence);
                }
            }
        }
        match inputs {
            Inputs::Frozen(input) => state.frozen.retain(|frozen| !Arc::ptr_eq(input, frozen)),
            Inputs::Sealed(inputs) => {
                state.sealed.retain(|sealed| !inputs.iter().any(|input| Arc::ptr_eq(input, sealed)));
            }
        }
        state.sealed.extend(new);
        state.changed_at = state.changed_at.max(now());
        Ok(true)
    }

    /// What has to be remembered of the space: the segments, the generation up to which nothing of the journal is needed any
    /// more, and whether the segments hold all else.
    pub(crate) fn inventory(&self) -> (Vec<Arc<Sealed>>, u64, bool) {
        let state = self.state.read();
        let oldest = state.frozen.first().unwrap_or(&state.growing).journaled_from;
        let is_complete = state.missing.is_none() && state.complete_from.is_none_or(|from| from < oldest);
        (state.sealed.clone(), oldest, is_complete)
    }
}

fn new_growing(
    shape: Shape,
    rotation: &Arc<Rotation>,
    generation: u64,
    journaled_from: Option<u64>,
    all_bytes: &Arc<AtomicUsize>,
) -> Arc<Growing> {
    let rows = GROWING_ROWS.min(GROWING_BYTES / (4 * shape.dimension)).max(1);
    Arc::new(Growing::new(
        Measure(shape.metric),
        shape.dimension,
        Arc::clone(rotation),
        generation,
        journaled_from.unwrap_or(generation),
        rows,
        Arc::clone(all_bytes),
    ))
}

fn kill(state: &State, number: u64, sequence: Sequence) {
    let mut growing = std::iter::once(&state.growing).chain(state.frozen.iter().rev());
    if growing.any(|growing| growing.kill(number, sequence)) {
        return;
    }
    for sealed in &state.sealed {
        match sealed.segment.row_of(number) {
            Ok(Some(row)) if sealed.deaths.kill(row, sequence) => return,
            Ok(_) => {}
            // Searches come upon the same damage and have the segment replaced.
            Err(error) => tracing::error!(number, %error, "cannot look up a row of a segment"),
        }
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
