//! How long replicas take to answer reads: beyond what nearly all take, another one is asked, too.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Four for each doubling, from a microsecond to about a minute.
const BUCKETS: usize = 104;
/// From so many answers on they tell something; from twice as many the older ones count half.
const ENOUGH: u32 = 500;
/// Below this the second question would cost more than it saves.
const LEAST: Duration = Duration::from_millis(2);

/// A decaying histogram of durations.
#[derive(Debug)]
pub(super) struct Latency {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU32,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU32::new(0)), count: AtomicU32::new(0) }
    }
}

impl Latency {
    pub(super) fn record(&self, took: Duration) {
        let micros = took.as_micros().max(1) as f64;
        let at = (micros.log2() * 4.0) as usize;
        if let Some(bucket) = self.buckets.get(at.min(BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 >= 2 * ENOUGH {
            self.count.store(ENOUGH, Ordering::Relaxed);
            for bucket in &self.buckets {
                bucket.store(bucket.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }

    /// What 95 of 100 answers took at most, about; `otherwise` until there were enough, and at most.
    pub(super) fn p95(&self, otherwise: Duration) -> Duration {
        if self.count.load(Ordering::Relaxed) < ENOUGH {
            return otherwise;
        }
        let counts = || self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let wanted = counts().sum::<u32>().saturating_mul(19) / 20;
        let mut seen = 0;
        let is_it = |count: u32| {
            seen += count;
            seen >= wanted
        };
        let at = counts().map(is_it).position(|is_it| is_it).unwrap_or(BUCKETS);
        let micros = ((at + 1) as f64 / 4.0).exp2();
        Duration::from_micros(micros as u64).max(LEAST).min(otherwise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nineteen_of_twenty_are_within() {
        let (latency, otherwise) = (Latency::default(), Duration::from_secs(1));
        assert_eq!(latency.p95(otherwise), otherwise);
        for at in 0..2_000_u64 {
            latency.record(Duration::from_millis(if at % 25 == 0 { 700 } else { 10 }));
        }
        let p95 = latency.p95(otherwise);
        assert!(p95 >= Duration::from_millis(10) && p95 < Duration::from_millis(13), "{p95:?}");
        // What was long ago counts less and less.
        for _ in 0..8_000 {
            latency.record(Duration::from_millis(100));
        }
        let p95 = latency.p95(otherwise);
        assert!(p95 >= Duration::from_millis(100) && p95 < Duration::from_millis(130), "{p95:?}");
        assert_eq!(latency.p95(Duration::from_millis(50)), Duration::from_millis(50));
    }
}
