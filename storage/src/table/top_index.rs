//! The top level of a large table's index: which partition of index and filter knows a key.
//!
//! Partitioned indexes and filters as in RocksDB: what every open table keeps in memory is small, and the rest shares
//! the bound of the block cache.

use super::block::{Block, Malformed};
use super::frame::Handle;
use super::index::Index;
use crate::coding::Decoder;

/// Index and filter of some data blocks in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) index: Handle,
    pub(crate) filter: Option<Handle>,
}

impl Partition {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        self.index.encode(out);
        if let Some(filter) = self.filter {
            filter.encode(out);
        }
    }

    fn decode(bytes: &[u8]) -> Option<Partition> {
        let mut decoder = Decoder::new(bytes);
        let index = Handle::read(&mut decoder)?;
        let filter = if decoder.rest().is_empty() { None } else { Some(Handle::read(&mut decoder)?) };
        decoder.rest().is_empty().then_some(Partition { index, filter })
    }
}

/// The last separator of each partition, and where its parts lie.
#[derive(Debug)]
pub(crate) struct TopIndex {
    separators: Index,
    partitions: Vec<Partition>,
}

impl TopIndex {
    pub(crate) fn new(block: Block) -> Result<TopIndex, Malformed> {
        let separators = Index::new(block)?;
        let partitions = (0..separators.entries())
            .map(|at| Partition::decode(separators.value(at)?).ok_or(Malformed))
            .collect::<Result<_, _>>()?;
        Ok(TopIndex { separators, partitions })
    }

    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The first partition that may know keys from `key` on; their number if there is none. If the key is in the
    /// table, its newest version is in there.
    pub(crate) fn at_least(&self, key: &[u8]) -> Result<usize, Malformed> {
        self.separators.at_least(key)
    }

    /// The first partition that may know keys greater than `key`.
    pub(crate) fn above(&self, key: &[u8]) -> Result<usize, Malformed> {
        self.separators.above(key)
    }

    /// Memory it takes, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.separators.byte_len() + size_of::<Partition>() * self.partitions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn partitions_round_trip(places: [u64; 4], has_filter: bool) {
            let [a, b, c, d] = places;
            let filter = has_filter.then_some(Handle { offset: c, len: d });
            let partition = Partition { index: Handle { offset: a, len: b }, filter };
            let mut bytes = Vec::new();
            partition.encode(&mut bytes);
            prop_assert_eq!(Partition::decode(&bytes), Some(partition));
            bytes.pop();
            prop_assert_ne!(Partition::decode(&bytes), Some(partition));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>, key: Vec<u8>) {
            Partition::decode(&bytes);
            if let Ok(top) = Block::new(Bytes::from(bytes)).and_then(TopIndex::new) {
                top.at_least(&key).ok();
            }
        }
    }
}
