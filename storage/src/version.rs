//! Versions: which tables there are; and super-versions, which add the memtables.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::Sequence;
use crate::blob::BlobFile;
use crate::cover::{Cover, Source};
use crate::error::Error;
use crate::key::{Kind, Position};
use crate::memtable::{MemtableCursor, MemtableSet};
use crate::merge::{Cursor, LevelCursor};
use crate::options::Keyspace;
use crate::range_tombstone::{RangeTombstone, RangeTombstones};
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
    /// Those that are flushed and not yet applied to all tables.
    pub(crate) range_tombstones: Arc<RangeTombstones>,
}

impl KeyspaceVersion {
    fn empty() -> KeyspaceVersion {
        KeyspaceVersion { levels: vec![Arc::default(); LEVELS], range_tombstones: Arc::default() }
    }

    pub(crate) fn level(&self, level: usize) -> &[Arc<Table>] {
        self.levels.get(level).map_or(&[], |tables| tables)
    }

    /// All tables with their levels.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (usize, Arc<Table>)> {
        let levels = self.levels.iter().enumerate();
        levels.flat_map(|(level, tables)| tables.iter().map(move |table| (level, table.clone())))
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

    /// Whether some table may hold a version that the range tombstone deletes.
    fn needs(&self, tombstone: &RangeTombstone) -> bool {
        let RangeTombstone { lower, upper, sequence } = tombstone;
        let ends_before = |table: &Table| table.meta.largest < *lower;
        let starts_behind = |table: &Table| upper.as_ref().is_some_and(|upper| *upper <= table.meta.smallest);
        let may_hold = |table: &Table| table.meta.smallest_sequence.max(table.meta.cleaned) < *sequence;
        let (level0, others) = (self.level(0), self.levels.iter().skip(1));
        level0.iter().any(|table| !ends_before(table) && !starts_behind(table) && may_hold(table))
            || others
                .flat_map(|tables| {
                    let first = tables.partition_point(|table| ends_before(table));
                    tables.iter().skip(first).take_while(|table| !starts_behind(table))
                })
                .any(|table| may_hold(table))
    }

    /// Takes in flushed range tombstones and lets those go that no table needs any more.
    fn update_range_tombstones(&mut self, added: Vec<RangeTombstone>, live: &[Sequence]) {
        let has_new = !added.is_empty();
        let needed: Vec<RangeTombstone> =
            self.range_tombstones.iter().chain(added).filter(|tombstone| self.needs(tombstone)).collect();
        if has_new || needed.len() != self.range_tombstones.len() {
            self.range_tombstones = Arc::new(RangeTombstones::new(&needed, live));
        }
    }
}

/// A blob file, and how much of it tables refer to.
#[derive(Clone, Debug)]
pub(crate) struct LiveBlobs {
    pub(crate) file: Arc<BlobFile>,
    /// How many tables do. Counted apart from what they say of themselves, so that one that is wrong about it takes
    /// nothing away from the others.
    tables: usize,
    /// The length of the values that are referred to.
    pub(crate) bytes: u64,
}

impl LiveBlobs {
    /// The length of the values that nothing refers to.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        self.file.meta.value_bytes.saturating_sub(self.bytes)
    }

    /// What these take on disk, about.
    pub(crate) fn garbage_disk_bytes(&self) -> u64 {
        let meta = &self.file.meta;
        let share = u128::from(meta.bytes) * u128::from(self.garbage_bytes());
        u64::try_from(share / u128::from(meta.value_bytes.max(1))).unwrap_or(meta.bytes)
    }
}

/// An immutable list of tables, of the blob files they refer to, and of range tombstones.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    keyspaces: Vec<KeyspaceVersion>,
    /// By number.
    blobs: BTreeMap<u64, LiveBlobs>,
    /// The sequence of the last batch that was flushed.
    pub(crate) last_sequence: Sequence,
}

/// A step from one version to the next.
#[derive(Debug, Default)]
pub(crate) struct VersionEdit {
    pub(crate) added: Vec<(usize, Arc<Table>)>,
    /// By level and file number.
    pub(crate) removed: Vec<(usize, Arc<Table>)>,
    pub(crate) range_tombstones: Vec<(Keyspace, RangeTombstone)>,
    /// The last batch of memtables that are flushed by this step.
    pub(crate) last_sequence: Option<Sequence>,
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
        let keyspaces = vec![KeyspaceVersion::empty(); keyspaces];
        Version { keyspaces, blobs: BTreeMap::new(), last_sequence: 0 }
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

    /// Memory that the open tables take outside of the cache, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tables().map(|(_, table)| table.memory_bytes()).sum()
    }

    /// The range tombstones of all keyspaces.
    pub(crate) fn range_tombstones(&self) -> impl Iterator<Item = (Keyspace, RangeTombstone)> {
        self.keyspaces().flat_map(|(id, keyspace)| keyspace.range_tombstones.iter().map(move |one| (id, one)))
    }

    pub(crate) fn has_range_tombstones(&self) -> bool {
        self.keyspaces.iter().any(|keyspace| !keyspace.range_tombstones.is_empty())
    }

    /// The version after a step. `live` are the sequences that somebody reads at, ascending, later ones aside.
    pub(crate) fn apply(&self, edit: &VersionEdit, live: &[Sequence]) -> Version {
        let mut version = self.clone();
        version.last_sequence = edit.last_sequence.unwrap_or(self.last_sequence);
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
        for (id, keyspace) in version.keyspaces.iter_mut().enumerate() {
            let own = edit.range_tombstones.iter().filter(|(of, _)| usize::from(of.0) == id);
            keyspace.update_range_tombstones(own.map(|(_, tombstone)| tombstone.clone()).collect(), live);
        }
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
                let new = || LiveBlobs { file: file.clone(), tables: 0, bytes: 0 };
                let live = self.blobs.entry(used.file).or_insert_with(new);
                live.tables += 1;
                live.bytes = live.bytes.saturating_add(used.bytes);
            }
        }
        for (_, table) in &edit.removed {
            for (used, _) in table.blob_uses() {
                if let Some(live) = self.blobs.get_mut(&used.file) {
                    live.tables = live.tables.saturating_sub(1);
                    live.bytes = live.bytes.saturating_sub(used.bytes);
                }
            }
        }
        self.blobs.retain(|_, live| live.tables > 0);
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
    /// key has its newest version: a version only ever moves down, and never past an older one. A range tombstone
    /// deletes what is older, so all that lies in the sources behind its own.
    pub(crate) fn get(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        sequence: Sequence,
    ) -> Result<Option<Bytes>, Error> {
        for memtables in std::iter::once(&self.active).chain(&self.frozen) {
            let deleted = memtables.range_tombstones(keyspace).map_or(0, |all| all.newest(key, sequence));
            if let Some((found, value)) = memtables.get(keyspace, key, sequence) {
                return Ok(value.filter(|_| found >= deleted));
            }
            if deleted > 0 {
                return Ok(None);
            }
        }
        let Some(levels) = self.version.keyspace(keyspace) else { return Ok(None) };
        let hash = filter::hash(key);
        let deleted = levels.range_tombstones.newest(key, sequence);
        for table in levels.level(0) {
            if table.overlaps(key, key)
                && let Some((found, kind, value)) = table.get(key, hash, sequence)?
            {
                return if found < deleted { Ok(None) } else { value_of(table, kind, value) };
            }
        }
        for tables in levels.levels.iter().skip(1) {
            let index = tables.partition_point(|table| table.meta.largest < key);
            if let Some(table) = tables.get(index)
                && table.meta.smallest <= key
                && let Some((found, kind, value)) = table.get(key, hash, sequence)?
            {
                return if found < deleted { Ok(None) } else { value_of(table, kind, value) };
            }
        }
        Ok(None)
    }

    /// How many range tombstones a keyspace has, in memory and on disk.
    pub(crate) fn range_tombstones(&self, keyspace: Keyspace) -> usize {
        let sets = std::iter::once(&self.active).chain(&self.frozen);
        let in_memory: usize =
            sets.filter_map(|set| set.range_tombstones(keyspace)).map(|all| all.len()).sum();
        in_memory + self.version.keyspace(keyspace).map_or(0, |levels| levels.range_tombstones.len())
    }

    /// What range tombstones hide in a keyspace; `None` if there are none.
    pub(crate) fn cover(&self, keyspace: Keyspace) -> Option<Cover> {
        let mut sources = Vec::new();
        for memtables in std::iter::once(&self.active).chain(&self.frozen) {
            if memtables.range_tombstones(keyspace).is_some_and(|all| all.len() > 0) {
                sources.push(Source::Memtables(memtables.clone(), keyspace));
            }
        }
        if let Some(levels) = self.version.keyspace(keyspace)
            && !levels.range_tombstones.is_empty()
        {
            sources.push(Source::Fixed(levels.range_tombstones.clone()));
        }
        (!sources.is_empty()).then(|| Cover::new(sources))
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
            let beyond = upper.is_some_and(|upper| table.is_behind(upper))
                || lower.is_some_and(|lower| table.is_before(lower));
            if !beyond {
                let cursor = TableCursor::new(table.clone(), from, direction, Access::Cached)?;
                cursors.push(Cursor::Table(Box::new(cursor)));
            }
        }
        for tables in levels.levels.iter().skip(1).filter(|tables| !tables.is_empty()) {
            let cursor = LevelCursor::new(tables.clone(), from, until, direction, Access::Cached)?;
            cursors.push(Cursor::Level(Box::new(cursor)));
        }
        Ok(cursors)
    }
}
