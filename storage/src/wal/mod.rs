//! The write-ahead log: a chain of segments, each holding the batches of one set of memtables.
//!
//! See "Log segment" in `docs/format.md` for the bytes.

pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod writer;
