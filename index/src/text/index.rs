//! The text index of a node: what is fresh, what is sealed, and what is known of all texts of a collection.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use allidb_storage::{Background, Engine, Sequence, fs::Fs};
use foldhash::{HashMap, HashMapExt};
use parking_lot::{Mutex, RwLock};

use crate::{
    clock::Clock,
    deaths::Deaths,
    duty::{Duty, Work},
    keyspaces::Keyspaces,
    model::CollectionId,
    replica::Numbers,
    text::{
        document::{Document, FIELDS, len_of},
        growing::Growing,
        segment::TextSegment,
        tiers,
    },
    worker::Worker,
    writing::Writing,
};

/// Documents of a growing set at most.
const GROWING_DOCUMENTS: usize = 16_000;
/// Bytes of a growing set at most.
const GROWING_BYTES: usize = 32 << 20;
/// Full sets that wait in memory to be sealed, before writes wait for them.
const MAX_FROZEN: usize = 4;
/// Bytes of all of them, before writes wait.
const FRESH_BYTES: usize = (MAX_FROZEN + 2) * GROWING_BYTES;
/// A growing set is sealed, and its memory given back, when nobody has written for so many ticks.
const IDLE_TICKS: u32 = 60;
/// Of the journal of a new store.
pub(super) const FIRST_GENERATION: u64 = 1;

/// The text index.
#[derive(Clone)]
pub(crate) struct TextIndex(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) state: RwLock<State>,
    statistics: RwLock<HashMap<(CollectionId, u8), Statistics>>,
    pub(super) duty: Duty,
    /// Held while the inventory is taken and stored, so that an older one never replaces a newer one.
    pub(super) remembering: Mutex<()>,
    /// Generation and fill of the growing set at the last tick, and for how many ticks they have been so.
    idle: Mutex<(u64, usize, u32)>,
    pub(super) workers: [Worker; Work::ALL.len()],
    pub(super) fresh_bytes: Arc<AtomicUsize>,
    pub(super) background: Arc<dyn Background>,
    pub(super) engine: Engine,
    pub(super) keyspaces: Keyspaces,
    pub(super) numbers: Arc<Numbers>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) closed: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) growing: Arc<Growing>,
    /// Full, waiting to be sealed; oldest first.
    pub(super) frozen: Vec<Arc<Growing>>,
    pub(super) sealed: Vec<Arc<Sealed>>,
    /// Queries pinned before this sequence need a view that was taken before.
    changed_at: Sequence,
    /// While the journal is replayed, the oldest generation of it: documents are still in the journal under that or a later one.
    pub(super) replayed_from: Option<u64>,
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
#[derive(Clone, Debug)]
pub(crate) struct TextView {
    pub(crate) growing: Vec<Arc<Growing>>,
    pub(crate) sealed: Vec<Arc<Sealed>>,
    changed_at: Sequence,
}

impl TextView {
    /// Whether it shows what a query pinned at `sequence` is to see.
    pub(crate) fn fits(&self, sequence: Sequence) -> bool {
        self.changed_at <= sequence
    }
}

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

impl State {
    /// Nothing yet; what comes is in the journal from a generation on, until the replay of that has ended.
    pub(super) fn new(generation: u64, replayed_from: u64, fresh_bytes: &Arc<AtomicUsize>) -> Self {
        let growing = Arc::new(Growing::new(generation, replayed_from, fresh_bytes));
        let replayed_from = Some(replayed_from);
        Self { growing, frozen: Vec::new(), sealed: Vec::new(), changed_at: 0, replayed_from }
    }
}

impl Inner {
    pub(super) fn new(
        context: super::open::TextContext,
        dir: PathBuf,
        state: State,
        fresh_bytes: Arc<AtomicUsize>,
    ) -> Self {
        let super::open::TextContext { background, engine, keyspaces, numbers, clock, fs, .. } = context;
        Self {
            state: RwLock::new(state),
            statistics: RwLock::new(HashMap::new()),
            duty: Duty::default(),
            remembering: Mutex::new(()),
            idle: Mutex::default(),
            workers: [Worker::new("text-seal"), Worker::new("text-merge")],
            fresh_bytes,
            background,
            engine,
            keyspaces,
            numbers,
            clock,
            fs,
            dir,
            closed: AtomicBool::new(false),
        }
    }

    /// Opens the growing set for a change. What is journaled under its generation must be so before it is dropped.
    pub(super) fn begin_write(&self) -> Writing<Growing> {
        let is_full =
            |growing: &Growing| growing.fill() >= GROWING_DOCUMENTS || growing.bytes() >= GROWING_BYTES;
        let state = self.state.read();
        if !is_full(&state.growing) {
            return Writing::new(&state.growing);
        }
        drop(state);
        let mut state = self.state.write();
        if is_full(&state.growing) {
            self.rotate(&mut state);
        }
        Writing::new(&state.growing)
    }

    pub(super) fn rotate(&self, state: &mut State) {
        let generation = state.growing.generation + 1;
        let journaled_from = state.replayed_from.unwrap_or(generation);
        let next = Arc::new(Growing::new(generation, journaled_from, &self.fresh_bytes));
        let full = std::mem::replace(&mut state.growing, next);
        state.frozen.push(full);
    }

    /// Closes the growing set if there is anything in it.
    pub(super) fn close_growing(&self) {
        let mut state = self.state.write();
        if state.growing.fill() > 0 {
            self.rotate(&mut state);
        }
    }

    /// The number's text is this from `sequence` on.
    pub(super) fn publish(&self, change: &TextChange, sequence: Sequence) {
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
        let state = self.state.read();
        let mut growing = std::iter::once(&state.growing).chain(state.frozen.iter().rev());
        if let Some(fresh) = growing.find_map(|growing| growing.kill(number, sequence)) {
            self.uncount(fresh.collection, |field| fresh.len_codes[usize::from(field)]);
            return;
        }
        for sealed in &state.sealed {
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
        self.state.write().sealed.push(Arc::new(sealed));
    }

    /// Whether a number has a document, or is known to have none any more.
    pub(super) fn knows(&self, number: u64) -> bool {
        let state = self.state.read();
        let is_alive = |sealed: &Arc<Sealed>| {
            let document = sealed.segment.document_of(number);
            document.is_some_and(|document| sealed.deaths.is_visible(document, Sequence::MAX))
        };
        std::iter::once(&state.growing).chain(&state.frozen).any(|growing| growing.knows(number))
            || state.sealed.iter().any(is_alive)
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.state.read().frozen.len() >= MAX_FROZEN || self.is_over_budget()
    }

    /// Whether fresh texts take more memory than they may, those included that searches still read.
    pub(super) fn is_over_budget(&self) -> bool {
        self.fresh_bytes.load(Ordering::Relaxed) > FRESH_BYTES
    }

    /// What a kind of work should be done on now, if anything.
    pub(super) fn due(&self, work: Work) -> Option<Inputs> {
        let state = self.state.read();
        match work {
            Work::Seal => {
                let first = state.frozen.first().filter(|frozen| frozen.is_settled());
                first.map(|frozen| Inputs::Frozen(Arc::clone(frozen)))
            }
            Work::Merge => {
                let chosen = tiers::choose(&state.sealed);
                (!chosen.is_empty()).then_some(Inputs::Sealed(chosen))
            }
        }
    }

    /// A second has passed. A growing set that nobody writes to is closed, so that it can be sealed.
    pub(super) fn tick(&self) {
        self.duty.tick();
        let mut idle = self.idle.lock();
        let mut state = self.state.write();
        let (generation, fill) = (state.growing.generation, state.growing.fill());
        let ticks = if (idle.0, idle.1) == (generation, fill) { idle.2.saturating_add(1) } else { 0 };
        *idle = (generation, fill, ticks);
        if fill > 0 && ticks >= IDLE_TICKS && state.frozen.len() < MAX_FROZEN {
            self.rotate(&mut state);
        }
    }

    /// Puts a new segment, of the documents of `inputs` that were alive at `at`, in their place.
    pub(super) fn install(&self, inputs: &Inputs, new: Option<TextSegment>, at: Sequence) {
        let new = new.map(|segment| {
            let deaths = Deaths::new(segment.len() as usize, &roaring::RoaringBitmap::new());
            Arc::new(Sealed { segment, deaths })
        });
        let mut state = self.state.write();
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
            Inputs::Frozen(input) => state.frozen.retain(|frozen| !Arc::ptr_eq(input, frozen)),
            Inputs::Sealed(inputs) => {
                state.sealed.retain(|sealed| !inputs.iter().any(|input| Arc::ptr_eq(input, sealed)));
            }
        }
        state.sealed.extend(new);
        state.changed_at = state.changed_at.max(self.engine.visible_sequence());
    }
}

impl TextIndex {
    /// Opens the growing set for a change, whose journal row is to be written under the generation that comes with it.
    pub(crate) fn begin_write(&self) -> Writing<Growing> {
        self.0.begin_write()
    }

    /// Makes a change so from `sequence` on.
    pub(crate) fn publish(&self, change: &TextChange, sequence: Sequence) {
        self.0.publish(change, sequence);
    }

    pub(crate) fn view(&self) -> TextView {
        let state = self.0.state.read();
        TextView {
            growing: state.frozen.iter().chain([&state.growing]).cloned().collect(),
            sealed: state.sealed.clone(),
            changed_at: state.changed_at,
        }
    }

    /// What is known of a field of a collection.
    pub(crate) fn statistics(&self, collection: CollectionId, field: u8) -> Statistics {
        self.0.statistics.read().get(&(collection, field)).copied().unwrap_or_default()
    }

    /// Every document of a collection is gone.
    pub(crate) fn drop_collection(&self, collection: CollectionId) {
        // Later than anything that a merge under way looks at.
        let sequence = self.0.engine.visible_sequence() + 1;
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
        self.0.statistics.write().retain(|(of, _), _| *of != collection);
    }

    pub(crate) fn counts(&self) -> TextCounts {
        let view = self.view();
        let fresh: usize = view.growing.iter().map(|growing| growing.living()).sum();
        let sealed: usize = view.sealed.iter().map(|sealed| sealed.living()).sum();
        TextCounts {
            documents: fresh + sealed,
            segments: view.sealed.len(),
            dead: view.sealed.iter().map(|sealed| sealed.deaths.count()).sum(),
            memory_bytes: self.0.fresh_bytes.load(Ordering::Relaxed),
        }
    }

    /// Ends background work soon.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }
}
