//! Messages that tests send.

use std::collections::BTreeMap;

use allidb_api::v1::{self, filter::Kind, value::Kind as ValueKind};

pub(crate) fn name(collection: &str, id: &str) -> v1::EntityRef {
    v1::EntityRef { collection: collection.into(), id: id.into() }
}

pub(crate) fn value(kind: ValueKind) -> v1::Value {
    v1::Value { kind: Some(kind) }
}

pub(crate) fn int(number: i64) -> v1::Value {
    value(ValueKind::IntValue(number))
}

pub(crate) fn text(text: &str) -> v1::Value {
    value(ValueKind::StringValue(text.into()))
}

pub(crate) fn vector(values: &[f32]) -> v1::Vector {
    v1::Vector { values: values.to_vec(), ..Default::default() }
}

/// Of one space.
pub(crate) fn vectors(space: &str, values: &[f32]) -> BTreeMap<String, v1::Vector> {
    BTreeMap::from([(space.to_owned(), vector(values))])
}

pub(crate) fn entity(collection: &str, id: &str) -> v1::Entity {
    v1::Entity { r#ref: Some(name(collection, id)), ..Default::default() }
}

pub(crate) fn edge(from: v1::EntityRef, relation: &str, to: v1::EntityRef) -> v1::Edge {
    v1::Edge { from: Some(from), relation: relation.into(), to: Some(to), ..Default::default() }
}

pub(crate) fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// `field operator value`.
pub(crate) fn compare(field: &str, operator: v1::comparison::Operator, value: v1::Value) -> v1::Filter {
    let compare = v1::Comparison { field: field.into(), operator: operator.into(), value: Some(value) };
    v1::Filter { kind: Some(Kind::Compare(compare)) }
}

pub(crate) fn not(filter: v1::Filter) -> v1::Filter {
    v1::Filter { kind: Some(Kind::Not(Box::new(filter))) }
}

/// The nearest to a vector.
pub(crate) fn near(space: &str, values: &[f32]) -> v1::Nearest {
    v1::Nearest {
        space: space.into(),
        target: Some(v1::nearest::Target::Vector(vector(values))),
        ..Default::default()
    }
}

/// A query with one seed.
pub(crate) fn query(collection: &str, nearest: v1::Nearest) -> v1::QueryRequest {
    let seeds = vec![v1::Seed { kind: Some(v1::seed::Kind::Nearest(nearest)) }];
    v1::QueryRequest { collection: collection.into(), seeds, ..Default::default() }
}

pub(crate) fn id_of(entity: &v1::Entity) -> &str {
    entity.r#ref.as_ref().map_or("", |name| &name.id)
}
