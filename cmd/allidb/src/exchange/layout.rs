//! The columns of an exported table, and rows of them.
//!
//! Entities have no schema: which attributes get columns of their own is chosen by the first page. What does not fit one
//! later (another type, an explicit null, a map) stands in the column `attributes`, so nothing is lost.

use std::collections::BTreeMap;

use allidb_api::v1::{Edge, Entity, Value, put_stream_request::Item, value::Kind as ValueKind};
use anyhow::{Result, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    FileFormat,
    csv_rows::CellType,
    entity_columns::{VECTORS, is_attribute},
};
use crate::{
    entity_json::{OUTPUT_ONLY, chunk_to_json, edge_to_json, entity_to_json, id_of, other_collection},
    value_json::{self, Values},
    vector_numbers,
};

/// Attributes with columns of their own; others stand in `attributes`.
const MAX_COLUMNS: usize = 500;

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ColumnType {
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Timestamp,
    Strings,
    /// Of so many numbers.
    Vector(u32),
}

impl ColumnType {
    /// The same in CSV; `None`: the column says by its name what it is.
    pub(super) fn in_csv(self) -> Option<CellType> {
        match self {
            Self::Bool => Some(CellType::Bool),
            Self::Int => Some(CellType::Int),
            Self::Double => Some(CellType::Double),
            Self::Bytes => Some(CellType::Bytes),
            Self::Timestamp => Some(CellType::Timestamp),
            Self::Strings => Some(CellType::Json),
            Self::String | Self::Vector(_) => None,
        }
    }
}

/// A cell that is not empty.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Datum {
    Bool(bool),
    Int(i64),
    Double(f64),
    String(String),
    Bytes(Bytes),
    /// Microseconds since 1970.
    Timestamp(i64),
    Strings(Vec<String>),
    Vector(Vec<f32>),
}

/// A row.
pub(super) type Record = Vec<Option<Datum>>;

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) of: ColumnType,
}

/// The columns of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Layout {
    Entities {
        /// Spaces and their dimensions.
        spaces: Vec<(String, u32)>,
        attributes: BTreeMap<String, ColumnType>,
        /// Whether an empty cell is told from an empty string.
        tells_empty: bool,
    },
    Edges,
}

impl Layout {
    /// Chosen by some entities.
    pub(super) fn of_entities(sample: &[Entity], spaces: Vec<(String, u32)>, format: FileFormat) -> Self {
        let mut seen: BTreeMap<&str, Option<ColumnType>> = BTreeMap::new();
        for (name, value) in sample.iter().flat_map(|entity| &entity.attributes) {
            if matches!(value.kind, None | Some(ValueKind::NullValue(_))) || !may_be_a_column(name) {
                continue;
            }
            let of = type_of(value);
            seen.entry(name).and_modify(|one| *one = one.filter(|one| of == Some(*one))).or_insert(of);
        }
        let columns = seen.into_iter().filter_map(|(name, of)| Some((name.to_owned(), of?)));
        let tells_empty = format != FileFormat::Csv;
        Self::Entities { spaces, attributes: columns.take(MAX_COLUMNS).collect(), tells_empty }
    }

    /// The columns, in order.
    pub(super) fn columns(&self) -> Vec<Column> {
        let column = |(name, of): (&str, ColumnType)| Column { name: name.to_owned(), of };
        match self {
            Self::Entities { spaces, attributes, .. } => {
                let fixed = [
                    ("id", ColumnType::String),
                    ("type", ColumnType::String),
                    ("importance", ColumnType::Double),
                    ("expire_at", ColumnType::Timestamp),
                    ("sources", ColumnType::Strings),
                ];
                let last = [("attributes", ColumnType::String), ("chunks", ColumnType::String)];
                let own = attributes.iter().map(|(name, of)| (name.as_str(), *of));
                let mut columns: Vec<Column> = fixed.into_iter().chain(own).chain(last).map(column).collect();
                columns.extend(spaces.iter().map(|(space, dimension)| Column {
                    name: format!("{VECTORS}{space}"),
                    of: ColumnType::Vector(*dimension),
                }));
                columns
            }
            Self::Edges => [
                ("from", ColumnType::String),
                ("relation", ColumnType::String),
                ("to", ColumnType::String),
                ("to_collection", ColumnType::String),
                ("edge_id", ColumnType::String),
                ("weight", ColumnType::Double),
                ("valid_from", ColumnType::Timestamp),
                ("valid_to", ColumnType::Timestamp),
                ("sources", ColumnType::Strings),
                ("attributes", ColumnType::String),
            ]
            .map(column)
            .into(),
        }
    }

    /// The cells of an item, in the order of the columns.
    ///
    /// # Errors
    /// If it is not of the kind that the columns are for, or has a vector without a column.
    pub(super) fn record(&self, item: Item) -> Result<Record> {
        match (self, item) {
            (Self::Entities { spaces, attributes, tells_empty }, Item::Entity(entity)) => {
                entity_record(entity, spaces, attributes, *tells_empty)
            }
            (Self::Edges, Item::Edge(edge)) => Ok(edge_record(edge)),
            _ => bail!("an entity among edges, or the other way round"),
        }
    }
}

/// An item as a line of JSON, without what is the server's to say.
pub(super) fn line(item: &Item) -> Json {
    match item {
        Item::Entity(entity) => {
            let mut line = entity_to_json(entity);
            if let Json::Object(fields) = &mut line {
                fields.retain(|name, _| !OUTPUT_ONLY.contains(&name.as_str()));
            }
            line
        }
        Item::Edge(edge) => edge_to_json(edge),
    }
}

/// Whether an import takes a column of this name for the attribute of this name.
fn may_be_a_column(name: &str) -> bool {
    !name.is_empty() && is_attribute(name) && super::csv_rows::has_no_type(name)
}

fn type_of(value: &Value) -> Option<ColumnType> {
    match value.kind.as_ref()? {
        ValueKind::BoolValue(_) => Some(ColumnType::Bool),
        ValueKind::IntValue(_) => Some(ColumnType::Int),
        ValueKind::DoubleValue(_) => Some(ColumnType::Double),
        ValueKind::StringValue(_) => Some(ColumnType::String),
        ValueKind::BytesValue(_) => Some(ColumnType::Bytes),
        ValueKind::TimestampValue(_) => Some(ColumnType::Timestamp),
        ValueKind::ListValue(list) => {
            let is_string = |item: &Value| matches!(item.kind, Some(ValueKind::StringValue(_)));
            list.values.iter().all(is_string).then_some(ColumnType::Strings)
        }
        ValueKind::MapValue(_) | ValueKind::NullValue(_) => None,
    }
}

/// The cell of a value; gives the value back where the column cannot hold it.
fn datum(value: Value, of: ColumnType, tells_empty: bool) -> Result<Datum, Value> {
    if type_of(&value) != Some(of) {
        return Err(value);
    }
    Ok(match value.kind {
        Some(ValueKind::BoolValue(truth)) => Datum::Bool(truth),
        Some(ValueKind::IntValue(number)) => Datum::Int(number),
        Some(ValueKind::DoubleValue(number)) => Datum::Double(number),
        Some(ValueKind::StringValue(text)) if tells_empty || !text.is_empty() => Datum::String(text),
        Some(ValueKind::BytesValue(bytes)) if tells_empty || !bytes.is_empty() => Datum::Bytes(bytes),
        Some(ValueKind::TimestampValue(time)) => Datum::Timestamp(micros(time)),
        Some(ValueKind::ListValue(list)) => {
            let string = |value: Value| match value.kind {
                Some(ValueKind::StringValue(text)) => text,
                _ => String::new(),
            };
            Datum::Strings(list.values.into_iter().map(string).collect())
        }
        kind => return Err(Value { kind }),
    })
}

/// The server keeps no finer times.
fn micros(time: prost_types::Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos / 1_000))
}

fn text(text: String) -> Option<Datum> {
    Some(text).filter(|text| !text.is_empty()).map(Datum::String)
}

fn strings(all: Vec<String>) -> Option<Datum> {
    Some(all).filter(|all| !all.is_empty()).map(Datum::Strings)
}

fn rest(values: &Values) -> Option<Datum> {
    let object = || Json::Object(value_json::map_to_json(values));
    (!values.is_empty()).then(|| Datum::String(object().to_string()))
}

fn entity_record(
    mut entity: Entity,
    spaces: &[(String, u32)],
    attributes: &BTreeMap<String, ColumnType>,
    tells_empty: bool,
) -> Result<Record> {
    let mut record = vec![
        text(id_of(entity.r#ref.as_ref()).to_owned()),
        text(entity.r#type),
        entity.importance.map(Datum::Double),
        entity.expire_at.map(|time| Datum::Timestamp(micros(time))),
        strings(entity.sources),
    ];
    for (name, of) in attributes {
        let cell = entity.attributes.remove(name).map(|value| datum(value, *of, tells_empty));
        record.push(match cell.transpose() {
            Ok(cell) => cell,
            Err(value) => {
                entity.attributes.insert(name.clone(), value);
                None
            }
        });
    }
    record.push(rest(&entity.attributes));
    let chunks = || entity.chunks.iter().map(chunk_to_json).collect::<Json>().to_string();
    record.push((!entity.chunks.is_empty()).then(|| Datum::String(chunks())));
    for (space, dimension) in spaces {
        let numbers = entity.vectors.remove(space).map(|vector| vector_numbers::numbers(&vector));
        if let Some(numbers) = &numbers
            && numbers.len() != *dimension as usize
        {
            bail!("a vector of {} numbers in the space `{space}` of {dimension}", numbers.len());
        }
        record.push(numbers.map(Datum::Vector));
    }
    if let Some(space) = entity.vectors.keys().next() {
        bail!("a vector in the space `{space}`, which was made while the export ran: export anew");
    }
    Ok(record)
}

fn edge_record(edge: Edge) -> Record {
    let to_collection = other_collection(&edge).unwrap_or_default().to_owned();
    vec![
        text(id_of(edge.from.as_ref()).to_owned()),
        text(edge.relation),
        text(id_of(edge.to.as_ref()).to_owned()),
        text(to_collection),
        text(edge.edge_id),
        Some(Datum::Double(edge.weight.unwrap_or(1.0))),
        edge.valid_from.map(|time| Datum::Timestamp(micros(time))),
        edge.valid_to.map(|time| Datum::Timestamp(micros(time))),
        strings(edge.sources),
        rest(&edge.attributes),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::entity_json::{UnknownFields, entity_from_json};

    fn entity(attributes: Json) -> Entity {
        let json = json!({"id": "a", "attributes": attributes});
        entity_from_json(json, "c", UnknownFields::Refuse).unwrap()
    }

    #[test]
    fn attributes_of_one_type_get_columns_and_the_rest_stays_json() {
        let sample = [
            entity(
                json!({"n": 1, "mixed": 1, "map": {"a": 1}, "id": "x", "l": ["a"], "t": null, "p:int": 1}),
            ),
            entity(json!({"n": 2, "mixed": "a", "t": {"$timestamp": "2024-05-01T00:00:00Z"}})),
        ];
        let layout = Layout::of_entities(&sample, Vec::new(), FileFormat::Parquet);
        let names: Vec<String> = layout.columns().into_iter().map(|column| column.name).collect();
        let expected =
            ["id", "type", "importance", "expire_at", "sources", "l", "n", "t", "attributes", "chunks"];
        assert_eq!(names, expected);
        let [first, _] = sample;
        let record = layout.record(Item::Entity(first)).unwrap();
        assert_eq!(record[5..8], [Some(Datum::Strings(vec!["a".to_owned()])), Some(Datum::Int(1)), None]);
        let Some(Datum::String(rest)) = &record[8] else { panic!("{record:?}") };
        let rest: Json = serde_json::from_str(rest).unwrap();
        assert_eq!(rest, json!({"id": "x", "map": {"a": 1}, "mixed": 1, "p:int": 1, "t": null}));
        assert!(layout.record(Item::Edge(Edge::default())).is_err());
    }

    #[test]
    fn an_empty_string_is_no_empty_cell() {
        let sample = [entity(json!({"s": ""}))];
        let cells = |format| {
            let layout = Layout::of_entities(&sample, Vec::new(), format);
            layout.record(Item::Entity(sample[0].clone())).unwrap()[5..7].to_vec()
        };
        let text = |text: &str| Some(Datum::String(text.to_owned()));
        assert_eq!(cells(FileFormat::Parquet), [text(""), None]);
        assert_eq!(cells(FileFormat::Csv), [None, text("{\"s\":\"\"}")]);
    }

    #[test]
    fn vectors_without_a_column_are_not_left_out_silently() {
        let json = json!({"id": "a", "vectors": {"s": [1.0, 2.0]}});
        let entity = entity_from_json(json, "c", UnknownFields::Refuse).unwrap();
        let record = |spaces: &[(String, u32)]| {
            let layout = Layout::of_entities(&[], spaces.to_vec(), FileFormat::Parquet);
            layout.record(Item::Entity(entity.clone()))
        };
        let record_with = |dimension| record(&[("s".to_owned(), dimension)]);
        assert_eq!(record_with(2).unwrap().last(), Some(&Some(Datum::Vector(vec![1.0, 2.0]))));
        assert!(record_with(3).is_err() && record(&[]).is_err());
    }
}
