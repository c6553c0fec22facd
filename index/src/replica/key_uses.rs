//! When keys were used last, at any node, about: noted in memory, kept now and then, and told other nodes.

use std::collections::BTreeMap;

use allidb_storage::{Durability, Engine, Keyspace, WriteBatch};
use parking_lot::Mutex;
use prost::Message;

use super::Replica;
use crate::{
    error::{Error, Result},
    model::Timestamp,
};

/// The row that keeps them.
const KEY_USES: &[u8] = b"key_uses";

/// By id, in microseconds since the Unix epoch.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(btree_map = "string, int64", tag = "1")]
    uses: BTreeMap<String, i64>,
}

/// When keys were used last, as far as this node has heard.
pub(super) struct KeyUses {
    now: Mutex<BTreeMap<String, Timestamp>>,
    /// What the row says. One writes it at a time.
    kept: Mutex<Vec<u8>>,
}

impl KeyUses {
    pub(super) fn open(engine: &Engine, local: Keyspace) -> Result<Self> {
        let kept = engine.get(local, KEY_USES)?.map(|row| row.to_vec()).unwrap_or_default();
        let corrupt = |_| Error::corrupt("local", KEY_USES, "it does not say when keys were used");
        let record = Record::decode(&kept[..]).map_err(corrupt)?;
        let uses = record.uses.into_iter().map(|(id, at)| (id, Timestamp(at)));
        Ok(Self { now: Mutex::new(uses.collect()), kept: Mutex::new(kept) })
    }

    fn note(&self, id: &str, at: Timestamp) {
        let mut now = self.now.lock();
        match now.get_mut(id) {
            Some(last) => *last = at.max(*last),
            None => drop(now.insert(id.to_owned(), at)),
        }
    }
}

impl Replica {
    /// Notes that a key is used. It costs no more than looking for the key.
    pub fn note_key_use(&self, id: &str, at: Timestamp) {
        self.key_uses.note(id, at);
    }

    /// When a key was used last, if that is known.
    pub fn key_used_at(&self, id: &str) -> Option<Timestamp> {
        self.key_uses.now.lock().get(id).copied()
    }

    /// When keys were used last that there are still, for other nodes.
    pub fn encoded_key_uses(&self) -> Vec<u8> {
        let catalogue = self.catalogue();
        let mut now = self.key_uses.now.lock();
        now.retain(|id, _| catalogue.key(id).is_some());
        let uses = now.iter().map(|(id, at)| (id.clone(), at.0)).collect();
        Record { uses }.encode_to_vec()
    }

    /// Takes over what another node knows of keys that there are here. Nothing was used later than now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn adopt_key_uses(&self, encoded: &[u8]) -> Result<()> {
        let garbled = |error| Error::invalid("key_uses", format!("cannot be read: {error}"));
        let record = Record::decode(encoded).map_err(garbled)?;
        let (catalogue, now) = (self.catalogue(), self.wall().now());
        for (id, at) in record.uses.iter().filter(|(id, _)| catalogue.key(id).is_some()) {
            self.key_uses.note(id, Timestamp(*at).min(now));
        }
        Ok(())
    }

    /// Keeps them for the next start, if there is anything new.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn keep_key_uses(&self) -> Result<()> {
        let mut kept = self.key_uses.kept.lock();
        let uses = self.encoded_key_uses();
        if *kept == uses {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.local, KEY_USES, uses.clone());
        self.engine.write(batch, Durability::Flush)?;
        *kept = uses;
        Ok(())
    }
}
