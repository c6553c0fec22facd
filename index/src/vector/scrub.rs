//! Reading segment files again and comparing them with their checksums.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_storage::{Damage, ScrubOptions, ScrubReport, Throttle};

use crate::{
    error::{Error, Result},
    vector::{SpaceIndex, Spaces, space::Sealed},
};

/// Longest wait before the caller is asked again whether to go on.
const PATIENCE: Duration = Duration::from_millis(100);

/// The segments there were when a scrub began.
pub(crate) struct SegmentScrub {
    spaces: Spaces,
    segments: Vec<(Arc<SpaceIndex>, Arc<Sealed>)>,
}

impl SegmentScrub {
    pub(crate) fn of(spaces: &Spaces) -> Self {
        let of_space = |space: Arc<SpaceIndex>| {
            space.inventory().0.into_iter().map(move |sealed| (Arc::clone(&space), sealed))
        };
        Self { spaces: spaces.clone(), segments: spaces.all().into_iter().flat_map(of_space).collect() }
    }

    /// A report with the segments added to what there is to read.
    pub(crate) fn expected(&self, report: &ScrubReport) -> ScrubReport {
        let mut report = report.clone();
        report.files_total += self.segments.len() as u64;
        report.bytes_total +=
            self.segments.iter().map(|(_, sealed)| sealed.segment.bytes().0 as u64).sum::<u64>();
        report
    }

    /// Reads them all. What is damaged is set aside, and its rows are read again.
    pub(crate) fn run(
        &self,
        options: ScrubOptions,
        report: &mut ScrubReport,
        mut progress: impl FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<()> {
        let throttle = Throttle::new(options.bytes_per_second);
        for (space, sealed) in &self.segments {
            let mut pace = |read: usize| {
                report.bytes += read as u64;
                let mut delay = throttle.delay(read, Instant::now());
                loop {
                    if self.spaces.is_closed() {
                        return ControlFlow::Break(());
                    }
                    progress(report)?;
                    if delay.is_zero() {
                        return ControlFlow::Continue(());
                    }
                    let step = delay.min(PATIENCE);
                    std::thread::sleep(step);
                    delay -= step;
                }
            };
            let path = sealed.segment.path();
            match sealed.segment.scrub(self.spaces.fs(), &mut pace) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) if self.spaces.is_closed() => {
                    return Err(allidb_storage::Error::Closed.into());
                }
                Ok(ControlFlow::Break(())) => {
                    report.cancelled = true;
                    return Ok(());
                }
                // Merged into another one, or dropped, meanwhile.
                Err(_) if !is_in_use(space, path) => {}
                Err(error) => {
                    let (path, offset, what) = place(&error, path);
                    report.damages.push(Damage { path, offset, what });
                    self.spaces.heal(space, &error);
                }
            }
            report.files += 1;
        }
        Ok(())
    }
}

fn is_in_use(space: &SpaceIndex, path: &Path) -> bool {
    !space.is_dropped() && space.inventory().0.iter().any(|sealed| sealed.segment.path() == path)
}

fn place(error: &Error, path: &Path) -> (std::path::PathBuf, u64, String) {
    if let Error::Storage(error) = error
        && let allidb_storage::Error::Corruption { path, offset, what } = &**error
    {
        return (path.clone(), *offset, what.clone());
    }
    (path.to_owned(), 0, error.to_string())
}
