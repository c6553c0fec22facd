//! All edges of one entity, page by page.
//!
//! In no order that callers may count on, but in one that an edge keeps its place in as long as its weight is the same: so each edge that is there all
//! the time is told once. A node that is alone goes by the order of its graph, where numbers stand for names; of several replicas the names decide.

use std::{cmp::Ordering, ops::ControlFlow};

use serde::{Deserialize, Serialize};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        GraphReader, Neighbor, Neighborhood, NeighborsRequest,
        adjacency::Side,
        neighbors::sides,
        reader::{Seen, Stop},
    },
    replica::Reader,
    row::{EdgeKey, EntityKey},
};

/// Edges between two looks at the clock.
const DEADLINE_EVERY: usize = 256;

/// Which of an entity's edges are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum NeighborPages {
    /// The heaviest.
    #[default]
    Heaviest,
    /// All of them, page by page: those behind this place, or the first.
    After(Option<NeighborPlace>),
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeighborPlace(Place);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Place {
    /// By side and relation, the heaviest first, then by the other end.
    Numbered { side: Side, relation: u32, weight: f64, other: u64, edge_id: String },
    /// By side, relation, other end and edge id.
    Named { side: Side, relation: String, other: EntityKey, edge_id: String },
}

impl NeighborPlace {
    /// As it is given to callers.
    ///
    /// # Errors
    /// Never: what it holds can be written.
    pub fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_allocvec(&self.0)
            .map_err(|error| Error::Internal(format!("a place cannot be written: {error}")))
    }

    /// The inverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        postcard::from_bytes(bytes).map(Self).map_err(|_| wrong())
    }

    /// An edge's place, as several replicas tell of it.
    pub(crate) fn named(side: Side, key: &EdgeKey, other: &EntityKey) -> Self {
        Self(Place::Named {
            side,
            relation: key.relation.clone(),
            other: other.clone(),
            edge_id: key.edge_id.clone(),
        })
    }

    /// Whether an edge is behind the place where a page ended, as several replicas tell of it.
    ///
    /// # Errors
    /// If a node that was alone has made it.
    pub(crate) fn is_behind(&self, ended: &Self) -> Result<bool> {
        Ok(by_names(&self.0).ok_or_else(wrong)? > by_names(&ended.0).ok_or_else(wrong)?)
    }

    /// The order in which several replicas tell of edges.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        by_names(&self.0).cmp(&by_names(&other.0))
    }
}

fn by_names(place: &Place) -> Option<(Side, &str, &EntityKey, &str)> {
    match place {
        Place::Named { side, relation, other, edge_id } => Some((*side, relation, other, edge_id)),
        Place::Numbered { .. } => None,
    }
}

fn wrong() -> Error {
    Error::invalid("page_token", "is of another node, which was alone, or of before there were others")
}

/// Whether an edge of the graph here is behind a place.
fn is_behind(seen: &Seen<'_>, place: &Place) -> Result<bool> {
    let Place::Numbered { side, relation, weight, other, edge_id } = place else { return Err(wrong()) };
    let order = (seen.side, seen.relation)
        .cmp(&(*side, *relation))
        .then_with(|| weight.total_cmp(&seen.value.weight))
        .then_with(|| (seen.other, seen.edge_id).cmp(&(*other, edge_id)));
    Ok(order == Ordering::Greater)
}

impl Reader<'_> {
    /// A page of the edges of a node.
    pub(super) fn page_of_neighbors(
        &self,
        graph: &GraphReader<'_>,
        own: u64,
        request: &NeighborsRequest,
        after: Option<&NeighborPlace>,
        deadline: Deadline,
    ) -> Result<Neighborhood> {
        let as_of = request.as_of.unwrap_or(self.now);
        let relations = graph.relations(&request.relations);
        let (mut found, mut has_more, mut failure, mut looked_at) = (Vec::new(), false, None, 0_usize);
        for side in sides(request.direction) {
            let flow = graph.edges(own, *side, relations.as_deref(), &mut |seen| {
                looked_at += 1;
                let is_late = looked_at.is_multiple_of(DEADLINE_EVERY) && deadline.has_passed();
                let Some(seen) = seen.filter(|_| !is_late) else {
                    failure = is_late.then_some(Error::DeadlineExceeded);
                    return if is_late { ControlFlow::Break(Stop::All) } else { ControlFlow::Continue(()) };
                };
                if seen.value.weight < request.min_weight {
                    return ControlFlow::Break(Stop::Relation);
                }
                let behind = after.map_or(Ok(true), |NeighborPlace(place)| is_behind(seen, place));
                match behind {
                    Err(error) => {
                        failure = Some(error);
                        return ControlFlow::Break(Stop::All);
                    }
                    Ok(is_behind) if !is_behind || !(request.any_time || seen.value.holds_at(as_of)) => {
                        return ControlFlow::Continue(());
                    }
                    Ok(_) if found.len() == request.limit => {
                        has_more = true;
                        return ControlFlow::Break(Stop::All);
                    }
                    Ok(_) => {}
                }
                found.push(Place::Numbered {
                    side: seen.side,
                    relation: seen.relation,
                    weight: seen.value.weight,
                    other: seen.other,
                    edge_id: seen.edge_id.to_owned(),
                });
                ControlFlow::Continue(())
            })?;
            if flow.is_break() {
                break;
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let mut answer = Neighborhood::default();
        for place in &found {
            let Place::Numbered { side, relation, other, edge_id, .. } = place else { continue };
            let edge = self.edge(graph, (own, *side, *relation, *other), edge_id)?;
            answer.neighbors.extend(edge.map(|edge| Neighbor { edge, direction: (*side).into() }));
        }
        answer.next = found.pop().filter(|_| has_more).map(NeighborPlace);
        Ok(answer)
    }
}
