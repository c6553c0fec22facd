//! The block cache: decompressed blocks of all tables under one bound of memory.

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::table::block::Block;

/// Beside the block: key, value and the cache's own bookkeeping.
const ENTRY_OVERHEAD_BYTES: usize = 100;
/// For the estimate of how many blocks there will be.
const TYPICAL_BLOCK_BYTES: usize = 8 << 10;

/// Blocks by file number and offset. File numbers are never reused, so nothing is ever invalidated; blocks of
/// deleted files fall out of use.
#[derive(Debug)]
pub(crate) struct BlockCache {
    blocks: Cache<(u64, u64), Block, ByBytes>,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<(u64, u64), Block> for ByBytes {
    fn weight(&self, _key: &(u64, u64), block: &Block) -> u64 {
        (block.byte_len() + ENTRY_OVERHEAD_BYTES) as u64
    }
}

impl BlockCache {
    pub(crate) fn new(bytes: usize) -> BlockCache {
        let expected = (bytes / TYPICAL_BLOCK_BYTES).max(16);
        BlockCache { blocks: Cache::with_weighter(expected, bytes as u64, ByBytes) }
    }

    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Block> {
        self.blocks.get(&(file, offset))
    }

    pub(crate) fn insert(&self, file: u64, offset: u64, block: Block) {
        self.blocks.insert((file, offset), block);
    }

    /// Memory in use, in bytes.
    pub(crate) fn byte_len(&self) -> u64 {
        self.blocks.weight()
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
        let block = Block::new(bytes::Bytes::copy_from_slice(builder.finish())).unwrap();
        for offset in 0..1_000 {
            cache.insert(1, offset, block.clone());
            assert!(cache.byte_len() <= 100_000);
        }
        assert!(cache.get(1, 999).is_some() || cache.byte_len() > 50_000);
        assert!(cache.get(2, 999).is_none());
    }
}
