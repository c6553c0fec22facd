//! A set of fresh documents or a segment of sealed ones, as a search reads them.

use std::sync::Arc;

use allidb_storage::Sequence;

use crate::{
    deadline::Deadline,
    error::Result,
    model::CollectionId,
    text::{
        growing::{Fresh, Growing, Posting},
        index::{Sealed, TextView},
        segment::{next_places, next_posting},
    },
};

/// How often a long loop looks at the clock: documents, and blocks of them.
const DEADLINE_EVERY: usize = 1_024;
const DEADLINE_EVERY_BLOCKS: usize = 16;

/// Documents that have a word, ascending, and how often they have it.
#[derive(Debug, Default)]
pub(super) struct Postings {
    pub(super) documents: Vec<u32>,
    pub(super) counts: Vec<f32>,
}

impl Postings {
    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    fn reserve(&mut self, more: usize) {
        self.documents.reserve(more);
        self.counts.reserve(more);
    }

    /// Adds documents that have a word so often, each time worth so much.
    pub(super) fn extend(&mut self, documents: &[u32], counts: &[u32], weight: f32) {
        self.documents.extend_from_slice(documents);
        self.counts.extend(counts.iter().map(|count| weight * *count as f32));
    }
}

/// Documents that a search reads, by places that rise.
pub(super) enum Source<'a> {
    /// With the documents as they were when the search began: nobody who writes waits for a search.
    Fresh {
        growing: &'a Growing,
        documents: Vec<Fresh>,
    },
    Sealed(&'a Sealed),
}

impl<'a> Source<'a> {
    /// All of a view.
    pub(super) fn of(view: &'a TextView) -> Vec<Self> {
        let sealed = view.sealed.iter().map(|sealed| Self::Sealed(sealed));
        let fresh = |growing: &'a Arc<Growing>| Self::Fresh { growing, documents: growing.snapshot() };
        sealed.chain(view.growing.iter().map(fresh)).collect()
    }

    /// Documents, also those that are not visible.
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Fresh { documents, .. } => documents.len() as u32,
            Self::Sealed(sealed) => sealed.segment.len(),
        }
    }

    /// Whether a document is one of the collection, and was there then.
    pub(super) fn is_visible(&self, document: u32, collection: CollectionId, at: Sequence) -> bool {
        match self {
            Self::Fresh { documents, .. } => {
                let fresh = &documents[document as usize];
                fresh.collection == collection && fresh.is_visible(at)
            }
            Self::Sealed(Sealed { segment, deaths }) => {
                segment.collection(document) == collection && deaths.is_visible(document, at)
            }
        }
    }

    pub(super) fn number(&self, document: u32) -> u64 {
        match self {
            Self::Fresh { documents, .. } => documents[document as usize].number,
            Self::Sealed(sealed) => sealed.segment.number(document),
        }
    }

    /// The visible documents of some numbers, which ascend.
    pub(super) fn documents_of(&self, numbers: &[u64], at: Sequence) -> Vec<u32> {
        match self {
            Self::Fresh { documents, .. } => {
                let is_wanted =
                    |fresh: &Fresh| fresh.is_visible(at) && numbers.binary_search(&fresh.number).is_ok();
                (0..)
                    .zip(documents)
                    .filter(|(_, fresh)| is_wanted(fresh))
                    .map(|(document, _)| document)
                    .collect()
            }
            Self::Sealed(Sealed { segment, deaths }) => {
                let found = numbers.iter().filter_map(|number| segment.document_of(*number));
                found.filter(|document| deaths.is_visible(*document, at)).collect()
            }
        }
    }

    #[inline]
    pub(super) fn len_code(&self, field: u8, document: u32) -> u8 {
        match self {
            Self::Fresh { documents, .. } => documents[document as usize].len_codes[usize::from(field)],
            Self::Sealed(sealed) => sealed.segment.len_code(field, document),
        }
    }

    /// Adds the visible documents that have a word, ascending, and how often, each time worth so much.
    pub(super) fn postings(
        &self,
        field: u8,
        collection: CollectionId,
        word: &str,
        (at, deadline): (Sequence, Deadline),
        weight: f32,
        into: &mut Postings,
    ) -> Result<()> {
        match self {
            Self::Fresh { .. } => {
                return self.places(field, collection, word, (at, deadline), &mut |document, places| {
                    into.extend(&[document], &[places.len() as u32], weight);
                });
            }
            Self::Sealed(Sealed { segment, deaths }) => {
                let Some(mut blocks) = segment.blocks(field, collection, word)? else { return Ok(()) };
                let has_dead = deaths.count() > 0;
                into.reserve(blocks.doc_freq() as usize);
                for nth in 0.. {
                    if blocks.block_len() == 0 {
                        break;
                    }
                    if nth % DEADLINE_EVERY_BLOCKS == 0 {
                        deadline.check()?;
                    }
                    if has_dead {
                        for (document, count) in blocks.docs().iter().zip(blocks.freqs()) {
                            if deaths.is_visible(*document, at) {
                                into.extend(&[*document], &[*count], weight);
                            }
                        }
                    } else {
                        into.extend(blocks.docs(), blocks.freqs(), weight);
                    }
                    blocks.advance();
                }
            }
        }
        Ok(())
    }

    /// The same with the places at which the word stands.
    pub(super) fn places(
        &self,
        field: u8,
        collection: CollectionId,
        word: &str,
        (at, deadline): (Sequence, Deadline),
        each: &mut dyn FnMut(u32, &[u32]),
    ) -> Result<()> {
        match self {
            Self::Fresh { growing, documents } => {
                let reading = growing.read();
                for (nth, posting) in reading.postings(field, collection, word).iter().enumerate() {
                    if nth % DEADLINE_EVERY == 0 {
                        deadline.check()?;
                    }
                    let Posting { document, positions } = posting;
                    // What came since the search began is not for it.
                    if documents.get(*document as usize).is_some_and(|fresh| fresh.is_visible(at)) {
                        each(*document, positions);
                    }
                }
            }
            Self::Sealed(Sealed { segment, deaths }) => {
                let Some(mut postings) = segment.postings(field, collection, word, true)? else {
                    return Ok(());
                };
                let mut places = Vec::new();
                for nth in 0_usize.. {
                    let Some(document) = next_places(&mut postings, &mut places) else { break };
                    if nth % DEADLINE_EVERY == 0 {
                        deadline.check()?;
                    }
                    if deaths.is_visible(document, at) {
                        each(document, &places);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether any visible document has a word that is in the dictionary.
    pub(super) fn has_visible(
        &self,
        field: u8,
        collection: CollectionId,
        word: &str,
        at: Sequence,
    ) -> Result<bool> {
        match self {
            Self::Fresh { growing, documents } => {
                let reading = growing.read();
                let mut postings = reading.postings(field, collection, word).iter();
                Ok(postings.any(|posting| {
                    documents.get(posting.document as usize).is_some_and(|fresh| fresh.is_visible(at))
                }))
            }
            Self::Sealed(Sealed { deaths, .. }) if deaths.count() == 0 => Ok(true),
            Self::Sealed(Sealed { segment, deaths }) => {
                let Some(mut postings) = segment.postings(field, collection, word, false)? else {
                    return Ok(false);
                };
                while let Some((document, _)) = next_posting(&mut postings) {
                    if deaths.is_visible(document, at) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Calls `each` with every word of a field and collection that begins so, in order, until it says no.
    pub(super) fn words(
        &self,
        field: u8,
        collection: CollectionId,
        prefix: &str,
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<()> {
        match self {
            Self::Fresh { growing, .. } => {
                growing.read().words(field, collection, prefix, each);
                Ok(())
            }
            Self::Sealed(sealed) => sealed.segment.words(field, collection, prefix, each),
        }
    }
}
