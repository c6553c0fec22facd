//! Edges read and walked.

mod neighbors;
mod request;
mod walk;

pub use request::{ExpandRequest, Expansion, Neighbor, Neighborhood, NeighborsRequest, Reached};
pub(crate) use walk::{Bounds, Rows, Walk};
