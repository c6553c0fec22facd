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
/// What has this size or more has an allocation of its own: it would leave too much of a chunk unused.
const LARGE_BYTES: usize = CHUNK_BYTES / 16;

/// Chunks that no memtable uses at present.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    free: Mutex<Free>,
    /// How many there may be.
    limit: usize,
}

#[derive(Debug, Default)]
struct Free {
    chunks: Vec<BytesMut>,
    /// Bytes that memtables have taken beside chunks, and for which fewer chunks are kept than may be: what memtables use
    /// and what is kept for them stay within one bound.
    beside: usize,
}

impl Free {
    fn make_room(&mut self) {
        while self.beside >= CHUNK_BYTES && self.chunks.pop().is_some() {
            self.beside -= CHUNK_BYTES;
        }
    }
}

impl Chunks {
    /// Keeps up to so many bytes.
    pub(crate) fn new(bytes: usize) -> Chunks {
        Chunks { free: Mutex::default(), limit: bytes / CHUNK_BYTES }
    }

    /// Memory that is kept, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.free.lock().chunks.len() * CHUNK_BYTES
    }

    fn take(&self) -> BytesMut {
        self.free.lock().chunks.pop().unwrap_or_else(|| BytesMut::with_capacity(CHUNK_BYTES))
    }

    fn give_back(&self, chunk: BytesMut) {
        let mut free = self.free.lock();
        if free.chunks.len() < self.limit {
            free.chunks.push(chunk);
            free.make_room();
        }
    }

    fn count_beside(&self, bytes: usize) {
        let mut free = self.free.lock();
        free.beside = (free.beside + bytes).min(self.limit * CHUNK_BYTES);
        free.make_room();
    }
}

/// Copies long keys and values, so that nothing keeps the larger memory in use that they came in, such as a segment of the log.
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

    /// A copy, in a chunk unless it is large.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() >= LARGE_BYTES {
            self.chunks.count_beside(bytes.len());
            return Bytes::copy_from_slice(bytes);
        }
        let rest = self.rests.pop_if(|rest| rest.capacity() >= bytes.len());
        let mut rest = rest.unwrap_or_else(|| self.chunks.take());
        rest.extend_from_slice(bytes);
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
        let stored: Vec<Bytes> = (0..2_000).map(|index| arena.store(&value(index))).collect();
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
    fn chunks_make_room_for_large_values() {
        let chunks = Arc::new(Chunks::new(4 * CHUNK_BYTES));
        let fill = |bytes: usize| {
            let mut arena = Arena::new(chunks.clone());
            (0..4 * CHUNK_BYTES / bytes).for_each(|_| drop(arena.store(&vec![1; bytes])));
        };
        fill(1 << 10);
        assert_eq!(chunks.byte_len(), 4 * CHUNK_BYTES);
        let mut arena = Arena::new(chunks.clone());
        let large = vec![7; CHUNK_BYTES / 2 + CHUNK_BYTES];
        assert_eq!(arena.store(&large), large);
        assert_eq!(chunks.byte_len(), 3 * CHUNK_BYTES);
        arena.store(&large);
        assert_eq!(chunks.byte_len(), CHUNK_BYTES);
        fill(LARGE_BYTES);
        assert_eq!(chunks.byte_len(), 0);
        // Those that come back go as well, until as many have gone.
        fill(1 << 10);
        assert!(chunks.byte_len() < 4 * CHUNK_BYTES);
        fill(1 << 10);
        fill(1 << 10);
        assert_eq!(chunks.byte_len(), 4 * CHUNK_BYTES);
    }

    #[test]
    fn what_is_stored_keeps_nothing_else_in_use() {
        let segment = Bytes::from(vec![1; 4 * LARGE_BYTES]);
        let mut arena = Arena::new(Arc::default());
        let stored = [10, LARGE_BYTES].map(|len| arena.store(&segment.slice(..len)));
        assert!(stored.iter().all(|stored| stored.iter().all(|&byte| byte == 1)));
        assert!(segment.is_unique());
    }

    #[test]
    fn chunks_are_used_again_unless_somebody_reads_in_them() {
        let chunks = Arc::new(Chunks::new(2 * CHUNK_BYTES));
        let fill = || {
            let mut arena = Arena::new(chunks.clone());
            let stored: Vec<Bytes> = (0..3_000).map(|index| arena.store(&value(index))).collect();
            (arena, stored)
        };
        let (arena, stored) = fill();
        assert!(arena.rests.len() > 3);
        let read = stored.last().cloned();
        drop(stored);
        drop(arena);
        assert_eq!(chunks.free.lock().chunks.len(), 2, "as many as may be kept");
        assert_eq!(read, Some(value(2_999)));
        let free: Vec<_> = chunks.free.lock().chunks.iter().map(|chunk| chunk.as_ptr()).collect();
        let (arena, stored) = fill();
        assert!(chunks.free.lock().chunks.is_empty());
        assert!(stored.iter().any(|value| free.contains(&value.as_ptr())), "written from their beginning");
        assert_eq!(stored, (0..3_000).map(value).collect::<Vec<_>>());
        drop(arena);
        assert!(chunks.free.lock().chunks.is_empty(), "all of it is in use");
    }
}
