//! One block of an index: which of the parts it names may hold a key. They are data blocks, or on the top level
//! partitions.

use super::block::{Block, Malformed};
use super::frame::Handle;
use super::heads::Heads;

/// Separators and what lies before each.
#[derive(Debug)]
pub(crate) struct Index {
    /// Every entry is a restart point: separator → value.
    block: Block,
    heads: Heads,
}

fn separator(block: &Block, at: usize) -> Result<&[u8], Malformed> {
    Ok(block.bytes(block.entry(block.restart(at)?)?.suffix))
}

impl Index {
    pub(crate) fn new(block: Block) -> Result<Index, Malformed> {
        Ok(Index { heads: Heads::new(block.restarts(), |at| separator(&block, at))?, block })
    }

    /// How many parts it names.
    pub(crate) fn entries(&self) -> usize {
        self.block.restarts()
    }

    /// Memory it takes, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.block.byte_len() + self.heads.byte_len()
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
        self.heads.partition_point(key, |at| Ok(separator(&self.block, at)? < key))
    }

    /// The first part in which keys greater than `key` may start; their number if there is none.
    pub(crate) fn above(&self, key: &[u8]) -> Result<usize, Malformed> {
        self.heads.partition_point(key, |at| Ok(separator(&self.block, at)? <= key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Kind;
    use crate::table::block_builder::BlockBuilder;
    use bytes::Bytes;
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
