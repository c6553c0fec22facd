//! Versions: which tables there are; and super-versions, which add the memtables.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::Sequence;
use crate::blob::BlobFile;
use crate::error::Error;
use crate::key::{Kind, Position};
use crate::memtable::{MemtableCursor, MemtableSet};
use crate::merge::{Cursor, LevelCursor};
use crate::options::Keyspace;
use crate::snapshot::Direction;
use crate::table::{Access, Table, TableCursor, filter};

/// Levels of each keyspace. Level 0 holds flushed memtables, which overlap; in each further one tables do
/// not overlap.
pub(crate) const LEVELS: usize = 7;

/// The tables of one keyspace.
#[derive(Clone, Debug)]
pub(crate) struct KeyspaceVersion {
    /// Level 0 newest first, the others by key.
    levels: Vec<Arc<Vec<Arc<Table>>>>,
}

impl KeyspaceVersion {
    fn empty() -> KeyspaceVersion {
        KeyspaceVersion { levels: vec![Arc::default(); LEVELS] }
    }

    pub(crate) fn level(&self, level: usize) -> &[Arc<Table>] {
        self.levels.get(level).map_or(&[], |tables| tables)
    }

    pub(crate) fn level_bytes(&self, level: usize) -> u64 {
        self.level(level).iter().map(|table| table.meta.bytes).sum()
    }

    /// The tables of a level that have keys in the closed range.
    pub(crate) fn overlapping(&self, level: usize, smallest: &[u8], largest: &[u8]) -> Vec<Arc<Table>> {
        let tables = self.level(level);
        if level == 0 {
            return tables.iter().filter(|table| table.overlaps(smallest, largest)).cloned().collect();
        }
        let behind = tables.get(tables.partition_point(|table| *table.meta.largest < *smallest)..);
        let behind = behind.unwrap_or_default();
        behind.iter().take_while(|table| *table.meta.smallest <= *largest).cloned().collect()
    }
}

/// A blob file, and how much of it tables refer to.
#[derive(Clone, Debug)]
pub(crate) struct LiveBlobs {
    pub(crate) file: Arc<BlobFile>,
    pub(crate) blobs: u64,
    /// With lengths and trailers.
    pub(crate) bytes: u64,
}

impl LiveBlobs {
    /// Bytes that nothing refers to.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        self.file.meta.blob_bytes().saturating_sub(self.bytes)
    }
}

/// An immutable list of tables, and of the blob files they refer to.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    keyspaces: Vec<KeyspaceVersion>,
    /// By number.
    blobs: BTreeMap<u64, LiveBlobs>,
}

/// A step from one version to the next.
#[derive(Debug, Default)]
pub(crate) struct VersionEdit {
    pub(crate) added: Vec<(usize, Arc<Table>)>,
    /// By level and file number.
    pub(crate) removed: Vec<(usize, Arc<Table>)>,
}

impl VersionEdit {
    /// Whether a table only changes its level.
    pub(crate) fn moves(&self, table: &Table) -> bool {
        let is_it = |other: &(usize, Arc<Table>)| other.1.meta.number == table.meta.number;
        self.added.iter().any(is_it) && self.removed.iter().any(is_it)
    }
}

impl Version {
    pub(crate) fn empty(keyspaces: usize) -> Version {
        Version { keyspaces: vec![KeyspaceVersion::empty(); keyspaces], blobs: BTreeMap::new() }
    }

    pub(crate) fn keyspace(&self, keyspace: Keyspace) -> Option<&KeyspaceVersion> {
        self.keyspaces.get(usize::from(keyspace.0))
    }

    pub(crate) fn keyspaces(&self) -> impl Iterator<Item = (Keyspace, &KeyspaceVersion)> {
        self.keyspaces.iter().enumerate().map(|(id, keyspace)| (Keyspace(id as u16), keyspace))
    }

    /// All tables with their levels.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (usize, &Arc<Table>)> {
        self.keyspaces.iter().flat_map(|keyspace| {
            keyspace
                .levels
                .iter()
                .enumerate()
                .flat_map(|(level, tables)| tables.iter().map(move |table| (level, table)))
        })
    }

    pub(crate) fn apply(&self, edit: &VersionEdit) -> Version {
        let mut version = self.clone();
        for (level, table) in &edit.removed {
            let number = table.meta.number;
            if let Some(tables) = version.level_mut(table.meta.keyspace, *level) {
                tables.retain(|table| table.meta.number != number);
            }
        }
        for (level, table) in &edit.added {
            if let Some(tables) = version.level_mut(table.meta.keyspace, *level) {
                let at = if *level == 0 {
                    tables.partition_point(|other| other.meta.largest_sequence > table.meta.largest_sequence)
                } else {
                    tables.partition_point(|other| other.meta.smallest < table.meta.smallest)
                };
                tables.insert(at, table.clone());
            }
        }
        version.count_blobs(edit);
        version
    }

    /// The blob files that tables refer to.
    pub(crate) fn blobs(&self) -> &BTreeMap<u64, LiveBlobs> {
        &self.blobs
    }

    /// Adds first: a table that takes the place of another keeps the blob files of both in use.
    fn count_blobs(&mut self, edit: &VersionEdit) {
        for (_, table) in &edit.added {
            for (used, file) in table.blob_uses() {
                let new = || LiveBlobs { file: file.clone(), blobs: 0, bytes: 0 };
                let live = self.blobs.entry(used.file).or_insert_with(new);
                live.blobs += used.blobs;
                live.bytes += used.bytes;
            }
        }
        for (_, table) in &edit.removed {
            for (used, _) in table.blob_uses() {
                if let Some(live) = self.blobs.get_mut(&used.file) {
                    live.blobs = live.blobs.saturating_sub(used.blobs);
                    live.bytes = live.bytes.saturating_sub(used.bytes);
                }
            }
        }
        self.blobs.retain(|_, live| live.blobs > 0);
    }

    /// Checks what every lookup relies on: from level 1 on tables are in order and disjoint, and no key is in
    /// two of them. Returns a table that breaks this.
    pub(crate) fn misplaced(&self) -> Option<&Arc<Table>> {
        self.keyspaces.iter().flat_map(|keyspace| keyspace.levels.iter().skip(1)).find_map(|tables| {
            tables.array_windows().find_map(|[left, right]| {
                (left.meta.largest >= right.meta.smallest || left.meta.smallest > left.meta.largest)
                    .then_some(right)
            })
        })
    }

    fn level_mut(&mut self, keyspace: Keyspace, level: usize) -> Option<&mut Vec<Arc<Table>>> {
        self.keyspaces.get_mut(usize::from(keyspace.0))?.levels.get_mut(level).map(Arc::make_mut)
    }
}

fn value_of(table: &Table, kind: Kind, value: Bytes) -> Result<Option<Bytes>, Error> {
    match kind {
        Kind::Tombstone => Ok(None),
        Kind::Value => Ok(Some(value)),
        Kind::Separated => table.separated(&value).map(Some),
    }
}

/// Everything a read has to look at, from the newest to the oldest.
#[derive(Clone, Debug)]
pub(crate) struct SuperVersion {
    pub(crate) active: Arc<MemtableSet>,
    /// Newest first.
    pub(crate) frozen: Vec<Arc<MemtableSet>>,
    pub(crate) version: Arc<Version>,
}

impl SuperVersion {
    /// The value of a key as of `sequence`. Sources are asked from the newest on, and the first that knows the
    /// key has its newest version: a version only ever moves down, and never past an older one.
    pub(crate) fn get(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        sequence: Sequence,
    ) -> Result<Option<Bytes>, Error> {
        for memtables in std::iter::once(&self.active).chain(&self.frozen) {
            if let Some(found) = memtables.get(keyspace, key, sequence) {
                return Ok(found);
            }
        }
        let Some(levels) = self.version.keyspace(keyspace) else { return Ok(None) };
        let hash = filter::hash(key);
        for table in levels.level(0) {
            if table.overlaps(key, key)
                && let Some((kind, value)) = table.get(key, hash, sequence)?
            {
                return value_of(table, kind, value);
            }
        }
        for tables in levels.levels.iter().skip(1) {
            let index = tables.partition_point(|table| table.meta.largest < key);
            if let Some(table) = tables.get(index)
                && table.meta.smallest <= key
                && let Some((kind, value)) = table.get(key, hash, sequence)?
            {
                return value_of(table, kind, value);
            }
        }
        Ok(None)
    }

    /// Cursors over all sources of a keyspace. Forward from the first version not before `from`; reverse from the last
    /// one before it. `until` is the other end; tables wholly beyond it are left out.
    pub(crate) fn cursors(
        &self,
        keyspace: Keyspace,
        from: Option<&Position>,
        until: Option<&Position>,
        direction: Direction,
    ) -> Result<Vec<Cursor>, Error> {
        let mut cursors = Vec::new();
        for memtables in std::iter::once(&self.active).chain(&self.frozen) {
            if !memtables.is_keyspace_empty(keyspace) {
                let cursor = MemtableCursor::new(memtables.clone(), keyspace, from, direction);
                cursors.push(Cursor::Memtable(cursor));
            }
        }
        let Some(levels) = self.version.keyspace(keyspace) else { return Ok(cursors) };
        let (lower, upper) = match direction {
            Direction::Forward => (from, until),
            Direction::Reverse => (until, from),
        };
        for table in levels.level(0) {
            let beyond = upper.is_some_and(|upper| upper.key < table.meta.smallest)
                || lower.is_some_and(|lower| table.meta.largest < lower.key);
            if !beyond {
                let cursor = TableCursor::new(table.clone(), from, direction, Access::Cached)?;
                cursors.push(Cursor::Table(Box::new(cursor)));
            }
        }
        for tables in levels.levels.iter().skip(1).filter(|tables| !tables.is_empty()) {
            let cursor = LevelCursor::new(tables.clone(), from, direction, Access::Cached)?;
            cursors.push(Cursor::Level(Box::new(cursor)));
        }
        Ok(cursors)
    }
}
