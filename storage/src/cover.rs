//! What range tombstones hide from a reader or a merge that goes through keys in order.

use std::sync::Arc;

use crate::Sequence;
use crate::memtable::MemtableSet;
use crate::options::Keyspace;
use crate::range_tombstone::{Fragment, RangeTombstones};

/// Where range tombstones are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Memtables(Arc<MemtableSet>, Keyspace),
    Fixed(Arc<RangeTombstones>),
}

impl Source {
    fn fragment(&self, key: &[u8]) -> Fragment {
        match self {
            Source::Memtables(set, keyspace) => set.range_tombstones(*keyspace).map(|all| all.fragment(key)),
            Source::Fixed(tombstones) => Some(tombstones.fragment(key)),
        }
        .unwrap_or_default()
    }
}

/// Range tombstones, and of each source the fragment that the last key lay in: keys come in order, so the next one
/// mostly lies in the same.
#[derive(Debug, Default)]
pub(crate) struct Cover {
    sources: Vec<(Source, Option<Fragment>)>,
}

impl Cover {
    /// Nothing is looked up before the first question.
    pub(crate) fn new(sources: Vec<Source>) -> Cover {
        Cover { sources: sources.into_iter().map(|source| (source, None)).collect() }
    }

    /// Whether a reader at `at` finds that version of the key deleted.
    #[inline]
    pub(crate) fn hides(&mut self, key: &[u8], sequence: Sequence, at: Sequence) -> bool {
        self.sources.iter_mut().any(|(source, fragment)| {
            let fragment = match fragment {
                Some(fragment) if fragment.contains(key) => fragment,
                fragment => fragment.insert(source.fragment(key)),
            };
            sequence < fragment.newest(at)
        })
    }
}
