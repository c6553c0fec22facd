//! Whatever entities and edges hold, files of each format give it back.

use std::collections::BTreeMap;

use allidb_api::v1::{
    Chunk, Edge, Entity, ListValue, MapValue, Value, Vector, put_stream_request::Item,
    value::Kind as ValueKind,
};
use proptest::prelude::*;

use super::{
    FileFormat, Kind,
    entity_columns::Mapping,
    layout::Layout,
    parts::{Choice, Parts},
    rows::{self, Reading},
};
use crate::{entity_json::entity_ref, vector_numbers};

const DIMENSION: usize = 3;

fn time() -> impl Strategy<Value = prost_types::Timestamp> {
    // What the server keeps: microseconds of the years 1 to 9999.
    let seconds = prop_oneof![-62_135_596_800..=253_402_300_799_i64, -2..2_i64];
    (seconds, 0..1_000_000)
        .prop_map(|(seconds, micros)| prost_types::Timestamp { seconds, nanos: micros * 1_000 })
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>().prop_filter("finite", |number| number.is_finite()), Just(-0.0), Just(1.0)]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~é\n\r\t\"]{0,12}", Just("$bytes".to_owned()), Just("[1]".to_owned())]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(ValueKind::NullValue(0)),
        any::<bool>().prop_map(ValueKind::BoolValue),
        any::<i64>().prop_map(ValueKind::IntValue),
        number().prop_map(ValueKind::DoubleValue),
        text().prop_map(ValueKind::StringValue),
        prop::collection::vec(any::<u8>(), 0..5).prop_map(|bytes| ValueKind::BytesValue(bytes.into())),
        time().prop_map(ValueKind::TimestampValue),
        prop::collection::vec(text(), 0..3).prop_map(|all| {
            let string = |text| Value { kind: Some(ValueKind::StringValue(text)) };
            ValueKind::ListValue(ListValue { values: all.into_iter().map(string).collect() })
        }),
    ];
    let leaf = leaf.prop_map(|kind| Value { kind: Some(kind) });
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|values| ValueKind::ListValue(ListValue { values })),
            prop::collection::btree_map(name(), inner, 0..3)
                .prop_map(|fields| ValueKind::MapValue(MapValue { fields })),
        ]
        .prop_map(|kind| Value { kind: Some(kind) })
    })
}

/// Few enough that several entities have the same; some are those of fields and of typed columns.
fn name() -> impl Strategy<Value = String> {
    let odd =
        ["id", "type", "vectors.s", "attributes", "a:int", "$bytes", "$map", "é \"quoted\", name", "from"];
    prop_oneof!["[a-d]", prop::sample::select(odd.to_vec()).prop_map(str::to_owned)]
}

fn vectors() -> impl Strategy<Value = BTreeMap<String, Vector>> {
    let number = any::<f32>().prop_filter("finite", |number| number.is_finite());
    let vector =
        prop::collection::vec(number, DIMENSION).prop_map(|values| Vector { values, ..Vector::default() });
    prop::option::of(vector)
        .prop_map(|vector| vector.map(|vector| ("s".to_owned(), vector)).into_iter().collect())
}

fn sources() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-z,\"]{1,4}", 0..3)
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let metadata = prop::collection::btree_map(name(), value(), 0..3);
    ("[a-z]{1,3}", text(), metadata, sources(), vectors())
        .prop_map(|(id, text, metadata, sources, vectors)| Chunk { id, text, metadata, sources, vectors })
}

fn entity() -> impl Strategy<Value = Entity> {
    let attributes = prop::collection::btree_map(name(), value(), 0..6);
    let rest = (prop::option::of(0.0..=1.0), prop::option::of(time()), sources(), vectors());
    let chunks = prop::collection::vec(chunk(), 0..3);
    ("[ -~é]{1,8}", "[a-z]{0,4}", attributes, chunks, rest).prop_map(
        |(id, r#type, attributes, chunks, (importance, expire_at, sources, vectors))| Entity {
            r#ref: Some(entity_ref("c", &id)),
            r#type,
            attributes,
            chunks,
            importance,
            expire_at,
            sources,
            vectors,
            ..Entity::default()
        },
    )
}

fn edge() -> impl Strategy<Value = Edge> {
    let attributes = prop::collection::btree_map(name(), value(), 0..4);
    let times = (prop::option::of(time()), prop::option::of(time()));
    let names = ("[ -~é]{1,8}", "[ -~]{1,4}", "[ -~é]{1,8}", "[a-z]{0,2}", prop_oneof![Just("c"), Just("d")]);
    (names, 0.0..=1.0, attributes, times, sources()).prop_map(
        |((from, relation, to, edge_id, collection), weight, attributes, (valid_from, valid_to), sources)| {
            Edge {
                from: Some(entity_ref("c", &from)),
                to: Some(entity_ref(collection, &to)),
                relation,
                edge_id,
                weight: Some(weight),
                attributes,
                valid_from,
                valid_to,
                sources,
                ..Edge::default()
            }
        },
    )
}

/// With vectors as numbers, whichever way they were read.
fn plain(item: Item) -> Item {
    let numbers = |vectors: &mut BTreeMap<String, Vector>| {
        for vector in vectors.values_mut() {
            *vector = Vector { values: vector_numbers::numbers(vector), ..Vector::default() };
        }
    };
    match item {
        Item::Entity(mut entity) => {
            numbers(&mut entity.vectors);
            entity.chunks.iter_mut().for_each(|chunk| numbers(&mut chunk.vectors));
            Item::Entity(entity)
        }
        edge => edge,
    }
}

/// Through a file, in parts of two.
fn through(name: &str, format: FileFormat, kind: Kind, items: &[Item]) -> Vec<Item> {
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join(name);
    let collection = "c".to_owned();
    let choice = Choice { collection, kind, format, filter: None, vectors: None, as_of: None };
    let mut parts = Parts::open(&target, choice, false).expect("opened").expect("not complete");
    let entities = items.iter().filter_map(|item| match item {
        Item::Entity(entity) => Some(entity.clone()),
        Item::Edge(_) => None,
    });
    // As the first page chooses the columns, what comes later may not fit them.
    let sample: Vec<Entity> = entities.take(2).collect();
    parts.choose(match kind {
        Kind::Entities => Layout::of_entities(&sample, vec![("s".to_owned(), DIMENSION as u32)], format),
        Kind::Edges => Layout::Edges,
    });
    for some in items.chunks(2) {
        parts.write(some.to_vec()).expect("written");
        parts.commit().expect("committed");
    }
    parts.join().expect("joined");
    let mapping = Mapping::default();
    let reading = Reading { collection: "c".to_owned(), mapping, types: Vec::new(), batch: 3 };
    let mut rows = rows::open(&target, format, kind, &reading).expect("a file");
    let mut read = Vec::new();
    loop {
        let some = rows.next().expect("readable");
        if some.is_empty() {
            return read;
        }
        read.extend(some.into_iter().map(|row| plain(row.item.expect("an item"))));
    }
}

const FILES: [(&str, FileFormat); 4] = [
    ("a.jsonl", FileFormat::Jsonl),
    ("a.jsonl.zst", FileFormat::Jsonl),
    ("a.csv", FileFormat::Csv),
    ("a.parquet", FileFormat::Parquet),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn entities_survive_every_format(entities in prop::collection::vec(entity(), 1..6)) {
        let items: Vec<Item> = entities.into_iter().map(Item::Entity).collect();
        for (name, format) in FILES {
            prop_assert_eq!(&through(name, format, Kind::Entities, &items), &items, "{}", name);
        }
    }

    #[test]
    fn edges_survive_every_format(edges in prop::collection::vec(edge(), 1..6)) {
        let items: Vec<Item> = edges.into_iter().map(Item::Edge).collect();
        for (name, format) in FILES {
            prop_assert_eq!(&through(name, format, Kind::Edges, &items), &items, "{}", name);
        }
    }
}
