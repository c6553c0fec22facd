//! Bounds on what one request may hold or ask for.

use std::time::Duration;

/// Bounds on what one request may hold or ask for; each is configurable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entities or edges in one batch.
    pub batch_items: usize,
    /// Queries in one batch.
    pub batch_queries: usize,
    /// Attributes of one entity, or entries of one chunk's metadata.
    pub attributes: usize,
    /// Bytes of one entity: ids, names, values, texts and vectors together.
    pub entity_bytes: usize,
    /// Bytes of the entities in one answer, about.
    pub answer_bytes: usize,
    /// Chunks of one entity in one write.
    pub chunks: usize,
    /// Vectors of one entity or chunk.
    pub vectors: usize,
    /// Sources of one entity, chunk or edge.
    pub sources: usize,
    /// Nesting of lists and maps.
    pub value_depth: usize,
    /// Nesting of filters.
    pub filter_depth: usize,
    /// Conditions in one filter.
    pub filter_conditions: usize,
    /// Entities in one page.
    pub page_size: usize,
    /// Seeds, nearest neighbours or hits of one query.
    pub k: usize,
    /// Breadth of an index walk.
    pub ef: usize,
    /// Bytes of the words that one clause of a query looks for, or all conditions of a filter.
    pub query_text_bytes: usize,
    /// Seed clauses of one query.
    pub seeds: usize,
    /// Entities given as seeds.
    pub seed_ids: usize,
    /// Hops of one expansion.
    pub hops: usize,
    /// Edges of a shortest path.
    pub path_hops: usize,
    /// Paths of one answer.
    pub paths: usize,
    /// Edges followed from each node for each relation.
    pub fan_out: usize,
    /// Nodes reached by one expansion.
    pub nodes: usize,
    /// Edges looked at by one expansion or neighbours call.
    pub edges: usize,
    /// Candidates that one query holds at once.
    pub candidates: usize,
    /// Longest time one request may take; also the default.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_items: 10_000,
            batch_queries: 100,
            attributes: 1_000,
            entity_bytes: 16 << 20,
            answer_bytes: 64 << 20,
            chunks: 1_000,
            vectors: 64,
            sources: 1_000,
            value_depth: 16,
            filter_depth: 16,
            filter_conditions: 1_000,
            page_size: 1_000,
            k: 10_000,
            ef: 20_000,
            query_text_bytes: 64 << 10,
            seeds: 16,
            seed_ids: 1_000,
            hops: 8,
            path_hops: 32,
            paths: 1_000,
            fan_out: 10_000,
            nodes: 100_000,
            edges: 1_000_000,
            candidates: 200_000,
            deadline: Duration::from_secs(30),
        }
    }
}
