//! Searching one segment: a walk of its graph or a scan of its rows by their codes, and a re-ranking by what is known
//! best of them.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Section, Segment};
use crate::{
    error::Result,
    model::Metric,
    vector::{
        graph::NONE,
        kernel::{CodeKind, Isa, dot, dot_rows, prefetch, squared_l2},
        pool::{Candidate, Pool},
        quantize::{Grid, QueryCodes},
        visited::Visited,
    },
};

/// Rows are measured anew that are farther than the k-th by so many standard errors of the codes for the walk.
const DOUBT: f32 = 2.0;

/// So many are measured anew at least.
fn spare(k: usize) -> usize {
    k + k / 2 + 10
}

/// Rows compared in one go.
const BATCH: usize = 256;

/// A query, in the codes of the segment that it is aimed at.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    prepared: &'a [f32],
    /// What the codes were made for: the rotation's seed and the kind of codes.
    aimed: Option<(u64, CodeKind)>,
    codes: QueryCodes,
    /// The same in the layout of residuals.
    residuals: QueryCodes,
    rotated: Vec<f32>,
    /// What is added to a row's score to give its distance.
    base: f32,
    /// A row's score is weighed with this to give its distance.
    weight: f32,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(prepared: &'a [f32]) -> Self {
        Self {
            prepared,
            aimed: None,
            codes: QueryCodes::default(),
            residuals: QueryCodes::default(),
            rotated: Vec::new(),
            base: 0.0,
            weight: 1.0,
        }
    }

    /// Prepares the query for a segment. Where the metric is a product, segments share almost all of that.
    fn aim(&mut self, segment: &Segment) {
        let centre: &[f32] = segment.slice(Section::Centre);
        let header = &segment.header;
        match header.metric {
            Metric::Cosine => self.base = 1.0 - dot(self.prepared, centre),
            Metric::Dot => self.base = -dot(self.prepared, centre),
            Metric::L2 => {
                self.base = squared_l2(self.prepared, centre);
                self.weight = 2.0;
            }
        }
        let aim = (header.seed, header.kind);
        if header.metric != Metric::L2 && self.aimed == Some(aim) {
            return;
        }
        self.aimed = Some(aim);
        self.rotated.clear();
        if header.metric == Metric::L2 {
            self.rotated.extend(self.prepared.iter().zip(centre).map(|(x, c)| x - c));
        } else {
            self.rotated.extend_from_slice(self.prepared);
        }
        segment.rotation.apply(&mut self.rotated);
        self.codes = QueryCodes::new(header.kind, &self.rotated);
        if header.has_residuals {
            self.residuals = QueryCodes::new(CodeKind::Bits8, &self.rotated);
        }
    }

    /// About how far a distance by the codes for the walk is from the true one: what they leave over points anywhere.
    fn walk_error(&self, segment: &Segment) -> f32 {
        let square = self.rotated.iter().map(|x| x * x).sum::<f32>() / self.rotated.len() as f32;
        self.weight * square.sqrt() * segment.header.walk_error
    }

    fn distance(&self, score: f32) -> f32 {
        self.base + self.weight * score
    }

    /// How far a distance by codes and residuals can be from the true one.
    fn error(&self, segment: &Segment) -> f32 {
        let length = self.rotated.iter().map(|x| x * x).sum::<f32>().sqrt();
        // The query's own digits leave over at most half the lowest one in each coordinate.
        let digits = self.codes.step / 512.0 * (self.rotated.len() as f32).sqrt();
        self.weight * (length * segment.header.error + digits * 2.0) + 1e-6
    }
}

/// Memory that searches of a thread use again and again.
#[derive(Debug, Default)]
pub(crate) struct Searcher {
    pool: Pool,
    visited: Visited,
    frontier: BinaryHeap<Reverse<Candidate>>,
    fresh: Vec<u32>,
    sums: [Vec<i32>; 4],
    scored: Vec<Candidate>,
    /// Rows compared with queries so far.
    pub(crate) compared: u64,
}

/// Tells which rows may be found; all, if there is none.
pub(crate) type Accept<'a> = Option<&'a dyn Fn(u32) -> bool>;

/// The sections that a search reads.
struct Rows<'a> {
    segment: &'a Segment,
    codes: &'a [u8],
    row_bytes: usize,
    steps: &'a [f32],
    biases: &'a [f32],
    links: &'a [u32],
    width: usize,
    /// Whether blocks must be verified when touched.
    checked: bool,
}

impl<'a> Rows<'a> {
    fn of(segment: &'a Segment) -> Self {
        let header = &segment.header;
        Self {
            segment,
            codes: segment.slice(Section::Codes),
            row_bytes: header.kind.row_bytes(header.dimension as usize),
            steps: segment.slice(Section::Steps),
            biases: segment.slice(Section::Biases),
            links: segment.slice(Section::Links),
            width: header.width as usize,
            checked: !segment.is_verified(),
        }
    }

    #[inline]
    fn links(&self, row: u32) -> Result<&'a [u32]> {
        if self.checked {
            self.segment.verify_items(Section::Links, 4 * self.width, row)?;
        }
        let start = row as usize * self.width;
        Ok(&self.links[start..start + self.width])
    }

    #[inline]
    fn prefetch_links(&self, row: u32) {
        let start = row as usize * self.width;
        prefetch(&self.links[start..start + self.width]);
    }

    /// Starts bringing in what comparing a row needs.
    #[inline]
    fn prefetch(&self, row: u32) {
        prefetch(&self.codes[row as usize * self.row_bytes..][..self.row_bytes]);
        prefetch(std::slice::from_ref(&self.steps[row as usize]));
    }

    fn verify(&self, rows: &[u32]) -> Result<()> {
        if self.checked {
            for row in rows {
                self.segment.verify_items(Section::Codes, self.row_bytes, *row)?;
                self.segment.verify_items(Section::Steps, 4, *row)?;
                if !self.biases.is_empty() {
                    self.segment.verify_items(Section::Biases, 4, *row)?;
                }
            }
        }
        Ok(())
    }

    /// Appends the scores of rows by their codes to `scored`: smaller is nearer.
    fn score(
        &self,
        probe: &Probe<'_>,
        rows: &[u32],
        sums: &mut Vec<i32>,
        scored: &mut Vec<Candidate>,
    ) -> Result<()> {
        self.verify(rows)?;
        let (kind, codes) = (self.segment.header.kind, &probe.codes);
        sums.clear();
        sums.resize(rows.len(), 0);
        dot_rows(Isa::best(), kind, self.codes, self.row_bytes, rows, &codes.high, sums);
        let offset = Grid(kind).middle() * codes.high_sum as f32;
        scored.clear();
        if self.biases.is_empty() {
            scored.extend(rows.iter().zip(sums).map(|(row, sum)| {
                Candidate::new((offset - *sum as f32) * self.steps[*row as usize] * codes.step, *row)
            }));
        } else {
            scored.extend(rows.iter().zip(sums).map(|(row, sum)| {
                let product = (*sum as f32 - offset) * self.steps[*row as usize] * codes.step;
                Candidate::new(self.biases[*row as usize] - product, *row)
            }));
        }
        Ok(())
    }

    /// The distances of rows by all that the segment knows of them.
    fn measure(
        &self,
        probe: &Probe<'_>,
        rows: &[u32],
        sums: &mut [Vec<i32>; 4],
        measured: &mut Vec<Candidate>,
    ) -> Result<()> {
        self.verify(rows)?;
        let (header, isa) = (&self.segment.header, Isa::best());
        let residual_bytes = CodeKind::Bits8.row_bytes(header.dimension as usize);
        let residuals: &[u8] = self.segment.slice(Section::Residuals);
        let residual_steps: &[f32] = self.segment.slice(Section::ResidualSteps);
        if self.checked && header.has_residuals {
            for row in rows {
                self.segment.verify_items(Section::Residuals, residual_bytes, *row)?;
                self.segment.verify_items(Section::ResidualSteps, 4, *row)?;
            }
        }
        sums.iter_mut().for_each(|sums| sums.resize(rows.len(), 0));
        let [high, low, residual_high, residual_low] = sums;
        dot_rows(
            isa,
            header.kind,
            self.codes,
            self.row_bytes,
            rows,
            &probe.codes.high,
            &mut high[..rows.len()],
        );
        dot_rows(
            isa,
            header.kind,
            self.codes,
            self.row_bytes,
            rows,
            &probe.codes.low,
            &mut low[..rows.len()],
        );
        if header.has_residuals {
            let (kind, query) = (CodeKind::Bits8, &probe.residuals);
            dot_rows(
                isa,
                kind,
                residuals,
                residual_bytes,
                rows,
                &query.high,
                &mut residual_high[..rows.len()],
            );
            dot_rows(isa, kind, residuals, residual_bytes, rows, &query.low, &mut residual_low[..rows.len()]);
        }
        let middle = f64::from(Grid(header.kind).middle());
        let offset = middle * probe.codes.sum();
        let residual_offset = f64::from(Grid(CodeKind::Bits8).middle()) * probe.residuals.sum();
        measured.clear();
        for (at, row) in rows.iter().enumerate() {
            let whole = |high: &[i32], low: &[i32]| (256 * i64::from(high[at]) + i64::from(low[at])) as f64;
            let mut product = (whole(high, low) - offset) * f64::from(self.steps[*row as usize]);
            if header.has_residuals {
                let step = f64::from(residual_steps[*row as usize]);
                product += (whole(residual_high, residual_low) - residual_offset) * step;
            }
            let product = (product * f64::from(probe.codes.step) / 256.0) as f32;
            let bias = if self.biases.is_empty() { 0.0 } else { self.biases[*row as usize] };
            measured.push(Candidate::new(probe.distance(bias - product), *row));
        }
        Ok(())
    }
}

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
        probe.aim(self);
        let rows = Rows::of(self);
        let start = self.descend(probe, &rows, searcher)?;
        searcher.pool.begin(breadth.max(spare(k)));
        searcher.visited.begin(self.rows());
        searcher.visited.insert(start.row());
        match accept {
            None => walk_all(probe, &rows, start, searcher)?,
            Some(accept) => walk_some(probe, &rows, start, accept, searcher)?,
        }
        self.rerank(probe, &rows, k, searcher)
    }

    /// The nearest row that steps to ever nearer neighbours in the layers above the bottom lead to.
    fn descend(&self, probe: &Probe<'_>, rows: &Rows<'_>, searcher: &mut Searcher) -> Result<Candidate> {
        let Searcher { sums: [sums, ..], scored, compared, .. } = searcher;
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

    /// The nearest of the rows given, by codes and then re-ranked; where `exact`, with every row that may be among the
    /// `k` nearest for all that its codes leave open, so that there may be more.
    ///
    /// # Errors
    /// If a part of the file that holds one of the rows is damaged.
    pub(crate) fn scan(
        &self,
        probe: &mut Probe<'_>,
        rows: impl Iterator<Item = u32>,
        k: usize,
        exact: bool,
        searcher: &mut Searcher,
    ) -> Result<Vec<Candidate>> {
        probe.aim(self);
        let of = Rows::of(self);
        let mut rows = rows.peekable();
        let margin = if exact { probe.error(self) } else { 0.0 };
        let mut near: Vec<Candidate> = Vec::new();
        searcher.pool.begin(if exact { k } else { 4 * spare(k) });
        while rows.peek().is_some() {
            let mut batch = std::mem::take(&mut searcher.fresh);
            batch.clear();
            batch.extend(rows.by_ref().take(BATCH));
            let Searcher { sums, scored, pool, compared, .. } = searcher;
            if exact {
                of.measure(probe, &batch, sums, scored)?;
            } else {
                of.score(probe, &batch, &mut sums[0], scored)?;
            }
            *compared += batch.len() as u64;
            for candidate in scored.iter() {
                pool.offer(*candidate);
                if exact
                    && pool
                        .worst()
                        .is_none_or(|worst| candidate.distance() <= worst.distance() + 2.0 * margin)
                {
                    near.push(*candidate);
                }
            }
            searcher.fresh = batch;
        }
        if !exact {
            return self.rerank(probe, &of, k, searcher);
        }
        if let Some(worst) = searcher.pool.worst() {
            near.retain(|candidate| candidate.distance() <= worst.distance() + 2.0 * margin);
        }
        near.sort_unstable();
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
        let measured = certain.max(spare(k)).min(candidates.len());
        fresh.clear();
        fresh.extend(candidates[..measured].iter().map(|candidate| candidate.row()));
        fresh.iter().for_each(|row| rows.prefetch_residuals(*row));
        let mut measured = Vec::with_capacity(fresh.len());
        rows.measure(probe, fresh, sums, &mut measured)?;
        measured.sort_unstable();
        Ok(measured)
    }
}

impl Rows<'_> {
    fn prefetch_residuals(&self, row: u32) {
        let header = &self.segment.header;
        if header.has_residuals {
            let bytes = CodeKind::Bits8.row_bytes(header.dimension as usize);
            let residuals: &[u8] = self.segment.slice(Section::Residuals);
            prefetch(&residuals[row as usize * bytes..][..bytes]);
        }
    }
}

/// Every row may be found, so that the best of the walk are also what it goes on from.
fn walk_all(probe: &Probe<'_>, rows: &Rows<'_>, start: Candidate, searcher: &mut Searcher) -> Result<()> {
    let Searcher { pool, visited, fresh, sums: [sums, ..], scored, compared, .. } = searcher;
    pool.offer(start);
    while let Some(next) = pool.expand() {
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
    let Searcher { pool, visited, frontier, fresh, sums: [sums, ..], scored, compared, .. } = searcher;
    frontier.clear();
    frontier.push(Reverse(start));
    if accept(start.row()) {
        pool.offer(start);
    }
    while let Some(Reverse(next)) = frontier.pop() {
        if !pool.wants(next) {
            break;
        }
        take_fresh(rows, next.row(), visited, fresh)?;
        rows.score(probe, fresh, sums, scored)?;
        *compared += fresh.len() as u64;
        for candidate in scored.iter().filter(|candidate| pool.wants(**candidate)) {
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

/// The neighbours of a row that the walk has not seen, on their way into the cache.
#[inline]
fn take_fresh(rows: &Rows<'_>, row: u32, visited: &mut Visited, fresh: &mut Vec<u32>) -> Result<()> {
    fresh.clear();
    for id in rows.links(row)? {
        if *id == NONE {
            break;
        }
        if visited.insert(*id) {
            rows.prefetch(*id);
            fresh.push(*id);
        }
    }
    Ok(())
}
