//! Walks over a graph that lies on several nodes: hop by hop, those who hold the frontier tell its edges.

use std::ops::ControlFlow;

use foldhash::{HashMap, HashMapExt};

use crate::{
    error::Result,
    filter::Filter,
    graph::{
        LinksRequest, ToldLinks,
        adjacency::{EdgeValue, Side},
        links::{Links, Met},
        reader::{Seen, Stop},
        told::ToldRelation,
        walk::{Arrival, Bounds, Place, Visit, Walk, Ways},
    },
    merge::EntityState,
    model::Timestamp,
    query::{ExpandSpec, Truncation},
    row::{EdgeKey, EntityKey, Scope},
    version::Version,
};

/// Edges of a relation that are asked for beyond those that are followed: some may lead to who is gone.
const SPARE: usize = 16;
/// How many times as many are asked for when that was too few.
const MORE: usize = 8;
/// What nodes told of the graph. Its numbers are a walk's own.
#[derive(Default)]
struct ToldGraph {
    now: Timestamp,
    names: Vec<EntityKey>,
    numbers: HashMap<EntityKey, u64>,
    relations: Vec<String>,
    /// Those who are known to be there or not.
    live: HashMap<u64, bool>,
    /// Up to when those lost their edges who were gone once. Whoever tells of an edge from its other end may not have heard of that.
    cleared: HashMap<u64, Version>,
    ways: Vec<(Side, Option<Vec<u32>>)>,
    /// Of a node and a way.
    links: HashMap<(u64, usize), Vec<NumberedRelation>>,
}

struct NumberedRelation {
    relation: u32,
    links: Vec<(u64, Box<str>, f64)>,
    has_more: bool,
}

impl ToldGraph {
    fn number(&mut self, name: &EntityKey) -> u64 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u64;
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    fn name(&self, number: u64) -> Option<&EntityKey> {
        self.names.get(usize::try_from(number).ok()?)
    }

    fn relation(&mut self, name: &str) -> u32 {
        let known = self.relations.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.relations.push(name.to_owned());
            self.relations.len() - 1
        }) as u32
    }

    fn way(&self, side: Side, relations: Option<&[u32]>) -> Option<usize> {
        self.ways.iter().position(|(of, wanted)| *of == side && wanted.as_deref() == relations)
    }

    fn is_live(&self, number: u64) -> bool {
        self.live.get(&number).copied().unwrap_or_default()
    }

    /// The name of an edge as the end has it from which it is followed.
    fn edge_key(&self, relation: u32, other: u64, edge_id: &str) -> Option<EdgeKey> {
        let other = self.name(other)?;
        Some(EdgeKey {
            relation: self.relations.get(relation as usize)?.clone(),
            collection: other.collection,
            other: other.id.clone(),
            edge_id: edge_id.to_owned(),
        })
    }

    fn add(&mut self, node: u64, way: usize, told: ToldLinks) {
        let mut relations = Vec::with_capacity(told.0.len());
        for ToldRelation { name, links, has_more } in told.0 {
            let relation = self.relation(&name);
            let links = links.into_iter();
            let links =
                links.map(|link| (self.number(&link.other), link.edge_id.into(), link.weight)).collect();
            relations.push(NumberedRelation { relation, links, has_more });
        }
        self.links.insert((node, way), relations);
    }
}

impl Links for ToldGraph {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn relations(&self, names: &[String]) -> Option<Vec<u32>> {
        let known = |name: &String| self.relations.iter().position(|known| known == name);
        (!names.is_empty()).then(|| names.iter().filter_map(known).map(|number| number as u32).collect())
    }

    fn edges(
        &self,
        number: u64,
        side: Side,
        relations: Option<&[u32]>,
        each: &mut dyn FnMut(Option<&Seen<'_>>) -> ControlFlow<Stop>,
    ) -> Result<ControlFlow<()>> {
        let told = self.way(side, relations).and_then(|way| self.links.get(&(number, way)));
        for NumberedRelation { relation, links, .. } in told.into_iter().flatten() {
            for (other, edge_id, weight) in links {
                let seen = Seen {
                    side,
                    relation: *relation,
                    other: *other,
                    edge_id,
                    // Those who told it looked at the times.
                    value: EdgeValue { weight: *weight, valid_from: None, valid_to: None },
                    other_is_live: self.is_live(*other),
                };
                match each(Some(&seen)) {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(Stop::Relation) => break,
                    ControlFlow::Break(Stop::All) => return Ok(ControlFlow::Break(())),
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Those who told it looked at the filter.
    fn meets(&self, _: Met, _: &str, _: &Filter) -> Result<bool> {
        Ok(true)
    }
}

/// A walk over what nodes tell. Whoever takes it asks them for what is [`wanted`](Self::wanted), and finds out who of the
/// [`unknown`](Self::unknown) is there, until it is done.
pub struct RingWalk {
    walk: Walk<ToldGraph>,
    spec: ExpandSpec,
    ways: Ways,
    frontier: Vec<Place>,
    hops: usize,
    /// What was asked for last: nodes and ways.
    asked: Vec<(u64, usize)>,
    most: HashMap<(u64, usize), usize>,
    /// What was told last, of which edges may be gone.
    told: Vec<(u64, usize)>,
    /// What was reached is known; of PageRank the edges among it.
    is_weighed: bool,
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
        let mut graph = ToldGraph { now, ..ToldGraph::default() };
        let mut numbered = Vec::new();
        for (seed, score) in seeds {
            let number = graph.number(&seed);
            graph.live.insert(number, true);
            numbered.push((number, score));
        }
        for name in
            spec.automaton()?.states.iter().flat_map(|state| &state.steps).flat_map(|step| &step.relations)
        {
            graph.relation(name);
        }
        let ways = Ways::new(spec, &graph)?;
        for way in ways.of.iter().flatten() {
            if graph.way(way.side, way.relations.as_deref()).is_none() {
                graph.ways.push((way.side, way.relations.clone()));
            }
        }
        let walk = Walk::new(graph, numbered, bounds);
        let frontier = walk.places();
        let (spec, hops, is_weighed) = (spec.clone(), 0, spec.page_rank.is_none());
        let (asked, told, most) = (Vec::new(), Vec::new(), HashMap::new());
        Ok(Self { walk, spec, ways, frontier, hops, asked, told, most, is_weighed })
    }

    /// Goes on as far as it can with what it was told; gives the edges that it needs to go on. `None`: it is at its end.
    ///
    /// # Errors
    /// If the deadline has passed.
    pub fn wanted(&mut self) -> Result<Option<LinksRequest>> {
        loop {
            if self.hops == self.spec.hops || self.frontier.is_empty() {
                if self.is_weighed {
                    return Ok(None);
                }
                let places: Vec<(u64, usize)> = self.every_place();
                if let Some(request) = self.ask(&places) {
                    return Ok(Some(request));
                }
                self.is_weighed = true;
                return Ok(None);
            }
            let places = self.frontier_places();
            if let Some(request) = self.ask(&places) {
                return Ok(Some(request));
            }
            let frontier = std::mem::take(&mut self.frontier);
            self.hops += 1;
            self.frontier = self.walk.hop(&self.spec, &self.ways, self.hops, frontier)?;
        }
    }

    fn frontier_places(&self) -> Vec<(u64, usize)> {
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

    fn every_place(&self) -> Vec<(u64, usize)> {
        let mut numbers: Vec<u64> = self.walk.places().into_iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let ways = 0..self.walk.links.ways.len();
        numbers.into_iter().flat_map(|number| ways.clone().map(move |way| (number, way))).collect()
    }

    /// Asks for what is not known of these, or not enough of.
    fn ask(&mut self, places: &[(u64, usize)]) -> Option<LinksRequest> {
        let graph = &self.walk.links;
        let is_short = |relation: &NumberedRelation| {
            let live = relation.links.iter().filter(|(other, ..)| graph.is_live(*other)).count();
            relation.has_more && live <= self.spec.fan_out
        };
        self.asked.clear();
        for place in places {
            let most = match graph.links.get(place) {
                None => self.spec.fan_out.saturating_add(SPARE),
                Some(told) if told.iter().any(is_short) => {
                    self.most.get(place).copied().unwrap_or_default().saturating_mul(MORE)
                }
                Some(_) => continue,
            };
            self.most.insert(*place, most);
            self.asked.push(*place);
        }
        let node = |(number, way): &(u64, usize)| {
            let most = self.most.get(&(*number, *way)).copied().unwrap_or_default();
            Some((graph.name(*number)?.clone(), *way as u16, most))
        };
        let nodes: Vec<_> = self.asked.iter().filter_map(node).collect();
        let named = |relations: &Vec<u32>| {
            relations.iter().filter_map(|number| graph.relations.get(*number as usize).cloned()).collect()
        };
        let ways = graph.ways.iter();
        (!nodes.is_empty()).then(|| LinksRequest {
            min_weight: self.spec.min_weight,
            as_of: self.spec.as_of.unwrap_or(graph.now),
            edge_filter: self.spec.edge_filter.clone(),
            ways: ways.map(|(side, wanted)| (*side, wanted.as_ref().map_or_else(Vec::new, named))).collect(),
            nodes,
        })
    }

    /// Takes what was told of the edges that were [`wanted`](Self::wanted), in that order.
    pub fn add(&mut self, told: Vec<ToldLinks>) {
        self.told = std::mem::take(&mut self.asked);
        for ((number, way), told) in self.told.iter().zip(told) {
            self.walk.links.add(*number, *way, told);
        }
    }

    /// Those at other ends of whom it is not known whether they are there.
    pub fn unknown(&self) -> Vec<EntityKey> {
        let graph = &self.walk.links;
        let numbers = 0..graph.names.len() as u64;
        let unknown = numbers.zip(&graph.names).filter(|(number, _)| !graph.live.contains_key(number));
        unknown.map(|(_, name)| name.clone()).collect()
    }

    /// Takes which of those that were asked for are there, with their rows.
    pub fn note_live<'s>(
        &mut self,
        asked: Vec<EntityKey>,
        live: impl IntoIterator<Item = (&'s EntityKey, &'s EntityState)>,
    ) {
        let graph = &mut self.walk.links;
        for name in asked {
            let number = graph.number(&name);
            graph.live.insert(number, false);
        }
        for (name, state) in live {
            let number = graph.number(name);
            graph.live.insert(number, true);
            let cleared = state.row.cleared(Scope::Edges);
            if cleared > Version::ZERO {
                graph.cleared.insert(number, cleared);
            }
        }
    }

    /// Those who told last of edges that may have gone with their other ends.
    pub fn doubtful(&self) -> Vec<EntityKey> {
        let graph = &self.walk.links;
        let is_doubtful = |place: &&(u64, usize)| {
            let mut links =
                graph.links.get(*place).into_iter().flatten().flat_map(|relation| &relation.links);
            links.any(|(other, ..)| graph.cleared.contains_key(other))
        };
        let doubtful = self.told.iter().filter(is_doubtful);
        let mut doubtful: Vec<EntityKey> =
            doubtful.filter_map(|(number, _)| graph.name(*number).cloned()).collect();
        doubtful.dedup();
        doubtful
    }

    /// Leaves out edges that have gone with their other ends, as the states of the [`doubtful`](Self::doubtful) tell, with their edges.
    pub fn confirm(&mut self, states: &[(EntityKey, EntityState)]) {
        for (name, state) in states {
            let number = self.walk.links.number(name);
            for place in self.told.iter().filter(|(of, _)| *of == number) {
                let Some((side, _)) = self.walk.links.ways.get(place.1) else { continue };
                let registers = state.edges_at(*side);
                let mut told = self.walk.links.links.remove(place).unwrap_or_default();
                let graph = &self.walk.links;
                for NumberedRelation { relation, links, .. } in &mut told {
                    links.retain(|(other, edge_id, _)| {
                        let Some(cleared) = graph.cleared.get(other) else { return true };
                        let key = graph.edge_key(*relation, *other, edge_id);
                        let register = key.and_then(|key| registers.get(&key));
                        register.is_some_and(|register| register.version > *cleared)
                    });
                }
                self.walk.links.links.insert(*place, told);
            }
        }
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
