//! Whether the index stays as good as a fresh one while every vector is replaced again and again.

use std::time::Instant;

use anyhow::{Context, Result};

use super::{
    data::{Rows, VectorData, nearest},
    engines::{EngineName, Index, allidb::Allidb},
    plan::{Churn, Plan},
};
use crate::bench::process;

const BATCH: usize = 512;
/// Queries whose exact answers are computed anew.
const QUERIES: usize = 500;
/// How often it is told how things stand.
const REPORTS: u64 = 10;
/// Breadths that recall is the mean of: some on the steep part of the curve, some on the flat one.
const BREADTHS: [usize; 3] = [16, 32, 64];

/// Overwrites random entities with random vectors of the data set, and compares with an index built of what is there at the end.
pub(super) fn run(
    data: &VectorData,
    plan: &Plan,
    overwrites: u64,
    tell: &dyn Fn(Churn) -> Result<()>,
) -> Result<()> {
    let mut index = EngineName::Allidb.build(data, plan)?;
    let ours = index.as_allidb().context("ours")?;
    // Which row of the data set each entity has.
    let mut current: Vec<usize> = (0..data.base.len()).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (started, cpu) = (Instant::now(), process::cpu_seconds());
    let mut written = 0;
    for report in 1..=REPORTS {
        let until = overwrites * report / REPORTS;
        while written < until {
            let count = (until - written).min(BATCH as u64) as usize;
            let mut batch = Vec::with_capacity(count);
            for _ in 0..count {
                let entity = random.below(current.len());
                current[entity] = random.below(data.base.len());
                batch.push(entity);
            }
            ours.put(batch.into_iter().map(|entity| (entity, data.base.get(current[entity]))))?;
            written += count as u64;
        }
        let is_last = report == REPORTS;
        let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), process::cpu_seconds() - cpu);
        let (mut recall_now, mut fresh_recall) = (None, None);
        let mut segments = ours.segments();
        if is_last {
            ours.settle();
            segments = ours.segments();
            let set = Set::of(data, &current);
            recall_now = Some(set.recall(ours, plan.k)?);
            ours.close()?;
            let fresh =
                VectorData { base: set.base.clone(), queries: data.queries.clone(), truth: Vec::new() };
            let mut fresh = EngineName::Allidb.build(
                &fresh,
                &Plan { dir: plan.dir.join("fresh"), data: plan.dir.clone(), ..plan.clone() },
            )?;
            fresh_recall = Some(set.recall(fresh.as_allidb().context("ours")?, plan.k)?);
        }
        tell(Churn {
            overwrites: written,
            seconds,
            cpu_seconds,
            recall: recall_now,
            fresh_recall,
            segments,
        })?;
    }
    Ok(())
}

/// What the entities have at the end, and exact answers of it.
struct Set<'a> {
    base: Rows,
    queries: &'a Rows,
    truth: Vec<Vec<u32>>,
}

impl<'a> Set<'a> {
    fn of(data: &'a VectorData, current: &[usize]) -> Self {
        let base = data.base.chosen(current);
        // Entities with equal vectors are equally right: distances are compared, not rows.
        let count = QUERIES.min(data.queries.len());
        let truth = (0..count).map(|query| nearest(&base, data.queries.get(query), 10)).collect();
        Self { base, queries: &data.queries, truth }
    }

    fn recall(&self, index: &mut Allidb, k: usize) -> Result<f64> {
        let cosine = |query: &[f32], row: u32| {
            let row = self.base.get(row as usize);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            dot(row, query) / dot(row, row).sqrt()
        };
        let (mut found, mut wanted) = (0, 0);
        for breadth in BREADTHS {
            index.set_breadth(breadth);
            for (query, truth) in self.truth.iter().enumerate() {
                let query = self.queries.get(query);
                let k = k.min(truth.len());
                let worst = truth[..k].iter().map(|row| cosine(query, *row)).fold(f32::INFINITY, f32::min);
                let near = index.search(query, k)?;
                found += near.iter().filter(|row| cosine(query, **row) >= worst - 1e-6).count();
                wanted += k;
            }
        }
        Ok(found as f64 / wanted as f64)
    }
}

/// The same numbers in every run (Marsaglia: xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
