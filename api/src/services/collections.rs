//! `allidb.v1.Collections`.

use tonic::{Request, Response, Status};

use super::{DEFAULT_PAGE, Services, seen_by};
use crate::{
    convert::{self, Path, collection_from_proto, collection_to_proto},
    page_token::PageTokens,
    status,
    v1::{self, collections_server::Collections},
};

#[tonic::async_trait]
impl Collections for Services {
    async fn create_collection(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::Collection>, Status> {
        let (caller, request) = self.receive(request)?;
        let path = Path::Root("collection");
        let mut wanted = path.required(request.collection)?;
        let name = std::mem::take(&mut wanted.name);
        let spec = collection_from_proto(&path, wanted)?;
        let created = self.coordinator.create_collection(caller.tenant, &name, spec).await;
        Ok(Response::new(collection_to_proto(&created.map_err(status::from_error)?)))
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::Collection>, Status> {
        let (caller, request) = self.receive(request)?;
        let found =
            self.coordinator.collection(caller.tenant, &request.name).await.map_err(status::from_error)?;
        Ok(Response::new(collection_to_proto(&found)))
    }

    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, request) = self.receive(request)?;
        let page = convert::or_default(
            &Path::Root("page_size"),
            request.page_size,
            DEFAULT_PAGE,
            self.limits().page_size,
        )?;
        let question = v1::ListCollectionsRequest::default();
        let tokens =
            PageTokens::new(&self.coordinator.cursor_key(), caller.tenant, "ListCollections", &question);
        let after = tokens.open(&request.page_token)?;
        // One more than the page tells whether there is another one.
        let found = self.coordinator.collections(caller.tenant, seen, after.as_deref(), page + 1).await;
        let mut found = found.map_err(status::from_error)?;
        let more = found.len() > page;
        found.truncate(page);
        let last = found.last().filter(|_| more);
        Ok(Response::new(v1::ListCollectionsResponse {
            next_page_token: last.map(|last| tokens.seal(&last.name)).unwrap_or_default(),
            collections: found.iter().map(collection_to_proto).collect(),
        }))
    }

    async fn update_collection(
        &self,
        request: Request<v1::UpdateCollectionRequest>,
    ) -> Result<Response<v1::Collection>, Status> {
        let (caller, mut request) = self.receive(request)?;
        let name = std::mem::take(&mut request.name);
        let change = convert::change_from_proto(request)?;
        let changed = self.coordinator.update_collection(caller.tenant, &name, change).await;
        Ok(Response::new(collection_to_proto(&changed.map_err(status::from_error)?)))
    }

    async fn drop_collection(
        &self,
        request: Request<v1::DropCollectionRequest>,
    ) -> Result<Response<v1::DropCollectionResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        self.coordinator.drop_collection(caller.tenant, &request.name).await.map_err(status::from_error)?;
        Ok(Response::new(v1::DropCollectionResponse {}))
    }
}
