//! How long something takes, counted in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets that have a bound.
const BOUNDS: usize = 19;
/// The first bound: 32 µs.
const FIRST_BOUND_MICROS: u64 = 32;

/// A histogram of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    counts: [u64; BOUNDS + 1],
    sum_micros: u64,
}

impl Latency {
    /// The upper bounds of the buckets, each of which belongs to its bucket: powers of two from 32 µs to 8.4 s, in
    /// microseconds. A last bucket has none.
    #[expect(clippy::indexing_slicing, reason = "evaluated when this is compiled")]
    pub const BOUNDS_MICROS: [u64; BOUNDS] = {
        let mut bounds = [FIRST_BOUND_MICROS; BOUNDS];
        let mut bucket = 1;
        while bucket < BOUNDS {
            bounds[bucket] = bounds[bucket - 1] * 2;
            bucket += 1;
        }
        bounds
    };

    /// How many times were counted in each bucket, the one without a bound at the end.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All times together, in microseconds.
    pub fn sum_micros(&self) -> u64 {
        self.sum_micros
    }
}

/// Counts times.
#[derive(Debug, Default)]
pub struct LatencyCounter {
    counts: [AtomicU64; BOUNDS + 1],
    sum_micros: AtomicU64,
}

impl LatencyCounter {
    /// Counts one.
    pub fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = Latency::BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Latency {
        let mut latency =
            Latency { sum_micros: self.sum_micros.load(Ordering::Relaxed), ..Latency::default() };
        for (count, counter) in latency.counts.iter_mut().zip(&self.counts) {
            *count = counter.load(Ordering::Relaxed);
        }
        latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_first_bucket_whose_bound_they_do_not_exceed() {
        assert_eq!(Latency::BOUNDS_MICROS[..3], [32, 64, 128]);
        assert_eq!(Latency::BOUNDS_MICROS[BOUNDS - 1], 8_388_608);
        let counter = LatencyCounter::default();
        for micros in [0, 32, 33, 8_388_608, 8_388_609] {
            counter.add(Duration::from_micros(micros));
        }
        let latency = counter.read();
        assert_eq!(latency.counts()[..3], [2, 1, 0]);
        assert_eq!(latency.counts()[BOUNDS - 1..], [1, 1]);
        assert_eq!((latency.count(), latency.sum_micros()), (5, 16_777_282));
    }
}
