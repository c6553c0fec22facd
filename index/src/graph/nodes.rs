//! Which nodes are there: two bits in memory for each number, and more of those few of which there is more to know.
//!
//! A walk asks this of every edge that it follows, so that it must not cost more than a look into a small table.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
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

    /// Whether one bit tells all.
    fn is_plain(&self) -> bool {
        !self.gone && self.expire_at.is_none() && self.cleared == 0
    }
}

/// For each 64 numbers: who is there, and of whom there is more to know.
#[derive(Debug)]
struct Page([[AtomicU64; 2]; WORDS]);

/// The states of all nodes, as they are and, for queries that were pinned before the last changes, as they were.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pages: RwLock<Arc<Vec<Option<Arc<Page>>>>>,
    special: RwLock<HashMap<u64, Special>>,
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
    fn page(&self, number: u64) -> Arc<Page> {
        let at = (number / PAGE) as usize;
        if let Some(Some(page)) = self.pages.read().get(at) {
            return Arc::clone(page);
        }
        let mut pages = self.pages.write();
        let mut grown = Vec::clone(&pages);
        grown.resize(grown.len().max(at + 1), None);
        let page = grown[at].get_or_insert_with(|| Arc::new(Page::new()));
        let page = Arc::clone(page);
        *pages = Arc::new(grown);
        page
    }

    /// The node is so from `sequence` on. Changes come in the order of their sequences.
    pub(crate) fn set(&self, number: u64, state: NodeState, sequence: Sequence) {
        let page = self.page(number);
        let [exists, special] = page.words(number);
        let bit = 1 << (number % 64);
        let mut known = self.special.write();
        let entry = known.entry(number).or_insert_with(|| {
            let now = NodeState { exists: exists.load(Ordering::Acquire) & bit != 0, ..NodeState::default() };
            Special { now, before: Vec::new() }
        });
        if entry.now != state {
            entry.before.push((sequence, entry.now));
            entry.now = state;
        }
        // In this order, which readers reverse: who sees the new bit also sees that there is more to know.
        special.fetch_or(bit, Ordering::AcqRel);
        match state.exists {
            true => exists.fetch_or(bit, Ordering::AcqRel),
            false => exists.fetch_and(!bit, Ordering::AcqRel),
        };
    }

    /// The state that a node has now.
    pub(crate) fn get(&self, number: u64) -> NodeState {
        self.view(Sequence::MAX).get(number)
    }

    /// Forgets what no query pinned at `oldest` or later needs to know.
    pub(crate) fn forget_before(&self, oldest: Sequence) {
        let mut known = self.special.write();
        known.retain(|number, special| {
            special.before.retain(|(changed, _)| *changed > oldest);
            let is_special = !special.before.is_empty() || !special.now.is_plain();
            if !is_special {
                let page = self.page(*number);
                page.words(*number)[1].fetch_and(!(1 << (number % 64)), Ordering::AcqRel);
            }
            is_special
        });
        known.shrink_to_fit();
    }

    pub(crate) fn view(&self, at: Sequence) -> NodesView<'_> {
        NodesView { pages: Arc::clone(&self.pages.read()), nodes: self, at }
    }

    /// Bytes in memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let pages = self.pages.read().iter().flatten().count();
        pages * size_of::<Page>() + self.special.read().capacity() * (size_of::<Special>() + 16)
    }
}

impl NodesView<'_> {
    /// Whether walks may come to a node at `now`, if that is all that there is to know of it; `None`: see [`NodesView::get`].
    #[inline]
    pub(crate) fn is_plainly_live(&self, number: u64) -> Option<bool> {
        let Some(Some(page)) = self.pages.get((number / PAGE) as usize) else { return None };
        let [exists, special] = page.words(number);
        let bit = 1 << (number % 64);
        let is_there = exists.load(Ordering::Acquire) & bit != 0;
        (special.load(Ordering::Acquire) & bit == 0).then_some(is_there)
    }

    /// The state of a node.
    pub(crate) fn get(&self, number: u64) -> NodeState {
        if let Some(exists) = self.is_plainly_live(number) {
            return NodeState { exists, ..NodeState::default() };
        }
        let known = self.nodes.special.read();
        let Some(special) = known.get(&number) else {
            // Forgotten since, or never heard of: the bit tells all.
            let page = self.nodes.pages.read().get((number / PAGE) as usize).cloned().flatten();
            let exists = page
                .is_some_and(|page| page.words(number)[0].load(Ordering::Acquire) & 1 << (number % 64) != 0);
            return NodeState { exists, ..NodeState::default() };
        };
        let changed = special.before.iter().find(|(changed, _)| *changed > self.at);
        changed.map_or(special.now, |(_, before)| *before)
    }
}

impl Page {
    fn new() -> Self {
        Self(std::array::from_fn(|_| [AtomicU64::new(0), AtomicU64::new(0)]))
    }

    fn words(&self, number: u64) -> &[AtomicU64; 2] {
        &self.0[(number % PAGE) as usize / 64]
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
        assert_eq!(seen(20).is_live(Timestamp(49)), true);
        assert_eq!(seen(20).is_live(Timestamp(50)), false);
        nodes.forget_before(30);
        assert_eq!([seen(30), seen(40)], [NodeState::default(), cleared]);
        nodes.set(70_000, there, 60);
        nodes.forget_before(60);
        assert_eq!(nodes.view(60).is_plainly_live(70_000), Some(true));
        assert_eq!(nodes.get(69_999), NodeState::default());
        assert_eq!(nodes.get(1 << 40), NodeState::default());
    }
}
