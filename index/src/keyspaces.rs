//! The keyspaces that rows live in.

use allidb_storage::{Engine, Keyspace, KeyspaceOptions};

use crate::error::{Error, Result};

/// Handles of the keyspaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyspaces {
    pub(crate) entity: Keyspace,
    pub(crate) vector: Keyspace,
    pub(crate) history: Keyspace,
    pub(crate) chunk: Keyspace,
    pub(crate) edge: Keyspace,
    pub(crate) edge_in: Keyspace,
    pub(crate) token: Keyspace,
    pub(crate) number: Keyspace,
    /// Which entities have which values in declared fields.
    pub(crate) posting: Keyspace,
    /// Which vectors changed since they were last sealed.
    pub(crate) vector_log: Keyspace,
    /// Which segments make up a vector space, and their dead rows.
    pub(crate) vector_segment: Keyspace,
    /// Which texts changed since they were last sealed.
    pub(crate) text_log: Keyspace,
    /// Which segments make up the text index, and their dead documents.
    pub(crate) text_segment: Keyspace,
    /// Which nodes and edges changed since they were last sealed.
    pub(crate) graph_log: Keyspace,
    /// Which segments make up the graph index.
    pub(crate) graph_segment: Keyspace,
    /// Merkle trees, and what changed since they were saved.
    pub(crate) merkle: Keyspace,
    /// What replicas promised and accepted of writes on conditions.
    pub(crate) paxos: Keyspace,
    pub(crate) cluster: Keyspace,
    pub(crate) local: Keyspace,
}

/// Their names; the place of each is its id.
pub const KEYSPACES: [&str; 19] = [
    "entity",
    "vector",
    "history",
    "chunk",
    "edge",
    "edge_in",
    "token",
    "number",
    "posting",
    "cluster",
    "local",
    "vector_log",
    "vector_segment",
    "text_log",
    "text_segment",
    "graph_log",
    "graph_segment",
    "merkle",
    "paxos",
];

/// What the storage engine is to be opened with: all of them like `template`, which has no say about names.
pub(crate) fn keyspace_options(template: &KeyspaceOptions) -> Vec<KeyspaceOptions> {
    KEYSPACES.into_iter().map(|name| KeyspaceOptions { name: name.to_owned(), ..template.clone() }).collect()
}

impl Keyspaces {
    /// All of them, with their names.
    pub(crate) fn all(&self) -> [(Keyspace, &'static str); 19] {
        let keyspaces = [
            self.entity,
            self.vector,
            self.history,
            self.chunk,
            self.edge,
            self.edge_in,
            self.token,
            self.number,
            self.posting,
            self.cluster,
            self.local,
            self.vector_log,
            self.vector_segment,
            self.text_log,
            self.text_segment,
            self.graph_log,
            self.graph_segment,
            self.merkle,
            self.paxos,
        ];
        std::array::from_fn(|place| (keyspaces[place], KEYSPACES[place]))
    }

    pub(crate) fn of(engine: &Engine) -> Result<Self> {
        let keyspace = |name: &str| {
            let missing =
                || Error::FailedPrecondition(format!("the storage engine has no keyspace {name:?}"));
            engine.keyspace(name).ok_or_else(missing)
        };
        Ok(Self {
            entity: keyspace("entity")?,
            vector: keyspace("vector")?,
            history: keyspace("history")?,
            chunk: keyspace("chunk")?,
            edge: keyspace("edge")?,
            edge_in: keyspace("edge_in")?,
            token: keyspace("token")?,
            number: keyspace("number")?,
            posting: keyspace("posting")?,
            vector_log: keyspace("vector_log")?,
            vector_segment: keyspace("vector_segment")?,
            text_log: keyspace("text_log")?,
            text_segment: keyspace("text_segment")?,
            graph_log: keyspace("graph_log")?,
            graph_segment: keyspace("graph_segment")?,
            merkle: keyspace("merkle")?,
            paxos: keyspace("paxos")?,
            cluster: keyspace("cluster")?,
            local: keyspace("local")?,
        })
    }
}
