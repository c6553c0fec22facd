//! The block cache: decompressed blocks, partitions of indexes and filters, and separated values of all tables under
//! one bound of memory.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::table::data_block::DataBlock;
use crate::table::filter::Filter;
use crate::table::index::Index;

/// Beside the value: key and the cache's own bookkeeping.
const ENTRY_OVERHEAD_BYTES: usize = 100;
/// For the estimate of how many values there will be.
const TYPICAL_BLOCK_BYTES: usize = 8 << 10;

/// What is cached. Clones share their memory.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    /// A data block.
    Block(Arc<DataBlock>),
    /// A partition of an index.
    Index(Arc<Index>),
    /// A partition of a filter.
    Filter(Filter),
    /// A block of separated values.
    Blobs(Bytes),
}

/// Parts of tables and blob files by file number and offset. File numbers are never reused, so nothing is ever
/// invalidated; parts of deleted files fall out of use. What was read once, by a scan, makes room before what was read again (S3-FIFO: Yang
/// et al., FIFO queues are all you need for cache eviction, 2023).
#[derive(Debug)]
pub(crate) struct BlockCache {
    parts: Cache<(u64, u64), Cached, ByBytes>,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<(u64, u64), Cached> for ByBytes {
    fn weight(&self, _key: &(u64, u64), cached: &Cached) -> u64 {
        let len = match cached {
            Cached::Block(block) => block.byte_len(),
            Cached::Index(index) => index.byte_len(),
            Cached::Filter(filter) => filter.byte_len(),
            Cached::Blobs(block) => block.len(),
        };
        (len + ENTRY_OVERHEAD_BYTES) as u64
    }
}

impl BlockCache {
    pub(crate) fn new(bytes: usize) -> BlockCache {
        let expected = (bytes / TYPICAL_BLOCK_BYTES).max(16);
        BlockCache { parts: Cache::with_weighter(expected, bytes as u64, ByBytes) }
    }

    /// Another bound; what is beyond it goes.
    pub(crate) fn set_capacity(&self, bytes: usize) {
        self.parts.set_capacity(bytes as u64);
    }

    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Cached> {
        self.parts.get(&(file, offset))
    }

    pub(crate) fn insert(&self, file: u64, offset: u64, part: Cached) {
        self.parts.insert((file, offset), part);
    }

    /// Memory in use, in bytes.
    pub(crate) fn byte_len(&self) -> u64 {
        self.parts.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Kind;
    use crate::table::block::Block;
    use crate::table::block_builder::BlockBuilder;

    fn block() -> Block {
        let mut builder = BlockBuilder::new(1);
        builder.add(b"key", 1, Kind::Value, &[1; 1000]);
        Block::new(Bytes::copy_from_slice(builder.finish())).unwrap()
    }

    fn data_block() -> Arc<DataBlock> {
        Arc::new(DataBlock::new(block()).unwrap())
    }

    #[test]
    fn memory_stays_within_the_bound() {
        let cache = BlockCache::new(100_000);
        let filter = Filter::new(crate::table::filter::build(&[1; 1000], 10).into()).unwrap();
        for offset in 0..1_000 {
            let part = match offset % 4 {
                0 => Cached::Block(data_block()),
                1 => Cached::Index(Arc::new(Index::new(block()).unwrap())),
                2 => Cached::Filter(filter.clone()),
                _ => Cached::Blobs(Bytes::from(vec![1; 1000])),
            };
            cache.insert(1, offset, part);
            assert!(cache.byte_len() <= 100_000);
        }
        assert!(cache.byte_len() > 50_000);
        assert!(cache.get(2, 999).is_none());
    }

    #[test]
    fn a_smaller_bound_holds_at_once_and_a_larger_one_is_used() {
        let cache = BlockCache::new(100_000);
        let fill =
            |file| (0..1_000).for_each(|offset| cache.insert(file, offset, Cached::Block(data_block())));
        fill(1);
        // Back and forth as memtables come and go, with everything read twice or only once.
        for file in 2..20 {
            (0..50).filter(|&offset| cache.get(file - 1, 999 - offset).is_some()).count();
            cache.set_capacity(20_000);
            assert!(cache.byte_len() <= 20_000);
            fill(file);
            assert!((10_000..=20_000).contains(&cache.byte_len()));
            cache.set_capacity(100_000);
            fill(file);
            assert!((60_000..=100_000).contains(&cache.byte_len()), "{}", cache.byte_len());
        }
    }

    #[test]
    fn what_is_read_once_does_not_push_out_what_is_read_again() {
        // Room for some ninety blocks: twenty that are read again and again, and a scan of thousands.
        let cache = BlockCache::new(100_000);
        let read = |file, offset| {
            let found = cache.get(file, offset).is_some();
            if !found {
                cache.insert(file, offset, Cached::Block(data_block()));
            }
            found
        };
        for _ in 0..5 {
            (0..20).filter(|&offset| read(1, offset)).count();
        }
        for offset in 0..5_000 {
            read(2, offset);
        }
        let kept = (0..20).filter(|&offset| cache.get(1, offset).is_some()).count();
        assert!(kept >= 19, "{kept} of 20 are left");
        assert!((4_990..5_000).any(|offset| cache.get(2, offset).is_some()), "a scan is cached as well");
    }
}
