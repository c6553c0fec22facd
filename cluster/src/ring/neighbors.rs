//! The edges of one entity over the ring.

use allidb_index::{
    Deadline, EntityKey, Extent, Result, ToldEdge,
    graph::{NeighborPages, Neighborhood, NeighborsRequest},
    model::TenantId,
};

use super::Ring;
use crate::coordinator::Consistency;

/// Other ends that are asked for at once.
const ENDS: usize = 1_000;

impl Ring {
    /// The edges of one entity, as so many replicas hold it together as the consistency needs; and so many replicas of each other end have not
    /// heard that this is gone.
    ///
    /// # Errors
    /// If the request is wrong, or too few replicas answer.
    pub async fn neighbors(
        &self,
        tenant: TenantId,
        request: NeighborsRequest,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Neighborhood> {
        let key = self.replica().neighbors_key(tenant, &request)?;
        let read = |keys: Vec<EntityKey>, edges: bool| async move {
            let extent = Extent { contents: false, edges };
            self.0.states(keys, extent, consistency, deadline).await.into_iter().collect::<Result<Vec<_>>>()
        };
        let states = read(vec![key.clone()], true).await?;
        let (limit, is_page) = (request.limit, request.pages != NeighborPages::Heaviest);
        let told = self
            .0
            .here(move |served| {
                let told = |state| served.replica.told_edges(&key, state, &request);
                states.first().map(told).transpose().map(Option::unwrap_or_default)
            })
            .await?;
        let mut told = told.into_iter().peekable();
        let (mut neighbors, mut ended) = (Vec::new(), None);
        while neighbors.len() < limit && told.peek().is_some() {
            let some: Vec<ToldEdge> = told.by_ref().take(ENDS.min(limit - neighbors.len())).collect();
            ended = some.last().map(|edge| edge.place().clone());
            let ends = read(some.iter().map(|edge| edge.other.clone()).collect(), false).await?;
            let confirmed = some.into_iter().zip(&ends);
            neighbors.extend(confirmed.filter_map(|(edge, end)| self.replica().confirmed(edge, end)));
        }
        let has_more = told.peek().is_some();
        match is_page {
            true => Ok(Neighborhood::page(neighbors, ended.filter(|_| has_more))),
            false => Ok(Neighborhood::first(neighbors, has_more)),
        }
    }
}
