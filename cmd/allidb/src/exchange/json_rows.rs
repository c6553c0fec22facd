//! Lines of JSON, each an entity or an edge in the form that `put` takes and `export` writes.

use std::path::Path;

use allidb_api::v1::put_stream_request::Item;
use anyhow::Result;

use super::{
    Kind, Original,
    rows::{Reading, Row, Rows},
};
use crate::{
    dataset::Lines,
    entity_json::{UnknownFields, edge_from_json, entity_from_json},
    failure::Failure,
    put_stream::Origin,
};

/// The lines of a file or of standard input.
pub(crate) struct JsonRows {
    lines: Lines,
    number: u64,
    kind: Kind,
    collection: String,
    batch: usize,
}

impl JsonRows {
    /// Opens a file.
    pub(crate) fn open(path: &Path, kind: Kind, reading: &Reading) -> Result<Self> {
        let mapping = &reading.mapping;
        let names_columns =
            mapping.id.is_some() || mapping.type_column.is_some() || mapping.type_name.is_some();
        let names_more = !mapping.vectors.is_empty() || !mapping.omit.is_empty() || !reading.types.is_empty();
        if names_columns || names_more {
            let message = "--id, --type, --type-name, --vector, --types and --omit are for CSV and Parquet";
            return Err(Failure::usage(message));
        }
        let lines = if path == Path::new("-") { Lines::of_standard_input() } else { Lines::open(path)? };
        let (collection, batch) = (reading.collection.clone(), reading.batch);
        Ok(Self { lines, number: 0, kind, collection, batch })
    }

    fn item(&self, line: &str) -> Result<Item> {
        let json = serde_json::from_str(line)?;
        Ok(match self.kind {
            Kind::Entities => {
                Item::Entity(entity_from_json(json, &self.collection, UnknownFields::AsAttributes)?)
            }
            Kind::Edges => Item::Edge(edge_from_json(json, &self.collection)?),
        })
    }
}

impl Rows for JsonRows {
    fn next(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        while rows.len() < self.batch
            && let Some(line) = self.lines.next()
        {
            let line = line?;
            self.number += 1;
            if line.trim().is_empty() {
                continue;
            }
            let item = self.item(&line);
            rows.push(Row { origin: Origin { number: self.number, original: Original::Line(line) }, item });
        }
        Ok(rows)
    }

    fn total(&self) -> Option<u64> {
        None
    }
}
