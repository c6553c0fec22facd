//! A daemon on a directory and ports of its own, and what tests ask of it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use allidb_api::v1::{
    self, collections_client::CollectionsClient, entities_client::EntitiesClient, graph_client::GraphClient,
    search_client::SearchClient,
};
use allidbd::{Config, Daemon};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

/// The collection that every test gets, with one space of two dimensions.
pub(crate) const COLLECTION: &str = "things";
pub(crate) const SPACE: &str = "plane";

/// A daemon and the directory it is on.
pub(crate) struct Running {
    pub(crate) daemon: Daemon,
    pub(crate) dir: TempDir,
    pub(crate) channel: Channel,
}

/// Ports that are free, data under `dir`.
pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config { data_dir: dir.join("data"), ..Config::default() };
    config.listen.grpc = free_port();
    config.listen.http = free_port();
    config
}

fn free_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address is a URL");
    endpoint.connect().await.expect("the daemon listens")
}

impl Running {
    /// With the collection made.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut config = config(dir.path());
        change(&mut config);
        let daemon = Daemon::start(config).await.expect("the daemon starts");
        let channel = connect(daemon.grpc_addr()).await;
        let running = Self { daemon, dir, channel };
        let space = v1::Space {
            name: SPACE.into(),
            dimension: 2,
            metric: v1::Metric::Cosine.into(),
            ..Default::default()
        };
        let collection =
            v1::Collection { name: COLLECTION.into(), spaces: vec![space], ..Default::default() };
        let request = v1::CreateCollectionRequest { collection: Some(collection) };
        running.collections().create_collection(request).await.expect("the collection is made");
        running
    }

    pub(crate) fn collections(&self) -> CollectionsClient<Channel> {
        CollectionsClient::new(self.channel.clone())
    }

    pub(crate) fn entities(&self) -> EntitiesClient<Channel> {
        EntitiesClient::new(self.channel.clone())
    }

    pub(crate) fn graph(&self) -> GraphClient<Channel> {
        GraphClient::new(self.channel.clone())
    }

    pub(crate) fn search(&self) -> SearchClient<Channel> {
        SearchClient::new(self.channel.clone())
    }

    /// The entity with everything in it.
    pub(crate) async fn get(&self, id: &str) -> Result<v1::Entity, Status> {
        let read_mask = Some(prost_types::FieldMask { paths: vec!["*".into()] });
        let request = v1::GetRequest { r#ref: Some(name(id)), read_mask, ..Default::default() };
        self.entities().get(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn put(&self, entity: v1::Entity) -> Result<(), Status> {
        let request = v1::PutRequest { entity: Some(entity), ..Default::default() };
        self.entities().put(request).await.map(drop)
    }
}

pub(crate) fn name(id: &str) -> v1::EntityRef {
    v1::EntityRef { collection: COLLECTION.into(), id: id.into() }
}

pub(crate) fn int(value: i64) -> v1::Value {
    v1::Value { kind: Some(v1::value::Kind::IntValue(value)) }
}

/// An entity with one number.
pub(crate) fn entity(id: &str, number: i64) -> v1::Entity {
    let attributes = BTreeMap::from([("number".to_owned(), int(number))]);
    v1::Entity { r#ref: Some(name(id)), attributes, ..Default::default() }
}

pub(crate) fn vector(values: &[f32]) -> v1::Vector {
    v1::Vector { values: values.to_vec(), ..Default::default() }
}

pub(crate) fn edge(from: &str, to: &str, weight: f64) -> v1::Edge {
    v1::Edge {
        from: Some(name(from)),
        relation: "r".into(),
        to: Some(name(to)),
        weight: Some(weight),
        ..Default::default()
    }
}

/// The stable reason of an error.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}")).reason
}

/// The field that a refusal names.
pub(crate) fn field(status: &Status) -> String {
    let violations =
        status.get_details_bad_request().unwrap_or_else(|| panic!("no BadRequest in {status:?}"));
    violations.field_violations[0].field.clone()
}
