//! `allidb demo`: the whole product on data that the program carries with it.

mod narrator;
mod questions;
mod sample_files;
mod story;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::{daemon::Daemon, output::Output};
use narrator::Narrator;

/// Shows what AlliDB does: starts a daemon of its own, loads 2,000 WordNet synsets, asks, changes,
/// restarts and asks again. Needs nothing, and leaves nothing behind unless told to.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Leave the daemon running at the end, and its data in place.
    #[arg(long)]
    keep: bool,
    /// Keep everything in this directory (it must be empty or missing) rather than in a temporary one.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Where the demo keeps its files.
enum Place {
    /// Removed at the end.
    Temporary(TempDir),
    /// The user's; never removed.
    Given(PathBuf),
}

impl Place {
    fn prepare(dir: Option<PathBuf>) -> Result<Self> {
        let Some(dir) = dir else {
            let made = tempfile::Builder::new().prefix("allidb-demo-").tempdir();
            return Ok(Self::Temporary(made.context("cannot make a temporary directory")?));
        };
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        if fs::read_dir(&dir)?.next().is_some() {
            bail!("{} is not empty", dir.display());
        }
        // The daemon is started with this path from wherever it likes to be.
        Ok(Self::Given(fs::canonicalize(dir)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(dir) => dir,
        }
    }

    /// Lets the files stay.
    fn keep(self) -> PathBuf {
        match self {
            Self::Temporary(dir) => dir.keep(),
            Self::Given(dir) => dir,
        }
    }
}

/// Runs the command. Whatever happens, the daemon is stopped, unless all went well and it was to stay.
pub(crate) async fn run(args: DemoArgs, output: Output) -> Result<()> {
    let place = Place::prepare(args.dir)?;
    let mut narrator = Narrator::new(output);
    // Set by the story as soon as a process runs, so that it can be stopped from here.
    let mut daemon: Option<Daemon> = None;
    let told = tokio::select! {
        told = story::tell(place.path(), &mut daemon, &mut narrator) => told,
        interrupted = interruption() => interrupted.and_then(|()| bail!("interrupted; the daemon is stopped")),
    };
    if let Err(error) = told {
        if let Some(daemon) = &mut daemon {
            // The error of the story is the one to report; dropping the daemon ends it in any case.
            daemon.stop().await.ok();
        }
        return Err(error);
    }
    let mut daemon = daemon.context("the story ends with a running daemon")?;
    if args.keep {
        let dir = place.keep();
        story::next_with_daemon(&daemon, &dir, &mut narrator)?;
        daemon.detach();
    } else {
        daemon.stop().await?;
        story::next_without_daemon(&place, &mut narrator)?;
    }
    narrator.finish()?;
    Ok(())
}

async fn interruption() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
