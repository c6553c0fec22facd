//! Range tombstones: deletions of whole ranges of keys.
//!
//! One with sequence `s` deletes all versions of its keys that are older than `s`. They never lie in tables: those of
//! memtables lie beside the skip lists, and when these are flushed they move into the version and the manifest, where
//! they stay until compaction has applied them to every table they reach.
//!
//! They are kept as fragments, as in RocksDB's `FragmentedRangeTombstoneList`: cut wherever one of them starts or
//! ends, so that a lookup is one search however many there are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::Sequence;

/// How many range tombstones a keyspace may have before range deletes have to wait for compaction.
pub(crate) const MAX_RANGE_TOMBSTONES: usize = 65_536;

/// Memory of a fragment beside its key and its sequences, in bytes.
const FRAGMENT_OVERHEAD_BYTES: usize = 100;

/// The deletion of all older versions of the keys in `lower..upper`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeTombstone {
    pub(crate) lower: Bytes,
    /// `None`: to the end of all keys.
    pub(crate) upper: Option<Bytes>,
    pub(crate) sequence: Sequence,
}

/// The range tombstones of one keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeTombstones {
    /// From each key on to the next, or to the end: the sequences of those that lie there, ascending.
    fragments: BTreeMap<Bytes, Vec<Sequence>>,
    /// Sequences in all fragments.
    len: usize,
}

/// Neighbouring keys that the same range tombstones delete, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// `None`: from the first key on.
    lower: Option<Bytes>,
    upper: Option<Bytes>,
    sequences: Vec<Sequence>,
}

impl Fragment {
    /// Whether `key` is one of the keys.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.lower.as_ref().is_none_or(|lower| lower <= key)
            && self.upper.as_ref().is_none_or(|upper| key < upper)
    }

    /// What a reader at `at` sees: see [`RangeTombstones::newest`].
    pub(crate) fn newest(&self, at: Sequence) -> Sequence {
        newest(&self.sequences, at)
    }
}

fn newest(sequences: &[Sequence], at: Sequence) -> Sequence {
    let seen = sequences.partition_point(|&sequence| sequence <= at);
    seen.checked_sub(1).and_then(|last| sequences.get(last)).copied().unwrap_or(0)
}

impl RangeTombstones {
    /// All of these, as far as anybody can tell them apart: at `live` snapshots, ascending, or at later ones, which see
    /// all of them.
    pub(crate) fn new(tombstones: &[RangeTombstone], live: &[Sequence]) -> RangeTombstones {
        let mut changes: BTreeMap<&Bytes, Vec<(Sequence, bool)>> = BTreeMap::new();
        for tombstone in tombstones {
            changes.entry(&tombstone.lower).or_default().push((tombstone.sequence, true));
            if let Some(upper) = &tombstone.upper {
                changes.entry(upper).or_default().push((tombstone.sequence, false));
            }
        }
        let mut fragments = RangeTombstones::default();
        let mut open: BTreeMap<Sequence, usize> = BTreeMap::new();
        let mut before = Vec::new();
        for (key, changes) in changes {
            for (sequence, _) in changes.iter().filter(|(_, starts)| *starts) {
                *open.entry(*sequence).or_default() += 1;
            }
            for (sequence, _) in changes.iter().filter(|(_, starts)| !starts) {
                if let Some(count) = open.get_mut(sequence) {
                    *count -= 1;
                    if *count == 0 {
                        open.remove(sequence);
                    }
                }
            }
            let seen = live.iter().chain([&Sequence::MAX]);
            let mut sequences: Vec<Sequence> =
                seen.filter_map(|&at| open.range(..=at).next_back()).map(|(&sequence, _)| sequence).collect();
            sequences.dedup();
            if sequences != before {
                fragments.len += sequences.len();
                fragments.fragments.insert(key.clone(), sequences.clone());
                before = sequences;
            }
        }
        fragments
    }

    /// Adds one that is not older than those present. Returns about how much memory that took, in bytes.
    pub(crate) fn insert(&mut self, tombstone: &RangeTombstone) -> usize {
        let RangeTombstone { lower, upper, sequence } = tombstone;
        let mut bytes = self.cut(lower);
        if let Some(upper) = upper {
            bytes += self.cut(upper);
        }
        let end = upper.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for sequences in self.fragments.range_mut::<Bytes, _>((Bound::Included(lower), end)).map(|(_, s)| s) {
            if sequences.last() != Some(sequence) {
                sequences.push(*sequence);
                self.len += 1;
                bytes += size_of::<Sequence>();
            }
        }
        self.join(lower, upper.as_ref());
        bytes
    }

    /// Lets a fragment start at `key`. Returns how much memory that took.
    fn cut(&mut self, key: &Bytes) -> usize {
        if self.fragments.contains_key(key) {
            return 0;
        }
        let before = self.fragments.range::<Bytes, _>(..key).next_back();
        let sequences = before.map(|(_, sequences)| sequences.clone()).unwrap_or_default();
        self.len += sequences.len();
        let bytes = FRAGMENT_OVERHEAD_BYTES + key.len() + size_of_val(sequences.as_slice());
        self.fragments.insert(key.clone(), sequences);
        bytes
    }

    /// Makes one fragment of neighbours from the one before `lower` to that at `upper` between which nothing changes:
    /// otherwise inserting the same ranges over and over would take ever longer.
    fn join(&mut self, lower: &Bytes, upper: Option<&Bytes>) {
        let before = self.fragments.range::<Bytes, _>(..lower).next_back();
        let mut last = before.map(|(_, sequences)| sequences.as_slice()).unwrap_or_default();
        let mut needless = Vec::new();
        let end = upper.map_or(Bound::Unbounded, Bound::Included);
        for (key, sequences) in self.fragments.range::<Bytes, _>((Bound::Included(lower), end)) {
            if sequences == last {
                needless.push(key.clone());
            }
            last = sequences;
        }
        for key in needless {
            self.len -= self.fragments.remove(&key).map_or(0, |sequences| sequences.len());
        }
    }

    /// How many there are after cutting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sequence of the newest one that deletes `key` and is not newer than `at`; 0 if there is none. Versions that
    /// are older are deleted for a reader at `at`.
    pub(crate) fn newest(&self, key: &[u8], at: Sequence) -> Sequence {
        let from = self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        from.map_or(0, |(_, sequences)| newest(sequences, at))
    }

    /// The fragment that `key` lies in.
    pub(crate) fn fragment(&self, key: &[u8]) -> Fragment {
        let from = self.fragments.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        let next = self.fragments.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
        Fragment {
            lower: from.map(|(lower, _)| lower.clone()),
            upper: next.map(|(upper, _)| upper.clone()),
            sequences: from.map(|(_, sequences)| sequences.clone()).unwrap_or_default(),
        }
    }

    /// The fragments from the one that `smallest` lies in to that of `largest`, in order and without a gap: where each
    /// ends, if not behind all keys, and what a reader at `at` sees of it.
    pub(crate) fn between(
        &self,
        smallest: &[u8],
        largest: &[u8],
        at: Sequence,
    ) -> impl Iterator<Item = (Option<&Bytes>, Sequence)> {
        let first = self.newest(smallest, at);
        let inner = (Bound::Excluded(smallest), Bound::Included(largest));
        // The map panics at bounds that exclude everything.
        let inner = (smallest < largest).then(|| self.fragments.range::<[u8], _>(inner));
        let mut inner = inner.into_iter().flatten();
        let behind = self.fragments.range::<[u8], _>((Bound::Excluded(largest), Bound::Unbounded)).next();
        let mut current = Some(first);
        std::iter::from_fn(move || {
            let seen = current?;
            let next = inner.next();
            current = next.map(|(_, sequences)| newest(sequences, at));
            Some((next.or(behind).map(|(upper, _)| upper), seen))
        })
    }

    /// All of them, cut, by their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = RangeTombstone> {
        let uppers = self.fragments.keys().skip(1).map(Some).chain([None]);
        self.fragments.iter().zip(uppers).flat_map(|((lower, sequences), upper)| {
            sequences.iter().map(move |&sequence| RangeTombstone {
                lower: lower.clone(),
                upper: upper.cloned(),
                sequence,
            })
        })
    }
}

/// The range tombstones of a memtable. Without any a read costs one look at a number.
#[derive(Debug, Default)]
pub(crate) struct MemtableRangeTombstones {
    len: AtomicUsize,
    tombstones: RwLock<RangeTombstones>,
}

impl MemtableRangeTombstones {
    /// Adds those of a batch. Returns about how much memory that took, in bytes.
    pub(crate) fn insert(&self, added: &RangeTombstones) -> usize {
        let mut tombstones = self.tombstones.write();
        let bytes = added.iter().map(|tombstone| tombstones.insert(&tombstone)).sum();
        // Whoever may see them has seen the batch become visible, which orders this before his look.
        self.len.store(tombstones.len(), Ordering::Relaxed);
        bytes
    }

    /// As [`RangeTombstones::len`].
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// As [`RangeTombstones::newest`].
    #[inline]
    pub(crate) fn newest(&self, key: &[u8], at: Sequence) -> Sequence {
        if self.len() == 0 { 0 } else { self.tombstones.read().newest(key, at) }
    }

    /// As [`RangeTombstones::fragment`]. Ones that are added later are newer than any reader that asked before.
    pub(crate) fn fragment(&self, key: &[u8]) -> Fragment {
        self.tombstones.read().fragment(key)
    }

    /// A copy, of memtables that take no writes any more.
    pub(crate) fn get(&self) -> RangeTombstones {
        if self.len() == 0 { RangeTombstones::default() } else { self.tombstones.read().clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0u8..3, 0..3).prop_map(Bytes::from)
    }

    fn tombstones() -> impl Strategy<Value = Vec<RangeTombstone>> {
        let one = (key(), prop::option::weighted(0.8, key()), 0u64..3);
        prop::collection::vec(one, 0..12).prop_map(|ranges| {
            let mut sequence = 1;
            let mut tombstones = Vec::new();
            for (lower, upper, step) in ranges {
                sequence += step;
                if upper.as_ref().is_none_or(|upper| lower < *upper) {
                    tombstones.push(RangeTombstone { lower, upper, sequence });
                }
            }
            tombstones
        })
    }

    /// Asks one range after the other.
    fn naive(tombstones: &[RangeTombstone], key: &[u8], at: Sequence) -> Sequence {
        let covers = |tombstone: &&RangeTombstone| {
            tombstone.lower <= key && tombstone.upper.as_ref().is_none_or(|upper| key < upper)
        };
        tombstones
            .iter()
            .filter(covers)
            .map(|tombstone| tombstone.sequence)
            .filter(|&s| s <= at)
            .max()
            .unwrap_or(0)
    }

    fn inserted(tombstones: &[RangeTombstone]) -> RangeTombstones {
        let mut fragments = RangeTombstones::default();
        tombstones.iter().for_each(|tombstone| {
            fragments.insert(tombstone);
        });
        fragments
    }

    proptest! {
        #[test]
        fn fragments_delete_what_the_ranges_delete(
            tombstones in tombstones(),
            keys in prop::collection::vec(key(), 20),
            at in 0u64..40,
        ) {
            let fragments = inserted(&tombstones);
            for key in &keys {
                let expected = naive(&tombstones, key, at);
                prop_assert_eq!(fragments.newest(key, at), expected);
                prop_assert_eq!(fragments.fragment(key).newest(at), expected);
                prop_assert!(fragments.fragment(key).contains(key));
                for other in keys.iter().filter(|other| fragments.fragment(key).contains(other)) {
                    prop_assert_eq!(naive(&tombstones, other, at), expected);
                }
            }
            let listed: Vec<RangeTombstone> = fragments.iter().collect();
            prop_assert_eq!(listed.len(), fragments.len());
            let all: Vec<Sequence> = (0..40).collect();
            prop_assert_eq!(&RangeTombstones::new(&listed, &all), &fragments);
            prop_assert_eq!(RangeTombstones::new(&tombstones, &all), fragments);
        }

        #[test]
        fn fragments_are_kept_as_far_as_somebody_can_tell_them_apart(
            tombstones in tombstones(),
            live in prop::collection::btree_set(0u64..30, 0..4),
            keys in prop::collection::vec(key(), 20),
        ) {
            let live: Vec<Sequence> = live.into_iter().collect();
            let fragments = RangeTombstones::new(&tombstones, &live);
            for key in &keys {
                for at in live.iter().copied().chain(30..32) {
                    prop_assert_eq!(fragments.newest(key, at), naive(&tombstones, key, at));
                }
                prop_assert!(fragments.fragment(key).sequences.len() <= live.len() + 1);
            }
        }

        #[test]
        fn the_fragments_of_a_range_have_no_gap(
            tombstones in tombstones(),
            a in key(),
            b in key(),
            keys in prop::collection::vec(key(), 20),
            at in 0u64..40,
        ) {
            let (smallest, largest) = if a < b { (a, b) } else { (b, a) };
            let fragments = RangeTombstones::new(&tombstones, &[at]);
            let between: Vec<_> = fragments.between(&smallest, &largest, at).collect();
            for key in keys.iter().filter(|key| (&smallest..=&largest).contains(key)).chain([&smallest, &largest]) {
                let (_, seen) = between.iter().find(|(upper, _)| upper.is_none_or(|upper| key < upper)).unwrap();
                prop_assert_eq!(*seen, naive(&tombstones, key, at));
            }
            let ends = between.iter().filter(|(upper, _)| upper.is_none_or(|upper| *upper > largest)).count();
            prop_assert_eq!(ends, 1);
        }
    }

    #[test]
    fn the_same_ranges_over_and_over_take_no_more_room() {
        let range = |lower: u32, upper: u32| RangeTombstone {
            lower: Bytes::copy_from_slice(&lower.to_be_bytes()),
            upper: Some(Bytes::copy_from_slice(&upper.to_be_bytes())),
            sequence: 7,
        };
        // One batch: each within the next.
        let nested: Vec<RangeTombstone> = (0..1000).map(|n| range(1000 - n, 1001 + n)).collect();
        assert_eq!(inserted(&nested).len(), 1);
        assert_eq!(
            inserted(&[range(0, 5), range(10, 15), range(5, 10)]).iter().collect::<Vec<_>>(),
            [range(0, 15)]
        );
    }
}
