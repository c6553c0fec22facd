//! Reads a file from its start to its end, once: for those who look at all of it.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use crate::fs::File;

/// Bytes read at a time.
pub(crate) const READ_BYTES: u64 = 1 << 20;

/// Is told of each piece that was read, and may stop the reading.
pub(crate) type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A part of a file in memory, which only moves on.
pub(crate) struct Sequential<'a> {
    file: &'a dyn File,
    len: u64,
    /// Where in the file `buffer` starts.
    start: u64,
    buffer: Vec<u8>,
    /// Of everything read so far.
    hasher: Xxh3Default,
}

impl<'a> Sequential<'a> {
    /// At the start of a file of `len` bytes.
    pub(crate) fn new(file: &'a dyn File, len: u64) -> Sequential<'a> {
        Sequential { file, len, start: 0, buffer: Vec::new(), hasher: Xxh3Default::new() }
    }

    /// Reads on until everything up to `end` is in the buffer.
    pub(crate) fn advance(&mut self, end: u64, pace: Pace<'_>) -> io::Result<ControlFlow<()>> {
        loop {
            let at = self.start + self.buffer.len() as u64;
            if at >= end.min(self.len) {
                return Ok(ControlFlow::Continue(()));
            }
            let piece = (self.len - at).min(READ_BYTES);
            let before = self.buffer.len();
            self.buffer.resize(before + piece as usize, 0);
            let fresh = self.buffer.get_mut(before..).unwrap_or_default();
            self.file.read_exact_at(at, fresh)?;
            self.hasher.update(fresh);
            if pace(piece).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// A part of the buffer; what lies before it may be forgotten. `None` if that is so already, or if it has not been
    /// read yet.
    pub(crate) fn slice(&mut self, from: u64, to: u64) -> Option<Bytes> {
        let skipped = usize::try_from(from.checked_sub(self.start)?).ok()?;
        let len = usize::try_from(to.checked_sub(from)?).ok()?;
        let slice = Bytes::copy_from_slice(self.buffer.get(skipped..skipped.checked_add(len)?)?);
        if skipped as u64 > READ_BYTES {
            self.buffer.drain(..skipped);
            self.start = from;
        }
        Some(slice)
    }

    /// The xxh3 hash of what was read.
    pub(crate) fn digest(&self) -> u64 {
        self.hasher.digest()
    }
}
