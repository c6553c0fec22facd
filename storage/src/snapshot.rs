//! Reads as of one point in time.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::Sequence;
use crate::cover::Cover;
use crate::error::Error;
use crate::key::{Kind, Position, prefix_successor};
use crate::merge::Merge;
use crate::options::Keyspace;
use crate::state::Inner;
use crate::table::UnreadValue;
use crate::version::SuperVersion;

/// The order in which a scan returns keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Ascending.
    #[default]
    Forward,
    /// Descending.
    Reverse,
}

/// All keyspaces as they were when the snapshot was taken. What it sees stays on disk until the last clone is
/// dropped; it pins no memtables or files, only versions of keys.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pin: Arc<Pin>,
}

/// A registered sequence: compaction keeps what it sees.
#[derive(Debug)]
struct Pin {
    inner: Arc<Inner>,
    sequence: Sequence,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.inner.unpin(self.sequence);
    }
}

impl Snapshot {
    pub(crate) fn new(inner: Arc<Inner>) -> Snapshot {
        let sequence = inner.pin();
        Snapshot { pin: Arc::new(Pin { inner, sequence }) }
    }

    /// The sequence of the last batch it sees; 0 before the first batch.
    pub fn sequence(&self) -> Sequence {
        self.pin.sequence
    }

    pub(crate) fn super_version(&self, keyspace: Keyspace) -> Result<Arc<SuperVersion>, Error> {
        self.pin.inner.check_keyspace(keyspace)?;
        Ok(self.pin.inner.super_version())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Corruption`] when a table cannot be read, [`Error::UnknownKeyspace`].
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.super_version(keyspace)?.get(keyspace, key, self.pin.sequence)
    }

    /// The keys between the bounds. Bounds that exclude everything give an empty scan.
    ///
    /// # Errors
    /// As [`get`](Snapshot::get); later errors come out of the iterator.
    pub fn scan(
        &self,
        keyspace: Keyspace,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
    ) -> Result<Scan, Error> {
        let super_version = self.super_version(keyspace)?;
        let lower_position = match lower {
            Bound::Included(key) => Some(Position::before(key)),
            Bound::Excluded(key) => Some(Position::after(key)),
            Bound::Unbounded => None,
        };
        let upper_position = match upper {
            Bound::Included(key) => Some(Position::after(key)),
            Bound::Excluded(key) => Some(Position::before(key)),
            Bound::Unbounded => None,
        };
        let (from, until) = match direction {
            Direction::Forward => (lower_position, upper_position),
            Direction::Reverse => (upper_position, lower_position),
        };
        let cursors = super_version.cursors(keyspace, from.as_ref(), until.as_ref(), direction)?;
        Ok(Scan {
            merge: Merge::new(cursors, direction),
            cover: super_version.cover(keyspace),
            sequence: self.pin.sequence,
            direction,
            until,
            last_key: None,
            behind: false,
            done: false,
        })
    }

    /// The keys that start with `prefix`.
    ///
    /// # Errors
    /// As [`scan`](Snapshot::scan).
    pub fn prefix(&self, keyspace: Keyspace, prefix: &[u8], direction: Direction) -> Result<Scan, Error> {
        let end = prefix_successor(prefix);
        let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.scan(keyspace, Bound::Included(prefix), upper, direction)
    }
}

/// Keys and values in order. Holds one block of each table it merges, and keeps the files it reads from being
/// removed until it is dropped. Keys and values are slices of blocks: copy what is kept for long.
#[derive(Debug)]
pub struct Scan {
    merge: Merge,
    /// What range tombstones hide, if there are any.
    cover: Option<Cover>,
    sequence: Sequence,
    direction: Direction,
    /// The other end: forward versions at or behind it are not part of the scan, in reverse those before it.
    until: Option<Position>,
    /// Forward: the key whose older versions are passed.
    last_key: Option<Bytes>,
    /// The current version has been dealt with.
    behind: bool,
    done: bool,
}

impl Iterator for Scan {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = match self.direction {
            Direction::Forward => self.next_forward(),
            Direction::Reverse => self.next_reverse(),
        };
        let next = next.transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Scan {
    fn step(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.behind) {
            self.merge.advance()?;
        }
        Ok(())
    }

    /// Of each key the first version that is old enough counts.
    fn next_forward(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        loop {
            self.step()?;
            self.behind = true;
            let Some(current) = self.merge.current() else { return Ok(None) };
            let Some((key, sequence)) = current.key() else { return Ok(None) };
            if sequence > self.sequence || self.last_key.as_deref() == Some(key) {
                continue;
            }
            if let Some(until) = &self.until
                && crate::key::compare(key, sequence, &until.key, until.sequence).is_ge()
            {
                return Ok(None);
            }
            let is_hidden =
                self.cover.as_mut().is_some_and(|cover| cover.hides(key, sequence, self.sequence));
            let key = current.key_bytes();
            self.last_key = Some(key.clone());
            if current.kind() != Kind::Tombstone && !is_hidden {
                return Ok(Some((key, current.value()?)));
            }
        }
    }

    /// Versions of a key come oldest first, so the last one that is old enough counts, once the key is over. Only its value
    /// is read.
    fn next_reverse(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        let mut candidate: Option<(Bytes, Option<UnreadValue>)> = None;
        loop {
            self.step()?;
            let current = self.merge.current();
            let at = current.and_then(|current| Some((current, current.key()?)));
            let at = at.filter(|(_, (key, sequence))| {
                self.until.as_ref().is_none_or(|until| {
                    crate::key::compare(key, *sequence, &until.key, until.sequence).is_ge()
                })
            });
            let same_key = |key: &[u8]| candidate.as_ref().is_some_and(|(of, _)| of == key);
            match at {
                Some((current, (key, sequence))) if candidate.is_none() || same_key(key) => {
                    if sequence <= self.sequence {
                        let is_hidden = self
                            .cover
                            .as_mut()
                            .is_some_and(|cover| cover.hides(key, sequence, self.sequence));
                        let value = match current.kind() {
                            Kind::Value | Kind::Separated if !is_hidden => Some(current.unread_value()),
                            _ => None,
                        };
                        let key = match candidate.take() {
                            Some((key, _)) => key,
                            None => current.key_bytes(),
                        };
                        candidate = Some((key, value));
                    }
                    self.behind = true;
                }
                _ => match candidate.take() {
                    Some((key, Some(value))) => return Ok(Some((key, value.read()?))),
                    // A deleted key: go on with the current version, which belongs to the next key.
                    Some((_, None)) => {}
                    None => return Ok(None),
                },
            }
        }
    }
}
