//! Cells of a table, and what fields make of them.

use allidb_api::v1::{MapValue, Value, Vector, value::Kind};
use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

use crate::value_json::{self, Values};

/// What a column is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Not at all.
    Nothing,
    /// A value.
    Value,
    /// A vector.
    Vector,
}

/// A cell that is not empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// A value.
    Value(Value),
    /// A vector.
    Vector(Vector),
}

/// A string; whole numbers are ids, too.
pub(crate) fn string(value: Value) -> Result<String> {
    match value.kind {
        Some(Kind::StringValue(text)) => Ok(text),
        Some(Kind::IntValue(number)) => Ok(number.to_string()),
        _ => bail!("must be a string, not {}", value_json::to_json(&value)),
    }
}

/// A number.
pub(crate) fn number(value: &Value) -> Result<f64> {
    match &value.kind {
        Some(Kind::DoubleValue(number)) => Ok(*number),
        Some(Kind::IntValue(number)) => Ok(*number as f64),
        Some(Kind::StringValue(text)) => {
            text.trim().parse().with_context(|| format!("must be a number, not `{text}`"))
        }
        _ => bail!("must be a number, not {}", value_json::to_json(value)),
    }
}

/// A time.
pub(crate) fn time(value: &Value) -> Result<prost_types::Timestamp> {
    match &value.kind {
        Some(Kind::TimestampValue(time)) => Ok(*time),
        Some(Kind::StringValue(text)) => value_json::timestamp(text),
        _ => bail!("must be a time, not {}", value_json::to_json(value)),
    }
}

/// A list of strings, or a JSON array of them.
pub(crate) fn strings(value: Value) -> Result<Vec<String>> {
    let list = match value.kind {
        Some(Kind::StringValue(text)) => value_json::from_json(json(&text)?)?,
        kind => Value { kind },
    };
    match list.kind {
        Some(Kind::ListValue(list)) => list.values.into_iter().map(string).collect(),
        kind => bail!("must be a list of strings, not {}", value_json::to_json(&Value { kind })),
    }
}

/// A map, or a JSON object.
pub(crate) fn values(value: Value) -> Result<Values> {
    match value.kind {
        Some(Kind::MapValue(MapValue { fields })) => Ok(fields),
        Some(Kind::StringValue(text)) => match json(&text)? {
            Json::Object(object) => value_json::map_from_json(object),
            other => bail!("must be a JSON object, not {other}"),
        },
        kind => bail!("must be a JSON object, not {}", value_json::to_json(&Value { kind })),
    }
}

/// What a JSON text says.
pub(crate) fn json(text: &str) -> Result<Json> {
    serde_json::from_str(text).context("must be JSON")
}
