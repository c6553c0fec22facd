//! The edges of nodes, as those tell them who hold them.

use std::ops::ControlFlow;

use foldhash::HashSet;
use serde::{Deserialize, Serialize};

use crate::{
    deadline::Deadline,
    error::Result,
    filter::Filter,
    graph::{
        GraphReader,
        adjacency::Side,
        links::{Here, Links},
        reader::Stop,
    },
    model::{CollectionSet, TenantId, Timestamp},
    replica::{Reader, Replica},
    row::EntityKey,
};

/// Edges, and their bytes, that one answer tells at most, but those of one node it tells all.
const MAX_TOLD: usize = 100_000;
const MAX_TOLD_BYTES: usize = 16 << 20;
/// Edges between two looks at the clock.
const DEADLINE_EVERY: usize = 256;

/// Asks for the edges of some nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinksRequest {
    pub(super) min_weight: f64,
    pub(super) as_of: Timestamp,
    pub(super) edge_filter: Option<Filter>,
    /// Edges that lead out of these are not told.
    pub(super) collections: CollectionSet,
    /// Which sides and relations, of which all if none is named.
    pub(super) ways: Vec<(Side, Vec<String>)>,
    /// Whose, which of the ways, and how many edges of each relation at least, if there are so many.
    pub(super) nodes: Vec<(EntityKey, u16, usize)>,
}

/// The edges of one node one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToldLinks(pub(super) Vec<ToldRelation>);

/// Of one relation the heaviest, ties in the order of names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ToldRelation {
    pub(super) name: String,
    pub(super) links: Vec<ToldLink>,
    /// Whether there are more.
    pub(super) has_more: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ToldLink {
    pub(super) other: EntityKey,
    pub(super) edge_id: String,
    pub(super) weight: f64,
}

impl ToldLink {
    /// Bytes that it takes on the way, about.
    fn bytes(&self) -> usize {
        32 + self.other.id.len() + self.edge_id.len()
    }
}

impl LinksRequest {
    /// Whose edges are asked for.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &EntityKey> {
        self.nodes.iter().map(|(node, ..)| node)
    }

    /// The same, of these of its nodes alone.
    #[must_use]
    pub fn of(&self, places: impl IntoIterator<Item = usize>) -> Self {
        let nodes = places.into_iter().filter_map(|place| self.nodes.get(place).cloned()).collect();
        let (ways, edge_filter) = (self.ways.clone(), self.edge_filter.clone());
        Self { nodes, ways, edge_filter, collections: self.collections.clone(), ..*self }
    }
}

impl ToldLinks {
    /// What two nodes tell together, who do not agree: a change that one of them has not heard of yet may be there or not.
    pub fn join(&mut self, other: Self) {
        for theirs in other.0 {
            let Some(ours) = self.0.iter_mut().find(|ours| ours.name == theirs.name) else {
                self.0.push(theirs);
                continue;
            };
            let known: HashSet<(EntityKey, String)> =
                ours.links.iter().map(|link| (link.other.clone(), link.edge_id.clone())).collect();
            let is_new = |link: &ToldLink| !known.contains(&(link.other.clone(), link.edge_id.clone()));
            ours.links.extend(theirs.links.into_iter().filter(is_new));
            ours.links.sort_by(heaviest_first);
            ours.has_more |= theirs.has_more;
        }
        self.0.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

fn heaviest_first(a: &ToldLink, b: &ToldLink) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then_with(|| (&a.other, &a.edge_id).cmp(&(&b.other, &b.edge_id)))
}

impl Replica {
    /// The edges of as many of the first nodes as fit into an answer, but of one at least. Who is at their other ends, and whether they
    /// are there, is not looked at.
    ///
    /// # Errors
    /// If a segment or a row cannot be read, or the deadline has passed.
    pub fn links(
        &self,
        tenant: TenantId,
        request: &LinksRequest,
        deadline: Deadline,
    ) -> Result<Vec<ToldLinks>> {
        let (reader, graph) = self.graph_reader(tenant, &request.collections)?;
        let mut told = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        for (node, way, most) in &request.nodes {
            deadline.check()?;
            let links = match request.ways.get(usize::from(*way)) {
                Some(way) => reader.links(&graph, request, node, way, *most, deadline)?,
                None => ToldLinks::default(),
            };
            count += links.0.iter().map(|relation| relation.links.len()).sum::<usize>();
            bytes += links.0.iter().flat_map(|relation| &relation.links).map(ToldLink::bytes).sum::<usize>();
            if (count > MAX_TOLD || bytes > MAX_TOLD_BYTES) && !told.is_empty() {
                break;
            }
            told.push(links);
        }
        Ok(told)
    }
}

/// An edge whose other end goes by its number: that, its id and its weight.
type Numbered = (u64, Box<str>, f64);

impl Reader<'_> {
    fn links(
        &self,
        graph: &GraphReader<'_>,
        request: &LinksRequest,
        node: &EntityKey,
        (side, relations): &(Side, Vec<String>),
        most: usize,
        deadline: Deadline,
    ) -> Result<ToldLinks> {
        let mut told = ToldLinks::default();
        let Some(own) = self.number(node)? else { return Ok(told) };
        let here = Here { reader: self, graph };
        let relations = here.relations(relations);
        // By numbers first: names are told of those alone that are among the heaviest.
        let mut of_relation: Vec<(u32, Vec<Numbered>, bool)> = Vec::new();
        let (mut looked_at, mut failure) = (0, None);
        let flow = here.edges(own, *side, relations.as_deref(), &mut |seen| {
            looked_at += 1;
            if looked_at % DEADLINE_EVERY == 0
                && let Err(error) = deadline.check()
            {
                failure = Some(error);
                return ControlFlow::Break(Stop::All);
            }
            let Some(seen) = seen else { return ControlFlow::Continue(()) };
            if seen.value.weight < request.min_weight {
                return ControlFlow::Break(Stop::Relation);
            }
            if !seen.value.holds_at(request.as_of) {
                return ControlFlow::Continue(());
            }
            if let Some(filter) = &request.edge_filter {
                match here.meets((own, seen.side, seen.relation, seen.other), seen.edge_id, filter) {
                    Ok(true) => {}
                    Ok(false) => return ControlFlow::Continue(()),
                    Err(error) => {
                        failure = Some(error);
                        return ControlFlow::Break(Stop::All);
                    }
                }
            }
            if of_relation.last().is_none_or(|(relation, ..)| *relation != seen.relation) {
                of_relation.push((seen.relation, Vec::new(), false));
            }
            if let Some((_, links, has_more)) = of_relation.last_mut() {
                // Of those that are as heavy as the last one the names decide, which are not in this order.
                if links.len() >= most && links.last().is_some_and(|last| last.2 > seen.value.weight) {
                    *has_more = true;
                    return ControlFlow::Break(Stop::Relation);
                }
                links.push((seen.other, seen.edge_id.into(), seen.value.weight));
            }
            ControlFlow::Continue(())
        })?;
        if let (Some(error), ControlFlow::Break(())) = (failure, flow) {
            return Err(error);
        }
        for (relation, links, mut has_more) in of_relation {
            let mut named = Vec::with_capacity(links.len());
            for (at, (other, edge_id, weight)) in links.into_iter().enumerate() {
                if at % DEADLINE_EVERY == 0 {
                    deadline.check()?;
                }
                let Some(other) = graph.name(other)? else { continue };
                named.push(ToldLink { other, edge_id: edge_id.into(), weight });
            }
            named.sort_by(heaviest_first);
            has_more |= named.len() > most;
            named.truncate(most);
            told.0.push(ToldRelation {
                name: graph.relation_name(relation)?.to_string(),
                links: named,
                has_more,
            });
        }
        told.0.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(told)
    }
}
