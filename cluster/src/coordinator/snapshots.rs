//! Snapshots of the ring.

use std::{sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Replica, Result};

use super::Coordinator;
use crate::{
    maintenance::Job,
    snapshot::{self, Snapshot, SnapshotPlace, SnapshotProgress},
};

/// How long one may take to be made, or restored.
const WITHIN: Duration = Duration::from_hours(24);

impl Coordinator {
    fn place(&self) -> Result<SnapshotPlace> {
        let why = "no place for snapshots is configured: set `snapshots.location`";
        self.0.snapshots.clone().ok_or_else(|| Error::FailedPrecondition(why.to_owned()))
    }

    /// Makes a snapshot of all that the ring holds. One at a time at a node.
    ///
    /// # Errors
    /// If no place is configured, or another one is under way here.
    pub fn create_snapshot(&self) -> Result<Job<SnapshotProgress>> {
        let (place, ring) = (self.place()?, (self.0.ring(), self.0.ring_name.clone()));
        self.0.jobs.snapshot(|told| snapshot::create(ring, place, told, Deadline::after(WITHIN)))
    }

    /// The snapshots at the place that is configured, in the order of their making.
    ///
    /// # Errors
    /// If none is configured, or one cannot be read.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        snapshot::list(&self.place()?).await
    }

    /// Reads all of a snapshot, and compares it with its checksums.
    ///
    /// # Errors
    /// If no place is configured, or another job is under way.
    pub fn verify_snapshot(&self, id: String) -> Result<Job<SnapshotProgress>> {
        let place = self.place()?;
        self.0.jobs.snapshot(|told| async move { snapshot::verify(place, &id, told).await })
    }

    /// Deletes snapshots, and what no other one refers to.
    ///
    /// # Errors
    /// If there is no such one, or one is being made.
    pub async fn delete_snapshots(&self, ids: &[String]) -> Result<()> {
        snapshot::delete(&self.place()?, ids).await
    }

    /// The snapshot of which a part may be missing, as its restoring was begun at this node and did not end.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn restoring(&self) -> Result<Option<String>> {
        self.0.replica.restoring()
    }

    /// Takes a snapshot over, with its collections and keys, where there never were any, or goes on with it where that did not end.
    ///
    /// # Errors
    /// If no place is configured, or another job is under way.
    pub fn restore_snapshot(&self, id: String) -> Result<Job<SnapshotProgress>> {
        let (place, coordinator) = (self.place()?, self.clone());
        self.0.jobs.snapshot(|told| async move {
            // What is no snapshot is not even claimed.
            let encoded = Arc::new(snapshot::catalogue_of(&place, &id).await?);
            let restoring = async {
                // Where it cannot be restored that is said before all of it is read.
                let is_begun = coordinator.has_begun(&id, &encoded)?;
                snapshot::check_restorable(&place, &id, &told).await?;
                if !is_begun {
                    coordinator.keep_restoring(Some(id.clone())).await?;
                    if let Err(error) = coordinator.restore_catalogue(encoded).await {
                        // Otherwise it may come to be yet.
                        if matches!(error, Error::FailedPrecondition(_)) {
                            coordinator.keep_restoring(None).await?;
                        }
                        return Err(error);
                    }
                }
                let ring = coordinator.0.ring();
                let restored =
                    snapshot::restore(ring, place.clone(), &id, told, Deadline::after(WITHIN)).await?;
                coordinator.keep_restoring(None).await?;
                Ok(restored)
            };
            snapshot::reading(&place, &id, restoring).await
        })
    }

    /// Whether a snapshot's catalogue is here already, because its restoring was begun.
    fn has_begun(&self, id: &str, encoded: &[u8]) -> Result<bool> {
        let replica = &self.0.replica;
        let Err(error) = replica.with_restored(encoded) else { return Ok(false) };
        // Other collections may have been restored meanwhile, by another node.
        let is_begun = replica.restoring()?.as_deref() == Some(id) && replica.has_restored(encoded)?;
        if is_begun { Ok(true) } else { Err(error) }
    }

    async fn keep_restoring(&self, id: Option<String>) -> Result<()> {
        self.change(move |replica| replica.keep_restoring(id.as_deref())).await
    }

    async fn restore_catalogue(&self, encoded: Arc<Vec<u8>>) -> Result<()> {
        if self.0.is_alone() {
            let adopt = move |replica: &Arc<Replica>| {
                let next = replica.with_restored(&encoded)?;
                replica.adopt_catalogue(&next).map(drop)
            };
            return self.change(adopt).await;
        }
        self.agree(move |replica| replica.with_restored(&encoded)).await
    }
}
