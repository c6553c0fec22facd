//! A batch of changes that becomes visible, and survives, as a whole or not at all.

use bytes::Bytes;

use crate::coding::{Decoder, put_varint, varint_len};
use crate::options::Keyspace;

const TAG_DELETE: u8 = 0;
const TAG_PUT: u8 = 1;

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) keyspace: Keyspace,
    pub(crate) key: Bytes,
    /// `None` deletes.
    pub(crate) value: Option<Bytes>,
}

/// Changes to any number of keyspaces under one sequence. Of two changes of the same key the later wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    changes: Vec<Change>,
    byte_len: usize,
    puts: usize,
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
        self.push(Change { keyspace, key, value: Some(value) });
    }

    /// Removes `key`, whether it exists or not.
    pub fn delete(&mut self, keyspace: Keyspace, key: impl Into<Bytes>) {
        self.push(Change { keyspace, key: key.into(), value: None });
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

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Whether the batch only deletes, so that it helps against a full disk.
    pub fn only_deletes(&self) -> bool {
        self.puts == 0
    }

    fn push(&mut self, change: Change) {
        let value = change.value.as_ref().map_or(0, |value| varint_len(value.len() as u64) + value.len());
        self.byte_len += 1
            + varint_len(u64::from(change.keyspace.0))
            + varint_len(change.key.len() as u64)
            + change.key.len()
            + value;
        self.changes.push(change);
    }

    /// Appends the batch in the log's format: see "Batch" in `docs/format.md`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.changes.len() as u64);
        for change in &self.changes {
            out.push(if change.value.is_some() { TAG_PUT } else { TAG_DELETE });
            put_varint(out, u64::from(change.keyspace.0));
            put_varint(out, change.key.len() as u64);
            out.extend_from_slice(&change.key);
            if let Some(value) = &change.value {
                put_varint(out, value.len() as u64);
                out.extend_from_slice(value);
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
        fn batches_round_trip(changes: Vec<(u16, Vec<u8>, Option<Vec<u8>>)>) {
            let mut batch = WriteBatch::new();
            for (keyspace, key, value) in changes {
                match value {
                    Some(value) => batch.put(Keyspace(keyspace), key, value),
                    None => batch.delete(Keyspace(keyspace), key),
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
}
