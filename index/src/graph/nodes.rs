//! Which nodes are there: three bits in memory for each number, and more of those few of which there is more to know.
//!
//! A walk asks this of every edge that it follows, so that it must not cost more than a look into a small table.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use allidb_storage::Sequence;
use foldhash::HashMap;
use parking_lot::RwLock;

use crate::model::Timestamp;

/// Numbers of a page.
const PAGE: u64 = 1 << 16;
const WORDS: usize = PAGE as usize / 64;

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// There is such an entity; otherwise it is but an end of edges.
    pub(crate) exists: bool,
    /// The number is nobody's any more, and never will be.
    pub(crate) gone: bool,
    /// From when on it is as if it did not exist.
    pub(crate) expire_at: Option<Timestamp>,
    /// Edges from before this sequence are no more.
    pub(crate) cleared: Sequence,
}

impl NodeState {
    /// Whether walks may come here at `now`.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.exists && self.expire_at.is_none_or(|at| now < at)
    }

    /// Whether bits tell all.
    fn is_plain(&self) -> bool {
        self.expire_at.is_none() && self.cleared == 0
    }
}

/// For each 64 numbers: who is there, of whom there is more to know, and who is gone.
#[derive(Debug)]
struct Page([[AtomicU64; 3]; WORDS]);

/// The states of all nodes, as they are and, for queries that were pinned before the last changes, as they were.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pages: RwLock<Arc<Vec<Option<Arc<Page>>>>>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    special: HashMap<u64, Special>,
    /// What changed lately, in that order.
    recent: VecDeque<(Sequence, u64)>,
}

#[derive(Debug, Default)]
struct Special {
    now: NodeState,
    /// What it was before each of the last changes, oldest first.
    before: Vec<(Sequence, NodeState)>,
}

/// The states as of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct NodesView<'a> {
    pages: Arc<Vec<Option<Arc<Page>>>>,
    nodes: &'a Nodes,
    at: Sequence,
}

impl Nodes {
    fn known_page(&self, number: u64) -> Option<Arc<Page>> {
        self.pages.read().get((number / PAGE) as usize).cloned().flatten()
    }

    fn page(&self, number: u64) -> Arc<Page> {
        let at = (number / PAGE) as usize;
        if let Some(page) = self.known_page(number) {
            return page;
        }
        let mut pages = self.pages.write();
        let mut grown = Vec::clone(&pages);
        grown.resize(grown.len().max(at + 1), None);
        let page = grown[at].get_or_insert_with(|| Arc::new(Page::new()));
        let page = Arc::clone(page);
        *pages = Arc::new(grown);
        page
    }

    /// A node is so since long ago: what a start finds in segments, oldest first.
    pub(crate) fn found(&self, number: u64, state: NodeState) {
        let page = self.page(number);
        if state.is_plain() && self.known.read().special.is_empty() {
            page.tell(number, state, false);
            return;
        }
        let special = &mut self.known.write().special;
        match state.is_plain() {
            true => special.remove(&number),
            false => special.insert(number, Special { now: state, before: Vec::new() }),
        };
        page.tell(number, state, !state.is_plain());
    }

    /// The node is so from `sequence` on. Changes come in the order of their sequences.
    pub(crate) fn set(&self, number: u64, state: NodeState, sequence: Sequence) {
        let page = self.page(number);
        let mut known = self.known.write();
        let Known { special, recent } = &mut *known;
        let entry =
            special.entry(number).or_insert_with(|| Special { now: page.told(number), before: Vec::new() });
        if entry.now != state {
            entry.before.push((sequence, entry.now));
            entry.now = state;
        }
        recent.push_back((sequence, number));
        page.tell(number, state, true);
    }

    /// The state that a node has now.
    pub(crate) fn get(&self, number: u64) -> NodeState {
        self.view(Sequence::MAX).get(number)
    }

    /// Forgets what no query pinned at `oldest` or later needs to know.
    pub(crate) fn forget_before(&self, oldest: Sequence) {
        let mut known = self.known.write();
        let Known { special, recent } = &mut *known;
        while let Some((_, number)) = recent.pop_front_if(|(changed, _)| *changed <= oldest) {
            let Some(entry) = special.get_mut(&number) else { continue };
            entry.before.retain(|(changed, _)| *changed > oldest);
            if entry.before.is_empty() && entry.now.is_plain() {
                let now = entry.now;
                special.remove(&number);
                self.page(number).tell(number, now, false);
            }
        }
        if special.capacity() > 4 * special.len() + 1_024 {
            special.shrink_to_fit();
        }
    }

    pub(crate) fn view(&self, at: Sequence) -> NodesView<'_> {
        NodesView { pages: Arc::clone(&self.pages.read()), nodes: self, at }
    }

    /// Bytes in memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let pages = self.pages.read().iter().flatten().count();
        pages * size_of::<Page>() + self.known.read().special.capacity() * (size_of::<Special>() + 16)
    }
}

impl NodesView<'_> {
    /// Whether walks may come to a node at `now`, if that is all that there is to know of it; `None`: see [`NodesView::get`].
    #[inline]
    pub(crate) fn is_plainly_live(&self, number: u64) -> Option<bool> {
        let Some(Some(page)) = self.pages.get((number / PAGE) as usize) else { return None };
        let [exists, special, _] = page.words(number);
        let bit = 1 << (number % 64);
        let is_there = exists.load(Ordering::Acquire) & bit != 0;
        (special.load(Ordering::Acquire) & bit == 0).then_some(is_there)
    }

    /// The state of a node.
    pub(crate) fn get(&self, number: u64) -> NodeState {
        match self.pages.get((number / PAGE) as usize) {
            Some(Some(page)) => self.told_by(page, number),
            // A page that came to be since the view was taken has only what came since.
            _ => self
                .nodes
                .known_page(number)
                .map_or_else(NodeState::default, |page| self.told_by(&page, number)),
        }
    }

    fn told_by(&self, page: &Page, number: u64) -> NodeState {
        let told = page.told(number);
        if !page.is_special(number) {
            return told;
        }
        let known = self.nodes.known.read();
        let Some(special) = known.special.get(&number) else {
            // Forgotten since: bits tell all.
            return page.told(number);
        };
        let changed = special.before.iter().find(|(changed, _)| *changed > self.at);
        changed.map_or(special.now, |(_, before)| *before)
    }
}

impl Page {
    fn new() -> Self {
        Self(std::array::from_fn(|_| [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]))
    }

    fn words(&self, number: u64) -> &[AtomicU64; 3] {
        &self.0[(number % PAGE) as usize / 64]
    }

    fn is_special(&self, number: u64) -> bool {
        self.words(number)[1].load(Ordering::Acquire) & 1 << (number % 64) != 0
    }

    /// What bits say of a number.
    fn told(&self, number: u64) -> NodeState {
        let [exists, _, gone] = self.words(number);
        let has = |word: &AtomicU64| word.load(Ordering::Acquire) & 1 << (number % 64) != 0;
        NodeState { exists: has(exists), gone: has(gone), ..NodeState::default() }
    }

    /// Sets the bits of a number.
    fn tell(&self, number: u64, state: NodeState, is_special: bool) {
        let [exists, special, gone] = self.words(number);
        let set = |word: &AtomicU64, is_so: bool| match is_so {
            true => word.fetch_or(1 << (number % 64), Ordering::AcqRel),
            false => word.fetch_and(!(1 << (number % 64)), Ordering::AcqRel),
        };
        if is_special {
            // First, which readers reverse: who sees the other bits as they are now also sees that there is more to know.
            set(special, true);
        }
        set(exists, state.exists);
        set(gone, state.gone);
        if !is_special {
            set(special, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_see_nodes_as_they_were_when_they_were_pinned() {
        let nodes = Nodes::default();
        let there = NodeState { exists: true, ..NodeState::default() };
        let expiring = NodeState { expire_at: Some(Timestamp(50)), ..there };
        let cleared = NodeState { cleared: 40, ..there };
        for (sequence, state) in [(10, there), (20, expiring), (30, NodeState::default()), (40, cleared)] {
            nodes.set(70_000, state, sequence);
        }
        let seen = |at| nodes.view(at).get(70_000);
        assert_eq!([seen(9), seen(10), seen(19)], [NodeState::default(), there, there]);
        assert_eq!([seen(20), seen(30), seen(40)], [expiring, NodeState::default(), cleared]);
        assert!(seen(20).is_live(Timestamp(49)));
        assert!(!seen(20).is_live(Timestamp(50)));
        nodes.forget_before(30);
        assert_eq!([seen(30), seen(40)], [NodeState::default(), cleared]);
        nodes.set(70_000, there, 60);
        nodes.forget_before(60);
        assert_eq!(nodes.view(60).is_plainly_live(70_000), Some(true));
        let gone = NodeState { gone: true, ..NodeState::default() };
        nodes.set(70_001, gone, 70);
        assert_eq!([nodes.view(69).get(70_001), nodes.view(70).get(70_001)], [NodeState::default(), gone]);
        nodes.forget_before(70);
        assert_eq!((nodes.get(70_001), nodes.known.read().special.len()), (gone, 0));
        nodes.found(3, there);
        nodes.found(4, expiring);
        nodes.found(4, there);
        assert_eq!([nodes.get(3), nodes.get(4)], [there, there]);
        assert_eq!(nodes.get(69_999), NodeState::default());
        assert_eq!(nodes.get(1 << 40), NodeState::default());
    }
}
