//! What is written: a function of the id and the number of the write, so that what is read tells which
//! write it came from, and whether all of it is from that one.

use std::collections::BTreeMap;

use allidb_api::v1::{self, value::Kind};

use super::{COLLECTION, DIMENSION, SPACE};
use crate::{
    make::{edge as bare_edge, entity as bare_entity, int, mask, name, text, value, vectors},
    random::{Random, hash},
};

/// What an entity may be: the numbers of the put and of the last update since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    There { put: u64, update: Option<u64> },
}

pub(super) const RELATION: &str = "knows";

fn random(id: &str, write: u64) -> Random {
    Random::new(hash(id, write))
}

/// The vector of the entity itself.
pub(super) fn own_vector(id: &str, put: u64, update: Option<u64>) -> Vec<f32> {
    random(id, update.map_or(put, |update| update ^ 0xdead)).vector(DIMENSION)
}

/// The vector of a chunk.
pub(super) fn chunk_vector(id: &str, put: u64, chunk: u64) -> Vec<f32> {
    random(id, put.wrapping_mul(31) + chunk + 1).vector(DIMENSION)
}

fn number(value: u64) -> v1::Value {
    int(value.cast_signed())
}

fn chunk(id: &str, put: u64, at: u64) -> v1::Chunk {
    let mut random = random(id, put + at);
    v1::Chunk {
        id: format!("chunk-{at}"),
        text: "lorem ipsum ".repeat(random.below(30)),
        metadata: BTreeMap::from([("put".to_owned(), number(put))]),
        sources: vec![format!("page-{}", random.below(5))],
        vectors: vectors(SPACE, &chunk_vector(id, put, at)),
    }
}

/// The whole entity as it is read, but for what the server sets.
pub(super) fn entity(id: &str, put: u64, update: Option<u64>) -> v1::Entity {
    let mut random = random(id, put);
    let time = prost_types::Timestamp { seconds: random.below(1 << 31) as i64, nanos: 7_000 };
    let numbers = (0..3).map(|_| number(random.next())).collect();
    let list = v1::ListValue { values: numbers };
    let attributes = [
        ("put", number(put)),
        ("random", number(random.next())),
        ("ratio", value(Kind::DoubleValue(f64::from(random.number())))),
        ("even", value(Kind::BoolValue(put.is_multiple_of(2)))),
        ("note", text(&"né ".repeat(random.below(60)))),
        ("raw", value(Kind::BytesValue(random.bytes(40).into()))),
        ("at", value(Kind::TimestampValue(time))),
        ("list", value(Kind::ListValue(list))),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
    let mut entity = v1::Entity {
        r#type: format!("kind-{}", random.below(4)),
        attributes: BTreeMap::from(attributes),
        importance: Some(random.below(101) as f64 / 100.0),
        sources: vec![format!("source-{}", random.below(5))],
        vectors: vectors(SPACE, &own_vector(id, put, update)),
        chunks: vec![chunk(id, put, 0), chunk(id, put, 1)],
        ..bare_entity(COLLECTION, id)
    };
    if let Some(update) = update {
        let changed = updated_fields(id, update);
        entity.attributes.extend(changed.attributes);
        entity.importance = changed.importance;
    }
    entity
}

fn updated_fields(id: &str, update: u64) -> v1::Entity {
    let mut random = random(id, update);
    let attributes = [("update", number(update)), ("remark", text(&"changed ".repeat(random.below(20))))];
    v1::Entity {
        attributes: BTreeMap::from(attributes.map(|(name, value)| (name.to_owned(), value))),
        importance: Some(random.below(101) as f64 / 100.0),
        vectors: vectors(SPACE, &own_vector(id, 0, Some(update))),
        ..bare_entity(COLLECTION, id)
    }
}

/// Changes two attributes, the importance and the vector, and leaves the chunks.
pub(super) fn update(id: &str, update: u64) -> v1::UpdateRequest {
    v1::UpdateRequest {
        entity: Some(updated_fields(id, update)),
        update_mask: mask(&["attributes.update", "attributes.remark", "importance", "vectors.main"]),
        ..Default::default()
    }
}

/// Which writes an entity that was read claims to be of.
pub(super) fn state_of(entity: &v1::Entity) -> State {
    let number = |name: &str| match entity.attributes.get(name)?.kind.as_ref()? {
        Kind::IntValue(number) => Some(number.cast_unsigned()),
        _ => None,
    };
    let put = number("put").unwrap_or_else(|| panic!("no put made this: {entity:?}"));
    State::There { put, update: number("update") }
}

/// An edge as it is read, but for its version.
pub(super) fn edge(from: &str, to: &str, put: u64) -> v1::Edge {
    let mut random = random(from, hash(to, put));
    let attributes = [("put", number(put)), ("why", text(&"because ".repeat(random.below(10))))];
    v1::Edge {
        weight: Some(random.below(1_001) as f64 / 1_000.0),
        attributes: BTreeMap::from(attributes.map(|(name, value)| (name.to_owned(), value))),
        sources: vec![format!("source-{}", random.below(5))],
        ..bare_edge(name(COLLECTION, from), RELATION, name(COLLECTION, to))
    }
}

/// The number of the write that an edge claims to be of.
pub(super) fn put_of(edge: &v1::Edge) -> u64 {
    match edge.attributes.get("put").and_then(|value| value.kind.as_ref()) {
        Some(Kind::IntValue(number)) => number.cast_unsigned(),
        _ => panic!("no write made this: {edge:?}"),
    }
}
