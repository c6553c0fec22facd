//! Memtables: the versions that are in the log and not yet in a table.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering as Memory};

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use parking_lot::Mutex;

use crate::arena::{Arena, Chunks};
use crate::batch::{Change, ChangeKind, WriteBatch};
use crate::key::{Kind, Position, compare};
use crate::options::Keyspace;
use crate::range_tombstone::{MAX_RANGE_TOMBSTONES, MemtableRangeTombstones, RangeTombstone};
use crate::snapshot::Direction;
use crate::{Sequence, error::Error};

/// Memory of an entry beside its value, and beside a key that does not lie in the node: the node of the skip list, about
/// 120 bytes; the headers and the rounding of two allocations; and the count that a value gets when it is first read, 32
/// bytes. Resident memory of a million entries that were read once says 178 with values of 100 bytes and 182 with 1.5 KiB,
/// 171 and 194 with mimalloc.
const ENTRY_OVERHEAD_BYTES: usize = 180;
/// Memory of a key's own allocation beside its bytes.
const LONG_KEY_OVERHEAD_BYTES: usize = 48;
/// Entries that a cursor takes over at once: few at first, for short scans.
const FIRST_CHUNK: usize = 8;
const LARGEST_CHUNK: usize = 256;

/// Keys up to this length lie within the nodes of the skip list: a comparison that follows a pointer misses the
/// processor's caches, and a search makes twenty.
const INLINE_KEY_BYTES: usize = 54;

/// A user key.
#[derive(Clone, Debug)]
enum NodeKey {
    Inline { len: u8, bytes: [u8; INLINE_KEY_BYTES] },
    Shared(Bytes),
}

impl NodeKey {
    /// `share` gives a long key a place of its own.
    fn new(key: &[u8], share: impl FnOnce(&[u8]) -> Bytes) -> NodeKey {
        let mut bytes = [0; INLINE_KEY_BYTES];
        match bytes.get_mut(..key.len()) {
            Some(target) => {
                target.copy_from_slice(key);
                NodeKey::Inline { len: key.len() as u8, bytes }
            }
            None => NodeKey::Shared(share(key)),
        }
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        match self {
            NodeKey::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            NodeKey::Shared(key) => key,
        }
    }
}

/// A version's place in the skip list.
#[derive(Clone, Debug)]
struct VersionKey {
    key: NodeKey,
    sequence: Sequence,
}

/// What a version is ordered by, so that a lookup needs no owned key.
trait Version {
    fn parts(&self) -> (&[u8], Sequence);
}

impl Version for VersionKey {
    #[inline]
    fn parts(&self) -> (&[u8], Sequence) {
        (self.key.as_slice(), self.sequence)
    }
}

impl Version for (&[u8], Sequence) {
    #[inline]
    fn parts(&self) -> (&[u8], Sequence) {
        (self.0, self.1)
    }
}

impl Ord for VersionKey {
    #[inline]
    fn cmp(&self, other: &VersionKey) -> Ordering {
        compare(self.key.as_slice(), self.sequence, other.key.as_slice(), other.sequence)
    }
}

impl PartialOrd for VersionKey {
    fn partial_cmp(&self, other: &VersionKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for VersionKey {
    fn eq(&self, other: &VersionKey) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for VersionKey {}

impl<'a> Borrow<dyn Version + 'a> for VersionKey {
    fn borrow(&self) -> &(dyn Version + 'a) {
        self
    }
}

impl Ord for dyn Version + '_ {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let ((a, a_sequence), (b, b_sequence)) = (self.parts(), other.parts());
        compare(a, a_sequence, b, b_sequence)
    }
}

impl PartialOrd for dyn Version + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Version + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Version + '_ {}

/// What a batch takes in memtables, in bytes; its range deletes aside, which count when they are inserted.
pub(crate) fn memory_bytes(batch: &WriteBatch) -> usize {
    let of_change = |change: &Change| {
        let value = match &change.kind {
            ChangeKind::Put(value) => value.len(),
            ChangeKind::Delete => 0,
            ChangeKind::DeleteRange(_) => return 0,
        };
        let key = match change.key.len() {
            0..=INLINE_KEY_BYTES => 0,
            len => len + LONG_KEY_OVERHEAD_BYTES,
        };
        ENTRY_OVERHEAD_BYTES + key + value
    };
    batch.changes().iter().map(of_change).sum()
}

/// The memtables of all keyspaces whose changes are in one log segment. `None` is a tombstone.
#[derive(Debug)]
pub(crate) struct MemtableSet {
    /// The segment that holds the same batches.
    pub(crate) log: u64,
    tables: Vec<SkipMap<VersionKey, Option<Bytes>>>,
    range_tombstones: Vec<MemtableRangeTombstones>,
    /// Dropped after the tables, which use its chunks.
    arena: Mutex<Arena>,
    bytes: AtomicUsize,
    last_sequence: AtomicU64,
    log_bytes: AtomicU64,
}

impl MemtableSet {
    /// Empty memtables for this many keyspaces. `last_sequence` is that of the last batch before.
    pub(crate) fn new(
        log: u64,
        keyspaces: usize,
        last_sequence: Sequence,
        chunks: Arc<Chunks>,
    ) -> MemtableSet {
        MemtableSet {
            log,
            tables: (0..keyspaces).map(|_| SkipMap::new()).collect(),
            range_tombstones: (0..keyspaces).map(|_| MemtableRangeTombstones::default()).collect(),
            arena: Mutex::new(Arena::new(chunks)),
            bytes: AtomicUsize::new(0),
            last_sequence: AtomicU64::new(last_sequence),
            log_bytes: AtomicU64::new(0),
        }
    }

    /// Inserts a batch, for which memory is reserved. Keyspaces have been checked; of two changes of one key the later
    /// replaces the earlier.
    pub(crate) fn insert(&self, batch: WriteBatch, sequence: Sequence) {
        let (changes, ranges) = batch.into_parts(sequence);
        let mut arena = self.arena.lock();
        for change in changes {
            if let Some(table) = self.tables.get(usize::from(change.keyspace.0)) {
                let value = match change.kind {
                    ChangeKind::Put(value) => Some(arena.store(&value)),
                    ChangeKind::Delete | ChangeKind::DeleteRange(_) => None,
                };
                let key = NodeKey::new(&change.key, |key| arena.store(key));
                table.insert(VersionKey { key, sequence }, value);
            }
        }
        let mut bytes = 0;
        for (keyspace, ranges) in ranges {
            bytes += self.range_tombstones(keyspace).map_or(0, |tombstones| tombstones.insert(&ranges));
        }
        self.bytes.fetch_add(bytes, Memory::Relaxed);
        self.last_sequence.store(sequence, Memory::Release);
    }

    /// The newest version of `key` that is not newer than `sequence`, and its sequence; `None` for the value: a
    /// tombstone.
    pub(crate) fn get(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        sequence: Sequence,
    ) -> Option<(Sequence, Option<Bytes>)> {
        // An empty list is not worth being pinned.
        let table = self.tables.get(usize::from(keyspace.0)).filter(|table| !table.is_empty())?;
        let wanted = (key, sequence);
        let entry = table.lower_bound::<dyn Version + '_>(Bound::Included(&wanted as &dyn Version))?;
        (entry.key().key.as_slice() == key).then(|| (entry.key().sequence, entry.value().clone()))
    }

    /// The range tombstones of a keyspace.
    #[inline]
    pub(crate) fn range_tombstones(&self, keyspace: Keyspace) -> Option<&MemtableRangeTombstones> {
        self.range_tombstones.get(usize::from(keyspace.0))
    }

    /// All versions of a keyspace in order.
    pub(crate) fn for_each(
        &self,
        keyspace: Keyspace,
        mut visit: impl FnMut(&[u8], Sequence, Option<&[u8]>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(table) = self.tables.get(usize::from(keyspace.0)) else { return Ok(()) };
        table.iter().try_for_each(|entry| {
            let (key, sequence) = entry.key().parts();
            visit(key, sequence, entry.value().as_deref())
        })
    }

    /// Counts what batches to come will take, in bytes. Returns how much that is with what there is.
    pub(crate) fn reserve(&self, bytes: usize) -> usize {
        self.bytes.fetch_add(bytes, Memory::Relaxed) + bytes
    }

    /// Memory in use or reserved, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.load(Memory::Relaxed)
    }

    /// The range tombstones of all keyspaces.
    pub(crate) fn all_range_tombstones(&self) -> Vec<(Keyspace, RangeTombstone)> {
        let mut all = Vec::new();
        for (id, tombstones) in self.range_tombstones.iter().enumerate() {
            all.extend(tombstones.get().iter().map(|tombstone| (Keyspace(id as u16), tombstone)));
        }
        all
    }

    /// Whether there are so many range tombstones that they should be flushed: only then do they go, once compaction
    /// has applied them.
    pub(crate) fn has_many_range_tombstones(&self) -> bool {
        self.range_tombstones.iter().any(|tombstones| tombstones.len() >= MAX_RANGE_TOMBSTONES / 4)
    }

    /// Whether no batch changed anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.iter().all(SkipMap::is_empty)
            && self.range_tombstones.iter().all(|tombstones| tombstones.len() == 0)
    }

    /// Whether the keyspace has no versions of keys. It may have range tombstones.
    pub(crate) fn is_keyspace_empty(&self, keyspace: Keyspace) -> bool {
        self.tables.get(usize::from(keyspace.0)).is_none_or(SkipMap::is_empty)
    }

    /// The batches up to this sequence are in tables already.
    pub(crate) fn skip_to(&self, sequence: Sequence) {
        self.last_sequence.store(sequence, Memory::Release);
    }

    /// The sequence of the last batch, empty batches included.
    pub(crate) fn last_sequence(&self) -> Sequence {
        self.last_sequence.load(Memory::Acquire)
    }

    /// Length of the log segment, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Memory::Relaxed)
    }

    pub(crate) fn set_log_bytes(&self, bytes: u64) {
        self.log_bytes.store(bytes, Memory::Relaxed);
    }
}

/// A place in a memtable. Entries are taken over in chunks, each found again by the last key of the chunk
/// before, so that the cursor borrows nothing.
#[derive(Debug)]
pub(crate) struct MemtableCursor {
    set: Arc<MemtableSet>,
    keyspace: Keyspace,
    direction: Direction,
    chunk: Vec<(VersionKey, Option<Bytes>)>,
    at: usize,
    chunk_len: usize,
}

impl MemtableCursor {
    /// As [`TableCursor::new`](crate::table::TableCursor::new).
    pub(crate) fn new(
        set: Arc<MemtableSet>,
        keyspace: Keyspace,
        from: Option<&Position>,
        direction: Direction,
    ) -> MemtableCursor {
        let mut cursor =
            MemtableCursor { set, keyspace, direction, chunk: Vec::new(), at: 0, chunk_len: FIRST_CHUNK };
        let from = from.map(|from| VersionKey {
            key: NodeKey::new(&from.key, |_| from.key.clone()),
            sequence: from.sequence,
        });
        match (&from, direction) {
            (None, _) => cursor.fill(Bound::Unbounded, Bound::Unbounded),
            (Some(from), Direction::Forward) => cursor.fill(Bound::Included(from), Bound::Unbounded),
            (Some(from), Direction::Reverse) => cursor.fill(Bound::Unbounded, Bound::Excluded(from)),
        }
        cursor
    }

    /// The current key and sequence; `None` at the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<(&[u8], Sequence)> {
        self.chunk.get(self.at).map(|(version, _)| version.parts())
    }

    /// The current key, without a copy if it is a long one.
    pub(crate) fn key_bytes(&self) -> Bytes {
        self.chunk.get(self.at).map_or_else(Bytes::new, |(version, _)| match &version.key {
            NodeKey::Inline { .. } => Bytes::copy_from_slice(version.key.as_slice()),
            NodeKey::Shared(key) => key.clone(),
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.chunk.get(self.at) {
            Some((_, Some(_))) => Kind::Value,
            _ => Kind::Tombstone,
        }
    }

    pub(crate) fn value(&self) -> Bytes {
        self.chunk.get(self.at).and_then(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub(crate) fn value_bytes(&self) -> &[u8] {
        self.chunk.get(self.at).and_then(|(_, value)| value.as_deref()).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        self.at += 1;
        if self.at >= self.chunk.len()
            && let Some((last, _)) = self.chunk.pop()
        {
            match self.direction {
                Direction::Forward => self.fill(Bound::Excluded(&last), Bound::Unbounded),
                Direction::Reverse => self.fill(Bound::Unbounded, Bound::Excluded(&last)),
            }
        }
        Ok(())
    }

    fn fill(&mut self, lower: Bound<&VersionKey>, upper: Bound<&VersionKey>) {
        self.chunk.clear();
        self.at = 0;
        let Some(table) = self.set.tables.get(usize::from(self.keyspace.0)) else { return };
        let mut range = table.range::<VersionKey, _>((lower, upper));
        while self.chunk.len() < self.chunk_len {
            let entry = match self.direction {
                Direction::Forward => range.next(),
                Direction::Reverse => range.next_back(),
            };
            match entry {
                Some(entry) => self.chunk.push((entry.key().clone(), entry.value().clone())),
                None => break,
            }
        }
        self.chunk_len = (self.chunk_len * 2).min(LARGEST_CHUNK);
    }
}
