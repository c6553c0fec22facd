//! Entities and their indexes: what is stored, how writes come together, and how it is searched.
//!
//! # Map
//!
//! | module | concept |
//! |---|---|
//! | [`model`] | entities, chunks, edges, collections, values, limits: what callers speak of |
//! | [`filter`] | one language of conditions for search, scan and count |
//! | `version`, `clock` | hybrid logical clock readings that order every change |
//! | `row`, `codec`, `placement`, `keyspaces` | keys and values as they lie in the storage engine, and where |
//! | `merge` | the one merge function and its laws |
//! | `merkle` | trees by which replicas find out where they differ |
//! | `mutation` | writes checked and turned into row states |
//! | `catalogue` | collections, spaces and aliases, and the numbers given to them |
//! | [`replica`](Replica) | read, merge, write; gets, scans, counts; what replicas tell each other; sweeping what was dropped |
//! | `text` | words of attributes and chunks: fresh and sealed documents, and how well they answer |
//! | `vector` | vector spaces: growing and sealed segments, their codes, graphs and searches |
//! | `secondary` | which entities have which values in declared fields, and which filters are answered from that |
//! | [`graph`] | edges by the numbers of their ends, fresh and sealed; neighbours and bounded expansion |
//! | [`query`] | seeds, expansion, score, limit |
//! | [`WorkerStatus`] and what is in its module | background work as operators see it |
//! | `shelf`, `upkeep`, `duty`, `writing` | what indexes have in common: what is fresh and what is sealed, sealing and merging in the background, who writes |
//! | `inventory`, `deaths` | which segments there are, and what died in them |
//! | `formats` | which formats of rows and files are written |
//! | `interpolation` | looking up numbers among many that ascend |
//! | `random`, `deadline`, `error` | randomness, time left, and what can go wrong |
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

mod catalogue;
mod clock;
mod codec;
mod deadline;
mod deaths;
mod duty;
mod error;
pub mod filter;
mod formats;
pub mod graph;
mod interpolation;
mod inventory;
mod keyspaces;
mod merge;
mod merkle;
pub mod model;
mod mutation;
mod placement;
pub mod query;
mod random;
mod replica;
mod row;
mod secondary;
mod shelf;
mod text;
mod upkeep;
mod vector;
mod version;
mod worker;
mod writing;

pub use clock::{Clock, HybridClock, ManualClock, SystemClock};
pub use codec::DecodeError;
pub use deadline::Deadline;
pub use error::{Error, Result};
pub use formats::FORMATS;
pub use keyspaces::KEYSPACES;
pub use merge::EntityState;
pub use merkle::{BRANCH, LEAVES, Sum};
pub use mutation::{Mutation, disordered, waves};
pub use placement::{PARTITIONS, partition_of, token};
pub use random::{Random, SeededRandom, SystemRandom};
pub use replica::{
    AcceptorsRequest, Arriving, BulkDeleted, BySource, CameFrom, CameFromRequest, CopiedFile, CopyNote,
    Extent, FacetCountsRequest, Forced, Given, Held, Hint, HoldingsRequest, IdsPage, IdsRequest, Merged,
    Outgoing, Present, Promise, RebuildRequest, Replica, ReplicaOptions, RosterRequest, ScanPage,
    ScanRequest, SourceDeletion, SourcePlace, Taken, Tally, TallyRequest, ToldEdge, TreeAnswer, TreeRequest,
    disputed,
};
pub use row::EntityKey;
pub use secondary::{Facet, FacetCounts};
pub use text::TextCounts;
pub use vector::{
    BuildPool, Rebuild, RebuildProgress, VectorCounts, VectorOptions, build_pool, measure_and_similarity,
};
pub use version::Version;
pub use worker::{Activity, WorkerChange, WorkerStatus};
