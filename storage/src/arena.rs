//! Where the values of memtables lie: a few large pieces of memory instead of one for each.
//!
//! One thread writes values and another frees them all after the flush. Piece by piece that has both wait for the allocator's
//! lock, and leaves memory in fragments that other sizes cannot use. Whole chunks go from a flushed memtable to the next,
//! so that the operating system need not provide their pages anew.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// The size of a chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Values from this size on stay where they are: they are few, and would leave too much of a chunk unused.
const LARGE_BYTES: usize = CHUNK_BYTES / 16;

/// Chunks that no memtable uses at present.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    free: Mutex<Vec<BytesMut>>,
    /// How many there may be.
    limit: usize,
}

impl Chunks {
    /// Keeps up to so many bytes.
    pub(crate) fn new(bytes: usize) -> Chunks {
        Chunks { free: Mutex::default(), limit: bytes / CHUNK_BYTES }
    }

    fn take(&self) -> BytesMut {
        self.free.lock().pop().unwrap_or_else(|| BytesMut::with_capacity(CHUNK_BYTES))
    }

    fn give_back(&self, chunk: BytesMut) {
        let mut free = self.free.lock();
        if free.len() < self.limit {
            free.push(chunk);
        }
    }
}

/// Copies values into chunks.
#[derive(Debug)]
pub(crate) struct Arena {
    chunks: Arc<Chunks>,
    /// What is left of each chunk; of all but the last it is too little.
    rests: Vec<BytesMut>,
}

impl Arena {
    pub(crate) fn new(chunks: Arc<Chunks>) -> Arena {
        Arena { chunks, rests: Vec::new() }
    }

    /// The value, in a chunk unless it is large.
    pub(crate) fn store(&mut self, value: Bytes) -> Bytes {
        if value.is_empty() || value.len() >= LARGE_BYTES {
            return value;
        }
        let rest = self.rests.pop_if(|rest| rest.capacity() >= value.len());
        let mut rest = rest.unwrap_or_else(|| self.chunks.take());
        rest.extend_from_slice(&value);
        let stored = rest.split().freeze();
        self.rests.push(rest);
        stored
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for mut chunk in self.rests.drain(..) {
            // One with a value that somebody still reads goes with that.
            if chunk.try_reclaim(CHUNK_BYTES) {
                self.chunks.give_back(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(index: usize) -> Bytes {
        Bytes::from(vec![index as u8; index * 7 % 3_000])
    }

    #[test]
    fn values_are_what_they_were_and_lie_side_by_side() {
        let mut arena = Arena::new(Arc::default());
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
        assert_eq!(Arena::new(Arc::default()).store(large.clone()).as_ptr(), large.as_ptr());
    }

    #[test]
    fn chunks_are_used_again_unless_somebody_reads_in_them() {
        let chunks = Arc::new(Chunks::new(2 * CHUNK_BYTES));
        let fill = || {
            let mut arena = Arena::new(chunks.clone());
            let stored: Vec<Bytes> = (0..3_000).map(|index| arena.store(value(index))).collect();
            (arena, stored)
        };
        let (arena, stored) = fill();
        assert!(arena.rests.len() > 3);
        let read = stored.last().cloned();
        drop(stored);
        drop(arena);
        assert_eq!(chunks.free.lock().len(), 2, "as many as may be kept");
        assert_eq!(read, Some(value(2_999)));
        let free: Vec<_> = chunks.free.lock().iter().map(|chunk| chunk.as_ptr()).collect();
        let (arena, stored) = fill();
        assert!(chunks.free.lock().is_empty());
        assert!(stored.iter().any(|value| free.contains(&value.as_ptr())), "written from their beginning");
        assert_eq!(stored, (0..3_000).map(value).collect::<Vec<_>>());
        drop(arena);
        assert!(chunks.free.lock().is_empty(), "all of it is in use");
    }
}
