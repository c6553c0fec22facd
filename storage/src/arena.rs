//! Where the values of memtables lie: a few large pieces of memory instead of one for each.
//!
//! One thread writes values and another frees them all after the flush. Piece by piece that has both wait for the allocator's
//! lock, and leaves memory in fragments that other sizes cannot use.

use bytes::{Bytes, BytesMut};

/// The size of a piece.
const CHUNK_BYTES: usize = 1 << 20;
/// Values from this size on stay where they are: they are few, and would leave too much of a chunk unused.
const LARGE_BYTES: usize = CHUNK_BYTES / 16;

/// Copies values into chunks. A chunk is freed when none of its values is in use any more.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// What is left of the newest chunk.
    chunk: BytesMut,
    chunk_bytes: usize,
}

impl Arena {
    /// The value, in a chunk unless it is large.
    pub(crate) fn store(&mut self, value: Bytes) -> Bytes {
        if value.is_empty() || value.len() >= LARGE_BYTES {
            return value;
        }
        if self.chunk.capacity() < value.len() {
            // Keyspaces that hold little take little.
            self.chunk_bytes = (self.chunk_bytes * 2).clamp(LARGE_BYTES, CHUNK_BYTES);
            self.chunk = BytesMut::with_capacity(self.chunk_bytes);
        }
        self.chunk.extend_from_slice(&value);
        self.chunk.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_were_and_lie_side_by_side() {
        let mut arena = Arena::default();
        let value = |index: usize| Bytes::from(vec![index as u8; index * 7 % 3_000]);
        let stored: Vec<Bytes> = (0..2_000).map(|index| arena.store(value(index))).collect();
        for (index, stored) in stored.iter().enumerate() {
            assert_eq!(*stored, value(index));
        }
        let neighbours = stored.windows(2).filter(|pair| {
            let [left, right] = pair else { return false };
            left.as_ptr().wrapping_add(left.len()) == right.as_ptr()
        });
        assert!(neighbours.count() > 1_900);
    }

    #[test]
    fn large_values_stay_where_they_are() {
        let large = Bytes::from(vec![1; LARGE_BYTES]);
        assert_eq!(Arena::default().store(large.clone()).as_ptr(), large.as_ptr());
    }
}
