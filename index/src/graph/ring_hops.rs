//! How many nodes of a graph that lies on several nodes are so many hops away.

use std::ops::ControlFlow;

use foldhash::HashSet;

use crate::{
    deadline::Deadline,
    error::Result,
    graph::{
        Explore, HopCounts, HopsRequest, LinksRequest, ToldGraph,
        adjacency::Side,
        links::Links,
        neighbors::sides,
        reader::Seen,
        told_graph::{NodeWay, Wanted},
        walk::check_seeds,
    },
    model::TenantId,
    query::{Truncation, TruncationReason},
    replica::Replica,
    row::EntityKey,
};

/// A count, hop by hop.
pub struct RingHops {
    graph: ToldGraph,
    sides: &'static [Side],
    relations: Option<Vec<u32>>,
    hops: usize,
    seen: HashSet<u64>,
    frontier: Vec<u64>,
    counts: HopCounts,
    deadline: Deadline,
}

impl Replica {
    /// Where a count begins, be there somebody or not.
    ///
    /// # Errors
    /// If something in the request is wrong.
    pub fn hop_seeds(&self, tenant: TenantId, request: &HopsRequest) -> Result<Vec<EntityKey>> {
        request.check(self.limits())?;
        check_seeds(request.seeds.len(), self.limits())?;
        request.seeds.iter().map(|seed| self.entity_key(tenant, seed)).collect()
    }

    /// A count from seeds that are there.
    pub fn ring_hops(&self, request: &HopsRequest, seeds: &[EntityKey], deadline: Deadline) -> RingHops {
        let mut graph = ToldGraph::new(Wanted {
            min_weight: request.min_weight,
            as_of: request.as_of.unwrap_or_else(|| self.wall_time()),
            edge_filter: None,
            collections: request.collections.clone(),
            fan_out: usize::MAX,
        });
        let numbers: Vec<u32> = request.relations.iter().map(|name| graph.relation(name)).collect();
        let relations = (!numbers.is_empty()).then_some(numbers);
        let sides = sides(request.direction);
        for side in sides {
            graph.add_way(*side, relations.as_deref());
        }
        let mut seen = HashSet::default();
        let numbers = seeds.iter().map(|seed| graph.live_number(seed));
        let frontier = numbers.filter(|number| seen.insert(*number)).collect();
        let counts = HopCounts::default();
        RingHops { graph, sides, relations, hops: request.hops, seen, frontier, counts, deadline }
    }
}

impl Explore for RingHops {
    fn wanted(&mut self) -> Result<Option<LinksRequest>> {
        while self.counts.counts.len() < self.hops {
            if self.deadline.has_passed() {
                self.counts.truncated.push(Truncation { reason: TruncationReason::Deadline, count: 1 });
                return Ok(None);
            }
            let ways = self.sides.iter().filter_map(|side| self.graph.way(*side, self.relations.as_deref()));
            let ways: Vec<usize> = ways.collect();
            let places: Vec<NodeWay> =
                self.frontier.iter().flat_map(|node| ways.iter().map(move |way| (*node, *way))).collect();
            if let Some(request) = self.graph.ask(&places) {
                return Ok(Some(request));
            }
            let mut next = Vec::new();
            for from in &self.frontier {
                for side in self.sides {
                    let mut add = |seen: Option<&Seen<'_>>| {
                        self.counts.edges += 1;
                        let live = seen.filter(|seen| seen.other_is_live).map(|seen| seen.other);
                        next.extend(live.filter(|other| self.seen.insert(*other)));
                        ControlFlow::Continue(())
                    };
                    // It is never broken off.
                    self.graph.edges(*from, *side, self.relations.as_deref(), &mut add).map(drop)?;
                }
            }
            self.counts.counts.push(next.len() as u64);
            self.frontier = next;
        }
        Ok(None)
    }

    fn graph(&mut self) -> &mut ToldGraph {
        &mut self.graph
    }
}

impl RingHops {
    /// What was counted.
    pub fn counts(self) -> HopCounts {
        self.counts
    }
}
