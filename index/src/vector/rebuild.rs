//! Making segments anew when an operator asks for it: graphs from nothing, as the options say now, of the vectors that are stored. Searches use the
//! old ones meanwhile, and writes go on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

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
    /// With how many rows of each were old when it began.
    all: Vec<(Arc<SpaceIndex>, usize)>,
    /// Rows that were done when it was asked last: deletions meanwhile do not take from it.
    furthest: AtomicUsize,
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
        let counted = |space: Arc<SpaceIndex>| {
            let rows = space.rows_to_rebuild();
            (space, rows)
        };
        let all = all.into_iter().map(counted).collect();
        let rebuild = Rebuild { spaces: self.clone(), all, furthest: AtomicUsize::new(0) };
        rebuild.all.iter().for_each(|(space, _)| self.maintain(space));
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
        let (mut done, mut total, mut is_done) = (0, 0, true);
        // What was dropped meanwhile is none of it any more.
        for (space, rows) in self.all.iter().filter(|(space, _)| !space.is_dropped()) {
            let left = space.rows_to_rebuild().min(*rows);
            let inserted = space.progress.inserted.load(Ordering::Relaxed);
            done += rows - left + inserted.min(left);
            total += rows;
            is_done &= !space.is_rebuilding();
        }
        let furthest = self.furthest.fetch_max(done, Ordering::Relaxed).max(done);
        Ok(RebuildProgress {
            rows_done: if is_done { total } else { furthest.min(total) },
            rows_total: total,
            is_done,
            waits: if is_done { None } else { self.spaces.0.why_merging_waits() },
        })
    }
}

impl Drop for Rebuild {
    fn drop(&mut self) {
        self.all.iter().for_each(|(space, _)| space.end_rebuild());
    }
}
