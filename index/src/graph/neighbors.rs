//! The edges of one entity.

use std::{cmp::Ordering, ops::ControlFlow};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        GraphReader, Neighbor, NeighborPages, Neighborhood, NeighborsRequest, adjacency::Side, reader::Stop,
    },
    model::{Direction, Edge, EntityRef, Limits, TenantId, validate_id, validate_relation},
    query::{Truncation, TruncationReason},
    replica::{Reader, Replica, register},
    row::{EdgeContent, EdgeKey, EntityKey},
};

/// Most relations that one request may name.
const MAX_RELATIONS: usize = 1_000;

impl Reader<'_> {
    /// The edge as callers see it; `None` if the collection of one of its ends was dropped.
    pub(crate) fn edge(
        &self,
        graph: &GraphReader<'_>,
        (here, side, relation, there): (u64, Side, u32, u64),
        edge_id: &str,
    ) -> Result<Option<Edge>> {
        let (Some(here), Some(there)) = (graph.name(here)?, graph.name(there)?) else { return Ok(None) };
        let relation = graph.relation_name(relation)?;
        let (keyspace, label) = match side {
            Side::Out => (self.replica.keyspaces.edge, "edge"),
            Side::In => (self.replica.keyspaces.edge_in, "edge_in"),
        };
        let key = here.edge(&EdgeKey {
            relation: relation.to_string(),
            collection: there.collection,
            other: there.id.clone(),
            edge_id: edge_id.to_owned(),
        });
        let Some(bytes) = self.snapshot.get(keyspace, &key)? else { return Ok(None) };
        let register = register::<EdgeContent>(label, &key, &bytes)?;
        let name = |key: EntityKey| {
            let collection = self.catalogue.by_id(key.collection)?;
            Some(EntityRef { collection: collection.name.clone(), id: key.id })
        };
        let (Some(content), Some(here), Some(there)) = (register.value, name(here), name(there)) else {
            return Ok(None);
        };
        let (from, to) = if side == Side::In { (there, here) } else { (here, there) };
        Ok(Some(Edge {
            from,
            relation: relation.to_string(),
            to,
            edge_id: edge_id.to_owned(),
            weight: content.weight,
            attributes: content.attributes,
            valid_from: content.valid_from,
            valid_to: content.valid_to,
            sources: content.sources,
            version: register.version,
        }))
    }
}

/// The ends from which edges of a direction are seen.
pub(crate) fn sides(direction: Direction) -> &'static [Side] {
    match direction {
        Direction::Out => &[Side::Out],
        Direction::In => &[Side::In],
        Direction::Both => &[Side::Out, Side::In],
    }
}

/// `place` is what the fields' names begin with: empty, or ending in a dot.
pub(crate) fn check_choice(place: &str, relations: &[String], min_weight: f64) -> Result<()> {
    if relations.len() > MAX_RELATIONS {
        let why = format!("are {}; at most {MAX_RELATIONS} are allowed", relations.len());
        return Err(Error::invalid(format!("{place}relations"), why));
    }
    for (at, relation) in relations.iter().enumerate() {
        validate_relation(&format!("{place}relations[{at}]"), relation)?;
    }
    if !(0.0..=1.0).contains(&min_weight) {
        return Err(Error::invalid(
            format!("{place}min_weight"),
            format!("is {min_weight}; it must be in [0, 1]"),
        ));
    }
    Ok(())
}

impl NeighborsRequest {
    /// # Errors
    /// If something in it is wrong.
    pub(crate) fn check(&self, limits: &Limits) -> Result<()> {
        validate_id("ref.id", &self.entity.id)?;
        check_choice("", &self.relations, self.min_weight)?;
        if self.limit == 0 || self.limit > limits.fan_out {
            let why = format!("is {}; it must be 1 to {}", self.limit, limits.fan_out);
            return Err(Error::invalid("limit", why));
        }
        Ok(())
    }
}

impl Neighbor {
    /// The order of an answer: ties by relation, neighbour and edge id.
    pub(crate) fn heaviest_first(&self, other: &Self) -> Ordering {
        let name = |of: &Self| (of.direction, of.edge.relation.clone(), of.edge.edge_ref());
        other.edge.weight.total_cmp(&self.edge.weight).then_with(|| name(self).cmp(&name(other)))
    }
}

impl Replica {
    /// The edges of one entity, heaviest first. An entity that is not there may still be an end of edges.
    pub fn neighbors(
        &self,
        tenant: TenantId,
        request: &NeighborsRequest,
        deadline: Deadline,
    ) -> Result<Neighborhood> {
        request.check(&self.limits)?;
        let (reader, graph) = self.graph_reader(tenant, &request.collections)?;
        let collection = reader.catalogue.get(tenant, &request.entity.collection)?;
        let entity = reader.meant(EntityKey::new(tenant, collection.id, &request.entity.id))?;
        let mut answer = Neighborhood::default();
        // An expired entity is gone, and its edges with it.
        let Some(own) = reader.number(&entity)?.filter(|number| !graph.is_expired(*number)) else {
            return Ok(answer);
        };
        if let NeighborPages::After(place) = &request.pages {
            return reader.page_of_neighbors(&graph, own, request, place.as_ref(), deadline);
        }
        let as_of = request.as_of.unwrap_or(reader.now);
        let relations = graph.relations(&request.relations);
        let mut looked_at = 0;
        let mut stopped = None;
        let mut found = Vec::new();
        for side in sides(request.direction) {
            let mut of_relation = (u32::MAX, 0);
            let flow = graph.edges(own, *side, relations.as_deref(), &mut |seen| {
                looked_at += 1;
                if looked_at > self.limits.edges {
                    stopped = Some(TruncationReason::MaxEdges);
                    return ControlFlow::Break(Stop::All);
                }
                if looked_at % 256 == 0 && deadline.has_passed() {
                    stopped = Some(TruncationReason::Deadline);
                    return ControlFlow::Break(Stop::All);
                }
                let Some(seen) = seen else { return ControlFlow::Continue(()) };
                // Heaviest first: what comes now is lighter still, or more than are asked for.
                if of_relation.0 != seen.relation {
                    of_relation = (seen.relation, 0);
                }
                if seen.value.weight < request.min_weight || of_relation.1 > request.limit {
                    return ControlFlow::Break(Stop::Relation);
                }
                if request.any_time || seen.value.holds_at(as_of) {
                    of_relation.1 += 1;
                    found.push((
                        seen.value.weight,
                        (own, seen.side, seen.relation, seen.other),
                        Box::<str>::from(seen.edge_id),
                    ));
                }
                ControlFlow::Continue(())
            })?;
            if flow.is_break() {
                break;
            }
        }
        if let Some(reason) = stopped {
            answer.truncated.push(Truncation { reason, count: self.limits.edges as u64 });
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        if let Some((lightest, ..)) = found.get(request.limit) {
            answer.truncated.push(Truncation { reason: TruncationReason::FanOut, count: 1 });
            // Ties with the last that is returned are told apart by names.
            let lightest = *lightest;
            let end = found.partition_point(|(weight, ..)| *weight >= lightest);
            found.truncate(end.min(2 * request.limit));
        }
        for (_, name, edge_id) in found {
            let direction = name.1.into();
            let edge = reader.edge(&graph, name, &edge_id)?;
            answer.neighbors.extend(edge.map(|edge| Neighbor { edge, direction }));
        }
        answer.neighbors.sort_by(Neighbor::heaviest_first);
        answer.neighbors.truncate(request.limit);
        Ok(answer)
    }
}
