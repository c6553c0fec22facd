//! Values of attributes as plain JSON, so that every value survives the round trip.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value as Json, json};

use crate::v1::{ListValue, MapValue, NullValue, Value, value::Kind};

const TIMESTAMP: &str = "$timestamp";
const BYTES: &str = "$bytes";
const MAP: &str = "$map";

/// Reads a value; how deep it may be, the parser of JSON says.
pub(super) fn from_json(json: Json) -> Result<Value, String> {
    let kind = match json {
        Json::Null => Kind::NullValue(NullValue::NullValue.into()),
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => number_from_json(&number)?,
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => {
            let values = items.into_iter().map(from_json).collect::<Result<_, _>>()?;
            Kind::ListValue(ListValue { values })
        }
        Json::Object(object) => object_from_json(object)?,
    };
    Ok(Value { kind: Some(kind) })
}

fn number_from_json(number: &Number) -> Result<Kind, String> {
    match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => Ok(Kind::IntValue(whole)),
        (None, Some(double)) if !number.is_u64() => Ok(Kind::DoubleValue(double)),
        _ => Err(format!("is {number}, which is larger than an int64 holds; {number}.0 is a double")),
    }
}

fn object_from_json(mut object: Map<String, Json>) -> Result<Kind, String> {
    Ok(match reserved_key(&object) {
        Some(reserved) => match (reserved, object.remove(reserved)) {
            (TIMESTAMP, Some(Json::String(text))) => Kind::TimestampValue(timestamp(&text)?),
            (BYTES, Some(Json::String(text))) => {
                let bytes =
                    STANDARD.decode(text).map_err(|_| format!("has a `{BYTES}` that is no base64"))?;
                Kind::BytesValue(bytes.into())
            }
            (MAP, Some(Json::Object(inner))) => Kind::MapValue(map_from_json(inner)?),
            (MAP, _) => return Err(format!("has a `{MAP}` that is no object")),
            _ => return Err(format!("has a `{reserved}` that is no string")),
        },
        None => Kind::MapValue(map_from_json(object)?),
    })
}

fn map_from_json(object: Map<String, Json>) -> Result<MapValue, String> {
    let fields = object.into_iter().map(|(name, json)| Ok((name, from_json(json)?)));
    Ok(MapValue { fields: fields.collect::<Result<_, String>>()? })
}

fn reserved_key(object: &Map<String, Json>) -> Option<&'static str> {
    let only = object.keys().next().filter(|_| object.len() == 1)?;
    [TIMESTAMP, BYTES, MAP].into_iter().find(|reserved| only == reserved)
}

/// Reads a time.
pub(super) fn timestamp(text: &str) -> Result<prost_types::Timestamp, String> {
    text.parse().map_err(|_| format!("must be a time such as 2024-05-01T00:00:00Z, not {text:?}"))
}

/// Writes a value so that [`from_json`] gives it back.
pub(super) fn to_json(value: &Value) -> Json {
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
            let object: Map<String, Json> =
                map.fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect();
            if reserved_key(&object).is_some() { json!({ MAP: object }) } else { Json::Object(object) }
        }
    }
}
