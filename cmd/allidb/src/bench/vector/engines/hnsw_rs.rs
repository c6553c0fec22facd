//! hnsw_rs, on f32.

use anndists::dist::DistCosine;
use anyhow::Result;
use hnsw_rs::hnsw::Hnsw;

use super::Index;
use crate::bench::vector::{data::VectorData, plan::Plan};

const CONNECTIONS: usize = 16;
const BUILD_BREADTH: usize = 100;
const LAYERS: usize = 16;

pub(super) struct HnswRs {
    graph: Hnsw<'static, f32, DistCosine>,
    breadth: usize,
}

impl HnswRs {
    pub(super) fn build(data: &VectorData, _: &Plan) -> Self {
        let rows: Vec<Vec<f32>> = (0..data.base.len()).map(|row| data.base.get(row).to_vec()).collect();
        let graph = Hnsw::new(CONNECTIONS, rows.len(), LAYERS, BUILD_BREADTH, DistCosine {});
        let numbered: Vec<(&Vec<f32>, usize)> = rows.iter().zip(0..).collect();
        graph.parallel_insert(&numbered);
        Self { graph, breadth: BUILD_BREADTH }
    }
}

impl Index for HnswRs {
    fn set_breadth(&mut self, breadth: usize) {
        self.breadth = breadth;
    }

    fn search(&self, query: &[f32], k: usize) -> Result<Vec<u32>> {
        let found = self.graph.search(query, k, self.breadth.max(k));
        Ok(found.into_iter().map(|neighbour| neighbour.d_id as u32).collect())
    }
}
