//! USearch, on f32.

use anyhow::{Result, anyhow};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use super::Index;
use crate::bench::vector::{data::VectorData, plan::Plan};

const CONNECTIONS: usize = 16;
const BUILD_BREADTH: usize = 100;

pub(super) struct Usearch {
    index: usearch::Index,
}

impl Usearch {
    pub(super) fn build(data: &VectorData, plan: &Plan) -> Result<Self> {
        let options = IndexOptions {
            dimensions: data.base.dimension,
            metric: MetricKind::Cos,
            quantization: ScalarKind::F32,
            connectivity: CONNECTIONS,
            expansion_add: BUILD_BREADTH,
            ..IndexOptions::default()
        };
        let index = usearch::Index::new(&options).map_err(|error| anyhow!("{error}"))?;
        let threads = plan.build_threads;
        index
            .reserve_capacity_and_threads(data.base.len(), threads.max(8))
            .map_err(|error| anyhow!("{error}"))?;
        std::thread::scope(|scope| {
            let add = |first: usize| {
                let index = &index;
                move || {
                    (first..data.base.len())
                        .step_by(threads)
                        .try_for_each(|row| index.add(row as u64, data.base.get(row)))
                        .map_err(|error| anyhow!("{error}"))
                }
            };
            let adding: Vec<_> = (0..threads).map(|first| scope.spawn(add(first))).collect();
            adding.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("adding panicked"))?)
        })?;
        Ok(Self { index })
    }
}

impl Index for Usearch {
    fn set_breadth(&mut self, breadth: usize) {
        self.index.change_expansion_search(breadth);
    }

    fn search(&self, query: &[f32], k: usize) -> Result<Vec<u32>> {
        let found = self.index.search(query, k).map_err(|error| anyhow!("{error}"))?;
        Ok(found.keys.into_iter().map(|row| row as u32).collect())
    }
}
