//! Attribute values as JSON.
//!
//! JSON has no integers apart from doubles, no bytes and no timestamps; the contract has. Whole
//! numbers are int64, numbers with a point or an exponent are doubles, and what JSON lacks is an
//! object with one reserved key: `{"$timestamp": "2024-05-01T00:00:00Z"}`, `{"$bytes": "aGk="}`.
//! A map whose only key looks like that is written as `{"$map": {…}}`, so every value survives.

use std::collections::BTreeMap;

use allidb_api::v1::{ListValue, MapValue, NullValue, Value, value::Kind};
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value as Json, json};

const TIMESTAMP: &str = "$timestamp";
const BYTES: &str = "$bytes";
const MAP: &str = "$map";

/// Deeper values are refused before they can exhaust the stack of anyone who walks them.
const MAX_DEPTH: usize = 32;

/// Named values, such as attributes or the metadata of a chunk.
pub(crate) type Values = BTreeMap<String, Value>;

/// Reads a value. Fails on an integer outside int64 and on malformed reserved objects.
pub(crate) fn from_json(json: Json) -> Result<Value> {
    read(json, MAX_DEPTH)
}

/// Reads an object of named values.
pub(crate) fn map_from_json(object: Map<String, Json>) -> Result<Values> {
    read_map(object, MAX_DEPTH)
}

fn read(json: Json, depth: usize) -> Result<Value> {
    let Some(depth) = depth.checked_sub(1) else { bail!("nested deeper than {MAX_DEPTH}") };
    let kind = match json {
        Json::Null => Kind::NullValue(NullValue::NullValue as i32),
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => number_kind(&number)?,
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => {
            let values = items.into_iter().map(|item| read(item, depth)).collect::<Result<_>>()?;
            Kind::ListValue(ListValue { values })
        }
        Json::Object(object) => return read_object(object, depth),
    };
    Ok(Value { kind: Some(kind) })
}

fn number_kind(number: &Number) -> Result<Kind> {
    if let Some(whole) = number.as_i64() {
        return Ok(Kind::IntValue(whole));
    }
    if number.is_u64() {
        bail!("{number} is larger than an int64 holds; write {number}.0 for a double");
    }
    match number.as_f64() {
        Some(double) if double.is_finite() => Ok(Kind::DoubleValue(double)),
        _ => bail!("{number} is not a finite number"),
    }
}

fn read_object(mut object: Map<String, Json>, depth: usize) -> Result<Value> {
    let kind = match reserved_key(&object) {
        Some(TIMESTAMP) => {
            let Some(Json::String(text)) = object.remove(TIMESTAMP) else {
                bail!("`{TIMESTAMP}` takes a string such as \"2024-05-01T00:00:00Z\"");
            };
            Kind::TimestampValue(timestamp(&text)?)
        }
        Some(BYTES) => {
            let Some(Json::String(text)) = object.remove(BYTES) else {
                bail!("`{BYTES}` takes a string of base64");
            };
            Kind::BytesValue(STANDARD.decode(text).context("`$bytes` is not base64")?.into())
        }
        Some(_) => {
            let Some(Json::Object(inner)) = object.remove(MAP) else { bail!("`{MAP}` takes an object") };
            Kind::MapValue(MapValue { fields: read_map(inner, depth)? })
        }
        None => Kind::MapValue(MapValue { fields: read_map(object, depth)? }),
    };
    Ok(Value { kind: Some(kind) })
}

fn reserved_key(object: &Map<String, Json>) -> Option<&'static str> {
    let only = object.keys().next().filter(|_| object.len() == 1)?;
    [TIMESTAMP, BYTES, MAP].into_iter().find(|reserved| only == reserved)
}

fn read_map(object: Map<String, Json>, depth: usize) -> Result<Values> {
    let read_one = |(name, json)| {
        let value = read(json, depth).with_context(|| format!("`{name}`"))?;
        Ok((name, value))
    };
    object.into_iter().map(read_one).collect()
}

/// Writes a value so that [`from_json`] gives it back.
pub(crate) fn to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(truth)) => json!(truth),
        Some(Kind::IntValue(whole)) => json!(whole),
        Some(Kind::DoubleValue(double)) => json!(double),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BytesValue(bytes)) => json!({ BYTES: STANDARD.encode(bytes) }),
        Some(Kind::TimestampValue(time)) => json!({ TIMESTAMP: time.to_string() }),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::MapValue(map)) => {
            let object = map_to_json(&map.fields);
            if reserved_key(&object).is_some() { json!({ MAP: object }) } else { Json::Object(object) }
        }
    }
}

/// Writes named values.
pub(crate) fn map_to_json(values: &Values) -> Map<String, Json> {
    values.iter().map(|(name, value)| (name.clone(), to_json(value))).collect()
}

/// Reads an RFC 3339 timestamp.
pub(crate) fn timestamp(text: &str) -> Result<prost_types::Timestamp> {
    text.parse().map_err(|_| anyhow::anyhow!("`{text}` is not an RFC 3339 time such as 2024-05-01T00:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(json: Json) -> Json {
        to_json(&from_json(json).expect("a valid value"))
    }

    #[test]
    fn every_kind_survives() {
        for json in [
            json!(null),
            json!(true),
            json!(9_007_199_254_740_993_i64),
            json!(i64::MIN),
            json!(1.0),
            json!(0.1),
            json!("text"),
            json!({"$timestamp": "2024-05-01T12:30:00.250Z"}),
            json!({"$bytes": "AP8Q"}),
            json!([1, [2.5, null], {"a": {"b": 1}}]),
            json!({"$map": {"$bytes": "not bytes at all"}}),
            json!({"$bytes": "AA==", "other": 1}),
        ] {
            assert_eq!(round_trip(json.clone()), json);
        }
    }

    #[test]
    fn whole_numbers_are_integers_and_the_rest_doubles() {
        assert_eq!(from_json(json!(3)).unwrap().kind, Some(Kind::IntValue(3)));
        assert_eq!(from_json(json!(3.0)).unwrap().kind, Some(Kind::DoubleValue(3.0)));
    }

    #[test]
    fn malformed_values_are_refused() {
        for json in [
            json!(u64::MAX),
            json!({"$timestamp": "yesterday"}),
            json!({"$timestamp": 5}),
            json!({"$bytes": "***"}),
            json!({"$map": 1}),
        ] {
            assert!(from_json(json.clone()).is_err(), "{json} was taken");
        }
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert!(from_json(deep).is_err());
    }
}
