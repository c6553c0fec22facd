//! Bad input of every kind: the code, the reason and the field that the contract promises, and nothing
//! changed by it.

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

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_entities() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let long = "x".repeat(1_025);
    let double = |number| value(v1::value::Kind::DoubleValue(number));
    let at = |nanos| value(v1::value::Kind::TimestampValue(prost_types::Timestamp { seconds: 0, nanos }));
    let raw = |raw: &'static [u8], encoding: v1::VectorEncoding, dimension| v1::Entity {
        vectors: [(
            SPACE.to_owned(),
            v1::Vector { raw: raw.into(), encoding: encoding.into(), dimension, ..Default::default() },
        )]
        .into(),
        ..there()
    };
    let chunk = |id: &str, values: &[f32]| v1::Chunk {
        id: id.into(),
        vectors: if values.is_empty() { Default::default() } else { vectors(SPACE, values) },
        ..Default::default()
    };
    let with_chunks = |chunks| v1::Entity { chunks, ..there() };
    let many = (0..1_001).map(|at| (format!("a{at}"), int(1))).collect();
    let own = "entity.vectors[\"plane\"]";
    let cases = [
        ("a vector too short", with_vector(&[1.0]), no_dimension(own)),
        ("a vector too long", with_vector(&[1.0, 2.0, 3.0]), no_dimension(own)),
        ("an empty vector", with_vector(&[]), no_dimension(own)),
        ("NaN in a vector", with_vector(&[1.0, f32::NAN]), wrong(own)),
        ("infinity in a vector", with_vector(&[f32::NEG_INFINITY, 1.0]), wrong(own)),
        (
            "half of the raw bytes",
            raw(&[0; 6], v1::VectorEncoding::F32, 2),
            wrong("entity.vectors[\"plane\"].raw"),
        ),
        (
            "raw bytes of no encoding",
            raw(&[0; 8], v1::VectorEncoding::Unspecified, 2),
            wrong("entity.vectors[\"plane\"].encoding"),
        ),
        ("raw NaN", raw(&[0, 0, 0xc0, 0x7f, 0, 0, 0, 0], v1::VectorEncoding::F32, 2), wrong(own)),
        ("raw of another dimension", raw(&[0; 12], v1::VectorEncoding::F32, 3), no_dimension(own)),
        ("an empty id", entity(COLLECTION, ""), wrong("entity.id")),
        ("an id too long", entity(COLLECTION, &long), wrong("entity.id")),
        ("a control character in an id", entity(COLLECTION, "a\u{7}b"), wrong("entity.id")),
        ("a newline in an id", entity(COLLECTION, "a\nb"), wrong("entity.id")),
        ("no name", v1::Entity { r#ref: None, ..there() }, wrong("entity.ref")),
        ("an unknown collection", entity("nowhere", "x"), unknown("UNKNOWN_COLLECTION")),
        (
            "an unknown space",
            v1::Entity { vectors: vectors("nothing", &[1.0]), ..there() },
            unknown("UNKNOWN_SPACE"),
        ),
        ("importance above 1", v1::Entity { importance: Some(1.5), ..there() }, wrong("entity.importance")),
        ("importance below 0", v1::Entity { importance: Some(-0.1), ..there() }, wrong("entity.importance")),
        (
            "importance of NaN",
            v1::Entity { importance: Some(f64::NAN), ..there() },
            wrong("entity.importance"),
        ),
        ("NaN in an attribute", attribute("x", double(f64::NAN)), wrong("entity.attributes[\"x\"]")),
        (
            "infinity in an attribute",
            attribute("x", double(f64::INFINITY)),
            wrong("entity.attributes[\"x\"]"),
        ),
        (
            "an attribute without a value",
            attribute("x", v1::Value { kind: None }),
            wrong("entity.attributes[\"x\"]"),
        ),
        ("an attribute without a name", attribute("", int(1)), wrong("entity.attributes")),
        ("an attribute nested too deep", attribute("x", nested(17)), wrong("entity.attributes[\"x\"]")),
        ("a time too fine", attribute("x", at(1)), wrong("entity.attributes[\"x\"]")),
        ("a time out of range", attribute("x", at(-1)), wrong("entity.attributes[\"x\"]")),
        ("too many attributes", v1::Entity { attributes: many, ..there() }, too_much("entity.attributes")),
        (
            "too many chunks",
            with_chunks((0..1_001).map(|at| chunk(&format!("c{at}"), &[])).collect()),
            too_much("entity.chunks"),
        ),
        ("a chunk twice", with_chunks(vec![chunk("c", &[]), chunk("c", &[])]), wrong("entity.chunks[1].id")),
        ("a type too long", v1::Entity { r#type: "t".repeat(256), ..there() }, wrong("entity.type")),
        (
            "a time to vanish too fine",
            v1::Entity { expire_at: Some(prost_types::Timestamp { seconds: 1, nanos: 1 }), ..there() },
            wrong("entity.expire_at"),
        ),
    ];
    for (what, entity, expected) in cases {
        let Expected { code, reason, field } = expected;
        verdict.of(what, client.put(entity.clone()).await, Expected { code, reason, field });
        let request = v1::BatchPutRequest { entities: vec![entity.clone()], ..Default::default() };
        let results = client.entities().batch_put(request).await.map(|answer| answer.into_inner().results);
        verdict.of_item(&format!("{what} in a batch"), results, Expected { code, reason, field });
        let item = Some(v1::put_stream_request::Item::Entity(entity));
        let message = v1::PutStreamRequest { item, ..Default::default() };
        let results = stream_one(&client, message).await;
        verdict.of_item(&format!("{what} in a stream"), results, Expected { code, reason, field });
    }
    // What a chunk holds is named within its chunk, however the call is.
    for (what, put, expected) in [
        ("a chunk's empty id", chunk("", &[]), "chunks.id"),
        ("a chunk's vector of NaN", chunk("x", &[f32::NAN, 0.0]), "chunks.vectors[\"plane\"]"),
    ] {
        verdict.of(what, client.put(with_chunks(vec![put.clone()])).await, wrong(expected));
        let request = v1::PutChunksRequest { r#ref: there().r#ref, chunks: vec![put], ..Default::default() };
        verdict.of(what, client.entities().put_chunks(request).await, wrong(expected));
    }
    verdict.of("no entity", client.entities().put(v1::PutRequest::default()).await, wrong("entity"));
    let request = v1::PutRequest { entity: Some(there()), durability: 9, ..Default::default() };
    verdict.of("an unknown durability", client.entities().put(request).await, wrong("durability"));
    let request = v1::PutRequest { entity: Some(there()), consistency: -1, ..Default::default() };
    verdict.of("an unknown consistency", client.entities().put(request).await, wrong("consistency"));
    verdict.of_item(
        "an item that is none",
        stream_one(&client, v1::PutStreamRequest::default()).await,
        wrong("item"),
    );
    let entities = vec![there(); 10_001];
    let request = v1::BatchPutRequest { entities, ..Default::default() };
    verdict.of("a batch too long", client.entities().batch_put(request).await, too_much("entities"));

    let update = |entity: v1::Entity, paths: &[&str]| {
        let request =
            v1::UpdateRequest { entity: Some(entity), update_mask: mask(paths), ..Default::default() };
        let mut entities = client.entities();
        async move { entities.update(request).await }
    };
    let path = || wrong("update_mask.paths[0]");
    for unknown in ["nonsense", "attributes.", "created_at", "version", "chunks", "ref", ""] {
        verdict.of(&format!("the mask {unknown:?}"), update(there(), &[unknown]).await, path());
    }
    let answer = update(with_vector(&[1.0]), &["vectors.plane"]).await;
    verdict.of("an update's vector too short", answer, no_dimension(own));
    let answer = update(there(), &["vectors.nothing"]).await;
    verdict.of("a mask of an unknown space", answer, unknown("UNKNOWN_SPACE"));
    let answer = update(entity(COLLECTION, "missing"), &["type"]).await;
    verdict.of("an update of what is not there", answer, unknown("ENTITY_NOT_FOUND"));
    verdict.of(
        "an update of nothing",
        client.entities().update(v1::UpdateRequest::default()).await,
        wrong("entity"),
    );
    let request = v1::PutChunksRequest {
        r#ref: Some(name(COLLECTION, "missing")),
        chunks: vec![chunk("c", &[])],
        ..Default::default()
    };
    verdict.of(
        "chunks of what is not there",
        client.entities().put_chunks(request).await,
        unknown("ENTITY_NOT_FOUND"),
    );
    let request = v1::PutChunksRequest {
        r#ref: there().r#ref,
        chunks: vec![chunk("c", &[]); 1_001],
        ..Default::default()
    };
    verdict.of("too many chunks to put", client.entities().put_chunks(request).await, too_much("chunks"));
    verdict.of("a delete of no name", client.delete(name(COLLECTION, "")).await, wrong("ref.id"));
    verdict.of(
        "a delete elsewhere",
        client.delete(name("nowhere", "x")).await,
        unknown("UNKNOWN_COLLECTION"),
    );
    let request = v1::BatchDeleteRequest { refs: vec![name(COLLECTION, "a"); 10_001], ..Default::default() };
    verdict.of("too many deletes", client.entities().batch_delete(request).await, too_much("refs"));

    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

async fn stream_one(client: &Client, message: v1::PutStreamRequest) -> Result<Vec<v1::ItemResult>, Status> {
    let mut answers = client.entities().put_stream(tokio_stream::iter([message])).await?.into_inner();
    let mut results = Vec::new();
    while let Some(answer) = answers.message().await? {
        results.push(answer.result.expect("a result"));
    }
    Ok(results)
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_filters() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let get = |entity: v1::EntityRef, paths: &[&str]| {
        let request = v1::GetRequest { r#ref: Some(entity), read_mask: mask(paths), ..Default::default() };
        let mut entities = client.entities();
        async move { entities.get(request).await }
    };
    let here = || name(COLLECTION, THERE);
    verdict.of("an unknown field", get(here(), &["nonsense"]).await, wrong("read_mask"));
    verdict.of("an unknown field of a chunk", get(here(), &["chunks.nonsense"]).await, wrong("read_mask"));
    verdict.of("an unknown space", get(here(), &["vectors.nothing"]).await, unknown("UNKNOWN_SPACE"));
    verdict.of("what is not there", get(name(COLLECTION, "missing"), &[]).await, unknown("ENTITY_NOT_FOUND"));
    verdict.of("an unknown collection", get(name("nowhere", "x"), &[]).await, unknown("UNKNOWN_COLLECTION"));
    verdict.of("an empty id", get(name(COLLECTION, ""), &[]).await, wrong("ref.id"));
    verdict.of("no name", client.entities().get(v1::GetRequest::default()).await, wrong("ref"));
    let request = v1::BatchGetRequest { refs: vec![here(); 10_001], ..Default::default() };
    verdict.of("too many", client.entities().batch_get(request).await, too_much("refs"));

    // At the first level that is one too many.
    const DEEPEST: &str = "filter.not.not.not.not.not.not.not.not.not.not.not.not.not.not.not.not";
    let deep = |depth| (0..depth).fold(compare("year", Operator::Equal, int(1)), |inner, _| not(inner));
    let list = |filters| v1::FilterList { filters };
    let wide = list((0..1_001).map(|_| compare("year", Operator::Equal, int(1))).collect());
    let nan = value(v1::value::Kind::DoubleValue(f64::NAN));
    let unset = v1::Comparison { field: "year".into(), operator: Operator::Equal.into(), value: None };
    let cases = [
        ("a filter too deep", deep(40), wrong(DEEPEST)),
        ("a filter too wide", v1::Filter { kind: Some(Kind::Or(wide)) }, wrong("filter.or[999]")),
        ("a filter of nothing", v1::Filter { kind: None }, wrong("filter")),
        (
            "a part of nothing",
            v1::Filter { kind: Some(Kind::And(list(vec![v1::Filter { kind: None }]))) },
            wrong("filter.and[0]"),
        ),
        ("no operator", compare("year", Operator::Unspecified, int(1)), wrong("filter.compare.operator")),
        ("no value", v1::Filter { kind: Some(Kind::Compare(unset)) }, wrong("filter.compare.value")),
        ("a field of no name", compare("a..b", Operator::Equal, int(1)), wrong("filter.compare.field")),
        ("an id that is a number", compare("id", Operator::Equal, int(1)), wrong("filter.compare")),
        (
            "a time that is a text",
            compare("created_at", Operator::Less, text("now")),
            wrong("filter.compare"),
        ),
        (
            "importance that is a text",
            compare("importance", Operator::Less, text("high")),
            wrong("filter.compare"),
        ),
        ("a number's beginning", compare("year", Operator::StartsWith, int(1)), wrong("filter.compare")),
        ("NaN", compare("year", Operator::Less, nan), wrong("filter.compare")),
        ("an order of lists", compare("year", Operator::Less, nested(1)), wrong("filter.compare")),
    ];
    for (what, filter, Expected { code, reason, field }) in cases {
        let expected = || Expected { code, reason, field };
        let request = v1::CountRequest {
            collection: COLLECTION.into(),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        verdict.of(&format!("count: {what}"), client.entities().count(request).await, expected());
        let request = v1::RangeScanRequest {
            collection: COLLECTION.into(),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        verdict.of(&format!("scan: {what}"), client.entities().range_scan(request).await, expected());
        let request =
            v1::QueryRequest { filter: Some(filter), ..query(COLLECTION, near(SPACE, &[1.0, 0.0])) };
        verdict.of(&format!("query: {what}"), client.query(request).await, expected());
    }
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

/// Makes another request of one.
type Change<'a> = &'a dyn Fn(&mut v1::RangeScanRequest);

#[tokio::test(flavor = "multi_thread")]
async fn page_tokens() {
    let (_process, client, _) = prepared().await;
    let mut verdict = Verdict::default();
    let request = v1::RangeScanRequest { collection: COLLECTION.into(), page_size: 2, ..Default::default() };
    let scan = |change: &dyn Fn(&mut v1::RangeScanRequest)| {
        let mut request = request.clone();
        change(&mut request);
        let mut entities = client.entities();
        async move { entities.range_scan(request).await.map(tonic::Response::into_inner) }
    };
    let token = scan(&|_| {}).await.expect("a page").next_page_token;
    assert!(!token.is_empty());
    scan(&|request| request.page_token = token.clone()).await.expect("the token as it was given");
    let bad = || Expected { reason: "PAGE_TOKEN", ..wrong("page_token") };
    for at in 0..token.len() {
        let mut tampered = token.clone().into_bytes();
        tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
        let tampered = String::from_utf8(tampered).expect("ASCII");
        verdict.of(
            &format!("byte {at} changed"),
            scan(&|request| request.page_token = tampered.clone()).await,
            bad(),
        );
        let cut = token[..at].to_owned();
        if at > 0 {
            verdict.of(
                &format!("cut at {at}"),
                scan(&|request| request.page_token = cut.clone()).await,
                bad(),
            );
        }
    }
    for garbage in ["x", "====", "not a token", &"A".repeat(10_000)] {
        verdict.of("garbage", scan(&|request| request.page_token = garbage.to_owned()).await, bad());
    }
    client.create("others", SPACE, 2).await;
    let foreign: [(&str, Change<'_>); 5] = [
        ("of another collection", &|request| request.collection = "others".into()),
        ("of another direction", &|request| request.reverse = true),
        ("of another prefix", &|request| request.id_prefix = "a".into()),
        ("of another filter", &|request| request.filter = Some(compare("year", Operator::Equal, int(1)))),
        ("of another mask", &|request| request.read_mask = mask(&["*"])),
    ];
    for (what, change) in foreign {
        let answer = scan(&|request| {
            request.page_token = token.clone();
            change(request);
        });
        verdict.of(what, answer.await, bad());
    }
    let list = v1::ListCollectionsRequest { page_token: token.clone(), ..Default::default() };
    verdict.of("of another call", client.collections().list_collections(list).await, bad());
    // Another daemon has another key.
    let (_other, stranger, _) = prepared().await;
    let mut strange = request.clone();
    strange.page_token = token.clone();
    verdict.of("of another daemon", stranger.entities().range_scan(strange).await, bad());

    let size = |page_size| scan(&move |request: &mut v1::RangeScanRequest| request.page_size = page_size);
    verdict.of("a page too long", size(1_001).await, too_much("page_size"));
    let list = v1::ListCollectionsRequest { page_size: 1_001, ..Default::default() };
    verdict.of("a list too long", client.collections().list_collections(list).await, too_much("page_size"));
    verdict.assert();
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_and_walks() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let (here, a) = (|| name(COLLECTION, THERE), || name(COLLECTION, "a"));
    let loves = || edge(here(), "loves", a());
    let weighing = |weight| v1::Edge { weight: Some(weight), ..loves() };
    let from_to = |from, to| v1::Edge {
        valid_from: Some(prost_types::Timestamp { seconds: from, nanos: 0 }),
        valid_to: Some(prost_types::Timestamp { seconds: to, nanos: 0 }),
        ..loves()
    };
    let cases = [
        ("a weight above 1", weighing(1.01), wrong("edge.weight")),
        ("a weight below 0", weighing(-0.5), wrong("edge.weight")),
        ("a weight of NaN", weighing(f64::NAN), wrong("edge.weight")),
        ("a weight without bounds", weighing(f64::INFINITY), wrong("edge.weight")),
        ("no source", v1::Edge { from: None, ..loves() }, wrong("edge.from")),
        ("no target", v1::Edge { to: None, ..loves() }, wrong("edge.to")),
        ("a source of no name", edge(name(COLLECTION, ""), "loves", a()), wrong("edge.from.id")),
        ("no relation", edge(here(), "", a()), wrong("edge.relation")),
        ("a relation too long", edge(here(), &"r".repeat(256), a()), wrong("edge.relation")),
        ("a control character", edge(here(), "lo\tves", a()), wrong("edge.relation")),
        ("a source nowhere", edge(name("nowhere", "x"), "loves", a()), unknown("UNKNOWN_COLLECTION")),
        ("a target nowhere", edge(here(), "loves", name("nowhere", "x")), unknown("UNKNOWN_COLLECTION")),
        ("an end before the beginning", from_to(2, 1), wrong("edge.valid_to")),
    ];
    for (what, edge, Expected { code, reason, field }) in cases {
        let expected = || Expected { code, reason, field };
        verdict.of_item(what, client.put_edges(vec![edge.clone()]).await, expected());
        let item = Some(v1::put_stream_request::Item::Edge(edge));
        let message = v1::PutStreamRequest { item, ..Default::default() };
        verdict.of_item(&format!("{what} in a stream"), stream_one(&client, message).await, expected());
    }
    verdict.of("too many edges", client.put_edges(vec![loves(); 10_001]).await, too_much("edges"));
    let request =
        v1::DeleteEdgesRequest { edges: vec![v1::EdgeRef::default(); 10_001], ..Default::default() };
    verdict.of("too many deletes", client.graph().delete_edges(request).await, too_much("edges"));

    let ask = |change: &dyn Fn(&mut v1::NeighborsRequest)| {
        let mut request = v1::NeighborsRequest { r#ref: Some(here()), ..Default::default() };
        change(&mut request);
        let mut graph = client.graph();
        async move { graph.neighbors(request).await }
    };
    verdict.of("neighbours of nothing", ask(&|request| request.r#ref = None).await, wrong("ref"));
    verdict.of("too many neighbours", ask(&|request| request.limit = 10_001).await, too_much("limit"));
    verdict.of("no direction", ask(&|request| request.direction = 9).await, wrong("direction"));
    verdict.of("a weight asked above 1", ask(&|request| request.min_weight = 1.5).await, wrong("min_weight"));
    verdict.of(
        "a weight asked of NaN",
        ask(&|request| request.min_weight = f64::NAN).await,
        wrong("min_weight"),
    );

    let walk = |seeds: Vec<v1::EntityRef>, options| client.expand(seeds, options);
    let bare = v1::ExpandOptions::default;
    let seed = || vec![here()];
    let cases = [
        ("too many hops", v1::ExpandOptions { hops: 9, ..bare() }, too_much("options.hops")),
        ("too broad", v1::ExpandOptions { fan_out: 10_001, ..bare() }, too_much("options.fan_out")),
        ("too many nodes", v1::ExpandOptions { max_nodes: 100_001, ..bare() }, too_much("options.max_nodes")),
        ("no decay", v1::ExpandOptions { decay: Some(0.0), ..bare() }, wrong("options.decay")),
        ("growth", v1::ExpandOptions { decay: Some(1.1), ..bare() }, wrong("options.decay")),
        ("decay of NaN", v1::ExpandOptions { decay: Some(f64::NAN), ..bare() }, wrong("options.decay")),
        ("no direction", v1::ExpandOptions { direction: 7, ..bare() }, wrong("options.direction")),
        (
            "a weight of NaN",
            v1::ExpandOptions { min_weight: f64::NAN, ..bare() },
            wrong("options.min_weight"),
        ),
        ("a weight above 1", v1::ExpandOptions { min_weight: 1.5, ..bare() }, wrong("options.min_weight")),
    ];
    for (what, options, expected) in cases {
        verdict.of(what, walk(seed(), options).await, expected);
    }
    verdict.of("too many seeds", walk(vec![here(); 1_001], bare()).await, too_much("seeds"));
    verdict.of("no seeds", walk(Vec::new(), bare()).await, wrong("seeds"));
    verdict.of(
        "a seed nowhere",
        walk(vec![name("nowhere", "x")], bare()).await,
        unknown("UNKNOWN_COLLECTION"),
    );
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let good = || query(COLLECTION, near(SPACE, &[1.0, 0.0]));
    let nearest = |nearest| query(COLLECTION, nearest);
    let target = |target| v1::Nearest { target, ..near(SPACE, &[]) };
    let weights = |weights| v1::QueryRequest {
        score: Some(v1::Scoring { weights: Some(weights), ..Default::default() }),
        ..good()
    };
    let ids = |count| v1::Seed {
        kind: Some(seed::Kind::Ids(v1::Ids { refs: vec![name(COLLECTION, THERE); count] })),
    };
    let text = || Some(Target::Text("a dog".into()));
    let no_provider =
        Expected { code: Code::FailedPrecondition, reason: "NO_EMBEDDING_PROVIDER", field: None };
    let no_vector = Expected { code: Code::FailedPrecondition, reason: "FAILED_PRECONDITION", field: None };
    let bare = v1::Weights::default;
    let cases = [
        ("a vector too short", nearest(near(SPACE, &[1.0])), no_dimension("seeds[0].nearest.vector")),
        ("a vector of NaN", nearest(near(SPACE, &[1.0, f32::NAN])), wrong("seeds[0].nearest.vector")),
        ("an unknown space", nearest(near("nothing", &[1.0, 0.0])), unknown("UNKNOWN_SPACE")),
        ("an unknown collection", query("nowhere", near(SPACE, &[1.0, 0.0])), unknown("UNKNOWN_COLLECTION")),
        ("text for a vector", nearest(target(text())), no_provider),
        ("no target", nearest(target(None)), wrong("seeds[0].nearest")),
        (
            "an entity that is not there",
            nearest(target(Some(Target::Entity(name(COLLECTION, "missing"))))),
            unknown("ENTITY_NOT_FOUND"),
        ),
        (
            "an entity without a vector",
            nearest(target(Some(Target::Entity(name(COLLECTION, "a"))))),
            no_vector,
        ),
        ("no seeds", v1::QueryRequest { seeds: Vec::new(), ..good() }, wrong("seeds")),
        (
            "a seed of nothing",
            v1::QueryRequest { seeds: vec![v1::Seed { kind: None }], ..good() },
            wrong("seeds[0]"),
        ),
        ("too many seeds", v1::QueryRequest { seeds: vec![ids(1); 17], ..good() }, too_much("seeds")),
        (
            "too many ids",
            v1::QueryRequest { seeds: vec![ids(1_001)], ..good() },
            too_much("seeds[0].ids.refs"),
        ),
        (
            "a filter seed without a filter",
            v1::QueryRequest {
                seeds: vec![v1::Seed { kind: Some(seed::Kind::Filter(v1::FilterSeed::default())) }],
                ..good()
            },
            wrong("seeds[0].filter.filter"),
        ),
        (
            "k too large",
            nearest(v1::Nearest { k: 10_001, ..near(SPACE, &[1.0, 0.0]) }),
            too_much("seeds[0].nearest.k"),
        ),
        (
            "ef too large",
            nearest(v1::Nearest { ef: 20_001, ..near(SPACE, &[1.0, 0.0]) }),
            too_much("seeds[0].nearest.ef"),
        ),
        ("a limit too large", v1::QueryRequest { limit: 10_001, ..good() }, too_much("limit")),
        (
            "too many hops",
            v1::QueryRequest { expand: Some(v1::ExpandOptions { hops: 9, ..Default::default() }), ..good() },
            too_much("expand.hops"),
        ),
        (
            "a weight of edges above 1",
            v1::QueryRequest {
                expand: Some(v1::ExpandOptions { min_weight: 1.5, ..Default::default() }),
                ..good()
            },
            wrong("expand.min_weight"),
        ),
        ("a threshold of NaN", v1::QueryRequest { threshold: Some(f64::NAN), ..good() }, wrong("threshold")),
        ("a threshold above 1", v1::QueryRequest { threshold: Some(1.5), ..good() }, wrong("threshold")),
        (
            "an unknown field",
            v1::QueryRequest { read_mask: mask(&["nonsense"]), ..good() },
            wrong("read_mask"),
        ),
        ("weights of zero", weights(bare()), wrong("score.weights")),
        ("a weight below 0", weights(v1::Weights { graph: -1.0, ..bare() }), wrong("score.weights.graph")),
        (
            "a weight of NaN",
            weights(v1::Weights { vector: f64::NAN, ..bare() }),
            wrong("score.weights.vector"),
        ),
        (
            "a weight without bounds",
            weights(v1::Weights { recency: f64::INFINITY, ..bare() }),
            wrong("score.weights.recency"),
        ),
        (
            "a half-life of nothing",
            v1::QueryRequest {
                score: Some(v1::Scoring {
                    half_life: Some(prost_types::Duration::default()),
                    ..Default::default()
                }),
                ..good()
            },
            wrong("score.half_life"),
        ),
    ];
    client.query(good()).await.expect("the query itself is in order");
    for (what, request, Expected { code, reason, field }) in cases {
        let expected = || Expected { code, reason, field };
        verdict.of(what, client.query(request.clone()).await, expected());
        let request = v1::BatchQueryRequest { queries: vec![request] };
        let results = client.search().batch_query(request).await.map(|answer| {
            let results = answer.into_inner().results.into_iter();
            results.map(|result| v1::ItemResult { status: result.status, ..Default::default() }).collect()
        });
        verdict.of_item(&format!("{what} in a batch"), results, expected());
    }
    let request = v1::BatchQueryRequest { queries: vec![good(); 101] };
    verdict.of("too many queries", client.search().batch_query(request).await, too_much("queries"));
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn collections() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let space = |name: &str, dimension| v1::Space {
        name: name.into(),
        dimension,
        metric: v1::Metric::Cosine.into(),
        history: 0,
    };
    let create = |name: &str, spaces| {
        let collection = v1::Collection { name: name.into(), spaces, ..Default::default() };
        let request = v1::CreateCollectionRequest { collection: Some(collection) };
        let mut collections = client.collections();
        async move { collections.create_collection(request).await }
    };
    let exists = Expected { code: Code::AlreadyExists, reason: "COLLECTION_EXISTS", field: None };
    verdict.of("twice", create(COLLECTION, Vec::new()).await, exists);
    for (what, bad) in [("no name", ""), ("a slash", "a/b"), ("a name too long", &"x".repeat(65))] {
        verdict.of(what, create(bad, Vec::new()).await, wrong("collection.name"));
    }
    let dimension = || wrong("collection.spaces[0].dimension");
    verdict.of("no dimension", create("new", vec![space("s", 0)]).await, dimension());
    verdict.of("too many dimensions", create("new", vec![space("s", 65_536)]).await, dimension());
    verdict.of(
        "a space of no name",
        create("new", vec![space("", 2)]).await,
        wrong("collection.spaces[0].name"),
    );
    let unmeasured = v1::Space { metric: 0, ..space("s", 2) };
    verdict.of("no metric", create("new", vec![unmeasured]).await, wrong("collection.spaces[0].metric"));
    let nothing = client.collections().create_collection(v1::CreateCollectionRequest::default()).await;
    verdict.of("no collection", nothing, wrong("collection"));
    let request = v1::GetCollectionRequest { name: "nowhere".into() };
    verdict.of("get", client.collections().get_collection(request).await, unknown("UNKNOWN_COLLECTION"));
    let request = v1::DropCollectionRequest { name: "nowhere".into() };
    verdict.of("drop", client.collections().drop_collection(request).await, unknown("UNKNOWN_COLLECTION"));

    let update = |change: &dyn Fn(&mut v1::UpdateCollectionRequest)| {
        let mut request = v1::UpdateCollectionRequest { name: COLLECTION.into(), ..Default::default() };
        change(&mut request);
        let mut collections = client.collections();
        async move { collections.update_collection(request).await }
    };
    let answer = update(&|request| request.name = "nowhere".into()).await;
    verdict.of("an update elsewhere", answer, unknown("UNKNOWN_COLLECTION"));
    // Nothing of a change is made if a part of it cannot be.
    let answer = update(&|request| {
        request.add_spaces = vec![space("fresh", 2)];
        request.drop_spaces = vec!["nothing".into()];
    });
    verdict.of("dropping an unknown space", answer.await, unknown("UNKNOWN_SPACE"));
    let answer =
        update(&|request| request.set_aliases = [("alias".to_owned(), "nothing".to_owned())].into()).await;
    verdict.of("an alias of an unknown space", answer, unknown("UNKNOWN_SPACE"));
    let precondition =
        Expected { code: Code::FailedPrecondition, reason: "FAILED_PRECONDITION", field: None };
    let answer = update(&|request| request.add_spaces = vec![space(SPACE, 3)]).await;
    verdict.of("a space of another dimension", answer, precondition);
    let answer = update(&|request| request.add_spaces = vec![space("fresh", 0)]).await;
    verdict.of("a space added without a dimension", answer, wrong("add_spaces[0].dimension"));
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit() {
    let (_process, client, before) = prepared().await;
    let large = attribute("x", text(&"x".repeat(17 << 20)));
    let refused = client.put(large.clone()).await.expect_err("17 MiB");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    let info = refused.get_details_error_info().expect("seen above");
    assert_eq!(info.metadata["limit_bytes"], (16 << 20).to_string());
    let item = Some(v1::put_stream_request::Item::Entity(large));
    let message = v1::PutStreamRequest { item, ..Default::default() };
    let refused = stream_one(&client, message).await.expect_err("17 MiB");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(everything(&client).await, before, "nothing changed");
    // What is right by its side is still done.
    let entities = vec![with_vector(&[0.0, 1.0]), with_vector(&[1.0])];
    let request = v1::BatchPutRequest { entities, ..Default::default() };
    let results = client.entities().batch_put(request).await.expect("answered").into_inner().results;
    assert_done(&results[0]);
    assert_eq!(results[1].status.as_ref().expect("a status").code, Code::InvalidArgument as i32);
    let there = client.get(name(COLLECTION, THERE)).await.expect("there");
    assert_eq!(there.vectors[SPACE], vector(&[0.0, 1.0]));
}
