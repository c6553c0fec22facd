//! Bad input of every kind: the code, the reason and the field that the contract promises, and nothing
//! changed by it.

mod collections;
mod reads;
mod searches;
mod writes;

use allidb_api::v1::{self, comparison::Operator, filter::Kind, nearest::Target, seed};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    client::{Client, assert_done, field, reason},
    make::{compare, edge, entity, int, mask, name, near, not, query, text, value, vector, vectors},
    process::Process,
};

const COLLECTION: &str = "things";
const SPACE: &str = "plane";
const THERE: &str = "there";

/// What the contract promises of a refusal.
struct Expected {
    code: Code,
    reason: &'static str,
    field: Option<&'static str>,
}

fn wrong(field: &'static str) -> Expected {
    Expected { code: Code::InvalidArgument, reason: "INVALID_FIELD", field: Some(field) }
}

fn too_much(field: &'static str) -> Expected {
    Expected { reason: "LIMIT_EXCEEDED", ..wrong(field) }
}

fn no_dimension(field: &'static str) -> Expected {
    Expected { reason: "WRONG_DIMENSION", ..wrong(field) }
}

fn unknown(reason: &'static str) -> Expected {
    Expected { code: Code::NotFound, reason, field: None }
}

/// Refusals that were not as promised, to be told all at once.
#[derive(Default)]
struct Verdict(Vec<String>);

impl Verdict {
    fn of<T>(&mut self, what: &str, answer: Result<T, Status>, expected: Expected) {
        let status = match answer {
            Ok(_) => return self.0.push(format!("{what}: was not refused")),
            Err(status) => status,
        };
        let Some(info) = status.get_details_error_info() else {
            return self.0.push(format!("{what}: no ErrorInfo in {status:?}"));
        };
        let got = (status.code(), info.reason, field(&status));
        let want = (expected.code, expected.reason.to_owned(), expected.field.map(str::to_owned));
        if got != want || info.domain != "allidb.dev" {
            self.0.push(format!("{what}: {got:?}, expected {want:?}: {}", status.message()));
        }
        if status.message().is_empty() {
            self.0.push(format!("{what}: says nothing"));
        }
        let resource = status.get_details_resource_info();
        if expected.code == Code::NotFound
            && resource.is_none_or(|resource| resource.resource_name.is_empty())
        {
            self.0.push(format!("{what}: does not name what is missing"));
        }
    }

    /// The status of the only item.
    fn of_item(&mut self, what: &str, results: Result<Vec<v1::ItemResult>, Status>, expected: Expected) {
        let answer = results.and_then(|mut results| {
            assert_eq!(results.len(), 1, "{what}: one result for one item");
            let status = results.remove(0).status.expect("a status");
            // The whole of it travels in the details.
            let details = prost::Message::encode_to_vec(&status);
            if status.code == 0 {
                return Ok(());
            }
            Err(Status::with_details(Code::from(status.code), status.message, details.into()))
        });
        self.of(what, answer, expected);
    }

    fn assert(self) {
        assert!(self.0.is_empty(), "{} refusals are wrong:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// All that could have been changed.
#[derive(Debug, PartialEq)]
struct Everything {
    collections: Vec<v1::Collection>,
    entities: Vec<v1::Entity>,
    edges: Vec<v1::Edge>,
    count: u64,
}

async fn everything(client: &Client) -> Everything {
    let collections = client.collections().list_collections(v1::ListCollectionsRequest::default()).await;
    Everything {
        collections: collections.expect("listed").into_inner().collections,
        entities: client.scan(COLLECTION).await,
        edges: client.edges(name(COLLECTION, THERE), v1::Direction::Both).await,
        count: client.count(COLLECTION).await,
    }
}

async fn prepared() -> (Process, Client, Everything) {
    let process = Process::start().await;
    let client = process.client();
    client.create(COLLECTION, SPACE, 2).await;
    let there = v1::Entity {
        attributes: [("year".to_owned(), int(1999))].into(),
        vectors: vectors(SPACE, &[1.0, 0.0]),
        chunks: vec![v1::Chunk { id: "c".into(), text: "text".into(), ..Default::default() }],
        ..entity(COLLECTION, THERE)
    };
    client.put(there).await.expect("put");
    for id in ["a", "b", "c"] {
        client.put(entity(COLLECTION, id)).await.expect("put");
    }
    let loves = edge(name(COLLECTION, THERE), "loves", name(COLLECTION, "a"));
    client.put_edges(vec![loves]).await.expect("put").iter().for_each(assert_done);
    let before = everything(&client).await;
    assert_eq!((before.count, before.entities.len(), before.edges.len()), (4, 4, 1));
    (process, client, before)
}

fn there() -> v1::Entity {
    entity(COLLECTION, THERE)
}

fn with_vector(values: &[f32]) -> v1::Entity {
    v1::Entity { vectors: vectors(SPACE, values), ..there() }
}

fn attribute(name: &str, value: v1::Value) -> v1::Entity {
    v1::Entity { attributes: [(name.to_owned(), value)].into(), ..there() }
}

/// Lists within lists.
fn nested(depth: usize) -> v1::Value {
    (0..depth)
        .fold(int(1), |inner, _| value(v1::value::Kind::ListValue(v1::ListValue { values: vec![inner] })))
}

async fn stream_one(client: &Client, message: v1::PutStreamRequest) -> Result<Vec<v1::ItemResult>, Status> {
    let mut answers = client.entities().put_stream(tokio_stream::iter([message])).await?.into_inner();
    let mut results = Vec::new();
    while let Some(answer) = answers.message().await? {
        results.push(answer.result.expect("a result"));
    }
    Ok(results)
}
