//! What tests ask of a daemon.

use std::collections::HashMap;

use allidb_api::v1::{
    self, collections_client::CollectionsClient, entities_client::EntitiesClient, graph_client::GraphClient,
    maintenance_client::MaintenanceClient, put_stream_request::Item, search_client::SearchClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use crate::make::{mask, name, near, query};

/// The largest answer taken.
const ANSWER_BYTES: usize = 64 << 20;

/// One connection, all services.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
}

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    pub(crate) fn collections(&self) -> CollectionsClient<Channel> {
        CollectionsClient::new(self.channel.clone())
    }

    pub(crate) fn entities(&self) -> EntitiesClient<Channel> {
        EntitiesClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    pub(crate) fn graph(&self) -> GraphClient<Channel> {
        GraphClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    pub(crate) fn search(&self) -> SearchClient<Channel> {
        SearchClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    /// Reads everything on disk. What is damaged there.
    pub(crate) async fn scrub(&self) -> Vec<v1::Damage> {
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        let request = v1::ScrubRequest { bytes_per_second: 0 };
        let mut answers = maintenance.scrub(request).await.expect("a scrub begins").into_inner();
        let mut damages = Vec::new();
        let mut finished = false;
        while let Some(answer) = answers.message().await.expect("the scrub goes on") {
            damages.extend(answer.damages);
            finished = answer.finished;
        }
        assert!(finished, "the scrub was cut off");
        damages
    }

    /// Makes a collection with one space, compared by cosine.
    pub(crate) async fn create(&self, collection: &str, space: &str, dimension: u32) {
        self.try_create(collection, space, dimension).await.expect("the collection is made");
    }

    /// The same, if there is none of this name.
    pub(crate) async fn try_create(
        &self,
        collection: &str,
        space: &str,
        dimension: u32,
    ) -> Result<(), Status> {
        let space = v1::Space {
            name: space.into(),
            dimension,
            metric: v1::Metric::Cosine.into(),
            ..Default::default()
        };
        let collection =
            v1::Collection { name: collection.into(), spaces: vec![space], ..Default::default() };
        let request = v1::CreateCollectionRequest { collection: Some(collection) };
        self.collections().create_collection(request).await.map(drop)
    }

    /// The version it got.
    pub(crate) async fn put(&self, entity: v1::Entity) -> Result<bytes::Bytes, Status> {
        let request = v1::PutRequest { entity: Some(entity), ..Default::default() };
        Ok(self.entities().put(request).await?.into_inner().version)
    }

    /// With everything in it.
    pub(crate) async fn get(&self, entity: v1::EntityRef) -> Result<v1::Entity, Status> {
        let request = v1::GetRequest { r#ref: Some(entity), read_mask: mask(&["*"]), ..Default::default() };
        Ok(self.entities().get(request).await?.into_inner())
    }

    pub(crate) async fn delete(&self, entity: v1::EntityRef) -> Result<v1::DeleteResponse, Status> {
        let request = v1::DeleteRequest { r#ref: Some(entity), ..Default::default() };
        Ok(self.entities().delete(request).await?.into_inner())
    }

    pub(crate) async fn count(&self, collection: &str) -> u64 {
        let request = v1::CountRequest { collection: collection.into(), ..Default::default() };
        self.entities().count(request).await.expect("counted").into_inner().count
    }

    /// Every page of a scan, one after the other.
    pub(crate) async fn pages(&self, mut request: v1::RangeScanRequest) -> Result<Vec<v1::Entity>, Status> {
        let mut entities = Vec::new();
        loop {
            let page = self.entities().range_scan(request.clone()).await?.into_inner();
            entities.extend(page.entities);
            if page.next_page_token.is_empty() {
                return Ok(entities);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The whole collection with everything in it.
    pub(crate) async fn scan(&self, collection: &str) -> Vec<v1::Entity> {
        let request = v1::RangeScanRequest {
            collection: collection.into(),
            page_size: 500,
            read_mask: mask(&["*"]),
            ..Default::default()
        };
        self.pages(request).await.expect("scanned")
    }

    pub(crate) async fn query(&self, request: v1::QueryRequest) -> Result<Vec<v1::Hit>, Status> {
        Ok(self.search().query(request).await?.into_inner().hits)
    }

    /// The `limit` nearest to a vector, the way the server chooses.
    pub(crate) async fn nearest(
        &self,
        collection: &str,
        space: &str,
        values: &[f32],
        limit: u32,
    ) -> Vec<v1::Hit> {
        let request = v1::QueryRequest { limit, ..query(collection, near(space, values)) };
        self.query(request).await.expect("answered")
    }

    pub(crate) async fn put_edges(&self, edges: Vec<v1::Edge>) -> Result<Vec<v1::ItemResult>, Status> {
        let request = v1::PutEdgesRequest { edges, ..Default::default() };
        Ok(self.graph().put_edges(request).await?.into_inner().results)
    }

    /// All edges of an entity in one direction.
    pub(crate) async fn edges(&self, entity: v1::EntityRef, direction: v1::Direction) -> Vec<v1::Edge> {
        let request = v1::NeighborsRequest {
            r#ref: Some(entity),
            direction: direction.into(),
            limit: 10_000,
            ..Default::default()
        };
        let found = self.graph().neighbors(request).await.expect("answered").into_inner();
        assert!(found.truncated.is_empty(), "{:?}", found.truncated);
        found.neighbors.into_iter().map(|neighbor| neighbor.edge.expect("an edge")).collect()
    }

    /// The nodes that a walk reaches, and its summary.
    pub(crate) async fn expand(
        &self,
        seeds: Vec<v1::EntityRef>,
        options: v1::ExpandOptions,
    ) -> Result<(Vec<v1::ReachedNode>, v1::ExpandSummary), Status> {
        let request = v1::ExpandRequest { seeds, options: Some(options), paths: true, ..Default::default() };
        let mut stream = self.graph().expand(request).await?.into_inner();
        let (mut nodes, mut summary) = (Vec::new(), None);
        while let Some(message) = stream.message().await? {
            assert!(summary.is_none(), "the summary is last");
            nodes.extend(message.nodes);
            summary = message.summary;
        }
        Ok((nodes, summary.expect("a summary")))
    }

    /// The ids that a walk of one hop in either direction reaches, without the seed.
    pub(crate) async fn reached(&self, collection: &str, seed: &str) -> Vec<String> {
        let options = v1::ExpandOptions { direction: v1::Direction::Both.into(), ..Default::default() };
        let (nodes, _) = self.expand(vec![name(collection, seed)], options).await.expect("expanded");
        let ids = nodes.into_iter().map(|node| node.r#ref.expect("a name").id);
        ids.filter(|id| id != seed).collect()
    }

    /// Puts everything through one stream; each item must be done.
    pub(crate) async fn put_all(&self, items: impl Iterator<Item = Item> + Send + 'static) -> usize {
        let (sender, sent) = mpsc::channel(1_024);
        let sending = tokio::spawn(async move {
            let mut count = 0;
            for (sequence, item) in items.enumerate() {
                let message = v1::PutStreamRequest {
                    sequence: sequence as u64,
                    item: Some(item),
                    ..Default::default()
                };
                sender.send(message).await.expect("taken");
                count += 1;
            }
            count
        });
        let stream = self.entities().put_stream(ReceiverStream::new(sent)).await.expect("begun");
        let mut answers = stream.into_inner();
        let mut seen = HashMap::new();
        while let Some(answer) = answers.message().await.expect("an answer") {
            assert_done(&answer.result.expect("a result"));
            assert!(seen.insert(answer.sequence, ()).is_none(), "{} is answered twice", answer.sequence);
        }
        let count = sending.await.expect("all sent");
        assert_eq!(seen.len(), count, "each item is answered");
        count
    }
}

pub(crate) fn assert_done(result: &v1::ItemResult) {
    let status = result.status.as_ref().expect("a status");
    assert_eq!(status.code, 0, "{status:?}");
    assert!(!result.version.is_empty());
}

/// The stable reason of an error.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}")).reason
}

/// The field that a refusal names.
pub(crate) fn field(status: &Status) -> Option<String> {
    Some(status.get_details_bad_request()?.field_violations.first()?.field.clone())
}
