//! Searching one segment: a walk of its graph or a scan of its rows by their codes, and a re-ranking by what is known
//! best of them.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use super::{
    Probe, Section, Segment,
    rows::{Rows, Sums},
};
use crate::{
    deadline::Deadline,
    error::Result,
    vector::{
        graph::NONE,
        pool::{Candidate, Pool},
        visited::Visited,
    },
};

/// Rows are measured anew that are farther than the k-th by so many standard errors of the codes for the walk.
const DOUBT: f32 = 2.0;

/// So many are measured anew at least, so that no walk for `k` hits is narrower.
pub(crate) fn least_breadth(k: usize) -> usize {
    k + k / 2 + 10
}

/// Rows compared in one go.
const BATCH: usize = 256;
/// Rows whose neighbours are compared between two looks at the clock.
const STEPS_OF_DEADLINE: usize = 64;

/// Memory that searches of a thread use again and again.
#[derive(Debug, Default)]
pub(crate) struct Searcher {
    pool: Pool,
    visited: Visited,
    frontier: BinaryHeap<Reverse<Candidate>>,
    fresh: Vec<u32>,
    sums: Sums,
    scored: Vec<Candidate>,
    /// Rows compared with queries so far.
    pub(crate) compared: u64,
    /// When whoever asks stops waiting, if ever.
    pub(crate) deadline: Option<Deadline>,
}

/// Tells which rows may be found; all, if there is none.
pub(crate) type Accept<'a> = Option<&'a dyn Fn(u32) -> bool>;

impl Segment {
    pub(crate) fn is_verified(&self) -> bool {
        self.all_verified.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The nearest accepted rows that a walk of this breadth finds, re-ranked, nearest first: `k` and some more, if there are. Rows that are not
    /// accepted are walked through.
    ///
    /// # Errors
    /// If a part of the file that the walk touches is damaged.
    pub(crate) fn walk(
        &self,
        probe: &mut Probe<'_>,
        breadth: usize,
        k: usize,
        accept: Accept<'_>,
        searcher: &mut Searcher,
    ) -> Result<Vec<Candidate>> {
        if self.header.rows == 0 {
            return Ok(Vec::new());
        }
        let (begun, compared) = (Instant::now(), searcher.compared);
        probe.aim(self);
        let rows = Rows::of(self);
        let start = self.descend(probe, &rows, searcher)?;
        searcher.pool.begin(breadth.max(least_breadth(k)));
        searcher.visited.begin(self.rows());
        searcher.visited.insert(start.row());
        match accept {
            None => walk_all(probe, &rows, start, searcher)?,
            Some(accept) => walk_some(probe, &rows, start, accept, searcher)?,
        }
        let found = self.rerank(probe, &rows, k, searcher)?;
        self.note_pace(begun.elapsed(), searcher.compared - compared);
        Ok(found)
    }

    /// The nearest row that steps to ever nearer neighbours in the layers above the bottom lead to.
    fn descend(&self, probe: &Probe<'_>, rows: &Rows<'_>, searcher: &mut Searcher) -> Result<Candidate> {
        let Searcher { sums, scored, compared, .. } = searcher;
        rows.score(probe, &[self.header.entry], sums, scored)?;
        let mut nearest = scored[0];
        let width = self.header.upper_width as usize;
        let (all_rows, all_links): (&[u32], &[u32]) =
            (self.slice(Section::UpperRows), self.slice(Section::UpperLinks));
        let mut end = all_rows.len();
        for count in self.header.layers.iter().rev() {
            let start = end - *count as usize;
            end = start;
            let layer = &all_rows[start..start + *count as usize];
            if rows.checked {
                self.verify(self.place(Section::UpperRows))?;
            }
            while let Ok(at) = layer.binary_search(&nearest.row()) {
                let list = (start + at) as u32;
                if rows.checked {
                    self.verify_items(Section::UpperLinks, 4 * width, list)?;
                }
                let links = &all_links[list as usize * width..][..width];
                let links = links.split(|id| *id == NONE).next().unwrap_or_default();
                if links.iter().any(|id| *id >= rows.count) {
                    return Err(self.damaged_link(nearest.row()));
                }
                rows.score(probe, links, sums, scored)?;
                *compared += links.len() as u64;
                match scored.iter().min() {
                    Some(next) if *next < nearest => nearest = *next,
                    _ => break,
                }
            }
        }
        Ok(nearest)
    }

    /// The nearest of the rows given, by codes and then re-ranked: `k` and some more, if there are.
    ///
    /// # Errors
    /// If a part of the file that holds one of the rows is damaged.
    pub(crate) fn scan(
        &self,
        probe: &mut Probe<'_>,
        rows: impl Iterator<Item = u32>,
        k: usize,
        searcher: &mut Searcher,
    ) -> Result<Vec<Candidate>> {
        probe.aim(self);
        let of = Rows::of(self);
        searcher.pool.begin(4 * least_breadth(k));
        each_batch(rows, searcher, |batch, Searcher { sums, scored, pool, .. }| {
            of.score(probe, batch, sums, scored)?;
            scored.iter().for_each(|candidate| {
                pool.offer(*candidate);
            });
            Ok(())
        })?;
        self.rerank(probe, &of, k, searcher)
    }

    /// Every row of those given that may be among the `k` nearest, by all that the segment knows of them, and by how much each
    /// distance may be wrong.
    ///
    /// # Errors
    /// If a part of the file that holds one of the rows is damaged.
    pub(crate) fn scan_exactly(
        &self,
        probe: &mut Probe<'_>,
        rows: impl Iterator<Item = u32>,
        k: usize,
        searcher: &mut Searcher,
    ) -> Result<Vec<(Candidate, f32)>> {
        probe.aim(self);
        let of = Rows::of(self);
        let doubts = of.doubts(probe);
        let mut near: Vec<(Candidate, f32)> = Vec::new();
        // Of the farthest that each row can be: the k-th of these is as far as any of the k nearest can be.
        searcher.pool.begin(k);
        each_batch(rows, searcher, |batch, Searcher { sums, scored, pool, .. }| {
            of.measure(probe, batch, sums, scored)?;
            for candidate in scored.iter() {
                let doubt = doubts.of(candidate.row());
                pool.offer(Candidate::new(candidate.distance() + doubt, candidate.row()));
                if pool.worst().is_none_or(|worst| candidate.distance() - doubt <= worst.distance()) {
                    near.push((*candidate, doubt));
                }
            }
            Ok(())
        })?;
        if let Some(worst) = searcher.pool.worst() {
            near.retain(|(candidate, doubt)| candidate.distance() - doubt <= worst.distance());
        }
        Ok(near)
    }

    /// The pool's best, measured anew.
    fn rerank(
        &self,
        probe: &Probe<'_>,
        rows: &Rows<'_>,
        k: usize,
        searcher: &mut Searcher,
    ) -> Result<Vec<Candidate>> {
        let Searcher { pool, fresh, sums, .. } = searcher;
        let candidates = pool.candidates();
        let last = candidates.get(k.saturating_sub(1)).map_or(f32::MAX, |last| last.distance());
        // Scores lack the base and the weight that distances have.
        let bound = last + DOUBT * probe.walk_error(self) / probe.weight;
        let certain = candidates.partition_point(|candidate| candidate.distance() <= bound);
        let measured = certain.max(least_breadth(k)).min(candidates.len());
        fresh.clear();
        fresh.extend(candidates[..measured].iter().map(|candidate| candidate.row()));
        fresh.iter().for_each(|row| rows.prefetch_residuals(*row));
        let mut measured = Vec::with_capacity(fresh.len());
        rows.measure(probe, fresh, sums, &mut measured)?;
        measured.sort_unstable();
        Ok(measured)
    }
}

/// Calls `compare` with a few rows at a time.
fn each_batch(
    mut rows: impl Iterator<Item = u32>,
    searcher: &mut Searcher,
    mut compare: impl FnMut(&[u32], &mut Searcher) -> Result<()>,
) -> Result<()> {
    let mut batch = std::mem::take(&mut searcher.fresh);
    loop {
        batch.clear();
        batch.extend(rows.by_ref().take(BATCH));
        if batch.is_empty() {
            searcher.fresh = batch;
            return Ok(());
        }
        searcher.deadline.map_or(Ok(()), Deadline::check)?;
        compare(&batch, searcher)?;
        searcher.compared += batch.len() as u64;
    }
}

/// Every row may be found, so that the best of the walk are also what it goes on from.
fn walk_all(probe: &Probe<'_>, rows: &Rows<'_>, start: Candidate, searcher: &mut Searcher) -> Result<()> {
    let Searcher { pool, visited, fresh, sums, scored, compared, deadline, .. } = searcher;
    pool.offer(start);
    let mut steps = 0;
    while let Some(next) = pool.expand() {
        check_every(&mut steps, *deadline)?;
        take_fresh(rows, next.row(), visited, fresh)?;
        if let Some(next) = pool.next() {
            rows.prefetch_links(next.row());
        }
        rows.score(probe, fresh, sums, scored)?;
        *compared += fresh.len() as u64;
        for candidate in scored.iter() {
            if pool.offer(*candidate) {
                rows.prefetch_links(candidate.row());
            }
        }
    }
    Ok(())
}

/// Goes on from any row, and ends when none is left that is nearer than all that was found.
fn walk_some(
    probe: &Probe<'_>,
    rows: &Rows<'_>,
    start: Candidate,
    accept: &dyn Fn(u32) -> bool,
    searcher: &mut Searcher,
) -> Result<()> {
    let Searcher { pool, visited, frontier, fresh, sums, scored, compared, deadline } = searcher;
    frontier.clear();
    frontier.push(Reverse(start));
    if accept(start.row()) {
        pool.offer(start);
    }
    let mut steps = 0;
    while let Some(Reverse(next)) = frontier.pop() {
        if !pool.wants(next) {
            break;
        }
        check_every(&mut steps, *deadline)?;
        take_fresh(rows, next.row(), visited, fresh)?;
        if let Some(Reverse(next)) = frontier.peek() {
            rows.prefetch_links(next.row());
        }
        rows.score(probe, fresh, sums, scored)?;
        *compared += fresh.len() as u64;
        for candidate in scored.iter().filter(|candidate| pool.wants(**candidate)) {
            rows.prefetch_links(candidate.row());
            frontier.push(Reverse(*candidate));
        }
        for candidate in scored.iter() {
            if pool.wants(*candidate) && accept(candidate.row()) {
                pool.offer(*candidate);
            }
        }
    }
    Ok(())
}

/// Looks at the clock every so many steps.
fn check_every(steps: &mut usize, deadline: Option<Deadline>) -> Result<()> {
    *steps += 1;
    match deadline {
        Some(deadline) if steps.is_multiple_of(STEPS_OF_DEADLINE) => deadline.check(),
        _ => Ok(()),
    }
}

/// The neighbours of a row that the walk has not seen, on their way into the cache.
#[inline]
fn take_fresh(rows: &Rows<'_>, row: u32, visited: &mut Visited, fresh: &mut Vec<u32>) -> Result<()> {
    fresh.clear();
    for id in rows.links(row)? {
        if *id >= rows.count {
            if *id == NONE {
                break;
            }
            // It was verified once, and is damaged since.
            return Err(rows.segment.damaged_link(row));
        }
        if visited.insert(*id) {
            rows.prefetch(*id);
            fresh.push(*id);
        }
    }
    Ok(())
}
