//! An expansion over several nodes: where it begins, what it reached, and the paths that led there.

use crate::{
    deadline::Deadline,
    error::Result,
    graph::{Bounds, ExpandRequest, Expansion, Reached, RingWalk, WalkedEdge, walk::check_seeds},
    model::{EntityRef, TenantId},
    query::Step,
    replica::Replica,
    row::EntityKey,
};

/// An expansion whose paths remain to be read.
pub struct Expanding {
    expansion: Expansion,
    /// So many edges lead to each node.
    paths: Vec<usize>,
}

impl Replica {
    /// Where an expansion begins, be there somebody or not.
    ///
    /// # Errors
    /// If something in the request is wrong.
    pub fn expand_seeds(&self, tenant: TenantId, request: &ExpandRequest) -> Result<Vec<EntityKey>> {
        request.spec.validate("options", self.limits())?;
        check_seeds(request.seeds.len(), self.limits())?;
        request.seeds.iter().map(|seed| self.entity_key(tenant, seed)).collect()
    }

    /// The walk of an expansion, from those of its seeds that are there.
    ///
    /// # Errors
    /// If the pattern cannot be read.
    pub fn expand_walk(
        &self,
        request: &ExpandRequest,
        seeds: Vec<EntityKey>,
        deadline: Deadline,
    ) -> Result<RingWalk> {
        let bounds = Bounds { edges: self.limits().edges, deadline };
        RingWalk::new(&request.spec, seeds.into_iter().map(|seed| (seed, 1.0)), self.wall_time(), bounds)
    }
}

impl Expanding {
    /// What a walk reached, and the edges that led there, if they are asked for: those of one node after those of another.
    ///
    /// # Errors
    /// If the deadline has passed.
    pub fn new(replica: &Replica, paths: bool, mut walk: RingWalk) -> Result<(Self, Vec<WalkedEdge>)> {
        let catalogue = replica.catalogue();
        let mut nodes = Vec::new();
        for (EntityKey { collection, id, .. }, visit) in walk.reached()? {
            let Some(collection) = catalogue.by_id(collection) else { continue };
            let path = if paths { walk.path(&visit) } else { Vec::new() };
            let entity = EntityRef { collection: collection.name.clone(), id };
            nodes.push((Reached { entity, hops: visit.hops, score: visit.score, path: Vec::new() }, path));
        }
        nodes.sort_unstable_by(|a, b| a.0.nearest_first(&b.0));
        let (nodes, paths): (Vec<_>, Vec<Vec<WalkedEdge>>) = nodes.into_iter().unzip();
        let expansion = Expansion { nodes, edges: walk.edges(), truncated: walk.truncated() };
        let lengths = paths.iter().map(Vec::len).collect();
        Ok((Self { expansion, paths: lengths }, paths.into_iter().flatten().collect()))
    }

    /// The expansion with its paths; of an edge that is no more there is no step.
    pub fn expansion(mut self, steps: Vec<Option<Step>>) -> Expansion {
        let mut steps = steps.into_iter();
        for (node, length) in self.expansion.nodes.iter_mut().zip(self.paths) {
            node.path = steps.by_ref().take(length).flatten().collect();
        }
        self.expansion
    }
}
