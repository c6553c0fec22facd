//! Removing the rows of what was dropped, in the background. Ids are never reused, so nothing reads them
//! meanwhile, and a sweep that a restart interrupts begins again.

use std::sync::{Arc, atomic::Ordering};

use allidb_storage::{Direction, Durability, Keyspace, WriteBatch};

use crate::{
    catalogue::{Dropped, DroppedPart, dropped_row},
    error::{Error, Result},
    placement::PARTITIONS,
    replica::{Replica, mirrored},
    row::key::{by_number, collection_prefix, decode_edge_key, decode_vector_key, numbers_prefix},
    secondary::{postings_of_collection, postings_of_index},
    vector,
    version::Version,
};

/// Rows removed by one batch.
const BATCH_ROWS: usize = 1_000;

/// From this many rows of one prefix on, a range delete removes them all. Fewer are cheaper one by one: a range tombstone
/// is kept until compaction has rewritten every table it reaches.
const RANGE_ROWS: usize = 32;

impl Replica {
    pub(super) fn sweep_in_background(self: &Arc<Self>, dropped: Dropped) {
        let replica = Arc::clone(self);
        let work = move || {
            if let Err(error) = replica.sweep(dropped) {
                tracing::error!(%error, ?dropped, "rows of something dropped could not be removed; a restart tries again");
            }
        };
        self.background.run("sweep", Box::new(work));
    }

    fn sweep(&self, dropped: Dropped) -> Result<()> {
        let keyspaces = &self.keyspaces;
        let mut deleted_ranges = false;
        let postings = match dropped.part {
            DroppedPart::Everything => Some(postings_of_collection(dropped.collection)),
            DroppedPart::Index(index) => Some(postings_of_index(dropped.collection, index)),
            DroppedPart::Space(_) => None,
        };
        if let Some(postings) = postings {
            deleted_ranges |= self.sweep_prefix(keyspaces.posting, &postings)?;
        }
        // Of an index that is all.
        let partitions = if matches!(dropped.part, DroppedPart::Index(_)) { 0 } else { PARTITIONS };
        for partition in 0..partitions {
            let prefix = collection_prefix(partition, dropped.tenant, dropped.collection);
            if let DroppedPart::Space(space) = dropped.part {
                // A row of the history goes on with a version.
                let rows = [(keyspaces.vector, "vector", 0), (keyspaces.history, "history", Version::BYTES)];
                for (own, name, after) in rows {
                    self.sweep_rows(own, &prefix, |key, _, batch| {
                        let named = key.get(..key.len().saturating_sub(after)).unwrap_or_default();
                        let (_, vector) =
                            decode_vector_key(named).map_err(|error| Error::corrupt(name, key, error))?;
                        if vector.space == space {
                            batch.delete(own, key.to_vec());
                        }
                        Ok(())
                    })?;
                }
                continue;
            }
            for (own, mirror) in [(keyspaces.edge, keyspaces.edge_in), (keyspaces.edge_in, keyspaces.edge)] {
                self.sweep_rows(own, &prefix, |key, _, batch| {
                    let (entity, edge) =
                        decode_edge_key(key).map_err(|error| Error::corrupt("edge", key, error))?;
                    let (other, seen_from_there) = mirrored(&entity, &edge);
                    // Those within the collection go with its own rows.
                    if other.collection != dropped.collection {
                        batch.delete(mirror, other.edge(&seen_from_there));
                    }
                    Ok(())
                })?;
            }
            let numbers = numbers_prefix(partition, dropped.tenant, dropped.collection);
            self.sweep_rows(keyspaces.number, &numbers, |key, value, batch| {
                let number = value.try_into();
                let number =
                    number.map_err(|_| Error::corrupt("number", key, "it is not eight bytes long"))?;
                batch.delete(keyspaces.number, by_number(u64::from_be_bytes(number)));
                Ok(())
            })?;
            // After what is found through them, which therefore is in the log before.
            deleted_ranges |= self.sweep_prefix(keyspaces.number, &numbers)?;
            for own in [
                keyspaces.edge,
                keyspaces.edge_in,
                keyspaces.entity,
                keyspaces.vector,
                keyspaces.history,
                keyspaces.chunk,
                keyspaces.token,
                keyspaces.paxos,
            ] {
                deleted_ranges |= self.sweep_prefix(own, &prefix)?;
            }
        }
        if deleted_ranges {
            // They fill no memtable, and their space comes back only after a flush.
            self.engine.flush()?;
        }
        let mut batch = WriteBatch::new();
        match dropped.part {
            DroppedPart::Everything => vector::forget(keyspaces, dropped.collection, None, &mut batch),
            DroppedPart::Space(space) => {
                vector::forget(keyspaces, dropped.collection, Some(space), &mut batch)
            }
            DroppedPart::Index(index) => self.forget_build(dropped.collection, index, &mut batch),
        }
        batch.delete(keyspaces.cluster, dropped_row(dropped));
        if !matches!(dropped.part, DroppedPart::Index(_)) {
            // They were not told of these rows.
            self.forget_trees(self.cursor_key())?;
        }
        self.engine.write(batch, Durability::Sync)?;
        Ok(())
    }

    /// Removes all rows of a prefix. True if a range delete did it.
    fn sweep_prefix(&self, keyspace: Keyspace, prefix: &[u8]) -> Result<bool> {
        let mut batch = WriteBatch::new();
        for row in self.engine.snapshot().prefix(keyspace, prefix, Direction::Forward)?.take(RANGE_ROWS) {
            batch.delete(keyspace, row?.0.to_vec());
        }
        let is_range = batch.len() == RANGE_ROWS;
        if is_range {
            batch = WriteBatch::new();
            batch.delete_prefix(keyspace, prefix.to_vec());
        }
        if !batch.is_empty() {
            self.engine.write(batch, Durability::None)?;
        }
        Ok(is_range)
    }

    /// Goes through the rows of a prefix and writes what `remove` adds to a batch.
    fn sweep_rows(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        remove: impl Fn(&[u8], &[u8], &mut WriteBatch) -> Result<()>,
    ) -> Result<()> {
        let mut batch = WriteBatch::new();
        for row in self.engine.snapshot().prefix(keyspace, prefix, Direction::Forward)? {
            if self.closed.load(Ordering::Acquire) {
                return Err(Error::FailedPrecondition("the replica is closing".into()));
            }
            let (key, value) = row?;
            remove(&key, &value, &mut batch)?;
            if batch.len() >= BATCH_ROWS {
                self.engine.write(std::mem::take(&mut batch), Durability::None)?;
            }
        }
        if !batch.is_empty() {
            self.engine.write(batch, Durability::None)?;
        }
        Ok(())
    }
}
