//! A space as one query sees it: searching all of its segments at once.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use allidb_storage::Sequence;
use roaring::RoaringTreemap;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    vector::{
        growing::Growing,
        owner::Owner,
        pool::Candidate,
        segment::{Probe, Searcher, Segment},
        space::Sealed,
    },
};

/// A space as one query sees it, whatever is written meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(super) growing: Vec<Arc<Growing>>,
    pub(super) sealed: Vec<Arc<Sealed>>,
    /// No good for queries pinned before.
    pub(super) changed_at: Sequence,
    pub(super) is_complete: bool,
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
    /// Nearest first, by distance and then number. Where `exact` was asked, all that may be among the
    /// nearest, for what their codes leave open.
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
    /// When whoever asks stops waiting, if ever.
    pub(crate) deadline: Option<Deadline>,
}

/// Fresh rows beyond the `k` nearest that may be as near, where rounding decides.
const TIES: usize = 32;
/// By what part of itself, or of the query's square, rounding may move the distance of a fresh row.
const ROUNDING: f32 = 4e-6;

thread_local! {
    static SEARCHER: RefCell<Searcher> = RefCell::default();
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
    /// If a segment is damaged where the search touches it, or the deadline passes.
    pub(crate) fn search(&self, prepared: &[f32], search: &Search<'_>) -> Result<Found> {
        let mut found = Found::default();
        if search.k == 0 {
            return Ok(found);
        }
        let Search { k, breadth, exact, sequence, accept, deadline } = *search;
        // By how much each distance may be wrong; where `exact` was not asked, nobody does.
        let mut nearest: Vec<(Neighbour, f32)> = Vec::new();
        let mut scanned = Vec::new();
        let square: f32 = prepared.iter().map(|x| x * x).sum();
        for (at, growing) in self.growing.iter().enumerate() {
            deadline.map_or(Ok(()), Deadline::check)?;
            let most = if exact { k + TIES } else { k };
            found.compared += growing.scan(prepared, most, exact, sequence, accept, &mut scanned);
            let neighbour = |(distance, number, row)| Neighbour { distance, number, segment: at, row };
            let doubt =
                |near: &Neighbour| if exact { ROUNDING * (near.distance.abs() + square) } else { 0.0 };
            nearest.extend(scanned.drain(..).map(neighbour).map(|near| (near, doubt(&near))));
        }
        let mut probe = Probe::new(prepared);
        SEARCHER.with_borrow_mut(|searcher| -> Result<()> {
            (searcher.compared, searcher.deadline) = (0, deadline);
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
                let few = match accept.filter(|all| exact || is_scan_cheaper(all, breadth, segment)) {
                    Some(accept) => Some(segment.rows_of(accept)?),
                    None => None,
                };
                let is_few = few.is_some();
                let scanned = || -> Box<dyn Iterator<Item = u32>> {
                    match few {
                        Some(few) => {
                            Box::new(few.into_iter().filter(|row| deaths.is_visible(*row, sequence)))
                        }
                        None => Box::new(
                            (0..segment.rows() as u32).filter(|row| filter.is_none_or(|filter| filter(*row))),
                        ),
                    }
                };
                let near: Vec<(Candidate, f32)> = if exact {
                    segment.scan_exactly(&mut probe, scanned(), k, searcher)?
                } else {
                    let near = if is_few || segment.is_flat() {
                        segment.scan(&mut probe, scanned(), k, searcher)?
                    } else {
                        segment.walk(&mut probe, breadth, k, filter, searcher)?
                    };
                    near.into_iter().map(|candidate| (candidate, 0.0)).collect()
                };
                if let Some(error) = failed.take() {
                    return Err(error);
                }
                for (candidate, doubt) in near {
                    let (distance, row) = (candidate.distance(), candidate.row());
                    let (number, segment) = (segment.number(row)?, self.growing.len() + at);
                    nearest.push((Neighbour { distance, number, segment, row }, doubt));
                }
            }
            found.compared += searcher.compared;
            Ok(())
        })?;
        if exact && nearest.len() > k {
            // The k nearest are no farther than the k-th of the farthest that each can be.
            let mut farthest: Vec<f32> = nearest.iter().map(|(near, doubt)| near.distance + doubt).collect();
            let (_, bound, _) = farthest.select_nth_unstable_by(k - 1, f32::total_cmp);
            let bound = *bound + bound.abs() * 1e-5;
            nearest.retain(|(near, doubt)| near.distance - doubt <= bound);
        }
        let mut nearest: Vec<Neighbour> = nearest.into_iter().map(|(near, _)| near).collect();
        nearest.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.number.cmp(&b.number)));
        if !exact {
            nearest.truncate(k);
        }
        found.nearest = nearest;
        Ok(found)
    }
}
