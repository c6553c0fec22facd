//! Making segments anew when an operator asks for it: graphs from nothing, as the options say now, of the vectors that are stored. Searches use the
//! old ones meanwhile, and writes go on.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    error::{Error, Result},
    vector::{SpaceIndex, Spaces},
};

/// How far rebuilding is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Vectors whose segments are new.
    pub rows_done: usize,
    /// Vectors whose segments were old when it began.
    pub rows_total: usize,
    /// Nothing is old any more.
    pub is_done: bool,
    /// Why nothing is done, if that is so: the worker is paused, or has failed and tries again.
    pub waits: Option<String>,
}

/// Spaces that are being rebuilt. Dropping it has what is not begun stay as it is.
pub struct Rebuild {
    spaces: Spaces,
    all: Vec<Arc<SpaceIndex>>,
    rows_total: usize,
}

impl Spaces {
    /// Begins to make all segments anew that these spaces have now.
    ///
    /// # Errors
    /// If no number can be had, by which old segments are told from new ones.
    pub(crate) fn rebuild(&self, all: Vec<Arc<SpaceIndex>>) -> Result<Rebuild> {
        let before = self.0.numbers.next(&self.0.engine)?;
        for space in &all {
            space.rebuild_before(before);
        }
        let rows_total = all.iter().map(|space| space.rows_to_rebuild()).sum();
        let rebuild = Rebuild { spaces: self.clone(), all, rows_total };
        rebuild.all.iter().for_each(|space| self.maintain(space));
        Ok(rebuild)
    }
}

impl Rebuild {
    /// How far it is.
    ///
    /// # Errors
    /// If the node is being closed.
    pub fn progress(&self) -> Result<RebuildProgress> {
        if self.spaces.is_closed() {
            return Err(Error::FailedPrecondition("the replica is closing".into()));
        }
        let left: usize =
            self.all.iter().filter(|space| !space.is_dropped()).map(|space| space.rows_to_rebuild()).sum();
        let is_done = self.all.iter().all(|space| space.is_dropped() || !space.is_rebuilding());
        let inserted = |space: &Arc<SpaceIndex>| space.progress.inserted.load(Ordering::Relaxed);
        let inserted: usize = self.all.iter().map(inserted).sum();
        Ok(RebuildProgress {
            rows_done: (self.rows_total.saturating_sub(left) + inserted.min(left)).min(self.rows_total),
            rows_total: self.rows_total,
            is_done,
            waits: if is_done { None } else { self.spaces.0.why_merging_waits() },
        })
    }
}

impl Drop for Rebuild {
    fn drop(&mut self) {
        self.all.iter().for_each(|space| space.end_rebuild());
    }
}
