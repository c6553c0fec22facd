//! Runs one measuring process after the other, and stops them on a signal.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    StorageArgs,
    engines::EngineName,
    plan::{Line, Metric, Metrics, Phase, Plan, Row},
};

/// What one process measured in one row.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) engine: EngineName,
    pub(super) value_bytes: usize,
    pub(super) row: Row,
    pub(super) metrics: Metrics,
}

/// Measures everything, all engines in each round. Stores are put below `dir`.
pub(super) fn run(args: &StorageArgs, dir: &Path) -> Result<Vec<Measured>> {
    let running = Arc::new(Running::default());
    let watcher = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    watcher.spawn(stop_on_signal(running.clone()));
    let mut measured = Vec::new();
    let mut engines = args.engines();
    for round in 0..args.rounds {
        for &value_bytes in &args.values {
            for &engine in &engines {
                let place = Place { round, rounds: args.rounds, engine, value_bytes: value_bytes as usize };
                measured.extend(measure(args, place, dir, &running)?);
            }
        }
        // No engine is always the one that runs on the disk another has just worn out.
        engines.rotate_left(1);
    }
    Ok(measured)
}

/// Where the measurement is.
#[derive(Clone, Copy)]
struct Place {
    round: u32,
    rounds: u32,
    engine: EngineName,
    value_bytes: usize,
}

/// Measures one engine with one size of values, in a process, or two with a kill in between.
fn measure(args: &StorageArgs, place: Place, dir: &Path, running: &Running) -> Result<Vec<Measured>> {
    let mut plan = Plan {
        engine: place.engine,
        phase: Phase::Workloads,
        rows: args.rows(),
        entries: args.entries,
        sync_entries: args.sync_entries,
        value_bytes: place.value_bytes,
        cache_bytes: args.setup(0).cache_bytes,
        seed: u64::from(place.round),
        dir: dir.join(place.engine.title()),
    };
    fs::create_dir_all(&plan.dir)?;
    let mut rows = run_process(&plan, place, running)?;
    if plan.has(Row::ReopenLog) {
        plan.phase = Phase::Recovery;
        rows.extend(run_process(&plan, place, running)?);
    }
    fs::remove_dir_all(&plan.dir)?;
    ensure!(rows.len() == plan.rows.len(), "{} measured only {} rows", place.engine.title(), rows.len());
    let Place { engine, value_bytes, .. } = place;
    Ok(rows.into_iter().map(|(row, metrics)| Measured { engine, value_bytes, row, metrics }).collect())
}

fn run_process(plan: &Plan, place: Place, running: &Running) -> Result<Vec<(Row, Metrics)>> {
    let out = running.start(plan)?;
    let mut rows = Vec::new();
    let mut killing = false;
    for line in BufReader::new(out).lines() {
        match serde_json::from_str(&line?).context("the output of a measuring process")? {
            Line::Started(row) => show(place, row, "…"),
            Line::Measured(row, metrics) => {
                show(place, row, &summary(&metrics));
                rows.push((row, metrics));
            }
            Line::Killing => killing = true,
        }
    }
    let status = running.finish()?;
    let as_planned = if killing { status.signal() == Some(Signal::KILL.as_raw()) } else { status.success() };
    if !as_planned {
        bail!(
            "measuring {} with values of {} bytes failed: {status}",
            place.engine.title(),
            place.value_bytes
        );
    }
    Ok(rows)
}

fn show(place: Place, row: Row, text: &str) {
    let Place { round, rounds, engine, value_bytes } = place;
    eprintln!("{}/{rounds} {:<8} {value_bytes:>5} B  {:<18} {text}", round + 1, engine.title(), row.title());
}

fn summary(metrics: &Metrics) -> String {
    match (metrics.get(&Metric::Rate), metrics.get(&Metric::Time)) {
        (Some(rate), _) => format!("{rate:.0}/s"),
        (None, Some(seconds)) => format!("{:.1} ms", seconds * 1e3),
        (None, None) => String::new(),
    }
}

/// The process that measures now.
#[derive(Default)]
struct Running {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    stopped: bool,
}

impl Running {
    fn start(&self, plan: &Plan) -> Result<ChildStdout> {
        let mut state = self.lock();
        ensure!(!state.stopped, "interrupted");
        let program = env::current_exe().context("the path of this program")?;
        let mut child = Command::new(program)
            .args(["bench", "storage-child", &serde_json::to_string(plan)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a measuring process")?;
        let out = child.stdout.take().context("a measuring process without output")?;
        state.child = Some(child);
        Ok(out)
    }

    /// Waits for the process, whose output has ended.
    fn finish(&self) -> Result<ExitStatus> {
        let mut state = self.lock();
        let status = state.child.as_mut().context("no measuring process")?.wait()?;
        // Its id may be another's from here on.
        state.child = None;
        ensure!(!state.stopped, "interrupted");
        Ok(status)
    }

    /// Kills the process and lets no other start.
    fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        if let Some(child) = &mut state.child
            && let Err(error) = child.kill()
        {
            eprintln!("warning: the measuring process cannot be stopped: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every state is a good one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On Ctrl-C and SIGTERM: the run fails as soon as its process is gone, and removes its files.
async fn stop_on_signal(running: Arc<Running>) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.stop();
}
