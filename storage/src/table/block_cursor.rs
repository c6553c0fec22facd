//! Walks through the entries of a block, in either direction.

use std::ops::Range;

use bytes::Bytes;

use super::block::{Block, Malformed};
use crate::Sequence;
use crate::key::{Kind, compare};
use crate::snapshot::Direction;

/// A decoded entry of a restart interval; the key lies in the cursor's arena.
#[derive(Clone, Debug)]
struct Decoded {
    key: Range<usize>,
    sequence: Sequence,
    kind: Kind,
    value: Range<usize>,
}

/// A place in a block. Forward it holds one key, backward the keys of one restart interval, since a
/// prefix-compressed key can only be put together from those before it.
#[derive(Debug)]
pub(crate) struct BlockCursor {
    block: Block,
    direction: Direction,
    /// Forward: the current key. Reverse: the keys of `interval`.
    keys: Vec<u8>,
    current: Option<Decoded>,
    /// Forward: the offset of the next entry.
    next: usize,
    /// Reverse: what remains of the restart interval, the current entry excluded.
    interval: Vec<Decoded>,
    /// Reverse: the restart point of `interval`.
    restart: usize,
}

impl BlockCursor {
    /// Before the first entry (or behind the last, in reverse), and on it.
    pub(crate) fn first(block: Block, direction: Direction) -> Result<BlockCursor, Malformed> {
        let restarts = block.restarts();
        let mut cursor = BlockCursor {
            block,
            direction,
            keys: Vec::new(),
            current: None,
            next: 0,
            interval: Vec::new(),
            restart: restarts,
        };
        cursor.advance()?;
        Ok(cursor)
    }

    /// Forward: on the first entry that is not before the position. Reverse: on the last one before it. `restart` is what
    /// [`Block::restart_before`] gives for the position.
    pub(crate) fn seek(
        block: Block,
        restart: usize,
        direction: Direction,
        key: &[u8],
        sequence: Sequence,
    ) -> Result<BlockCursor, Malformed> {
        let next = block.restart(restart)?;
        let mut cursor = BlockCursor {
            block,
            direction,
            keys: Vec::new(),
            current: None,
            next,
            interval: Vec::new(),
            restart,
        };
        match direction {
            Direction::Forward => {
                cursor.advance()?;
                while let Some((at, at_sequence)) = cursor.key()
                    && compare(at, at_sequence, key, sequence).is_lt()
                {
                    cursor.advance()?;
                }
            }
            Direction::Reverse if cursor.block.restarts() > 0 => {
                cursor.decode_interval()?;
                while let Some(last) = cursor.interval.last() {
                    let last_key = cursor.keys.get(last.key.clone()).unwrap_or_default();
                    if compare(last_key, last.sequence, key, sequence).is_lt() {
                        break;
                    }
                    cursor.interval.pop();
                }
                cursor.advance()?;
            }
            Direction::Reverse => {}
        }
        Ok(cursor)
    }

    /// The current key and sequence; `None` behind the last entry.
    #[inline]
    pub(crate) fn key(&self) -> Option<(&[u8], Sequence)> {
        let current = self.current.as_ref()?;
        Some((self.keys.get(current.key.clone())?, current.sequence))
    }

    /// The current entry's kind.
    pub(crate) fn kind(&self) -> Kind {
        self.current.as_ref().map_or(Kind::Tombstone, |current| current.kind)
    }

    /// The current value, as a slice of the block.
    pub(crate) fn value(&self) -> Bytes {
        self.current.as_ref().map_or_else(Bytes::new, |current| self.block.slice(current.value.clone()))
    }

    /// The current value's bytes.
    pub(crate) fn value_bytes(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |current| self.block.bytes(current.value.clone()))
    }

    #[inline]
    pub(crate) fn advance(&mut self) -> Result<(), Malformed> {
        match self.direction {
            Direction::Forward => self.advance_forward(),
            Direction::Reverse => self.advance_reverse(),
        }
    }

    #[inline]
    fn advance_forward(&mut self) -> Result<(), Malformed> {
        if self.next >= self.block.entries_end() {
            self.current = None;
            return Ok(());
        }
        let entry = self.block.entry(self.next)?;
        if entry.shared > self.keys.len() {
            return Err(Malformed);
        }
        self.keys.truncate(entry.shared);
        self.keys.extend_from_slice(self.block.bytes(entry.suffix.clone()));
        self.next = entry.end();
        self.current = Some(Decoded {
            key: 0..self.keys.len(),
            sequence: entry.sequence,
            kind: entry.kind,
            value: entry.value,
        });
        Ok(())
    }

    fn advance_reverse(&mut self) -> Result<(), Malformed> {
        while self.interval.is_empty() && self.restart > 0 {
            self.restart -= 1;
            self.decode_interval()?;
        }
        self.current = self.interval.pop();
        Ok(())
    }

    /// Decodes the entries from this restart point to the next.
    fn decode_interval(&mut self) -> Result<(), Malformed> {
        self.interval.clear();
        self.keys.clear();
        let mut offset = self.block.restart(self.restart)?;
        let end = self.block.restart(self.restart + 1)?;
        let mut last = 0..0;
        while offset < end {
            let entry = self.block.entry(offset)?;
            offset = entry.end();
            if entry.shared > last.len() {
                return Err(Malformed);
            }
            let start = self.keys.len();
            self.keys.extend_from_within(last.start..last.start + entry.shared);
            self.keys.extend_from_slice(self.block.bytes(entry.suffix.clone()));
            last = start..self.keys.len();
            self.interval.push(Decoded {
                key: last.clone(),
                sequence: entry.sequence,
                kind: entry.kind,
                value: entry.value,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::block_builder::BlockBuilder;
    use proptest::prelude::*;

    fn walk(mut cursor: BlockCursor) -> Vec<(Vec<u8>, u64)> {
        let mut seen = Vec::new();
        while let Some((key, sequence)) = cursor.key() {
            seen.push((key.to_vec(), sequence));
            cursor.advance().unwrap();
        }
        seen
    }

    proptest! {
        #[test]
        fn both_directions_agree_with_a_sorted_list(
            versions in prop::collection::btree_set((prop::collection::vec(0u8..3, 0..5), 1u64..6), 1..60),
            key in prop::collection::vec(0u8..3, 0..5), sequence in 0u64..7,
            interval in 1usize..6,
        ) {
            let mut versions: Vec<_> = versions.into_iter().collect();
            versions.sort_by(|a, b| compare(&a.0, a.1, &b.0, b.1));
            let mut builder = BlockBuilder::new(interval);
            for (key, sequence) in &versions {
                builder.add(key, *sequence, Kind::Value, key);
            }
            let block = Block::new(Bytes::copy_from_slice(builder.finish())).unwrap();
            let split = versions.partition_point(|(at, at_sequence)| {
                compare(at, *at_sequence, &key, sequence).is_lt()
            });
            let reversed = |versions: &[(Vec<u8>, u64)]| versions.iter().rev().cloned().collect::<Vec<_>>();
            let all = BlockCursor::first(block.clone(), Direction::Forward).unwrap();
            prop_assert_eq!(walk(all), versions.clone());
            let all = BlockCursor::first(block.clone(), Direction::Reverse).unwrap();
            prop_assert_eq!(walk(all), reversed(&versions));
            let at = block.restart_before(&key, sequence).unwrap();
            let rest = BlockCursor::seek(block.clone(), at, Direction::Forward, &key, sequence).unwrap();
            prop_assert_eq!(walk(rest), &versions[split..]);
            let rest = BlockCursor::seek(block, at, Direction::Reverse, &key, sequence).unwrap();
            prop_assert_eq!(walk(rest), reversed(&versions[..split]));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>, key: Vec<u8>, reverse: bool) {
            let direction = if reverse { Direction::Reverse } else { Direction::Forward };
            if let Ok(block) = Block::new(Bytes::from(bytes))
                && let Ok(restart) = block.restart_before(&key, 3)
                && let Ok(mut cursor) = BlockCursor::seek(block, restart, direction, &key, 3)
            {
                for _ in 0..100 {
                    if cursor.advance().is_err() {
                        break;
                    }
                }
            }
        }
    }
}
