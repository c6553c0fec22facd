//! A row as it was read, kept until its answer is there: a rejected one is written down as it was.

use std::sync::Arc;

use arrow_array::RecordBatch;
use csv::StringRecord;
use serde_json::{Map, Value as Json, json};

use super::arrow_value;
use crate::value_json;

/// As it was read.
#[derive(Clone, Debug)]
pub(crate) enum Original {
    /// A line of text.
    Line(String),
    /// The names of the columns, and the cells below them.
    Record(Arc<[String]>, StringRecord),
    /// A row of a batch.
    Row(Arc<RecordBatch>, usize),
}

impl Original {
    /// What its number counts in its file.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Line(_) => "line",
            Self::Record(..) | Self::Row(..) => "row",
        }
    }

    /// For people and programs.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::Line(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            Self::Record(names, cells) => {
                let cells = names.iter().zip(cells).map(|(name, cell)| (name.clone(), json!(cell)));
                Json::Object(cells.collect())
            }
            Self::Row(batch, at) => {
                let schema = batch.schema_ref();
                let mut object = Map::new();
                for (field, column) in schema.fields().iter().zip(batch.columns()) {
                    let cell = match arrow_value::value(column, *at) {
                        Ok(value) => value.map_or(Json::Null, |value| value_json::to_json(&value)),
                        Err(error) => json!(format!("{error:#}")),
                    };
                    object.insert(field.name().clone(), cell);
                }
                Json::Object(object)
            }
        }
    }
}
