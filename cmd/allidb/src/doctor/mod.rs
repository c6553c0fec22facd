//! `allidb doctor`: what would go wrong, or does already.
//!
//! Each check is a function that gathers what it is about, and one that judges it, which tests call with good and bad.
//!
//! | module | checks |
//! |---|---|
//! | `place` | what checks without a daemon look at, and their table |
//! | `directory` | the data directory, its disk, the store in it |
//! | `machine` | files, memory and clock |
//! | `certificates` | certificates and the keys of theirs |
//! | `secrets` | files that nobody else should read |
//! | `ports` | ports, and who holds them and the directory |
//! | `daemon` | what checks of a daemon that runs look at, and their table |
//! | `node`, `ring`, `tenants` | the node that answers, its ring, quotas and keys |
//! | `verdict` | what a check comes to |

mod certificates;
mod daemon;
mod directory;
mod machine;
mod node;
mod place;
mod ports;
mod ring;
mod secrets;
mod tenants;
mod verdict;

use std::path::PathBuf;

use allidbd::{ServeArgs, config};
use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    client::Server,
    failure::Failure,
    output::{Output, counted},
};
use place::Place;
use verdict::{Finding, State, Verdict};

/// Finds out what would go wrong: with a configuration, a data directory and this machine, and with the daemon that answers and its ring.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The configuration that the daemon is, or will be, started with; the environment counts, too.
    #[arg(long, value_name = "FILE", env = "ALLIDB_CONFIG")]
    config: Option<PathBuf>,
    /// The directory that holds everything, if not as the configuration says.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where figures are read; the port after that of `--endpoint`, unless given.
    #[arg(long, value_name = "URL", env = "ALLIDB_METRICS_URL")]
    metrics_url: Option<String>,
    /// Check nothing else; both, and the daemon if one answers, unless given.
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Option<Part>,
    /// Exit with 1 if there are warnings.
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// This machine and what lies on it.
    Local,
    /// The daemon that answers, and its ring.
    Daemon,
}

/// Runs `doctor`.
pub(crate) fn run(args: DoctorArgs, server: &Server, output: Output) -> Result<()> {
    let mut findings = Vec::new();
    if args.only != Some(Part::Daemon) {
        findings.extend(local(&args));
    }
    if args.only != Some(Part::Local) {
        let must_answer = args.only == Some(Part::Daemon);
        let metrics_url = args.metrics_url.as_deref();
        findings.extend(crate::runtime()?.block_on(daemon::check(server, metrics_url, must_answer))?);
    }
    let [warnings, failures] =
        [State::Warn, State::Fail].map(|state| verdict::count(&findings, state) as u64);
    if output.is_json() {
        output.document(&verdict::to_json(&findings))?;
    } else {
        output.table(&verdict::to_table(&findings))?;
    }
    let [warned, failed] = [(warnings, "warning"), (failures, "failure")]
        .map(|(count, what)| counted(count, what, &format!("{what}s")));
    match (failures, warnings) {
        (0, 0) => Ok(()),
        (0, _) if !args.strict => Ok(()),
        (0, _) => Err(anyhow::anyhow!("{warned}, and --strict takes none")),
        _ => Err(Failure::unfit(format!("{failed}, {warned}"))),
    }
}

/// Checks for which no daemon is needed.
fn local(args: &DoctorArgs) -> Vec<Finding> {
    let serve =
        ServeArgs { config: args.config.clone(), data_dir: args.data_dir.clone(), ..ServeArgs::default() };
    let from = match &args.config {
        Some(path) => path.display().to_string(),
        None => "defaults and the environment".to_owned(),
    };
    match config::load(&serve) {
        Ok(config) => {
            let mut findings =
                vec![("configuration", Verdict::ok(format!("{from}: all options can be used")))];
            findings.extend(place::check(&Place::of(config)));
            findings
        }
        Err(error) => vec![(
            "configuration",
            Verdict::fail(
                format!("{error:#}"),
                "change it, and look again: without it nothing else can be checked here",
            ),
        )],
    }
}
