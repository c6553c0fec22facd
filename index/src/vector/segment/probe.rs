//! A query made ready for a segment.

use super::{Section, Segment};
use crate::{
    model::Metric,
    vector::{
        kernel::{CodeKind, dot, squared_l2},
        quantize::{Form, QueryCodes},
    },
};

/// A query, in the codes of the segment that it is aimed at.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    prepared: &'a [f32],
    /// What the codes were made for: the rotation's seed and how rows are held.
    aimed: Option<(u64, Form)>,
    pub(super) codes: QueryCodes,
    /// The same in the layout of residuals.
    pub(super) residuals: QueryCodes,
    pub(super) rotated: Vec<f32>,
    /// What is added to a row's score to give its distance.
    base: f32,
    /// A row's score is weighed with this to give its distance.
    pub(super) weight: f32,
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
    pub(super) fn aim(&mut self, segment: &Segment) {
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
        let aim = (header.seed, header.form);
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
        self.codes = match header.form {
            Form::Codes(kind) => QueryCodes::new(kind, &self.rotated),
            Form::Floats => QueryCodes::default(),
        };
        if header.has_residuals {
            self.residuals = QueryCodes::new(CodeKind::Bits8, &self.rotated);
        }
    }

    /// About how far a distance by the codes for the walk is from the true one: what they leave over points anywhere.
    pub(super) fn walk_error(&self, segment: &Segment) -> f32 {
        let square = dot(&self.rotated, &self.rotated) / self.rotated.len() as f32;
        self.weight * square.sqrt() * segment.header.walk_error
    }

    pub(super) fn distance(&self, score: f32) -> f32 {
        self.base + self.weight * score
    }

    /// The length of the query, as rows are compared with it.
    pub(super) fn length(&self) -> f32 {
        dot(&self.rotated, &self.rotated).sqrt()
    }

    /// How far rounding can have moved what is the same in all distances of a segment.
    pub(super) fn base_doubt(&self, segment: &Segment) -> f32 {
        let centre: &[f32] = segment.slice(Section::Centre);
        let size = match segment.header.metric {
            Metric::L2 => self.base,
            Metric::Cosine | Metric::Dot => {
                1.0 + (dot(self.prepared, self.prepared) * dot(centre, centre)).sqrt()
            }
        };
        rounding(self.prepared.len()) * size
    }
}

/// By what part of itself rounding moves a sum of so many products at most, in the lanes that kernels sum up.
pub(super) fn rounding(terms: usize) -> f32 {
    (terms as f32 / 16.0 + 8.0) * f32::EPSILON
}
