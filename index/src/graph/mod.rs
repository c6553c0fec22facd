//! Edges read and walked.
//!
//! | module | concept |
//! |---|---|
//! | `nodes` | which nodes are there |
//! | `relations` | numbers of relations |
//! | `adjacency` | edges, and how those of one relation at one side of a node lie in a segment |
//! | `growing` | fresh nodes and edges, in memory |
//! | `segment` | sealed ones, mapped |
//! | `index` | what is fresh and what is sealed, and changes of it |
//! | `open` | opening, replaying the journal, reading rows again |
//! | `reader` | the graph at one moment, over all of these |
//! | `upkeep` | sealing and merging in the background |
//! | `neighbors` | the edges of one entity |
//! | `pages` | all of them, page by page |
//! | `links` | what a walk follows |
//! | `walk` | bounded expansion |
//! | `pattern` | which relations may follow each other |
//! | `told` | the edges of nodes, as those tell them who hold them |
//! | `told_graph` | a graph that lies on several nodes, as far as they have told of it |
//! | `ring_hops`, `ring_paths` | counts and paths over such a graph |
//! | `ring_walk` | walks over a graph that lies on several nodes |
//! | `expanding` | expansions over such a graph |
//! | `page_rank` | where a wanderer over what was reached is |
//! | `paths` | shortest paths |
//! | `count` | how many nodes are so many hops away |

mod adjacency;
mod count;
mod expanding;
mod growing;
mod index;
mod links;
mod neighbors;
mod nodes;
mod open;
mod page_rank;
mod pages;
mod paths;
mod pattern;
mod reader;
mod relations;
mod request;
mod ring_hops;
mod ring_paths;
mod ring_walk;
mod segment;
mod told;
mod told_graph;
mod upkeep;
mod walk;

pub(crate) use adjacency::{EdgeValue, Side};
pub use expanding::Expanding;
pub use index::GraphCounts;
pub(crate) use index::{ChangedSides, EdgeChange, GraphChange, GraphIndex, GraphView, NodeChange};
pub(crate) use links::Here;
pub(crate) use neighbors::sides;
pub(crate) use nodes::NodeState;
pub(crate) use open::{DIRECTORY, GraphContext, node_state};
pub use pages::{NeighborPages, NeighborPlace};
pub(crate) use reader::GraphReader;
pub(crate) use relations::RELATION;
pub use request::{
    ExpandRequest, Expansion, FoundPath, HopCounts, HopsRequest, Neighbor, Neighborhood, NeighborsRequest,
    PathCost, Paths, PathsRequest, Reached,
};
pub use ring_hops::RingHops;
pub use ring_paths::RingPaths;
pub use ring_walk::{RingWalk, WalkedEdge};
pub(crate) use segment::SEGMENT_FORMAT;
pub use told::{LinksRequest, ToldLinks};
pub use told_graph::{Explore, ToldGraph};
pub(crate) use upkeep::place;
pub(crate) use walk::{Bounds, Visit, Walk};
