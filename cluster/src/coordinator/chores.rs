//! What operators ask for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use allidb_index::{
    Deadline, Error, RebuildProgress, RebuildRequest, Result, Version, WorkerChange, WorkerStatus,
    model::Timestamp,
};
use allidb_storage::ScrubOptions;

use super::Coordinator;
use crate::{
    layout::NodeId,
    maintenance::{CompactProgress, Job, PurgeProgress, RepairProgress, ScrubProgress},
    ring::{HealingCounts, Repaired},
};

/// How long others may take to say that they hold what is damaged here.
const ASKING: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Takes no more requests of clients from now on, so that the node can be stopped, or takes them again.
    pub fn drain(&self, is_drained: bool) {
        if self.0.is_drained.swap(is_drained, Ordering::SeqCst) != is_drained {
            tracing::info!(is_drained, "requests of clients are refused, or taken again");
        }
    }

    /// # Errors
    /// [`Error::Unavailable`] if the node is drained.
    pub fn check_takes_requests(&self) -> Result<()> {
        match self.0.is_drained.load(Ordering::SeqCst) {
            true => {
                Err(Error::Unavailable("this node is drained, to be stopped: ask another one".to_owned()))
            }
            false => Ok(()),
        }
    }

    /// Bytes of writes that are kept for nodes that are heard from, about.
    pub fn kept_for_others(&self) -> u64 {
        let nodes = self.nodes();
        let is_heard = |node: NodeId| nodes.iter().any(|view| view.node == node && view.is_alive);
        let hints = self.hints().into_iter().filter(|kept| is_heard(kept.node)).map(|kept| kept.bytes);
        hints.sum::<u64>() + self.outbox().bytes
    }

    /// Writes everything that is in memory to tables.
    pub async fn flush(&self) -> Result<()> {
        let replica = Arc::clone(&self.0.replica);
        self.0.chores.run(move || Ok(replica.engine().flush()?)).await?
    }

    /// Flushes, and merges the tables of one keyspace, or of each, into one level. Fails if that is under way already.
    pub fn compact(&self, keyspace: Option<&str>) -> Result<Job<CompactProgress>> {
        self.0.jobs.compact(self.0.replica.engine().clone(), keyspace)
    }

    /// Reads everything on disk and compares it with its checksums. Fails if that is under way already.
    pub fn scrub(&self, options: ScrubOptions) -> Result<Job<ScrubProgress>> {
        self.0.jobs.scrub(Arc::clone(&self.0.replica), options)
    }

    /// Makes segments of vectors anew that lie here. Fails if that is under way already.
    ///
    /// # Errors
    /// If there is no such collection or space.
    pub fn rebuild_index(&self, request: &RebuildRequest) -> Result<Job<RebuildProgress>> {
        self.0.jobs.rebuild(&self.0.replica, request)
    }

    /// Compares what lies here with what another node holds of the same, or each other member, and has both hold what they hold together. Fails if
    /// that is under way already.
    ///
    /// # Errors
    /// If there is no such member.
    pub fn repair(&self, with: Option<NodeId>) -> Result<Job<RepairProgress>> {
        let own = self.node();
        let others = self.topology().nodes().into_iter().filter(|node| *node != own);
        let nodes: Vec<NodeId> = others.filter(|node| with.is_none_or(|with| with == *node)).collect();
        if let Some(with) = with.filter(|_| nodes.is_empty()) {
            return Err(Error::invalid("node", format!("is {with}, which is no other member of the ring")));
        }
        self.0.jobs.repair(self.0.ring(), nodes)
    }

    /// Has all nodes of the ring forget what was deleted until a while ago. Fails if that is under way already.
    ///
    /// # Errors
    /// If this node is alone: it forgets at once.
    pub fn purge(&self) -> Result<Job<PurgeProgress>> {
        if self.topology().nodes() == [self.node()] {
            let why = "this node is alone, and forgets what is deleted at once";
            return Err(Error::FailedPrecondition(why.to_owned()));
        }
        self.0.jobs.purge(self.0.ring())
    }

    /// Until when what was deleted is forgotten by all nodes; `None` if it never was, or this node is alone.
    pub fn purged(&self) -> Option<Timestamp> {
        let purged = self.0.replica.purged();
        (purged != Version::ZERO).then(|| purged.timestamp())
    }

    /// How old the newest is at most that is not forgotten yet though it was deleted; if nothing ever was, how long this node has been open. `None` if
    /// it is alone.
    pub fn purged_age(&self) -> Option<Duration> {
        let (purged, now) = (self.0.replica.purged(), self.0.replica.wall().now_ms());
        match purged {
            _ if self.0.is_alone() => None,
            Version::ZERO => Some(self.0.opened_at.elapsed()),
            _ => Some(Duration::from_millis(now.saturating_sub(purged.millis()))),
        }
    }

    /// How far this node is with healing from damage.
    pub fn healing(&self) -> HealingCounts {
        self.0.ring.healing()
    }

    /// Whether damage was found that this node heals from when it is closed and opened again: that is noted then.
    ///
    /// # Errors
    /// If others do not say that they hold what is to go, or it cannot be noted.
    pub async fn may_heal(&self) -> Result<bool> {
        match self.0.is_alone() {
            true => Ok(false),
            false => self.0.ring().may_heal(Deadline::after(ASKING)).await,
        }
    }

    /// Whether a copy of another node's disk takes the place of what lies here when this is closed and opened again.
    pub fn has_copy(&self) -> bool {
        self.0.replica.has_copy()
    }

    /// How long ago this node compared with another one, and what came of it; `None` if it has not since it was started.
    pub fn compared(&self, node: NodeId) -> Option<(Duration, Repaired)> {
        self.0.ring.compared(node)
    }

    /// What background work is at.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.0.replica.workers()
    }

    /// Pauses, resumes or slows down a worker, until the next start; gives what it is at then.
    ///
    /// # Errors
    /// If there is no worker of this name, or the share is none.
    pub fn change_worker(&self, name: &str, change: WorkerChange) -> Result<WorkerStatus> {
        self.0.replica.change_worker(name, change)
    }
}
