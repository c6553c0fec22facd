//! Typed values.

use std::collections::BTreeMap;

use allidb_index::{Facet, model::Value};
use tonic::Status;

use super::{
    Path,
    time::{timestamp_from_proto, timestamp_to_proto},
};
use crate::v1::{self, value::Kind};

pub(super) fn value_from_proto(path: &Path<'_>, value: v1::Value) -> Result<Value, Status> {
    let Some(kind) = value.kind else {
        return Err(path.invalid("holds no value; an explicit null is `null_value`"));
    };
    Ok(match kind {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(value) => Value::Bool(value),
        Kind::IntValue(value) => Value::Int(value),
        Kind::DoubleValue(value) => Value::Double(value),
        Kind::StringValue(value) => Value::String(value),
        // A copy, so that a small value does not keep the whole message it came in.
        Kind::BytesValue(value) => Value::Bytes(bytes::Bytes::copy_from_slice(&value)),
        Kind::TimestampValue(value) => Value::Timestamp(timestamp_from_proto(path, value)?),
        Kind::ListValue(list) => {
            let items = list.values.into_iter().enumerate();
            Value::List(
                items.map(|(at, item)| value_from_proto(&path.index(at), item)).collect::<Result<_, _>>()?,
            )
        }
        Kind::MapValue(map) => Value::Map(values_from_proto(path, map.fields)?),
    })
}

pub(super) fn values_from_proto(
    path: &Path<'_>,
    values: BTreeMap<String, v1::Value>,
) -> Result<BTreeMap<String, Value>, Status> {
    values
        .into_iter()
        .map(|(name, value)| {
            let value = value_from_proto(&path.key(&name), value)?;
            Ok((name, value))
        })
        .collect()
}

pub(super) fn value_to_proto(value: Value) -> v1::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(v1::NullValue::NullValue.into()),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Int(value) => Kind::IntValue(value),
        Value::Double(value) => Kind::DoubleValue(value),
        Value::String(value) => Kind::StringValue(value),
        Value::Bytes(value) => Kind::BytesValue(value),
        Value::Timestamp(value) => Kind::TimestampValue(timestamp_to_proto(value)),
        Value::List(items) => {
            Kind::ListValue(v1::ListValue { values: items.into_iter().map(value_to_proto).collect() })
        }
        Value::Map(fields) => Kind::MapValue(v1::MapValue { fields: values_to_proto(fields) }),
    };
    v1::Value { kind: Some(kind) }
}

pub(super) fn values_to_proto(values: BTreeMap<String, Value>) -> BTreeMap<String, v1::Value> {
    values.into_iter().map(|(name, value)| (name, value_to_proto(value))).collect()
}

/// The commonest values of a field.
pub(crate) fn facet_to_proto(field: String, facet: Facet) -> v1::Facet {
    let values = facet.values.into_iter();
    let values = values.map(|(value, count)| v1::FacetValue { value: Some(value_to_proto(value)), count });
    v1::Facet { field, distinct: facet.distinct, values: values.collect() }
}

#[cfg(test)]
pub(super) mod tests {
    use allidb_index::model::Timestamp;
    use proptest::prelude::*;

    use super::*;

    /// Any value that can be stored.
    pub(in crate::convert) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            prop::num::f64::NORMAL.prop_map(Value::Double),
            ".{0,20}".prop_map(Value::String),
            any::<Vec<u8>>().prop_map(|bytes| Value::Bytes(bytes.into())),
            (-62_135_596_800_000_000i64..=253_402_300_799_999_999)
                .prop_map(|at| Value::Timestamp(Timestamp(at))),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
                prop::collection::btree_map(".{0,8}", inner, 0..5).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_round_trip(value in any_value()) {
            let back = value_from_proto(&Path::Root("value"), value_to_proto(value.clone()));
            prop_assert_eq!(back.expect("our own"), value);
        }
    }

    #[test]
    fn an_unset_value_names_its_place() {
        let list = v1::ListValue { values: vec![v1::Value { kind: None }] };
        let fields = BTreeMap::from([("a".to_owned(), v1::Value { kind: Some(Kind::ListValue(list)) })]);
        let entity = Path::Root("entity");
        let status = values_from_proto(&entity.field("attributes"), fields).expect_err("unset");
        assert!(
            status.message().starts_with("entity.attributes[\"a\"][0] holds no value"),
            "{}",
            status.message()
        );
    }
}
