//! One block of an index: which of the parts it names may hold a key. They are data blocks, or on the top level
//! partitions.

use bytes::Bytes;

use super::block::{Block, Malformed};
use super::frame::Handle;
use crate::key::common_prefix;

/// Separators and what lies before each. The search looks at eight bytes of each separator, those behind what all of them have in
/// common, in one array; only among equal ones it compares whole separators.
#[derive(Debug)]
pub(crate) struct Index {
    /// Every entry is a restart point: separator → value.
    block: Block,
    common: Bytes,
    heads: Vec<u64>,
}

/// The first eight bytes as a number; shorter keys are filled up with zeros.
fn head(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            key.iter().fold(0, |head, &byte| head << 8 | u64::from(byte))
                << (64 - 8 * key.len() as u32).min(63)
        }
    }
}

impl Index {
    pub(crate) fn new(block: Block) -> Result<Index, Malformed> {
        let mut index = Index { common: Bytes::new(), heads: Vec::with_capacity(block.restarts()), block };
        let entries = index.entries();
        if entries > 0 {
            // They are in order, so what the first and the last share, all share.
            let (first, last) = (index.separator(0)?, index.separator(entries - 1)?);
            let common = common_prefix(first, last);
            index.common = Bytes::copy_from_slice(first.get(..common).unwrap_or_default());
        }
        for at in 0..entries {
            let separator = index.separator(at)?;
            let rest = separator.strip_prefix(&*index.common).ok_or(Malformed)?;
            let head = head(rest);
            index.heads.push(head);
        }
        Ok(index)
    }

    /// How many parts it names.
    pub(crate) fn entries(&self) -> usize {
        self.block.restarts()
    }

    /// Memory it takes, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.block.byte_len() + self.common.len() + 8 * self.heads.len()
    }

    /// What it says of a part.
    pub(crate) fn value(&self, at: usize) -> Result<&[u8], Malformed> {
        Ok(self.block.bytes(self.block.entry(self.block.restart(at)?)?.value))
    }

    /// Where a data block lies.
    pub(crate) fn handle(&self, at: usize) -> Result<Handle, Malformed> {
        Handle::decode(self.value(at)?).ok_or(Malformed)
    }

    /// The first part that may hold keys from `key` on; their number if there is none.
    pub(crate) fn at_least(&self, key: &[u8]) -> Result<usize, Malformed> {
        self.partition(key, |separator| separator < key)
    }

    /// The first part in which keys greater than `key` may start; their number if there is none.
    pub(crate) fn above(&self, key: &[u8]) -> Result<usize, Malformed> {
        self.partition(key, |separator| separator <= key)
    }

    fn separator(&self, at: usize) -> Result<&[u8], Malformed> {
        Ok(self.block.bytes(self.block.entry(self.block.restart(at)?)?.suffix))
    }

    fn partition(&self, key: &[u8], before: impl Fn(&[u8]) -> bool) -> Result<usize, Malformed> {
        let (mut low, mut high) = match key.strip_prefix(&*self.common) {
            Some(rest) => {
                let head = head(rest);
                let low = self.heads.partition_point(|&other| other < head);
                let equal =
                    self.heads.get(low..).unwrap_or_default().iter().take_while(|&&other| other == head);
                (low, low + equal.count())
            }
            // Before all of them, or behind.
            None if key < &*self.common => (0, 0),
            None => (self.entries(), self.entries()),
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.separator(middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Kind;
    use crate::table::block_builder::BlockBuilder;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn searches_agree_with_a_sorted_list(
            common: Vec<u8>,
            separators in prop::collection::btree_set(prop::collection::vec(0u8..3, 0..12), 0..40),
            keys in prop::collection::vec((any::<bool>(), prop::collection::vec(0u8..4, 0..12)), 20),
        ) {
            let separators: Vec<Vec<u8>> =
                separators.into_iter().map(|rest| [common.as_slice(), &rest].concat()).collect();
            let mut builder = BlockBuilder::new(1);
            for separator in &separators {
                let mut value = Vec::new();
                Handle { offset: separator.len() as u64, len: 1 }.encode(&mut value);
                builder.add(separator, 0, Kind::Value, &value);
            }
            let block = Block::new(Bytes::copy_from_slice(builder.finish())).unwrap();
            let index = Index::new(block).unwrap();
            prop_assert_eq!(index.entries(), separators.len());
            for (inside, rest) in keys {
                let key = if inside { [common.as_slice(), &rest].concat() } else { rest };
                let at_least = separators.partition_point(|separator| *separator < key);
                prop_assert_eq!(index.at_least(&key).unwrap(), at_least);
                prop_assert_eq!(index.above(&key).unwrap(), separators.partition_point(|s| *s <= key));
                if let Some(separator) = separators.get(at_least) {
                    prop_assert_eq!(index.handle(at_least).unwrap().offset, separator.len() as u64);
                }
            }
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>, key: Vec<u8>) {
            if let Ok(index) = Block::new(Bytes::from(bytes)).and_then(Index::new) {
                index.at_least(&key).ok();
                index.handle(0).ok();
            }
        }
    }
}
