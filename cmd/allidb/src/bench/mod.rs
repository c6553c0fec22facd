//! `allidb bench`: what the figures in the documentation come from.

mod latency;
mod machine;
mod process;
mod storage;
mod vector;

use anyhow::Result;
use clap::Subcommand;

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
        BenchCommand::Vector(args) => vector::run(&args, output),
        BenchCommand::VectorChild { plan } => vector::run_child(&plan),
    }
}
