//! How large the levels of a keyspace should be.
//!
//! Sizes follow from the last level upward, so that all levels above together stay a small part of it whatever the
//! store's size (RocksDB's dynamic level sizes; Dong et al.: Optimizing space amplification in RocksDB, 2017).

use crate::options::Options;
use crate::version::{KeyspaceVersion, LEVELS};

const LAST: usize = LEVELS - 1;

/// The targets of a keyspace's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LevelTargets {
    /// The level that level 0 goes to. Those between are empty.
    pub(crate) base: usize,
    /// The uppermost level that should hold anything; above `base` in a store that has become smaller only.
    wanted_base: usize,
    limits: [u64; LEVELS],
}

impl LevelTargets {
    pub(crate) fn of(options: &Options, keyspace: &KeyspaceVersion) -> LevelTargets {
        let mut bytes = [0; LEVELS];
        for (level, bytes) in bytes.iter_mut().enumerate() {
            *bytes = keyspace.level_bytes(level);
        }
        LevelTargets::from_bytes(options, bytes)
    }

    fn from_bytes(options: &Options, bytes: [u64; LEVELS]) -> LevelTargets {
        let multiplier = options.level_multiplier.max(2);
        let base_bytes = options.level_base_bytes.max(1);
        let levels = || bytes.iter().copied().enumerate().skip(1);
        let mut size = levels().map(|(_, bytes)| bytes).max().unwrap_or(0);
        let mut base = LAST;
        while base > 1 && size > base_bytes {
            size /= multiplier;
            base -= 1;
        }
        let mut limits = [u64::MAX; LEVELS];
        let mut limit = size.clamp(base_bytes / multiplier, base_bytes).max(1);
        for slot in limits.iter_mut().take(LAST).skip(base) {
            *slot = limit;
            limit = limit.saturating_mul(multiplier);
        }
        let uppermost = levels().find(|(_, bytes)| *bytes > 0).map_or(LAST, |(level, _)| level);
        LevelTargets { base: base.min(uppermost), wanted_base: base, limits }
    }

    /// How full a level is; from 1.0 on it has to be compacted into the next that is in use.
    pub(crate) fn score(&self, level: usize, bytes: u64) -> f64 {
        if bytes == 0 || level == 0 || level >= LAST {
            0.0
        } else if level < self.wanted_base {
            // It is not wanted at all, but does little harm.
            1.0
        } else {
            bytes as f64 / self.limits.get(level).copied().unwrap_or(u64::MAX) as f64
        }
    }

    /// Bytes that are to go to the next level.
    pub(crate) fn debt(&self, level: usize, bytes: u64) -> u64 {
        if level == 0 || level >= LAST {
            0
        } else if level < self.wanted_base {
            bytes
        } else {
            bytes.saturating_sub(self.limits.get(level).copied().unwrap_or(u64::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { level_base_bytes: 100, level_multiplier: 10, ..Options::default() }
    }

    #[test]
    fn a_small_store_has_one_level_below_level_0() {
        let targets = LevelTargets::from_bytes(&options(), [0, 0, 0, 0, 0, 0, 90]);
        assert_eq!(targets.base, 6);
        assert_eq!(LevelTargets::from_bytes(&options(), [0; LEVELS]).base, 6);
    }

    #[test]
    fn sizes_follow_from_the_last_level() {
        let targets = LevelTargets::from_bytes(&options(), [0, 0, 0, 0, 50, 400, 5_000]);
        assert_eq!(targets.base, 4);
        assert_eq!(targets.limits[4..6], [50, 500]);
        assert!(targets.score(4, 51) > 1.0 && targets.score(5, 499) < 1.0);
        assert_eq!(targets.score(6, u64::MAX), 0.0);
        assert_eq!(targets.debt(5, 600), 100);
    }

    #[test]
    fn level_0_goes_to_the_uppermost_level_in_use_and_unwanted_levels_are_emptied() {
        let targets = LevelTargets::from_bytes(&options(), [0, 10, 0, 0, 0, 0, 90]);
        assert_eq!(targets.base, 1);
        assert!(targets.score(1, 10) >= 1.0);
        assert_eq!(targets.debt(1, 10), 10);
    }
}
