//! Loops of operations on one store, timed one by one.

use std::{
    hint::black_box,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    data::{self, KEY_BYTES, Random, Values},
    engines::{Durability, Store},
    plan::{Metric, Metrics},
};
use crate::bench::latency::Latencies;

/// Rows of one scan.
const SCAN_ROWS: usize = 100;

/// What a loop of operations took.
#[derive(Debug)]
pub(super) struct Timing {
    /// What counts for the rate: operations, or rows of scans.
    items: u64,
    /// Operations that wrote.
    writes: u64,
    /// From the first operation to the end of the last, with making keys and values in between.
    elapsed: Duration,
    latencies: Latencies,
}

impl Timing {
    /// The metrics that follow from times alone.
    pub(super) fn metrics(&self) -> Metrics {
        Metrics::from([
            (Metric::Rate, self.items as f64 / self.elapsed.as_secs_f64()),
            (Metric::P50, self.latencies.quantile_us(0.5)),
            (Metric::P99, self.latencies.quantile_us(0.99)),
            (Metric::P999, self.latencies.quantile_us(0.999)),
            (Metric::Max, self.latencies.max_us()),
        ])
    }

    /// A time for all operations, as microseconds for each.
    pub(super) fn per_operation_us(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.operations() as f64
    }

    fn operations(&self) -> u64 {
        self.latencies.count()
    }

    /// The operations that wrote.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// The rate as if the operations had ended so much later.
    pub(super) fn rate_with(&self, more: Duration) -> f64 {
        self.items as f64 / (self.elapsed + more).as_secs_f64()
    }
}

/// The workloads of a store with `entries` keys.
pub(super) struct Workload<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) entries: u64,
    pub(super) value_bytes: usize,
    pub(super) seed: u64,
}

impl Workload<'_> {
    /// Bytes of one key and value.
    pub(super) fn entry_bytes(&self) -> u64 {
        (KEY_BYTES + self.value_bytes) as u64
    }

    /// Puts the keys of these numbers, once each.
    pub(super) fn fill(&self, numbers: Range<u64>, durability: Durability) -> Result<Timing> {
        let mut values = Values::new(self.value_bytes, self.seed);
        let count = numbers.end - numbers.start;
        let timing = timed(count, |turn| self.put(numbers.start + turn, &mut values, durability))?;
        Ok(Timing { writes: count, ..timing })
    }

    /// Puts the first keys, once each, divided among threads.
    pub(super) fn fill_by(&self, threads: u64, count: u64, durability: Durability) -> Result<Timing> {
        self.by(threads, count, |thread| {
            let mut values = Values::new(self.value_bytes, self.seed ^ thread);
            move |turn| self.put(thread + turn * threads, &mut values, durability)
        })
    }

    /// Puts random keys that are there.
    pub(super) fn overwrite_by(&self, threads: u64, count: u64, durability: Durability) -> Result<Timing> {
        self.by(threads, count, |thread| {
            let mut random = Random::new(self.seed ^ thread);
            let mut values = Values::new(self.value_bytes, random.next());
            move |_| self.put(random.below(self.entries), &mut values, durability)
        })
    }

    /// Gets random keys that are there.
    pub(super) fn get_present(&self, count: u64) -> Result<Timing> {
        let mut random = Random::new(self.seed);
        timed(count, |_| self.get(random.below(self.entries)))
    }

    /// Gets every key once.
    pub(super) fn get_all(&self) -> Result<()> {
        (0..self.entries).try_for_each(|number| self.get(number).map(|_| ()))
    }

    /// Gets random keys that are not there.
    pub(super) fn get_absent(&self, count: u64) -> Result<Timing> {
        let mut random = Random::new(self.seed);
        timed(count, |_| {
            // The numbers above `entries` belong to keys that lie between those that are there.
            let key = data::key(u64::MAX - random.below(u64::MAX / 2));
            let started = Instant::now();
            let found = self.store.get(&key, &mut |_| ())?;
            let latency = started.elapsed();
            ensure!(!found, "a key is there that was never put");
            Ok(latency)
        })
    }

    /// Reads the rows from random keys on; each operation is one scan.
    pub(super) fn scan(&self, scans: u64) -> Result<Timing> {
        let mut random = Random::new(self.seed);
        let mut rows = 0;
        let mut timing = timed(scans, |_| {
            let from = data::key(random.below(self.entries));
            let (mut seen, mut bad) = (0_u64, 0_u64);
            let started = Instant::now();
            self.store.scan(&from, SCAN_ROWS, &mut |key, value| {
                black_box(data::touch(value));
                bad += u64::from(!data::is_value_of(value, key, self.value_bytes));
                seen += 1;
            })?;
            let latency = started.elapsed();
            ensure!(seen > 0 && bad == 0, "a scan found {seen} rows, {bad} of them wrong");
            rows += seen;
            Ok(latency)
        })?;
        timing.items = rows;
        Ok(timing)
    }

    /// Gets and overwrites random keys, each as likely.
    pub(super) fn mixed(&self, count: u64, durability: Durability) -> Result<Timing> {
        let mut random = Random::new(self.seed);
        let mut values = Values::new(self.value_bytes, random.next());
        let mut writes = 0;
        let timing = timed(count, |_| {
            let number = random.below(self.entries);
            if random.below(2) == 0 {
                return self.get(number);
            }
            writes += 1;
            self.put(number, &mut values, durability)
        })?;
        Ok(Timing { writes, ..timing })
    }

    /// Whether the key of a number is there with a value of its own.
    pub(super) fn check(&self, number: u64) -> Result<()> {
        self.get(number).map(|_| ())
    }

    fn put(&self, number: u64, values: &mut Values, durability: Durability) -> Result<Duration> {
        let key = data::key(number);
        let value = values.for_key(&key);
        let started = Instant::now();
        self.store.put(&key, value, durability)?;
        Ok(started.elapsed())
    }

    fn get(&self, number: u64) -> Result<Duration> {
        let key = data::key(number);
        let mut good = false;
        let started = Instant::now();
        let found = self.store.get(&key, &mut |value| {
            black_box(data::touch(value));
            good = data::is_value_of(value, &key, self.value_bytes);
        })?;
        let latency = started.elapsed();
        ensure!(found, "key number {number} is lost");
        ensure!(good, "key number {number} has the value of another");
        Ok(latency)
    }

    /// Divides `count` turns of writing among threads.
    fn by<O>(&self, threads: u64, count: u64, operations: impl Fn(u64) -> O) -> Result<Timing>
    where
        O: FnMut(u64) -> Result<Duration> + Send,
    {
        let started = Instant::now();
        let timings: Vec<Result<Timing>> = thread::scope(|scope| {
            let spawn = |thread| {
                let operation = operations(thread);
                // The first threads take what does not divide.
                let turns = count / threads + u64::from(thread < count % threads);
                scope.spawn(move || timed(turns, operation))
            };
            let running: Vec<_> = (0..threads).map(spawn).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Timing>>| {
                thread.join().ok().context("a thread of the workload panicked")?
            };
            running.into_iter().map(join).collect()
        });
        let elapsed = started.elapsed();
        let mut latencies = Latencies::new()?;
        for timing in timings {
            latencies.add(&timing?.latencies)?;
        }
        Ok(Timing { items: latencies.count(), writes: latencies.count(), elapsed, latencies })
    }
}

/// Runs an operation again and again; it says how long it took.
fn timed(count: u64, mut operation: impl FnMut(u64) -> Result<Duration>) -> Result<Timing> {
    let mut latencies = Latencies::new()?;
    let started = Instant::now();
    for turn in 0..count {
        latencies.record(operation(turn)?);
    }
    Ok(Timing { items: count, writes: 0, elapsed: started.elapsed(), latencies })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use super::*;
    use crate::bench::storage::data::Key;

    /// A store in memory.
    #[derive(Default)]
    struct Map(Mutex<BTreeMap<Key, Vec<u8>>>);

    impl Store for Map {
        fn put(&self, key: &Key, value: &[u8], _durability: Durability) -> Result<()> {
            self.0.lock().unwrap().insert(*key, value.to_vec());
            Ok(())
        }

        fn get(&self, key: &Key, read: &mut dyn FnMut(&[u8])) -> Result<bool> {
            let map = self.0.lock().unwrap();
            let value = map.get(key);
            if let Some(value) = value {
                read(value);
            }
            Ok(value.is_some())
        }

        fn scan(&self, from: &Key, rows: usize, read: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
            for (key, value) in self.0.lock().unwrap().range(*from..).take(rows) {
                read(key, value);
            }
            Ok(())
        }

        fn settle(&self) -> Result<Instant> {
            Ok(Instant::now())
        }

        fn close(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    fn workload(store: &Map) -> Workload<'_> {
        Workload { store, entries: 500, value_bytes: 100, seed: 1 }
    }

    #[test]
    fn every_workload_does_what_it_counts() {
        let map = Map::default();
        let workload = workload(&map);
        assert_eq!(workload.fill_by(8, 20, Durability::Synced).unwrap().operations(), 20);
        assert_eq!(map.0.lock().unwrap().len(), 20);
        assert_eq!(workload.fill(0..500, Durability::Buffered).unwrap().operations(), 500);
        let filled = map.0.lock().unwrap().clone();
        assert_eq!(filled.len(), 500);
        assert_eq!(workload.get_present(100).unwrap().operations(), 100);
        assert_eq!(workload.get_absent(100).unwrap().operations(), 100);
        workload.get_all().unwrap();
        let scans = workload.scan(10).unwrap();
        assert_eq!(scans.operations(), 10);
        assert!(scans.items > 500 && scans.items <= 1000, "{} rows", scans.items);
        let mixed = workload.mixed(1000, Durability::Buffered).unwrap();
        assert!((400..600).contains(&mixed.writes()) && mixed.operations() == 1000);
        let changed = |before: &BTreeMap<Key, Vec<u8>>| {
            let now = map.0.lock().unwrap();
            assert_eq!(now.len(), 500);
            now.iter().filter(|(key, value)| before[*key] != **value).count()
        };
        // Of 500 draws with replacement 63 in a hundred keys are hit.
        assert!((270..360).contains(&changed(&filled)));
        let mixed = map.0.lock().unwrap().clone();
        workload.overwrite_by(3, 500, Durability::Buffered).unwrap();
        assert!((270..360).contains(&changed(&mixed)));
    }

    #[test]
    fn a_lost_and_a_mixed_up_value_fail_the_run() {
        let map = Map::default();
        let workload = workload(&map);
        workload.fill(0..500, Durability::Buffered).unwrap();
        let other = map.0.lock().unwrap()[&data::key(1)].clone();
        map.0.lock().unwrap().insert(data::key(0), other);
        assert!(workload.check(0).unwrap_err().to_string().contains("value of another"));
        assert!(workload.scan(100).unwrap_err().to_string().contains("wrong"));
        map.0.lock().unwrap().remove(&data::key(0));
        assert!(workload.get_all().unwrap_err().to_string().contains("lost"));
        workload.check(1).unwrap();
    }

    #[test]
    fn rates_follow_from_items_and_time() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::from_millis(2));
        let timing = Timing { items: 100, writes: 0, elapsed: Duration::from_secs(2), latencies };
        assert_eq!(timing.metrics()[&Metric::Rate], 50.0);
        assert_eq!(timing.rate_with(Duration::from_secs(2)), 25.0);
        assert_eq!(timing.per_operation_us(2.0), 2e6);
        assert!((timing.metrics()[&Metric::P50] / 2000.0 - 1.0).abs() < 1e-3);
    }
}
