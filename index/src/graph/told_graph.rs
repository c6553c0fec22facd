//! A graph that lies on several nodes, as far as they have told of it.
//!
//! Algorithms run over what is known. What they come upon that is not is asked for, and they run on, or again, until they lack nothing.

use std::{cell::RefCell, collections::BTreeSet, ops::ControlFlow};

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
    },
    merge::EntityState,
    model::{CollectionSet, Timestamp},
    row::{EdgeKey, EntityKey, Scope},
    version::Version,
};

/// Edges of a relation that are asked for beyond those that are followed: some may lead to who is gone.
const SPARE: usize = 16;
/// How many times as many are asked for when that was too few.
const MORE: usize = 8;

/// A node of the graph, and which of its edges.
pub(super) type NodeWay = (u64, usize);

/// Which edges are asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) min_weight: f64,
    pub(super) as_of: Timestamp,
    pub(super) edge_filter: Option<Filter>,
    pub(super) collections: CollectionSet,
    /// So many of each relation at most.
    pub(super) fan_out: usize,
}

/// What nodes told of the graph. Its numbers are its own.
pub struct ToldGraph {
    wanted: Wanted,
    names: Vec<EntityKey>,
    numbers: HashMap<EntityKey, u64>,
    relations: Vec<String>,
    /// Those who are known to be there or not.
    live: HashMap<u64, bool>,
    /// Up to when those lost their edges who were gone once. Whoever tells of an edge from its other end may not have heard of that.
    cleared: HashMap<u64, Version>,
    ways: Vec<(Side, Option<Vec<u32>>)>,
    links: HashMap<NodeWay, Vec<NumberedRelation>>,
    /// What was asked for last, and then told.
    asked: Vec<NodeWay>,
    told: Vec<NodeWay>,
    /// How many edges of a relation were asked for.
    most: HashMap<NodeWay, usize>,
    /// What somebody looked for who did not find it.
    missed: RefCell<BTreeSet<NodeWay>>,
}

struct NumberedRelation {
    relation: u32,
    links: Vec<(u64, Box<str>, f64)>,
    has_more: bool,
}

/// Something that is found out over what nodes tell. Whoever does it asks them for what is [`wanted`](Self::wanted), finds out which of the
/// [`unknown`](ToldGraph::unknown) are there, and which of the [`doubtful`](ToldGraph::doubtful) edges, until nothing is.
pub trait Explore {
    /// Goes on as far as it can with what was told; gives the edges that it needs to go on. `None`: it is at its end.
    ///
    /// # Errors
    /// If the deadline has passed.
    fn wanted(&mut self) -> Result<Option<LinksRequest>>;

    /// What was told.
    fn graph(&mut self) -> &mut ToldGraph;
}

impl ToldGraph {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            names: Vec::new(),
            numbers: HashMap::new(),
            relations: Vec::new(),
            live: HashMap::new(),
            cleared: HashMap::new(),
            ways: Vec::new(),
            links: HashMap::new(),
            asked: Vec::new(),
            told: Vec::new(),
            most: HashMap::new(),
            missed: RefCell::default(),
        }
    }

    /// The number of somebody who is there.
    pub(super) fn live_number(&mut self, name: &EntityKey) -> u64 {
        let number = self.number(name);
        self.live.insert(number, true);
        number
    }

    /// Edges on a side, of these relations, are going to be looked for.
    pub(super) fn add_way(&mut self, side: Side, relations: Option<&[u32]>) {
        if self.way(side, relations).is_none() {
            self.ways.push((side, relations.map(<[u32]>::to_vec)));
        }
    }

    /// How many ways there are to go.
    pub(super) fn ways(&self) -> usize {
        self.ways.len()
    }

    /// What somebody looked for who did not find it, since this was asked last.
    pub(super) fn missed(&mut self) -> Vec<NodeWay> {
        std::mem::take(self.missed.get_mut()).into_iter().collect()
    }

    /// Asks for what is not known of these, or not enough of.
    pub(super) fn ask(&mut self, places: &[NodeWay]) -> Option<LinksRequest> {
        let is_short = |relation: &NumberedRelation| {
            let live = relation.links.iter().filter(|(other, ..)| self.is_live(*other)).count();
            relation.has_more && live <= self.wanted.fan_out
        };
        let most_of = |place: &NodeWay| match self.links.get(place) {
            None => Some(self.wanted.fan_out.saturating_add(SPARE)),
            Some(told) if told.iter().any(is_short) => {
                Some(self.most.get(place).copied().unwrap_or_default().saturating_mul(MORE))
            }
            Some(_) => None,
        };
        let asked: Vec<(NodeWay, usize)> =
            places.iter().filter_map(|place| Some((*place, most_of(place)?))).collect();
        self.asked = asked.iter().map(|(place, _)| *place).collect();
        self.most.extend(asked);
        let node = |(number, way): &NodeWay| {
            let most = self.most.get(&(*number, *way)).copied().unwrap_or_default();
            Some((self.name(*number)?.clone(), *way as u16, most))
        };
        let nodes: Vec<_> = self.asked.iter().filter_map(node).collect();
        let named = |relations: &Vec<u32>| {
            relations.iter().filter_map(|number| self.relations.get(*number as usize).cloned()).collect()
        };
        let ways = self.ways.iter();
        (!nodes.is_empty()).then(|| LinksRequest {
            min_weight: self.wanted.min_weight,
            as_of: self.wanted.as_of,
            edge_filter: self.wanted.edge_filter.clone(),
            collections: self.wanted.collections.clone(),
            ways: ways.map(|(side, wanted)| (*side, wanted.as_ref().map_or_else(Vec::new, named))).collect(),
            nodes,
        })
    }

    /// Takes what was told of the edges that were wanted, in that order.
    pub fn add(&mut self, told: Vec<ToldLinks>) {
        self.told = std::mem::take(&mut self.asked);
        for ((number, way), told) in self.told.clone().into_iter().zip(told) {
            self.add_links(number, way, told);
        }
    }

    /// Those at other ends of whom it is not known whether they are there.
    pub fn unknown(&self) -> Vec<EntityKey> {
        let numbers = 0..self.names.len() as u64;
        let unknown = numbers.zip(&self.names).filter(|(number, _)| !self.live.contains_key(number));
        unknown.map(|(_, name)| name.clone()).collect()
    }

    /// Takes which of those that were asked for are there, with their rows.
    pub fn note_live<'s>(
        &mut self,
        asked: Vec<EntityKey>,
        live: impl IntoIterator<Item = (&'s EntityKey, &'s EntityState)>,
    ) {
        for name in asked {
            let number = self.number(&name);
            self.live.insert(number, false);
        }
        for (name, state) in live {
            let number = self.number(name);
            self.live.insert(number, true);
            let cleared = state.row.cleared(Scope::Edges);
            if cleared > Version::ZERO {
                self.cleared.insert(number, cleared);
            }
        }
    }

    /// Those who told last of edges that may have gone with their other ends.
    pub fn doubtful(&self) -> Vec<EntityKey> {
        let is_doubtful = |place: &&NodeWay| {
            let mut links = self.links.get(*place).into_iter().flatten().flat_map(|relation| &relation.links);
            links.any(|(other, ..)| self.cleared.contains_key(other))
        };
        let doubtful = self.told.iter().filter(is_doubtful);
        let mut doubtful: Vec<EntityKey> =
            doubtful.filter_map(|(number, _)| self.name(*number).cloned()).collect();
        doubtful.dedup();
        doubtful
    }

    /// Leaves out edges that have gone with their other ends, as the states of the [`doubtful`](Self::doubtful) tell, with their edges.
    pub fn confirm(&mut self, states: &[(EntityKey, EntityState)]) {
        for (name, state) in states {
            let number = self.number(name);
            for place in self.told.clone().into_iter().filter(|(of, _)| *of == number) {
                let Some((side, _)) = self.ways.get(place.1) else { continue };
                let registers = state.edges_at(*side);
                let mut told = self.links.remove(&place).unwrap_or_default();
                for NumberedRelation { relation, links, .. } in &mut told {
                    links.retain(|(other, edge_id, _)| {
                        let Some(cleared) = self.cleared.get(other) else { return true };
                        let key = self.edge_key(*relation, *other, edge_id);
                        let register = key.and_then(|key| registers.get(&key));
                        register.is_some_and(|register| register.version > *cleared)
                    });
                }
                self.links.insert(place, told);
            }
        }
    }

    fn number(&mut self, name: &EntityKey) -> u64 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u64;
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    pub(super) fn name(&self, number: u64) -> Option<&EntityKey> {
        self.names.get(usize::try_from(number).ok()?)
    }

    pub(super) fn relation(&mut self, name: &str) -> u32 {
        let known = self.relations.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.relations.push(name.to_owned());
            self.relations.len() - 1
        }) as u32
    }

    pub(super) fn way(&self, side: Side, relations: Option<&[u32]>) -> Option<usize> {
        self.ways.iter().position(|(of, wanted)| *of == side && wanted.as_deref() == relations)
    }

    fn is_live(&self, number: u64) -> bool {
        self.live.get(&number).copied().unwrap_or_default()
    }

    /// The name of an edge as the end has it from which it is followed.
    pub(super) fn edge_key(&self, relation: u32, other: u64, edge_id: &str) -> Option<EdgeKey> {
        let other = self.name(other)?;
        Some(EdgeKey {
            relation: self.relations.get(relation as usize)?.clone(),
            collection: other.collection,
            other: other.id.clone(),
            edge_id: edge_id.to_owned(),
        })
    }

    fn add_links(&mut self, node: u64, way: usize, told: ToldLinks) {
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
        self.wanted.as_of
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
        let Some(way) = self.way(side, relations) else { return Ok(ControlFlow::Continue(())) };
        let told = self.links.get(&(number, way));
        if told.is_none() {
            self.missed.borrow_mut().insert((number, way));
        }
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

    /// What is not to be known is not told.
    fn may_count_all(&self) -> bool {
        true
    }

    /// Those who told it looked at the filter.
    fn meets(&self, _: Met, _: &str, _: &Filter) -> Result<bool> {
        Ok(true)
    }
}
