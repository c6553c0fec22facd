//! Edges between entities.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    model::{EntityRef, Timestamp, Value},
    version::Version,
};

/// A weighted, typed edge.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// Its source.
    pub from: EntityRef,
    /// What `to` is to `from`.
    pub relation: String,
    /// Its target.
    pub to: EntityRef,
    /// Tells several edges of one relation between the same two apart; empty by default.
    pub edge_id: String,
    /// In [0, 1].
    pub weight: f64,
    /// Named values.
    pub attributes: BTreeMap<String, Value>,
    /// It holds from here on (inclusive).
    pub valid_from: Option<Timestamp>,
    /// It holds until here (exclusive).
    pub valid_to: Option<Timestamp>,
    /// The names of the sources it came from.
    pub sources: BTreeSet<String>,
    /// Set by the server.
    pub version: Version,
}

impl Edge {
    /// An edge of weight 1 that always holds.
    pub fn new(from: EntityRef, relation: impl Into<String>, to: EntityRef) -> Self {
        Self {
            from,
            relation: relation.into(),
            to,
            edge_id: String::new(),
            weight: 1.0,
            attributes: BTreeMap::new(),
            valid_from: None,
            valid_to: None,
            sources: BTreeSet::new(),
            version: Version::ZERO,
        }
    }

    /// What names this edge.
    pub fn edge_ref(&self) -> EdgeRef {
        EdgeRef {
            from: self.from.clone(),
            relation: self.relation.clone(),
            to: self.to.clone(),
            edge_id: self.edge_id.clone(),
        }
    }
}

/// Names an edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EdgeRef {
    /// Its source.
    pub from: EntityRef,
    /// Its relation.
    pub relation: String,
    /// Its target.
    pub to: EntityRef,
    /// Its edge id; empty by default.
    pub edge_id: String,
}

/// Which way edges are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// From source to target.
    #[default]
    Out,
    /// From target to source.
    In,
    /// Either way.
    Both,
}
