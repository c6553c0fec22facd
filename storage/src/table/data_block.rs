//! A data block in the cache, with what makes lookups in it fast.

use super::block::{Block, Lookup, Malformed};
use super::heads::Heads;
use crate::Sequence;
use crate::key::compare;

/// A block, and the heads of the keys at its restart points.
#[derive(Debug)]
pub(crate) struct DataBlock {
    block: Block,
    heads: Heads,
}

impl DataBlock {
    pub(crate) fn new(block: Block) -> Result<DataBlock, Malformed> {
        let key = |restart| Ok(block.bytes(block.entry(block.restart(restart)?)?.suffix));
        Ok(DataBlock { heads: Heads::new(block.restarts(), key)?, block })
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    /// Memory it takes, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        size_of::<DataBlock>() + self.block.byte_len() + self.heads.byte_len()
    }

    /// What [`Block::restart_before`] says.
    pub(crate) fn restart_before(&self, key: &[u8], sequence: Sequence) -> Result<usize, Malformed> {
        let is_before = |restart| {
            let entry = self.block.entry(self.block.restart(restart)?)?;
            Ok(compare(self.block.bytes(entry.suffix), entry.sequence, key, sequence).is_lt())
        };
        Ok(self.heads.partition_point(key, is_before)?.saturating_sub(1))
    }

    /// The newest version of `key` that is not newer than `sequence`.
    pub(crate) fn get(&self, key: &[u8], sequence: Sequence) -> Result<Lookup, Malformed> {
        self.block.get_from(self.restart_before(key, sequence)?, key, sequence)
    }
}
