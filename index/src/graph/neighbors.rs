//! The edges of one entity.

use std::{cmp::Ordering, collections::BTreeMap};

use allidb_storage::Direction as Scan;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{Neighbor, Neighborhood, NeighborsRequest},
    merge::Register,
    model::{Direction, Edge, EntityRef, TenantId, Timestamp, validate_id, validate_relation},
    query::{Truncation, TruncationReason},
    replica::{Reader, Replica, mirrored, register},
    row::{EdgeContent, EdgeKey, EntityKey, key::decode_edge_key},
    version::Version,
};

/// Most relations that one request may name.
const MAX_RELATIONS: usize = 1_000;

/// Which edges are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// Empty: all.
    pub(crate) relations: &'a [String],
    pub(crate) min_weight: f64,
    pub(crate) as_of: Timestamp,
}

/// An edge seen from one of its ends.
#[derive(Clone, Debug)]
pub(crate) struct SeenEdge {
    pub(crate) direction: Direction,
    pub(crate) key: EdgeKey,
    pub(crate) version: Version,
    pub(crate) content: EdgeContent,
}

impl SeenEdge {
    /// Heaviest first; ties by direction, relation, the other end and edge id.
    pub(crate) fn by_weight(&self, other: &Self) -> Ordering {
        let by_weight = other.content.weight.total_cmp(&self.content.weight);
        by_weight.then(self.direction.cmp(&other.direction)).then_with(|| self.key.cmp(&other.key))
    }
}

impl Reader<'_> {
    /// Edges of `entity` in one direction that meet the choice, in the order of their keys; those up to
    /// `cleared`, its marker for edges, are no more. Calls `look` before each edge read and stops when it
    /// says so.
    pub(crate) fn edges(
        &self,
        entity: &EntityKey,
        cleared: Version,
        direction: Direction,
        choice: &Choice<'_>,
        look: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<SeenEdge>> {
        let (keyspace, name) = match direction {
            Direction::In => (self.replica.keyspaces.edge_in, "edge_in"),
            _ => (self.replica.keyspaces.edge, "edge"),
        };
        let prefixes: Vec<Vec<u8>> = match choice.relations {
            [] => vec![entity.prefix()],
            relations => relations.iter().map(|relation| entity.edges_of(relation)).collect(),
        };
        let mut seen = Vec::new();
        for prefix in prefixes {
            for row in self.snapshot.prefix(keyspace, &prefix, Scan::Forward)? {
                if !look() {
                    return Ok(seen);
                }
                let (key, bytes) = row?;
                let Register { version, value } = register::<EdgeContent>(name, &key, &bytes)?;
                let Some(content) = value else { continue };
                if version <= cleared || content.weight < choice.min_weight || !content.holds_at(choice.as_of)
                {
                    continue;
                }
                let (_, key) = decode_edge_key(&key).map_err(|error| Error::corrupt(name, &key, error))?;
                seen.push(SeenEdge { direction, key, version, content });
            }
        }
        Ok(seen)
    }

    /// The edge as callers see it; `None` if its other end's collection was dropped.
    pub(crate) fn edge(&self, entity: &EntityKey, seen: SeenEdge) -> Option<Edge> {
        let name = |key: &EntityKey| {
            let collection = self.catalogue.by_id(key.collection)?;
            Some(EntityRef::new(&collection.name, &key.id))
        };
        let (other, _) = mirrored(entity, &seen.key);
        let (here, there) = (name(entity)?, name(&other)?);
        let (from, to) = if seen.direction == Direction::In { (there, here) } else { (here, there) };
        Some(Edge {
            from,
            relation: seen.key.relation,
            to,
            edge_id: seen.key.edge_id,
            weight: seen.content.weight,
            attributes: seen.content.attributes,
            valid_from: seen.content.valid_from,
            valid_to: seen.content.valid_to,
            sources: seen.content.sources,
            version: seen.version,
        })
    }
}

/// Both directions of a choice, each by itself.
pub(crate) fn directions(direction: Direction) -> &'static [Direction] {
    match direction {
        Direction::Out => &[Direction::Out],
        Direction::In => &[Direction::In],
        Direction::Both => &[Direction::Out, Direction::In],
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

impl Replica {
    /// The edges of one entity, heaviest first. An entity that is not there may still be an end of edges.
    pub fn neighbors(
        &self,
        tenant: TenantId,
        request: &NeighborsRequest,
        deadline: Deadline,
    ) -> Result<Neighborhood> {
        validate_id("ref.id", &request.entity.id)?;
        check_choice("", &request.relations, request.min_weight)?;
        if request.limit == 0 || request.limit > self.limits.fan_out {
            let why = format!("is {}; it must be 1 to {}", request.limit, self.limits.fan_out);
            return Err(Error::invalid("limit", why));
        }
        let reader = self.reader(tenant);
        let collection = reader.catalogue.get(tenant, &request.entity.collection)?;
        let entity = EntityKey::new(tenant, collection.id, &request.entity.id);
        let as_of = request.as_of.unwrap_or(reader.now);
        let choice = Choice { relations: &request.relations, min_weight: request.min_weight, as_of };
        let mut looked_at = 0;
        let mut stopped = None;
        let mut look = || {
            looked_at += 1;
            if looked_at > self.limits.edges {
                stopped = Some(TruncationReason::MaxEdges);
            } else if looked_at % 256 == 0 && deadline.has_passed() {
                stopped = Some(TruncationReason::Deadline);
            }
            stopped.is_none()
        };
        let marker = |entity: &EntityKey| -> Result<Version> {
            Ok(match reader.row(entity)? {
                None => Version::ZERO,
                // An expired entity is gone, and its edges with it.
                Some(row) if row.exists() && !row.is_live(reader.now) => Version::MAX,
                Some(row) => row.edges_cleared(),
            })
        };
        let own = marker(&entity)?;
        let mut seen = Vec::new();
        for direction in directions(request.direction) {
            seen.extend(reader.edges(&entity, own, *direction, &choice, &mut look)?);
        }
        let mut answer = Neighborhood::default();
        if let Some(reason) = stopped {
            answer.truncated.push(Truncation { reason, count: self.limits.edges as u64 });
        }
        seen.sort_unstable_by(SeenEdge::by_weight);
        let mut cleared: BTreeMap<EntityKey, Version> = BTreeMap::new();
        for edge in seen {
            let (other, _) = mirrored(&entity, &edge.key);
            // A deleted end with too many edges to sweep hides those below its marker.
            let others = match cleared.get(&other) {
                Some(others) => *others,
                None => {
                    let others = marker(&other)?;
                    cleared.insert(other, others);
                    others
                }
            };
            if edge.version <= others {
                continue;
            }
            if answer.neighbors.len() == request.limit {
                answer.truncated.push(Truncation { reason: TruncationReason::FanOut, count: 1 });
                break;
            }
            let direction = edge.direction;
            answer.neighbors.extend(reader.edge(&entity, edge).map(|edge| Neighbor { edge, direction }));
        }
        Ok(answer)
    }
}
