use std::{collections::BTreeMap, sync::LazyLock};

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use serde_json::{Value as Json, json};

use super::{Message, read, read_field, read_parameter};
use crate::{
    FILE_DESCRIPTOR_SET, status,
    v1::{self, filter, seed, value::Kind},
};

static CONTRACT: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the contract"));

fn kind(name: &str) -> MessageDescriptor {
    CONTRACT.get_message_by_name(&format!("allidb.v1.{name}")).expect("a message of the contract")
}

fn decoded<T: prost::Message + Default>(name: &str, json: &Json) -> T {
    let bytes = read(json.to_string().as_bytes(), &kind(name)).unwrap_or_else(|error| panic!("{error:?}"));
    T::decode(bytes.as_slice()).expect("protobuf")
}

fn written(name: &str, message: &impl prost::Message) -> Json {
    let bytes = message.encode_to_vec();
    let text = serde_json::to_vec(&Message { kind: &kind(name), bytes: &bytes }).expect("written");
    serde_json::from_slice(&text).expect("JSON")
}

fn refused(name: &str, json: &str) -> String {
    let error = read(json.as_bytes(), &kind(name)).expect_err(json);
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    error.message().to_owned()
}

#[test]
fn an_entity_survives_the_round_trip() {
    let json = json!({
        "ref": {"collection": "words", "id": "dog"}, "type": "noun",
        "attributes": {
            "big": 9_007_199_254_740_993_i64, "bytes": {"$bytes": "AP8Q"}, "double": 1.0, "list": [1, [2.5, null]],
            "map": {"$map": {"$bytes": "none at all"}}, "null": null, "text": "t",
            "time": {"$timestamp": "2024-05-01T12:30:00.250Z"}, "truth": false,
        },
        "importance": 0.5, "expire_at": "2030-01-01T00:00:00Z", "sources": ["a", "b"],
        "vectors": {"gloss": [0.1, -2.0]},
        "chunks": [{"id": "c", "text": "t", "metadata": {"page": 1}, "vectors": {"gloss": [1.0, 0.0]}}],
        "version": "AQID",
    });
    let entity: v1::Entity = decoded("Entity", &json);
    assert_eq!(entity.attributes["null"].kind, Some(Kind::NullValue(0)));
    assert_eq!(entity.vectors["gloss"].values, [0.1, -2.0]);
    assert_eq!(written("Entity", &entity), json);
}

#[test]
fn messages_are_read_as_the_mapping_says() {
    let request: v1::QueryRequest = decoded(
        "QueryRequest",
        &json!({
            "collection": "c", "readMask": "type,attributes.x", "limit": "5", "threshold": null,
            "seeds": [{"nearest": {"space": "s", "vector": [1, 2.5], "k": 3.0}}, {"ids": {"refs": [{"id": "a"}]}}],
            "filter": {"and": {"filters": [{"compare": {"field": "n", "operator": "LESS", "value": 3}}, {"not": {"exists": "x"}}]}},
            "score": {"half_life": "1.5s", "mode": 2},
        }),
    );
    assert_eq!(request.read_mask.expect("a mask").paths, ["type", "attributes.x"]);
    assert_eq!((request.limit, request.threshold), (5, None));
    let Some(seed::Kind::Nearest(nearest)) = &request.seeds[0].kind else { panic!("{:?}", request.seeds) };
    let vector = v1::Vector { values: vec![1.0, 2.5], ..Default::default() };
    assert_eq!(nearest.target, Some(v1::nearest::Target::Vector(vector)));
    assert_eq!(nearest.k, 3);
    let Some(filter::Kind::And(list)) = request.filter.and_then(|filter| filter.kind) else {
        panic!("no filter")
    };
    let Some(filter::Kind::Compare(compare)) = &list.filters[0].kind else { panic!("{list:?}") };
    assert_eq!(compare.operator(), v1::comparison::Operator::Less);
    assert_eq!(compare.value.clone().and_then(|value| value.kind), Some(Kind::IntValue(3)));
    let score = request.score.expect("scoring");
    assert_eq!(score.mode(), v1::ScoreMode::Boost);
    assert_eq!(score.half_life, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
}

#[test]
fn numbers_are_always_there_and_what_is_empty_is_not() {
    assert_eq!(written("CountResponse", &v1::CountResponse { count: 0 }), json!({"count": 0}));
    assert_eq!(written("QueryResponse", &v1::QueryResponse::default()), json!({}));
    let deleted = v1::DeleteResponse { version: vec![1].into(), existed: false };
    assert_eq!(written("DeleteResponse", &deleted), json!({"version": "AQ==", "existed": false}));
    let clock = v1::ClockOffset { ahead_ms: -7, within_ms: u64::MAX };
    assert_eq!(written("ClockOffset", &clock), json!({"ahead_ms": -7, "within_ms": u64::MAX}));
    let counts = v1::CountHopsResponse { counts: vec![1, 300], ..Default::default() };
    assert_eq!(written("CountHopsResponse", &counts), json!({"counts": [1, 300], "edges": 0}));
    let space = v1::Space { name: "s".into(), metric: 1, ..Default::default() };
    assert_eq!(
        written("Space", &space),
        json!({"name": "s", "dimension": 0, "metric": "METRIC_COSINE", "history": 0})
    );
    let aliases = BTreeMap::from([("a".to_owned(), String::new())]);
    let collection = v1::Collection { aliases, ..Default::default() };
    assert_eq!(written("Collection", &collection), json!({"aliases": {"a": ""}}));
    let result = v1::ItemResult { status: Some(status::done()), ..Default::default() };
    assert_eq!(written("ItemResult", &result), json!({"status": {"code": 0, "status": "OK"}}));
    let raw = v1::Vector { raw: vec![1, 2].into(), encoding: 3, dimension: 2, ..Default::default() };
    let object = json!({"raw": "AQI=", "encoding": "VECTOR_ENCODING_I8", "dimension": 2});
    assert_eq!(written("Vector", &raw), object);
    assert_eq!(decoded::<v1::Vector>("Vector", &object), raw);
}

/// What an attribute that is written so is read as, and written as then.
fn attribute(json: &str) -> (Kind, serde_json::Value) {
    let body = format!(r#"{{"attributes": {{"a": {json}}}}}"#);
    let bytes = read(body.as_bytes(), &kind("Entity")).unwrap_or_else(|error| panic!("{json}: {error}"));
    let entity = v1::Entity::decode(&*bytes).expect("an entity");
    let written = serde_json::to_value(Message { kind: &kind("Entity"), bytes: &bytes }).expect("JSON");
    (entity.attributes["a"].kind.clone().expect("a value"), written["attributes"]["a"].clone())
}

#[test]
fn values_that_look_like_others_are_told_apart() {
    for json in [
        r#"{"$bytes": "aGk="}"#,
        r#"{"$timestamp": "2024-05-01T00:00:00Z"}"#,
        r#"{"$map": {"$bytes": "aGk="}}"#,
        r#"{"$map": {"$map": 1, "b": {"$bytes": "aGk="}}}"#,
        r#"{"$map": {}}"#,
        r#"{"$bytes": "x", "b": [1, 2.5, null, true, "t", {}]}"#,
        r#"{"a": {"b": [[], [[-1]]]}}"#,
    ] {
        let (read_as, written) = attribute(json);
        let (again, _) = attribute(&written.to_string());
        assert_eq!(read_as, again, "{json} is written {written}");
    }
    assert!(matches!(attribute(r#"{"$map": {"$bytes": "aGk="}}"#).0, Kind::MapValue(_)));
    assert!(matches!(attribute(r#"{"$bytes": "x", "b": 1}"#).0, Kind::MapValue(_)));
    assert_eq!(attribute("9223372036854775807").0, Kind::IntValue(i64::MAX));
    assert_eq!(attribute("-9223372036854775808").0, Kind::IntValue(i64::MIN));
    for (json, why) in [
        (r#"{"$map": {"a": 1}, "b": 1}"#, "has something beside `$map`"),
        (r#"{"b": 1, "$map": {"a": 1}}"#, "has something beside `$map`"),
        (r#"{"$map": [1]}"#, "has a `$map` that is no object"),
        (r#"{"$bytes": [1]}"#, "has a `$bytes` that is no string"),
        (r#"{"$bytes": "?"}"#, "has a `$bytes` that is no base64"),
        (r#"{"$timestamp": "now"}"#, "must be a time such as"),
        ("9223372036854775808", "larger than an int64 holds"),
    ] {
        let body = format!(r#"{{"attributes": {{"a": {json}}}}}"#);
        let error = read(body.as_bytes(), &kind("Entity")).expect_err(json);
        assert!(error.message().contains(why) && error.message().contains(r#"attributes["a"]"#), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (name, json, expected) in [
        ("Entity", r#"{"typ": "x"}"#, "typ is no field of Entity (line 1, column 6)"),
        ("Entity", "{\n \"ref\": {\"name\": 1}}", "ref.name is no field of EntityRef (line 2, column 15)"),
        ("Entity", r#"{"type": 5}"#, "type must be a string, not a number"),
        ("Entity", r#"{"type": "a", "type": "b"}"#, "type is given twice"),
        ("Entity", r#"{"sources": "a"}"#, "sources must be an array, not a string"),
        ("Entity", r#"{"sources": ["a", null]}"#, "sources[1] must not be null"),
        (
            "Entity",
            r#"{"attributes": {"n": 18446744073709551615}}"#,
            r#"attributes["n"] is 18446744073709551615, which"#,
        ),
        ("Entity", r#"{"attributes": {"t": {"$timestamp": "now"}}}"#, r#"attributes["t"] must be a time"#),
        ("Entity", r#"{"vectors": {"s": [1, "x"]}}"#, r#"vectors["s"][1] must be a number"#),
        ("Entity", r#"{"vectors": {"s": [1e300]}}"#, r#"vectors["s"][0] is 1e300, which is larger"#),
        ("Entity", r#"{"expire_at": 5}"#, "expire_at must be a string"),
        ("Entity", r#"{"version": "***"}"#, "version must be base64"),
        ("Entity", r#"{"ref": []}"#, "ref must not be an array"),
        ("Space", r#"{"dimension": -1}"#, "dimension is -1, which is out of its range"),
        ("Space", r#"{"dimension": 1.5}"#, "dimension must be a whole number"),
        (
            "Space",
            r#"{"metric": "COSINE"}"#,
            r#"metric is "COSINE", and must be one of METRIC_UNSPECIFIED, METRIC_COSINE"#,
        ),
        ("Seed", r#"{"ids": {}, "text": {}}"#, "text cannot be given beside `ids`"),
        ("Entity", r#"{"type": "x""#, "body is no JSON: EOF while parsing an object at line 1 column 12"),
        ("Entity", "{} {}", "body is no JSON: trailing characters at line 1 column 4"),
        ("Entity", "5", "body must be an object, not a number"),
        ("Entity", "null", "body must not be null"),
    ] {
        let message = refused(name, json);
        assert!(message.starts_with(expected), "{json}: {message}");
    }
    let deep = "[".repeat(200);
    assert!(refused("Entity", &format!(r#"{{"attributes": {{"x": {deep}"#)).contains("recursion limit"));
    assert!(read(b" \n", &kind("Entity")).expect("nothing").is_empty());
}

#[test]
fn bodies_of_fields_name_the_field() {
    let field = kind("PutRequest").get_field_by_name("entity").expect("a field");
    let bytes = read_field(br#"{"type": "noun"}"#, &field).expect("read");
    let request = v1::PutRequest::decode(bytes.as_slice()).expect("protobuf");
    assert_eq!(request.entity.expect("an entity").r#type, "noun");
    let error = read_field(br#"{"typ": "noun"}"#, &field).expect_err("no such field");
    assert!(error.message().starts_with("entity.typ is no field"), "{}", error.message());
}

#[test]
fn parameters_are_added_to_a_message() {
    let put = kind("PutRequest");
    let field = put.get_field_by_name("entity").expect("a field");
    let mut bytes = read_field(br#"{"type": "noun", "ref": {"id": "another"}}"#, &field).expect("read");
    for (name, value) in [
        ("entity.ref.collection", "c"),
        ("entity.ref.id", "a/b"),
        ("durability", "DURABILITY_FLUSH"),
        ("precondition.if_version", "_-8"),
    ] {
        read_parameter(&put, name, value, &mut bytes).expect("taken");
    }
    let request = v1::PutRequest::decode(bytes.as_slice()).expect("protobuf");
    let entity = request.entity.clone().expect("an entity");
    assert_eq!(entity.r#type, "noun");
    assert_eq!(entity.r#ref, Some(v1::EntityRef { collection: "c".into(), id: "a/b".into() }));
    assert_eq!(request.durability(), v1::Durability::Flush);
    let version = v1::precondition::Kind::IfVersion(vec![0xff, 0xef].into());
    assert_eq!(request.precondition.and_then(|precondition| precondition.kind), Some(version));

    let neighbors = kind("NeighborsRequest");
    let mut bytes = Vec::new();
    for (name, value) in
        [("relations", "a"), ("relations", "b"), ("min_weight", "0.5"), ("as_of", "2024-05-01T00:00:00Z")]
    {
        read_parameter(&neighbors, name, value, &mut bytes).expect("taken");
    }
    let request = v1::NeighborsRequest::decode(bytes.as_slice()).expect("protobuf");
    assert_eq!((request.relations.len(), request.min_weight), (2, 0.5));
    assert_eq!(request.as_of.expect("a time").seconds, 1_714_521_600);

    for (message, name, value) in [
        ("PutRequest", "nonsense", "1"),
        ("PutRequest", "entity", "{}"),
        ("PutRequest", "entity.attributes", "1"),
        ("PutRequest", "durability.x", "1"),
        ("PutRequest", "entity.ref.nonsense", "1"),
        ("PutRequest", "precondition.if_absent", "yes"),
        ("BatchGetRequest", "refs.id", "a"),
        ("NeighborsRequest", "limit", "many"),
        ("NeighborsRequest", "as_of", "now"),
    ] {
        let error = read_parameter(&kind(message), name, value, &mut Vec::new()).expect_err(name);
        assert!(error.message().starts_with(&format!("{name} ")), "{}", error.message());
    }
}

proptest! {
    #[test]
    fn whatever_is_sent_is_read_or_refused(json in "[\\[\\]{}:,\"a-z0-9.\\-$ ]{0,64}", bytes in any::<Vec<u8>>()) {
        for name in ["Entity", "QueryRequest", "Value", "UpdateRequest"] {
            for text in [json.as_bytes(), &bytes] {
                let read = read(text, &kind(name));
                prop_assert!(read.is_ok() || read.is_err_and(|error| error.code() == tonic::Code::InvalidArgument));
            }
        }
    }

    #[test]
    fn whatever_is_encoded_is_written_or_fails(bytes in any::<Vec<u8>>()) {
        for name in ["Entity", "QueryResponse", "BatchGetResponse"] {
            serde_json::to_vec(&Message { kind: &kind(name), bytes: &bytes }).ok();
        }
    }

    #[test]
    fn every_vector_survives(values in proptest::collection::vec(proptest::num::f32::NORMAL, 0..20)) {
        let vector = v1::Vector { values, ..Default::default() };
        let json = written("Vector", &vector);
        prop_assert_eq!(decoded::<v1::Vector>("Vector", &json), vector);
    }
}
