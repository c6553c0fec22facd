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
            && let Some(line) = self.lines.next_line()
        {
            let line = line?;
            self.number += 1;
            if line.text.trim().is_empty() {
                continue;
            }
            let item = line.utf8().and_then(|text| self.item(text));
            let original = Original::Line(line.text);
            rows.push(Row { origin: Origin { number: self.number, original }, item });
        }
        Ok(rows)
    }

    fn total(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::exchange::entity_columns::Mapping;

    #[test]
    fn lines_that_are_wrong_cost_themselves_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, b"\xef\xbb\xbf{\"id\":\"a\"}\n{\"id\":\"\xff\"}\n\nnonsense\n{\"id\":\"b\"}")
            .unwrap();
        let mapping = Mapping::default();
        let reading = Reading { collection: "c".to_owned(), mapping, types: Vec::new(), batch: 10 };
        let mut rows = JsonRows::open(&path, Kind::Entities, &reading).unwrap();
        let read = rows.next().unwrap();
        let read: Vec<(u64, bool)> = read.iter().map(|row| (row.origin.number, row.item.is_ok())).collect();
        assert_eq!(read, [(1, true), (2, false), (4, false), (5, true)]);
        assert!(rows.next().unwrap().is_empty());
    }
}
