//! Walks over a graph that lies on several nodes: hop by hop, those who hold the frontier tell its edges.

use crate::{
    error::Result,
    graph::{
        Explore, LinksRequest, ToldGraph,
        adjacency::Side,
        told_graph::{NodeWay, Wanted},
        walk::{Arrival, Bounds, Place, Visit, Walk, Ways},
    },
    model::Timestamp,
    query::{ExpandSpec, Truncation},
    row::{EdgeKey, EntityKey},
};

/// A walk over what nodes tell.
pub struct RingWalk {
    walk: Walk<ToldGraph>,
    spec: ExpandSpec,
    ways: Ways,
    frontier: Vec<Place>,
    hops: usize,
    /// What was reached is known; of PageRank the edges among it.
    is_weighed: bool,
}

impl Explore for RingWalk {
    fn wanted(&mut self) -> Result<Option<LinksRequest>> {
        loop {
            let is_at_its_end = self.hops == self.spec.hops || self.frontier.is_empty();
            if is_at_its_end && self.is_weighed {
                return Ok(None);
            }
            let places = if is_at_its_end { self.every_place() } else { self.frontier_places() };
            if let Some(request) = self.walk.links.ask(&places) {
                return Ok(Some(request));
            }
            if is_at_its_end {
                self.is_weighed = true;
                continue;
            }
            let frontier = std::mem::take(&mut self.frontier);
            self.hops += 1;
            self.frontier = self.walk.hop(&self.spec, &self.ways, self.hops, frontier)?;
        }
    }

    fn graph(&mut self) -> &mut ToldGraph {
        &mut self.walk.links
    }
}

/// An edge of a walk.
#[derive(Clone, Debug, PartialEq)]
pub struct WalkedEdge {
    /// The end from which it was followed.
    pub from: EntityKey,
    pub(crate) side: Side,
    pub(crate) key: EdgeKey,
}

impl RingWalk {
    /// A walk that stands at its seeds, who are there.
    ///
    /// # Errors
    /// If the pattern cannot be read.
    pub(crate) fn new(
        spec: &ExpandSpec,
        seeds: impl IntoIterator<Item = (EntityKey, f64)>,
        now: Timestamp,
        bounds: Bounds,
    ) -> Result<Self> {
        let mut graph = ToldGraph::new(Wanted {
            min_weight: spec.min_weight,
            as_of: spec.as_of.unwrap_or(now),
            edge_filter: spec.edge_filter.clone(),
            collections: spec.collections.clone(),
            // The wanderer follows the heaviest of those among what was reached.
            fan_out: if spec.page_rank.is_some() { usize::MAX } else { spec.fan_out },
        });
        let seeds =
            seeds.into_iter().map(|(seed, score)| (graph.live_number(&seed), score)).collect::<Vec<_>>();
        let steps = spec.automaton()?.states.into_iter().flat_map(|state| state.steps);
        for name in steps.flat_map(|step| step.relations) {
            graph.relation(&name);
        }
        let ways = Ways::new(spec, &graph)?;
        for way in ways.of.iter().flatten() {
            graph.add_way(way.side, way.relations.as_deref());
        }
        let walk = Walk::new(graph, seeds, bounds);
        let (frontier, is_weighed) = (walk.places(), spec.page_rank.is_none());
        Ok(Self { walk, spec: spec.clone(), ways, frontier, hops: 0, is_weighed })
    }

    fn frontier_places(&self) -> Vec<NodeWay> {
        let mut places = Vec::new();
        for (number, state) in &self.frontier {
            for way in self.ways.of.get(usize::from(*state)).into_iter().flatten() {
                places.extend(
                    self.walk.links.way(way.side, way.relations.as_deref()).map(|way| (*number, way)),
                );
            }
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    fn every_place(&self) -> Vec<NodeWay> {
        let mut numbers: Vec<u64> = self.walk.places().into_iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let ways = 0..self.walk.links.ways();
        numbers.into_iter().flat_map(|number| ways.clone().map(move |way| (number, way))).collect()
    }

    /// What was reached, and how.
    ///
    /// # Errors
    /// If the deadline has passed.
    pub(crate) fn reached(&mut self) -> Result<Vec<(EntityKey, Visit)>> {
        let reached = self.walk.reached(&self.spec, &self.ways)?;
        let named = |(number, visit)| Some((self.walk.links.name(number)?.clone(), visit));
        Ok(reached.into_iter().filter_map(named).collect())
    }

    /// What the seeds are worth now.
    pub(crate) fn seeds(&self) -> impl Iterator<Item = (EntityKey, f64)> {
        self.walk.seeds().filter_map(|(number, score)| Some((self.walk.links.name(number)?.clone(), score)))
    }

    /// The edges that led to somebody, from the seed on.
    pub(crate) fn path(&self, visit: &Visit) -> Vec<WalkedEdge> {
        let graph = &self.walk.links;
        let edge = |Arrival { from, to, side, relation, edge_id, .. }: &Arrival| {
            let key = graph.edge_key(*relation, *to, edge_id)?;
            Some(WalkedEdge { from: graph.name(*from)?.clone(), side: *side, key })
        };
        let mut path: Vec<WalkedEdge> = visit.arrivals().filter_map(edge).collect();
        path.reverse();
        path
    }

    /// Edges that it looked at.
    pub fn edges(&self) -> u64 {
        self.walk.edges()
    }

    /// What bounds cut off.
    pub fn truncated(&self) -> Vec<Truncation> {
        self.walk.truncated()
    }
}
