//! What the storage engine keeps for an index: the journal of what is in no segment yet, and the inventory of segments.

use allidb_storage::{Direction, Engine, Keyspace, Snapshot, WriteBatch};
use roaring::RoaringBitmap;

use crate::{
    codec::{DecodeError, Decoder, put_varint},
    error::{Error, Result},
};

/// The newest format of inventories.
const FORMAT: u8 = 1;

/// Where all that is kept for one index lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Of the journal.
    pub(crate) log: Keyspace,
    pub(crate) log_name: &'static str,
    /// Of the inventory.
    pub(crate) segments: Keyspace,
    pub(crate) segments_name: &'static str,
    /// Every key begins so.
    pub(crate) prefix: Vec<u8>,
}

impl Place {
    /// The journal's row of a changed number.
    pub(crate) fn journal_key(&self, generation: u64, number: u64) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend(generation.to_be_bytes());
        key.extend(number.to_be_bytes());
        key
    }

    fn deaths_key(&self, segment: u64) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend(segment.to_be_bytes());
        key
    }

    /// Generation and number of each row of the journal, in that order.
    pub(crate) fn journal(&self, snapshot: &Snapshot) -> Result<impl Iterator<Item = Result<(u64, u64)>>> {
        let (start, name) = (self.prefix.len(), self.log_name);
        let rows = snapshot.prefix(self.log, &self.prefix, Direction::Forward)?;
        Ok(rows.map(move |row| {
            let key = row?.0;
            let mut from = Decoder::new(key.get(start..).unwrap_or_default());
            let decoded = from.u64_be().and_then(|generation| Ok((generation, from.u64_be()?)));
            decoded.map_err(|error| Error::corrupt(name, &key, error))
        }))
    }
}

/// Which segments make up an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Whether the segments and the journal hold everything.
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

    /// Reads what is remembered, if anything is.
    pub(crate) fn load(snapshot: &Snapshot, place: &Place) -> Result<Option<Inventory>> {
        let Some(bytes) = snapshot.get(place.segments, &place.prefix)? else { return Ok(None) };
        let corrupt =
            |key: &[u8], error: &dyn std::fmt::Display| Error::corrupt(place.segments_name, key, error);
        let mut inventory = Inventory::decode(&bytes).map_err(|error| corrupt(&place.prefix, &error))?;
        for (segment, dead) in &mut inventory.segments {
            let key = place.deaths_key(*segment);
            if let Some(bytes) = snapshot.get(place.segments, &key)? {
                *dead = RoaringBitmap::deserialize_from(&bytes[..]).map_err(|error| corrupt(&key, &error))?;
            }
        }
        Ok(Some(inventory))
    }

    /// Adds to the batch what remembers this, and forgets what went before.
    pub(crate) fn store(&self, engine: &Engine, place: &Place, batch: &mut WriteBatch) -> Result<()> {
        let snapshot = engine.snapshot();
        for row in snapshot.prefix(place.segments, &place.prefix, Direction::Forward)? {
            let key = row?.0;
            let is_kept = |(segment, dead): &(u64, RoaringBitmap)| {
                !dead.is_empty() && place.deaths_key(*segment) == *key
            };
            if key.len() > place.prefix.len() && !self.segments.iter().any(is_kept) {
                batch.delete(place.segments, key);
            }
        }
        for (segment, dead) in self.segments.iter().filter(|(_, dead)| !dead.is_empty()) {
            let mut bytes = Vec::with_capacity(dead.serialized_size());
            dead.serialize_into(&mut bytes).map_err(|error| Error::Internal(error.to_string()))?;
            batch.put(place.segments, place.deaths_key(*segment), bytes);
        }
        batch.put(place.segments, place.prefix.clone(), self.encode());
        let (first, end) = (place.journal_key(0, 0), place.journal_key(self.generation, 0));
        let oldest = snapshot.prefix(place.log, &place.prefix, Direction::Forward)?.next().transpose()?;
        if oldest.is_some_and(|(key, _)| key[..] < end[..]) {
            batch.delete_range(place.log, first, Some(end.into()));
        }
        Ok(())
    }
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
