//! What each method takes.

use allidb_index::model::Role;

use crate::metrics::Method;

/// What a method takes of whoever calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Nothing, not even a key: probes.
    Anybody,
    /// A key, whatever it may do.
    Known,
    /// To read entities.
    Read,
    /// To write them.
    Write,
    /// To make and drop collections and keys.
    Define,
    /// To look after nodes.
    Operate,
}

impl Right {
    /// What a method takes. What is not in the table is for nobody but those who may do everything.
    pub(crate) fn of(method: Method) -> Self {
        match (method.service, method.name) {
            ("grpc.health.v1.Health", _) => Self::Anybody,
            // Not of the contract: reflection, and what there is not.
            ("other", _) => Self::Known,
            ("allidb.v1.Search", "Query" | "BatchQuery" | "Explain")
            | ("allidb.v1.Graph", "Neighbors" | "Expand" | "CountHops" | "ShortestPath")
            | ("allidb.v1.Entities", "Get" | "BatchGet" | "RangeScan" | "Count" | "Facets")
            | ("allidb.v1.Collections", "GetCollection" | "ListCollections") => Self::Read,
            ("allidb.v1.Graph", "PutEdges" | "DeleteEdges")
            | (
                "allidb.v1.Entities",
                "Put" | "BatchPut" | "PutStream" | "Update" | "Delete" | "BatchDelete" | "PutChunks"
                | "DeleteChunks" | "DeleteWhere" | "DeleteBySource" | "Merge",
            ) => Self::Write,
            ("allidb.v1.Collections" | "allidb.v1.Keys", _) => Self::Define,
            _ => Self::Operate,
        }
    }

    /// Whether a role has it.
    pub(crate) fn is_of(self, role: Role) -> bool {
        match self {
            Self::Anybody | Self::Known => true,
            Self::Read => role != Role::Operator,
            Self::Write => matches!(role, Role::Writer | Role::Admin),
            Self::Define => role == Role::Admin,
            Self::Operate => role == Role::Operator,
        }
    }

    /// Whether each use of it is noted.
    pub(crate) fn is_audited(self) -> bool {
        matches!(self, Self::Define | Self::Operate)
    }

    /// In words: what a key may not do.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Anybody | Self::Known => "call this",
            Self::Read => "read",
            Self::Write => "write",
            Self::Define => "manage collections and keys",
            Self::Operate => "look after nodes",
        }
    }
}
