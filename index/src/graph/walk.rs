//! Bounded breadth-first expansion.
//!
//! Level by level, from every node whose best score improved in the level before: a node's score is the
//! best over all walks of at most so many hops, so one more edge can never lower it. What a bound cuts off
//! is counted, never silently dropped, and the same request meets the same edges in the same order.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use foldhash::{HashMap, HashMapExt, HashSet};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        ExpandRequest, Expansion, GraphReader, Reached,
        adjacency::Side,
        neighbors::{check_choice, sides},
        reader::Stop,
    },
    model::{EntityRef, Limits, TenantId, validate_id},
    query::{ExpandSpec, Step, Truncation, TruncationReason},
    replica::{Reader, Replica},
    row::EntityKey,
};

/// Edges between two looks at the clock.
const DEADLINE_EVERY: u64 = 64;

/// What bounds a walk beyond what its request says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) edges: usize,
    pub(crate) deadline: Deadline,
}

/// A node that a walk came to.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// The best over the walks to it: the seed's score × decay^hops × the weights.
    pub(crate) score: f64,
    /// Edges of that walk; 0: a seed.
    pub(crate) hops: usize,
    /// The last edge of that walk.
    came_by: Option<Arc<Arrival>>,
}

/// One edge of a walk, and the walk before it: kept as it was, whatever better walks are found later.
#[derive(Debug)]
struct Arrival {
    /// The node it was followed from, and the one that it led to.
    from: u64,
    to: u64,
    side: Side,
    relation: u32,
    edge_id: Box<str>,
    before: Option<Arc<Arrival>>,
}

/// A walk and what it has found, by the numbers of nodes.
pub(crate) struct Walk<'a> {
    graph: &'a GraphReader<'a>,
    pub(crate) visits: HashMap<u64, Visit>,
    /// Edges looked at.
    pub(crate) edges: u64,
    truncated: BTreeMap<TruncationReason, u64>,
}

impl ExpandSpec {
    /// Checks every bound.
    pub(crate) fn validate(&self, place: &str, limits: &Limits) -> Result<()> {
        check_choice(&format!("{place}."), &self.relations, self.min_weight)?;
        let bounds = [
            ("hops", self.hops, limits.hops),
            ("fan_out", self.fan_out, limits.fan_out),
            ("max_nodes", self.max_nodes, limits.nodes),
        ];
        for (name, value, limit) in bounds {
            if value == 0 || value > limit {
                return Err(Error::invalid(
                    format!("{place}.{name}"),
                    format!("is {value}; it must be 1 to {limit}"),
                ));
            }
        }
        if !(self.decay > 0.0 && self.decay <= 1.0) {
            return Err(Error::invalid(
                format!("{place}.decay"),
                format!("is {}; it must be in (0, 1]", self.decay),
            ));
        }
        Ok(())
    }
}

impl<'a> Walk<'a> {
    /// A walk that stands at its seeds.
    pub(crate) fn new(graph: &'a GraphReader<'a>, seeds: impl IntoIterator<Item = (u64, f64)>) -> Self {
        let mut visits: HashMap<u64, Visit> = HashMap::new();
        for (number, score) in seeds {
            let visit = visits.entry(number).or_insert(Visit { score, hops: 0, came_by: None });
            visit.score = visit.score.max(score);
        }
        Self { graph, visits, edges: 0, truncated: BTreeMap::new() }
    }

    /// Walks as far as `spec` and `bounds` allow.
    pub(crate) fn expand(&mut self, spec: &ExpandSpec, bounds: Bounds) -> Result<()> {
        let seeds = self.visits.len();
        let as_of = spec.as_of.unwrap_or(self.graph.now);
        let relations = self.graph.relations(&spec.relations);
        let mut frontier: Vec<u64> = self.visits.keys().copied().collect();
        for hop in 1..=spec.hops {
            let mut improved: HashSet<u64> = HashSet::default();
            // Best first, so that a bound cuts off what matters least; ties by number, so that it always cuts the same.
            let stand = |number: u64| self.visits.get(&number).map(|visit| (visit.clone(), number));
            let mut stands: Vec<(Visit, u64)> = frontier.into_iter().filter_map(stand).collect();
            stands.sort_unstable_by(|a, b| b.0.score.total_cmp(&a.0.score).then_with(|| a.1.cmp(&b.1)));
            for (Visit { score, came_by: before, .. }, from) in stands {
                let mut is_cut = false;
                for side in sides(spec.direction) {
                    let mut followed = (u32::MAX, 0);
                    let Self { graph, visits, edges, truncated } = self;
                    let flow = graph.edges(from, *side, relations.as_deref(), &mut |_, seen| {
                        if *edges >= bounds.edges as u64 {
                            truncated.insert(TruncationReason::MaxEdges, bounds.edges as u64);
                            return ControlFlow::Break(Stop::All);
                        }
                        if *edges % DEADLINE_EVERY == 0 && bounds.deadline.has_passed() {
                            truncated.insert(TruncationReason::Deadline, 1);
                            return ControlFlow::Break(Stop::All);
                        }
                        *edges += 1;
                        if seen.value.weight < spec.min_weight {
                            return ControlFlow::Break(Stop::Relation);
                        }
                        if !seen.other_is_live || !seen.value.holds_at(as_of) {
                            return ControlFlow::Continue(());
                        }
                        if followed.0 != seen.relation {
                            followed = (seen.relation, 0);
                        }
                        followed.1 += 1;
                        if followed.1 > spec.fan_out {
                            is_cut = true;
                            return ControlFlow::Break(Stop::Relation);
                        }
                        let next_score = score * spec.decay * seen.value.weight;
                        let is_new = match visits.get(&seen.other) {
                            Some(visit) if visit.score >= next_score => return ControlFlow::Continue(()),
                            visit => visit.is_none(),
                        };
                        if is_new && visits.len() - seeds >= spec.max_nodes {
                            truncated.insert(TruncationReason::MaxNodes, spec.max_nodes as u64);
                            return ControlFlow::Continue(());
                        }
                        let came_by = Some(Arc::new(Arrival {
                            from,
                            to: seen.other,
                            side: seen.side,
                            relation: seen.relation,
                            edge_id: seen.edge_id.into(),
                            before: before.clone(),
                        }));
                        visits.insert(seen.other, Visit { score: next_score, hops: hop, came_by });
                        improved.insert(seen.other);
                        ControlFlow::Continue(())
                    })?;
                    if flow.is_break() {
                        return Ok(());
                    }
                }
                if is_cut {
                    *self.truncated.entry(TruncationReason::FanOut).or_default() += 1;
                }
            }
            frontier = improved.into_iter().collect();
            if frontier.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// What was cut off.
    pub(crate) fn truncated(&self) -> Vec<Truncation> {
        self.truncated.iter().map(|(reason, count)| Truncation { reason: *reason, count: *count }).collect()
    }

    /// The best walk to a node, from its seed on.
    pub(crate) fn path(&self, reader: &Reader<'_>, number: u64) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let mut arrival = self.visits.get(&number).and_then(|visit| visit.came_by.as_ref());
        while let Some(Arrival { from, to, side, relation, edge_id, before }) = arrival.map(|a| &**a) {
            let edge = reader.edge(self.graph, (*from, *side, *relation, *to), edge_id)?;
            steps.extend(edge.map(|edge| Step { edge, direction: (*side).into() }));
            arrival = before.as_ref();
        }
        steps.reverse();
        Ok(steps)
    }

    /// How many nodes were reached beyond the seeds.
    pub(crate) fn reached(&self) -> u64 {
        self.visits.values().filter(|visit| visit.hops > 0).count() as u64
    }
}

impl Replica {
    /// Walks from some entities and tells what was reached.
    pub fn expand(&self, tenant: TenantId, request: &ExpandRequest, deadline: Deadline) -> Result<Expansion> {
        request.spec.validate("options", &self.limits)?;
        let (reader, graph) = self.graph_reader(tenant);
        let seeds = reader.live_numbers(&graph, &request.seeds)?;
        let mut walk = Walk::new(&graph, seeds.into_iter().map(|number| (number, 1.0)));
        walk.expand(&request.spec, Bounds { edges: self.limits.edges, deadline })?;
        let mut nodes = Vec::new();
        for (number, visit) in walk.visits.iter().filter(|(_, visit)| visit.hops > 0) {
            let Some(EntityKey { collection, id, .. }) = graph.name(*number)? else { continue };
            let Some(collection) = reader.catalogue.by_id(collection) else { continue };
            let path = if request.paths { walk.path(&reader, *number)? } else { Vec::new() };
            let entity = EntityRef { collection: collection.name.clone(), id };
            nodes.push(Reached { entity, hops: visit.hops, score: visit.score, path });
        }
        nodes.sort_unstable_by(|a, b| {
            a.hops.cmp(&b.hops).then(b.score.total_cmp(&a.score)).then_with(|| a.entity.cmp(&b.entity))
        });
        Ok(Expansion { nodes, edges: walk.edges, truncated: walk.truncated() })
    }

    /// The store and its graph at one moment. A view that was taken after segments had changed is no good for an older snapshot;
    /// then both are taken again.
    pub(crate) fn graph_reader(&self, tenant: TenantId) -> (Reader<'_>, GraphReader<'_>) {
        loop {
            let reader = self.reader(tenant);
            let view = self.graph.view();
            if view.fits(reader.snapshot.sequence()) {
                let graph = GraphReader::new(&self.graph, view, reader.snapshot.sequence(), reader.now);
                return (reader, graph);
            }
        }
    }
}

impl Reader<'_> {
    /// The numbers of those of the entities that are there.
    pub(crate) fn live_numbers(&self, graph: &GraphReader<'_>, seeds: &[EntityRef]) -> Result<Vec<u64>> {
        let limit = self.replica.limits.seed_ids;
        if seeds.is_empty() || seeds.len() > limit {
            let why = format!("are {}; 1 to {limit} are allowed", seeds.len());
            return Err(Error::invalid("seeds", why));
        }
        let mut numbers = Vec::new();
        for seed in seeds {
            validate_id("seeds.id", &seed.id)?;
            let collection = self.catalogue.get(self.tenant, &seed.collection)?.id;
            let entity = EntityKey::new(self.tenant, collection, &seed.id);
            numbers.extend(self.number(&entity)?.filter(|number| graph.is_live(*number)));
        }
        Ok(numbers)
    }
}
