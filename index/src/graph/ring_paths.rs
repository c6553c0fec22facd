//! Shortest paths over a graph that lies on several nodes.

use std::sync::Arc;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        Bounds, Explore, FoundPath, LinksRequest, Paths, PathsRequest, ToldGraph, WalkedEdge,
        neighbors::sides,
        paths::{Search, Trail},
        told_graph::Wanted,
    },
    model::{Direction, TenantId},
    query::{Step, Truncation},
    replica::Replica,
    row::EntityKey,
};

/// A search for paths. Each time that it is told more it begins anew: it looks for the edges of the same nodes again, and of those beyond.
pub struct RingPaths {
    graph: ToldGraph,
    request: PathsRequest,
    ends: (u64, u64),
    bounds: Bounds,
    trails: Vec<Arc<Trail>>,
    edges: u64,
    stopped: Option<Truncation>,
}

impl Replica {
    /// The two ends of paths, be they there or not.
    ///
    /// # Errors
    /// If something in the request is wrong.
    pub fn path_ends(&self, tenant: TenantId, request: &PathsRequest) -> Result<[EntityKey; 2]> {
        request.check(self.limits())?;
        Ok([self.entity_key(tenant, &request.from)?, self.entity_key(tenant, &request.to)?])
    }

    /// Paths between two who are there.
    pub fn ring_paths(&self, request: PathsRequest, ends: &[EntityKey; 2], deadline: Deadline) -> RingPaths {
        let as_of = request.as_of.unwrap_or_else(|| self.wall_time());
        let mut graph = ToldGraph::new(Wanted {
            min_weight: request.min_weight,
            as_of,
            edge_filter: None,
            collections: request.collections.clone(),
            fan_out: usize::MAX,
        });
        let numbers: Vec<u32> = request.relations.iter().map(|name| graph.relation(name)).collect();
        let relations = (!numbers.is_empty()).then_some(&numbers[..]);
        let both = [Direction::Out, Direction::In].map(sides);
        for side in both.into_iter().flatten() {
            graph.add_way(*side, relations);
        }
        let [from, to] = ends;
        let ends = (graph.live_number(from), graph.live_number(to));
        let bounds = Bounds { edges: self.limits().edges, deadline };
        RingPaths { graph, request, ends, bounds, trails: Vec::new(), edges: 0, stopped: None }
    }
}

impl Explore for RingPaths {
    fn wanted(&mut self) -> Result<Option<LinksRequest>> {
        let mut search = Search::new(&self.graph, &self.request, self.bounds);
        self.trails = search.run(self.ends.0, self.ends.1)?;
        (self.edges, self.stopped) = (search.edges, search.stopped);
        let missed = self.graph.missed();
        if self.stopped.is_some() {
            return Ok(None);
        }
        Ok(self.graph.ask(&missed))
    }

    fn graph(&mut self) -> &mut ToldGraph {
        &mut self.graph
    }
}

impl RingPaths {
    /// The edges of the paths, those of one after those of another.
    pub fn walked(&self) -> Vec<WalkedEdge> {
        self.trails.iter().flat_map(|trail| self.edges_of(trail)).collect()
    }

    fn edges_of(&self, trail: &Trail) -> Vec<WalkedEdge> {
        let mut edges = Vec::new();
        let mut at = trail;
        while let Some((before, side, relation, edge_id)) = &at.last {
            let key = self.graph.edge_key(*relation, at.node, edge_id);
            if let (Some(from), Some(key)) = (self.graph.name(before.node), key) {
                edges.push(WalkedEdge { from: from.clone(), side: *side, key });
            }
            at = before;
        }
        edges.reverse();
        edges
    }

    /// The paths, of whose edges `steps` tells; one of which an edge is no more is left out.
    ///
    /// # Errors
    /// If there are fewer steps than edges.
    pub fn paths(self, steps: Vec<Option<Step>>) -> Result<Paths> {
        let mut steps = steps.into_iter();
        let mut paths = Vec::with_capacity(self.trails.len());
        for trail in &self.trails {
            let length = self.edges_of(trail).len();
            let steps: Vec<Option<Step>> = steps.by_ref().take(length).collect();
            if steps.len() < length {
                return Err(Error::Internal("a path has fewer steps than edges".to_owned()));
            }
            let Some(steps) = steps.into_iter().collect::<Option<Vec<Step>>>() else { continue };
            let weight = steps.iter().map(|step| step.edge.weight).product();
            paths.push(FoundPath { steps, weight });
        }
        Ok(Paths { paths, edges: self.edges, truncated: self.stopped.into_iter().collect() })
    }
}
