//! `allidb bench`: what the figures in the documentation come from.

mod cluster;
mod graph;
mod latency;
mod machine;
mod process;
mod query;
mod storage;
mod vector;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clap::Subcommand;
use tempfile::TempDir;

use crate::output::Output;

/// Measures AlliDB on this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    Storage(storage::StorageArgs),
    /// What `bench storage` starts for each engine and size of values.
    #[command(hide = true)]
    StorageChild {
        /// What to measure, as JSON.
        plan: String,
    },
    Cluster(cluster::ClusterBenchArgs),
    Graph(graph::GraphBenchArgs),
    Query(query::QueryBenchArgs),
    Vector(vector::VectorArgs),
    /// What `bench vector` starts for each engine.
    #[command(hide = true)]
    VectorChild {
        /// What to measure, as JSON.
        plan: String,
    },
}

/// Runs the command.
pub(crate) fn run(command: BenchCommand, output: Output) -> Result<()> {
    match command {
        BenchCommand::Storage(args) => storage::run(&args, output),
        BenchCommand::StorageChild { plan } => storage::run_child(&plan),
        BenchCommand::Cluster(args) => cluster::run(&args, output),
        BenchCommand::Graph(args) => graph::run(&args, output),
        BenchCommand::Query(args) => query::run(&args, output),
        BenchCommand::Vector(args) => vector::run(&args, output),
        BenchCommand::VectorChild { plan } => vector::run_child(&plan),
    }
}

/// A directory of our own, removed at the end, also after a failure.
fn scratch(asked: Option<&Path>) -> Result<TempDir> {
    let build = Path::new("target");
    let parent = match asked {
        Some(dir) => dir,
        None if build.is_dir() => build,
        None => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let parent = fs::canonicalize(parent)?;
    let dir = tempfile::Builder::new().prefix("allidb-bench-").tempdir_in(&parent);
    dir.with_context(|| parent.display().to_string())
}
