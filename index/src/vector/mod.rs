//! Vector search: fresh rows in memory, the rest in immutable segment files with graphs over them.
//!
//! | module | concept |
//! |---|---|
//! | `spaces` | all spaces of a node |
//! | `upkeep`, `merge` | sealing and merging them in the background; which segments are merged |
//! | `restore` | reading rows again whose segment was lost |
//! | `rebuild` | making segments anew when an operator asks for it |
//! | `duty` | which work is under way for a space |
//! | `space` | one space: which segments it has, and what dies in them |
//! | `view` | a space as one query sees it: searching its segments together |
//! | `growing` | the segment in memory: appended to, scanned exactly |
//! | `segment` | sealed segments: file format, writer, search |
//! | `scrub` | reading segment files again, to find damage |
//! | `deaths` | which rows of a sealed segment are dead, and since when |
//! | `stored` | what the storage engine keeps: the journal of unsealed changes, the inventory of segments |
//! | `graph` | building a navigable small-world graph |
//! | `pool`, `visited` | the candidates of a walk, and what it has seen |
//! | `quantize`, `rotation` | vectors as codes of a few bits |
//! | `kernel` | inner loops for several instruction sets |
//! | `calibration`, `recall` | how broad a walk must be for a recall; measuring it in the background |
//! | `measure` | the metrics |
//! | `owner` | whose a vector is |
//!
//! Rows carry the sequences at which they were born and died, so that a query pinned at one sequence sees exactly one version
//! of each. Every change is journaled in the batch that makes it; a restart opens the segments and replays the journal.

mod calibration;
mod graph;
mod growing;
mod kernel;
mod measure;
mod merge;
mod owner;
mod pool;
mod quantize;
mod rebuild;
mod recall;
mod restore;
mod rotation;
mod scrub;
mod segment;
mod space;
mod spaces;
mod stored;
mod upkeep;
mod view;
mod visited;

pub(crate) use measure::Measure;
pub use measure::measure_and_similarity;
pub(crate) use owner::Owner;
pub use rebuild::{Rebuild, RebuildProgress};
pub(crate) use scrub::SegmentScrub;
pub(crate) use segment::SEGMENT_FORMAT;
pub(crate) use space::{Shape, SpaceIndex};
pub use spaces::{BuildPool, VectorCounts, VectorOptions, build_pool};
pub(crate) use spaces::{DIRECTORY, SpaceDefinition, Spaces, SpacesContext, VectorChange};
pub(crate) use stored::{forget, place};
pub(crate) use view::{Neighbour, Search, View};
