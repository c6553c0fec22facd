//! Files that collections are imported from and exported to: JSONL, CSV and Parquet.
//!
//! A table (CSV, Parquet) has a column for each field of an entity or edge, called like the field, and others for
//! attributes. What has no column of its own stands as JSON in the column `attributes`, so that every value survives:
//!
//! | column | what |
//! |---|---|
//! | `id`, `type`, `importance`, `expire_at`, `sources`, `chunks` | of entities |
//! | `vectors.SPACE` | the entity's vector in that space |
//! | `from`, `relation`, `to`, `to_collection`, `edge_id`, `weight`, `valid_from`, `valid_to`, `sources` | of edges |
//! | `attributes` | attributes as JSON, in the form of [`crate::value_json`] |
//! | any other | the attribute of that name |

mod arrow_value;
mod cells;
mod csv_rows;
pub(crate) mod definition;
mod edge_columns;
mod entity_columns;
pub(crate) mod export;
pub(crate) mod import;
mod json_rows;
mod layout;
mod original;
mod parquet_parts;
mod parquet_rows;
mod parts;
#[cfg(test)]
mod round_trip_tests;
mod rows;
mod text_parts;

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use original::Original;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum FileFormat {
    /// A JSON object a line.
    Jsonl,
    /// Cells with commas between; the first line names the columns.
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl FileFormat {
    /// By the end of its name, of which `.zst` does not count.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (_, extension) = name.strip_suffix(".zst").unwrap_or(name).rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// What names of files in an exported directory end in.
    fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl.zst",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// Whether a file is compressed as a whole.
fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// An entity a row.
    Entities,
    /// An edge a row.
    Edges,
}

impl Kind {
    /// As files of a directory are called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Entities => "entities",
            Self::Edges => "edges",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_format() {
        let of = |name: &str| FileFormat::of(Path::new(name));
        assert_eq!(of("a/b.jsonl"), Some(FileFormat::Jsonl));
        assert_eq!(of("b.ndjson.zst"), Some(FileFormat::Jsonl));
        assert_eq!(of("b.csv.zst"), Some(FileFormat::Csv));
        assert_eq!(of("train-0001.PARQUET"), Some(FileFormat::Parquet));
        assert_eq!(of("b.txt"), None);
        assert_eq!(of("jsonl"), None);
    }
}
