//! The rows of a file, whichever its format.

use std::path::Path;

use allidb_api::v1::put_stream_request::Item;
use anyhow::{Context, Result};

use super::{
    FileFormat, Kind,
    cells::{Cell, Want},
    csv_rows::{CellType, CsvRows},
    edge_columns::EdgeColumns,
    entity_columns::{EntityColumns, Mapping},
    json_rows::JsonRows,
    parquet_rows::ParquetRows,
};
use crate::{failure::Failure, put_stream::Origin};

/// A row, and what it is an item of, or why it is none.
pub(crate) struct Row {
    pub(crate) origin: Origin,
    pub(crate) item: Result<Item>,
}

/// Rows in the order of their file.
pub(crate) trait Rows: Send {
    /// The next ones; none at the end.
    ///
    /// # Errors
    /// If the file cannot be read on.
    fn next(&mut self) -> Result<Vec<Row>>;

    /// How many there are, if the file says so.
    fn total(&self) -> Option<u64>;
}

/// How rows are read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// Where they go.
    pub(crate) collection: String,
    /// Which columns are which fields.
    pub(crate) mapping: Mapping,
    /// Types of CSV's columns.
    pub(crate) types: Vec<(String, CellType)>,
    /// How many rows come together, at most.
    pub(crate) batch: usize,
}

/// Opens a file; `-` is standard input.
///
/// # Errors
/// If it cannot be read, or its columns are not what `reading` says.
pub(crate) fn open(path: &Path, format: FileFormat, kind: Kind, reading: &Reading) -> Result<Box<dyn Rows>> {
    let rows = || -> Result<Box<dyn Rows>> {
        Ok(match format {
            FileFormat::Jsonl => Box::new(JsonRows::open(path, kind, reading)?),
            FileFormat::Csv => Box::new(CsvRows::open(path, kind, reading)?),
            FileFormat::Parquet => Box::new(ParquetRows::open(path, kind, reading)?),
        })
    };
    rows().with_context(|| path.display().to_string())
}

/// Which column is what.
pub(super) enum Columns {
    Entities(EntityColumns),
    Edges(EdgeColumns),
}

impl Columns {
    /// # Errors
    /// If two columns have one name, or one that is needed is not there.
    pub(super) fn new(kind: Kind, names: &[String], reading: &Reading) -> Result<Self> {
        for (at, name) in names.iter().enumerate() {
            if names.iter().take(at).any(|before| before == name) {
                return Err(Failure::usage(format!("two columns are called `{name}`")));
            }
        }
        let (mapping, collection) = (&reading.mapping, &reading.collection);
        Ok(match kind {
            Kind::Entities => Self::Entities(EntityColumns::new(names, mapping, collection)?),
            Kind::Edges => Self::Edges(EdgeColumns::new(names, &mapping.omit, collection)?),
        })
    }

    pub(super) fn want(&self, column: usize) -> Want {
        match self {
            Self::Entities(columns) => columns.want(column),
            Self::Edges(columns) => columns.want(column),
        }
    }

    pub(super) fn item(&self, cells: Vec<(usize, Cell)>) -> Result<Item> {
        match self {
            Self::Entities(columns) => columns.entity(cells).map(Item::Entity),
            Self::Edges(columns) => columns.edge(cells).map(Item::Edge),
        }
    }
}
