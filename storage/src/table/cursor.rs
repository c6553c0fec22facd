//! Walks through a table, in either direction.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::block::Malformed;
use super::block_cursor::BlockCursor;
use super::bulk::Window;
use super::data_block::DataBlock;
use super::frame::Handle;
use super::place::Place;
use super::reader::Table;
use crate::Sequence;
use crate::error::Error;
use crate::key::{Kind, Position};
use crate::snapshot::Direction;

/// Blocks of separated values that a cursor holds on to: about as many as there are flushes between two compactions,
/// since each has written some of the values in a range of keys.
const RECENT_BLOCKS: usize = 32;

/// How a table is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Through the block cache.
    Cached,
    /// In large pieces past the cache, forward only.
    Bulk,
}

/// A value that outlives the cursor's place.
#[derive(Debug)]
pub(crate) enum UnreadValue {
    Here(Bytes),
    /// The table whose entry holds the reference.
    Apart(Arc<Table>, Bytes),
}

impl UnreadValue {
    pub(crate) fn read(self) -> Result<Bytes, Error> {
        match self {
            UnreadValue::Here(value) => Ok(value),
            UnreadValue::Apart(table, reference) => table.separated(&reference),
        }
    }
}

/// A place in a table.
#[derive(Debug)]
pub(crate) struct TableCursor {
    table: Arc<Table>,
    direction: Direction,
    access: Access,
    window: Window,
    /// The sequence of all versions, if it is not in the entries.
    global_sequence: Option<Sequence>,
    current: Option<Current>,
    /// Blocks of separated values, by file and offset: neighbouring keys often have theirs in one.
    recent: RefCell<VecDeque<(u64, u64, Bytes)>>,
}

/// The block that a cursor is in.
#[derive(Debug)]
struct Current {
    place: Place,
    handle: Handle,
    block: BlockCursor,
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
        let from = from.map(|from| table.meta.stored_position(from));
        // Versions of one key may fill several blocks, so the place may be further on than the first that fits.
        let place = match (&from, direction) {
            (None, Direction::Forward) => table.first_place(access),
            (None, Direction::Reverse) => table.last_place(access),
            (Some(from), Direction::Forward) => table.place_at_least(&from.key, access),
            (Some(from), Direction::Reverse) => table.place_above(&from.key, access),
        }?;
        let mut cursor = TableCursor {
            global_sequence: table.meta.global_sequence,
            table,
            direction,
            access,
            window: Window::default(),
            current: None,
            recent: RefCell::default(),
        };
        cursor.enter(place, from.as_ref())?;
        cursor.skip_finished(from.as_ref())?;
        Ok(cursor)
    }

    /// The current key and sequence; `None` at the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<(&[u8], Sequence)> {
        let (key, sequence) = self.current.as_ref()?.block.key()?;
        Some((key, self.global_sequence.unwrap_or(sequence)))
    }

    /// The sequence that the current entry is stored with.
    pub(crate) fn stored_sequence(&self) -> Option<Sequence> {
        self.current.as_ref()?.block.key().map(|(_, sequence)| sequence)
    }

    /// The current kind.
    pub(crate) fn kind(&self) -> Kind {
        self.current.as_ref().map_or(Kind::Tombstone, |current| current.block.kind())
    }

    /// The current value, wherever it lies.
    pub(crate) fn value(&self) -> Result<Bytes, Error> {
        let Some(Current { block, .. }) = &self.current else { return Ok(Bytes::new()) };
        match block.kind() {
            Kind::Separated => self.separated(block.value_bytes()),
            Kind::Value | Kind::Tombstone => Ok(block.value()),
        }
    }

    /// The current value without reading it if it is a separated one.
    pub(crate) fn unread_value(&self) -> UnreadValue {
        match &self.current {
            Some(Current { block, .. }) if block.kind() == Kind::Separated => {
                UnreadValue::Apart(self.table.clone(), block.value())
            }
            Some(Current { block, .. }) => UnreadValue::Here(block.value()),
            None => UnreadValue::Here(Bytes::new()),
        }
    }

    fn separated(&self, reference: &[u8]) -> Result<Bytes, Error> {
        let (blob, file) = self.table.locate(reference)?;
        let mut recent = self.recent.borrow_mut();
        let found = recent.iter().find(|(number, offset, _)| (*number, *offset) == (blob.file, blob.block));
        if let Some((_, _, block)) = found {
            return file.value(block, &blob);
        }
        let block = file.block(&blob)?;
        let value = file.value(&block, &blob)?;
        if recent.len() == RECENT_BLOCKS {
            recent.pop_front();
        }
        recent.push_back((blob.file, blob.block, block));
        Ok(value)
    }

    /// What the table holds as the current value: of a separated one the reference.
    pub(crate) fn value_bytes(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |current| current.block.value_bytes())
    }

    #[inline]
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.block.advance().is_err() {
            return Err(self.table.malformed(current.handle, Malformed));
        }
        if current.block.key().is_none() { self.skip_finished(None) } else { Ok(()) }
    }

    /// Goes on to the next block that has an entry.
    fn skip_finished(&mut self, from: Option<&Position>) -> Result<(), Error> {
        while let Some(current) = self.current.take_if(|current| current.block.key().is_none()) {
            let next = match self.direction {
                Direction::Forward => self.table.place_behind(current.place, self.access)?,
                Direction::Reverse => self.table.place_before(current.place, self.access)?,
            };
            self.enter(next, from)?;
        }
        Ok(())
    }

    fn enter(&mut self, place: Option<Place>, from: Option<&Position>) -> Result<(), Error> {
        let Some(place) = place else { return Ok(()) };
        let handle = self.table.handle_at(&place)?;
        let from = from.map(|from| (&*from.key, from.sequence));
        let (block, restart) = match self.access {
            Access::Cached => {
                let cached: Arc<DataBlock> = self.table.cached(handle)?;
                let restart = from.map(|(key, sequence)| cached.restart_before(key, sequence));
                (cached.block().clone(), restart)
            }
            Access::Bulk => {
                let block = self.table.bulk_block(handle, &mut self.window)?;
                let restart = from.map(|(key, sequence)| block.restart_before(key, sequence));
                (block, restart)
            }
        };
        let cursor = match (from, restart) {
            (Some((key, sequence)), Some(restart)) => {
                restart.and_then(|restart| BlockCursor::seek(block, restart, self.direction, key, sequence))
            }
            _ => BlockCursor::first(block, self.direction),
        };
        let block = cursor.map_err(|malformed| self.table.malformed(handle, malformed))?;
        self.current = Some(Current { place, handle, block });
        Ok(())
    }
}
