//! Which documents have words in a field: what conditions ask, who need to know of all of them, and no scores.

use allidb_storage::Sequence;
use roaring::RoaringTreemap;

use crate::{
    deadline::Deadline,
    error::Result,
    model::CollectionId,
    text::{
        document::least_cut_len_code,
        index::TextView,
        source::{Postings, Source},
    },
};

/// How often a long loop looks at the clock.
const DEADLINE_EVERY: usize = 4_096;

/// Words that are looked for in a field of a collection, reduced as its texts are.
#[derive(Clone, Debug)]
pub(crate) struct Having {
    pub(crate) view: TextView,
    /// As of when; the view fits it.
    pub(crate) sequence: Sequence,
    pub(crate) collection: CollectionId,
    pub(crate) field: u8,
    /// Not empty.
    pub(crate) words: Vec<String>,
    /// Whether a document must have all of the words.
    pub(crate) all: bool,
}

impl Having {
    /// How many documents have each of the words, about: also those that died since.
    pub(crate) fn counts(&self) -> Result<Vec<u64>> {
        let count = |word: &String| -> Result<u64> {
            let fresh = self
                .view
                .growing
                .iter()
                .map(|growing| growing.read().postings(self.field, self.collection, word).len() as u64);
            let mut count = fresh.sum();
            for sealed in &self.view.sealed {
                let blocks = sealed.segment.blocks(self.field, self.collection, word)?;
                count += blocks.map_or(0, |blocks| u64::from(blocks.doc_freq()));
            }
            Ok(count)
        };
        self.words.iter().map(count).collect()
    }

    /// The numbers of the documents that have the words, and whether they are no others: of a text that was cut only what comes
    /// before is known, so that such texts are all among them.
    ///
    /// # Errors
    /// If a segment cannot be read, or the deadline passes.
    pub(crate) fn numbers(&self, deadline: Deadline) -> Result<(RoaringTreemap, bool)> {
        let sources = Source::of(&self.view);
        let mut numbers = RoaringTreemap::new();
        for (nth, word) in self.words.iter().enumerate() {
            let of_word = self.having(&sources, word, deadline)?;
            if nth > 0 && self.all { numbers &= of_word } else { numbers |= of_word }
        }
        let mut is_exact = true;
        for source in &sources {
            for (at, document) in (0..source.len()).enumerate() {
                if at % DEADLINE_EVERY == 0 {
                    deadline.check()?;
                }
                if source.len_code(self.field, document) >= least_cut_len_code()
                    && source.is_visible(document, self.collection, self.sequence)
                {
                    is_exact = false;
                    numbers.insert(source.number(document));
                }
            }
        }
        Ok((numbers, is_exact))
    }

    fn having(&self, sources: &[Source<'_>], word: &str, deadline: Deadline) -> Result<RoaringTreemap> {
        let mut numbers = RoaringTreemap::new();
        for source in sources {
            let mut postings = Postings::default();
            let moment = (self.sequence, deadline);
            source.postings(self.field, self.collection, word, moment, 1.0, &mut postings)?;
            for documents in postings.documents.chunks(DEADLINE_EVERY) {
                deadline.check()?;
                numbers.extend(documents.iter().map(|document| source.number(*document)));
            }
        }
        Ok(numbers)
    }
}
