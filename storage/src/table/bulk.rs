//! Reads data blocks in large pieces, past the cache: for those who read a whole table once and would only push others
//! out of it.

use bytes::Bytes;

use super::block::Block;
use super::frame::{Handle, unframe};
use super::reader::Table;
use crate::error::Error;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 256 << 10;

/// A part of a table's file in memory.
#[derive(Debug, Default)]
pub(crate) struct Window {
    offset: u64,
    bytes: Bytes,
}

impl Window {
    fn get(&self, handle: Handle, len: usize) -> Option<Bytes> {
        let start = usize::try_from(handle.offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}

impl Table {
    /// A data block out of `window`, which is moved ahead when it does not hold the block.
    pub(crate) fn bulk_block(&self, handle: Handle, window: &mut Window) -> Result<Block, Error> {
        self.read_ahead(handle, window).map_err(|error| self.report(error))
    }

    fn read_ahead(&self, handle: Handle, window: &mut Window) -> Result<Block, Error> {
        let beyond = || Error::corruption(&self.path, handle.offset, "a block beyond the end");
        let len = handle.framed_len().ok_or_else(beyond)?;
        let framed = match window.get(handle, len) {
            Some(framed) => framed,
            None => {
                let rest = self.meta.bytes.saturating_sub(handle.offset);
                let wanted = (WINDOW_BYTES.max(len) as u64).min(rest) as usize;
                if wanted < len {
                    return Err(beyond());
                }
                let mut bytes = vec![0; wanted];
                self.content()?
                    .file
                    .read_exact_at(handle.offset, &mut bytes)
                    .map_err(|source| Error::io("read", &self.path, source))?;
                *window = Window { offset: handle.offset, bytes: Bytes::from(bytes) };
                window.get(handle, len).ok_or_else(beyond)?
            }
        };
        let bytes = unframe(&framed, self.meta.id, handle.offset)
            .map_err(|what| Error::corruption(&self.path, handle.offset, what))?;
        Block::new(bytes).map_err(|malformed| self.malformed(handle, malformed))
    }
}
