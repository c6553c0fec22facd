//! What a search reads of a segment's rows: their neighbours, and how near they are to a query.

use super::{Probe, Section, Segment, probe::rounding};
use crate::{
    error::Result,
    vector::{
        kernel::{BLOCK, CodeKind, Isa, dot, dot_rows, prefetch},
        pool::Candidate,
        quantize::{Form, Grid, QueryCodes},
    },
};

/// Sums of products, memory that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Sums {
    high: Vec<i32>,
    low: Vec<i32>,
    products: Vec<f64>,
}

/// The sections that a search reads.
pub(super) struct Rows<'a> {
    pub(super) segment: &'a Segment,
    codes: &'a [u8],
    row_bytes: usize,
    steps: &'a [f32],
    biases: &'a [f32],
    links: &'a [u32],
    width: usize,
    pub(super) count: u32,
    /// Whether blocks must be verified when touched.
    pub(super) checked: bool,
    /// Whether pages of the file are likely to be on disk.
    is_cold: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn of(segment: &'a Segment) -> Self {
        let header = &segment.header;
        Self {
            segment,
            codes: segment.slice(Section::Codes),
            row_bytes: header.form.row_bytes(header.dimension as usize),
            steps: segment.slice(Section::Steps),
            biases: segment.slice(Section::Biases),
            links: segment.slice(Section::Links),
            width: header.width as usize,
            count: header.rows,
            checked: !segment.is_verified(),
            is_cold: segment.is_cold(),
        }
    }

    #[inline]
    pub(super) fn links(&self, row: u32) -> Result<&'a [u32]> {
        if self.checked {
            self.segment.verify_items(Section::Links, 4 * self.width, row)?;
        }
        let start = row as usize * self.width;
        Ok(&self.links[start..start + self.width])
    }

    #[inline]
    pub(super) fn prefetch_links(&self, row: u32) {
        let start = row as usize * self.width;
        prefetch(&self.links[start..start + self.width]);
        if self.is_cold {
            self.segment.will_need(Section::Links, 4 * self.width, row);
        }
    }

    /// Starts bringing in what comparing a row needs.
    #[inline]
    pub(super) fn prefetch(&self, row: u32) {
        prefetch(&self.codes[row as usize * self.row_bytes..][..self.row_bytes]);
        prefetch(std::slice::from_ref(&self.steps[row as usize]));
        if self.is_cold {
            self.segment.will_need(Section::Codes, self.row_bytes, row);
        }
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

    /// The f32 of a row that is held so, and zeros behind them.
    #[inline]
    fn floats(&self, row: u32) -> &'a [f32] {
        bytemuck::cast_slice(&self.codes[row as usize * self.row_bytes..][..self.row_bytes])
    }

    #[inline]
    fn bias(&self, row: u32) -> f32 {
        if self.biases.is_empty() { 0.0 } else { self.biases[row as usize] }
    }

    /// Puts the scores of rows, by what is held of them for the walk, in `scored`: smaller is nearer.
    pub(super) fn score(
        &self,
        probe: &Probe<'_>,
        rows: &[u32],
        sums: &mut Sums,
        scored: &mut Vec<Candidate>,
    ) -> Result<()> {
        self.verify(rows)?;
        scored.clear();
        match self.segment.header.form {
            Form::Floats => scored.extend(rows.iter().map(|row| {
                let product = dot(self.floats(*row), &probe.rotated);
                Candidate::new(self.bias(*row) - product, *row)
            })),
            Form::Codes(kind) => {
                let (codes, sums) = (&probe.codes, &mut sums.high);
                sums.clear();
                sums.resize(rows.len(), 0);
                dot_rows(Isa::best(), kind, self.codes, self.row_bytes, rows, &codes.high, sums);
                let offset = Grid(kind).middle() * codes.high_sum as f32;
                scored.extend(rows.iter().zip(sums).map(|(row, sum)| {
                    let product = (*sum as f32 - offset) * self.steps[*row as usize] * codes.step;
                    Candidate::new(self.bias(*row) - product, *row)
                }));
            }
        }
        Ok(())
    }

    /// Puts the distances of rows, by all that the segment knows of them, in `measured`.
    pub(super) fn measure(
        &self,
        probe: &Probe<'_>,
        rows: &[u32],
        sums: &mut Sums,
        measured: &mut Vec<Candidate>,
    ) -> Result<()> {
        let header = &self.segment.header;
        let Form::Codes(kind) = header.form else {
            self.score(probe, rows, sums, measured)?;
            let scores = measured.iter_mut();
            scores.for_each(|it| *it = Candidate::new(probe.distance(it.distance()), it.row()));
            return Ok(());
        };
        self.verify(rows)?;
        sums.products.clear();
        sums.products.resize(rows.len(), 0.0);
        add_products(kind, self.codes, self.steps, rows, &probe.codes, sums);
        if header.has_residuals {
            let kind = CodeKind::Bits8;
            let residuals = self.segment.slice(Section::Residuals);
            let steps = self.segment.slice(Section::ResidualSteps);
            if self.checked {
                let row_bytes = kind.row_bytes(header.dimension as usize);
                for row in rows {
                    self.segment.verify_items(Section::Residuals, row_bytes, *row)?;
                    self.segment.verify_items(Section::ResidualSteps, 4, *row)?;
                }
            }
            add_products(kind, residuals, steps, rows, &probe.residuals, sums);
        }
        measured.clear();
        measured.extend(rows.iter().zip(&sums.products).map(|(row, product)| {
            let score = self.bias(*row) - *product as f32;
            Candidate::new(probe.distance(score), *row)
        }));
        Ok(())
    }

    pub(super) fn prefetch_residuals(&self, row: u32) {
        let header = &self.segment.header;
        if header.has_residuals {
            let bytes = CodeKind::Bits8.row_bytes(header.dimension as usize);
            let residuals: &[u8] = self.segment.slice(Section::Residuals);
            prefetch(&residuals[row as usize * bytes..][..bytes]);
            if self.is_cold {
                self.segment.will_need(Section::Residuals, bytes, row);
            }
        }
    }
}

/// By how much distances of rows may be wrong.
pub(super) struct Doubts<'a> {
    rows: &'a Rows<'a>,
    residual_steps: &'a [f32],
    /// Of the query.
    length: f32,
    /// The longest that the digits leave over of the query.
    left_of_query: f32,
    /// The root of the dimension.
    root: f32,
    weight: f32,
    base: f32,
}

/// The rotation's rounds add and subtract so often.
const ROTATED: f32 = 64.0 * f32::EPSILON;

impl Rows<'_> {
    pub(super) fn doubts<'a>(&'a self, probe: &Probe<'_>) -> Doubts<'a> {
        let root = (probe.rotated.len() as f32).sqrt();
        Doubts {
            rows: self,
            residual_steps: self.segment.slice(Section::ResidualSteps),
            length: probe.length(),
            // At most half of what a low digit stands for in each coordinate.
            left_of_query: probe.codes.step / 512.0 * root,
            root,
            weight: probe.weight,
            base: probe.base_doubt(self.segment),
        }
    }
}

impl Doubts<'_> {
    /// By how much the distance of a row may be wrong: what codes leave over of row and query, and rounding.
    pub(super) fn of(&self, row: u32) -> f32 {
        let (rows, row) = (self.rows, row as usize);
        let header = &rows.segment.header;
        let terms = header.dimension as usize;
        let (length, left) = match header.form {
            Form::Floats => {
                let row = rows.floats(row as u32);
                let length = dot(row, row).sqrt();
                (length, rounding(terms) * length)
            }
            Form::Codes(kind) => {
                let step = rows.steps[row];
                let of_codes = step * Grid(kind).middle() * self.root;
                // Codes of eight bits cut nothing off: half a step in each coordinate is all that they leave.
                match (header.has_residuals, kind) {
                    (true, _) => {
                        let step = self.residual_steps[row];
                        (of_codes + 128.0 * step * self.root, step / 2.0 * self.root)
                    }
                    (false, CodeKind::Bits8) => (of_codes, step / 2.0 * self.root),
                    (false, _) => (of_codes + header.error, header.error),
                }
            }
        };
        let left = left.min(header.error) + ROTATED * length;
        let product = self.length * left + self.left_of_query * length;
        // Half the square of a row was summed up one by one.
        let bias = rows.bias(row as u32) * terms as f32 * f32::EPSILON;
        self.base + self.weight * (product + bias)
    }
}

/// Adds the products of coded rows with all that is known of the query to `sums.products`.
fn add_products(
    kind: CodeKind,
    codes: &[u8],
    steps: &[f32],
    rows: &[u32],
    query: &QueryCodes,
    sums: &mut Sums,
) {
    let Sums { high, low, products } = sums;
    let row_bytes = query.high.len() / kind.per_block() * BLOCK;
    for (sums, digits) in [(&mut *high, &query.high), (&mut *low, &query.low)] {
        sums.clear();
        sums.resize(rows.len(), 0);
        dot_rows(Isa::best(), kind, codes, row_bytes, rows, digits, sums);
    }
    let offset = f64::from(Grid(kind).middle()) * query.sum();
    // A low digit stands for so much.
    let unit = f64::from(query.step) / 256.0;
    for (at, row) in rows.iter().enumerate() {
        let sum = (256 * i64::from(high[at]) + i64::from(low[at])) as f64;
        products[at] += (sum - offset) * f64::from(steps[*row as usize]) * unit;
    }
}
