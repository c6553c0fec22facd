//! Blob files: large values apart from their keys.
//!
//! A table keeps only a reference where a value is large, so that compaction moves references instead of values
//! (Lu et al.: WiscKey, 2016; RocksDB's BlobDB). A value is written once more only when most of its file has become
//! garbage: then compaction takes what is still referenced along into a new file, and the old one goes with the last
//! table that refers to it. See "Blob file" in `docs/format.md` for the bytes.

pub(crate) mod check;
mod file;
mod format;
mod writer;

pub(crate) use file::{BlobFile, block_at};
pub(crate) use format::{
    BLOB_FORMAT, BlobMeta, BlobRef, BlobUse, HEADER_BYTES, Header, HeaderError, LENGTH_BYTES,
};
pub(crate) use writer::BlobWriter;
