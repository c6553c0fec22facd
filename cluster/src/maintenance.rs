//! Work on the store that an operator asks for, on threads of its own: it takes long, and searches must not wait for it.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::snapshot::{SnapshotProgress, Told};
use allidb_index::{Deadline, Error, Rebuild, RebuildProgress, RebuildRequest, Replica, Result, Version};
use allidb_storage::{Damage, Engine, ScrubOptions, ScrubReport};
use tokio::sync::mpsc;

use crate::{
    layout::NodeId,
    ring::{PurgeStage, Purged, Repaired, Ring},
};

/// How long comparing with one node may take.
const REPAIR_WITHIN: Duration = Duration::from_hours(24);
/// How often a job tells how far it has come, unless it has something else to tell.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Messages that its caller has not taken yet.
const UNREAD: usize = 16;

/// A job under way. Dropping it stops the job as soon as it can stop.
#[derive(Debug)]
pub struct Job<T> {
    messages: mpsc::Receiver<Result<T>>,
}

impl<T> Job<T> {
    /// What the job has to tell next; `None` once it has ended. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<T>> {
        self.messages.recv().await
    }
}

/// How far a compaction has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactProgress {
    /// The keyspace that is compacted now; empty once all are done.
    pub keyspace: String,
    /// Keyspaces that are done.
    pub keyspaces_done: usize,
    /// Keyspaces in all.
    pub keyspaces_total: usize,
    /// Bytes of tables that are done.
    pub bytes_done: u64,
    /// Bytes of tables when it began.
    pub bytes_total: u64,
    /// Tables with damage in them, which are left alone, and so is what lies over or under them.
    pub quarantined_tables: usize,
    /// This is the result.
    pub finished: bool,
}

/// How far a scrub has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Files read to their end.
    pub files_done: u64,
    /// Files when it began.
    pub files_total: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes there were to read when it began.
    pub bytes_total: u64,
    /// Damages found since the message before.
    pub damages: Vec<Damage>,
    /// This is the result.
    pub finished: bool,
}

/// How far a repair has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairProgress {
    /// With whom is compared; `None`: there is nobody.
    pub node: Option<NodeId>,
    /// What was found, and done.
    pub repaired: Repaired,
    /// Why it ended before its time.
    pub failure: Option<String>,
    /// This is what came of this node.
    pub done: bool,
    /// This is the last message.
    pub finished: bool,
}

/// How far a purge has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgeProgress {
    /// What it is at.
    pub stage: PurgeStage,
    /// Entities of which replicas had to be told by each other until now.
    pub repaired: u64,
    /// In the result: up to where what was deleted is forgotten, unless nothing could be.
    pub upto: Option<Version>,
    /// This is the result.
    pub finished: bool,
}

/// Lets one job of a kind run at a time.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    repairing: Arc<AtomicBool>,
    purging: Arc<AtomicBool>,
    compacting: Arc<AtomicBool>,
    scrubbing: Arc<AtomicBool>,
    rebuilding: Arc<AtomicBool>,
    snapshotting: Arc<AtomicBool>,
}

/// The right to be the one job of its kind.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(running: &Arc<AtomicBool>, what: &str) -> Result<Turn> {
        match running.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(Turn(Arc::clone(running))),
            Err(_) => Err(Error::FailedPrecondition(format!("a {what} is under way; wait for its end"))),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Jobs {
    /// Flushes, and merges all tables of the keyspace, or of each keyspace, into one level.
    pub(crate) fn compact(&self, engine: Engine, keyspace: Option<&str>) -> Result<Job<CompactProgress>> {
        let mut names: Vec<String> =
            engine.stats().keyspaces.into_iter().map(|keyspace| keyspace.name).collect();
        if let Some(wanted) = keyspace {
            if !names.iter().any(|name| name == wanted) {
                return Err(Error::invalid("keyspace", format!("must be one of {}", names.join(", "))));
            }
            names.retain(|name| name == wanted);
        }
        let turn = Turn::take(&self.compacting, "compaction")?;
        start("compact", turn, move |messages| compact(&engine, &names, messages))
    }

    /// Reads everything on disk and compares it with its checksums.
    pub(crate) fn scrub(&self, replica: Arc<Replica>, options: ScrubOptions) -> Result<Job<ScrubProgress>> {
        let turn = Turn::take(&self.scrubbing, "scrub")?;
        start("scrub", turn, move |messages| scrub(&replica, options, messages))
    }
}

impl Jobs {
    /// Has segments of vectors made anew.
    pub(crate) fn rebuild(
        &self,
        replica: &Replica,
        request: &RebuildRequest,
    ) -> Result<Job<RebuildProgress>> {
        let turn = Turn::take(&self.rebuilding, "rebuild")?;
        let rebuild = replica.rebuild_vectors(request)?;
        start("rebuild", turn, move |messages| wait_for(&rebuild, messages))
    }
}

impl Jobs {
    /// Compares what lies here with what some nodes hold of the same. Must be called within a runtime.
    pub(crate) fn repair(&self, ring: Ring, nodes: Vec<NodeId>) -> Result<Job<RepairProgress>> {
        let turn = Turn::take(&self.repairing, "repair")?;
        let (sender, messages) = mpsc::channel(UNREAD);
        tokio::spawn(async move {
            // Nobody may be left who wants to know.
            let last = tokio::select! {
                last = repair(&ring, &nodes, &sender) => last,
                () = sender.closed() => return,
            };
            // Whoever is told of the end may begin the next one.
            drop(turn);
            sender.send(Ok(last)).await.ok();
        });
        Ok(Job { messages })
    }
}

impl Jobs {
    /// Has all nodes forget what was deleted. Must be called within a runtime.
    pub(crate) fn purge(&self, ring: Ring) -> Result<Job<PurgeProgress>> {
        let turn = Turn::take(&self.purging, "purge")?;
        let (sender, messages) = mpsc::channel(UNREAD);
        tokio::spawn(async move {
            let mut so_far = PurgeProgress::default();
            let purged = ring.purge(Deadline::after(REPAIR_WITHIN), |stage, repaired| {
                so_far = PurgeProgress { stage, repaired, ..PurgeProgress::default() };
                // A caller that does not keep up is told the next time.
                sender.try_send(Ok(so_far.clone())).ok();
            });
            // Nobody may be left who wants to know.
            let purged = tokio::select! {
                purged = purged => purged,
                () = sender.closed() => return,
            };
            // Whoever is told of the end may begin the next one.
            drop(turn);
            let upto = |purged: Option<Purged>| purged.map(|purged| purged.upto);
            let last = purged.map(|purged| PurgeProgress { upto: upto(purged), finished: true, ..so_far });
            sender.send(last).await.ok();
        });
        Ok(Job { messages })
    }
}

impl Jobs {
    /// Makes, restores or verifies a snapshot: `work` gives the last message. Must be called within a runtime.
    pub(crate) fn snapshot<F>(&self, work: impl FnOnce(Told) -> F) -> Result<Job<SnapshotProgress>>
    where
        F: Future<Output = Result<SnapshotProgress>> + Send + 'static,
    {
        let turn = Turn::take(&self.snapshotting, "snapshot")?;
        let (sender, messages) = mpsc::channel(UNREAD);
        let work = work(Told::new(sender.clone()));
        tokio::spawn(async move {
            // Nobody may be left who wants to know.
            let last = tokio::select! {
                last = work => last,
                () = sender.closed() => return,
            };
            // Whoever is told of the end may begin the next one.
            drop(turn);
            sender.send(last).await.ok();
        });
        Ok(Job { messages })
    }
}

/// Gives the last message.
async fn repair(ring: &Ring, nodes: &[NodeId], messages: &Messages<RepairProgress>) -> RepairProgress {
    let mut last = RepairProgress { done: true, finished: true, ..RepairProgress::default() };
    for (at, node) in nodes.iter().enumerate() {
        let mut so_far = RepairProgress { node: Some(*node), ..RepairProgress::default() };
        let mut told_at: Option<Instant> = None;
        let repaired = ring.repair_with(*node, Deadline::after(REPAIR_WITHIN), |repaired| {
            so_far.repaired = *repaired;
            // A caller that does not keep up is told the next time.
            if told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY)
                && messages.try_send(Ok(so_far.clone())).is_ok()
            {
                told_at = Some(Instant::now());
            }
        });
        let failure = match repaired.await {
            Ok(repaired) => {
                so_far.repaired = repaired;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        last = RepairProgress { failure, done: true, finished: at + 1 == nodes.len(), ..so_far };
        if !last.finished {
            messages.send(Ok(last.clone())).await.ok();
        }
    }
    last
}

type Messages<T> = mpsc::Sender<Result<T>>;

fn start<T: Send + 'static>(
    name: &str,
    turn: Turn,
    work: impl FnOnce(&Messages<T>) -> Result<Option<T>> + Send + 'static,
) -> Result<Job<T>> {
    let (sender, messages) = mpsc::channel(UNREAD);
    let span = tracing::Span::current();
    let run = move || {
        let result = span.in_scope(|| work(&sender));
        // Whoever is told of the end may begin the next one.
        drop(turn);
        if let Some(last) = result.transpose() {
            // Nobody may be left who wants to know.
            sender.blocking_send(last).ok();
        }
    };
    thread::Builder::new()
        .name(format!("allidb-{name}"))
        .spawn(run)
        .map_err(|error| Error::FailedPrecondition(format!("cannot start a {name} thread: {error}")))?;
    Ok(Job { messages })
}

/// `None` if nobody wants the result any more.
fn compact(
    engine: &Engine,
    names: &[String],
    messages: &Messages<CompactProgress>,
) -> Result<Option<CompactProgress>> {
    engine.flush()?;
    let stats = engine.stats();
    let bytes_of = |name: &String| -> u64 {
        let levels = stats.keyspaces.iter().filter(|keyspace| keyspace.name == *name);
        levels.flat_map(|keyspace| &keyspace.levels).map(|level| level.bytes).sum()
    };
    let mut progress = CompactProgress {
        keyspaces_total: names.len(),
        bytes_total: names.iter().map(bytes_of).sum(),
        ..CompactProgress::default()
    };
    for name in names {
        progress.keyspace.clone_from(name);
        if messages.blocking_send(Ok(progress.clone())).is_err() {
            return Ok(None);
        }
        // One that only the disk knows is of another release.
        if let Some(keyspace) = engine.keyspace(name) {
            engine.compact(keyspace)?;
        }
        progress.keyspaces_done += 1;
        progress.bytes_done += bytes_of(name);
    }
    progress.keyspace.clear();
    progress.quarantined_tables = engine.stats().quarantined_tables;
    progress.finished = true;
    Ok(Some(progress))
}

/// `None` if nobody wants the result any more.
fn wait_for(rebuild: &Rebuild, messages: &Messages<RebuildProgress>) -> Result<Option<RebuildProgress>> {
    loop {
        let progress = rebuild.progress()?;
        if progress.is_done {
            return Ok(Some(progress));
        }
        if messages.blocking_send(Ok(progress)).is_err() {
            return Ok(None);
        }
        thread::sleep(TELL_EVERY);
    }
}

/// `None` if nobody wants the result any more.
fn scrub(
    replica: &Replica,
    options: ScrubOptions,
    messages: &Messages<ScrubProgress>,
) -> Result<Option<ScrubProgress>> {
    let mut told = 0;
    let mut told_at: Option<Instant> = None;
    let report = replica.scrub(options, |report| {
        if messages.is_closed() {
            return ControlFlow::Break(());
        }
        let due = told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        // A caller that does not keep up is told the next time.
        if (due || report.damages.len() > told)
            && messages.try_send(Ok(progress(report, told, false))).is_ok()
        {
            told = report.damages.len();
            told_at = Some(Instant::now());
        }
        ControlFlow::Continue(())
    })?;
    tracing::info!(
        files = report.files,
        bytes = report.bytes,
        damages = report.damages.len(),
        cancelled = report.cancelled,
        "scrubbed"
    );
    Ok((!report.cancelled).then(|| progress(&report, told, true)))
}

fn progress(report: &ScrubReport, told: usize, finished: bool) -> ScrubProgress {
    ScrubProgress {
        files_done: report.files,
        files_total: report.files_total,
        bytes_done: report.bytes,
        bytes_total: report.bytes_total,
        damages: report.damages.get(told..).unwrap_or_default().to_vec(),
        finished,
    }
}
