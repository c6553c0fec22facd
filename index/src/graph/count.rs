//! How many nodes are so many hops away.

use std::ops::ControlFlow;

use foldhash::HashMap;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{
        GraphReader, HopCounts, HopsRequest,
        neighbors::{check_choice, sides},
    },
    model::{Limits, TenantId},
    query::{Truncation, TruncationReason},
    replica::Replica,
};

/// Edges between two looks at the clock.
const DEADLINE_EVERY: u64 = 1_024;
/// Numbers of a page.
const PAGE: u64 = 1 << 15;

/// A set of numbers: a bit for each, in pages that come to be when the first of theirs is added.
#[derive(Default)]
struct NumberSet {
    pages: Vec<Option<Box<[u64; PAGE as usize / 64]>>>,
    /// Pages of numbers so large that a list of all pages before them would be mostly holes.
    far: HashMap<u64, Box<[u64; PAGE as usize / 64]>>,
}

/// Pages that are listed rather than looked up.
const LISTED: u64 = 1 << 17;

impl NumberSet {
    /// Adds a number; false if it was there.
    #[inline]
    fn insert(&mut self, number: u64) -> bool {
        let at = number / PAGE;
        let empty = || Box::new([0; PAGE as usize / 64]);
        let page = match usize::try_from(at) {
            Ok(at) if (at as u64) < LISTED => {
                if at >= self.pages.len() {
                    self.pages.resize_with(at + 1, || None);
                }
                self.pages[at].get_or_insert_with(empty)
            }
            _ => self.far.entry(at).or_insert_with(empty),
        };
        let (word, bit) = (&mut page[(number % PAGE / 64) as usize], 1 << (number % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl HopsRequest {
    /// # Errors
    /// If something in it is wrong.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        check_choice("", &self.relations, self.min_weight)?;
        let limit = limits.hops;
        if self.hops == 0 || self.hops > limit {
            return Err(Error::invalid("hops", format!("is {}; it must be 1 to {limit}", self.hops)));
        }
        Ok(())
    }
}

impl Replica {
    /// Counts the entities that are so many hops away from the nearest of some, hop by hop. What was counted until a bound was
    /// reached is told.
    ///
    /// # Errors
    /// If the request is wrong or the store cannot be read.
    pub fn count_hops(
        &self,
        tenant: TenantId,
        request: &HopsRequest,
        deadline: Deadline,
    ) -> Result<HopCounts> {
        request.check(&self.limits)?;
        let (reader, graph) = self.graph_reader(tenant, &request.collections)?;
        let seeds = reader.live_numbers(&graph, &request.seeds)?;
        graph.count_hops(request, &seeds, deadline)
    }
}

impl GraphReader<'_> {
    fn count_hops(&self, request: &HopsRequest, seeds: &[u64], deadline: Deadline) -> Result<HopCounts> {
        let as_of = request.as_of.unwrap_or(self.now);
        let relations = self.relations(&request.relations);
        let mut seen = NumberSet::default();
        let mut frontier: Vec<u64> = seeds.iter().copied().filter(|seed| seen.insert(*seed)).collect();
        let (mut counts, mut looked) = (HopCounts::default(), 0_u64);
        for _ in 0..request.hops {
            let mut next = Vec::new();
            for from in &frontier {
                for side in sides(request.direction) {
                    let mut each = |other: Option<u64>| {
                        looked += 1;
                        if looked.is_multiple_of(DEADLINE_EVERY) && deadline.has_passed() {
                            return ControlFlow::Break(());
                        }
                        let other = other.filter(|other| self.is_seen(*other));
                        counts.edges += u64::from(other.is_some() || self.sees_all());
                        next.extend(other.filter(|other| seen.insert(*other) && self.is_live(*other)));
                        ControlFlow::Continue(())
                    };
                    let choice = (relations.as_deref(), request.min_weight, as_of);
                    if self.others(*from, *side, choice, &mut each)?.is_break() {
                        counts.counts.push(next.len() as u64);
                        let (reason, count) = (TruncationReason::Deadline, 1);
                        counts.truncated.push(Truncation { reason, count });
                        return Ok(counts);
                    }
                }
            }
            counts.counts.push(next.len() as u64);
            frontier = next;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_added_once() {
        let mut set = NumberSet::default();
        for number in [0, 63, 64, PAGE, PAGE * LISTED, PAGE * LISTED - 1, u64::MAX] {
            assert!(set.insert(number));
            assert!(!set.insert(number));
        }
        assert!(set.insert(1) && set.insert(PAGE + 1) && set.insert(u64::MAX - 1));
    }
}
