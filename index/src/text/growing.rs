//! Fresh texts in memory: found by the very next query.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use allidb_storage::Sequence;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::{
    model::CollectionId,
    shelf::FreshSet,
    text::document::{Document, FIELDS},
    writing::{Grows, Writers},
};

/// Documents of a growing set at most.
const GROWING_DOCUMENTS: usize = 16_000;
/// Bytes of a growing set at most.
pub(super) const GROWING_BYTES: usize = 32 << 20;
const ALIVE: Sequence = Sequence::MAX;
/// What a word of a document takes in memory beyond its positions, and what a word that no other document has takes beyond its
/// letters, about: with what the allocator and growing lists round up.
const POSTING_BYTES: usize = 64;
const WORD_BYTES: usize = 200;
/// What a document takes beyond its words, about.
const DOCUMENT_BYTES: usize = 96;

/// A set of documents that still grows, or waits to be written to a segment.
#[derive(Debug)]
pub(crate) struct Growing {
    /// Its documents are journaled under this generation until they are in a segment, but for those that a start replayed.
    pub(crate) generation: u64,
    /// The oldest generation of the journal that any of its documents may be in.
    journaled_from: u64,
    /// Writers that may still add documents.
    writers: Writers,
    inner: RwLock<Inner>,
    all_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    documents: Vec<Fresh>,
    /// Number to its newest document; `None`: the number has no text any more.
    newest: HashMap<u64, Option<u32>>,
    /// By field, collection and word.
    postings: BTreeMap<Box<[u8]>, Vec<Posting>>,
    dead: usize,
    bytes: usize,
}

/// A document in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    pub(crate) number: u64,
    pub(crate) collection: CollectionId,
    pub(crate) len_codes: [u8; FIELDS],
    born: Sequence,
    died: Sequence,
}

impl Fresh {
    pub(crate) fn is_visible(&self, at: Sequence) -> bool {
        self.born <= at && at < self.died
    }
}

/// Where a word stands in one document.
#[derive(Debug)]
pub(crate) struct Posting {
    pub(crate) document: u32,
    pub(crate) positions: Box<[u32]>,
}

/// A document with its words: field, word and positions.
pub(crate) type Visible = (Fresh, Vec<(u8, String, Box<[u32]>)>);

/// What is in a set, while nobody adds to it.
pub(crate) struct Reading<'a>(RwLockReadGuard<'a, Inner>);

impl Grows for Growing {
    fn writers(&self) -> &Writers {
        &self.writers
    }
}

impl FreshSet for Growing {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn journaled_from(&self) -> u64 {
        self.journaled_from
    }

    fn fill(&self) -> usize {
        let inner = self.inner.read();
        inner.documents.len().max(inner.newest.len())
    }

    fn is_full(&self) -> bool {
        self.fill() >= GROWING_DOCUMENTS || self.inner.read().bytes >= GROWING_BYTES
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.inner.get_mut().bytes, Ordering::Relaxed);
    }
}

fn key(field: u8, collection: CollectionId, word: &str) -> Vec<u8> {
    let mut key = vec![field];
    key.extend(collection.0.to_be_bytes());
    key.extend(word.as_bytes());
    key
}

impl Reading<'_> {
    /// Where a word stands, by documents, also those that are not visible.
    pub(crate) fn postings(&self, field: u8, collection: CollectionId, word: &str) -> &[Posting] {
        self.0.postings.get(&key(field, collection, word)[..]).map_or(&[], Vec::as_slice)
    }

    /// Calls `each` with every word of a field and collection that begins so, in order, until it says no.
    pub(crate) fn words(
        &self,
        field: u8,
        collection: CollectionId,
        prefix: &str,
        each: &mut dyn FnMut(&str) -> bool,
    ) {
        let start = key(field, collection, prefix);
        let head = start.len() - prefix.len();
        let from = self.0.postings.range::<[u8], _>((Bound::Included(&start[..]), Bound::Unbounded));
        for (key, _) in from.take_while(|(key, _)| key.starts_with(&start)) {
            if let Ok(word) = std::str::from_utf8(&key[head..])
                && !each(word)
            {
                return;
            }
        }
    }
}

impl Growing {
    pub(crate) fn new(generation: u64, journaled_from: u64, all_bytes: &Arc<AtomicUsize>) -> Self {
        Self {
            generation,
            journaled_from,
            writers: Writers::default(),
            inner: RwLock::default(),
            all_bytes: Arc::clone(all_bytes),
        }
    }

    pub(crate) fn living(&self) -> usize {
        let inner = self.inner.read();
        inner.documents.len() - inner.dead
    }

    pub(crate) fn knows(&self, number: u64) -> bool {
        self.inner.read().newest.contains_key(&number)
    }

    pub(crate) fn push(&self, number: u64, collection: CollectionId, document: &Document, born: Sequence) {
        let mut inner = self.inner.write();
        let inner = &mut *inner;
        let at = inner.documents.len() as u32;
        let mut len_codes = [0; FIELDS];
        let mut bytes = DOCUMENT_BYTES;
        for words in &document.fields {
            len_codes[usize::from(words.field)] = words.len_code();
            for (word, positions) in &words.positions {
                let posting = Posting { document: at, positions: positions.as_slice().into() };
                bytes += POSTING_BYTES + 4 * positions.len();
                let key = key(words.field, collection, word);
                match inner.postings.get_mut(&key[..]) {
                    Some(postings) => postings.push(posting),
                    None => {
                        bytes += WORD_BYTES + key.len();
                        inner.postings.insert(key.into(), vec![posting]);
                    }
                }
            }
        }
        inner.documents.push(Fresh { number, collection, len_codes, born, died: ALIVE });
        inner.newest.insert(number, Some(at));
        inner.bytes += bytes;
        self.all_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Remembers that the number has no text any more.
    pub(crate) fn note_removal(&self, number: u64) {
        self.inner.write().newest.insert(number, None);
    }

    /// The number's document is dead from `sequence` on; gives it, if it is here and was alive.
    pub(crate) fn kill(&self, number: u64, sequence: Sequence) -> Option<Fresh> {
        let mut inner = self.inner.write();
        let at = inner.newest.get(&number).copied().flatten()?;
        let fresh = &mut inner.documents[at as usize];
        if fresh.died != ALIVE {
            return None;
        }
        fresh.died = sequence;
        let fresh = *fresh;
        inner.dead += 1;
        Some(fresh)
    }

    /// Every document, and when it died if it did.
    pub(crate) fn documents(&self) -> Vec<(Fresh, Option<Sequence>)> {
        let died = |fresh: &Fresh| (*fresh, (fresh.died != ALIVE).then_some(fresh.died));
        self.inner.read().documents.iter().map(died).collect()
    }

    /// The documents as they are now, by their places.
    pub(crate) fn snapshot(&self) -> Vec<Fresh> {
        self.inner.read().documents.clone()
    }

    /// Holds writers off while something is looked up.
    pub(crate) fn read(&self) -> Reading<'_> {
        Reading(self.inner.read())
    }

    /// The documents that are visible, in the order in which they came, each with its words: field, word and positions.
    pub(crate) fn visible(&self, at: Sequence) -> Vec<Visible> {
        let inner = self.inner.read();
        let mut places: Vec<Option<usize>> = vec![None; inner.documents.len()];
        let mut visible: Vec<Visible> = Vec::new();
        for (place, fresh) in inner.documents.iter().enumerate().filter(|(_, fresh)| fresh.is_visible(at)) {
            places[place] = Some(visible.len());
            visible.push((*fresh, Vec::new()));
        }
        for (key, postings) in &inner.postings {
            let (field, word) = (key[0], String::from_utf8_lossy(&key[1 + 8..]).into_owned());
            for posting in postings {
                if let Some(at) = places[posting.document as usize] {
                    visible[at].1.push((field, word.clone(), posting.positions.clone()));
                }
            }
        }
        visible
    }
}
