//! What answering a query came to, step by step: what was planned, how many were expected, how many there were, how long it took.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

/// One step of answering a query.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanStep {
    /// Within how many other queries.
    pub depth: usize,
    /// `filter`, `nearest`, `text`, `ids`, `matching`, `within`, `fuse`, `expand`, `score` or `answer`; over a ring `seeds`, `check`,
    /// `expand` and `read`, once for each time that replicas did not agree.
    pub what: &'static str,
    /// In which way, for people.
    pub how: String,
    /// How many were expected, where that decided about the way.
    pub estimate: Option<u64>,
    /// How many there were.
    pub actual: u64,
    /// How long it took, with the steps that it needed: those just before it.
    pub took: Duration,
}

/// The steps of a query, if anybody wants to know.
#[derive(Debug, Default)]
pub(crate) struct Steps(RefCell<Option<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    depth: usize,
    steps: Vec<PlanStep>,
}

impl Steps {
    /// From now on steps are noted.
    pub(crate) fn begin(&self) {
        *self.0.borrow_mut() = Some(Recorded::default());
    }

    /// The steps since then; from now on none are noted.
    pub(crate) fn end(&self) -> Vec<PlanStep> {
        self.0.borrow_mut().take().map_or_else(Vec::new, |recorded| recorded.steps)
    }

    /// What `work` does belongs to a query within the one that is answered.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let deepen = |by: isize| {
            if let Some(recorded) = &mut *self.0.borrow_mut() {
                recorded.depth = recorded.depth.saturating_add_signed(by);
            }
        };
        deepen(1);
        let done = work();
        deepen(-1);
        done
    }

    /// Notes a step that began then.
    pub(crate) fn note(
        &self,
        begun: Instant,
        what: &'static str,
        actual: usize,
        how: impl FnOnce() -> (String, Option<u64>),
    ) {
        if let Some(Recorded { depth, steps }) = &mut *self.0.borrow_mut() {
            let (how, estimate) = how();
            let actual = actual as u64;
            steps.push(PlanStep { depth: *depth, what, how, estimate, actual, took: begun.elapsed() });
        }
    }
}
