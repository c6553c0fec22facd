//! The edges of one entity, from what several replicas hold of it together.

use crate::{
    catalogue::Catalogue,
    error::Result,
    graph::{
        EdgeValue, Neighbor, NeighborPages, NeighborPlace, Neighborhood, NeighborsRequest, Side, WalkedEdge,
        sides,
    },
    merge::{EntityState, Register},
    model::{Edge, EntityRef, TenantId},
    query::{Step, Truncation, TruncationReason},
    replica::{Replica, derive::mirrored},
    row::{EdgeContent, EdgeKey, EntityKey, Scope},
};

/// An edge as one of its ends tells of it. Whether it is there depends on the other end, too.
#[derive(Clone, Debug)]
pub struct ToldEdge {
    /// The other end.
    pub other: EntityKey,
    neighbor: Neighbor,
    place: NeighborPlace,
}

impl ToldEdge {
    /// Where a page goes on that ends with it.
    pub fn place(&self) -> &NeighborPlace {
        &self.place
    }
}

impl Replica {
    /// Checks a question for neighbours, and gives the name of the entity that it is about.
    ///
    /// # Errors
    /// If something in it is wrong.
    pub fn neighbors_key(&self, tenant: TenantId, request: &NeighborsRequest) -> Result<EntityKey> {
        request.check(&self.limits)?;
        self.entity_key(tenant, &request.entity)
    }

    /// The edges that are asked for, as the state of the entity tells of them, heaviest first; of pages those behind the last one.
    ///
    /// # Errors
    /// If a place where a page ended is none of a node that is not alone.
    pub fn told_edges(
        &self,
        entity: &EntityKey,
        state: &EntityState,
        request: &NeighborsRequest,
    ) -> Result<Vec<ToldEdge>> {
        if self.has_expired(state) {
            return Ok(Vec::new());
        }
        let catalogue = self.catalogue();
        let as_of = request.as_of.unwrap_or_else(|| self.clock.wall().now());
        let mut told = Vec::new();
        for side in sides(request.direction) {
            for (key, register) in state.edges_at(*side) {
                let Some(content) = &register.value else { continue };
                let is_asked = request.relations.is_empty() || request.relations.contains(&key.relation);
                let holds = request.any_time || EdgeValue::of(content).holds_at(as_of);
                if !is_asked || !holds || content.weight < request.min_weight {
                    continue;
                }
                let Some(edge) = edge_of(&catalogue, entity, *side, key, register) else { continue };
                let there = if *side == Side::In { &edge.from } else { &edge.to };
                if !request.collections.has(&there.collection) {
                    continue;
                }
                let other = mirrored(entity, key).0;
                let place = NeighborPlace::named(*side, key, &other);
                let is_told = match &request.pages {
                    NeighborPages::After(Some(ended)) => place.is_behind(ended)?,
                    NeighborPages::After(None) | NeighborPages::Heaviest => true,
                };
                if is_told {
                    told.push(ToldEdge {
                        other,
                        neighbor: Neighbor { edge, direction: (*side).into() },
                        place,
                    });
                }
            }
        }
        told.sort_by(|a: &ToldEdge, b| match request.pages {
            NeighborPages::Heaviest => a.neighbor.heaviest_first(&b.neighbor),
            NeighborPages::After(_) => a.place.order(&b.place),
        });
        Ok(told)
    }

    /// An edge of a walk, as the state of the end tells of it from which it was followed.
    pub fn step(&self, walked: &WalkedEdge, state: &EntityState) -> Option<Step> {
        let WalkedEdge { from, side, key } = walked;
        let register = state.edges_at(*side).get(key)?;
        let edge = edge_of(&self.catalogue(), from, *side, key, register)?;
        Some(Step { edge, direction: (*side).into() })
    }

    /// The edge, unless it is gone with its other end, of which this is the state.
    pub fn confirmed(&self, told: ToldEdge, other: &EntityState) -> Option<Neighbor> {
        let is_gone =
            told.neighbor.edge.version <= other.row.cleared(Scope::Edges) || self.has_expired(other);
        (!is_gone).then_some(told.neighbor)
    }
}

/// The edge that one of its ends tells of; `None` if it is no more, or the collection of an end is not.
fn edge_of(
    catalogue: &Catalogue,
    entity: &EntityKey,
    side: Side,
    key: &EdgeKey,
    register: &Register<EdgeContent>,
) -> Option<Edge> {
    let named = |key: &EntityKey| {
        let collection = catalogue.by_id(key.collection)?;
        Some(EntityRef { collection: collection.name.clone(), id: key.id.clone() })
    };
    let content = register.value.as_ref()?;
    let (here, there) = (named(entity)?, named(&mirrored(entity, key).0)?);
    let (from, to) = if side == Side::In { (there, here) } else { (here, there) };
    Some(Edge {
        from,
        relation: key.relation.clone(),
        to,
        edge_id: key.edge_id.clone(),
        weight: content.weight,
        attributes: content.attributes.clone(),
        valid_from: content.valid_from,
        valid_to: content.valid_to,
        sources: content.sources.clone(),
        version: register.version,
    })
}

impl Neighborhood {
    /// So many of the neighbours, the first ones; `has_more` says whether there are others.
    pub fn first(neighbors: Vec<Neighbor>, has_more: bool) -> Self {
        let cut = Truncation { reason: TruncationReason::FanOut, count: 1 };
        Self { neighbors, truncated: has_more.then_some(cut).into_iter().collect(), next: None }
    }

    /// A page of the neighbours, and where the next one goes on.
    pub fn page(neighbors: Vec<Neighbor>, next: Option<NeighborPlace>) -> Self {
        Self { neighbors, truncated: Vec::new(), next }
    }
}
