//! Shortest paths: the shortest, the k shortest, or all that are as short as the shortest; by hops or by weights.
//!
//! First it is found how far the nodes around the target are from it: by steps from both ends until they meet (Pohl,
//! "Bi-directional Search", 1971) or, by weights, by Dijkstra's algorithm. Then paths are drawn from the source, always the
//! one first that can still become the cheapest (Hart, Nilsson and Raphael, "A Formal Basis for the Heuristic Determination
//! of Minimum Cost Paths", 1968), so that they come out in the order of their costs. No path comes to a node twice.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    ops::ControlFlow,
    sync::Arc,
};

use foldhash::{HashMap, HashSet};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        Bounds, GraphReader, Paths, PathsRequest,
        adjacency::Side,
        links::{Here, Links},
        neighbors::{check_choice, sides},
        reader::{Seen, Stop},
        request::{FoundPath, PathCost},
    },
    model::{Direction, Limits, TenantId, Timestamp, validate_id},
    query::{Step, Truncation, TruncationReason},
    replica::{Reader, Replica},
    row::EntityKey,
};

/// Edges between two looks at the clock.
const DEADLINE_EVERY: u64 = 64;
/// Paths cost the same that differ by no more, of their cost.
const SAME: f64 = 1e-9;

/// A cost in an order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost(f64);

impl Eq for Cost {}

impl PartialOrd for Cost {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cost {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A path from the source on, by its last edge.
#[derive(Debug)]
pub(super) struct Trail {
    pub(super) node: u64,
    cost: f64,
    hops: usize,
    pub(super) last: Option<(Arc<Trail>, Side, u32, Box<str>)>,
}

impl Trail {
    fn has(&self, node: u64) -> bool {
        self.node == node || self.last.as_ref().is_some_and(|(before, ..)| before.has(node))
    }
}

/// What is known of how far nodes are from the target.
struct Distances {
    known: HashMap<u64, f64>,
    /// All others are at least so far.
    beyond: f64,
}

impl Distances {
    fn at_least(&self, node: u64) -> f64 {
        self.known.get(&node).copied().unwrap_or(self.beyond)
    }
}

pub(super) struct Search<'a, L> {
    links: &'a L,
    request: &'a PathsRequest,
    relations: Option<Vec<u32>>,
    as_of: Timestamp,
    most_edges: u64,
    deadline: Deadline,
    /// Edges looked at.
    looked: u64,
    /// The same, but for hidden ones.
    pub(super) edges: u64,
    pub(super) stopped: Option<Truncation>,
}

impl<'a, L: Links> Search<'a, L> {
    pub(super) fn new(links: &'a L, request: &'a PathsRequest, bounds: Bounds) -> Self {
        Self {
            links,
            request,
            relations: links.relations(&request.relations),
            as_of: request.as_of.unwrap_or_else(|| links.now()),
            most_edges: bounds.edges as u64,
            deadline: bounds.deadline,
            looked: 0,
            edges: 0,
            stopped: None,
        }
    }

    /// The shortest paths, in the order of their costs.
    pub(super) fn run(&mut self, source: u64, target: u64) -> Result<Vec<Arc<Trail>>> {
        let distances = match self.request.cost {
            PathCost::Hops => self.hops_to(source, target)?,
            PathCost::Weights => self.costs_to(source, target)?,
        };
        match distances {
            None => Ok(Vec::new()),
            Some(distances) => self.draw(source, target, &distances),
        }
    }
}

/// One more step on a path.
fn cost_of(cost: PathCost, weight: f64) -> f64 {
    match cost {
        PathCost::Hops => 1.0,
        // The product of weights is greatest where the sum of these is least.
        PathCost::Weights => -weight.ln(),
    }
}

impl<L: Links> Search<'_, L> {
    /// Calls `each` with the edges of a node that may be part of a path; false if a bound was reached.
    fn follow(&mut self, node: u64, direction: Direction, each: &mut dyn FnMut(&Seen<'_>)) -> Result<bool> {
        for side in sides(direction) {
            let Self { links, request, relations, as_of, most_edges, deadline, looked, edges, stopped } =
                self;
            let flow = links.edges(node, *side, relations.as_deref(), &mut |seen| {
                *looked += 1;
                if *looked > *most_edges {
                    *stopped = Some(Truncation { reason: TruncationReason::MaxEdges, count: *most_edges });
                } else if *looked % DEADLINE_EVERY == 1 && deadline.has_passed() {
                    *stopped = Some(Truncation { reason: TruncationReason::Deadline, count: 1 });
                }
                if stopped.is_some() {
                    return ControlFlow::Break(Stop::All);
                }
                *edges += u64::from(seen.is_some() || links.may_count_all());
                let Some(seen) = seen else { return ControlFlow::Continue(()) };
                let weight = seen.value.weight;
                if weight < request.min_weight || (request.cost == PathCost::Weights && weight == 0.0) {
                    return ControlFlow::Break(Stop::Relation);
                }
                if seen.other_is_live && seen.value.holds_at(*as_of) {
                    each(seen);
                }
                ControlFlow::Continue(())
            })?;
            if flow.is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn backwards(&self) -> Direction {
        match self.request.direction {
            Direction::Out => Direction::In,
            Direction::In => Direction::Out,
            Direction::Both => Direction::Both,
        }
    }

    /// How many hops nodes are from the target, until steps from both ends meet; `None` if they do not.
    fn hops_to(&mut self, source: u64, target: u64) -> Result<Option<Distances>> {
        let mut behind = HashMap::from_iter([(target, 0.0)]);
        let mut ahead: HashSet<u64> = HashSet::from_iter([source]);
        let (mut from_source, mut from_target) = (vec![source], vec![target]);
        let mut depth = 0.0;
        let mut has_met = source == target;
        for _ in 0..self.request.max_hops {
            if has_met || from_source.is_empty() || from_target.is_empty() {
                break;
            }
            let mut next = Vec::new();
            if from_source.len() <= from_target.len() {
                for node in std::mem::take(&mut from_source) {
                    let whole = self.follow(node, self.request.direction, &mut |seen| {
                        has_met |= behind.contains_key(&seen.other);
                        next.extend(ahead.insert(seen.other).then_some(seen.other));
                    })?;
                    if !whole {
                        return Ok(None);
                    }
                }
                from_source = next;
            } else {
                depth += 1.0;
                for node in std::mem::take(&mut from_target) {
                    let whole = self.follow(node, self.backwards(), &mut |seen| {
                        has_met |= ahead.contains(&seen.other);
                        behind.entry(seen.other).or_insert_with(|| {
                            next.push(seen.other);
                            depth
                        });
                    })?;
                    if !whole {
                        return Ok(None);
                    }
                }
                from_target = next;
            }
        }
        Ok(has_met.then_some(Distances { known: behind, beyond: depth + 1.0 }))
    }

    /// What the way from nodes to the target costs at least, until that is known of the source; `None` if there is no way.
    fn costs_to(&mut self, source: u64, target: u64) -> Result<Option<Distances>> {
        let mut known: HashMap<u64, f64> = HashMap::default();
        let mut heap = BinaryHeap::from([(Reverse(Cost(0.0)), target)]);
        while let Some((Reverse(Cost(cost)), node)) = heap.pop() {
            if known.contains_key(&node) {
                continue;
            }
            known.insert(node, cost);
            if node == source {
                return Ok(Some(Distances { known, beyond: cost }));
            }
            let whole = self.follow(node, self.backwards(), &mut |seen| {
                if !known.contains_key(&seen.other) {
                    let next = cost + cost_of(PathCost::Weights, seen.value.weight);
                    heap.push((Reverse(Cost(next)), seen.other));
                }
            })?;
            if !whole {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Paths in the order of their costs.
    fn draw(&mut self, source: u64, target: u64, distances: &Distances) -> Result<Vec<Arc<Trail>>> {
        let mut found: Vec<Arc<Trail>> = Vec::new();
        let mut drawn = 0_u64;
        let start = Arc::new(Trail { node: source, cost: 0.0, hops: 0, last: None });
        // Of those that cost the same, the one that is nearer to the target first, then the one drawn first.
        let mut heap =
            BinaryHeap::from([HeapItem { bound: Cost(0.0), left: Cost(0.0), drawn, trail: start }]);
        let mut passed: HashSet<u64> = HashSet::default();
        let is_one = self.request.k == 1 && self.request.cost == PathCost::Hops;
        while let Some(HeapItem { trail, .. }) = heap.pop() {
            if trail.node == target {
                let is_longer = |first: &Arc<Trail>| trail.cost > first.cost + SAME * first.cost.max(1.0);
                if self.request.only_shortest && found.first().is_some_and(is_longer) {
                    break;
                }
                found.push(trail);
                if found.len() == self.request.k {
                    break;
                }
                continue;
            }
            // Whoever wants one path needs one way to each node; the first is the shortest.
            if trail.hops == self.request.max_hops || (is_one && !passed.insert(trail.node)) {
                continue;
            }
            let (cost, is_by_hops) = (self.request.cost, self.request.cost == PathCost::Hops);
            let most_hops = self.request.max_hops as f64;
            let whole = self.follow(trail.node, self.request.direction, &mut |seen| {
                let left = distances.at_least(seen.other);
                let cost = trail.cost + cost_of(cost, seen.value.weight);
                if trail.has(seen.other) || (is_by_hops && cost + left > most_hops) {
                    return;
                }
                drawn += 1;
                let last = Some((Arc::clone(&trail), seen.side, seen.relation, seen.edge_id.into()));
                let trail = Arc::new(Trail { node: seen.other, cost, hops: trail.hops + 1, last });
                heap.push(HeapItem { bound: Cost(cost + left), left: Cost(left), drawn, trail });
            })?;
            if !whole {
                break;
            }
        }
        Ok(found)
    }
}

struct HeapItem {
    /// What the path costs at least when it is whole.
    bound: Cost,
    left: Cost,
    drawn: u64,
    trail: Arc<Trail>,
}

impl HeapItem {
    fn order(&self) -> (Cost, Cost, u64) {
        (self.bound, self.left, self.drawn)
    }
}

impl PartialEq for HeapItem {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for HeapItem {}

impl PartialOrd for HeapItem {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeapItem {
    /// The cheapest is the greatest, as heaps want it.
    fn cmp(&self, other: &Self) -> Ordering {
        other.order().cmp(&self.order())
    }
}

impl PathsRequest {
    /// # Errors
    /// If something in it is wrong.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        check_choice("", &self.relations, self.min_weight)?;
        for (name, value, limit) in
            [("max_hops", self.max_hops, limits.path_hops), ("k", self.k, limits.paths)]
        {
            if value == 0 || value > limit {
                return Err(Error::invalid(name, format!("is {value}; it must be 1 to {limit}")));
            }
        }
        Ok(())
    }
}

impl Replica {
    /// The shortest paths from one entity to another.
    ///
    /// # Errors
    /// If the request is wrong, or one of the two is not there.
    pub fn shortest_paths(
        &self,
        tenant: TenantId,
        request: &PathsRequest,
        deadline: Deadline,
    ) -> Result<Paths> {
        request.check(&self.limits)?;
        let (reader, graph) = self.graph_reader(tenant, &request.collections)?;
        let end = |name: &str, entity: &crate::model::EntityRef| {
            validate_id(&format!("{name}.id"), &entity.id)?;
            let collection = reader.catalogue.get(tenant, &entity.collection)?.id;
            let meant = reader.meant(EntityKey::new(tenant, collection, &entity.id))?;
            let number = reader.number(&meant)?;
            let missing = || Error::NotFound { collection: entity.collection.clone(), id: entity.id.clone() };
            number.filter(|number| graph.is_live(*number)).ok_or_else(missing)
        };
        let (source, target) = (end("from", &request.from)?, end("to", &request.to)?);
        let here = Here { reader: &reader, graph: &graph };
        let mut search = Search::new(&here, request, Bounds { edges: self.limits.edges, deadline });
        let trails = search.run(source, target)?;
        let paths = trails.iter().map(|trail| reader.found_path(&graph, trail)).collect::<Result<_>>()?;
        Ok(Paths { paths, edges: search.edges, truncated: search.stopped.into_iter().collect() })
    }
}

impl Reader<'_> {
    fn found_path(&self, graph: &GraphReader<'_>, trail: &Trail) -> Result<FoundPath> {
        let mut steps = Vec::new();
        let mut at = trail;
        while let Some((before, side, relation, edge_id)) = &at.last {
            let edge = self.edge(graph, (before.node, *side, *relation, at.node), edge_id)?;
            steps.extend(edge.map(|edge| Step { edge, direction: (*side).into() }));
            at = before;
        }
        steps.reverse();
        let weight = steps.iter().map(|step| step.edge.weight).product();
        Ok(FoundPath { steps, weight })
    }
}
