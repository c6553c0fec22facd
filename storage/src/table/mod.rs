//! Sorted tables: immutable files of versions in key order.
//!
//! See "Table" in `docs/format.md` for the bytes.

pub(crate) mod block;
pub(crate) mod block_builder;
pub(crate) mod block_cursor;
pub(crate) mod builder;
pub(crate) mod cursor;
pub(crate) mod filter;
pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod reader;

pub(crate) use builder::TableBuilder;
pub(crate) use cursor::{Access, TableCursor};
pub(crate) use reader::{Table, TableMeta};
