//! Bounded breadth-first expansion.
//!
//! Level by level, from every node whose best score improved in the level before: a node's score is the
//! best over all walks of at most so many hops, so one more edge can never lower it. What a bound cuts off
//! is counted, never silently dropped, and the same request meets the same edges in the same order.

use std::{cmp::Ordering, collections::BTreeMap, ops::ControlFlow, sync::Arc};

use foldhash::{HashMap, HashMapExt, HashSet};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        ExpandRequest, Expansion, GraphReader, Reached,
        adjacency::Side,
        neighbors::{check_choice, sides},
        page_rank::{Links, MAX_DAMPING, page_rank},
        pattern::{Automaton, Transition},
        reader::{Seen, Stop},
    },
    model::{Direction, EntityRef, Limits, TenantId, validate_id},
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
    weight: f64,
    before: Option<Arc<Arrival>>,
}

impl Visit {
    /// The mean weight of the edges of the walk; `None`: a seed.
    pub(crate) fn mean_weight(&self) -> Option<f64> {
        let (mut sum, mut edges) = (0.0, 0);
        let mut arrival = self.came_by.as_ref();
        while let Some(Arrival { weight, before, .. }) = arrival.map(|arrival| &**arrival) {
            (sum, edges, arrival) = (sum + weight, edges + 1, before.as_ref());
        }
        (edges > 0).then(|| sum / f64::from(edges))
    }
}

/// A walk and what it has found.
pub(crate) struct Walk<'a> {
    reader: &'a Reader<'a>,
    graph: &'a GraphReader<'a>,
    /// By number, and by the state in which the walk came there.
    visits: HashMap<Place, Visit>,
    budget: Budget,
}

type Place = (u64, u8);

/// What a walk has spent and may spend, and what it had to leave.
struct Budget {
    bounds: Bounds,
    /// Edges looked at.
    edges: u64,
    truncated: BTreeMap<TruncationReason, u64>,
}

/// One way to go on from a state.
struct Way {
    side: Side,
    /// `None`: all.
    relations: Option<Vec<u32>>,
    to: u8,
}

/// The states of an automaton, by relations' numbers.
struct Ways {
    of: Vec<Vec<Way>>,
    accepts: Vec<bool>,
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
        if let Some(pattern) = &self.pattern {
            Automaton::parse(&format!("{place}.pattern"), pattern)?;
            if !self.relations.is_empty() || self.direction != Direction::Out {
                let why = "says itself which relations are followed and which way";
                return Err(Error::invalid(format!("{place}.pattern"), why));
            }
        }
        if let Some(filter) = &self.edge_filter {
            filter.validate(&format!("{place}.edge_filter"), limits)?;
        }
        if let Some(damping) = self.page_rank
            && !(damping > 0.0 && damping <= MAX_DAMPING)
        {
            let why = format!("is {damping}; it must be above 0 and at most {MAX_DAMPING}");
            return Err(Error::invalid(format!("{place}.page_rank"), why));
        }
        if !(self.decay > 0.0 && self.decay <= 1.0) {
            return Err(Error::invalid(
                format!("{place}.decay"),
                format!("is {}; it must be in (0, 1]", self.decay),
            ));
        }
        Ok(())
    }

    fn automaton(&self) -> Result<Automaton> {
        match &self.pattern {
            Some(pattern) => Automaton::parse("pattern", pattern),
            None => Ok(Automaton::any(sides(self.direction), &self.relations)),
        }
    }
}

impl Budget {
    /// Whether one more edge may be looked at.
    fn look(&mut self) -> bool {
        if self.edges >= self.bounds.edges as u64 {
            self.truncated.insert(TruncationReason::MaxEdges, self.bounds.edges as u64);
            return false;
        }
        if self.edges.is_multiple_of(DEADLINE_EVERY) && self.bounds.deadline.has_passed() {
            self.truncated.insert(TruncationReason::Deadline, 1);
            return false;
        }
        self.edges += 1;
        true
    }
}

impl<'a> Walk<'a> {
    /// A walk that stands at its seeds.
    pub(crate) fn new(
        reader: &'a Reader<'a>,
        graph: &'a GraphReader<'a>,
        seeds: impl IntoIterator<Item = (u64, f64)>,
        bounds: Bounds,
    ) -> Self {
        let mut visits: HashMap<Place, Visit> = HashMap::new();
        for (number, score) in seeds {
            let visit = visits.entry((number, 0)).or_insert(Visit { score, hops: 0, came_by: None });
            visit.score = visit.score.max(score);
        }
        let budget = Budget { bounds, edges: 0, truncated: BTreeMap::new() };
        Self { reader, graph, visits, budget }
    }

    /// Walks as far as `spec` and the bounds allow; gives what was reached: nodes and the best walk to each.
    pub(crate) fn expand(&mut self, spec: &ExpandSpec) -> Result<HashMap<u64, Visit>> {
        let Automaton { states } = spec.automaton()?;
        let way = |step: &Transition| Way {
            side: step.side,
            relations: self.graph.relations(&step.relations),
            to: step.to,
        };
        let ways = Ways {
            accepts: states.iter().map(|state| state.accepts).collect(),
            of: states.iter().map(|state| state.steps.iter().map(way).collect()).collect(),
        };
        self.go(spec, &ways)?;
        // Of walks that end in different states of the pattern the best counts; of equal ones always the same.
        let mut reached: HashMap<u64, (u8, Visit)> = HashMap::new();
        for ((number, state), visit) in &self.visits {
            if ways.accepts[usize::from(*state)] && visit.hops > 0 {
                let (of, best) = reached.entry(*number).or_insert_with(|| (*state, visit.clone()));
                let order = visit.score.total_cmp(&best.score).then(best.hops.cmp(&visit.hops));
                if order.then((*of).cmp(state)) == Ordering::Greater {
                    (*of, *best) = (*state, visit.clone());
                }
            }
        }
        let mut reached: HashMap<u64, Visit> =
            reached.into_iter().map(|(number, (_, visit))| (number, visit)).collect();
        if let Some(damping) = spec.page_rank {
            let mass = self.masses(spec, &ways, damping)?;
            let scores = self.visits.iter_mut().map(|((number, _), visit)| (number, visit));
            for (number, visit) in scores.chain(&mut reached) {
                visit.score = mass.get(number).copied().unwrap_or_default();
            }
        }
        Ok(reached)
    }

    /// What the seeds are worth: what they were given or, after an expansion by PageRank, their mass.
    pub(crate) fn seeds(&self) -> impl Iterator<Item = (u64, f64)> {
        let seeds = self.visits.iter().filter(|(_, visit)| visit.hops == 0);
        seeds.map(|((number, _), visit)| (*number, visit.score))
    }

    fn go(&mut self, spec: &ExpandSpec, ways: &Ways) -> Result<()> {
        let seeds = self.visits.len();
        let mut frontier: Vec<Place> = self.visits.keys().copied().collect();
        for hop in 1..=spec.hops {
            let mut improved: HashSet<Place> = HashSet::default();
            // Best first, so that a bound cuts off what matters least; ties by number, so that it always cuts the same.
            let stand = |place: Place| self.visits.get(&place).map(|visit| (visit.clone(), place));
            let mut stands: Vec<(Visit, Place)> = frontier.into_iter().filter_map(stand).collect();
            stands.sort_unstable_by(|a, b| b.0.score.total_cmp(&a.0.score).then_with(|| a.1.cmp(&b.1)));
            for (Visit { score, came_by: before, .. }, (from, state)) in stands {
                let mut is_cut = false;
                for way in &ways.of[usize::from(state)] {
                    let Self { reader, graph, visits, budget } = self;
                    let mut is_full = false;
                    let anywhere = |_| true;
                    let flow =
                        follow((*reader, *graph), from, (way, &anywhere), spec, budget, &mut |seen| {
                            let place = (seen.other, way.to);
                            let next_score = score * spec.decay * seen.value.weight;
                            let is_new = match visits.get(&place) {
                                Some(visit) if visit.score >= next_score => return,
                                visit => visit.is_none(),
                            };
                            if is_new && visits.len() - seeds >= spec.max_nodes {
                                is_full = true;
                                return;
                            }
                            let came_by = Some(Arc::new(Arrival {
                                from,
                                to: seen.other,
                                side: seen.side,
                                relation: seen.relation,
                                edge_id: seen.edge_id.into(),
                                weight: seen.value.weight,
                                before: before.clone(),
                            }));
                            visits.insert(place, Visit { score: next_score, hops: hop, came_by });
                            improved.insert(place);
                        })?;
                    if is_full {
                        self.budget.truncated.insert(TruncationReason::MaxNodes, spec.max_nodes as u64);
                    }
                    match flow {
                        Followed::All => {}
                        Followed::SoMany => is_cut = true,
                        Followed::UntilSpent => return Ok(()),
                    }
                }
                if is_cut {
                    *self.budget.truncated.entry(TruncationReason::FanOut).or_default() += 1;
                }
            }
            frontier = improved.into_iter().collect();
            if frontier.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The PageRank of each node that the walk came to, the greatest being 1.
    fn masses(&mut self, spec: &ExpandSpec, ways: &Ways, damping: f64) -> Result<HashMap<u64, f64>> {
        let mut numbers: Vec<u64> = self.visits.keys().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let place = |number: u64| numbers.binary_search(&number).ok();
        let mut seeds = vec![0.0; numbers.len()];
        for ((number, _), visit) in self.visits.iter().filter(|(_, visit)| visit.hops == 0) {
            // A seed that is worth nothing is still one.
            if let Some(at) = place(*number) {
                seeds[at] = visit.score.max(f64::MIN_POSITIVE);
            }
        }
        let mut links: Links = vec![Vec::new(); numbers.len()];
        let mut followed: Vec<(Side, &Option<Vec<u32>>)> = Vec::new();
        let mut cut = 0;
        for way in ways.of.iter().flatten() {
            if followed.contains(&(way.side, &way.relations)) {
                continue;
            }
            followed.push((way.side, &way.relations));
            for (links, number) in links.iter_mut().zip(&numbers) {
                let parts = (self.reader, self.graph);
                let is_reached = |other| place(other).is_some();
                let end = follow(parts, *number, (way, &is_reached), spec, &mut self.budget, &mut |seen| {
                    links.extend(place(seen.other).map(|to| (to as u32, seen.value.weight)));
                })?;
                match end {
                    Followed::All => {}
                    Followed::SoMany => cut += 1,
                    Followed::UntilSpent => break,
                }
            }
        }
        if cut > 0 {
            let told = self.budget.truncated.entry(TruncationReason::FanOut).or_default();
            *told = cut.max(*told);
        }
        if numbers.is_empty() {
            return Ok(HashMap::new());
        }
        let mass = page_rank(&links, &seeds, damping, self.budget.bounds.deadline)?;
        let most = mass.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        Ok(numbers.into_iter().zip(mass).map(|(number, mass)| (number, mass / most)).collect())
    }

    /// What was cut off.
    pub(crate) fn truncated(&self) -> Vec<Truncation> {
        let truncated = self.budget.truncated.iter();
        truncated.map(|(reason, count)| Truncation { reason: *reason, count: *count }).collect()
    }

    /// Edges looked at.
    pub(crate) fn edges(&self) -> u64 {
        self.budget.edges
    }

    /// A walk, from its seed on.
    pub(crate) fn path(&self, visit: &Visit) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let mut arrival = visit.came_by.as_ref();
        while let Some(Arrival { from, to, side, relation, edge_id, before, .. }) = arrival.map(|a| &**a) {
            let edge = self.reader.edge(self.graph, (*from, *side, *relation, *to), edge_id)?;
            steps.extend(edge.map(|edge| Step { edge, direction: (*side).into() }));
            arrival = before.as_ref();
        }
        steps.reverse();
        Ok(steps)
    }
}

/// How far the edges of a node were followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    All,
    /// The heaviest of a relation, which has more.
    SoMany,
    /// Until a bound on all edges, or on time.
    UntilSpent,
}

/// Calls `each` with the edges to be followed from a node one way: the heaviest of each relation that lead to somebody who is wanted.
fn follow(
    (reader, graph): (&Reader<'_>, &GraphReader<'_>),
    from: u64,
    (way, is_wanted): (&Way, &dyn Fn(u64) -> bool),
    spec: &ExpandSpec,
    budget: &mut Budget,
    each: &mut dyn FnMut(&Seen<'_>),
) -> Result<Followed> {
    let as_of = spec.as_of.unwrap_or(graph.now);
    let (mut of_relation, mut end) = ((u32::MAX, 0), Followed::All);
    let mut failure = None;
    let flow = graph.edges(from, way.side, way.relations.as_deref(), &mut |seen| {
        if !budget.look() {
            return ControlFlow::Break(Stop::All);
        }
        let Some(seen) = seen else { return ControlFlow::Continue(()) };
        if seen.value.weight < spec.min_weight {
            return ControlFlow::Break(Stop::Relation);
        }
        if !seen.other_is_live || !seen.value.holds_at(as_of) || !is_wanted(seen.other) {
            return ControlFlow::Continue(());
        }
        if let Some(filter) = &spec.edge_filter {
            let name = (from, seen.side, seen.relation, seen.other);
            match reader.edge(graph, name, seen.edge_id) {
                Ok(Some(edge)) if filter.matches_edge(&edge) => {}
                Ok(_) => return ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    return ControlFlow::Break(Stop::All);
                }
            }
        }
        if of_relation.0 != seen.relation {
            of_relation = (seen.relation, 0);
        }
        of_relation.1 += 1;
        if of_relation.1 > spec.fan_out {
            end = Followed::SoMany;
            return ControlFlow::Break(Stop::Relation);
        }
        each(seen);
        ControlFlow::Continue(())
    })?;
    match (failure, flow) {
        (Some(error), _) => Err(error),
        (None, ControlFlow::Break(())) => Ok(Followed::UntilSpent),
        (None, ControlFlow::Continue(())) => Ok(end),
    }
}

impl Replica {
    /// Walks from some entities and tells what was reached.
    pub fn expand(&self, tenant: TenantId, request: &ExpandRequest, deadline: Deadline) -> Result<Expansion> {
        request.spec.validate("options", &self.limits)?;
        let (reader, graph) = self.graph_reader(tenant)?;
        let seeds = reader.live_numbers(&graph, &request.seeds)?;
        let bounds = Bounds { edges: self.limits.edges, deadline };
        let mut walk = Walk::new(&reader, &graph, seeds.into_iter().map(|number| (number, 1.0)), bounds);
        let reached = walk.expand(&request.spec)?;
        let mut nodes = Vec::with_capacity(reached.len());
        // Neighbours by number have their names side by side.
        let mut reached: Vec<_> = reached.iter().collect();
        reached.sort_unstable_by_key(|(number, _)| **number);
        for (number, visit) in reached {
            deadline.check()?;
            let Some(EntityKey { collection, id, .. }) = graph.name(*number)? else { continue };
            let Some(collection) = reader.catalogue.by_id(collection) else { continue };
            let path = if request.paths { walk.path(visit)? } else { Vec::new() };
            let entity = EntityRef { collection: collection.name.clone(), id };
            nodes.push(Reached { entity, hops: visit.hops, score: visit.score, path });
        }
        nodes.sort_unstable_by(|a, b| {
            a.hops.cmp(&b.hops).then(b.score.total_cmp(&a.score)).then_with(|| a.entity.cmp(&b.entity))
        });
        Ok(Expansion { nodes, edges: walk.edges(), truncated: walk.truncated() })
    }

    /// The store and its graph at one moment. A view that was taken after segments had changed is no good for an older snapshot;
    /// then both are taken again.
    pub(crate) fn graph_reader(&self, tenant: TenantId) -> Result<(Reader<'_>, GraphReader<'_>)> {
        self.graph.check_damage()?;
        loop {
            let reader = self.reader(tenant);
            let view = self.graph.view();
            if view.fits(reader.snapshot.sequence()) {
                let graph = GraphReader::new(&self.graph, view, reader.snapshot.sequence(), reader.now);
                return Ok((reader, graph));
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
            let name = EntityKey::new(self.tenant, collection, &seed.id);
            let live = |entity: &EntityKey| -> Result<Option<u64>> {
                Ok(self.number(entity)?.filter(|number| graph.is_live(*number)))
            };
            // Of whom there is an entity, the name means that one.
            numbers.extend(match live(&name)? {
                Some(number) => Some(number),
                None => live(&self.meant(name)?)?,
            });
        }
        Ok(numbers)
    }
}
