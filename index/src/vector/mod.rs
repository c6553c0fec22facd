//! Vector search: exact over fresh rows, through a graph over the rest.
//!
//! Each space keeps its rows in memory in blocks. A graph built by hnsw_rs in the background covers the
//! first blocks; rows beyond it are compared one by one, so that a vector is found by the very next query.
//! Rows carry the sequences at which they were born and died, so that a query pinned at one sequence sees
//! exactly one version of each. The index is rebuilt from the rows when the node starts.

mod build;
mod flat_graph;
mod kernel;
mod measure;
mod rows;
mod space;
mod spaces;

pub(crate) use measure::Measure;
pub use measure::measure_and_similarity;
pub(crate) use space::{SpaceIndex, View};
pub use spaces::{BuildPool, VectorOptions, build_pool};
pub(crate) use spaces::{Spaces, VectorChange};
