//! The best documents for the words of a query.
//!
//! What a posting list can bring at most is known beforehand, and what names bring at once. When so many documents are known that the worst
//! of them beats all that the weakest lists can bring together, only documents in the other lists are candidates, and of those the weak lists are
//! asked one by one, as long as the document can still be among the best (MaxScore: Turtle and Flood, "Query Evaluation: Strategies and
//! Optimizations", 1995), in windows of documents. A document's score is always summed up in the same order, so that it does not depend on what was left out.

use std::sync::Arc;

use allidb_storage::Sequence;

use crate::{
    deadline::Deadline,
    error::Result,
    text::source::{Postings, Source},
};

/// Documents that are scored together, so that their scores stay in the cache.
const WINDOW: u32 = 1 << 12;
/// By what part of themselves sums of a query's weights may be off by rounding.
const ROUNDING: f32 = 1e-4;
/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 256;
/// The same in a window, in words of 64 documents.
const WORDS_OF_DEADLINE: usize = DEADLINE_EVERY / 64;
/// The same where little is done with each.
const NAMES_OF_DEADLINE: usize = 16 * DEADLINE_EVERY;
/// Documents found beyond those that are wanted before the worst are dropped.
const SPARE: usize = 64;

/// One word in one field of prose.
pub(super) struct Part {
    pub(super) field: u8,
    pub(super) postings: Postings,
    /// What it brings at most.
    pub(super) weight: f32,
    /// How often a document of each length (by its code) must have the word for half of that.
    pub(super) norms: Arc<[f32; 256]>,
}

impl Part {
    /// What it brings to the document of the `at`-th posting.
    #[inline]
    fn share(&self, source: &Source<'_>, at: usize) -> f32 {
        let count = self.postings.counts[at];
        let norm = self.norms[usize::from(source.len_code(self.field, self.postings.documents[at]))];
        self.weight * count / (count + norm)
    }
}

/// The lists of one source.
pub(super) struct Lists<'a> {
    pub(super) source: Source<'a>,
    pub(super) parts: Vec<Part>,
    /// What documents score by their names: by document, ascending.
    pub(super) names: Vec<(u32, f32)>,
    /// The only documents that match, ascending; none: all that have a word.
    pub(super) only: Option<Vec<u32>>,
}

/// How well documents answer to a query.
pub(crate) struct Ranking<'a> {
    sources: Vec<Lists<'a>>,
    sequence: Sequence,
    deadline: Deadline,
}

impl<'a> Ranking<'a> {
    pub(super) fn new(mut sources: Vec<Lists<'a>>, sequence: Sequence, deadline: Deadline) -> Self {
        for lists in &mut sources {
            // The sort is stable: ties are in the order of words and fields.
            lists.parts.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        }
        Self { sources, sequence, deadline }
    }

    /// The best `count` documents that are accepted: their numbers and scores in (0, 1], best first, ties in the order of numbers.
    ///
    /// # Errors
    /// If the deadline passes.
    pub(crate) fn best(&self, count: usize, accept: &dyn Fn(u64) -> bool) -> Result<Vec<(u64, f32)>> {
        let mut best = Best::new(count, accept);
        best.floor = self.floor_of_names(count, accept)?;
        for lists in &self.sources {
            match &lists.only {
                Some(only) => lists.score_each(only.iter().copied(), self.deadline, |document, score| {
                    best.offer(&lists.source, document, score);
                })?,
                None => lists.find(&mut best, self.deadline)?,
            }
        }
        Ok(best.into_sorted())
    }

    /// What the worst of the best scores at least, as names alone tell.
    fn floor_of_names(&self, wanted: usize, accept: &dyn Fn(u64) -> bool) -> Result<f32> {
        let mut best = Best::new(wanted, accept);
        for lists in self.sources.iter().filter(|lists| lists.only.is_none()) {
            for names in lists.names.chunks(NAMES_OF_DEADLINE) {
                self.deadline.check()?;
                names
                    .iter()
                    .for_each(|(document, score)| best.offer(&lists.source, *document, score.min(1.0)));
            }
        }
        best.drop_worst();
        Ok(best.floor)
    }

    /// The scores of those of the numbers, which ascend, whose documents match.
    ///
    /// # Errors
    /// If the deadline passes.
    pub(crate) fn scores_of(&self, numbers: &[u64]) -> Result<Vec<(u64, f32)>> {
        let mut scores = Vec::new();
        for lists in &self.sources {
            let mut documents = lists.source.documents_of(numbers, self.sequence);
            documents.sort_unstable();
            if let Some(only) = &lists.only {
                documents.retain(|document| only.binary_search(document).is_ok());
            }
            lists.score_each(documents.into_iter(), self.deadline, |document, score| {
                scores.push((lists.source.number(document), score));
            })?;
        }
        Ok(scores)
    }
}

impl Lists<'_> {
    /// Scores documents that ascend, and gives those that have a word.
    fn score_each(
        &self,
        documents: impl Iterator<Item = u32>,
        deadline: Deadline,
        mut each: impl FnMut(u32, f32),
    ) -> Result<()> {
        let mut at = vec![0; self.parts.len()];
        let mut names_at = 0;
        for (nth, document) in documents.enumerate() {
            if nth % DEADLINE_EVERY == 0 {
                deadline.check()?;
            }
            let mut prose = 0.0;
            for (part, at) in self.parts.iter().zip(&mut at) {
                *at = seek(&part.postings.documents, *at, document);
                if part.postings.documents.get(*at) == Some(&document) {
                    prose += part.share(&self.source, *at);
                }
            }
            let names = self.name_of(document, &mut names_at);
            let score = f32::max(prose, names).min(1.0);
            if score > 0.0 {
                each(document, score);
            }
        }
        Ok(())
    }

    /// What a document scores by its names; documents ascend from call to call.
    fn name_of(&self, document: u32, at: &mut usize) -> f32 {
        *at += self.names[*at..].iter().take_while(|(named, _)| *named < document).count();
        self.names.get(*at).filter(|(named, _)| *named == document).map_or(0.0, |(_, score)| *score)
    }

    /// Offers all documents that may be among the best.
    fn find(&self, best: &mut Best<'_>, deadline: Deadline) -> Result<()> {
        let parts = &self.parts;
        // What each part and those after it bring together at most.
        let mut rest: Vec<f32> = Vec::with_capacity(parts.len() + 1);
        rest.push(0.0);
        for part in parts.iter().rev() {
            rest.push(rest[rest.len() - 1] + part.weight * (1.0 + ROUNDING));
        }
        rest.reverse();
        let mut at = vec![0; parts.len()];
        let mut names_at = 0;
        let mut scores = vec![0.0_f32; WINDOW as usize];
        let mut touched = vec![0_u64; WINDOW as usize / 64];
        loop {
            deadline.check()?;
            // Documents that only the parts from here on have are not among the best.
            let strong = rest.iter().position(|rest| *rest < best.floor).unwrap_or(parts.len());
            let heads =
                parts[..strong].iter().zip(&at).filter_map(|(part, at)| part.postings.documents.get(*at));
            let named = self.names.get(names_at).map(|(document, _)| document);
            let Some(next) = heads.chain(named).min() else { return Ok(()) };
            let start = next / WINDOW * WINDOW;
            let end = start.saturating_add(WINDOW);
            let mut touch = |document: u32| touched[(document - start) as usize / 64] |= 1 << (document % 64);
            for (part, at) in parts[..strong].iter().zip(&mut at) {
                let documents = &part.postings.documents;
                while let Some(document) = documents.get(*at).filter(|document| **document < end) {
                    scores[(document - start) as usize] += part.share(&self.source, *at);
                    touch(*document);
                    *at += 1;
                }
            }
            let of_window = self.names[names_at..].iter().take_while(|(document, _)| *document < end);
            of_window.for_each(|(document, _)| touch(*document));
            for (word, bits) in touched.iter_mut().enumerate() {
                let mut bits = std::mem::take(bits);
                if word.is_multiple_of(WORDS_OF_DEADLINE) {
                    deadline.check()?;
                }
                while bits != 0 {
                    let within = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let document = start + within as u32;
                    let mut prose = std::mem::take(&mut scores[within]);
                    let names = self.name_of(document, &mut names_at);
                    for (weak, part) in parts.iter().enumerate().skip(strong) {
                        // Either its names tell its score, or it is not among the best.
                        if (prose + rest[weak]) * (1.0 + ROUNDING) < best.floor.max(names) {
                            break;
                        }
                        at[weak] = seek(&part.postings.documents, at[weak], document);
                        if part.postings.documents.get(at[weak]) == Some(&document) {
                            prose += part.share(&self.source, at[weak]);
                        }
                    }
                    best.offer(&self.source, document, prose.max(names).min(1.0));
                }
            }
            names_at += self.names[names_at..].iter().take_while(|(document, _)| *document < end).count();
        }
    }
}

/// The first place from `at` on that holds a document not before this one.
#[inline]
fn seek(documents: &[u32], at: usize, document: u32) -> usize {
    let rest = &documents[at..];
    let mut step = 1;
    while rest.get(step).is_some_and(|other| *other < document) {
        step *= 2;
    }
    let from = step / 2;
    let within = &rest[from.min(rest.len())..(step + 1).min(rest.len())];
    at + from + within.partition_point(|other| *other < document)
}

/// The best documents found so far.
struct Best<'a> {
    wanted: usize,
    /// Nothing below is among them.
    floor: f32,
    found: Vec<(u64, f32)>,
    accept: &'a dyn Fn(u64) -> bool,
}

impl<'a> Best<'a> {
    fn new(wanted: usize, accept: &'a dyn Fn(u64) -> bool) -> Self {
        Self { wanted, floor: 0.0, found: Vec::new(), accept }
    }

    #[inline]
    fn offer(&mut self, source: &Source<'_>, document: u32, score: f32) {
        if score < self.floor || score <= 0.0 {
            return;
        }
        let number = source.number(document);
        if (self.accept)(number) {
            self.found.push((number, score));
            if self.found.len() >= self.wanted + self.wanted / 2 + SPARE {
                self.drop_worst();
            }
        }
    }

    fn drop_worst(&mut self) {
        if self.wanted > 0 && self.wanted < self.found.len() {
            let (_, worst, _) = self.found.select_nth_unstable_by(self.wanted - 1, best_first);
            self.floor = worst.1;
        }
        self.found.truncate(self.wanted);
    }

    fn into_sorted(mut self) -> Vec<(u64, f32)> {
        self.drop_worst();
        self.found.sort_unstable_by(best_first);
        self.found
    }
}

fn best_first(a: &(u64, f32), b: &(u64, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::CollectionId,
        text::{document::Document, growing::Growing},
    };

    const DOCUMENTS: u32 = 3 * WINDOW;

    /// Numbers that look random, the same for the same seed.
    fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
        move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        }
    }

    fn lists<'a>(growing: &'a Growing, parts: &[(u64, u8, f32)]) -> Lists<'a> {
        let norms = Arc::new([0.3; 256]);
        let part = |(seed, percent, weight): &(u64, u8, f32)| {
            let mut next = numbers(*seed);
            let mut postings = Postings::default();
            for document in 0..DOCUMENTS {
                if next() % 100 < u64::from(*percent) {
                    postings.extend(&[document], &[1 + (next() % 4) as u32], 1.0);
                }
            }
            Part { field: 0, postings, weight: *weight, norms: Arc::clone(&norms) }
        };
        let parts: Vec<Part> = parts.iter().map(part).collect();
        let mut next = numbers(99);
        let names = (0..DOCUMENTS).filter(|_| next().is_multiple_of(50)).collect::<Vec<_>>();
        let names = names.into_iter().map(|document| (document, (next() % 100) as f32 / 150.0)).collect();
        Lists { source: Source::Fresh { growing, documents: growing.snapshot() }, parts, names, only: None }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// What is left out changes neither which documents are best nor any bit of their scores.
        #[test]
        fn the_best_are_the_first_of_all_documents(
            parts in prop::collection::vec((any::<u64>(), 1..90_u8, 0.01..0.4_f32), 1..8),
            count in 1..300_usize,
        ) {
            let growing = Growing::new(1, 1, &Arc::default());
            for document in 0..DOCUMENTS {
                growing.push(u64::from(document * 5 % DOCUMENTS), CollectionId(1), &Document::default(), 1);
            }
            let deadline = Deadline::after(Duration::from_secs(60));
            let ranking = Ranking::new(vec![lists(&growing, &parts)], 1, deadline);
            let lists = &ranking.sources[0];
            let mut all = Vec::new();
            lists.score_each(0..DOCUMENTS, deadline, |document, score| {
                all.push((lists.source.number(document), score));
            }).unwrap();
            all.sort_unstable_by(best_first);
            let best = ranking.best(count, &|_| true).unwrap();
            prop_assert_eq!(&best[..], &all[..count.min(all.len())]);
            let odd = ranking.best(count, &|number| number % 2 == 1).unwrap();
            all.retain(|(number, _)| number % 2 == 1);
            prop_assert_eq!(&odd[..], &all[..count.min(all.len())]);
        }

        #[test]
        fn seeking_finds_the_first_not_before(
            mut documents in prop::collection::vec(0..200_u32, 0..60),
            at in 0..60_usize,
            wanted in 0..220_u32,
        ) {
            documents.sort_unstable();
            documents.dedup();
            let at = at.min(documents.len());
            let place = at + documents[at..].partition_point(|document| *document < wanted);
            prop_assert_eq!(seek(&documents, at, wanted), place);
        }
    }
}
