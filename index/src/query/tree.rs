//! What a query asks and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    filter::{Field, Filter},
    model::{CollectionSet, Direction, Edge, Entity, EntityRef, ReadMask, Timestamp, Value},
    query::PlanStep,
};

/// One question: near these vectors, then along these edges, scored together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The collection of the seeds; expansion may leave it.
    pub collection: String,
    /// Where to begin. An entity found by several keeps its best score.
    pub seeds: Vec<Seed>,
    /// How to walk from there.
    pub expand: Option<ExpandSpec>,
    /// How to score.
    pub scoring: Scoring,
    /// Hits, and seeds by vector, must meet it.
    pub filter: Option<Filter>,
    /// Hits to return.
    pub limit: usize,
    /// Hits below this score are left out.
    pub threshold: Option<f64>,
    /// What of each entity is returned.
    pub read_mask: ReadMask,
    /// Adds breakdown and path to each hit.
    pub explain: bool,
    /// Adds to the answer what was done for it, step by step.
    pub profile: bool,
    /// Adds to each hit the parts of its texts that answer to the words of the query.
    pub highlight: Option<Highlight>,
    /// Only what this query finds may be a hit, and seeds by vectors and words are looked for among it alone.
    pub within: Option<Box<Query>>,
    /// So many of the first hits, or groups, are left out: for pages.
    pub offset: usize,
    /// What the pages before held, from [`Answer::next`]: none of it comes again, whatever was written meanwhile. With it `offset` has no effect.
    pub seen: Vec<u64>,
    /// Hits are ordered by these fields, the first that differs decides, and last by score. Without them by score alone.
    pub order_by: Vec<Order>,
    /// Hits that have the same value of a field come together, the best of each first, and `limit` counts them.
    pub group_by: Option<GroupBy>,
    /// Hits are chosen so that they are not too much like each other.
    pub diversity: Option<Diversity>,
    /// Whether what lies on nodes that do not answer may be left out; how much is told by [`Answer::coverage`].
    pub allow_partial: bool,
}

/// Which parts of texts are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Highlight {
    /// Of each text at most; 1 to 20.
    pub fragments: usize,
    /// About so many bytes of each; 20 to 2,000.
    pub length: usize,
}

/// A part of a text that answers to words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Highlighted {
    /// The attribute, or [`TextQuery::CHUNKS`].
    pub field: String,
    /// The chunk, if it is the text of one.
    pub chunk_id: String,
    /// One after the other they are the part, in Unicode's compatibility composition.
    pub pieces: Vec<Piece>,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// As it stands there.
    pub text: String,
    /// Whether it answers to a word.
    pub is_match: bool,
}

/// One field that hits are ordered by. Those that do not have it, or several values of it, come last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Which.
    pub field: Field,
    /// Whether the greatest comes first.
    pub descending: bool,
}

/// Which hits come together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupBy {
    /// Those of one value of this field; those that do not have it are no hits.
    pub field: Field,
    /// So many of each group at most.
    pub size: usize,
}

/// How hits are chosen that differ from each other: the next one is that whose score times `lambda`, less the greatest similarity to
/// those before times 1 − `lambda`, is greatest (Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking", 1998).
/// Similarity is that of vectors in the space of the first nearest clause, of which there must be one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// In [0, 1]; 1: by score alone.
    pub lambda: f64,
    /// From so many of the best they are chosen; 0: five times as many as are asked for, at least 100.
    pub candidates: usize,
}

impl Query {
    /// The clauses of words, and their places among the seeds.
    pub(crate) fn text_clauses(&self) -> impl Iterator<Item = (usize, &TextQuery)> {
        self.seeds.iter().enumerate().filter_map(|(at, seed)| match seed {
            Seed::Text { query, .. } => Some((at, query)),
            _ => None,
        })
    }

    /// A query of `collection` for the best 10, scored as if nothing were said.
    pub fn new(collection: impl Into<String>, seeds: Vec<Seed>) -> Self {
        Self {
            collection: collection.into(),
            seeds,
            expand: None,
            scoring: Scoring::default(),
            filter: None,
            limit: 10,
            threshold: None,
            read_mask: ReadMask::fields(),
            explain: false,
            profile: false,
            highlight: None,
            within: None,
            offset: 0,
            seen: Vec::new(),
            order_by: Vec::new(),
            group_by: None,
            diversity: None,
            allow_partial: false,
        }
    }
}

/// Words to look for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TextQuery {
    /// The words.
    pub text: String,
    /// Which of them must be there.
    pub operator: TextMatch,
    /// Where to look, and what matches there count: declared attributes, or [`TextQuery::CHUNKS`]. Empty: everywhere, by the
    /// declared weights. Names in need of a choice may begin with `attributes.`.
    pub fields: Vec<(String, Option<f64>)>,
    /// The last word may be the beginning of one.
    pub prefix: bool,
    /// So many letters of each word may be wrong, missing or too many, but for the first; at most 2.
    pub fuzziness: u32,
    /// In a phrase, so many places each word may be away from where it should be; at most 100.
    pub slop: u32,
}

impl TextQuery {
    /// Stands for the texts of chunks among the fields.
    pub const CHUNKS: &'static str = "chunks";
}

/// Which words of a text must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextMatch {
    /// At least one.
    #[default]
    Any,
    /// Each of them.
    All,
    /// All, one after the other.
    Phrase,
}

/// Where a query begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Seed {
    /// The nearest vectors of a space.
    Nearest(Nearest),
    /// The entities whose texts answer best to some words.
    Text {
        /// What to look for.
        query: TextQuery,
        /// How many at most; 0: the query's limit or, beside other seeds, at least 100.
        k: usize,
    },
    /// These entities, each with score 1.
    Ids(Vec<EntityRef>),
    /// The first entities, in the order of their ids, that match; each with score 1.
    Matching {
        /// What to match.
        filter: Filter,
        /// How many at most; 0: the query's limit.
        limit: usize,
    },
}

/// The nearest vectors of a space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nearest {
    /// A space's name or alias.
    pub space: String,
    /// What to be near to.
    pub target: NearestTarget,
    /// How many; 0: the query's limit or, beside other seeds, at least 100.
    pub k: usize,
    /// Compares with every vector rather than walking the index.
    pub exact: bool,
    /// Measures what is found by the stored vectors rather than by the index's codes, which err by about a ten-thousandth;
    /// `exact` always does.
    pub rescore: bool,
    /// Breadth of the index walk; 0: chosen by the server.
    pub ef: usize,
    /// The share of the nearest that should be found: the breadth is chosen by what was measured. Not with `ef` or `exact`.
    pub target_recall: Option<f64>,
    /// Seeds below this similarity (the vector signal) are left out.
    pub min_similarity: Option<f64>,
}

impl Nearest {
    /// The nearest to `vector`, as many as the query's limit.
    pub fn to_vector(space: impl Into<String>, vector: Vec<f32>) -> Self {
        let target = NearestTarget::Vector(vector);
        Self {
            space: space.into(),
            target,
            k: 0,
            exact: false,
            rescore: false,
            ef: 0,
            target_recall: None,
            min_similarity: None,
        }
    }
}

/// What a search is near to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NearestTarget {
    /// This vector.
    Vector(Vec<f32>),
    /// This entity's own vector in the space; the entity itself is left out.
    Entity(EntityRef),
    /// What examples have in common; they are left out.
    Examples(Examples),
}

/// What is wanted and what is not, told by entities with vectors of their own in the space. The target is the mean of the positive ones and,
/// if there are negative ones, as far again from the mean of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Examples {
    /// Like these; at least one.
    pub positive: Vec<EntityRef>,
    /// Unlike these.
    pub negative: Vec<EntityRef>,
}

/// How to walk from the seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpandSpec {
    /// Only these relations; empty: all.
    pub relations: Vec<String>,
    /// Which way.
    pub direction: Direction,
    /// How far; at least 1.
    pub hops: usize,
    /// Heaviest edges followed from each node for each relation and direction; ties by target.
    pub fan_out: usize,
    /// Lighter edges are not followed.
    pub min_weight: f64,
    /// Edges that hold at this time; `None`: now.
    pub as_of: Option<Timestamp>,
    /// Nodes reached in all, seeds not counted.
    pub max_nodes: usize,
    /// Factor for each hop, in (0, 1].
    pub decay: f64,
    /// Which relations may follow each other, in place of relations and direction: `hypernym{1,5}/part_holonym?`, `(a|^b)+`, where `^`
    /// goes against an edge's direction and `.` is any relation. What the whole pattern leads to is reached.
    pub pattern: Option<String>,
    /// Edges that do not meet it are not followed: their attributes and sources; `type` is the relation, `importance` the weight, and
    /// `id` the edge id. Edges are read from the store for that.
    pub edge_filter: Option<Filter>,
    /// Nodes are worth not what the best walk to them is, but the mass that PageRank with this damping, in (0, 1), gives them in
    /// what was reached, the seeds being where it begins anew; the greatest is 1.
    pub page_rank: Option<f64>,
    /// The best so many seeds are walked from; 0: all or, in a query with several clauses of seeds, as many as its limit.
    pub seeds: usize,
    /// Edges that lead out of these collections are as if they were not.
    pub collections: CollectionSet,
}

impl Default for ExpandSpec {
    fn default() -> Self {
        Self {
            relations: Vec::new(),
            direction: Direction::Out,
            hops: 1,
            fan_out: 32,
            min_weight: 0.0,
            as_of: None,
            max_nodes: 1_000,
            decay: 0.7,
            pattern: None,
            edge_filter: None,
            page_rank: None,
            seeds: 0,
            collections: CollectionSet::ALL,
        }
    }
}

/// How to score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scoring {
    /// What becomes of the signals.
    pub mode: ScoreMode,
    /// `None`: vector 1 and text 1, or 0.75 beside vectors, where there are such seeds; graph 1 if there is an expansion, or
    /// neither.
    pub weights: Option<Weights>,
    /// What the signals of vectors and texts are.
    pub fusion: Fusion,
    /// Recency halves each time this passes; `None`: 30 days.
    pub half_life: Option<Duration>,
    /// What age is measured against; `None`: the request's time.
    pub as_of: Option<Timestamp>,
}

/// How a score comes of the signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum ScoreMode {
    /// Their weighted mean.
    #[default]
    Weighted,
    /// The weighted mean of vector, text and graph, times 1 + `importance` × (importance − ½), times 1 + `recency` × (recency − ½).
    Boost {
        /// In [0, 1].
        importance: f64,
        /// In [0, 1].
        recency: f64,
    },
    /// The formula of the first AlliDB, to compare with: vector + 0.3 × the mean weight of the path (1 without one) + 0.2 × the
    /// logistic function of importance (0 if unset) + 0.1 × e^(−age / 30 days). Up to 1.6; weights are not looked at.
    AllidbV1,
}

/// What the signals of vectors and texts are, which come from measures that have nothing in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Fusion {
    /// How near, and how well the words answer.
    #[default]
    Scores,
    /// The place among those that a clause found: (k + 1) / (k + place), and 0 for what it did not find (Cormack, Clarke and
    /// Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods", 2009).
    ReciprocalRank {
        /// How little the first places differ; above 0, usually 60.
        k: f64,
    },
}

/// The weight of each signal, in [0, 1], at least one above zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Of nearness.
    pub vector: f64,
    /// Of how well texts answer.
    pub text: f64,
    /// Of being reached along edges.
    pub graph: f64,
    /// Of importance.
    pub importance: f64,
    /// Of being recent.
    pub recency: f64,
}

/// What a score is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Nearness.
    Vector,
    /// How well texts answer.
    Text,
    /// Reached along edges.
    Graph,
    /// Importance.
    Importance,
    /// Recency.
    Recency,
}

impl Signal {
    /// Its name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Text => "text",
            Self::Graph => "graph",
            Self::Importance => "importance",
            Self::Recency => "recency",
        }
    }
}

/// One part of a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignalValue {
    /// Which.
    pub signal: Signal,
    /// In [0, 1].
    pub value: f64,
    /// The query's weight over the sum of its weights, or what the mode says.
    pub weight: f64,
    /// What it adds to the score: value × weight, unless the mode has it otherwise.
    pub contribution: f64,
}

/// One edge of a path.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The edge.
    pub edge: Edge,
    /// [`Direction::Out`]: it was followed from its source to its target.
    pub direction: Direction,
}

/// An answer to a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The collection it is in.
    pub collection: String,
    /// With what the read mask asked for.
    pub entity: Entity,
    /// In [0, 1], but for modes that say otherwise.
    pub score: f64,
    /// The value that its group has in common.
    pub group: Option<Value>,
    /// The chunk whose vector or, if none was compared, whose text matched best; empty: the entity's own.
    pub chunk_id: String,
    /// The space's own measure of the best match (cosine, dot product, l2 distance).
    pub measure: Option<f64>,
    /// Edges from the seed by which it was reached; 0: a seed itself.
    pub hops: usize,
    /// The parts of the score, with `explain`.
    pub breakdown: Vec<SignalValue>,
    /// From a seed to the entity, with `explain`.
    pub path: Vec<Step>,
    /// The parts of its texts that answer, with `highlight`.
    pub highlights: Vec<Highlighted>,
}

impl Hit {
    /// What it is called.
    pub fn entity_ref(&self) -> EntityRef {
        EntityRef { collection: self.collection.clone(), id: self.entity.id.clone() }
    }
}

/// How much of what there is an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Partitions of which enough replicas answered.
    pub answered: usize,
    /// Partitions that there are.
    pub total: usize,
}

/// All answers to a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Best first; ties by collection and id.
    pub hits: Vec<Hit>,
    /// What bounds cut off.
    pub truncated: Vec<Truncation>,
    /// What the next page is to leave out ([`Query::seen`]); `None`: this is the last one.
    pub next: Option<Vec<u64>>,
    /// What it took.
    pub cost: Cost,
    /// Over a ring, what it is about; `None`: all that there is.
    pub coverage: Option<Coverage>,
    /// What was done, with `profile`.
    pub steps: Vec<PlanStep>,
}

/// Something that a bound cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// Which bound.
    pub reason: TruncationReason,
    /// How many nodes this happened to (fan-out), or the bound itself.
    pub count: u64,
}

/// Why something was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TruncationReason {
    /// A node has more edges of a relation than are followed.
    FanOut,
    /// Enough nodes were reached.
    MaxNodes,
    /// Enough edges were looked at.
    MaxEdges,
    /// The time was over.
    Deadline,
    /// Enough candidates were looked at.
    MaxCandidates,
}

/// What a query took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Vectors compared with a target.
    pub vectors_compared: u64,
    /// Nodes reached by expansion.
    pub nodes: u64,
    /// Edges looked at.
    pub edges: u64,
}
