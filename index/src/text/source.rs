//! A set of fresh documents or a segment of sealed ones, as a search reads them.

use allidb_storage::Sequence;

use crate::{
    error::Result,
    model::CollectionId,
    text::{
        growing::Reading,
        index::{Sealed, TextView},
        segment::{next_places, next_posting},
    },
};

/// Documents that a search reads, by places that rise.
pub(super) enum Source<'a> {
    Fresh(Reading<'a>),
    Sealed(&'a Sealed),
}

impl<'a> Source<'a> {
    /// All of a view.
    pub(super) fn of(view: &'a TextView) -> Vec<Self> {
        let sealed = view.sealed.iter().map(|sealed| Self::Sealed(sealed));
        sealed.chain(view.growing.iter().map(|growing| Self::Fresh(growing.read()))).collect()
    }

    pub(super) fn number(&self, document: u32) -> u64 {
        match self {
            Self::Fresh(fresh) => fresh.document(document).number,
            Self::Sealed(sealed) => sealed.segment.number(document),
        }
    }

    #[inline]
    pub(super) fn len_code(&self, field: u8, document: u32) -> u8 {
        match self {
            Self::Fresh(fresh) => fresh.document(document).len_codes[usize::from(field)],
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
            Self::Fresh(fresh) => {
                let postings = fresh.postings(field, collection, word).iter();
                let visible = postings.filter(|posting| fresh.document(posting.document).is_visible(at));
                visible.for_each(|posting| each(posting.document, posting.positions.len() as u32));
            }
            Self::Sealed(Sealed { segment, deaths }) => {
                let Some(mut postings) = segment.postings(field, collection, word, false)? else {
                    return Ok(());
                };
                while let Some((document, count)) = next_posting(&mut postings) {
                    if deaths.is_visible(document, at) {
                        each(document, count);
                    }
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
            Self::Fresh(fresh) => {
                let postings = fresh.postings(field, collection, word).iter();
                let visible = postings.filter(|posting| fresh.document(posting.document).is_visible(at));
                visible.for_each(|posting| each(posting.document, &posting.positions));
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

    /// Calls `each` with every word of a field and collection that begins so, in order, until it says no.
    pub(super) fn words(
        &self,
        field: u8,
        collection: CollectionId,
        prefix: &str,
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<()> {
        match self {
            Self::Fresh(fresh) => {
                fresh.words(field, collection, prefix, each);
                Ok(())
            }
            Self::Sealed(sealed) => sealed.segment.words(field, collection, prefix, each),
        }
    }
}
