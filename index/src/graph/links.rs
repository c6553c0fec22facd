//! What a walk follows: the graph that lies here, or what nodes told of theirs.

use std::ops::ControlFlow;

use crate::{
    error::Result,
    filter::Filter,
    graph::{
        GraphReader,
        adjacency::Side,
        reader::{Seen, Stop},
    },
    model::{Edge, Timestamp},
    replica::Reader,
};

/// An edge as a walk met it: from where, which way, by which relation, to where.
pub(crate) type Met = (u64, Side, u32, u64);

/// Edges that a walk may follow. Nodes and relations go by numbers.
pub(crate) trait Links {
    /// When the walk begins.
    fn now(&self) -> Timestamp;

    /// The numbers of relations, those left out that no edge has; `None`: all relations.
    fn relations(&self, names: &[String]) -> Option<Vec<u32>>;

    /// Calls `each` with the edges of a node on one side: relation by relation, of each the heaviest first. `None`: one that was looked at
    /// and is none.
    ///
    /// # Errors
    /// If they cannot be read.
    fn edges(
        &self,
        number: u64,
        side: Side,
        relations: Option<&[u32]>,
        each: &mut dyn FnMut(Option<&Seen<'_>>) -> ControlFlow<Stop>,
    ) -> Result<ControlFlow<()>>;

    /// Whether edges of `None` may be counted for whoever asks: there are none that it may not know of.
    fn may_count_all(&self) -> bool;

    /// Whether an edge meets a filter.
    ///
    /// # Errors
    /// If it cannot be read.
    fn meets(&self, edge: Met, edge_id: &str, filter: &Filter) -> Result<bool>;
}

/// The graph that lies here, at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Here<'a> {
    pub(crate) reader: &'a Reader<'a>,
    pub(crate) graph: &'a GraphReader<'a>,
}

impl Here<'_> {
    /// The edge as callers see it, if it is there.
    pub(crate) fn edge(&self, edge: Met, edge_id: &str) -> Result<Option<Edge>> {
        self.reader.edge(self.graph, edge, edge_id)
    }
}

impl Links for Here<'_> {
    fn now(&self) -> Timestamp {
        self.graph.now
    }

    fn relations(&self, names: &[String]) -> Option<Vec<u32>> {
        self.graph.relations(names)
    }

    fn edges(
        &self,
        number: u64,
        side: Side,
        relations: Option<&[u32]>,
        each: &mut dyn FnMut(Option<&Seen<'_>>) -> ControlFlow<Stop>,
    ) -> Result<ControlFlow<()>> {
        self.graph.edges(number, side, relations, &mut |seen| each(seen))
    }

    fn may_count_all(&self) -> bool {
        self.graph.sees_all()
    }

    fn meets(&self, edge: Met, edge_id: &str, filter: &Filter) -> Result<bool> {
        Ok(self.edge(edge, edge_id)?.is_some_and(|edge| filter.matches_edge(&edge)))
    }
}
