//! Node-local numbers of entities and chunks: never reused, never replicated.

use allidb_storage::{Durability, Engine, Keyspace, WriteBatch};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Numbers taken from the store at a time. What is left of them at a restart is never given out.
const LEASE: u64 = 65_536;
pub(super) const LEASED: &[u8] = b"numbers_leased";

/// Gives out numbers.
pub(crate) struct Numbers {
    local: Keyspace,
    /// The next number, and the first one not leased.
    range: Mutex<(u64, u64)>,
}

impl Numbers {
    pub(crate) fn open(engine: &Engine, local: Keyspace) -> Result<Self> {
        let leased = match engine.get(local, LEASED)? {
            None => 1,
            Some(bytes) => {
                let bytes = bytes[..].try_into();
                u64::from_be_bytes(
                    bytes.map_err(|_| Error::corrupt("local", LEASED, "it is not eight bytes long"))?,
                )
            }
        };
        Ok(Self { local, range: Mutex::new((leased, leased)) })
    }

    /// A number that was never given out before.
    pub(crate) fn next(&self, engine: &Engine) -> Result<u64> {
        let mut range = self.range.lock();
        if range.0 == range.1 {
            let leased = range.1 + LEASE;
            let mut batch = WriteBatch::new();
            batch.put(self.local, LEASED, leased.to_be_bytes().to_vec());
            // Not synced by itself: whatever uses these numbers follows it in the log.
            engine.write(batch, Durability::None)?;
            range.1 = leased;
        }
        range.0 += 1;
        Ok(range.0 - 1)
    }
}
