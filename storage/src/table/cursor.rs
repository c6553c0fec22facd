//! Walks through a table, in either direction.

use std::sync::Arc;

use bytes::Bytes;

use super::block_cursor::BlockCursor;
use super::reader::{Table, Window};
use crate::Sequence;
use crate::error::Error;
use crate::key::{Kind, Position};
use crate::snapshot::Direction;

/// Bytes that a bulk reader reads at a time.
const BULK_BYTES: usize = 1 << 20;

/// How blocks are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Through the block cache.
    Cached,
    /// In large pieces past the cache, forward only.
    Bulk,
}

/// A place in a table.
#[derive(Debug)]
pub(crate) struct TableCursor {
    table: Arc<Table>,
    direction: Direction,
    access: Access,
    window: Window,
    /// The block that `block` walks through.
    index: usize,
    block: Option<BlockCursor>,
}

impl TableCursor {
    /// Forward: on the first version not before `from`. Reverse: on the last one before it. Without `from`: on
    /// the first version in that direction.
    pub(crate) fn new(
        table: Arc<Table>,
        from: Option<&Position>,
        direction: Direction,
        access: Access,
    ) -> Result<TableCursor, Error> {
        let blocks = table.blocks();
        let mut cursor =
            TableCursor { table, direction, access, window: Window::default(), index: 0, block: None };
        if blocks == 0 {
            return Ok(cursor);
        }
        let Some(from) = from else {
            cursor.index = if direction == Direction::Forward { 0 } else { blocks - 1 };
            cursor.enter(None)?;
            cursor.skip_finished(None)?;
            return Ok(cursor);
        };
        // Versions of one key may fill several blocks, so the place may be further on than the first that fits.
        cursor.index = match direction {
            Direction::Forward => cursor.table.block_at_least(&from.key)?,
            Direction::Reverse => cursor.table.block_above(&from.key)?.min(blocks - 1),
        };
        if cursor.index < blocks {
            cursor.enter(Some(from))?;
            cursor.skip_finished(Some(from))?;
        }
        Ok(cursor)
    }

    /// The current key and sequence; `None` at the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<(&[u8], Sequence)> {
        self.block.as_ref()?.key()
    }

    /// The current kind.
    pub(crate) fn kind(&self) -> Kind {
        self.block.as_ref().map_or(Kind::Tombstone, BlockCursor::kind)
    }

    /// The current value, wherever it lies.
    pub(crate) fn value(&self) -> Result<Bytes, Error> {
        let Some(block) = &self.block else { return Ok(Bytes::new()) };
        match block.kind() {
            Kind::Separated => self.table.separated(block.value_bytes()),
            Kind::Value | Kind::Tombstone => Ok(block.value()),
        }
    }

    /// What the table holds as the current value: of a separated one the reference.
    pub(crate) fn value_bytes(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], BlockCursor::value_bytes)
    }

    #[inline]
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        let Some(block) = &mut self.block else { return Ok(()) };
        if block.advance().is_err() {
            let handle = self.table.handle(self.index)?;
            return Err(self.table.malformed(handle, super::block::Malformed));
        }
        if block.key().is_none() { self.skip_finished(None) } else { Ok(()) }
    }

    /// Goes on to the next block that has an entry.
    fn skip_finished(&mut self, from: Option<&Position>) -> Result<(), Error> {
        while self.block.as_ref().is_some_and(|block| block.key().is_none()) {
            let next = match self.direction {
                Direction::Forward => self.index.checked_add(1).filter(|&next| next < self.table.blocks()),
                Direction::Reverse => self.index.checked_sub(1),
            };
            match next {
                Some(next) => {
                    self.index = next;
                    self.enter(from)?;
                }
                None => self.block = None,
            }
        }
        Ok(())
    }

    fn enter(&mut self, from: Option<&Position>) -> Result<(), Error> {
        let handle = self.table.handle(self.index)?;
        let block = match self.access {
            Access::Cached => self.table.cached_block(handle)?,
            Access::Bulk => self.table.bulk_block(handle, &mut self.window, BULK_BYTES)?,
        };
        let cursor = match from {
            Some(from) => BlockCursor::seek(block, self.direction, &from.key, from.sequence),
            None => BlockCursor::first(block, self.direction),
        };
        self.block = Some(cursor.map_err(|malformed| self.table.malformed(handle, malformed))?);
        Ok(())
    }
}
