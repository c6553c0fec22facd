//! Which rows of a sealed segment are dead, and since when.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use allidb_storage::Sequence;
use parking_lot::RwLock;
use roaring::RoaringBitmap;

/// A bit for each dead row, and for recent deaths the sequence: queries pinned before it still see the row.
#[derive(Debug)]
pub(crate) struct Deaths {
    bits: Box<[AtomicU64]>,
    count: AtomicUsize,
    recent: RwLock<HashMap<u32, Sequence>>,
}

impl Deaths {
    /// `dead` died before any query that is still to come.
    pub(crate) fn new(rows: usize, dead: &RoaringBitmap) -> Self {
        let bits: Box<[AtomicU64]> = (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let mut count = 0;
        for row in dead.iter().filter(|row| (*row as usize) < rows) {
            bits[row as usize / 64].fetch_or(1 << (row % 64), Ordering::Relaxed);
            count += 1;
        }
        Self { bits, count: AtomicUsize::new(count), recent: RwLock::default() }
    }

    /// How many rows are dead.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The row is dead from `sequence` on; false if it was dead already.
    pub(crate) fn kill(&self, row: u32, sequence: Sequence) -> bool {
        let mut recent = self.recent.write();
        let bit = 1 << (row % 64);
        let word = &self.bits[row as usize / 64];
        if word.load(Ordering::Acquire) & bit != 0 {
            return false;
        }
        recent.insert(row, sequence);
        word.fetch_or(bit, Ordering::AcqRel);
        self.count.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Whether a query pinned at `sequence` sees the row.
    #[inline]
    pub(crate) fn is_visible(&self, row: u32, sequence: Sequence) -> bool {
        let word = self.bits[row as usize / 64].load(Ordering::Acquire);
        word & (1 << (row % 64)) == 0 || self.recent.read().get(&row).is_some_and(|died| *died > sequence)
    }

    /// All dead rows.
    pub(crate) fn bitmap(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        for (at, word) in self.bits.iter().enumerate() {
            let mut word = word.load(Ordering::Acquire);
            while word != 0 {
                all.insert(at as u32 * 64 + word.trailing_zeros());
                word &= word - 1;
            }
        }
        all
    }

    /// Rows that were not dead at `sequence` and are now: row and when it died.
    pub(crate) fn since(&self, sequence: Sequence) -> Vec<(u32, Sequence)> {
        let recent = self.recent.read();
        recent.iter().filter(|(_, died)| **died > sequence).map(|(row, died)| (*row, *died)).collect()
    }

    /// Forgets when rows died of which no query pinned at `oldest` or later needs to know.
    pub(crate) fn forget_before(&self, oldest: Sequence) {
        self.recent.write().retain(|_, died| *died > oldest);
    }
}
