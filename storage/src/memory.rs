//! One budget of memory: the cache gets what memtables and open tables leave of it.

use crate::options::Options;
use crate::state::Inner;
use crate::version::SuperVersion;

/// The part of the budget that is left to the cache and to open tables however much memtables take: one in sixteen.
const LEAST_PART: usize = 16;
/// The part of what memtables leave that pinned partitions may take: one in four.
const PINNED_PART: usize = 4;
/// The capacity of the cache changes in steps, so that it does not change with every table.
const STEPS: usize = 64;

impl Options {
    /// The smallest budget that holds all memtables these options allow for, those that take writes and those that wait
    /// for the flush, and something of a cache, in bytes.
    pub fn least_memory_bytes(&self) -> usize {
        let memtables = self.all_memtables_bytes();
        memtables.saturating_add(memtables.div_ceil(LEAST_PART - 1))
    }

    /// What pinned partitions of indexes and filters may take, in bytes: a part of what memtables leave in any case.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.memory_bytes.saturating_sub(self.all_memtables_bytes()) / PINNED_PART
    }

    /// What memtables take if as many wait for the flush as may.
    pub(crate) fn all_memtables_bytes(&self) -> usize {
        self.memtable_bytes.saturating_mul(self.frozen_memtables.max(1).saturating_add(1))
    }

    /// What the cache may take beside these memtables and open tables, in bytes.
    fn cache_bytes(&self, active: usize, frozen: usize, tables: usize) -> usize {
        let budget = self.memory_bytes;
        // They have their room before they fill it: what a cache gives back in small pieces no allocator can give to a memtable
        // in large ones, so that memory would grow beyond the budget, and the cache would have to read again what it lost.
        let memtables = active.saturating_add(frozen).max(self.all_memtables_bytes());
        let left = budget.saturating_sub(memtables.saturating_add(tables));
        let step = (budget / STEPS).max(1);
        let least = (budget / LEAST_PART).saturating_sub(tables).max(step);
        (left / step * step).max(least)
    }
}

impl Inner {
    /// Gives the cache what the others leave; to be called after each change of the super-version, and when a batch has
    /// taken more than memtables should.
    pub(crate) fn share_memory(&self) {
        let mut cache_bytes = self.cache_bytes.lock();
        let super_version = self.super_version();
        let SuperVersion { active, frozen, version } = &*super_version;
        let frozen = frozen.iter().map(|set| set.byte_len()).sum();
        let wanted = self.options.cache_bytes(active.byte_len(), frozen, version.memory_bytes());
        if wanted != *cache_bytes {
            self.context.cache.set_capacity(wanted);
            *cache_bytes = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { memory_bytes: 6_400, memtable_bytes: 1_000, frozen_memtables: 3, ..Options::default() }
    }

    #[test]
    fn the_cache_gets_what_the_others_leave() {
        let options = options();
        assert_eq!(options.cache_bytes(0, 0, 0), 2_400);
        assert_eq!(options.cache_bytes(1_000, 3_000, 0), 2_400, "they have had their room");
        assert_eq!(options.cache_bytes(0, 0, 350), 2_000, "in steps of a hundred, and never too much");
        assert_eq!(options.cache_bytes(2_500, 3_000, 0), 900);
    }

    #[test]
    fn the_cache_keeps_something_beside_the_most_that_memtables_may_take() {
        let mut options = options();
        assert_eq!(options.cache_bytes(9_000, 9_000, 0), 400);
        assert_eq!(options.cache_bytes(9_000, 9_000, 250), 150, "together with open tables");
        assert_eq!(options.cache_bytes(9_000, 9_000, 9_000), 100);
        for memtable_bytes in 1..2_000 {
            options.memtable_bytes = memtable_bytes;
            options.memory_bytes = options.least_memory_bytes();
            let cache = options.cache_bytes(memtable_bytes, 3 * memtable_bytes, 0);
            assert!(cache > 0 && cache + 4 * memtable_bytes <= options.memory_bytes, "{options:?}");
        }
    }
}
