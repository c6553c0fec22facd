//! One vector space: its segments, and searching all of them at once.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use allidb_storage::Sequence;
use parking_lot::RwLock;

use crate::{
    error::{Error, Result},
    model::{CollectionId, Metric, SpaceId},
    vector::{
        Measure,
        deaths::Deaths,
        growing::{FreshRow, Growing, Writing},
        rotation::Rotation,
        segment::{Probe, Searcher, Segment},
    },
};

/// Rows of a growing segment at most.
const GROWING_ROWS: usize = 16_000;
/// Bytes of f32 in a growing segment at most.
const GROWING_BYTES: usize = 32 << 20;
/// Full segments that wait in memory while missing rows are read again.
const MAX_FROZEN: usize = 4;
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
    /// Set while some thread maintains this space.
    maintained: AtomicBool,
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

/// What a search found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Nearest first, by distance and then number: distance and number. Where `exact` was asked, distances within rounding of the
    /// last one may follow it.
    pub(crate) nearest: Vec<(f32, u64)>,
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
    pub(crate) accept: Option<&'a dyn Fn(u64) -> bool>,
}

/// Counts of one space.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpaceCounts {
    pub(crate) vectors: usize,
    pub(crate) in_graphs: usize,
    pub(crate) dead: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) mapped_bytes: usize,
}

/// What maintenance turns into one new segment.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) frozen: Vec<Arc<Growing>>,
    pub(crate) sealed: Vec<Arc<Sealed>>,
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
        let (maintained, dropped) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { id, measure, dimension, rotation, state: RwLock::new(state), maintained, dropped }
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

    /// Whether more rows wait in memory than one segment should hold.
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
            counts.in_graphs += sealed.living();
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

    /// Begins maintenance, unless another thread is at it.
    pub(crate) fn begin_maintenance(&self) -> bool {
        !self.maintained.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_maintenance(&self) {
        self.maintained.store(false, Ordering::Release);
    }

    pub(crate) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    /// Whether [`SpaceIndex::due`] would find anything, or would soon.
    pub(crate) fn is_due(&self) -> bool {
        let state = self.state.read();
        state.frozen.first().is_some_and(|frozen| frozen.is_settled()) || !merged(&state.sealed, 0).is_empty()
    }

    /// What should become one segment now: all that waits to be sealed, and with it as many sealed segments as keep their
    /// number small. `None` if nothing is due.
    pub(crate) fn due(&self) -> Option<Inputs> {
        let state = self.state.read();
        let frozen: Vec<_> = state.frozen.iter().take_while(|frozen| frozen.is_settled()).cloned().collect();
        let fresh: usize = frozen.iter().map(|frozen| frozen.len() - frozen.dead()).sum();
        let sealed = merged(&state.sealed, fresh);
        (!frozen.is_empty() || !sealed.is_empty()).then_some(Inputs { frozen, sealed })
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
            for sealed in &inputs.sealed {
                for (row, sequence) in sealed.deaths.since(at) {
                    died.push((sealed.segment.number(row)?, sequence));
                }
            }
            for frozen in &inputs.frozen {
                frozen.for_each(|number, dead| {
                    died.extend(dead.filter(|dead| *dead > at).map(|dead| (number, dead)))
                });
            }
            for (number, sequence) in died {
                if let Some(row) = new.segment.row_of(number)? {
                    new.deaths.kill(row, sequence);
                }
            }
        }
        state.frozen.retain(|frozen| !inputs.frozen.iter().any(|input| Arc::ptr_eq(input, frozen)));
        state.sealed.retain(|sealed| !inputs.sealed.iter().any(|input| Arc::ptr_eq(input, sealed)));
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

/// Segments besides the largest one at most.
const MAX_SMALL: usize = 3;

/// Which of the sealed segments are merged, together with so many fresh rows: those with many dead rows; the smallest, when
/// there are more than [`MAX_SMALL`] besides the largest; and whatever is not much larger than what is merged anyway, so that a
/// row takes part in a number of merges that is logarithmic in the rows.
fn merged(sealed: &[Arc<Sealed>], fresh: usize) -> Vec<Arc<Sealed>> {
    let mut by_size: Vec<&Arc<Sealed>> = sealed.iter().collect();
    by_size.sort_by_key(|sealed| sealed.living());
    let is_wasteful = |sealed: &Sealed| {
        let dead = sealed.deaths.count();
        dead > 1_000 && dead * 5 > sealed.segment.rows() || dead > 0 && dead == sealed.segment.rows()
    };
    let after = sealed.len() + usize::from(fresh > 0);
    let too_many = after > MAX_SMALL + 1;
    let mut rows = fresh;
    let mut chosen: Vec<Arc<Sealed>> = Vec::new();
    for sealed in by_size {
        let is_near = rows > 0 && sealed.living() <= rows;
        let is_next_of_too_many = too_many && chosen.is_empty();
        if is_wasteful(sealed) || is_near || is_next_of_too_many {
            rows += sealed.living();
            chosen.push(Arc::clone(sealed));
        }
    }
    // One alone and whole would be written again for nothing.
    if fresh == 0 && chosen.len() == 1 && !is_wasteful(&chosen[0]) {
        chosen.clear();
    }
    chosen
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
        for growing in &self.growing {
            found.compared += growing.scan(prepared, k, exact, sequence, accept, &mut found.nearest);
        }
        let mut probe = Probe::new(prepared);
        SEARCHER.with_borrow_mut(|searcher| -> Result<()> {
            searcher.compared = 0;
            for sealed in &self.sealed {
                let Sealed { segment, deaths } = &**sealed;
                let failed: Cell<Option<Error>> = Cell::new(None);
                let is_accepted = |row: u32| {
                    deaths.is_visible(row, sequence)
                        && accept.is_none_or(|accept| match segment.number(row) {
                            Ok(number) => accept(number),
                            Err(error) => {
                                failed.set(Some(error));
                                false
                            }
                        })
                };
                let filter: &dyn Fn(u32) -> bool = &is_accepted;
                let filter = (accept.is_some() || deaths.count() > 0).then_some(filter);
                // Codes and residuals order all but the closest of distances.
                let keep = k + k / 2 + 10;
                let near = if exact {
                    let rows =
                        (0..segment.rows() as u32).filter(|row| filter.is_none_or(|filter| filter(*row)));
                    segment.scan(&mut probe, rows, k, true, searcher)?
                } else {
                    segment.walk(&mut probe, breadth.max(k), keep, filter, searcher)?
                };
                if let Some(error) = failed.take() {
                    return Err(error);
                }
                for candidate in near {
                    found.nearest.push((candidate.distance(), segment.number(candidate.row())?));
                }
            }
            found.compared += searcher.compared;
            Ok(())
        })?;
        found.nearest.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        if exact && let Some((last, _)) = found.nearest.get(k - 1) {
            // Sealed segments know distances to about one part in ten thousand.
            let bound = last + last.abs() * 1e-3 + 1e-4;
            found.nearest.retain(|(distance, _)| *distance <= bound);
        } else {
            found.nearest.truncate(k);
        }
        Ok(found)
    }
}
