//! `allidb bench graph`: walks of a data set's edges, and of a generated graph with hubs.
//!
//! | module | concept |
//! |---|---|
//! | `store` | a replica with a graph in it |
//! | `power_law` | a graph of which few nodes are the targets of most edges |
//! | `hops` | counting who is so many hops away, beside plain arrays |
//! | `expansion` | expanding from some seeds, in the process and over gRPC at a steady rate |

mod expansion;
mod hops;
mod power_law;
mod store;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::output::Output;

/// Measures walks: expansions over a data set's edges, and counts of who is 1, 2 and 3 hops away in a generated graph.
#[derive(Args, Debug)]
pub(crate) struct GraphBenchArgs {
    /// A data set with edges: a directory as `import` reads it. Expansions are measured on it.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Requests a second of the expansions over gRPC.
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Seconds that expansions over gRPC are asked for.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Nodes of the generated graph.
    #[arg(long, default_value_t = 1_000_000)]
    nodes: u32,
    /// Edges of the generated graph; 0: none is generated.
    #[arg(long, default_value_t = 10_000_000)]
    edges: u64,
    /// Random nodes that hops are counted from.
    #[arg(long, default_value_t = 1_000)]
    sources: u32,
    /// Where files go while it runs.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &GraphBenchArgs, output: Output) -> Result<()> {
    ensure!(args.nodes > 0, "--nodes must be at least 1");
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its times mean nothing");
    }
    if let Some(data) = &args.data {
        let dir = super::scratch(args.dir.as_deref())?;
        expansion::run(data, dir.path(), args.rate, args.seconds, output)?;
    }
    if args.edges > 0 {
        let dir = super::scratch(args.dir.as_deref())?;
        hops::run(dir.path(), args.nodes, args.edges, args.sources, output)?;
    }
    Ok(())
}
