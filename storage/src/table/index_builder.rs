//! Collects index and filter of a table while it is written, and cuts them into partitions.

use super::block_builder::BlockBuilder;
use super::filter;
use super::footer::{Footer, IndexLayout};
use super::frame::Handle;
use super::top_index::Partition;
use crate::key::Kind;

/// Index and filter of some data blocks in a row.
struct Built {
    /// Its last.
    separator: Vec<u8>,
    index: Vec<u8>,
    filter: Option<Vec<u8>>,
}

/// Takes keys and data blocks in order.
pub(crate) struct IndexBuilder {
    filter_bits_per_key: u8,
    partition_bytes: usize,
    /// The current partition: its separators, the last of them, and the hashes of the keys of its blocks.
    index: BlockBuilder,
    separator: Vec<u8>,
    hashes: Vec<u64>,
    /// Those that are finished.
    partitions: Vec<Built>,
}

impl IndexBuilder {
    /// A partition is finished when its index and filter have `partition_bytes` together.
    pub(crate) fn new(filter_bits_per_key: u8, partition_bytes: usize) -> IndexBuilder {
        IndexBuilder {
            filter_bits_per_key,
            partition_bytes,
            index: BlockBuilder::new(1),
            separator: Vec::new(),
            hashes: Vec::new(),
            partitions: Vec::new(),
        }
    }

    /// A version was added to the current data block; `continues`: the version before has the same key. Filters hold
    /// exactly the keys of their partition's blocks, so a key that goes on in the next partition is in both.
    pub(crate) fn add_key(&mut self, key: &[u8], continues: bool) {
        if self.filter_bits_per_key > 0 && (!continues || self.hashes.is_empty()) {
            self.hashes.push(filter::hash(key));
        }
    }

    /// The data block of the keys so far lies at `handle` and ends at the separator.
    pub(crate) fn add_block(&mut self, separator: &[u8], handle: Handle) {
        let mut value = Vec::with_capacity(20);
        handle.encode(&mut value);
        self.index.add(separator, 0, Kind::Value, &value);
        self.separator.clear();
        self.separator.extend_from_slice(separator);
        let filter_bytes = match self.filter_bits_per_key {
            0 => 0,
            bits => filter::byte_len(self.hashes.len(), bits),
        };
        if self.index.byte_len() + filter_bytes >= self.partition_bytes {
            self.finish_partition();
        }
    }

    fn finish_partition(&mut self) {
        let filter = (self.filter_bits_per_key > 0)
            .then(|| filter::build(&std::mem::take(&mut self.hashes), self.filter_bits_per_key));
        let separator = std::mem::take(&mut self.separator);
        self.partitions.push(Built { separator, index: self.index.finish().to_vec(), filter });
        self.index.clear();
    }

    /// Writes everything with `append` and tells the footer. What is one partition needs no level above it.
    pub(crate) fn finish(mut self, footer: &mut Footer, mut append: impl FnMut(&[u8]) -> Handle) {
        if !self.index.is_empty() || self.partitions.is_empty() {
            self.finish_partition();
        }
        let mut top = BlockBuilder::new(1);
        let partitioned = self.partitions.len() > 1;
        for built in &self.partitions {
            let filter = built.filter.as_ref().map(|filter| append(filter));
            let index = append(&built.index);
            if partitioned {
                let mut value = Vec::with_capacity(40);
                Partition { index, filter }.encode(&mut value);
                top.add(&built.separator, 0, Kind::Value, &value);
            } else {
                footer.filter = filter.unwrap_or_default();
                footer.index = index;
            }
        }
        if partitioned {
            footer.layout = IndexLayout::Partitioned;
            footer.index = append(top.finish());
        }
    }
}
