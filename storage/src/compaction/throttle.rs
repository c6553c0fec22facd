//! Holds compaction back, so that it leaves some of the disk to others.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What may be written at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket over bytes that are written or read.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When what has been let through so far will have been paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// 0 bytes a second: no limit.
    pub fn new(bytes_per_second: u64) -> Throttle {
        Throttle { bytes_per_second, paid_at: Mutex::default() }
    }

    /// How long whoever has written `bytes` has to wait.
    pub fn delay(&self, bytes: usize, now: Instant) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid_at = self.paid_at.lock();
        let from = paid_at.unwrap_or(now).max(now.checked_sub(BURST).unwrap_or(now));
        *paid_at = Some(from + cost);
        (from + cost).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time_and_a_pause_saves_no_more_than_a_burst() {
        let throttle = Throttle::new(1_000_000);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            now += throttle.delay(50_000, now);
        }
        let took = now.duration_since(start).as_secs_f64();
        assert!((4.8..=5.0).contains(&took), "{took}");
        now += Duration::from_secs(60);
        assert_eq!(throttle.delay(100_000, now), Duration::ZERO);
        assert!(throttle.delay(100_000, now) >= Duration::from_millis(99));
    }

    #[test]
    fn no_limit_means_no_delay() {
        assert_eq!(Throttle::new(0).delay(usize::MAX, Instant::now()), Duration::ZERO);
    }
}
