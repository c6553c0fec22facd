//! Which versions of a key somebody may still see.

use crate::Sequence;
use crate::cover::Cover;
use crate::key::Kind;

/// Goes through the versions of keys, newest first, and says which to keep.
///
/// The live snapshots divide the sequences into stripes. Of the versions in one stripe only the newest is seen
/// by anybody; a tombstone that all snapshots see, and that hides nothing further down, is not needed at all. A version
/// that a range tombstone of its stripe deletes is seen by nobody.
#[derive(Debug)]
pub(crate) struct Retention {
    /// Ascending; the last is the newest visible sequence, for those who come later.
    snapshots: Vec<Sequence>,
    key: Vec<u8>,
    /// The stripe of the version before, of the same key.
    stripe: Option<usize>,
    range_tombstones: Cover,
}

impl Retention {
    /// `snapshots` ascending. The range tombstones must be as durable as what is kept.
    pub(crate) fn new(snapshots: Vec<Sequence>, range_tombstones: Cover) -> Retention {
        Retention { snapshots, key: Vec::new(), stripe: None, range_tombstones }
    }

    /// Whether the next version is kept. `is_lowest` says whether nothing of the key lies further down.
    pub(crate) fn keeps(
        &mut self,
        key: &[u8],
        sequence: Sequence,
        kind: Kind,
        is_lowest: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        if self.stripe.is_none() || self.key != key {
            self.key.clear();
            self.key.extend_from_slice(key);
            self.stripe = None;
        }
        let stripe = self.snapshots.partition_point(|&snapshot| snapshot < sequence);
        // Whoever sees the version, and nothing newer of the key, sees at least as much as the snapshot that ends the
        // stripe. What the version hides, the range tombstone hides as well.
        if let Some(&at) = self.snapshots.get(stripe)
            && self.range_tombstones.hides(key, sequence, at)
        {
            return false;
        }
        // Snapshots yet to come may lie between versions that are newer than all present ones.
        let hidden = self.stripe == Some(stripe) && stripe < self.snapshots.len();
        self.stripe = Some(stripe);
        let seen_by_all = stripe == 0 && !self.snapshots.is_empty();
        let needless = kind == Kind::Tombstone && seen_by_all && is_lowest(key);
        !hidden && !needless
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::Source;
    use crate::range_tombstone::{RangeTombstone, RangeTombstones};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    /// What a reader at `snapshot` finds among versions, newest first.
    fn seen(versions: &[(u64, bool)], snapshot: u64) -> Option<u64> {
        versions
            .iter()
            .find(|(sequence, _)| *sequence <= snapshot)
            .filter(|(_, is_value)| *is_value)
            .map(|(sequence, _)| *sequence)
    }

    proptest! {
        #[test]
        fn no_reader_notices_and_nothing_needless_stays(
            sequences in prop::collection::btree_map(1u64..30, any::<bool>(), 1..20),
            snapshots in prop::collection::btree_set(0u64..30, 0..5),
            newest in 0u64..35,
            below: bool,
        ) {
            let versions: Vec<(u64, bool)> = sequences.into_iter().rev().collect();
            let live: BTreeSet<u64> = snapshots.into_iter().filter(|&at| at < newest).chain([newest]).collect();
            let mut retention = Retention::new(live.iter().copied().collect(), Cover::default());
            let kept: Vec<(u64, bool)> = versions
                .iter()
                .copied()
                .filter(|(sequence, is_value)| {
                    let kind = if *is_value { Kind::Value } else { Kind::Tombstone };
                    retention.keeps(b"key", *sequence, kind, |_| !below)
                })
                .collect();
            for at in live.iter().copied().chain(newest..40) {
                prop_assert_eq!(seen(&kept, at), seen(&versions, at), "at {}", at);
            }
            let visible = kept.iter().filter(|(sequence, _)| *sequence <= newest).count();
            prop_assert!(visible <= live.len());
            if below {
                // Something further down may be hidden by each tombstone that somebody sees first.
                for at in live {
                    let first = |versions: &[(u64, bool)]| versions.iter().find(|(s, _)| *s <= at).copied();
                    prop_assert_eq!(first(&kept), first(&versions));
                }
            }
        }
    }

    #[test]
    fn a_tombstone_stays_while_an_older_value_lies_below() {
        let mut retention = Retention::new(vec![9], Cover::default());
        assert!(retention.keeps(b"a", 5, Kind::Tombstone, |_| false));
        assert!(!retention.keeps(b"b", 5, Kind::Tombstone, |_| true));
    }

    proptest! {
        #[test]
        fn what_range_tombstones_delete_goes_unless_a_snapshot_sees_it(
            sequences in prop::collection::btree_map(1u64..30, any::<bool>(), 1..20),
            ranges in prop::collection::btree_set(1u64..30, 1..5),
            snapshots in prop::collection::btree_set(0u64..30, 0..5),
        ) {
            let versions: Vec<(u64, bool)> = sequences.into_iter().rev().collect();
            let live: Vec<Sequence> = snapshots.into_iter().chain([40]).collect();
            let tombstones: Vec<RangeTombstone> = ranges
                .iter()
                .map(|&sequence| RangeTombstone { lower: "a".into(), upper: None, sequence })
                .collect();
            let cover = Cover::new(vec![Source::Fixed(Arc::new(RangeTombstones::new(&tombstones, &live)))]);
            let mut retention = Retention::new(live.clone(), cover);
            let kept: Vec<(u64, bool)> = versions
                .iter()
                .copied()
                .filter(|(sequence, is_value)| {
                    let kind = if *is_value { Kind::Value } else { Kind::Tombstone };
                    retention.keeps(b"key", *sequence, kind, |_| false)
                })
                .collect();
            for &at in &live {
                let newest = ranges.range(..=at).next_back().copied().unwrap_or(0);
                let seen = |versions: &[(u64, bool)]| seen(versions, at).filter(|&sequence| sequence >= newest);
                prop_assert_eq!(seen(&kept), seen(&versions), "at {}", at);
            }
            // Nothing that all later readers find deleted is left above the newest snapshot below it.
            for &(sequence, _) in &kept {
                let at = *live.iter().find(|&&at| at >= sequence).unwrap();
                prop_assert!(ranges.range(..=at).next_back().is_none_or(|&newest| sequence >= newest));
            }
        }
    }
}
