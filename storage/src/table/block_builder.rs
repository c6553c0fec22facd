//! Writes the entries of a block: prefix-compressed against the key before, with restart points.

use crate::Sequence;
use crate::coding::put_varint;
use crate::key::{Kind, common_prefix};

/// Bytes of entries after which one carries its whole key, however few they are: a lookup passes half of them.
const RESTART_BYTES: usize = 512;

/// Appends entries in order; see "Block" in `docs/format.md`.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    restart_interval: usize,
    since_restart: usize,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    /// At least every `restart_interval`-th entry carries its whole key.
    pub(crate) fn new(restart_interval: usize) -> BlockBuilder {
        BlockBuilder {
            bytes: Vec::new(),
            restarts: Vec::new(),
            restart_interval,
            since_restart: restart_interval,
            last_key: Vec::new(),
        }
    }

    /// The value of a [`Kind::Separated`] is a reference, and so never empty; that of a tombstone always is.
    pub(crate) fn add(&mut self, key: &[u8], sequence: Sequence, kind: Kind, value: &[u8]) {
        let last_restart = self.restarts.last().map_or(0, |&restart| restart as usize);
        let shared = if self.since_restart >= self.restart_interval
            || self.bytes.len() - last_restart >= RESTART_BYTES
        {
            self.restarts.push(self.bytes.len() as u32);
            self.since_restart = 0;
            0
        } else {
            common_prefix(&self.last_key, key)
        };
        self.since_restart += 1;
        let suffix = key.get(shared..).unwrap_or_default();
        put_varint(&mut self.bytes, shared as u64);
        put_varint(&mut self.bytes, suffix.len() as u64);
        put_varint(&mut self.bytes, (value.len() as u64) << 1 | u64::from(kind == Kind::Value));
        put_varint(&mut self.bytes, sequence);
        self.bytes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(suffix);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.restarts.is_empty()
    }

    /// Size of the finished block.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len() + 4 * self.restarts.len() + 4
    }

    /// Adds the restart points and returns the block; [`clear`](BlockBuilder::clear) starts the next one.
    pub(crate) fn finish(&mut self) -> &[u8] {
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        &self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.restarts.clear();
        self.last_key.clear();
        self.since_restart = self.restart_interval;
    }
}
