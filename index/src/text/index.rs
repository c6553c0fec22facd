//! The text index of a node: what is fresh, what is sealed, and what is known of all texts of a collection.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use allidb_storage::{Engine, Sequence, fs::Fs};
use foldhash::{HashMap, HashMapExt};
use parking_lot::{Mutex, RwLock};

use crate::{
    deaths::Deaths,
    duty::Work,
    keyspaces::Keyspaces,
    model::CollectionId,
    replica::Numbers,
    shelf::{FreshSet, Shelf, ShelfView},
    text::{
        document::{Document, FIELDS, len_of},
        growing::{GROWING_BYTES, Growing},
        segment::TextSegment,
        tiers,
    },
    upkeep::Machine,
    writing::Writing,
};

/// Full sets that wait in memory to be sealed, before writes wait for them.
pub(super) const MAX_FROZEN: usize = 4;
/// Bytes of all of them, before writes wait.
pub(super) const FRESH_BYTES: usize = (MAX_FROZEN + 2) * GROWING_BYTES;
/// Of the journal of a new store.
pub(super) const FIRST_GENERATION: u64 = 1;

/// The text index.
pub(crate) struct TextIndex {
    pub(super) machine: Machine,
    pub(super) shelf: RwLock<Shelf<Growing, Sealed>>,
    statistics: RwLock<HashMap<(CollectionId, u8), Statistics>>,
    /// Held while the inventory is taken and stored, so that an older one never replaces a newer one.
    pub(super) remembering: Mutex<()>,
    pub(super) fresh_bytes: Arc<AtomicUsize>,
    pub(super) engine: Engine,
    pub(super) keyspaces: Keyspaces,
    pub(super) numbers: Arc<Numbers>,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
}

/// A segment and what has died in it.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: TextSegment,
    pub(crate) deaths: Deaths,
}

impl Sealed {
    /// Documents that are alive.
    pub(crate) fn living(&self) -> usize {
        self.segment.len() as usize - self.deaths.count()
    }
}

/// What is known of a field of a collection, over all living documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Documents that have the field.
    pub(crate) documents: u64,
    /// Words in them, as lengths are kept.
    pub(crate) words: u64,
}

/// The sets and segments at one moment.
pub(crate) type TextView = ShelfView<Growing, Sealed>;

/// A text set or removed by a write.
#[derive(Debug)]
pub(crate) struct TextChange {
    pub(crate) writing: Writing<Growing>,
    pub(crate) number: u64,
    pub(crate) collection: CollectionId,
    /// Without words: removed.
    pub(crate) document: Document,
}

/// Counts of the index.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextCounts {
    /// Entities and chunks that have text.
    pub documents: usize,
    /// Segments on disk.
    pub segments: usize,
    /// Documents in them that were replaced or deleted.
    pub dead: usize,
    /// Bytes of fresh texts in memory.
    pub memory_bytes: usize,
}

/// What is turned into one new segment.
#[derive(Clone, Debug)]
pub(super) enum Inputs {
    Frozen(Arc<Growing>),
    Sealed(Vec<Arc<Sealed>>),
}

impl TextIndex {
    pub(super) fn new(
        context: super::open::TextContext,
        dir: PathBuf,
        shelf: Shelf<Growing, Sealed>,
        fresh_bytes: Arc<AtomicUsize>,
    ) -> Self {
        let super::open::TextContext { background, engine, keyspaces, numbers, clock, fs, .. } = context;
        Self {
            machine: Machine::new(["text-seal", "text-merge"], background, clock),
            shelf: RwLock::new(shelf),
            statistics: RwLock::new(HashMap::new()),
            remembering: Mutex::new(()),
            fresh_bytes,
            engine,
            keyspaces,
            numbers,
            fs,
            dir,
        }
    }

    /// Opens the growing set for a change, whose journal row is to be written under its generation while this is held.
    pub(crate) fn begin_write(&self) -> Writing<Growing> {
        if let Some(writing) = self.shelf.read().begin_write() {
            return writing;
        }
        let mut shelf = self.shelf.write();
        if shelf.growing.is_full() {
            self.rotate(&mut shelf);
        }
        Writing::new(&shelf.growing)
    }

    pub(super) fn rotate(&self, shelf: &mut Shelf<Growing, Sealed>) {
        shelf
            .rotate(|generation, journaled_from| Growing::new(generation, journaled_from, &self.fresh_bytes));
    }

    /// The number's text is this from `sequence` on.
    pub(crate) fn publish(&self, change: &TextChange, sequence: Sequence) {
        let TextChange { writing, number, collection, document } = change;
        self.kill(*number, sequence);
        if document.is_empty() {
            writing.growing().note_removal(*number);
        } else {
            writing.growing().push(*number, *collection, document, sequence);
            let mut statistics = self.statistics.write();
            for words in &document.fields {
                let of_field = statistics.entry((*collection, words.field)).or_default();
                of_field.documents += 1;
                of_field.words += u64::from(len_of(words.len_code()));
            }
        }
    }

    /// Whatever document the number has is gone from `sequence` on.
    fn kill(&self, number: u64, sequence: Sequence) {
        let shelf = self.shelf.read();
        let mut growing = std::iter::once(&shelf.growing).chain(shelf.frozen.iter().rev());
        if let Some(fresh) = growing.find_map(|growing| growing.kill(number, sequence)) {
            self.uncount(fresh.collection, |field| fresh.len_codes[usize::from(field)]);
            return;
        }
        for sealed in &shelf.sealed {
            if let Some(document) = sealed.segment.document_of(number)
                && sealed.deaths.kill(document, sequence)
            {
                let collection = sealed.segment.collection(document);
                return self.uncount(collection, |field| sealed.segment.len_code(field, document));
            }
        }
    }

    fn uncount(&self, collection: CollectionId, len_code: impl Fn(u8) -> u8) {
        let mut statistics = self.statistics.write();
        for field in 0..FIELDS as u8 {
            let len = len_of(len_code(field));
            if len > 0
                && let Some(of_field) = statistics.get_mut(&(collection, field))
            {
                of_field.documents = of_field.documents.saturating_sub(1);
                of_field.words = of_field.words.saturating_sub(u64::from(len));
            }
        }
    }

    /// Adds a segment that was sealed before the node was started. Documents of collections that are no more are dead.
    pub(super) fn add_sealed(&self, sealed: Sealed, is_there: impl Fn(CollectionId) -> bool) {
        let mut statistics = self.statistics.write();
        for document in 0..sealed.segment.len() {
            let collection = sealed.segment.collection(document);
            if !sealed.deaths.is_visible(document, 0) {
                continue;
            }
            if !is_there(collection) {
                sealed.deaths.kill(document, 0);
                continue;
            }
            for field in 0..FIELDS as u8 {
                let len = len_of(sealed.segment.len_code(field, document));
                if len > 0 {
                    let of_field = statistics.entry((collection, field)).or_default();
                    of_field.documents += 1;
                    of_field.words += u64::from(len);
                }
            }
        }
        self.shelf.write().sealed.push(Arc::new(sealed));
    }

    /// Whether a number has a document, or is known to have none any more.
    pub(super) fn knows(&self, number: u64) -> bool {
        let shelf = self.shelf.read();
        let is_alive = |sealed: &Arc<Sealed>| {
            let document = sealed.segment.document_of(number);
            document.is_some_and(|document| sealed.deaths.is_visible(document, Sequence::MAX))
        };
        std::iter::once(&shelf.growing).chain(&shelf.frozen).any(|growing| growing.knows(number))
            || shelf.sealed.iter().any(is_alive)
    }

    /// What a kind of work should be done on now, if anything.
    pub(super) fn due(&self, work: Work) -> Option<Inputs> {
        let shelf = self.shelf.read();
        match work {
            Work::Seal => shelf.settled().map(|frozen| Inputs::Frozen(Arc::clone(frozen))),
            Work::Merge => {
                let chosen = tiers::choose(&shelf.sealed);
                (!chosen.is_empty()).then_some(Inputs::Sealed(chosen))
            }
        }
    }

    /// Puts a new segment, of the documents of `inputs` that were alive at `at`, in their place.
    pub(super) fn install(&self, inputs: &Inputs, new: Option<TextSegment>, at: Sequence) {
        let new = new.map(|segment| {
            let deaths = Deaths::new(segment.len() as usize, &roaring::RoaringBitmap::new());
            Arc::new(Sealed { segment, deaths })
        });
        let mut shelf = self.shelf.write();
        if let Some(new) = &new {
            // What died while the segment was written.
            let mut died: Vec<(u64, Sequence)> = Vec::new();
            match inputs {
                Inputs::Frozen(frozen) => {
                    let documents = frozen.documents().into_iter();
                    let died_since = documents.filter_map(|(fresh, died)| Some((fresh.number, died?)));
                    died.extend(died_since.filter(|(_, died)| *died > at));
                }
                Inputs::Sealed(inputs) => {
                    for sealed in inputs {
                        let since = sealed.deaths.since(at).into_iter();
                        died.extend(since.map(|(document, died)| (sealed.segment.number(document), died)));
                    }
                }
            }
            for (number, sequence) in died {
                if let Some(document) = new.segment.document_of(number) {
                    new.deaths.kill(document, sequence);
                }
            }
        }
        match inputs {
            Inputs::Frozen(input) => shelf.frozen.retain(|frozen| !Arc::ptr_eq(input, frozen)),
            Inputs::Sealed(inputs) => {
                shelf.sealed.retain(|sealed| !inputs.iter().any(|input| Arc::ptr_eq(input, sealed)));
            }
        }
        shelf.sealed.extend(new);
        shelf.changed_at = shelf.changed_at.max(self.engine.visible_sequence());
    }
}

impl TextIndex {
    pub(crate) fn view(&self) -> TextView {
        self.shelf.read().view()
    }

    /// What is known of a field of a collection.
    pub(crate) fn statistics(&self, collection: CollectionId, field: u8) -> Statistics {
        self.statistics.read().get(&(collection, field)).copied().unwrap_or_default()
    }

    /// Every document of a collection is gone.
    pub(crate) fn drop_collection(&self, collection: CollectionId) {
        // Later than anything that a merge under way looks at.
        let sequence = self.engine.visible_sequence() + 1;
        let view = self.view();
        for growing in &view.growing {
            for (fresh, _) in growing.documents().iter().filter(|(fresh, _)| fresh.collection == collection) {
                growing.kill(fresh.number, sequence);
            }
        }
        for Sealed { segment, deaths } in view.sealed.iter().map(|sealed| &**sealed) {
            for document in (0..segment.len()).filter(|at| segment.collection(*at) == collection) {
                deaths.kill(document, sequence);
            }
        }
        self.statistics.write().retain(|(of, _), _| *of != collection);
    }

    pub(crate) fn counts(&self) -> TextCounts {
        let view = self.view();
        let fresh: usize = view.growing.iter().map(|growing| growing.living()).sum();
        let sealed: usize = view.sealed.iter().map(|sealed| sealed.living()).sum();
        TextCounts {
            documents: fresh + sealed,
            segments: view.sealed.len(),
            dead: view.sealed.iter().map(|sealed| sealed.deaths.count()).sum(),
            memory_bytes: self.fresh_bytes.load(Ordering::Relaxed),
        }
    }
}
