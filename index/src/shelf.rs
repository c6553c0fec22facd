//! What an index has at hand: a set that grows in memory, full ones that wait to be sealed, and sealed segments.

use std::sync::Arc;

use allidb_storage::Sequence;

use crate::writing::{Grows, Writing};

/// A set of fresh changes in memory, journaled until they are in a segment.
pub(crate) trait FreshSet: Grows {
    /// Its changes are journaled under this generation, but for those that a start replayed.
    fn generation(&self) -> u64;
    /// The oldest generation of the journal that any of its changes may be in.
    fn journaled_from(&self) -> u64;
    /// Changes that were written to it.
    fn fill(&self) -> usize;
    fn is_full(&self) -> bool;
}

#[derive(Debug)]
pub(crate) struct Shelf<G, S> {
    pub(crate) growing: Arc<G>,
    /// Full, waiting to be sealed; oldest first.
    pub(crate) frozen: Vec<Arc<G>>,
    /// Oldest first, where that matters.
    pub(crate) sealed: Vec<Arc<S>>,
    /// Queries pinned before this sequence need a view that was taken before.
    pub(crate) changed_at: Sequence,
    /// While the journal is replayed, the oldest generation of it: changes are still in the journal under that or a later one.
    pub(crate) replayed_from: Option<u64>,
}

/// The sets and segments at one moment.
#[derive(Debug)]
pub(crate) struct ShelfView<G, S> {
    /// Oldest first; the last one still grows.
    pub(crate) growing: Vec<Arc<G>>,
    pub(crate) sealed: Vec<Arc<S>>,
    changed_at: Sequence,
}

impl<G, S> Clone for ShelfView<G, S> {
    fn clone(&self) -> Self {
        Self { growing: self.growing.clone(), sealed: self.sealed.clone(), changed_at: self.changed_at }
    }
}

impl<G, S> ShelfView<G, S> {
    /// Whether it shows what a query pinned at `sequence` is to see.
    pub(crate) fn fits(&self, sequence: Sequence) -> bool {
        self.changed_at <= sequence
    }
}

impl<G: FreshSet, S> Shelf<G, S> {
    /// Nothing yet; what comes is in the journal from a generation on, until the replay of that has ended.
    pub(crate) fn new(growing: G, replayed_from: u64) -> Self {
        let (growing, replayed_from) = (Arc::new(growing), Some(replayed_from));
        Self { growing, frozen: Vec::new(), sealed: Vec::new(), changed_at: 0, replayed_from }
    }

    /// The growing set is full, or is to be sealed anyway: makes another one, given its generation and the oldest one that any
    /// of its changes may be journaled under.
    pub(crate) fn rotate(&mut self, new: impl FnOnce(u64, u64) -> G) {
        let generation = self.growing.generation() + 1;
        let next = Arc::new(new(generation, self.replayed_from.unwrap_or(generation)));
        self.frozen.push(std::mem::replace(&mut self.growing, next));
    }

    /// Opens the growing set for a change, if it has room.
    pub(crate) fn begin_write(&self) -> Option<Writing<G>> {
        (!self.growing.is_full()).then(|| Writing::new(&self.growing))
    }

    /// The full set that is to be sealed next, once nobody writes to it any more.
    pub(crate) fn settled(&self) -> Option<&Arc<G>> {
        self.frozen.first().filter(|frozen| frozen.writers().are_gone())
    }

    /// The oldest generation of the journal that still counts.
    pub(crate) fn journaled_from(&self) -> u64 {
        self.frozen.first().unwrap_or(&self.growing).journaled_from()
    }

    pub(crate) fn view(&self) -> ShelfView<G, S> {
        ShelfView {
            growing: self.frozen.iter().chain([&self.growing]).cloned().collect(),
            sealed: self.sealed.clone(),
            changed_at: self.changed_at,
        }
    }
}
