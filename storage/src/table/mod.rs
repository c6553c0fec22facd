//! Sorted tables: immutable files of versions in key order.
//!
//! See "Table" in `docs/format.md` for the bytes.
//!
//! | module | concept |
//! |---|---|
//! | `builder`, `index_builder`, `block_builder` | writing: the file, its index and filters, a block |
//! | `reader`, `cursor`, `bulk` | an open table: lookups, walks, reads past the cache |
//! | `parts`, `check` | looking for damage |
//! | `layout`, `top_index`, `pins`, `place` | index and filters in memory or in partitions, and the way through them |
//! | `index`, `filter`, `block`, `data_block`, `heads`, `block_cursor` | one block of each kind, and searches in them |
//! | `frame`, `codec`, `footer`, `meta` | checksums, compression, the end of the file, what the manifest says |

pub(crate) mod block;
pub(crate) mod block_builder;
pub(crate) mod block_cursor;
pub(crate) mod builder;
mod bulk;
pub(crate) mod check;
pub(crate) mod codec;
pub(crate) mod cursor;
pub(crate) mod data_block;
pub(crate) mod filter;
pub(crate) mod footer;
pub(crate) mod frame;
mod heads;
pub(crate) mod index;
mod index_builder;
pub(crate) mod layout;
pub(crate) mod meta;
pub(crate) mod parts;
pub(crate) mod pins;
mod place;
pub(crate) mod reader;
#[cfg(test)]
mod tests;
pub(crate) mod top_index;

pub(crate) use builder::TableBuilder;
pub(crate) use cursor::{Access, TableCursor, UnreadValue};
pub(crate) use meta::TableMeta;
pub(crate) use reader::Table;
