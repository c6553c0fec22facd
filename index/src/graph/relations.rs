//! Numbers of relations, so that edges need not carry their names.

use std::sync::Arc;

use allidb_storage::{Direction, Durability, Engine, Keyspace, WriteBatch};
use foldhash::{HashMap, HashMapExt};
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Result};

/// What the rows begin with that number relations.
pub(crate) const RELATION: &[u8] = b"relation\0";

/// The relations that edges were ever written with. Their numbers are never reused.
pub(crate) struct Relations {
    local: Keyspace,
    known: RwLock<Known>,
    /// Held while a new one is written.
    giving: Mutex<()>,
}

#[derive(Default)]
struct Known {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Relations {
    /// Reads what is known.
    pub(crate) fn open(engine: &Engine, local: Keyspace) -> Result<Self> {
        let mut found: Vec<(u32, Arc<str>)> = Vec::new();
        for row in engine.snapshot().prefix(local, RELATION, Direction::Forward)? {
            let (key, value) = row?;
            let number = value[..].try_into().map(u32::from_be_bytes);
            let name = std::str::from_utf8(&key[RELATION.len()..]);
            match (number, name) {
                (Ok(number), Ok(name)) => found.push((number, name.into())),
                _ => return Err(Error::corrupt("local", &key, "it is no number of a relation")),
            }
        }
        found.sort_unstable();
        let mut known = Known { numbers: HashMap::new(), names: Vec::new() };
        for (at, (number, name)) in found.into_iter().enumerate() {
            if number as usize != at {
                return Err(Error::corrupt("local", RELATION, format!("relation {at} is missing")));
            }
            known.numbers.insert(Arc::clone(&name), number);
            known.names.push(name);
        }
        Ok(Self { local, known: RwLock::new(known), giving: Mutex::new(()) })
    }

    /// The number of a relation, if any edge ever had it.
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.known.read().numbers.get(name).copied()
    }

    /// The number of a relation, given to it if it has none.
    pub(crate) fn number(&self, engine: &Engine, name: &str) -> Result<u32> {
        if let Some(number) = self.get(name) {
            return Ok(number);
        }
        let _giving = self.giving.lock();
        if let Some(number) = self.get(name) {
            return Ok(number);
        }
        let number = u32::try_from(self.known.read().names.len())
            .map_err(|_| Error::Exhausted("there are no numbers left for relations".to_owned()))?;
        let mut batch = WriteBatch::new();
        let key = [RELATION, name.as_bytes()].concat();
        batch.put(self.local, key, number.to_be_bytes().to_vec());
        // Not synced by itself: whatever uses the number follows it in the log.
        engine.write(batch, Durability::None)?;
        let mut known = self.known.write();
        let name: Arc<str> = name.into();
        known.numbers.insert(Arc::clone(&name), number);
        known.names.push(name);
        Ok(number)
    }

    /// The name of a relation.
    pub(crate) fn name(&self, number: u32) -> Option<Arc<str>> {
        self.known.read().names.get(number as usize).cloned()
    }
}
