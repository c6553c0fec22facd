//! The WordNet data set in memory.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    dataset::{Dataset, Lines},
    ivecs,
    npy::NpyFile,
};

/// What the choice of entities looks at.
#[derive(Debug, Deserialize)]
pub(super) struct Synset {
    pub(super) id: String,
    pub(super) lexname: String,
    pub(super) lemmas: Vec<String>,
}

/// An edge between two rows.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) relation: String,
    /// As it stands in the file.
    pub(super) line: String,
}

/// A sentence, and the synset that it illustrates.
#[derive(Debug, Deserialize)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) synset: String,
    pub(super) row: usize,
    pub(super) lexname: String,
}

/// Everything that the sample is cut from.
pub(super) struct Source {
    /// The entities as they stand in the file, by row.
    pub(super) lines: Vec<String>,
    /// The same, read.
    pub(super) synsets: Vec<Synset>,
    pub(super) edges: Vec<Edge>,
    pub(super) vectors: NpyFile,
    pub(super) queries: Vec<Query>,
    pub(super) query_vectors: NpyFile,
    /// The rows nearest to each query, best first.
    pub(super) nearest: Vec<Vec<u32>>,
    /// Holds the licence.
    pub(super) readme: String,
}

#[derive(Deserialize)]
struct Ends {
    from: String,
    relation: String,
    to: String,
}

impl Source {
    /// Reads the directory.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let dataset = Dataset::open(dir)?;
        let lines = dataset.entity_lines()?.collect::<Result<Vec<_>>>()?;
        let synsets =
            lines.iter().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Synset>>>()?;
        let rows: HashMap<&str, usize> =
            synsets.iter().enumerate().map(|(row, synset)| (synset.id.as_str(), row)).collect();
        let read_edge = |line: Result<String>| {
            let line = line?;
            let ends: Ends = serde_json::from_str(&line)?;
            let row = |id: &str| rows.get(id).copied().with_context(|| format!("no entity `{id}`"));
            Ok(Edge { from: row(&ends.from)?, to: row(&ends.to)?, relation: ends.relation, line })
        };
        let edges = dataset.edge_lines()?.context("no edges")?.map(read_edge).collect::<Result<_>>()?;
        let queries = Lines::open(&dir.join("queries.jsonl"))?
            .map(|line| Ok(serde_json::from_str(&line?)?))
            .collect::<Result<Vec<Query>>>()?;
        let query_vectors = NpyFile::open(&dir.join("queries.f32.npy"))?;
        let nearest = ivecs::parse(&fs::read(dir.join("truth.top100.ivecs"))?)?;
        let vectors = dataset.vectors.context("no vectors")?;
        ensure!(vectors.header().rows == synsets.len(), "entities and vectors differ in number");
        ensure!(query_vectors.header().rows == queries.len(), "queries and their vectors differ in number");
        ensure!(nearest.len() == queries.len(), "queries and their answers differ in number");
        let in_range = |row: usize| row < synsets.len();
        ensure!(queries.iter().all(|query| in_range(query.row)), "a query names a row that is not there");
        ensure!(nearest.iter().flatten().all(|&row| in_range(row as usize)), "an answer is not there");
        let readme = fs::read_to_string(dir.join("README.md")).context("README.md, which has the licence")?;
        Ok(Self { lines, synsets, edges, vectors, queries, query_vectors, nearest, readme })
    }
}
