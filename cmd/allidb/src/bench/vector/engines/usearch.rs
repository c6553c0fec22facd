//! USearch, on f32.

use anyhow::{Result, anyhow};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use super::Index;
use crate::bench::vector::data::Rows;

const CONNECTIONS: usize = 16;
const BUILD_BREADTH: usize = 100;

pub(in crate::bench) struct Usearch {
    index: usearch::Index,
}

impl Usearch {
    /// An index of all rows.
    pub(in crate::bench) fn of(base: &Rows, threads: usize) -> Result<Self> {
        let options = IndexOptions {
            dimensions: base.dimension,
            metric: MetricKind::Cos,
            quantization: ScalarKind::F32,
            connectivity: CONNECTIONS,
            expansion_add: BUILD_BREADTH,
            ..IndexOptions::default()
        };
        let index = usearch::Index::new(&options).map_err(|error| anyhow!("{error}"))?;
        index.reserve_capacity_and_threads(base.len(), threads.max(8)).map_err(|error| anyhow!("{error}"))?;
        std::thread::scope(|scope| {
            let add = |first: usize| {
                let index = &index;
                move || {
                    (first..base.len())
                        .step_by(threads)
                        .try_for_each(|row| index.add(row as u64, base.get(row)))
                        .map_err(|error| anyhow!("{error}"))
                }
            };
            let adding: Vec<_> = (0..threads).map(|first| scope.spawn(add(first))).collect();
            adding.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("adding panicked"))?)
        })?;
        Ok(Self { index })
    }

    /// The breadth of the searches that follow.
    pub(in crate::bench) fn set_breadth(&mut self, breadth: usize) {
        self.index.change_expansion_search(breadth);
    }

    /// The nearest rows and the cosines of their angles.
    pub(in crate::bench) fn nearest(&self, query: &[f32], k: usize) -> Result<Vec<(u32, f32)>> {
        let found = self.index.search(query, k).map_err(|error| anyhow!("{error}"))?;
        let cosines = found.distances.into_iter().map(|distance| 1.0 - distance);
        Ok(found.keys.into_iter().map(|row| row as u32).zip(cosines).collect())
    }
}

impl Index for Usearch {
    fn set_breadth(&mut self, breadth: usize) {
        Self::set_breadth(self, breadth);
    }

    fn search(&self, query: &[f32], k: usize) -> Result<Vec<u32>> {
        Ok(self.nearest(query, k)?.into_iter().map(|(row, _)| row).collect())
    }
}
