//! The candidates of a walk: the best so far, and which of them were expanded.

/// A row below 2³¹, how far it is, and whether it was expanded, in one number that sorts by distance and then row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Candidate(u64);

impl Candidate {
    #[inline]
    pub(crate) fn new(distance: f32, row: u32) -> Self {
        // What is no number counts as farthest.
        Self(u64::from(rising(distance.min(f32::MAX))) << 32 | u64::from(row) << 1)
    }

    #[inline]
    pub(crate) fn distance(self) -> f32 {
        let bits = (self.0 >> 32) as u32;
        f32::from_bits(if bits >> 31 == 1 { bits ^ 1 << 31 } else { !bits })
    }

    #[inline]
    pub(crate) fn row(self) -> u32 {
        self.0 as u32 >> 1
    }

    fn is_expanded(self) -> bool {
        self.0 & 1 == 1
    }
}

/// The bits of a float so turned that they sort as the floats do.
#[inline]
fn rising(x: f32) -> u32 {
    let bits = x.to_bits();
    bits ^ ((bits as i32 >> 31) as u32 | 1 << 31)
}

/// At most so many candidates, nearest first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    candidates: Vec<Candidate>,
    breadth: usize,
    /// All before this one are expanded.
    cursor: usize,
}

impl Pool {
    /// Empties it and sets how many it holds.
    pub(crate) fn begin(&mut self, breadth: usize) {
        self.candidates.clear();
        self.candidates.reserve(breadth + 1);
        self.breadth = breadth.max(1);
        self.cursor = 0;
    }

    /// Whether a row so far away would be taken in.
    #[inline]
    pub(crate) fn wants(&self, candidate: Candidate) -> bool {
        self.candidates.len() < self.breadth || self.candidates.last().is_some_and(|worst| candidate < *worst)
    }

    /// Takes a candidate in, if it is among the best, in place of the worst; says whether it is expanded next, as
    /// things stand.
    #[inline]
    pub(crate) fn offer(&mut self, candidate: Candidate) -> bool {
        if !self.wants(candidate) {
            return false;
        }
        let at = self.candidates.partition_point(|other| *other < candidate);
        if self.candidates.len() == self.breadth {
            self.candidates.pop();
        }
        self.candidates.insert(at, candidate);
        let is_next = at <= self.cursor;
        self.cursor = self.cursor.min(at);
        is_next
    }

    /// The nearest candidate that was not expanded yet; it counts as expanded from now on.
    #[inline]
    pub(crate) fn expand(&mut self) -> Option<Candidate> {
        while let Some(candidate) = self.candidates.get_mut(self.cursor) {
            self.cursor += 1;
            if !candidate.is_expanded() {
                candidate.0 |= 1;
                return Some(*candidate);
            }
        }
        None
    }

    /// The one that would be expanded next, as things stand.
    #[inline]
    pub(crate) fn next(&self) -> Option<Candidate> {
        self.candidates[self.cursor.min(self.candidates.len())..].iter().find(|c| !c.is_expanded()).copied()
    }

    /// The farthest of a full pool.
    pub(crate) fn worst(&self) -> Option<Candidate> {
        if self.candidates.len() < self.breadth { None } else { self.candidates.last().copied() }
    }

    /// Nearest first.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}
