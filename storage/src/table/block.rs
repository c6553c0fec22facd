//! Reads one key of a block.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;

use crate::Sequence;
use crate::coding::Decoder;
use crate::key::{Kind, common_prefix, compare};

/// A decompressed block. Values are slices of it.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    /// Where the restart points start and the entries end.
    entries_end: usize,
    restarts: usize,
}

/// One entry; its key is `shared` bytes of the key before and then `suffix`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) shared: usize,
    pub(crate) suffix: Range<usize>,
    pub(crate) sequence: Sequence,
    pub(crate) kind: Kind,
    pub(crate) value: Range<usize>,
}

impl Entry {
    /// Where the next entry starts.
    pub(crate) fn end(&self) -> usize {
        self.value.end
    }
}

/// What a block says about a key.
#[derive(Clone, Debug)]
pub(crate) enum Lookup {
    /// The newest version that is not newer than asked for.
    Found(Entry),
    /// No such version, neither here nor in a later block.
    Absent,
    /// The block ended before: the next one may hold it.
    PastEnd,
}

/// A block whose bytes make no sense although their checksum does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Block {
    pub(crate) fn new(bytes: Bytes) -> Result<Block, Malformed> {
        let (rest, count) = bytes.split_last_chunk::<4>().ok_or(Malformed)?;
        let restarts = u32::from_le_bytes(*count) as usize;
        let entries_end =
            restarts.checked_mul(4).and_then(|len| rest.len().checked_sub(len)).ok_or(Malformed)?;
        if restarts == 0 && entries_end > 0 {
            return Err(Malformed);
        }
        Ok(Block { entries_end, restarts, bytes })
    }

    /// Memory it takes, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn restarts(&self) -> usize {
        self.restarts
    }

    /// The offset of the entry of a restart point; the end of the entries for the one behind the last.
    #[inline]
    pub(crate) fn restart(&self, index: usize) -> Result<usize, Malformed> {
        if index >= self.restarts {
            return Ok(self.entries_end);
        }
        let bytes = self.bytes.get(self.entries_end + 4 * index..).and_then(|rest| rest.first_chunk::<4>());
        let offset = u32::from_le_bytes(*bytes.ok_or(Malformed)?) as usize;
        if offset > self.entries_end { Err(Malformed) } else { Ok(offset) }
    }

    pub(crate) fn entries_end(&self) -> usize {
        self.entries_end
    }

    #[inline]
    pub(crate) fn entry(&self, offset: usize) -> Result<Entry, Malformed> {
        let bytes = self.bytes.get(offset..self.entries_end).ok_or(Malformed)?;
        let mut decoder = Decoder::new(bytes);
        let decoded = (|| {
            let shared = decoder.len()?;
            let suffix = decoder.len()?;
            let tag = decoder.len()?;
            let sequence = decoder.varint()?;
            let start = offset + (bytes.len() - decoder.rest().len());
            let value_start = start.checked_add(suffix)?;
            let value_end = value_start.checked_add(tag >> 1)?;
            let kind = match (tag & 1, tag >> 1) {
                (1, _) => Kind::Value,
                (_, 0) => Kind::Tombstone,
                _ => Kind::Separated,
            };
            let entry =
                Entry { shared, suffix: start..value_start, sequence, kind, value: value_start..value_end };
            (value_end <= self.entries_end).then_some(entry)
        })();
        decoded.ok_or(Malformed)
    }

    #[inline]
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// A slice that keeps the block alive; `range` is one of an [`Entry`] of this block.
    #[inline]
    pub(crate) fn slice(&self, range: Range<usize>) -> Bytes {
        if range.end <= self.bytes.len() { self.bytes.slice(range) } else { Bytes::new() }
    }

    /// The last restart point whose entry lies before the position; 0 if there is none.
    pub(crate) fn restart_before(&self, key: &[u8], sequence: Sequence) -> Result<usize, Malformed> {
        let (mut low, mut high) = (0, self.restarts);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(self.restart(middle)?)?;
            if compare(self.bytes(entry.suffix), entry.sequence, key, sequence) == Ordering::Less {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.saturating_sub(1))
    }

    /// The newest version of `key` that is not newer than `sequence`, from the restart point on that
    /// [`restart_before`](Block::restart_before) gives for it.
    ///
    /// Keys are never put together: while entries are passed, `common` is how many bytes the last one has in
    /// common with `key`, and an entry that shares more than those with its predecessor compares like it.
    pub(crate) fn get_from(
        &self,
        restart: usize,
        key: &[u8],
        sequence: Sequence,
    ) -> Result<Lookup, Malformed> {
        let mut offset = self.restart(restart)?;
        let mut common = 0;
        while offset < self.entries_end {
            let entry = self.entry(offset)?;
            offset = entry.end();
            if entry.shared > common {
                continue;
            }
            if entry.shared < common && entry.shared > 0 {
                return Ok(Lookup::Absent);
            }
            // A shared length of 0 may be a restart point, which says nothing of the key before.
            let wanted = key.get(entry.shared..).ok_or(Malformed)?;
            let suffix = self.bytes(entry.suffix.clone());
            let equal = common_prefix(wanted, suffix);
            common = entry.shared + equal;
            match wanted.get(equal..).unwrap_or_default().cmp(suffix.get(equal..).unwrap_or_default()) {
                Ordering::Greater => {}
                Ordering::Less => return Ok(Lookup::Absent),
                Ordering::Equal if entry.sequence <= sequence => return Ok(Lookup::Found(entry)),
                Ordering::Equal => {}
            }
        }
        Ok(Lookup::PastEnd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::block_builder::BlockBuilder;
    use crate::table::data_block::DataBlock;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lookups_agree_with_a_map(
            versions in prop::collection::btree_map((prop::collection::vec(0u8..3, 0..5), 1u64..6), any::<Vec<u8>>(), 1..60),
            wanted in prop::collection::vec((prop::collection::vec(0u8..3, 0..5), 0u64..7), 20),
            interval in 1usize..6,
        ) {
            let mut ordered: Vec<_> = versions.iter().collect();
            ordered.sort_by(|a, b| compare(&a.0.0, a.0.1, &b.0.0, b.0.1));
            let mut builder = BlockBuilder::new(interval);
            for ((key, sequence), value) in &ordered {
                builder.add(key, *sequence, Kind::Value, value);
            }
            let expected_len = builder.byte_len();
            let block = Block::new(Bytes::copy_from_slice(builder.finish())).unwrap();
            prop_assert_eq!(block.byte_len(), expected_len);
            let data = DataBlock::new(block.clone()).unwrap();
            for (key, sequence) in wanted {
                let expected = versions.range((key.clone(), 0)..=(key.clone(), sequence)).next_back();
                let last = ordered.last().unwrap().0;
                let restart = block.restart_before(&key, sequence).unwrap();
                prop_assert_eq!(data.restart_before(&key, sequence).unwrap(), restart);
                match data.get(&key, sequence).unwrap() {
                    Lookup::Found(entry) => {
                        let ((_, found), value) = expected.unwrap();
                        prop_assert_eq!(entry.sequence, *found);
                        prop_assert_eq!(block.bytes(entry.value), value.as_slice());
                    }
                    Lookup::Absent => prop_assert!(expected.is_none()),
                    Lookup::PastEnd => {
                        prop_assert!(expected.is_none());
                        prop_assert_eq!(compare(&last.0, last.1, &key, sequence), Ordering::Less);
                    }
                }
            }
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>, key: Vec<u8>, sequence: u64) {
            if let Ok(block) = Block::new(Bytes::from(bytes)) {
                block.restart_before(&key, sequence).ok();
                if let Ok(block) = DataBlock::new(block) {
                    block.get(&key, sequence).ok();
                }
            }
        }
    }
}
