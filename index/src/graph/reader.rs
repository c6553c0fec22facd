//! The graph at one moment: who is there, and the edges of a node from all that is fresh and all that is sealed.

use std::{cmp::Ordering, ops::ControlFlow};

use allidb_storage::Sequence;
use foldhash::HashSet;

use crate::{
    error::{Error, Result},
    graph::{
        adjacency::{EdgeName, EdgeValue, Group, Side},
        index::{GraphIndex, GraphView},
        nodes::NodesView,
        segment::{GraphSegment, Record},
    },
    model::{CollectionId, Timestamp},
    row::EntityKey,
};

/// The graph as of a sequence of the log.
pub(crate) struct GraphReader<'a> {
    index: &'a GraphIndex,
    view: GraphView,
    nodes: NodesView<'a>,
    at: Sequence,
    /// Who has expired by then is not there.
    pub(crate) now: Timestamp,
    /// Edges that lead out of these collections are as if they were not; `None`: all are seen.
    only: Option<HashSet<CollectionId>>,
}

/// An edge seen from one of its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) side: Side,
    pub(crate) relation: u32,
    /// The node at the other end.
    pub(crate) other: u64,
    pub(crate) edge_id: &'a str,
    pub(crate) value: EdgeValue,
    /// Whether there is an entity at the other end.
    pub(crate) other_is_live: bool,
}

/// Edges of one relation at one side of a node, from one place.
enum List<'a> {
    Fresh(Vec<(EdgeName, Sequence, Option<EdgeValue>)>),
    Sealed(Group<'a>, Sequence),
}

/// A list read by weight, heaviest first; ties in the order of names.
struct Cursor<'a> {
    list: List<'a>,
    order: Order,
    next: usize,
}

enum Order {
    /// All weigh the same.
    Natural,
    /// As the segment has it.
    Kept,
    Sorted(Vec<u32>),
}

impl<'a> List<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Fresh(edges) => edges.len(),
            Self::Sealed(group, _) => group.len(),
        }
    }

    /// `None`: the edge is no more.
    fn value(&self, at: usize) -> Option<EdgeValue> {
        match self {
            Self::Fresh(edges) => edges[at].2,
            Self::Sealed(group, _) => (!group.is_dead(at)).then(|| group.value(at)),
        }
    }

    fn name(&self, at: usize) -> (u64, &str) {
        match self {
            Self::Fresh(edges) => (edges[at].0.other, &edges[at].0.edge_id),
            Self::Sealed(group, _) => (group.other(at), group.edge_id(at)),
        }
    }

    fn age(&self, at: usize) -> Sequence {
        match self {
            Self::Fresh(edges) => edges[at].1,
            Self::Sealed(_, covered) => *covered,
        }
    }

    fn has(&self, (other, edge_id): (u64, &str)) -> bool {
        match self {
            Self::Fresh(edges) => edges
                .binary_search_by(|(name, ..)| (name.other, &*name.edge_id).cmp(&(other, edge_id)))
                .is_ok(),
            Self::Sealed(group, _) => group.has(other, edge_id),
        }
    }

    fn by_weight(self) -> Cursor<'a> {
        let order = match &self {
            Self::Sealed(group, _) if group.one_weight().is_some() => Order::Natural,
            Self::Sealed(group, _) if group.heaviest(0).is_some() => Order::Kept,
            list => {
                let weight = |at: &u32| list.value(*at as usize).map_or(0.0, |value| value.weight);
                let mut order: Vec<u32> = (0..list.len() as u32).collect();
                order.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
                Order::Sorted(order)
            }
        };
        Cursor { list: self, order, next: 0 }
    }
}

impl Cursor<'_> {
    /// The place of the next edge, and what it is; those that are no more are among them.
    fn peek(&self) -> Option<(usize, Option<EdgeValue>)> {
        if self.next == self.list.len() {
            return None;
        }
        let at = self.place(self.next);
        Some((at, self.list.value(at)))
    }

    /// The place of the `nth` heaviest.
    fn place(&self, nth: usize) -> usize {
        match (&self.order, &self.list) {
            (Order::Sorted(order), _) => order[nth] as usize,
            (Order::Kept, List::Sealed(group, _)) => group.heaviest(nth).unwrap_or(nth),
            _ => nth,
        }
    }
}

impl<'a> GraphReader<'a> {
    /// The graph as of `at`, which the view fits.
    pub(crate) fn new(index: &'a GraphIndex, view: GraphView, at: Sequence, now: Timestamp) -> Self {
        Self { index, nodes: index.nodes.view(at), view, at, now, only: None }
    }

    /// The same, where only nodes of these collections are seen from others; `None`: all.
    pub(crate) fn only(self, collections: Option<HashSet<CollectionId>>) -> Self {
        Self { only: collections, ..self }
    }

    /// Whether all nodes are seen from others.
    pub(crate) fn sees_all(&self) -> bool {
        self.only.is_none()
    }

    /// Whether a node may be seen at the other end of an edge. One whose name cannot be read may not, unless all may.
    #[inline]
    pub(crate) fn is_seen(&self, number: u64) -> bool {
        let is_one = |only: &HashSet<CollectionId>| {
            self.name(number).is_ok_and(|name| name.is_some_and(|name| only.contains(&name.collection)))
        };
        self.only.as_ref().is_none_or(is_one)
    }

    /// The numbers of relations, those left out that no edge ever had; `None`: all relations.
    pub(crate) fn relations(&self, names: &[String]) -> Option<Vec<u32>> {
        let known = names.iter().filter_map(|name| self.index.relations.get(name));
        (!names.is_empty()).then(|| known.collect())
    }

    /// The name of a relation.
    pub(crate) fn relation_name(&self, number: u32) -> Result<std::sync::Arc<str>> {
        let unknown = || Error::Internal(format!("relation {number} has no name"));
        self.index.relations.name(number).ok_or_else(unknown)
    }

    /// Whether there is an entity of this number.
    #[inline]
    pub(crate) fn is_live(&self, number: u64) -> bool {
        match self.nodes.is_plainly_live(number) {
            Some(is_live) => is_live,
            None => self.nodes.get(number).is_live(self.now),
        }
    }

    /// Whether there was an entity of this number that has expired.
    pub(crate) fn is_expired(&self, number: u64) -> bool {
        let state = self.nodes.get(number);
        state.exists && !state.is_live(self.now)
    }

    /// Whose number it is, or was; `None`: nobody's any more.
    pub(crate) fn name(&self, number: u64) -> Result<Option<EntityKey>> {
        // Of a number that was found to be gone in a replay the name is not known there.
        let is_known = |name: &EntityKey| !name.id.is_empty();
        for growing in self.view.growing.iter().rev() {
            let reading = growing.read();
            let state = reading.node(number).and_then(|node| node.state.as_ref());
            if let Some((name, _)) = state.filter(|(name, _)| is_known(name)) {
                return Ok(Some(name.clone()));
            }
        }
        for segment in self.view.sealed.iter().rev() {
            if let Some(record) = segment.record(number)? {
                let name = record.name().map_err(|error| segment.damaged(error))?;
                if let Some(name) = name.filter(is_known) {
                    return Ok(Some(name));
                }
            }
        }
        // Of whom there is nothing in segments the store knows the name, as long as it is one.
        self.index.stored_name(number)
    }

    /// What is known of a node's edges if one segment knows all: by far the most frequent case.
    fn alone(&self, number: u64, side: Side) -> Result<Places<'_>> {
        let mut found = None;
        for segment in self.view.sealed.iter().rev() {
            if let Some(record) = segment.record(number)?
                && record.has_edges(side)
            {
                if found.is_some() {
                    return Ok(Places::Several);
                }
                found = Some((&**segment, record));
            }
        }
        for growing in &self.view.growing {
            if growing.read().node(number).is_some_and(|node| node.has_edges(side)) {
                return Ok(Places::Several);
            }
        }
        Ok(found.map_or(Places::None, |(segment, record)| Places::One(segment, record)))
    }

    /// Calls `each` with the other ends of a node's edges that weigh enough and hold at a time, live or not, in no order and as often
    /// as there are edges; with `None` for each other edge that was looked at.
    pub(crate) fn others(
        &self,
        number: u64,
        side: Side,
        (relations, min_weight, as_of): (Option<&[u32]>, f64, Timestamp),
        each: &mut impl FnMut(Option<u64>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if let Places::One(segment, record) = self.alone(number, side)?
            && self.nodes.get(number).cleared <= segment.covered()
        {
            for group in record.groups(side) {
                let group = group.map_err(|error| segment.damaged(error))?;
                if relations.is_some_and(|wanted| !wanted.contains(&group.relation)) {
                    continue;
                }
                let is_plain =
                    group.is_plain() && group.one_weight().is_some_and(|weight| weight >= min_weight);
                let is_followed = |at: usize| {
                    let value = group.value(at);
                    !group.is_dead(at) && value.weight >= min_weight && value.holds_at(as_of)
                };
                for at in 0..group.len() {
                    let other = group.other(at);
                    // Cleared edges of plain nodes there are none.
                    let is_there = self.nodes.is_plainly_live(other).is_some()
                        || self.nodes.get(other).cleared <= segment.covered();
                    let is_there = is_there && (is_plain || is_followed(at));
                    if each(is_there.then_some(other)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        self.edges(number, side, relations, &mut |seen| {
            if seen.is_some_and(|seen| seen.value.weight < min_weight) {
                return ControlFlow::Break(Stop::Relation);
            }
            let other = seen.filter(|seen| seen.value.holds_at(as_of)).map(|seen| seen.other);
            each(other).map_break(|()| Stop::All)
        })
    }

    /// Calls `each` with the edges of a node on one side: relation by relation, of each the heaviest first; ties by the other ends'
    /// numbers, which are older entities' first, and by edge ids. `None`: one that is no more, or that nobody sees.
    pub(crate) fn edges(
        &self,
        number: u64,
        side: Side,
        relations: Option<&[u32]>,
        each: &mut dyn FnMut(Option<&Seen<'_>>) -> ControlFlow<Stop>,
    ) -> Result<ControlFlow<()>> {
        let cleared = self.nodes.get(number).cleared;
        let is_wanted = |relation: u32| relations.is_none_or(|wanted| wanted.contains(&relation));
        if let Places::One(segment, record) = self.alone(number, side)? {
            if cleared > segment.covered() {
                return Ok(ControlFlow::Continue(()));
            }
            for group in record.groups(side) {
                let group = group.map_err(|error| segment.damaged(error))?;
                if is_wanted(group.relation) && self.single(side, group, segment.covered(), each).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        for (relation, lists) in self.lists(number, side, &is_wanted)? {
            if self.merged(cleared, side, relation, lists, each).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The edges of a node by relations, those of each from every place, newest first.
    fn lists(
        &self,
        number: u64,
        side: Side,
        is_wanted: &dyn Fn(u32) -> bool,
    ) -> Result<Vec<(u32, Vec<List<'_>>)>> {
        let mut lists: Vec<(u32, Vec<List<'_>>)> = Vec::new();
        let mut add = |relation: u32, list| match lists.binary_search_by_key(&relation, |(of, _)| *of) {
            Ok(at) => lists[at].1.push(list),
            Err(at) => lists.insert(at, (relation, vec![list])),
        };
        for growing in self.view.growing.iter().rev() {
            let reading = growing.read();
            let Some(node) = reading.node(number) else { continue };
            let edges = node.edges(side, self.at).map(|(name, born, value)| (name.clone(), born, value));
            let edges: Vec<_> = edges.filter(|(name, ..)| is_wanted(name.relation)).collect();
            for of_relation in edges.chunk_by(|a, b| a.0.relation == b.0.relation) {
                add(of_relation[0].0.relation, List::Fresh(of_relation.to_vec()));
            }
        }
        for segment in self.view.sealed.iter().rev() {
            let Some(record) = segment.record(number)? else { continue };
            for group in record.groups(side) {
                let group = group.map_err(|error| segment.damaged(error))?;
                if is_wanted(group.relation) {
                    add(group.relation, List::Sealed(group, segment.covered()));
                }
            }
        }
        Ok(lists)
    }

    /// The edges of one list that nothing is newer than.
    fn single(
        &self,
        side: Side,
        group: Group<'_>,
        covered: Sequence,
        each: &mut dyn FnMut(Option<&Seen<'_>>) -> ControlFlow<Stop>,
    ) -> ControlFlow<()> {
        let cursor = List::Sealed(group, covered).by_weight();
        for nth in 0..group.len() {
            let at = cursor.place(nth);
            let name = (group.other(at), group.edge_id(at));
            let value = (!group.is_dead(at)).then(|| group.value(at));
            let seen = value.and_then(|value| self.seen(side, group.relation, name, value, covered));
            match each(seen.as_ref()) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Stop::Relation) => break,
                ControlFlow::Break(Stop::All) => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    /// The edge, if somebody sees it: what is known of its other end may hide it.
    fn seen<'n>(
        &self,
        side: Side,
        relation: u32,
        (other, edge_id): (u64, &'n str),
        value: EdgeValue,
        age: Sequence,
    ) -> Option<Seen<'n>> {
        let state = self.nodes.get(other);
        let is_expired = state.exists && !state.is_live(self.now);
        let is_seen = !state.gone && !is_expired && age >= state.cleared && self.is_seen(other);
        is_seen.then_some(Seen { side, relation, other, edge_id, value, other_is_live: state.exists })
    }

    /// What several lists, newest first, come to: of several edges of one name the newest counts.
    fn merged(
        &self,
        cleared: Sequence,
        side: Side,
        relation: u32,
        lists: Vec<List<'_>>,
        each: &mut dyn FnMut(Option<&Seen<'_>>) -> ControlFlow<Stop>,
    ) -> ControlFlow<()> {
        let mut cursors: Vec<Cursor<'_>> = lists.into_iter().map(List::by_weight).collect();
        loop {
            let mut best: Option<(usize, usize, Option<EdgeValue>)> = None;
            let weight = |value: Option<EdgeValue>| value.map_or(1.0, |value| value.weight);
            for place in 0..cursors.len() {
                let Some((at, value)) = cursors[place].peek() else { continue };
                let is_better = best.is_none_or(|(other, other_at, other_value)| {
                    let by_weight = weight(value).total_cmp(&weight(other_value));
                    let by_name = || cursors[other].list.name(other_at).cmp(&cursors[place].list.name(at));
                    by_weight.then_with(by_name) == Ordering::Greater
                });
                if is_better {
                    best = Some((place, at, value));
                }
            }
            let Some((place, at, value)) = best else { return ControlFlow::Continue(()) };
            cursors[place].next += 1;
            let list = &cursors[place].list;
            let name = list.name(at);
            let is_replaced = || cursors[..place].iter().any(|newer| newer.list.has(name));
            let seen = value.filter(|_| list.age(at) >= cleared && !is_replaced());
            let seen = seen.and_then(|value| self.seen(side, relation, name, value, list.age(at)));
            match each(seen.as_ref()) {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Stop::Relation) => return ControlFlow::Continue(()),
                ControlFlow::Break(Stop::All) => return ControlFlow::Break(()),
            }
        }
    }
}

/// What to go on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The rest of the relation.
    Relation,
    /// All that would come.
    All,
}

/// Where the edges of a node on a side are.
enum Places<'a> {
    None,
    One(&'a GraphSegment, Record<'a>),
    Several,
}
