//! The formats of files that this release writes.

use crate::{
    blob::BLOB_FORMAT, manifest::MANIFEST_FORMAT, table::footer::TABLE_FORMAT, wal::record::LOG_FORMAT,
};

/// Each kind of file, and the format in which it is written. Older ones are read, newer ones refused by name.
pub const FORMATS: &[(&str, u32)] =
    &[("manifest", MANIFEST_FORMAT), ("log", LOG_FORMAT), ("table", TABLE_FORMAT), ("blob", BLOB_FORMAT)];
