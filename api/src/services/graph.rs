//! `allidb.v1.Graph`.

use std::pin::Pin;

use allidb_index::{graph::NeighborPlace, model::Write};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Services, read_consistency, seen_by, write_options};
use crate::{
    codec,
    convert::{
        Path, at_most, edge_from_proto, edge_ref_from_proto, expand_from_proto, expansion_to_proto,
        hop_counts_to_proto, hops_from_proto, neighborhood_to_proto, neighbors_from_proto, paths_from_proto,
        paths_to_proto,
    },
    page_token::PageTokens,
    status,
    v1::{self, graph_server::Graph},
};

#[tonic::async_trait]
impl Graph for Services {
    async fn put_edges(
        &self,
        request: Request<v1::PutEdgesRequest>,
    ) -> Result<Response<v1::PutEdgesResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        at_most(&Path::Root("edges"), request.edges.len(), self.limits().batch_items)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let writes = request.edges.into_iter().map(put_edge_from_proto).collect();
        Ok(Response::new(v1::PutEdgesResponse { results: self.write_each(caller, writes, options).await }))
    }

    async fn delete_edges(
        &self,
        request: Request<v1::DeleteEdgesRequest>,
    ) -> Result<Response<v1::DeleteEdgesResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        at_most(&Path::Root("edges"), request.edges.len(), self.limits().batch_items)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let edges = request.edges.into_iter();
        let writes = edges
            .map(|edge| Ok(Write::DeleteEdge(edge_ref_from_proto(&Path::Root("edge"), edge)?)))
            .collect();
        Ok(Response::new(v1::DeleteEdgesResponse { results: self.write_each(caller, writes, options).await }))
    }

    async fn neighbors(
        &self,
        request: Request<v1::NeighborsRequest>,
    ) -> Result<Response<v1::NeighborsResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, mut request) = self.receive(request)?;
        let consistency = read_consistency(request.consistency)?;
        let token = std::mem::take(&mut request.page_token);
        if !request.all && !token.is_empty() {
            return Err(status::invalid("page_token", "goes with `all`"));
        }
        let limit = std::mem::take(&mut request.limit);
        let tokens = PageTokens::new(&self.coordinator.cursor_key(), caller.tenant, "Neighbors", &request);
        request.limit = limit;
        let shape = || vec![("limit", request.limit.into())];
        let collection = request.r#ref.as_ref().map_or("", |entity| &*entity.collection);
        let mut watch = self.slow.watch("Neighbors", caller.asker(), collection, shape);
        let finding = async {
            let place = tokens.open_bytes(&token)?;
            let place = place.map(|place| NeighborPlace::decode(&place)).transpose();
            let place = place.map_err(status::from_error)?;
            let request = neighbors_from_proto(request, place, self.limits(), &seen)?;
            let found = self.coordinator.neighbors(caller.tenant, request, consistency, caller.deadline);
            found.await.map_err(status::from_error)
        };
        let mut found = watch.over(finding).await?;
        let next = found.next.take().map(|place| place.encode()).transpose().map_err(status::from_error)?;
        let next = next.map(|place| tokens.seal(place)).unwrap_or_default();
        Ok(Response::new(neighborhood_to_proto(found, next)))
    }

    type ExpandStream = Pin<Box<dyn Stream<Item = Result<v1::ExpandResponse, Status>> + Send>>;

    async fn expand(
        &self,
        request: Request<v1::ExpandRequest>,
    ) -> Result<Response<Self::ExpandStream>, Status> {
        let seen = seen_by(&request);
        let (caller, request) = self.receive(request)?;
        let consistency = read_consistency(request.consistency)?;
        let shape = || {
            let hops = request.options.as_ref().map_or(0, |options| options.hops);
            vec![("seeds", request.seeds.len() as u64), ("hops", hops.into())]
        };
        let mut watch = self.slow.watch("Expand", caller.asker(), first(&request.seeds), shape);
        let walking = async {
            let request = expand_from_proto(request, self.limits(), &seen)?;
            let reached = self.coordinator.expand(caller.tenant, request, consistency, caller.deadline);
            reached.await.map_err(status::from_error)
        };
        // Levels are bounded by `max_nodes`, so the whole walk is in memory; it leaves it message by message.
        let expansion = watch.over(walking).await?;
        codec::found(expansion.bytes()).await?;
        let messages = expansion_to_proto(expansion);
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.map(Ok)))))
    }

    async fn count_hops(
        &self,
        request: Request<v1::CountHopsRequest>,
    ) -> Result<Response<v1::CountHopsResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, request) = self.receive(request)?;
        let consistency = read_consistency(request.consistency)?;
        let shape = || vec![("seeds", request.seeds.len() as u64), ("hops", request.hops.into())];
        let mut watch = self.slow.watch("CountHops", caller.asker(), first(&request.seeds), shape);
        let counting = async {
            let request = hops_from_proto(request, self.limits(), &seen)?;
            let counts = self.coordinator.count_hops(caller.tenant, request, consistency, caller.deadline);
            counts.await.map_err(status::from_error)
        };
        watch.over(counting).await.map(hop_counts_to_proto).map(Response::new)
    }

    async fn shortest_path(
        &self,
        request: Request<v1::ShortestPathRequest>,
    ) -> Result<Response<v1::ShortestPathResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, request) = self.receive(request)?;
        let consistency = read_consistency(request.consistency)?;
        let shape = || vec![("max hops", request.max_hops.into()), ("k", request.k.into())];
        let from = request.from.as_ref().map_or("", |entity| &*entity.collection);
        let mut watch = self.slow.watch("ShortestPath", caller.asker(), from, shape);
        let finding = async {
            let request = paths_from_proto(request, self.limits(), &seen)?;
            let paths = self.coordinator.shortest_paths(caller.tenant, request, consistency, caller.deadline);
            paths.await.map_err(status::from_error)
        };
        watch.over(finding).await.map(paths_to_proto).map(Response::new)
    }
}

/// The collection of the first of several entities.
fn first(entities: &[v1::EntityRef]) -> &str {
    entities.first().map_or("", |entity| &entity.collection)
}

pub(super) fn put_edge_from_proto(edge: v1::Edge) -> Result<Write, Status> {
    Ok(Write::PutEdge(Box::new(edge_from_proto(&Path::Root("edge"), edge)?)))
}
