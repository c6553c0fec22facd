//! Building graphs: hnsw_rs behind a trait.

use std::collections::HashMap;

use anndists::dist::Distance;
use hnsw_rs::hnsw::Hnsw;

use crate::vector::{
    BuildPool, Measure,
    flat_graph::FlatGraph,
    rows::{Rows, SharedVector},
};

/// Grows a graph over slots `0, 1, 2, …` of full blocks.
pub(crate) trait GraphBuilder: Send {
    /// Slots `0..covered` are in the graph.
    fn covered(&self) -> usize;
    /// Adds the slots up to `end`, on the threads of the pool it was made with.
    fn extend(&mut self, rows: &Rows, end: usize);
    /// The graph as it is now, laid out for search.
    fn flat(&self) -> FlatGraph;
}

/// How graphs are built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuildOptions {
    /// Most neighbours of a node in each layer; twice that in the bottom one.
    pub(crate) connections: usize,
    /// Breadth of the walk that finds the neighbours of a new node.
    pub(crate) breadth: usize,
}

/// The distance that hnsw_rs asks for. A point is one [`SharedVector`], so that vectors are not copied.
struct BlockDistance(Measure);

impl Distance<SharedVector> for BlockDistance {
    fn eval(&self, a: &[SharedVector], b: &[SharedVector]) -> f32 {
        match (a, b) {
            ([a], [b]) => self.0.distance(a.as_slice(), b.as_slice()),
            // Points hold exactly one vector; anything else is infinitely far.
            _ => f32::MAX,
        }
    }
}

/// hnsw_rs, used for nothing but construction: its search is slow, and its filters, dumps and limits end
/// the process on bad input. Distances given to it are never NaN nor negative.
pub(crate) struct HnswBuilder {
    graph: Hnsw<'static, SharedVector, BlockDistance>,
    covered: usize,
    pool: BuildPool,
}

/// Layers that hnsw_rs may use; it allows no more.
const LAYERS: usize = 16;

impl HnswBuilder {
    pub(crate) fn new(measure: Measure, options: BuildOptions, expected: usize, pool: BuildPool) -> Self {
        // More than 256 connections would end the process.
        let connections = options.connections.clamp(2, 128);
        let graph = Hnsw::new(connections, expected, LAYERS, options.breadth, BlockDistance(measure));
        Self { graph, covered: 0, pool }
    }
}

impl GraphBuilder for HnswBuilder {
    fn covered(&self) -> usize {
        self.covered
    }

    fn extend(&mut self, rows: &Rows, end: usize) {
        let end = end.min(rows.in_blocks());
        let points: Vec<SharedVector> = (self.covered..end).map(|slot| rows.shared_vector(slot)).collect();
        let numbered: Vec<(&[SharedVector], usize)> =
            points.iter().map(std::slice::from_ref).zip(self.covered..end).collect();
        let mut rest = &numbered[..];
        if self.covered == 0 && !rest.is_empty() {
            // The first point alone, so that parallel insertions find an entry point.
            self.graph.insert_slice(rest[0]);
            rest = &rest[1..];
        }
        let rest = rest.to_vec();
        self.pool.install(|| self.graph.parallel_insert_slice(&rest));
        self.covered = end;
    }

    fn flat(&self) -> FlatGraph {
        let points = self.graph.get_point_indexation();
        let mut layers: Vec<HashMap<u32, Box<[u32]>>> = Vec::new();
        let mut entry = (0, 0);
        for level in 0..LAYERS {
            for point in points.get_layer_iterator(level) {
                let slot = point.get_origin_id() as u32;
                entry = entry.max((level, u32::MAX - slot));
                for (layer, neighbours) in point.get_neighborhood_id().into_iter().enumerate().take(level + 1)
                {
                    if layers.len() <= layer {
                        layers.resize_with(layer + 1, HashMap::new);
                    }
                    // hnsw_rs can list a point among its own neighbours.
                    let others =
                        neighbours.iter().map(|n| n.get_origin_id() as u32).filter(|other| *other != slot);
                    layers[layer].insert(slot, others.collect());
                }
            }
        }
        FlatGraph::new(layers, self.covered, u32::MAX - entry.1)
    }
}
