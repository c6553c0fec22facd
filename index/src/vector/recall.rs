//! Measuring in the background how recall rises with the breadth of walks, so that nobody who asks notices.

use std::{
    cell::Cell,
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use allidb_storage::give_way;

use crate::{
    duty::Work,
    error::{Error, Result},
    vector::{
        SpaceIndex,
        calibration::{self, Sample},
        spaces::Inner,
        upkeep::vector_key,
    },
};

/// How long it rests for each moment that it works: two threads of a core share its caches, whatever their priorities.
const REST: u32 = 3;
/// How long it works at least before it rests, and rests at most.
const WORK: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(100);

impl Inner {
    /// Measures how recall rises with the breadth of walks.
    pub(super) fn measure_recall(&self, space: &SpaceIndex) -> Result<()> {
        // In this order the view fits the snapshot. Of what is written in between the view may miss a row: no matter here.
        let mut view = space.view();
        // Fresh rows are scanned anyway, and their memory should not wait for this.
        view.growing.clear();
        let snapshot = self.engine.snapshot();
        let (asked, seen) = space.asked.queries();
        let is_of_queries = asked.is_some();
        let samples = match asked {
            Some(queries) => {
                queries.into_iter().map(|prepared| Sample { prepared, itself: None }).collect::<Vec<_>>()
            }
            None => {
                let Some((tenant, _)) = self.by_id.read().get(&space.id).cloned() else { return Ok(()) };
                let mut samples = Vec::new();
                for (number, owner) in view.spread(calibration::SAMPLE, snapshot.sequence())? {
                    let stored = self.stored(space, &snapshot, &vector_key(space, tenant, owner))?;
                    let sample =
                        stored.map(|prepared| Sample { prepared: prepared.into(), itself: Some(number) });
                    samples.extend(sample);
                }
                samples
            }
        };
        let rows = space.rows_in_graphs();
        let measure = |go_on: &dyn Fn() -> bool| {
            calibration::measure(&view, rows, snapshot.sequence(), &samples, is_of_queries, go_on)
        };
        let is_over = || self.is_over(space);
        let curve = if self.background.is_inline() {
            measure(&|| !is_over())
        } else {
            giving_way(|| {
                // Segments that wait to be merged should not wait for this.
                let may_rest = || space.due(Work::Merge).is_none();
                let since = Cell::new(Instant::now());
                measure(&|| {
                    let worked = since.get().elapsed();
                    if worked >= WORK && may_rest() {
                        thread::sleep((worked * REST).min(LONGEST_REST));
                        since.set(Instant::now());
                    }
                    !is_over()
                })
            })
        }?;
        if let Some(mut curve) = curve {
            curve.seen = seen;
            let recall = curve.recall(self.options.search_breadth);
            tracing::debug!(rows, is_of_queries, recall, "measured the recall of a vector space");
            space.set_curve(curve);
        }
        Ok(())
    }
}

/// Does work that nobody waits for on a thread of its own, which gives way to the others.
fn giving_way<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let work = || {
        give_way();
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("vector-measure".into()).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| Error::Exhausted(format!("cannot start a thread: {error}")))?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
