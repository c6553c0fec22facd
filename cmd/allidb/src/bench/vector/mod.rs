//! `allidb bench vector`: recall against queries a second, beside peers where this program was built with them.
//!
//! | module | what it is |
//! |---|---|
//! | `data` | a data set: vectors, queries, exact answers |
//! | `plan` | what is measured, and what processes tell each other |
//! | `child` | a measuring process: building, sweeping over settings |
//! | `engines` | each engine behind one face |
//! | `filtered`, `writes` | rows of AlliDB alone: under filters, while vectors are written |
//! | `grpc` | the same store behind the daemon |
//! | `churn` | recall after many overwrites |
//! | `report` | curves, what they say at a recall, tables, documents |

mod child;
mod churn;
mod data;
mod engines;
mod filtered;
mod grpc;
mod plan;
mod report;
mod writes;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::machine::Machine;
use crate::output::Output;
pub(super) use child::run as run_child;
pub(super) use data::VectorData;
use engines::EngineName;
use plan::{CodesName, Line, Measured, Part, Plan};
use report::Report;
#[cfg(feature = "peers")]
pub(super) use {data::Rows, engines::Usearch};

const AFTER_HELP: &str = "\
DIR holds vectors.f16.npy or vectors.f32.npy, queries.f32.npy and truth.top100.ivecs; distances are cosines. If it holds
entities.jsonl, too, attributes are stored with the vectors, and truth.filtered.jsonl is measured where it is there.
Peers are measured by a program that was built with them: --features peers.
docs/benchmarks.md says what each row means.";

/// Measures vector search: recall and speed over settings, building, memory, filters, writes, gRPC.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct VectorArgs {
    /// The data set.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Hits of each query that are compared with the exact ones.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    k: u32,
    /// Breadths of walks to measure (ef).
    #[arg(long, value_delimiter = ',', default_value = "10,16,24,32,48,64,96,128,192,256,384,512", value_name = "EF",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    ef: Vec<u32>,
    /// Numbers of threads, or of connections, that ask at the same time.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Vec<u32>,
    /// Threads that build.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    build_threads: u32,
    /// How our index holds vectors.
    #[arg(long, value_enum, default_value = "4+8")]
    codes: CodesName,
    /// Only the first rows of the data set; exact answers are computed for them.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(100..))]
    rows: Option<u32>,
    /// Engines to measure, all that this program was built with unless given.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "ENGINE")]
    engines: Vec<EngineName>,
    /// Leaves out what is measured through the daemon.
    #[arg(long)]
    no_grpc: bool,
    /// Overwrites vectors so many times, at random, and compares the recall with that of a fresh build; measures nothing else.
    #[arg(long, value_name = "OVERWRITES", num_args = 0..=1, default_missing_value = "5000000")]
    churn: Option<u64>,
    /// Where stores are put, in a directory that is removed at the end. The build directory unless given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl VectorArgs {
    fn engines(&self) -> Vec<EngineName> {
        let asked = |engine: &&EngineName| self.engines.is_empty() || self.engines.contains(engine);
        EngineName::value_variants().iter().filter(asked).copied().collect()
    }

    fn plan(&self, engine: EngineName, dir: &Path) -> Plan {
        Plan {
            engine,
            data: self.data.clone(),
            dir: dir.join(engine.title()),
            k: self.k as usize,
            breadths: self.ef.iter().map(|ef| *ef as usize).collect(),
            threads: self.threads.iter().map(|threads| *threads as usize).collect(),
            build_threads: self.build_threads as usize,
            codes: self.codes,
            rows: self.rows.map(|rows| rows as usize),
            part: self.churn.map_or(Part::Queries, Part::Churn),
        }
    }
}

/// Measures and reports.
pub(super) fn run(args: &VectorArgs, output: Output) -> Result<()> {
    let dir = super::scratch(args.dir.as_deref())?;
    let machine = Machine::with_files_in(dir.path())?;
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its figures mean nothing");
    }
    let mut measured = Vec::new();
    let engines = if args.churn.is_some() { vec![EngineName::Allidb] } else { args.engines() };
    for engine in engines {
        let plan = args.plan(engine, dir.path());
        fs::create_dir_all(&plan.dir)?;
        measured.extend(run_process(&plan)?);
        if engine == EngineName::Allidb && args.churn.is_none() {
            if !args.no_grpc {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                measured.extend(runtime.block_on(grpc::measure(&plan))?);
            }
            fs::remove_dir_all(&plan.dir)?;
            fs::create_dir_all(&plan.dir)?;
            measured.extend(run_process(&Plan { part: Part::Writes, ..plan.clone() })?);
        }
        fs::remove_dir_all(&plan.dir)?;
    }
    dir.close().context("removing the stores")?;
    Report { machine, measured }.print(output)
}

/// Measures one engine in a process of its own, so that memory and processor time are its alone.
fn run_process(plan: &Plan) -> Result<Vec<Measured>> {
    let program = env::current_exe().context("the path of this program")?;
    let mut child = Command::new(program)
        .args(["bench", "vector-child", &serde_json::to_string(plan)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a measuring process")?;
    let out = child.stdout.take().context("a measuring process without output")?;
    let mut measured = Vec::new();
    for line in BufReader::new(out).lines() {
        match serde_json::from_str(&line?).context("the output of a measuring process")? {
            Line::Note(text) => eprintln!("{:<8} {text}", plan.engine.title()),
            Line::Measured(row) => {
                eprintln!("{}", row.describe());
                measured.push(row);
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("measuring {} failed: {status}", plan.engine.title());
    }
    Ok(measured)
}
