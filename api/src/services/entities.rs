//! `allidb.v1.Entities`.

use std::sync::Arc;

use allidb_cluster::{FacetsRequest, ScanRequest, SourceDeletion};
use allidb_index::model::{Entity, EntityPatch, EntityRef, ReadMask, Write};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Caller, DEFAULT_PAGE, Services, only, put_stream, read_consistency, seen_by, unanswered, write_options,
};
use crate::{
    codec,
    convert::{
        self, Path, at_most, entity_from_proto, entity_ref_from_proto, entity_to_proto, fields_from_proto,
        filter_from_proto, given, min_version_from_proto, patch_from_proto, read_mask_from_proto,
        version_to_proto,
    },
    embedding::Texts,
    layer::Room,
    page_token::PageTokens,
    slow, status,
    v1::{self, entities_server::Entities},
};

#[tonic::async_trait]
impl Entities for Services {
    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let mut entity = Path::Root("entity").required(request.entity)?;
        let mut texts = Texts::default();
        texts.of_entity("entity", &mut entity);
        self.embed(caller.tenant, texts, caller.deadline).await?;
        let write = given(put_from_proto(entity)?, request.precondition)?;
        let written = self.write_one(caller, write, options).await?;
        Ok(Response::new(v1::PutResponse { version: version_to_proto(written.version) }))
    }

    async fn batch_put(
        &self,
        request: Request<v1::BatchPutRequest>,
    ) -> Result<Response<v1::BatchPutResponse>, Status> {
        let (caller, mut request) = self.receive(request)?;
        at_most(&Path::Root("entities"), request.entities.len(), self.limits().batch_items)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let mut texts = Texts::default();
        for (at, entity) in request.entities.iter_mut().enumerate() {
            texts.of_entity(&format!("entities[{at}]"), entity);
        }
        self.embed(caller.tenant, texts, caller.deadline).await?;
        let writes = request.entities.into_iter().map(put_from_proto).collect();
        Ok(Response::new(v1::BatchPutResponse { results: self.write_each(caller, writes, options).await }))
    }

    type PutStreamStream = ReceiverStream<Result<v1::PutStreamResponse, Status>>;

    async fn put_stream(
        &self,
        request: Request<Streaming<v1::PutStreamRequest>>,
    ) -> Result<Response<Self::PutStreamStream>, Status> {
        let whose = (self.caller(&request).tenant, seen_by(&request));
        let until = crate::deadline::requested(request.metadata().as_ref());
        let held = request.extensions().get::<Arc<Room>>().map(|room| room.held());
        Ok(Response::new(put_stream::begin(self.clone(), whose, (until, held), request.into_inner())))
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        let mut entity = Path::Root("entity").required(request.entity)?;
        let mut texts = Texts::default();
        texts.of_entity("entity", &mut entity);
        self.embed(caller.tenant, texts, caller.deadline).await?;
        let patch = patch_from_proto(entity, request.update_mask, request.allow_missing)?;
        let write = given(Write::Update(Box::new(patch)), request.precondition)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let written = self.write_one(caller, write, options).await?;
        Ok(Response::new(v1::PutResponse { version: version_to_proto(written.version) }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Entity>, Status> {
        let (caller, request) = self.receive(request)?;
        let entity = entity_ref_from_proto(Path::Root("ref").required(request.r#ref)?);
        let mask = read_mask_from_proto(request.read_mask, ReadMask::without_vectors())?;
        let consistency = read_consistency(request.consistency)?;
        let collection = entity.collection.clone();
        let found = match min_version_from_proto(&request.min_version)? {
            None => {
                let found =
                    self.coordinator.get(caller.tenant, vec![entity], mask, consistency, caller.deadline);
                only(found.await)?
            }
            Some(version) => {
                let at_least = (consistency, version);
                let found =
                    self.coordinator.get_since(caller.tenant, entity, mask, at_least, caller.deadline);
                found.await.map_err(status::from_error)?
            }
        };
        Ok(Response::new(entity_to_proto(collection, found)))
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        at_most(&Path::Root("refs"), request.refs.len(), self.limits().batch_items)?;
        let mask = read_mask_from_proto(request.read_mask, ReadMask::without_vectors())?;
        let consistency = read_consistency(request.consistency)?;
        let refs: Vec<EntityRef> = request.refs.into_iter().map(entity_ref_from_proto).collect();
        let found =
            self.coordinator.get(caller.tenant, refs.clone(), mask, consistency, caller.deadline).await;
        codec::found(found.iter().flatten().map(Entity::bytes).sum()).await?;
        let mut found = found.into_iter();
        let results = refs.into_iter().map(|entity| match found.next().unwrap_or_else(unanswered) {
            Ok(found) => v1::GetResult {
                status: Some(status::done()),
                entity: Some(entity_to_proto(entity.collection, found)),
            },
            Err(error) => {
                v1::GetResult { status: Some(status::to_proto(&status::from_error(error))), entity: None }
            }
        });
        Ok(Response::new(v1::BatchGetResponse { results: results.collect() }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let entity = entity_ref_from_proto(Path::Root("ref").required(request.r#ref)?);
        let write = given(Write::Delete(entity), request.precondition)?;
        let written = self.write_one(caller, write, options).await?;
        let version = version_to_proto(written.version);
        Ok(Response::new(v1::DeleteResponse { version, existed: written.existed }))
    }

    async fn batch_delete(
        &self,
        request: Request<v1::BatchDeleteRequest>,
    ) -> Result<Response<v1::BatchDeleteResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        at_most(&Path::Root("refs"), request.refs.len(), self.limits().batch_items)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let refs = request.refs.into_iter();
        let writes = refs.map(|entity| Ok(Write::Delete(entity_ref_from_proto(entity)))).collect();
        Ok(Response::new(v1::BatchDeleteResponse { results: self.write_each(caller, writes, options).await }))
    }

    async fn put_chunks(
        &self,
        request: Request<v1::PutChunksRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let (caller, mut request) = self.receive(request)?;
        at_most(&Path::Root("chunks"), request.chunks.len(), self.limits().chunks)?;
        let mut texts = Texts::default();
        texts.of_chunks("chunks", request.r#ref.as_ref(), &mut request.chunks);
        self.embed(caller.tenant, texts, caller.deadline).await?;
        let mut patch = patch_of(request.r#ref)?;
        let chunks = convert::chunks_from_proto(&Path::Root("chunks"), request.chunks)?;
        patch.chunks = chunks.into_iter().map(|(id, chunk)| (id, Some(chunk))).collect();
        self.patch(caller, patch, request.durability, request.consistency).await
    }

    async fn delete_chunks(
        &self,
        request: Request<v1::DeleteChunksRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        at_most(&Path::Root("chunk_ids"), request.chunk_ids.len(), self.limits().chunks)?;
        let mut patch = patch_of(request.r#ref)?;
        patch.chunks = request.chunk_ids.into_iter().map(|id| (id, None)).collect();
        self.patch(caller, patch, request.durability, request.consistency).await
    }

    async fn range_scan(
        &self,
        request: Request<v1::RangeScanRequest>,
    ) -> Result<Response<v1::RangeScanResponse>, Status> {
        let (caller, mut request) = self.receive(request)?;
        let token = std::mem::take(&mut request.page_token);
        let page_size = std::mem::take(&mut request.page_size);
        let limit =
            convert::or_default(&Path::Root("page_size"), page_size, DEFAULT_PAGE, self.limits().page_size)?;
        let tokens = PageTokens::new(&self.coordinator.cursor_key(), caller.tenant, "RangeScan", &request);
        let after = tokens.open(&token)?;
        let consistency = read_consistency(request.consistency)?;
        let shape =
            || vec![("page size", limit as u64), ("conditions", slow::conditions(request.filter.as_ref()))];
        let mut watch = self.slow.watch("RangeScan", caller.asker(), &request.collection, shape);
        let collection = request.collection.clone();
        let scanning = async {
            let scan = scan_from_proto(request, limit, after)?;
            let page = self.coordinator.scan(caller.tenant, scan, consistency, caller.deadline);
            page.await.map_err(status::from_error)
        };
        let page = watch.over(scanning).await?;
        codec::found(page.entities.iter().map(Entity::bytes).sum()).await?;
        let entities = page.entities.into_iter().map(|entity| entity_to_proto(collection.clone(), entity));
        Ok(Response::new(v1::RangeScanResponse {
            entities: entities.collect(),
            next_page_token: page.next.map(|last| tokens.seal(&last)).unwrap_or_default(),
        }))
    }

    async fn facets(
        &self,
        request: Request<v1::FacetsRequest>,
    ) -> Result<Response<v1::FacetsResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        let consistency = read_consistency(request.consistency)?;
        let shape = || {
            let conditions = slow::conditions(request.filter.as_ref());
            vec![("fields", request.fields.len() as u64), ("conditions", conditions)]
        };
        let mut watch = self.slow.watch("Facets", caller.asker(), &request.collection, shape);
        let v1::FacetsRequest { collection, fields, filter, limit, .. } = request;
        let counting = async {
            let most = self.limits().page_size;
            let asked = FacetsRequest {
                fields: fields_from_proto(&Path::Root("fields"), &fields)?,
                filter: filter.map(|filter| filter_from_proto(&Path::Root("filter"), filter)).transpose()?,
                limit: convert::or_default(&Path::Root("limit"), limit, DEFAULT_PAGE, most)?,
                collection,
            };
            let found = self.coordinator.facets(caller.tenant, asked, consistency, caller.deadline);
            found.await.map_err(status::from_error)
        };
        let found = watch.over(counting).await?.into_iter().zip(fields);
        let facets = found.map(|(facet, field)| convert::facet_to_proto(field, facet)).collect();
        Ok(Response::new(v1::FacetsResponse { facets }))
    }

    async fn delete_where(
        &self,
        request: Request<v1::DeleteWhereRequest>,
    ) -> Result<Response<v1::DeleteWhereResponse>, Status> {
        let (caller, mut request) = self.receive(request)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let token = std::mem::take(&mut request.page_token);
        let limit = self.bulk_page(std::mem::take(&mut request.page_size))?;
        let tokens = PageTokens::new(&self.coordinator.cursor_key(), caller.tenant, "DeleteWhere", &request);
        let page = (limit, tokens.open(&token)?);
        let filter = Path::Root("filter");
        let filter = filter_from_proto(&filter, filter.required(request.filter)?)?;
        let (tenant, collection) = (caller.tenant, &request.collection);
        let deleted = self.coordinator.delete_where(tenant, collection, filter, page, options).await;
        let deleted = deleted.map_err(status::from_error)?;
        Ok(Response::new(v1::DeleteWhereResponse {
            deleted: deleted.entities,
            next_page_token: deleted.next.map(|next| tokens.seal(&next)).unwrap_or_default(),
        }))
    }

    async fn delete_by_source(
        &self,
        request: Request<v1::DeleteBySourceRequest>,
    ) -> Result<Response<v1::DeleteBySourceResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, mut request) = self.receive(request)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let token = std::mem::take(&mut request.page_token);
        let limit = self.bulk_page(std::mem::take(&mut request.page_size))?;
        let tokens =
            PageTokens::new(&self.coordinator.cursor_key(), caller.tenant, "DeleteBySource", &request);
        let after = tokens.open(&token)?;
        let (collection, source) = (request.collection, request.source);
        let deletion = SourceDeletion { collection, source, limit, after, collections: seen };
        let done = self.coordinator.delete_by_source(caller.tenant, deletion, options).await;
        let done = done.map_err(status::from_error)?;
        Ok(Response::new(v1::DeleteBySourceResponse {
            entities_deleted: done.entities,
            chunks_deleted: done.chunks,
            edges_deleted: done.edges,
            kept: done.kept,
            next_page_token: done.next.map(|next| tokens.seal(&next)).unwrap_or_default(),
        }))
    }

    async fn merge(&self, request: Request<v1::MergeRequest>) -> Result<Response<v1::MergeResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        let options = write_options(caller, request.durability, request.consistency)?;
        let from = EntityRef::new(request.collection, request.from);
        let merged = self.coordinator.merge(caller.tenant, from, request.into, options).await;
        let merged = merged.map_err(status::from_error)?;
        Ok(Response::new(v1::MergeResponse {
            version: version_to_proto(merged.version),
            into: merged.into,
            edges_moved: merged.edges,
            pending: merged.is_pending,
        }))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        let shape = || vec![("conditions", slow::conditions(request.filter.as_ref()))];
        let mut watch = self.slow.watch("Count", caller.asker(), &request.collection, shape);
        let v1::CountRequest { collection, filter, consistency, .. } = request;
        let counting = async {
            let filter = filter.map(|filter| filter_from_proto(&Path::Root("filter"), filter)).transpose()?;
            let consistency = read_consistency(consistency)?;
            let count =
                self.coordinator.count(caller.tenant, &collection, filter, consistency, caller.deadline);
            count.await.map_err(status::from_error)
        };
        let count = watch.over(counting).await?;
        Ok(Response::new(v1::CountResponse { count }))
    }
}

impl Services {
    /// Changes of one page of a deletion.
    fn bulk_page(&self, asked: u32) -> Result<usize, Status> {
        let most = self.limits().batch_items;
        convert::or_default(&Path::Root("page_size"), asked, most, most)
    }

    async fn patch(
        &self,
        caller: Caller,
        patch: EntityPatch,
        durability: i32,
        consistency: i32,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let options = write_options(caller, durability, consistency)?;
        let written = self.write_one(caller, Write::Update(Box::new(patch)), options).await?;
        Ok(Response::new(v1::PutResponse { version: version_to_proto(written.version) }))
    }
}

pub(super) fn put_from_proto(entity: v1::Entity) -> Result<Write, Status> {
    let (collection, entity) = entity_from_proto(&Path::Root("entity"), entity)?;
    Ok(Write::Put { collection, entity: Box::new(entity) })
}

fn patch_of(entity: Option<v1::EntityRef>) -> Result<EntityPatch, Status> {
    Ok(EntityPatch::new(entity_ref_from_proto(Path::Root("ref").required(entity)?)))
}

fn scan_from_proto(
    request: v1::RangeScanRequest,
    limit: usize,
    after: Option<String>,
) -> Result<ScanRequest, Status> {
    let set = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(ScanRequest {
        collection: request.collection,
        start: set(request.start_id),
        end: set(request.end_id),
        prefix: request.id_prefix,
        reverse: request.reverse,
        filter: request.filter.map(|filter| filter_from_proto(&Path::Root("filter"), filter)).transpose()?,
        limit,
        after,
        read_mask: read_mask_from_proto(request.read_mask, ReadMask::without_vectors())?,
    })
}
