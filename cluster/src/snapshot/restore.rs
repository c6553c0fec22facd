//! Taking a snapshot over.

use std::sync::Arc;

use allidb_index::{Deadline, EntityKey, EntityState, Error, Result};
use tokio::task::spawn_blocking;

use super::{
    SnapshotPlace, SnapshotProgress, Told, described, for_each,
    format::{Leaves, ObjectReader, Partition, garbled},
    keep::{load, read},
};
use crate::ring::Ring;

/// Entities that replicas take over at a time.
const BATCH: usize = 512;

/// The catalogue of a snapshot.
///
/// # Errors
/// If there is no such snapshot.
pub(crate) async fn catalogue_of(place: &SnapshotPlace, id: &str) -> Result<Vec<u8>> {
    Ok(load(place, id).await?.catalogue)
}

/// Has all replicas hold what a snapshot holds, whose catalogue they go by already.
///
/// # Errors
/// If a replica does not answer, or the snapshot is damaged.
pub(crate) async fn restore(
    ring: Ring,
    place: SnapshotPlace,
    id: &str,
    told: Told,
    deadline: Deadline,
) -> Result<SnapshotProgress> {
    let manifest = load(&place, id).await?;
    let mut progress = SnapshotProgress { snapshot: described(&manifest), ..Default::default() };
    progress.partitions_total = u32::try_from(manifest.partitions.len()).unwrap_or(u32::MAX);
    let restoring = Arc::new(Restoring { ring, place, deadline });
    let work = |partition: Partition| {
        let restoring = Arc::clone(&restoring);
        async move { restoring.restore(partition).await }
    };
    for_each(manifest.partitions.clone(), work, |(entities, bytes)| {
        progress.partitions_done += 1;
        progress.entities += entities;
        progress.bytes += bytes;
        told.tell(&progress);
    })
    .await?;
    tracing::info!(id, entities = progress.entities, "restored a snapshot");
    Ok(SnapshotProgress { finished: true, ..progress })
}

struct Restoring {
    ring: Ring,
    place: SnapshotPlace,
    deadline: Deadline,
}

type States = Vec<(EntityKey, EntityState)>;

impl Restoring {
    /// Says how many entities it were, and bytes.
    async fn restore(&self, partition: Partition) -> Result<(u64, u64)> {
        let (mut entities, mut bytes) = (0, 0);
        let number = u16::try_from(partition.number).map_err(|_| garbled("there is no such partition"))?;
        for (part, hidden) in partition.hidden()? {
            for object in &part.objects {
                let content = read(&self.place, object).await??;
                bytes += object.bytes;
                let mut reader = ObjectReader::new(content)?;
                loop {
                    let (next, rest) = next_of(reader, hidden.clone(), number).await?;
                    let Some(states) = next else { break };
                    reader = rest;
                    entities += states.len() as u64;
                    for states in states.chunks(BATCH) {
                        let replicas = self.ring.now().replicas(number)?;
                        self.ring.now().have_hold(&replicas, states, self.deadline).await?;
                    }
                }
            }
        }
        Ok((entities, bytes))
    }
}

/// The next block, but for what is in hidden leaves.
async fn next_of(
    mut reader: ObjectReader,
    hidden: Leaves,
    partition: u16,
) -> Result<(Option<States>, ObjectReader)> {
    let next = spawn_blocking(move || {
        let Some(entities) = reader.next()? else { return Ok((None, reader)) };
        let mut states = Vec::with_capacity(entities.len());
        for (key, state) in entities {
            if key.partition() != partition {
                return Err(garbled(&format!("entity {} is in another partition than its own", key.id())));
            }
            if !hidden.has(key.leaf()) {
                let state = EntityState::decode(&state)
                    .map_err(|error| garbled(&format!("entity {}: {error}", key.id())))?;
                states.push((key, state));
            }
        }
        Ok((Some(states), reader))
    });
    next.await.map_err(|error| Error::Internal(format!("reading broke off: {error}")))?
}
