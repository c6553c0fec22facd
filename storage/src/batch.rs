//! A batch of changes that becomes visible, and survives, as a whole or not at all.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::Sequence;
use crate::coding::{Decoder, put_varint, varint_len};
use crate::key::prefix_successor;
use crate::options::Keyspace;
use crate::range_tombstone::{RangeTombstone, RangeTombstones};

const TAG_DELETE: u8 = 0;
const TAG_PUT: u8 = 1;
/// A range with an upper end.
const TAG_DELETE_RANGE: u8 = 2;
/// A range to the end of all keys.
const TAG_DELETE_FROM: u8 = 3;

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) keyspace: Keyspace,
    pub(crate) key: Bytes,
    pub(crate) kind: ChangeKind,
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Put(Bytes),
    Delete,
    /// All keys from this one on go, up to this upper end, itself not included, if there is one.
    DeleteRange(Option<Bytes>),
}

/// Changes to any number of keyspaces under one sequence. Of two changes of the same key the later wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    changes: Vec<Change>,
    byte_len: usize,
    puts: usize,
    range_deletes: usize,
    uses_reserve: bool,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// An empty batch with room for `changes` changes.
    pub fn with_capacity(changes: usize) -> WriteBatch {
        WriteBatch { changes: Vec::with_capacity(changes), ..WriteBatch::default() }
    }

    /// Sets `key` to `value`. Both are kept without a copy until they are flushed, so slices of one large
    /// buffer keep that buffer alive.
    pub fn put(&mut self, keyspace: Keyspace, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.puts += 1;
        self.push(Change { keyspace, key, kind: ChangeKind::Put(value) });
    }

    /// Removes `key`, whether it exists or not.
    pub fn delete(&mut self, keyspace: Keyspace, key: impl Into<Bytes>) {
        self.push(Change { keyspace, key: key.into(), kind: ChangeKind::Delete });
    }

    /// Removes all keys from `lower` on, up to `upper` without that key itself, or to the end of all keys: those of
    /// before the batch, and those that earlier changes of the batch set. A range without keys changes nothing.
    ///
    /// Takes the same time however many keys there are; compaction gives their space back. A keyspace takes about
    /// 65,536 of these at a time, beyond that [`Error::Busy`](crate::Error::Busy) asks to wait for compaction.
    pub fn delete_range(&mut self, keyspace: Keyspace, lower: impl Into<Bytes>, upper: Option<Bytes>) {
        let key = lower.into();
        if upper.as_ref().is_none_or(|upper| key < *upper) {
            self.range_deletes += 1;
            self.push(Change { keyspace, key, kind: ChangeKind::DeleteRange(upper) });
        }
    }

    /// Removes all keys that start with `prefix`, as [`delete_range`](WriteBatch::delete_range) does.
    pub fn delete_prefix(&mut self, keyspace: Keyspace, prefix: impl Into<Bytes>) {
        let prefix = prefix.into();
        let upper = prefix_successor(&prefix).map(Bytes::from);
        self.delete_range(keyspace, prefix, upper);
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The size in the log, in bytes, without the record's header.
    pub fn byte_len(&self) -> usize {
        varint_len(self.changes.len() as u64) + self.byte_len
    }

    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// How many changes delete a range.
    pub(crate) fn range_deletes(&self) -> usize {
        self.range_deletes
    }

    /// The changes of single keys, without those that a later range delete undoes; and the range deletes by keyspace.
    pub(crate) fn into_parts(self, sequence: Sequence) -> (Vec<Change>, BTreeMap<Keyspace, RangeTombstones>) {
        let mut ranges = BTreeMap::<Keyspace, RangeTombstones>::new();
        if self.range_deletes == 0 {
            return (self.changes, ranges);
        }
        let mut changes = Vec::with_capacity(self.changes.len() - self.range_deletes);
        for Change { keyspace, key: lower, kind } in self.changes.into_iter().rev() {
            match kind {
                ChangeKind::DeleteRange(upper) => {
                    ranges.entry(keyspace).or_default().insert(&RangeTombstone { lower, upper, sequence });
                }
                kind => {
                    let later = ranges.get(&keyspace);
                    if later.is_none_or(|later| later.newest(&lower, sequence) == 0) {
                        changes.push(Change { keyspace, key: lower, kind });
                    }
                }
            }
        }
        changes.reverse();
        (changes, ranges)
    }

    /// Whether the batch only deletes, so that it helps against a full disk.
    pub fn only_deletes(&self) -> bool {
        self.puts == 0
    }

    /// Lets the batch through although less than [`Options::min_free_bytes`](crate::Options::min_free_bytes) is free, as if
    /// it only deleted: for small puts that lead to more space, such as a note that something is to be swept.
    pub fn use_reserve(&mut self) {
        self.uses_reserve = true;
    }

    pub(crate) fn may_use_reserve(&self) -> bool {
        self.uses_reserve || self.only_deletes()
    }

    fn push(&mut self, change: Change) {
        let with_len = |bytes: &Bytes| varint_len(bytes.len() as u64) + bytes.len();
        let second = match &change.kind {
            ChangeKind::Put(second) | ChangeKind::DeleteRange(Some(second)) => with_len(second),
            ChangeKind::Delete | ChangeKind::DeleteRange(None) => 0,
        };
        self.byte_len += 1 + varint_len(u64::from(change.keyspace.0)) + with_len(&change.key) + second;
        self.changes.push(change);
    }

    /// Appends the batch in the log's format: see "Batch" in `docs/format.md`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.changes.len() as u64);
        for change in &self.changes {
            let (tag, second) = match &change.kind {
                ChangeKind::Put(value) => (TAG_PUT, Some(value)),
                ChangeKind::Delete => (TAG_DELETE, None),
                ChangeKind::DeleteRange(Some(upper)) => (TAG_DELETE_RANGE, Some(upper)),
                ChangeKind::DeleteRange(None) => (TAG_DELETE_FROM, None),
            };
            out.push(tag);
            put_varint(out, u64::from(change.keyspace.0));
            for bytes in [Some(&change.key), second].into_iter().flatten() {
                put_varint(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }

    /// Reads what [`encode`](WriteBatch::encode) wrote; keys and values are slices of `bytes`. `None` if it
    /// is something else.
    pub(crate) fn decode(bytes: &Bytes) -> Option<WriteBatch> {
        let mut decoder = Decoder::new(bytes);
        let count = decoder.len()?;
        // Each change takes at least three bytes: never reserve more than what can be there.
        let mut batch = WriteBatch::with_capacity(count.min(bytes.len() / 3));
        for _ in 0..count {
            let tag = decoder.u8()?;
            let keyspace = Keyspace(u16::try_from(decoder.varint()?).ok()?);
            let key_len = decoder.len()?;
            let key = bytes.slice_ref(decoder.bytes(key_len)?);
            match tag {
                TAG_PUT => {
                    let value_len = decoder.len()?;
                    batch.put(keyspace, key, bytes.slice_ref(decoder.bytes(value_len)?));
                }
                TAG_DELETE => batch.delete(keyspace, key),
                TAG_DELETE_RANGE => {
                    let upper_len = decoder.len()?;
                    let upper = bytes.slice_ref(decoder.bytes(upper_len)?);
                    if upper <= key {
                        return None;
                    }
                    batch.delete_range(keyspace, key, Some(upper));
                }
                TAG_DELETE_FROM => batch.delete_range(keyspace, key, None),
                _ => return None,
            }
        }
        decoder.rest().is_empty().then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_round_trip(changes: Vec<(u16, Vec<u8>, Option<Option<Vec<u8>>>, bool)>) {
            let mut batch = WriteBatch::new();
            for (keyspace, key, second, is_range) in changes {
                match second {
                    Some(upper) if is_range => batch.delete_range(Keyspace(keyspace), key, upper.map(Bytes::from)),
                    Some(Some(value)) => batch.put(Keyspace(keyspace), key, value),
                    _ => batch.delete(Keyspace(keyspace), key),
                }
            }
            let mut bytes = Vec::new();
            batch.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), batch.byte_len());
            prop_assert_eq!(WriteBatch::decode(&Bytes::from(bytes)), Some(batch));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            WriteBatch::decode(&Bytes::from(bytes));
        }
    }
    #[test]
    fn a_range_delete_undoes_earlier_changes_of_its_keyspace_and_spares_later_ones() {
        let mut batch = WriteBatch::new();
        batch.put(Keyspace(0), "b", "before");
        batch.put(Keyspace(1), "b", "elsewhere");
        batch.delete(Keyspace(0), "c");
        batch.put(Keyspace(0), "d", "outside");
        batch.delete_range(Keyspace(0), "a", Some("d".into()));
        batch.put(Keyspace(0), "b", "after");
        assert!(!batch.only_deletes());
        let (changes, ranges) = batch.into_parts(7);
        let put = |keyspace, key, value| Change {
            keyspace: Keyspace(keyspace),
            key: Bytes::from_static(key),
            kind: ChangeKind::Put(Bytes::from_static(value)),
        };
        assert_eq!(changes, [put(1, b"b", b"elsewhere"), put(0, b"d", b"outside"), put(0, b"b", b"after")]);
        let range = RangeTombstone { lower: "a".into(), upper: Some("d".into()), sequence: 7 };
        assert_eq!(
            ranges.into_iter().map(|(id, r)| (id, r.iter().collect())).collect::<Vec<_>>(),
            [(Keyspace(0), vec![range])]
        );
    }

    #[test]
    fn a_range_without_keys_is_nothing() {
        let mut batch = WriteBatch::new();
        batch.delete_range(Keyspace(0), "b", Some("b".into()));
        batch.delete_range(Keyspace(0), "b", Some("a".into()));
        assert!(batch.is_empty());
        batch.delete_prefix(Keyspace(0), [0xff, 0xff].as_slice());
        batch.delete_prefix(Keyspace(0), "ab");
        let kinds: Vec<ChangeKind> = batch.changes().iter().map(|change| change.kind.clone()).collect();
        assert_eq!(kinds, [ChangeKind::DeleteRange(None), ChangeKind::DeleteRange(Some("ac".into()))]);
        assert!(batch.only_deletes());
    }

    #[test]
    fn an_empty_range_in_the_log_is_refused() {
        assert!(WriteBatch::decode(&Bytes::from_static(&[1, 2, 0, 1, b'a', 1, b'b'])).is_some());
        assert!(WriteBatch::decode(&Bytes::from_static(&[1, 2, 0, 1, b'b', 1, b'b'])).is_none());
    }
}
