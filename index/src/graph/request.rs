//! What callers ask of the graph and what they get.

use crate::{
    graph::{NeighborPages, NeighborPlace},
    model::{CollectionSet, Direction, Edge, EntityRef, Timestamp},
    query::{ExpandSpec, Step, Truncation},
};

/// Asks for the edges of one entity.
#[derive(Clone, Debug, PartialEq)]
pub struct NeighborsRequest {
    /// Whose edges.
    pub entity: EntityRef,
    /// Only these relations; empty: all.
    pub relations: Vec<String>,
    /// Which way.
    pub direction: Direction,
    /// Lighter edges are left out.
    pub min_weight: f64,
    /// Edges that hold at this time; `None`: now.
    pub as_of: Option<Timestamp>,
    /// Edges whenever they hold.
    pub any_time: bool,
    /// Most edges returned.
    pub limit: usize,
    /// Which of them.
    pub pages: NeighborPages,
    /// Edges that lead out of these collections are as if they were not.
    pub collections: CollectionSet,
}

/// The edges of one entity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighborhood {
    /// Heaviest first; ties by relation, neighbour and edge id. Pages of all are in no order.
    pub neighbors: Vec<Neighbor>,
    /// What bounds cut off.
    pub truncated: Vec<Truncation>,
    /// Where the next page goes on, if pages are asked for and there is one.
    pub next: Option<NeighborPlace>,
}

/// One edge of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbor {
    /// The edge.
    pub edge: Edge,
    /// [`Direction::Out`]: the entity asked about is its source.
    pub direction: Direction,
}

/// Asks for a breadth-first walk.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpandRequest {
    /// Where it begins, each with score 1.
    pub seeds: Vec<EntityRef>,
    /// How it goes on.
    pub spec: ExpandSpec,
    /// Whether paths are told: edges are read for that.
    pub paths: bool,
}

/// What a walk reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expansion {
    /// By hops, then best score, then name; without the seeds.
    pub nodes: Vec<Reached>,
    /// Edges looked at.
    pub edges: u64,
    /// What bounds cut off.
    pub truncated: Vec<Truncation>,
}

impl Expansion {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let name = |entity: &EntityRef| entity.collection.len() + entity.id.len();
        let step = |step: &Step| {
            size_of::<Step>() + name(&step.edge.from) + name(&step.edge.to) + step.edge.relation.len()
        };
        let path = |path: &[Step]| path.iter().map(step).sum::<usize>();
        let node = |node: &Reached| size_of::<Reached>() + name(&node.entity) + path(&node.path);
        // Names are allocations of their own, most of them of few bytes.
        2 * self.nodes.iter().map(node).sum::<usize>()
    }
}

/// One node that a walk reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Reached {
    /// The node.
    pub entity: EntityRef,
    /// How many edges away from its seed.
    pub hops: usize,
    /// The best over its paths of decay^hops times the product of the weights.
    pub score: f64,
    /// That path, from a seed to the node, if paths were asked for.
    pub path: Vec<Step>,
}

impl Reached {
    /// The order of an answer.
    pub(crate) fn nearest_first(&self, other: &Self) -> std::cmp::Ordering {
        let by_score = || other.score.total_cmp(&self.score);
        self.hops.cmp(&other.hops).then_with(by_score).then_with(|| self.entity.cmp(&other.entity))
    }
}

/// Asks how many entities are so many hops away.
#[derive(Clone, Debug, PartialEq)]
pub struct HopsRequest {
    /// Where to begin.
    pub seeds: Vec<EntityRef>,
    /// Only these relations; empty: all.
    pub relations: Vec<String>,
    /// Which way.
    pub direction: Direction,
    /// How far; at least 1.
    pub hops: usize,
    /// Lighter edges are not followed.
    pub min_weight: f64,
    /// Edges that hold at this time; `None`: now.
    pub as_of: Option<Timestamp>,
    /// Edges that lead out of these collections are as if they were not.
    pub collections: CollectionSet,
}

/// How many entities are so many hops away.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HopCounts {
    /// For each hop from the first on: entities that no fewer hops reach.
    pub counts: Vec<u64>,
    /// Edges looked at.
    pub edges: u64,
    /// What bounds cut off: the last count is too low then, and those after it are missing.
    pub truncated: Vec<Truncation>,
}

/// Asks for the shortest paths from one entity to another.
#[derive(Clone, Debug, PartialEq)]
pub struct PathsRequest {
    /// Where paths begin.
    pub from: EntityRef,
    /// Where they end.
    pub to: EntityRef,
    /// Only these relations; empty: all.
    pub relations: Vec<String>,
    /// Which way edges are followed.
    pub direction: Direction,
    /// Most edges of a path.
    pub max_hops: usize,
    /// Lighter edges are not followed.
    pub min_weight: f64,
    /// Edges that hold at this time; `None`: now.
    pub as_of: Option<Timestamp>,
    /// What makes a path short.
    pub cost: PathCost,
    /// So many paths at most, the shortest first.
    pub k: usize,
    /// Only those that are as short as the shortest.
    pub only_shortest: bool,
    /// Edges that lead out of these collections are as if they were not.
    pub collections: CollectionSet,
}

/// What makes a path short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathCost {
    /// Few edges.
    #[default]
    Hops,
    /// A great product of its edges' weights. Edges that weigh nothing are not followed.
    Weights,
}

/// Paths from one entity to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Paths {
    /// The shortest first; none comes to a node twice. Ties come in the order of relations and of the nodes' ages.
    pub paths: Vec<FoundPath>,
    /// Edges looked at.
    pub edges: u64,
    /// What bounds cut off: there may be more paths, and shorter ones.
    pub truncated: Vec<Truncation>,
}

/// A path.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundPath {
    /// Its edges; none from an entity to itself.
    pub steps: Vec<Step>,
    /// The product of its edges' weights.
    pub weight: f64,
}
