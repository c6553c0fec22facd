//! How long single operations took.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

/// Longer operations count as this long.
const LONGEST: Duration = Duration::from_secs(600);

/// Latencies to three significant digits (Tene: HdrHistogram).
#[derive(Debug)]
pub(crate) struct Latencies {
    nanoseconds: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Result<Self> {
        let longest = u64::try_from(LONGEST.as_nanos())?;
        Ok(Self { nanoseconds: Histogram::new_with_bounds(1, longest, 3)? })
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.nanoseconds.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds what another thread recorded.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        Ok(self.nanoseconds.add(&other.nanoseconds)?)
    }

    /// The number of operations.
    pub(crate) fn count(&self) -> u64 {
        self.nanoseconds.len()
    }

    /// The latency that this share of the operations did not exceed, in microseconds.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.nanoseconds.value_at_quantile(share) as f64 / 1e3
    }

    /// The longest, in microseconds.
    pub(crate) fn max_us(&self) -> f64 {
        self.nanoseconds.max() as f64 / 1e3
    }
}

/// What it costs to time and record one operation, in nanoseconds: part of every rate and, for about half of
/// it, of every latency. The least of several tries, so that other processes do not count.
pub(crate) fn timing_cost_ns() -> Result<f64> {
    const TRIES: usize = 20;
    const OPERATIONS: u32 = 50_000;
    let mut latencies = Latencies::new()?;
    let mut least = f64::INFINITY;
    for _ in 0..TRIES {
        let started = Instant::now();
        for _ in 0..OPERATIONS {
            let operation = Instant::now();
            latencies.record(operation.elapsed());
        }
        least = least.min(started.elapsed().as_nanos() as f64 / f64::from(OPERATIONS));
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits_across_threads() {
        let mut all = Latencies::new().unwrap();
        for half in [1..=500_u64, 501..=1000] {
            let mut latencies = Latencies::new().unwrap();
            half.for_each(|micros| latencies.record(Duration::from_micros(micros)));
            all.add(&latencies).unwrap();
        }
        assert_eq!(all.count(), 1000);
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = all.quantile_us(share);
            assert!((found / expected - 1.0).abs() < 1e-3, "{share}: {found}");
        }
        assert!((all.max_us() / 1000.0 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn what_takes_too_long_counts_as_the_longest() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(LONGEST * 2);
        assert_eq!(latencies.count(), 1);
        assert!(latencies.max_us() >= LONGEST.as_micros() as f64 * 0.999);
    }
}
