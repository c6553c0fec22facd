//! Rows as this format writes them. They must be read for ever, and come out the same as long as it is current.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    ChunkContent, EdgeContent, EdgeKey, EntityKey, EntityRow, Field, Scope, VectorContent, VectorKey,
    decode_register, encode_register, key,
};
use crate::{
    merge::{EntityState, Register},
    model::{CollectionId, EntityRef, SpaceId, TenantId, Timestamp, Value},
    mutation::{Condition, Kind, Mutation, Part},
    version::Version,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn version(counter: u16) -> Version {
    Version::new(1_700_000_000_000, counter, 0x0102_0304_0506_0708)
}

fn attributes() -> BTreeMap<String, Value> {
    let values = [
        Value::Null,
        Value::Bool(true),
        Value::Int(-7),
        Value::Double(0.5),
        Value::String("ä".into()),
        Value::Bytes(Bytes::from_static(&[0, 255])),
        Value::Timestamp(Timestamp(-1)),
        Value::List(vec![Value::Int(1), Value::Bool(false)]),
        Value::Map(BTreeMap::from([("k".to_owned(), Value::Null)])),
    ];
    values.into_iter().enumerate().map(|(at, value)| (format!("a{at}"), value)).collect()
}

fn entity_row() -> EntityRow {
    let mut row = EntityRow::default();
    (row.touched, row.puts) = (version(2), vec![version(1)]);
    row.clear(Scope::Entity, version(1).just_below());
    row.clear(Scope::Vectors, version(2));
    row.set(Field::Existence, version(1), Some(Value::Bool(true)));
    row.set(Field::Type, version(1), Some(Value::String("noun".into())));
    row.set(Field::Importance, version(2), None);
    row.set(Field::Source("s".into()), version(1), Some(Value::Bool(true)));
    for (name, value) in attributes() {
        row.set(Field::Attribute(name), version(1), Some(value));
    }
    row
}

fn alias_row() -> EntityRow {
    let mut row = EntityRow::default();
    row.touched = version(7);
    row.clear(Scope::Entity, version(7).just_below());
    row.set(Field::MergedInto, version(7), Some(Value::String("b".into())));
    row
}

fn freed_name_row() -> EntityRow {
    let mut row = EntityRow::default();
    row.touched = version(8);
    row.clear(Scope::Entity, version(8));
    row.clear(Scope::Edges, version(8));
    row.set(Field::LeadsTo(version(7)), version(7), Some(Value::String("b".into())));
    row
}

fn edge() -> Register<EdgeContent> {
    let content = EdgeContent {
        weight: 0.25,
        attributes: attributes(),
        valid_from: None,
        valid_to: Some(Timestamp(9)),
        sources: BTreeSet::from(["s".to_owned()]),
    };
    Register { version: version(3), value: Some(content) }
}

fn chunk() -> Register<ChunkContent> {
    let content = ChunkContent { text: "text".into(), metadata: attributes(), sources: BTreeSet::new() };
    Register { version: version(4), value: Some(content) }
}

fn vector() -> Register<VectorContent> {
    Register { version: version(5), value: Some(VectorContent([1.0, -0.5].into())) }
}

const ENTITY_ROW: &str = "0111018bcfe5680000010102030405060707018bcfe568000002010203040506070802018bcfe5680000010102030405060708018bcfe56800000201020304050607080101000d010003020006046e6f756e0301000501730003060261300001060261310003060261320004f9ffffffffffffff060261330005000000000000e03f06026134000602c3a40602613500070200ff060261360008ffffffffffffffff060261370009020401000000000000000206026138000a01016b01";
const ALIAS_ROW: &str =
    "0101018bcfe568000007010203040506070701018bcfe56800000701020304050607080000010700060162";
const FREED_NAME_ROW: &str = "0103018bcfe5680000080102030405060708018bcfe568000008010203040506070802018bcfe5680000070102030405060708018bcfe568000008010203040506070801000108018bcfe568000007010203040506070800060162";
const EDGE: &str = "01018bcfe568000003010203040506070801000000000000d03f02090000000000000009026130010261310302613204f9ffffffffffffff02613305000000000000e03f0261340602c3a4026135070200ff02613608ffffffffffffffff0261370902040100000000000000020261380a01016b01010173";
const CHUNK: &str = "01018bcfe568000004010203040506070801047465787409026130010261310302613204f9ffffffffffffff02613305000000000000e03f0261340602c3a4026135070200ff02613608ffffffffffffffff0261370902040100000000000000020261380a01016b0100";
const VECTOR: &str = "01018bcfe5680000050102030405060708010000803f000000bf";
const TOMBSTONE: &str = "01018bcfe568000006010203040506070800";

#[test]
fn values_of_format_1_are_read_and_written() {
    assert_eq!(EntityRow::decode(&unhex(ENTITY_ROW)), Ok(entity_row()));
    assert_eq!(hex(&entity_row().encode()), ENTITY_ROW);
    assert_eq!(hex(&alias_row().encode()), ALIAS_ROW);
    assert_eq!(EntityRow::decode(&unhex(ALIAS_ROW)), Ok(alias_row()));
    assert_eq!(hex(&freed_name_row().encode()), FREED_NAME_ROW);
    assert_eq!(EntityRow::decode(&unhex(FREED_NAME_ROW)), Ok(freed_name_row()));
    assert_eq!(decode_register(&unhex(EDGE)), Ok(edge()));
    assert_eq!(hex(&encode_register(&edge())), EDGE);
    assert_eq!(decode_register(&unhex(CHUNK)), Ok(chunk()));
    assert_eq!(hex(&encode_register(&chunk())), CHUNK);
    assert_eq!(decode_register(&unhex(VECTOR)), Ok(vector()));
    assert_eq!(hex(&encode_register(&vector())), VECTOR);
    let tombstone = Register::<EdgeContent> { version: version(6), value: None };
    assert_eq!(decode_register(&unhex(TOMBSTONE)), Ok(tombstone.clone()));
    assert_eq!(hex(&encode_register(&tombstone)), TOMBSTONE);
}

#[test]
fn keys_stay_as_they_are() {
    let entity = EntityKey::new(TenantId(1), CollectionId(2), "n-1");
    let name = VectorKey { chunk: "c".into(), space: SpaceId(3) };
    let edge = EdgeKey {
        relation: "r".into(),
        collection: CollectionId(4),
        other: "o".into(),
        edge_id: String::new(),
    };
    let keys = [
        entity.prefix(),
        entity.vector(&name),
        entity.history(&name, version(1)),
        entity.chunk("c"),
        entity.edge(&edge),
        entity.token_row(),
        entity.number("c"),
        key::by_number(7),
        key::encode_numbered(&entity, "c"),
    ];
    assert_eq!(keys.map(|key| hex(&key)), KEYS);
    assert_eq!(key::decode_edge_key(&entity.edge(&edge)).unwrap(), (entity.clone(), edge));
    assert_eq!(key::decode_vector_key(&entity.vector(&name)).unwrap(), (entity.clone(), name));
    assert_eq!(key::decode_numbered(&key::encode_numbered(&entity, "c")).unwrap(), (entity, "c".to_owned()));
}

#[test]
fn what_nodes_tell_each_other_stays_as_it_is() {
    let entity = EntityKey::new(TenantId(1), CollectionId(2), "n-1");
    let name = VectorKey { chunk: "c".into(), space: SpaceId(3) };
    let edge_name = EdgeKey {
        relation: "r".into(),
        collection: CollectionId(4),
        other: "o".into(),
        edge_id: String::new(),
    };
    let mut state = EntityState::default();
    state.row.touched = version(1);
    state.vectors.insert(name, vector());
    state.chunks.insert("c".into(), chunk());
    state.edges.insert(edge_name.clone(), edge());
    state.edges_in.insert(edge_name, Register { version: version(2), value: None });
    assert_eq!(hex(&entity.encode()), ENTITY_NAME);
    assert_eq!(EntityKey::decode(&unhex(ENTITY_NAME)), Ok(entity.clone()));
    assert_eq!(hex(&state.encode()), STATE);
    assert_eq!(EntityState::decode(&unhex(STATE)), Ok(state));
    let mut delta = EntityState::default();
    delta.row.touched = version(1);
    let parts = vec![Part { entity, delta, condition: Condition::Exists }];
    let subject = EntityRef::new("words", "n-1");
    let mutation = Mutation { version: version(1), subject, kind: Kind::Plain, parts, bytes: 0 };
    assert_eq!(hex(&mutation.encode(|_| true).unwrap().unwrap()), MUTATION);
    assert_eq!(mutation.encode(|_| false).unwrap(), None, "nobody holds it");
    let read = Mutation::decode(&unhex(MUTATION)).unwrap();
    assert_eq!(hex(&read.encode(|_| true).unwrap().unwrap()), MUTATION);
    assert_eq!(Mutation::version_of(&unhex(MUTATION)), Some(version(1)));
    assert_eq!(read.settled().parts[0].condition, Condition::None);
}

const ENTITY_NAME: &str = "000000000000000100000000000000026e2d31";
const STATE: &str = "01010016010001018bcfe5680000010102030405060708000000020b63000000000000000000031a01018bcfe5680000050102030405060708010000803f000000bf0301636a01018bcfe568000004010203040506070801047465787409026130010261310302613204f9ffffffffffffff02613305000000000000e03f0261340602c3a4026135070200ff02613608ffffffffffffffff0261370902040100000000000000020261380a01016b0100041072000000000000000000046f000000007801018bcfe568000003010203040506070801000000000000d03f02090000000000000009026130010261310302613204f9ffffffffffffff02613305000000000000e03f0261340602c3a4026135070200ff02613608ffffffffffffffff0261370902040100000000000000020261380a01016b01010173051072000000000000000000046f000000001201018bcfe568000002010203040506070800";
const MUTATION: &str = "01018bcfe56800000101020304050607080005776f726473036e2d310113000000000000000100000000000000026e2d31011a01010016010001018bcfe5680000010102030405060708000000";

const KEYS: [&str; 9] = [
    "0022000000000000000100000000000000026e2d310000",
    "0022000000000000000100000000000000026e2d3100006300000000000000000003",
    "0022000000000000000100000000000000026e2d3100006300000000000000000003fe74301a97fffffefefdfcfbfaf9f8f7",
    "0022000000000000000100000000000000026e2d310000630000",
    "0022000000000000000100000000000000026e2d31000072000000000000000000046f00000000",
    "00220000000000000001000000000000000222edc307e4c25d046e2d310000",
    "000022000000000000000100000000000000026e2d310000630000",
    "010000000000000007",
    "000000000000000100000000000000026e2d310000630000",
];
