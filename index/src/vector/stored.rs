//! What the storage engine keeps for a vector space: the vectors themselves, and where its journal and inventory lie.

use allidb_storage::{Snapshot, WriteBatch};

use crate::{
    error::{Error, Result},
    inventory::Place,
    keyspaces::Keyspaces,
    model::{CollectionId, SpaceId},
    row::{
        EntityKey, VectorContent, VectorKey, decode_register,
        key::{by_number, decode_numbered},
    },
};

/// A space, as keys begin with it.
fn space_prefix((collection, space): (CollectionId, SpaceId)) -> Vec<u8> {
    let mut key = collection.0.to_be_bytes().to_vec();
    key.extend(space.0.to_be_bytes());
    key
}

/// Where journal and inventory of a space lie.
pub(crate) fn place(keyspaces: &Keyspaces, id: (CollectionId, SpaceId)) -> Place {
    Place {
        log: keyspaces.vector_log,
        log_name: "vector_log",
        segments: keyspaces.vector_segment,
        segments_name: "vector_segment",
        prefix: space_prefix(id),
    }
}

/// Adds to the batch what forgets the spaces of a collection, or one of them, altogether.
pub(crate) fn forget(
    keyspaces: &Keyspaces,
    collection: CollectionId,
    space: Option<SpaceId>,
    batch: &mut WriteBatch,
) {
    let prefix = match space {
        Some(space) => space_prefix((collection, space)),
        None => collection.0.to_be_bytes().to_vec(),
    };
    batch.delete_prefix(keyspaces.vector_log, prefix.clone());
    batch.delete_prefix(keyspaces.vector_segment, prefix);
}

/// The stored vector that a number stands for in a space, if there is one.
pub(crate) fn vector_of(
    snapshot: &Snapshot,
    keyspaces: &Keyspaces,
    space: SpaceId,
    number: u64,
) -> Result<Option<(EntityKey, String, VectorContent)>> {
    let key = by_number(number);
    let Some(bytes) = snapshot.get(keyspaces.number, &key)? else { return Ok(None) };
    let (entity, chunk) = decode_numbered(&bytes).map_err(|error| Error::corrupt("number", &key, error))?;
    let vector_key = VectorKey { chunk, space };
    let key = entity.vector(&vector_key);
    let Some(bytes) = snapshot.get(keyspaces.vector, &key)? else { return Ok(None) };
    let register = decode_register::<VectorContent>(&bytes);
    let content = register.map_err(|error| Error::corrupt("vector", &key, error))?.value;
    Ok(content.map(|content| (entity, vector_key.chunk, content)))
}
