//! A data set: vectors, queries, and which vectors are nearest to each query.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{ivecs, npy::NpyFile, vector_numbers::numbers};

/// Vectors as rows of one block.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Rows {
    pub(super) dimension: usize,
    numbers: Vec<f32>,
}

impl Rows {
    fn read(path: &Path, most: Option<usize>) -> Result<Self> {
        let file = NpyFile::open(path)?;
        let rows = file.header().rows.min(most.unwrap_or(usize::MAX));
        let dimension = file.header().dimension;
        let mut all = Vec::with_capacity(rows * dimension);
        const BLOCK: usize = 4_096;
        for first in (0..rows).step_by(BLOCK) {
            let count = BLOCK.min(rows - first);
            let block = file.rows(first, count)?;
            (0..count).for_each(|row| all.extend(numbers(&file.vector(&block, row))));
        }
        Ok(Self { dimension, numbers: all })
    }

    /// All vectors of a data set.
    #[cfg(feature = "peers")]
    pub(in crate::bench) fn of_data(dir: &Path) -> Result<Self> {
        Self::read(&base(dir)?, None)
    }

    /// These rows, in this order.
    pub(super) fn chosen(&self, rows: &[usize]) -> Self {
        let numbers = rows.iter().flat_map(|row| self.get(*row)).copied().collect();
        Self { dimension: self.dimension, numbers }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len() / self.dimension
    }

    pub(super) fn get(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.dimension..][..self.dimension]
    }
}

fn base(dir: &Path) -> Result<PathBuf> {
    let mut names = ["vectors.f16.npy", "vectors.f32.npy"].map(|name| dir.join(name)).into_iter();
    names.find(|path| path.is_file()).with_context(|| format!("{}: no vectors", dir.display()))
}

/// A data set in memory.
#[derive(Debug)]
pub(in crate::bench) struct VectorData {
    pub(super) base: Rows,
    pub(super) queries: Rows,
    /// For each query the nearest rows, nearest first.
    pub(super) truth: Vec<Vec<u32>>,
}

impl VectorData {
    /// Reads a directory, or the first rows of it.
    pub(in crate::bench) fn read(dir: &Path, rows: Option<usize>, k: usize) -> Result<Self> {
        let base = Rows::read(&base(dir)?, rows)?;
        let queries = Rows::read(&dir.join("queries.f32.npy"), None)?;
        ensure!(queries.dimension == base.dimension, "queries and vectors have different dimensions");
        let truth = if rows.is_some_and(|rows| rows <= base.len()) {
            (0..queries.len()).map(|query| nearest(&base, queries.get(query), k)).collect()
        } else {
            let path = dir.join("truth.top100.ivecs");
            let read = || -> Result<_> { ivecs::parse(&std::fs::read(&path)?) };
            read().with_context(|| path.display().to_string())?
        };
        ensure!(
            truth.len() == queries.len(),
            "there are {} queries and {} answers",
            queries.len(),
            truth.len()
        );
        Ok(Self { base, queries, truth })
    }

    /// How many vectors there are.
    pub(in crate::bench) fn rows(&self) -> usize {
        self.base.len()
    }

    /// How many numbers each has.
    pub(in crate::bench) fn dimension(&self) -> usize {
        self.base.dimension
    }

    pub(in crate::bench) fn vector(&self, row: usize) -> &[f32] {
        self.base.get(row)
    }

    /// How many queries there are.
    pub(in crate::bench) fn queries(&self) -> usize {
        self.queries.len()
    }

    pub(in crate::bench) fn query(&self, at: usize) -> &[f32] {
        self.queries.get(at)
    }

    /// The share of the `k` nearest that an answer has.
    pub(in crate::bench) fn recall(&self, query: usize, answer: &[u32], k: usize) -> f64 {
        let truth = &self.truth[query][..k.min(self.truth[query].len())];
        truth.iter().filter(|row| answer.contains(row)).count() as f64 / truth.len() as f64
    }
}

/// The rows nearest to a query by cosine, all compared.
pub(super) fn nearest(base: &Rows, query: &[f32], k: usize) -> Vec<u32> {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let cosine = |row: &[f32]| dot(row, query) / dot(row, row).sqrt();
    let mut all: Vec<(f64, u32)> = (0..base.len()).map(|row| (cosine(base.get(row)), row as u32)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(k).map(|(_, row)| row).collect()
}
