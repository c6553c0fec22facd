//! `allidb bench storage`: the storage engine, beside its peers where this program was built with them.
//!
//! | module | what it is |
//! |---|---|
//! | `plan` | rows, metrics, and what processes tell each other |
//! | `child`, `workload`, `data` | a measuring process, its loops, their keys and values |
//! | `engines` | each engine behind one face |
//! | `rounds` | one process after the other |
//! | `report` | medians, ratios, tables, documents |

mod child;
mod data;
mod engines;
mod plan;
mod report;
mod rounds;
mod workload;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{latency::timing_cost_ns, machine::Machine};
use crate::output::Output;
pub(super) use child::run as run_child;
use engines::{EngineName, Setup};
use plan::Row;
use report::Report;

const AFTER_HELP: &str = "\
Peers are measured by a program that was built with them; RocksDB comes from the system:
  apt-get install librocksdb-dev
  cargo run --release --features rocksdb --bin allidb -- bench storage
docs/benchmarks.md says what each row means.";

/// Measures the storage engine: fills, gets, scans, overwrites, opening.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StorageArgs {
    /// Keys in the store.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    entries: u64,
    /// Durable writes of each of their rows.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(8..=1_000_000_000))]
    sync_entries: u64,
    /// Lengths of values, in bytes.
    #[arg(
        long, value_delimiter = ',', default_value = "100,1024,1536", value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(data::SHORTEST_VALUE as i64..=1 << 20)
    )]
    values: Vec<u32>,
    /// Rows to measure, all unless given.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "ROW")]
    rows: Vec<Row>,
    /// Engines to measure, all that this program was built with unless given.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "ENGINE")]
    engines: Vec<EngineName>,
    /// How often everything is measured; medians are reported.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Memory for each engine's cache, in MiB.
    #[arg(long, default_value_t = 2048, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    cache: u32,
    /// Where the stores are put, in a directory that is removed at the end; on the disk to be measured. The
    /// build directory unless given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl StorageArgs {
    fn rows(&self) -> Vec<Row> {
        let asked = |row: &&Row| self.rows.is_empty() || self.rows.contains(row);
        Row::value_variants().iter().filter(asked).copied().collect()
    }

    fn engines(&self) -> Vec<EngineName> {
        let asked = |engine: &&EngineName| self.engines.is_empty() || self.engines.contains(engine);
        EngineName::value_variants().iter().filter(asked).copied().collect()
    }

    fn setup(&self, value_bytes: u32) -> Setup {
        Setup { cache_bytes: (self.cache as usize) << 20, value_bytes: value_bytes as usize }
    }

    /// What the figures depend on, as a document.
    fn settings(&self) -> Result<serde_json::Value> {
        let of_engine = |engine: &EngineName| (engine.title().to_owned(), json!(engine.settings()));
        let engines: serde_json::Map<_, _> = self.engines().iter().map(of_engine).collect();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "optimized": !cfg!(debug_assertions),
            "entries": self.entries,
            "sync_entries": self.sync_entries,
            "key_bytes": data::KEY_BYTES,
            "value_bytes": self.values,
            "values": "half random, half constant",
            "rounds": self.rounds,
            "cache_bytes": self.setup(0).cache_bytes,
            "configured_memory_bytes": self.setup(0).configured_memory_bytes(),
            "timing_cost_ns": timing_cost_ns()?,
            "bytes_written": "wchar of /proc/self/io",
            "engines": engines,
        }))
    }
}

/// Measures and reports.
pub(super) fn run(args: &StorageArgs, output: Output) -> Result<()> {
    let dir = super::scratch(args.dir.as_deref())?;
    let machine = Machine::with_files_in(dir.path())?;
    if machine.files_are_in_memory() {
        eprintln!("warning: {} is in memory; use --dir on a disk", dir.path().display());
    }
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its figures mean nothing");
    }
    let settings = args.settings()?;
    let measured = rounds::run(args, dir.path())?;
    dir.close().context("removing the stores")?;
    Report::new(machine, settings, measured).print(output)
}
