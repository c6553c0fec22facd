//! Entities and their indexes.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod catalogue;
mod clock;
mod codec;
mod deadline;
mod error;
pub mod filter;
pub mod graph;
mod keyspaces;
mod merge;
pub mod model;
mod mutation;
mod placement;
pub mod query;
mod random;
mod replica;
mod row;
mod vector;
mod version;

pub use clock::{Clock, HybridClock, ManualClock, SystemClock};
pub use deadline::Deadline;
pub use error::{Error, Result};
pub use mutation::Mutation;
pub use placement::{PARTITIONS, partition_of, token};
pub use random::{Random, SeededRandom, SystemRandom};
pub use replica::{Replica, ReplicaOptions, ScanPage, ScanRequest};
pub use vector::{BuildPool, VectorOptions, build_pool, measure_and_similarity};
pub use version::Version;
