//! Messages ⇄ the data model.
//!
//! Here is refused only what the model cannot hold: an unset oneof, a vector given twice, a time out of
//! range. Names, dimensions, bounds and finite numbers are checked below, where every caller passes.

mod bounds;
mod collection;
mod edge;
mod entity;
mod filter;
mod mask;
mod path;
mod query;
mod text;
mod time;
mod value;
mod vector;
mod walk;
mod write;

#[cfg(test)]
mod garbage_tests;

pub(crate) use bounds::{at_most, or_default};
pub(crate) use collection::{change_from_proto, collection_from_proto, collection_to_proto};
pub(crate) use edge::{edge_from_proto, edge_ref_from_proto};
pub(crate) use entity::{chunks_from_proto, entity_from_proto, entity_ref_from_proto, entity_to_proto};
pub(crate) use filter::{fields_from_proto, filter_from_proto};
pub(crate) use mask::{patch_from_proto, read_mask_from_proto};
pub(crate) use path::Path;
pub(crate) use query::{answer_to_proto, query_from_proto, steps_to_proto};
pub(crate) use time::{optional_timestamp_from_proto, timestamp_to_proto};
pub(crate) use value::facet_to_proto;
pub(crate) use walk::{
    expand_from_proto, expansion_to_proto, hop_counts_to_proto, hops_from_proto, neighborhood_to_proto,
    neighbors_from_proto, paths_from_proto, paths_to_proto,
};
pub(crate) use write::{
    consistency_from_proto, durability_from_proto, given, min_version_from_proto, version_to_proto,
};
