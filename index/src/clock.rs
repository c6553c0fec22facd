//! Time, injected: the wall clock, one for tests, and the hybrid logical clock over either.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{model::Timestamp, version::Version};

/// A source of wall time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// The same as a [`Timestamp`].
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms())
    }
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that moves when it is told to.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Stands at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    /// Moves on by `ms`.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Gives versions that never repeat and never go back, whatever the wall clock does.
#[derive(Debug)]
pub struct HybridClock {
    wall: Arc<dyn Clock>,
    node: u64,
    /// The time part of the last version given or observed.
    last: AtomicU64,
}

impl HybridClock {
    /// A clock of `node` that begins above `floor`, the highest version known to have been given before.
    pub fn new(wall: Arc<dyn Clock>, node: u64, floor: Version) -> Self {
        Self { wall, node, last: AtomicU64::new(floor.time()) }
    }

    /// The wall clock beneath.
    pub fn wall(&self) -> &dyn Clock {
        &*self.wall
    }

    /// The next version: at the wall's time, or just above the last one if the wall stands or went back.
    pub fn next(&self) -> Version {
        let wall = self.wall.now_ms() << 16;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = wall.max(last.saturating_add(1));
            match self.last.compare_exchange_weak(last, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return Version::from_time(next, self.node),
                Err(seen) => last = seen,
            }
        }
    }

    /// The time part of the last version given or observed.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Takes note of another node's version, so that the next one given is above it.
    pub fn observe(&self, version: Version) {
        self.last.fetch_max(version.time(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_though_the_wall_clock_stands_or_goes_back() {
        let wall = Arc::new(ManualClock::new(1_000));
        let clock = HybridClock::new(wall.clone(), 7, Version::ZERO);
        let first = clock.next();
        let second = clock.next();
        assert!(first < second);
        assert_eq!(second.millis(), 1_000);
        let restarted = HybridClock::new(Arc::new(ManualClock::new(10)), 7, second);
        assert!(restarted.next() > second);
        clock.observe(Version::new(5_000, 3, 9));
        assert!(clock.next() > Version::new(5_000, 3, 9));
        wall.advance(10_000);
        assert_eq!(clock.next().millis(), 11_000);
    }

    #[test]
    fn just_below_is_below_and_above_everything_else() {
        let version = Version::new(5, 0, 0);
        assert!(version.just_below() < version);
        assert!(version.just_below() > Version::new(4, u16::MAX, u64::MAX - 1));
        let version = Version::new(5, 1, 3);
        assert_eq!(version.just_below(), Version::new(5, 1, 2));
        assert_eq!(Version::from_bytes(&version.to_bytes()), Some(version));
    }
}
