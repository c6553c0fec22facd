//! What the storage engine keeps for the index: the vectors themselves, the journal of what is not sealed yet, and the
//! inventory of segments.

use allidb_storage::{Direction, Engine, Keyspace, Snapshot, WriteBatch};
use roaring::RoaringBitmap;

use crate::{
    codec::{DecodeError, Decoder, put_varint},
    error::{Error, Result},
    keyspaces::Keyspaces,
    model::{CollectionId, SpaceId},
    row::{
        EntityKey, VectorContent, VectorKey, decode_register,
        key::{by_number, decode_numbered},
    },
};

/// The newest format of inventories.
const FORMAT: u8 = 1;

/// A space, as keys begin with it.
fn space_prefix((collection, space): (CollectionId, SpaceId)) -> Vec<u8> {
    let mut key = collection.0.to_be_bytes().to_vec();
    key.extend(space.0.to_be_bytes());
    key
}

/// The journal's row of a changed number.
pub(crate) fn journal_key(id: (CollectionId, SpaceId), generation: u64, number: u64) -> Vec<u8> {
    let mut key = space_prefix(id);
    key.extend(generation.to_be_bytes());
    key.extend(number.to_be_bytes());
    key
}

fn deaths_key(id: (CollectionId, SpaceId), segment: u64) -> Vec<u8> {
    let mut key = space_prefix(id);
    key.extend(segment.to_be_bytes());
    key
}

/// Which segments make up a space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Whether the segments and the journal hold every vector.
    pub(crate) is_complete: bool,
    /// The oldest generation of the journal that still counts.
    pub(crate) generation: u64,
    /// The ids of their files, and their dead rows.
    pub(crate) segments: Vec<(u64, RoaringBitmap)>,
}

impl Inventory {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.is_complete)];
        put_varint(&mut out, self.generation);
        put_varint(&mut out, self.segments.len() as u64);
        self.segments.iter().for_each(|(segment, _)| put_varint(&mut out, *segment));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Inventory, DecodeError> {
        let mut from = Decoder::new(bytes);
        match from.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Tag(other)),
        }
        let (is_complete, generation) = (from.u8()? != 0, from.varint()?);
        let segments = (0..from.count(1)?).map(|_| Ok((from.varint()?, RoaringBitmap::new())));
        let segments = segments.collect::<Result<_, DecodeError>>()?;
        from.finish()?;
        Ok(Inventory { is_complete, generation, segments })
    }

    /// Reads what is remembered of a space, if anything is.
    pub(crate) fn load(
        snapshot: &Snapshot,
        keyspaces: &Keyspaces,
        id: (CollectionId, SpaceId),
    ) -> Result<Option<Inventory>> {
        let keyspace = keyspaces.vector_segment;
        let key = space_prefix(id);
        let Some(bytes) = snapshot.get(keyspace, &key)? else { return Ok(None) };
        let inventory = Inventory::decode(&bytes);
        let mut inventory = inventory.map_err(|error| Error::corrupt("vector_segment", &key, error))?;
        for (segment, dead) in &mut inventory.segments {
            let key = deaths_key(id, *segment);
            if let Some(bytes) = snapshot.get(keyspace, &key)? {
                let bitmap = RoaringBitmap::deserialize_from(&bytes[..]);
                *dead = bitmap.map_err(|error| Error::corrupt("vector_segment", &key, error))?;
            }
        }
        Ok(Some(inventory))
    }

    /// Adds to the batch what remembers this, and forgets what went before.
    pub(crate) fn store(
        &self,
        engine: &Engine,
        keyspaces: &Keyspaces,
        id: (CollectionId, SpaceId),
        batch: &mut WriteBatch,
    ) -> Result<()> {
        let keyspace = keyspaces.vector_segment;
        let snapshot = engine.snapshot();
        let prefix = space_prefix(id);
        for row in snapshot.prefix(keyspace, &prefix, Direction::Forward)? {
            let key = row?.0;
            let is_kept =
                |(segment, dead): &(u64, RoaringBitmap)| !dead.is_empty() && deaths_key(id, *segment) == *key;
            if key.len() > prefix.len() && !self.segments.iter().any(is_kept) {
                batch.delete(keyspace, key);
            }
        }
        for (segment, dead) in self.segments.iter().filter(|(_, dead)| !dead.is_empty()) {
            let mut bytes = Vec::with_capacity(dead.serialized_size());
            dead.serialize_into(&mut bytes).map_err(|error| Error::Internal(error.to_string()))?;
            batch.put(keyspace, deaths_key(id, *segment), bytes);
        }
        batch.put(keyspace, prefix, self.encode());
        let (first, end) = (journal_key(id, 0, 0), journal_key(id, self.generation, 0));
        let oldest = snapshot
            .prefix(keyspaces.vector_log, &space_prefix(id), Direction::Forward)?
            .next()
            .transpose()?;
        if oldest.is_some_and(|(key, _)| key[..] < end[..]) {
            batch.delete_range(keyspaces.vector_log, first, Some(end.into()));
        }
        Ok(())
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
}

/// Generation and number of each row of a space's journal, in that order.
pub(crate) fn journal(
    snapshot: &Snapshot,
    journal: Keyspace,
    id: (CollectionId, SpaceId),
) -> Result<impl Iterator<Item = Result<(u64, u64)>>> {
    let start = space_prefix(id).len();
    let rows = snapshot.prefix(journal, &space_prefix(id), Direction::Forward)?;
    Ok(rows.map(move |row| {
        let key = row?.0;
        let mut from = Decoder::new(key.get(start..).unwrap_or_default());
        let decoded = from.u64_be().and_then(|generation| Ok((generation, from.u64_be()?)));
        decoded.map_err(|error| Error::corrupt("vector_log", &key, error))
    }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_of_this_format_is_read_for_ever() {
        let bytes = [1, 1, 0xac, 0x02, 2, 7, 0x80, 0x01];
        let segments = vec![(7, RoaringBitmap::new()), (128, RoaringBitmap::new())];
        let inventory = Inventory { is_complete: true, generation: 300, segments };
        assert_eq!(inventory.encode(), bytes);
        assert_eq!(Inventory::decode(&bytes).unwrap(), inventory);
        for len in 0..bytes.len() {
            assert!(Inventory::decode(&bytes[..len]).is_err());
        }
        assert!(Inventory::decode(&[2, 1, 0, 0]).is_err());
    }
}
