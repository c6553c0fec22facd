//! One vector space: its segments, and searching all of them at once.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use allidb_storage::Sequence;
use parking_lot::{Mutex, RwLock};
use roaring::RoaringTreemap;

use crate::{
    error::{Error, Result},
    model::{CollectionId, Metric, SpaceId},
    vector::{
        Measure,
        calibration::{Curve, Reservoir},
        deaths::Deaths,
        growing::{FreshRow, Growing, Writing},
        merge,
        owner::Owner,
        rotation::Rotation,
        segment::{Probe, Searcher, Segment},
    },
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
/// Most ticks that pass between two tries of work that fails.
const MAX_REST: u32 = 64;
/// Every segment is rotated alike, so that a query is rotated once.
pub(crate) const ROTATION_SEED: u64 = 0x616c_6c69;

/// The index of one vector space.
#[derive(Debug)]
pub(crate) struct SpaceIndex {
    pub(crate) id: (CollectionId, SpaceId),
    measure: Measure,
    pub(crate) dimension: usize,
    rotation: Arc<Rotation>,
    state: RwLock<State>,
    /// Set while some thread does that kind of work for this space.
    busy: [AtomicBool; Work::ALL.len()],
    idle: Mutex<Idle>,
    failures: AtomicU32,
    /// Ticks that are still to pass before failed work is tried again.
    rest: AtomicU32,
    pub(crate) progress: Progress,
    pub(crate) asked: Reservoir,
    curve: RwLock<Option<Arc<Curve>>>,
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
    /// Rows are missing and being read again. Numbers that were written meanwhile.
    missing: Option<HashSet<u64>>,
    /// What was read again is safe when this generation is sealed.
    complete_from: Option<u64>,
}

/// What is done for a space in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Writing full growing segments to files.
    Seal,
    /// Making one segment with a graph of several; reading missing rows again.
    Merge,
}

impl Work {
    pub(crate) const ALL: [Work; 2] = [Work::Seal, Work::Merge];
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

/// A space as one query sees it, whatever is written meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct View {
    growing: Vec<Arc<Growing>>,
    sealed: Vec<Arc<Sealed>>,
    changed_at: Sequence,
    is_complete: bool,
}

/// A vector that a search found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbour {
    /// To the query, in the index's terms.
    pub(crate) distance: f32,
    pub(crate) number: u64,
    /// Where it is: the segment (growing ones come first), and the row.
    segment: usize,
    row: u32,
}

/// What a search found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Nearest first, by distance and then number. Where `exact` was asked, distances within rounding of the
    /// last one may follow it.
    pub(crate) nearest: Vec<Neighbour>,
    /// Distances computed.
    pub(crate) compared: u64,
}

/// What one search asks for.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    pub(crate) k: usize,
    /// Breadth of the walks.
    pub(crate) breadth: usize,
    /// Compare every row.
    pub(crate) exact: bool,
    /// As of when.
    pub(crate) sequence: Sequence,
    /// Numbers that may be found; all, if there is none.
    pub(crate) accept: Option<&'a RoaringTreemap>,
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

thread_local! {
    static SEARCHER: RefCell<Searcher> = RefCell::default();
}

impl SpaceIndex {
    /// A space with nothing in it yet. Journaled changes belong to `generation` and those that follow.
    pub(crate) fn new(
        id: (CollectionId, SpaceId),
        metric: Metric,
        dimension: usize,
        generation: u64,
        is_complete: bool,
    ) -> Self {
        let rotation = Arc::new(Rotation::new(dimension, ROTATION_SEED));
        let measure = Measure(metric);
        let growing = new_growing(measure, dimension, &rotation, generation);
        let state = State {
            growing,
            frozen: Vec::new(),
            sealed: Vec::new(),
            changed_at: 0,
            missing: (!is_complete).then(HashSet::new),
            complete_from: None,
        };
        Self {
            id,
            measure,
            dimension,
            rotation,
            state: RwLock::new(state),
            busy: Default::default(),
            idle: Mutex::default(),
            failures: AtomicU32::new(0),
            rest: AtomicU32::new(0),
            progress: Progress::default(),
            asked: Reservoir::default(),
            curve: RwLock::default(),
            dropped: AtomicBool::new(false),
        }
    }

    pub(crate) fn measure(&self) -> Measure {
        self.measure
    }

    /// Adds a segment that was sealed before the node was started.
    pub(crate) fn add_sealed(&self, segment: Segment, deaths: Deaths) {
        self.state.write().sealed.push(Arc::new(Sealed { segment, deaths }));
    }

    /// Opens the growing segment for a change. What is journaled under its generation must be so before it is dropped.
    pub(crate) fn begin_write(&self) -> Writing {
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
        let next = new_growing(self.measure, self.dimension, &self.rotation, state.growing.generation + 1);
        let full = std::mem::replace(&mut state.growing, next);
        state.frozen.push(full);
    }

    /// The number's vector is `fresh` from `sequence` on.
    pub(crate) fn upsert(&self, writing: &Writing, number: u64, fresh: &FreshRow, sequence: Sequence) {
        self.change(number, sequence);
        writing.growing().push(number, fresh, sequence);
    }

    /// The number has no vector from `sequence` on.
    pub(crate) fn remove(&self, writing: &Writing, number: u64, sequence: Sequence) {
        self.change(number, sequence);
        writing.growing().note_removal(number);
    }

    /// Whatever row the number has is gone from `sequence` on.
    fn change(&self, number: u64, sequence: Sequence) {
        if self.is_missing_rows()
            && let Some(written) = &mut self.state.write().missing
        {
            // First, so that the number's older vector is either not restored any more or found here.
            written.insert(number);
        }
        kill(&self.state.read(), number, sequence);
    }

    /// Adds a vector that was missing, unless it is there or was written since it was read.
    pub(crate) fn restore(&self, number: u64, fresh: &FreshRow, read_at: Sequence) {
        let mut state = self.state.write();
        if state.missing.as_ref().is_none_or(|written| written.contains(&number)) {
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

    /// All rows that were missing are there. They count as safe when they are sealed.
    pub(crate) fn end_restore(&self) {
        let mut state = self.state.write();
        state.missing = None;
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
            state.missing.get_or_insert_with(HashSet::new);
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
        };
        rows > 0 && self.curve.read().as_ref().is_none_or(is_stale)
    }

    /// Living rows of segments with a graph.
    pub(crate) fn rows_in_graphs(&self) -> usize {
        let state = self.state.read();
        state.sealed.iter().filter(|sealed| !sealed.segment.is_flat()).map(|sealed| sealed.living()).sum()
    }

    /// Begins a kind of work, unless another thread is at it.
    pub(crate) fn begin(&self, work: Work) -> bool {
        !self.busy[work as usize].swap(true, Ordering::AcqRel)
    }

    /// Ends it. After a failure some time passes before anything is tried again.
    pub(crate) fn end(&self, work: Work, has_failed: bool) {
        if has_failed {
            let failures = self.failures.fetch_add(1, Ordering::Relaxed);
            self.rest.store((1 << failures.min(31)).min(MAX_REST), Ordering::Relaxed);
        } else {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.busy[work as usize].store(false, Ordering::Release);
    }

    /// Whether work is under way or due.
    pub(crate) fn is_busy(&self) -> bool {
        let is_busy =
            |work: Work| self.busy[work as usize].load(Ordering::Acquire) || self.due(work).is_some();
        self.is_missing_rows() || self.is_curve_due() || Work::ALL.into_iter().any(is_busy)
    }

    /// Whether work failed not long ago.
    pub(crate) fn rests(&self) -> bool {
        self.rest.load(Ordering::Relaxed) > 0
    }

    /// A second has passed. A growing segment that nobody writes to is closed, so that it can be sealed.
    pub(crate) fn tick(&self) {
        let rest = self.rest.load(Ordering::Relaxed);
        self.rest.store(rest.saturating_sub(1), Ordering::Relaxed);
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
                let chosen = merge::choose(&state.sealed);
                (!chosen.is_empty()).then_some(Inputs::Sealed(chosen))
            }
        }
    }

    /// Puts a new segment, of the rows of `inputs` that were alive at `at`, in their place. `now` is the newest visible sequence.
    ///
    /// # Errors
    /// If the new segment cannot be read.
    pub(crate) fn install(
        &self,
        inputs: &Inputs,
        new: Option<Segment>,
        at: Sequence,
        now: &dyn Fn() -> Sequence,
    ) -> Result<()> {
        let new = new.map(|segment| {
            let deaths = Deaths::new(segment.rows(), &roaring::RoaringBitmap::new());
            Arc::new(Sealed { segment, deaths })
        });
        let mut state = self.state.write();
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
        Ok(())
    }

    /// What has to be remembered of the space: the segments, the generation up to which nothing of the journal is needed any
    /// more, and whether the segments hold all else.
    pub(crate) fn inventory(&self) -> (Vec<Arc<Sealed>>, u64, bool) {
        let state = self.state.read();
        let oldest = state.frozen.first().unwrap_or(&state.growing).generation;
        let is_complete = state.missing.is_none() && state.complete_from.is_none_or(|from| from < oldest);
        (state.sealed.clone(), oldest, is_complete)
    }
}

fn new_growing(
    measure: Measure,
    dimension: usize,
    rotation: &Arc<Rotation>,
    generation: u64,
) -> Arc<Growing> {
    let rows = GROWING_ROWS.min(GROWING_BYTES / (4 * dimension)).max(1);
    Arc::new(Growing::new(measure, dimension, Arc::clone(rotation), generation, rows))
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

/// Comparing so many accepted rows costs as much as a walk for one of its breadth that finds every row of so many acceptable.
const SCAN_FACTOR: u64 = 20;

/// Whether comparing all accepted rows costs less than a walk that looks for them. A walk meets an accepted row after
/// rows / accepted others, and as many of them as it is broad.
fn is_scan_cheaper(accept: &RoaringTreemap, breadth: usize, segment: &Segment) -> bool {
    let accepted = accept.len();
    accepted * accepted <= SCAN_FACTOR * breadth as u64 * segment.rows() as u64
}

impl View {
    /// Whether a query pinned at `sequence` may use it.
    pub(crate) fn fits(&self, sequence: Sequence) -> bool {
        self.changed_at <= sequence
    }

    /// Whether every row is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whose vector a search of this view found.
    ///
    /// # Errors
    /// If the segment is damaged there.
    pub(crate) fn owner(&self, near: &Neighbour) -> Result<Owner> {
        match near.segment.checked_sub(self.growing.len()) {
            None => Owner::decode(&self.growing[near.segment].owner(near.row))
                .map_err(|error| Error::Internal(format!("an owner in memory: {error}"))),
            Some(sealed) => self.sealed[sealed].segment.owner_of(near.row),
        }
    }

    /// Stored vectors spread over the sealed segments: numbers and owners of at most so many.
    ///
    /// # Errors
    /// If a segment is damaged.
    pub(crate) fn spread(&self, most: usize, sequence: Sequence) -> Result<Vec<(u64, Owner)>> {
        let rows: usize = self.sealed.iter().map(|sealed| sealed.segment.rows()).sum();
        let step = rows.div_ceil(most).max(1);
        let mut chosen = Vec::new();
        for Sealed { segment, deaths } in self.sealed.iter().map(|sealed| &**sealed) {
            for row in (0..segment.rows() as u32).step_by(step) {
                if deaths.is_visible(row, sequence) {
                    chosen.push((segment.number(row)?, segment.owner_of(row)?));
                }
            }
        }
        Ok(chosen)
    }

    /// The nearest rows: walks through the sealed segments, scans of the growing ones.
    ///
    /// # Errors
    /// If a segment is damaged where the search touches it.
    pub(crate) fn search(&self, prepared: &[f32], search: &Search<'_>) -> Result<Found> {
        let mut found = Found::default();
        if search.k == 0 {
            return Ok(found);
        }
        let Search { k, breadth, exact, sequence, accept } = *search;
        let mut nearest: Vec<Neighbour> = Vec::new();
        let mut scanned = Vec::new();
        for (at, growing) in self.growing.iter().enumerate() {
            found.compared += growing.scan(prepared, k, exact, sequence, accept, &mut scanned);
            let neighbour = |(distance, number, row)| Neighbour { distance, number, segment: at, row };
            nearest.extend(scanned.drain(..).map(neighbour));
        }
        let mut probe = Probe::new(prepared);
        SEARCHER.with_borrow_mut(|searcher| -> Result<()> {
            searcher.compared = 0;
            for (at, sealed) in self.sealed.iter().enumerate() {
                let Sealed { segment, deaths } = &**sealed;
                let failed: Cell<Option<Error>> = Cell::new(None);
                let is_accepted = |row: u32| {
                    deaths.is_visible(row, sequence)
                        && accept.is_none_or(|accept| match segment.number(row) {
                            Ok(number) => accept.contains(number),
                            Err(error) => {
                                failed.set(Some(error));
                                false
                            }
                        })
                };
                let filter: &dyn Fn(u32) -> bool = &is_accepted;
                let filter = (accept.is_some() || deaths.count() > 0).then_some(filter);
                let near = if let Some(accept) =
                    accept.filter(|all| exact || is_scan_cheaper(all, breadth, segment))
                {
                    let rows = segment.rows_of(accept)?;
                    let rows = rows.into_iter().filter(|row| deaths.is_visible(*row, sequence));
                    segment.scan(&mut probe, rows, k, exact, searcher)?
                } else if exact {
                    let rows =
                        (0..segment.rows() as u32).filter(|row| filter.is_none_or(|filter| filter(*row)));
                    segment.scan(&mut probe, rows, k, true, searcher)?
                } else if segment.is_flat() {
                    let rows = (0..segment.rows() as u32).filter(|row| filter.is_none_or(|f| f(*row)));
                    segment.scan(&mut probe, rows, k, false, searcher)?
                } else {
                    segment.walk(&mut probe, breadth, k, filter, searcher)?
                };
                if let Some(error) = failed.take() {
                    return Err(error);
                }
                for candidate in near {
                    let (distance, row) = (candidate.distance(), candidate.row());
                    let (number, segment) = (segment.number(row)?, self.growing.len() + at);
                    nearest.push(Neighbour { distance, number, segment, row });
                }
            }
            found.compared += searcher.compared;
            Ok(())
        })?;
        nearest.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.number.cmp(&b.number)));
        if exact && let Some(Neighbour { distance: last, .. }) = nearest.get(k - 1) {
            // Sealed segments know distances to about one part in ten thousand.
            let bound = last + last.abs() * 1e-3 + 1e-4;
            nearest.retain(|near| near.distance <= bound);
        } else {
            nearest.truncate(k);
        }
        found.nearest = nearest;
        Ok(found)
    }
}
