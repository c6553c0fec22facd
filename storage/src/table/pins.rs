//! Partitions of indexes and filters that stay in memory once they were read.
//!
//! A lookup asks the filter and the index of each level. Through the cache that costs locks and counts of references for
//! what is mostly there anyway; so tables keep their partitions as long as all tables' together fit into a part of the
//! budget. Those opened when it is used up read theirs through the cache.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::filter::Filter;
use super::index::Index;
use super::top_index::TopIndex;
use crate::error::Error;

/// What an index takes in memory for each byte that it has in the file: an entry has at least eight, and so has its head.
const INDEX_MEMORY_PER_BYTE: u64 = 2;
/// What a partition takes beside its bytes.
const PARTITION_BYTES: u64 = 256;

/// The memory that is left for pinned partitions of all tables, in bytes.
#[derive(Debug)]
pub(crate) struct PinBudget {
    left: AtomicUsize,
}

impl PinBudget {
    pub(crate) fn new(bytes: usize) -> PinBudget {
        PinBudget { left: AtomicUsize::new(bytes) }
    }

    fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A table's partitions, by their number.
#[derive(Debug)]
pub(crate) struct Pins {
    indexes: Box<[OnceLock<Arc<Index>>]>,
    filters: Box<[OnceLock<Filter>]>,
    reserved: usize,
    budget: Arc<PinBudget>,
}

impl Pins {
    /// Room for all partitions, or `None` if there is none.
    pub(crate) fn reserve(budget: &Arc<PinBudget>, top: &TopIndex) -> Option<Pins> {
        let mut bytes = 0u64;
        for partition in top.partitions() {
            let index = partition.index.len.saturating_mul(INDEX_MEMORY_PER_BYTE);
            let filter = partition.filter.map_or(0, |filter| filter.len);
            bytes = bytes.saturating_add(index).saturating_add(filter).saturating_add(PARTITION_BYTES);
        }
        let reserved = usize::try_from(bytes).ok().filter(|&bytes| budget.take(bytes))?;
        let count = top.partitions().len();
        Some(Pins {
            indexes: (0..count).map(|_| OnceLock::new()).collect(),
            filters: (0..count).map(|_| OnceLock::new()).collect(),
            reserved,
            budget: budget.clone(),
        })
    }

    /// Memory that it may come to take, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.reserved
    }

    /// The index of a partition; `read` is called the first time.
    pub(crate) fn index(
        &self,
        partition: usize,
        read: impl FnOnce() -> Result<Arc<Index>, Error>,
    ) -> Result<Arc<Index>, Error> {
        keep(self.indexes.get(partition), read, Arc::clone)
    }

    /// What `ask` finds in the filter of a partition; `read` is called the first time.
    pub(crate) fn filter<T>(
        &self,
        partition: usize,
        read: impl FnOnce() -> Result<Filter, Error>,
        ask: impl FnOnce(&Filter) -> T,
    ) -> Result<T, Error> {
        keep(self.filters.get(partition), read, ask)
    }
}

fn keep<P, T>(
    cell: Option<&OnceLock<P>>,
    read: impl FnOnce() -> Result<P, Error>,
    ask: impl FnOnce(&P) -> T,
) -> Result<T, Error> {
    if let Some(part) = cell.and_then(OnceLock::get) {
        return Ok(ask(part));
    }
    let part = read()?;
    Ok(match cell {
        Some(cell) => ask(cell.get_or_init(|| part)),
        None => ask(&part),
    })
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.reserved, Ordering::Relaxed);
    }
}
