//! What operators ask for.

use std::sync::Arc;

use allidb_index::{Result, WorkerChange, WorkerStatus};
use allidb_storage::ScrubOptions;

use super::Coordinator;
use crate::maintenance::{CompactProgress, Job, ScrubProgress};

impl Coordinator {
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
