//! A set of fresh documents or a segment of sealed ones, as a search reads them.

use std::sync::Arc;

use allidb_storage::Sequence;

use crate::{
    error::Result,
    model::CollectionId,
    text::{
        growing::{Fresh, Growing, Posting},
        index::{Sealed, TextView},
        segment::{next_places, next_posting},
    },
};

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

    /// Calls `each` with the visible documents that have a word, ascending, and how often they have it.
    pub(super) fn postings(
        &self,
        field: u8,
        collection: CollectionId,
        word: &str,
        at: Sequence,
        each: &mut dyn FnMut(u32, u32),
    ) -> Result<()> {
        match self {
            Self::Fresh { .. } => {
                return self.places(field, collection, word, at, &mut |document, places| {
                    each(document, places.len() as u32);
                });
            }
            Self::Sealed(Sealed { segment, deaths }) => {
                let Some(mut blocks) = segment.blocks(field, collection, word)? else { return Ok(()) };
                let has_dead = deaths.count() > 0;
                while blocks.block_len() > 0 {
                    for (document, count) in blocks.docs().iter().zip(blocks.freqs()) {
                        if !has_dead || deaths.is_visible(*document, at) {
                            each(*document, *count);
                        }
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
        at: Sequence,
        each: &mut dyn FnMut(u32, &[u32]),
    ) -> Result<()> {
        match self {
            Self::Fresh { growing, documents } => {
                let reading = growing.read();
                for Posting { document, positions } in reading.postings(field, collection, word) {
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
                while let Some(document) = next_places(&mut postings, &mut places) {
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
