//! Reading vectors again whose segment was lost or damaged: from the rows, beside searches and writes.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use allidb_storage::Direction;

use crate::{
    duty::Work,
    error::{Error, Result},
    placement::PARTITIONS,
    replica::register,
    row::{
        StoredRow, VectorContent,
        key::{collection_prefix, decode_vector_key},
    },
    vector::{SpaceIndex, owner::Owner, spaces::Inner, upkeep::ROOM_EVERY},
};

impl Inner {
    /// Reads every stored vector of a space that is neither in a segment nor fresh.
    pub(super) fn restore(&self, space: &SpaceIndex) -> Result<()> {
        let (collection, space_id) = space.id;
        let Some((tenant, _)) = self.by_id.read().get(&space.id).cloned() else { return Ok(()) };
        // In this order: what is taken out later may have kept rows from being read.
        let taken_out = space.taken_out();
        let snapshot = self.engine.snapshot();
        for partition in 0..PARTITIONS {
            let prefix = collection_prefix(partition, tenant, collection);
            for row in snapshot.prefix(self.keyspaces.vector, &prefix, Direction::Forward)? {
                if self.is_over(space) {
                    return Ok(());
                }
                let (key, bytes) = row?;
                let (entity, vector) =
                    decode_vector_key(&key).map_err(|error| Error::corrupt("vector", &key, error))?;
                if vector.space != space_id {
                    continue;
                }
                let Some(content) = register::<VectorContent>("vector", &key, &bytes)?.value else {
                    continue;
                };
                let number_key = entity.number(&vector.chunk);
                let Some(number) = snapshot.get(self.keyspaces.number, &number_key)? else {
                    let row_key = entity.prefix();
                    let row = snapshot.get(self.keyspaces.entity, &row_key)?.map(StoredRow::new).transpose();
                    let row = row.map_err(|error| Error::corrupt("entity", &row_key, error))?;
                    if row.is_some_and(|row| row.exists()) {
                        return Err(Error::corrupt("number", &number_key, "a vector has no number"));
                    }
                    // It came before its entity did.
                    continue;
                };
                let number = number[..].try_into();
                let number = number
                    .map_err(|_| Error::corrupt("number", &number_key, "it is not eight bytes long"))?;
                let writing = space.begin_write();
                let owner = Owner::encode(&entity.id, &vector.chunk);
                let fresh = writing.growing().encode(space.measure().prepare(&content.0), owner);
                drop(writing);
                space.restore(u64::from_be_bytes(number), &fresh, snapshot.sequence());
                self.seal_what_was_restored(space)?;
            }
        }
        space.end_restore(taken_out, snapshot.sequence());
        Ok(())
    }

    /// What was restored must not pile up in memory.
    fn seal_what_was_restored(&self, space: &SpaceIndex) -> Result<()> {
        while space.has_backlog() && !self.is_over(space) {
            if space.duty.begin(Work::Seal) {
                let sealed = catch_unwind(AssertUnwindSafe(|| self.seal_all(space)));
                space.duty.end(Work::Seal, !matches!(sealed, Ok(Ok(()))));
                sealed.unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            // Another thread seals, or somebody still writes to the oldest.
            std::thread::sleep(ROOM_EVERY);
        }
        Ok(())
    }
}
