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
        links::{Here, Links},
        neighbors::{check_choice, sides},
        page_rank::{MAX_DAMPING, WeightedLinks, page_rank},
        pattern::{Automaton, Transition},
        reader::{Seen, Stop},
    },
    model::{CollectionSet, Direction, EntityRef, Limits, TenantId, validate_id},
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
pub(crate) struct Arrival {
    /// The node it was followed from, and the one that it led to.
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) side: Side,
    pub(crate) relation: u32,
    pub(crate) edge_id: Box<str>,
    weight: f64,
    before: Option<Arc<Arrival>>,
}

impl Visit {
    /// The mean weight of the edges of the walk; `None`: a seed.
    pub(crate) fn mean_weight(&self) -> Option<f64> {
        let (mut sum, mut edges) = (0.0, 0);
        for arrival in self.arrivals() {
            (sum, edges) = (sum + arrival.weight, edges + 1);
        }
        (edges > 0).then(|| sum / f64::from(edges))
    }

    /// The edges of that walk, the last one first.
    pub(crate) fn arrivals(&self) -> impl Iterator<Item = &Arrival> {
        std::iter::successors(self.came_by.as_deref(), |arrival| arrival.before.as_deref())
    }
}

/// A walk and what it has found.
pub(crate) struct Walk<L> {
    pub(crate) links: L,
    /// By number, and by the state in which the walk came there.
    visits: HashMap<Place, Visit>,
    /// So many of them are seeds.
    seeds: usize,
    budget: Budget,
}

/// A node, and the state in which the walk came there.
pub(crate) type Place = (u64, u8);

/// What a walk has spent and may spend, and what it had to leave.
struct Budget {
    bounds: Bounds,
    /// Edges looked at.
    looked: u64,
    /// Those that are told: how many are hidden from whoever asks is not.
    edges: u64,
    truncated: BTreeMap<TruncationReason, u64>,
}

/// One way to go on from a state.
pub(crate) struct Way {
    pub(crate) side: Side,
    /// `None`: all.
    pub(crate) relations: Option<Vec<u32>>,
    to: u8,
}

/// The states of an automaton, by relations' numbers.
pub(crate) struct Ways {
    pub(crate) of: Vec<Vec<Way>>,
    accepts: Vec<bool>,
}

impl Ways {
    pub(crate) fn new(spec: &ExpandSpec, links: &impl Links) -> Result<Self> {
        let Automaton { states } = spec.automaton()?;
        let way = |step: &Transition| Way {
            side: step.side,
            relations: links.relations(&step.relations),
            to: step.to,
        };
        Ok(Self {
            accepts: states.iter().map(|state| state.accepts).collect(),
            of: states.iter().map(|state| state.steps.iter().map(way).collect()).collect(),
        })
    }
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

    pub(crate) fn automaton(&self) -> Result<Automaton> {
        match &self.pattern {
            Some(pattern) => Automaton::parse("pattern", pattern),
            None => Ok(Automaton::any(sides(self.direction), &self.relations)),
        }
    }
}

impl Budget {
    /// Whether one more edge may be looked at, and whether it is counted for whoever asks.
    fn look(&mut self, is_counted: bool) -> bool {
        if self.looked >= self.bounds.edges as u64 {
            self.truncated.insert(TruncationReason::MaxEdges, self.bounds.edges as u64);
            return false;
        }
        if self.looked.is_multiple_of(DEADLINE_EVERY) && self.bounds.deadline.has_passed() {
            self.truncated.insert(TruncationReason::Deadline, 1);
            return false;
        }
        self.looked += 1;
        self.edges += u64::from(is_counted);
        true
    }
}

impl<L: Links> Walk<L> {
    /// A walk that stands at its seeds.
    pub(crate) fn new(links: L, seeds: impl IntoIterator<Item = (u64, f64)>, bounds: Bounds) -> Self {
        let mut visits: HashMap<Place, Visit> = HashMap::new();
        for (number, score) in seeds {
            let visit = visits.entry((number, 0)).or_insert(Visit { score, hops: 0, came_by: None });
            visit.score = visit.score.max(score);
        }
        let budget = Budget { bounds, looked: 0, edges: 0, truncated: BTreeMap::new() };
        let seeds = visits.len();
        Self { links, visits, seeds, budget }
    }

    /// Walks as far as `spec` and the bounds allow; gives what was reached: nodes and the best walk to each.
    pub(crate) fn expand(&mut self, spec: &ExpandSpec) -> Result<HashMap<u64, Visit>> {
        let ways = Ways::new(spec, &self.links)?;
        let mut frontier = self.places();
        for hop in 1..=spec.hops {
            if frontier.is_empty() {
                break;
            }
            frontier = self.hop(spec, &ways, hop, frontier)?;
        }
        self.reached(spec, &ways)
    }

    /// Where the walk has been.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.visits.keys().copied().collect()
    }

    /// What was reached: nodes and the best walk to each.
    pub(crate) fn reached(&mut self, spec: &ExpandSpec, ways: &Ways) -> Result<HashMap<u64, Visit>> {
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
            let mass = self.masses(spec, ways, damping)?;
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

    /// Goes one edge on from each place of the frontier; gives the places that were reached better than before.
    pub(crate) fn hop(
        &mut self,
        spec: &ExpandSpec,
        ways: &Ways,
        hop: usize,
        frontier: Vec<Place>,
    ) -> Result<Vec<Place>> {
        let mut improved: HashSet<Place> = HashSet::default();
        // Best first, so that a bound cuts off what matters least; ties by number, so that it always cuts the same.
        let stand = |place: Place| self.visits.get(&place).map(|visit| (visit.clone(), place));
        let mut stands: Vec<(Visit, Place)> = frontier.into_iter().filter_map(stand).collect();
        stands.sort_unstable_by(|a, b| b.0.score.total_cmp(&a.0.score).then_with(|| a.1.cmp(&b.1)));
        for (Visit { score, came_by: before, .. }, (from, state)) in stands {
            let mut is_cut = false;
            for way in &ways.of[usize::from(state)] {
                let Self { links, visits, seeds, budget } = self;
                let mut is_full = false;
                let anywhere = |_| true;
                let flow = follow(&*links, from, (way, &anywhere), spec, budget, &mut |seen| {
                    let place = (seen.other, way.to);
                    let next_score = score * spec.decay * seen.value.weight;
                    let is_new = match visits.get(&place) {
                        Some(visit) if visit.score >= next_score => return,
                        visit => visit.is_none(),
                    };
                    if is_new && visits.len() - *seeds >= spec.max_nodes {
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
                    Followed::UntilSpent => return Ok(Vec::new()),
                }
            }
            if is_cut {
                *self.budget.truncated.entry(TruncationReason::FanOut).or_default() += 1;
            }
        }
        Ok(improved.into_iter().collect())
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
        let mut links: WeightedLinks = vec![Vec::new(); numbers.len()];
        let mut followed: Vec<(Side, &Option<Vec<u32>>)> = Vec::new();
        let mut cut = 0;
        for way in ways.of.iter().flatten() {
            if followed.contains(&(way.side, &way.relations)) {
                continue;
            }
            followed.push((way.side, &way.relations));
            for (links, number) in links.iter_mut().zip(&numbers) {
                let is_reached = |other| place(other).is_some();
                let Self { links: of, budget, .. } = self;
                let end = follow(&*of, *number, (way, &is_reached), spec, budget, &mut |seen| {
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

    /// Edges looked at, but for hidden ones.
    pub(crate) fn edges(&self) -> u64 {
        self.budget.edges
    }
}

impl Walk<Here<'_>> {
    /// A walk, from its seed on.
    pub(crate) fn path(&self, visit: &Visit) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for Arrival { from, to, side, relation, edge_id, .. } in visit.arrivals() {
            let edge = self.links.edge((*from, *side, *relation, *to), edge_id)?;
            steps.extend(edge.map(|edge| Step { edge, direction: (*side).into() }));
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
    links: &impl Links,
    from: u64,
    (way, is_wanted): (&Way, &dyn Fn(u64) -> bool),
    spec: &ExpandSpec,
    budget: &mut Budget,
    each: &mut dyn FnMut(&Seen<'_>),
) -> Result<Followed> {
    let as_of = spec.as_of.unwrap_or_else(|| links.now());
    let (mut of_relation, mut end) = ((u32::MAX, 0), Followed::All);
    let mut failure = None;
    let flow = links.edges(from, way.side, way.relations.as_deref(), &mut |seen| {
        if !budget.look(seen.is_some() || links.may_count_all()) {
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
            match links.meets(name, seen.edge_id, filter) {
                Ok(true) => {}
                Ok(false) => return ControlFlow::Continue(()),
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
        let (reader, graph) = self.graph_reader(tenant, &request.spec.collections)?;
        let seeds = reader.live_numbers(&graph, &request.seeds)?;
        let bounds = Bounds { edges: self.limits.edges, deadline };
        let here = Here { reader: &reader, graph: &graph };
        let mut walk = Walk::new(here, seeds.into_iter().map(|number| (number, 1.0)), bounds);
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
        nodes.sort_unstable_by(Reached::nearest_first);
        Ok(Expansion { nodes, edges: walk.edges(), truncated: walk.truncated() })
    }

    /// The store and its graph at one moment, as far as it is of some collections. A view that was taken after segments had changed is no good for an older snapshot;
    /// then both are taken again.
    pub(crate) fn graph_reader(
        &self,
        tenant: TenantId,
        collections: &CollectionSet,
    ) -> Result<(Reader<'_>, GraphReader<'_>)> {
        self.graph.check_damage()?;
        loop {
            let reader = self.reader(tenant);
            let view = self.graph.view();
            if view.fits(reader.snapshot.sequence()) {
                let graph = GraphReader::new(&self.graph, view, reader.snapshot.sequence(), reader.now);
                let graph = graph.only(reader.catalogue.ids(tenant, collections));
                return Ok((reader, graph));
            }
        }
    }
}

pub(crate) fn check_seeds(count: usize, limits: &Limits) -> Result<()> {
    let limit = limits.seed_ids;
    if count == 0 || count > limit {
        return Err(Error::invalid("seeds", format!("are {count}; 1 to {limit} are allowed")));
    }
    Ok(())
}

impl Reader<'_> {
    /// The numbers of those of the entities that are there.
    pub(crate) fn live_numbers(&self, graph: &GraphReader<'_>, seeds: &[EntityRef]) -> Result<Vec<u64>> {
        check_seeds(seeds.len(), &self.replica.limits)?;
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
