//! A process that measures one engine with one size of values, so that its memory is that engine's alone.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};

use super::{
    engines::{Durability, Setup, Store},
    plan::{Line, Metric, Metrics, Phase, Plan, Row},
    workload::{Timing, Workload},
};
use crate::bench::process;

/// Runs a plan and writes a line of JSON to standard output whenever a row begins or ends.
pub(crate) fn run(plan: &str) -> Result<()> {
    // Without somebody who reads the results there is nothing to measure for.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let plan: Plan = serde_json::from_str(plan).context("the plan of the measurement")?;
    let child = Child { plan: &plan };
    match plan.phase {
        Phase::Workloads => child.run_workloads(),
        Phase::Recovery => child.measure_recovery(),
    }
}

struct Child<'a> {
    plan: &'a Plan,
}

impl Child<'_> {
    fn run_workloads(&self) -> Result<()> {
        for (row, threads) in [(Row::FillSyncX1, 1), (Row::FillSyncX8, 8)] {
            self.durable_fill(row, threads)?;
        }
        let after_fills = self.plan.rows.iter().any(|&row| row > Row::FillSyncX8);
        if !after_fills {
            return Ok(());
        }
        let mut store = self.open()?;
        self.fill(&*store)?;
        if self.plan.has(Row::Reopen) {
            store.close()?;
            store = self.row(Row::Reopen, || self.open_timed())?;
        }
        if self.plan.has(Row::GetCold) {
            store.close()?;
            process::drop_page_cache(&self.store_dir())?;
            store = self.open()?;
            self.row(Row::GetCold, || Ok(((), self.get_cold(&*store)?)))?;
        }
        self.read_warm(&*store)?;
        self.overwrite(&*store)?;
        if self.plan.has(Row::ReopenLog) {
            store.settle()?;
            let entries = self.plan.entries;
            self.workload(&*store).fill(entries..entries + self.plan.log_entries(), Durability::Buffered)?;
            print(&Line::Killing)?;
            kill_process(getpid(), Signal::KILL)?;
        }
        store.close()
    }

    /// Opens what a killed process left.
    fn measure_recovery(&self) -> Result<()> {
        let store = self.row(Row::ReopenLog, || self.open_timed())?;
        let workload = self.workload(&*store);
        for number in [0, self.plan.entries, self.plan.entries + self.plan.log_entries() - 1] {
            workload.check(number)?;
        }
        store.close()
    }

    /// Durable writes into a store of their own.
    fn durable_fill(&self, row: Row, threads: u64) -> Result<()> {
        if !self.plan.has(row) {
            return Ok(());
        }
        let dir = self.plan.dir.join(format!("sync-{threads}"));
        let store = self.plan.engine.open(&dir, self.setup())?;
        self.row(row, || {
            let count = self.plan.sync_entries;
            let fill = || self.workload(&*store).fill_by(threads, count, Durability::Synced);
            Ok(((), self.writes(&*store, &dir, fill)?))
        })?;
        store.close()?;
        Ok(fs::remove_dir_all(&dir)?)
    }

    /// What all other rows need; a row of its own if it is asked for.
    fn fill(&self, store: &dyn Store) -> Result<()> {
        let fill = || self.workload(store).fill(0..self.plan.entries, Durability::Buffered);
        if self.plan.has(Row::FillRandom) {
            return self.row(Row::FillRandom, || Ok(((), self.writes(store, &self.store_dir(), fill)?)));
        }
        fill()?;
        store.settle()?;
        Ok(())
    }

    fn get_cold(&self, store: &dyn Store) -> Result<Metrics> {
        let read_before = process::bytes_read_from_disk()?;
        let mut metrics = times(|| self.workload(store).get_present(self.few()))?;
        let read = process::bytes_read_from_disk()? - read_before;
        metrics.insert(Metric::DiskReads, read as f64 / self.few() as f64);
        Ok(metrics)
    }

    fn read_warm(&self, store: &dyn Store) -> Result<()> {
        let workload = self.workload(store);
        let warm = [Row::GetWarm, Row::Scan100, Row::Mixed];
        if self.plan.rows.iter().any(|row| warm.contains(row)) {
            workload.get_all()?;
        }
        let entries = self.plan.entries;
        self.timed(Row::GetWarm, || workload.get_present(entries))?;
        self.timed(Row::GetAbsent, || workload.get_absent(entries))?;
        self.timed(Row::Scan100, || workload.scan(self.few()))?;
        self.settled(Row::Mixed, store, || workload.mixed(entries, Durability::Buffered))
    }

    fn overwrite(&self, store: &dyn Store) -> Result<()> {
        let workload = self.workload(store);
        let entries = self.plan.entries;
        self.settled(Row::Overwrite, store, || workload.overwrite_by(1, entries, Durability::Buffered))?;
        // Too few writes to settle on: they would be charged with compactions that earlier rows made due.
        let sync_entries = self.plan.sync_entries;
        self.timed(Row::OverwriteSyncX8, || workload.overwrite_by(8, sync_entries, Durability::Synced))
    }

    /// A row of times only.
    fn timed(&self, row: Row, workload: impl FnOnce() -> Result<Timing>) -> Result<()> {
        if !self.plan.has(row) {
            return Ok(());
        }
        self.row(row, || Ok(((), times(workload)?)))
    }

    /// A row that writes to the store that all rows share.
    fn settled(&self, row: Row, store: &dyn Store, workload: impl FnOnce() -> Result<Timing>) -> Result<()> {
        if !self.plan.has(row) {
            return Ok(());
        }
        self.row(row, || Ok(((), self.writes(store, &self.store_dir(), workload)?)))
    }

    /// Runs a workload that writes, and waits until what it caused is done.
    fn writes(
        &self,
        store: &dyn Store,
        dir: &Path,
        workload: impl FnOnce() -> Result<Timing>,
    ) -> Result<Metrics> {
        let written_before = process::bytes_written()?;
        let cpu_before = process::cpu_seconds();
        let timing = workload()?;
        let last_write = Instant::now();
        let settle = store.settle()?.saturating_duration_since(last_write);
        let written = process::bytes_written()? - written_before;
        let mut metrics = timing.metrics();
        metrics.insert(Metric::Cpu, timing.per_operation_us(process::cpu_seconds() - cpu_before));
        metrics.insert(Metric::Settle, settle.as_secs_f64());
        metrics.insert(Metric::RateSettled, timing.rate_with(settle));
        let user_bytes = timing.writes() * self.workload(store).entry_bytes();
        metrics.insert(Metric::WriteAmplification, written as f64 / user_bytes as f64);
        metrics.insert(Metric::Disk, process::disk_bytes(dir)? as f64);
        Ok(metrics)
    }

    fn open(&self) -> Result<Box<dyn Store>> {
        self.plan.engine.open(&self.store_dir(), self.setup())
    }

    fn open_timed(&self) -> Result<(Box<dyn Store>, Metrics)> {
        let started = Instant::now();
        let store = self.open()?;
        let elapsed = started.elapsed();
        self.workload(&*store).check(0)?;
        Ok((store, Metrics::from([(Metric::Time, elapsed.as_secs_f64())])))
    }

    /// Announces a row, runs it and prints what it measured.
    fn row<T>(&self, row: Row, measure: impl FnOnce() -> Result<(T, Metrics)>) -> Result<T> {
        print(&Line::Started(row))?;
        // Some kernels are built without it; the peak would be that of earlier rows then.
        let has_peak = process::reset_peak_memory().is_ok();
        let (result, mut metrics) = measure().context(row.title())?;
        if has_peak {
            metrics.insert(Metric::PeakMemory, process::peak_memory()? as f64);
        }
        ensure!(metrics.values().all(|value| value.is_finite()), "{}: {metrics:?}", row.title());
        print(&Line::Measured(row, metrics))?;
        Ok(result)
    }

    fn workload<'a>(&self, store: &'a dyn Store) -> Workload<'a> {
        let Plan { entries, value_bytes, seed, .. } = *self.plan;
        Workload { store, entries, value_bytes, seed }
    }

    fn setup(&self) -> Setup {
        Setup { cache_bytes: self.plan.cache_bytes, value_bytes: self.plan.value_bytes }
    }

    fn store_dir(&self) -> PathBuf {
        self.plan.dir.join("store")
    }

    /// As many operations as slow ones are repeated: one in twenty keys.
    fn few(&self) -> u64 {
        (self.plan.entries / 20).max(1000)
    }
}

/// What a workload took, and nothing of what it left to do.
fn times(workload: impl FnOnce() -> Result<Timing>) -> Result<Metrics> {
    let cpu_before = process::cpu_seconds();
    let timing = workload()?;
    let mut metrics = timing.metrics();
    metrics.insert(Metric::Cpu, timing.per_operation_us(process::cpu_seconds() - cpu_before));
    Ok(metrics)
}

fn print(line: &Line) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
