//! Searching while vectors are written.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::{
    data::VectorData,
    engines::{Index, allidb::Allidb},
    plan::{Plan, Writes},
};
use crate::bench::latency::Latencies;

const FOR: Duration = Duration::from_secs(10);
const BATCH: usize = 100;

/// One thread overwrites vectors with themselves, another asks.
pub(super) fn run(data: &VectorData, plan: &Plan, index: &Allidb) -> Result<Writes> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| -> Result<u64> {
            let mut written = 0;
            let mut next = 0;
            while !is_over.load(Ordering::Relaxed) {
                let rows = (next..next + BATCH).map(|row| row % data.base.len());
                index.put(rows.map(|row| (row, data.base.get(row))))?;
                next += BATCH;
                written += BATCH as u64;
            }
            Ok(written)
        });
        let mut latencies = Latencies::new()?;
        let started = Instant::now();
        for query in (0..data.queries.len()).cycle() {
            let begun = Instant::now();
            index.search(data.queries.get(query), plan.k)?;
            latencies.record(begun.elapsed());
            if started.elapsed() > FOR || writing.is_finished() {
                break;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        let written = writing.join().map_err(|_| anyhow!("writing panicked"))??;
        Ok(Writes {
            vectors_per_second: written as f64 / seconds,
            queries_per_second: latencies.count() as f64 / seconds,
            p99_ms: latencies.quantile_us(0.99) / 1e3,
        })
    })
}
