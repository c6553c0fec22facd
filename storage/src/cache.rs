//! The block cache: decompressed blocks of all tables under one bound of memory.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::table::block::Block;

/// Beside the block: key, value and the cache's own bookkeeping.
const ENTRY_OVERHEAD_BYTES: usize = 100;
/// For the estimate of how many blocks there will be.
const TYPICAL_BLOCK_BYTES: usize = 8 << 10;

/// What is cached of a file.
#[derive(Clone, Debug)]
enum Cached {
    Block(Block),
    Blob(Bytes),
}

/// Blocks and separated values by file number and offset. File numbers are never reused, so nothing is ever
/// invalidated; what belongs to deleted files falls out of use.
#[derive(Debug)]
pub(crate) struct BlockCache {
    entries: Cache<(u64, u64), Cached, ByBytes>,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<(u64, u64), Cached> for ByBytes {
    fn weight(&self, _key: &(u64, u64), cached: &Cached) -> u64 {
        let bytes = match cached {
            Cached::Block(block) => block.byte_len(),
            Cached::Blob(value) => value.len(),
        };
        (bytes + ENTRY_OVERHEAD_BYTES) as u64
    }
}

impl BlockCache {
    pub(crate) fn new(bytes: usize) -> BlockCache {
        let expected = (bytes / TYPICAL_BLOCK_BYTES).max(16);
        BlockCache { entries: Cache::with_weighter(expected, bytes as u64, ByBytes) }
    }

    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Block> {
        match self.entries.get(&(file, offset))? {
            Cached::Block(block) => Some(block),
            Cached::Blob(_) => None,
        }
    }

    pub(crate) fn insert(&self, file: u64, offset: u64, block: Block) {
        self.entries.insert((file, offset), Cached::Block(block));
    }

    /// A separated value.
    pub(crate) fn blob(&self, file: u64, offset: u64) -> Option<Bytes> {
        match self.entries.get(&(file, offset))? {
            Cached::Blob(value) => Some(value),
            Cached::Block(_) => None,
        }
    }

    pub(crate) fn insert_blob(&self, file: u64, offset: u64, value: Bytes) {
        self.entries.insert((file, offset), Cached::Blob(value));
    }

    /// Memory in use, in bytes.
    pub(crate) fn byte_len(&self) -> u64 {
        self.entries.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Kind;
    use crate::table::block_builder::BlockBuilder;

    #[test]
    fn memory_stays_within_the_bound() {
        let cache = BlockCache::new(100_000);
        let mut builder = BlockBuilder::new(1);
        builder.add(b"key", 1, Kind::Value, &[1; 1000]);
        let block = Block::new(Bytes::copy_from_slice(builder.finish())).unwrap();
        for offset in 0..1_000 {
            cache.insert(1, offset, block.clone());
            assert!(cache.byte_len() <= 100_000);
        }
        assert!(cache.get(1, 999).is_some() || cache.byte_len() > 50_000);
        assert!(cache.get(2, 999).is_none());
    }
}
