//! One ordered stream out of memtables, tables and levels.

use std::sync::Arc;

use bytes::Bytes;

use crate::Sequence;
use crate::error::Error;
use crate::key::{Kind, Position, compare};
use crate::memtable::MemtableCursor;
use crate::snapshot::Direction;
use crate::table::{Access, Table, TableCursor, UnreadValue};

/// A place in one sorted source.
#[derive(Debug)]
pub(crate) enum Cursor {
    Memtable(MemtableCursor),
    Table(Box<TableCursor>),
    Level(Box<LevelCursor>),
}

impl Cursor {
    #[inline]
    pub(crate) fn key(&self) -> Option<(&[u8], Sequence)> {
        match self {
            Cursor::Memtable(cursor) => cursor.key(),
            Cursor::Table(cursor) => cursor.key(),
            Cursor::Level(cursor) => cursor.key(),
        }
    }

    pub(crate) fn key_bytes(&self) -> Bytes {
        match self {
            Cursor::Memtable(cursor) => cursor.key_bytes(),
            cursor => cursor.key().map_or_else(Bytes::new, |(key, _)| Bytes::copy_from_slice(key)),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Cursor::Memtable(cursor) => cursor.kind(),
            Cursor::Table(cursor) => cursor.kind(),
            Cursor::Level(cursor) => cursor.current.as_ref().map_or(Kind::Tombstone, TableCursor::kind),
        }
    }

    /// The value, wherever it lies.
    pub(crate) fn value(&self) -> Result<Bytes, Error> {
        match self {
            Cursor::Memtable(cursor) => Ok(cursor.value()),
            Cursor::Table(cursor) => cursor.value(),
            Cursor::Level(cursor) => cursor.current.as_ref().map_or(Ok(Bytes::new()), TableCursor::value),
        }
    }

    /// The value without reading it if it is a separated one.
    pub(crate) fn unread_value(&self) -> UnreadValue {
        match self {
            Cursor::Memtable(cursor) => UnreadValue::Here(cursor.value()),
            Cursor::Table(cursor) => cursor.unread_value(),
            Cursor::Level(cursor) => cursor
                .current
                .as_ref()
                .map_or_else(|| UnreadValue::Here(Bytes::new()), TableCursor::unread_value),
        }
    }

    /// What lies beside the key: the value or a reference to it.
    pub(crate) fn value_bytes(&self) -> &[u8] {
        match self {
            Cursor::Memtable(cursor) => cursor.value_bytes(),
            Cursor::Table(cursor) => cursor.value_bytes(),
            Cursor::Level(cursor) => cursor.current.as_ref().map_or(&[], TableCursor::value_bytes),
        }
    }

    #[inline]
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        match self {
            Cursor::Memtable(cursor) => cursor.advance(),
            Cursor::Table(cursor) => cursor.advance(),
            Cursor::Level(cursor) => cursor.advance(),
        }
    }
}

/// A place in a level: tables in key order that do not overlap.
#[derive(Debug)]
pub(crate) struct LevelCursor {
    tables: Arc<Vec<Arc<Table>>>,
    /// The other end: tables that lie wholly beyond it are not opened.
    until: Option<Position>,
    direction: Direction,
    access: Access,
    index: usize,
    current: Option<TableCursor>,
}

impl LevelCursor {
    /// As [`TableCursor::new`]; tables wholly beyond `until` are left out.
    pub(crate) fn new(
        tables: Arc<Vec<Arc<Table>>>,
        from: Option<&Position>,
        until: Option<&Position>,
        direction: Direction,
        access: Access,
    ) -> Result<LevelCursor, Error> {
        // All versions of a key are in one table, so only one table can hold the place.
        let first = match (from, direction) {
            (None, Direction::Forward) => Some(0),
            (None, Direction::Reverse) => tables.len().checked_sub(1),
            (Some(from), Direction::Forward) => Some(tables.partition_point(|table| table.is_before(from))),
            (Some(from), Direction::Reverse) => {
                tables.partition_point(|table| !table.is_behind(from)).checked_sub(1)
            }
        };
        let until = until.cloned();
        let mut cursor = LevelCursor { tables, until, direction, access, index: 0, current: None };
        cursor.enter(first, from)?;
        cursor.skip_finished()?;
        Ok(cursor)
    }

    /// Goes to the table at `index`, or to the end if there is none within the bounds.
    fn enter(&mut self, index: Option<usize>, from: Option<&Position>) -> Result<(), Error> {
        let table = index.and_then(|index| Some((index, self.tables.get(index)?)));
        let within = table.filter(|(_, table)| {
            !self.until.as_ref().is_some_and(|until| match self.direction {
                Direction::Forward => table.is_behind(until),
                Direction::Reverse => table.is_before(until),
            })
        });
        self.current = match within {
            Some((index, table)) => {
                let cursor = TableCursor::new(table.clone(), from, self.direction, self.access)?;
                self.index = index;
                Some(cursor)
            }
            None => None,
        };
        Ok(())
    }

    #[inline]
    fn key(&self) -> Option<(&[u8], Sequence)> {
        self.current.as_ref()?.key()
    }

    #[inline]
    fn advance(&mut self) -> Result<(), Error> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.advance()?;
        if current.key().is_none() { self.skip_finished() } else { Ok(()) }
    }

    fn skip_finished(&mut self) -> Result<(), Error> {
        while self.current.as_ref().is_some_and(|current| current.key().is_none()) {
            let next = match self.direction {
                Direction::Forward => self.index.checked_add(1),
                Direction::Reverse => self.index.checked_sub(1),
            };
            self.enter(next, None)?;
        }
        Ok(())
    }
}

/// Merges cursors of one direction. Equal versions cannot occur: a batch is in one memtable only.
#[derive(Debug)]
pub(crate) struct Merge {
    cursors: Vec<Cursor>,
    /// Those that are not at their end, the next one last: after a step it mostly stays there, and else a
    /// binary search finds its new place.
    order: Vec<usize>,
    direction: Direction,
}

impl Merge {
    pub(crate) fn new(cursors: Vec<Cursor>, direction: Direction) -> Merge {
        let mut merge = Merge { order: Vec::with_capacity(cursors.len()), cursors, direction };
        for index in 0..merge.cursors.len() {
            merge.place(index);
        }
        merge
    }

    /// The cursor on the next version; `None` at the end.
    #[inline]
    pub(crate) fn current(&self) -> Option<&Cursor> {
        self.cursors.get(*self.order.last()?)
    }

    #[inline]
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        let Some(&index) = self.order.last() else { return Ok(()) };
        if let Some(cursor) = self.cursors.get_mut(index) {
            cursor.advance()?;
        }
        let stays = match self.order.len().checked_sub(2).and_then(|second| self.order.get(second)) {
            Some(&second) => self.precedes(index, second),
            None => self.cursors.get(index).is_some_and(|cursor| cursor.key().is_some()),
        };
        if !stays {
            self.order.pop();
            self.place(index);
        }
        Ok(())
    }

    /// Whether cursor `a` comes before cursor `b`; one at its end does not.
    fn precedes(&self, a: usize, b: usize) -> bool {
        let key = |index: usize| self.cursors.get(index).and_then(Cursor::key);
        match (key(a), key(b)) {
            (Some((a, a_sequence)), Some((b, b_sequence))) => {
                let order = compare(a, a_sequence, b, b_sequence);
                if self.direction == Direction::Forward { order.is_lt() } else { order.is_gt() }
            }
            (a, _) => a.is_some(),
        }
    }

    fn place(&mut self, index: usize) {
        if self.cursors.get(index).is_none_or(|cursor| cursor.key().is_none()) {
            return;
        }
        let at = self.order.partition_point(|&other| !self.precedes(other, index));
        self.order.insert(at, index);
    }
}
