//! An open blob file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::format::{BLOB_FORMAT, BlobMeta, BlobRef, HEADER_BYTES, Header, HeaderError, LENGTH_BYTES};
use crate::cache::Cached;
use crate::error::Error;
use crate::files;
use crate::fs::File;
use crate::quarantine::Damage;
use crate::table::frame::{TRAILER_BYTES, unframe};
use crate::table::reader::TableContext;

/// A blob file; its tables share it. A file that is damaged or missing as a whole is noticed when a value is read,
/// so that the others of the store are not lost with it. The file of one that has become obsolete is removed when
/// the last user lets go of it.
#[derive(Debug)]
pub(crate) struct BlobFile {
    pub(crate) meta: BlobMeta,
    context: TableContext,
    path: PathBuf,
    opened: Result<Opened, Damage>,
    quarantined: AtomicBool,
    obsolete: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: Arc<dyn File>,
    block_bytes: usize,
}

impl BlobFile {
    /// Opens the file and checks its header and length.
    pub(crate) fn open(context: &TableContext, meta: BlobMeta) -> Result<BlobFile, Error> {
        let path = files::blob(&context.dir, meta.number);
        let opened = match open(context, &path, meta) {
            Ok(opened) => Ok(opened),
            Err(error) => Err(Damage::of(&error).ok_or(error)?),
        };
        let file = BlobFile {
            meta,
            context: context.clone(),
            path,
            opened,
            quarantined: AtomicBool::new(false),
            obsolete: AtomicBool::new(false),
        };
        if let Err(damage) = &file.opened {
            file.quarantine(damage);
        }
        Ok(file)
    }

    /// Why no value can be read, if so.
    pub(crate) fn damage(&self) -> Option<&Damage> {
        self.opened.as_ref().err()
    }

    /// Whether damage was found in it: then compaction does not move its values.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Acquire)
    }

    /// Remembers damage found in the file.
    pub(crate) fn quarantine(&self, damage: &Damage) {
        self.context.damages.note(damage);
        self.quarantined.store(true, Ordering::Release);
    }

    /// The block that a value lies in, through the cache.
    pub(crate) fn block(&self, blob: &BlobRef) -> Result<Bytes, Error> {
        let context = &self.context;
        if let Some(Cached::Blobs(block)) = context.cache.get(self.meta.number, blob.block) {
            context.counters.cache_hits.add(1);
            return Ok(block);
        }
        context.counters.cache_misses.add(1);
        let block = self.read_block(blob)?;
        context.cache.insert(self.meta.number, blob.block, Cached::Blobs(block.clone()));
        Ok(block)
    }

    /// The same from the disk.
    pub(crate) fn read_block(&self, blob: &BlobRef) -> Result<Bytes, Error> {
        // Only a block that holds nothing else may be longer than the others, so this is never too little.
        let opened = self.opened()?;
        let longest = (blob.start + blob.len).max(opened.block_bytes) + LENGTH_BYTES + TRAILER_BYTES;
        let rest = self.meta.bytes.saturating_sub(blob.block);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(longest);
        let mut bytes = vec![0; len];
        let read = opened.file.read_exact_at(blob.block, &mut bytes);
        read.map_err(|source| Error::io("read", &self.path, source))?;
        self.context.counters.bytes_read.add(len as u64);
        let block = block_at(self.meta.number, blob.block, &Bytes::from(bytes));
        block.map(|(block, _)| block).map_err(|what| self.corruption(blob.block, what))
    }

    /// A value in its block.
    pub(crate) fn value(&self, block: &Bytes, blob: &BlobRef) -> Result<Bytes, Error> {
        let end = blob.start + blob.len;
        if end <= block.len() {
            Ok(block.slice(blob.start..end))
        } else {
            Err(self.corruption(blob.block, "a value beyond the end of its block"))
        }
    }

    fn opened(&self) -> Result<&Opened, Error> {
        self.opened.as_ref().map_err(Damage::error)
    }

    fn corruption(&self, offset: u64, what: &str) -> Error {
        let error = Error::corruption(&self.path, offset, what);
        if let Some(damage) = Damage::of(&error) {
            self.quarantine(&damage);
        }
        error
    }

    /// Lets the file be removed when the last user is gone.
    pub(crate) fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire)
            && let Err(error) = self.context.fs.remove(&self.path)
        {
            // The next open removes what the manifest does not name.
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an obsolete blob file");
        }
    }
}

/// The block at the start of `bytes`, which lie at `offset` of blob file `number`; and what it takes there with its length
/// and trailer. The error says what is wrong.
pub(crate) fn block_at(number: u64, offset: u64, bytes: &Bytes) -> Result<(Bytes, u64), &'static str> {
    let len = bytes.first_chunk::<LENGTH_BYTES>().ok_or("a block beyond the end")?;
    let end = (u32::from_le_bytes(*len) as usize).checked_add(LENGTH_BYTES + TRAILER_BYTES);
    let end = end.filter(|&end| end <= bytes.len()).ok_or("a block longer than it can be")?;
    let block = unframe(&bytes.slice(LENGTH_BYTES..end), number, offset + LENGTH_BYTES as u64)?;
    Ok((block, end as u64))
}

/// An open file whose header is right.
pub(super) fn open(context: &TableContext, path: &Path, meta: BlobMeta) -> Result<Opened, Error> {
    let file = context.fs.open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::corruption(path, 0, "the manifest names it and it is missing"),
        _ => Error::io("open", path, source),
    })?;
    let len = file.byte_len().map_err(|source| Error::io("stat", path, source))?;
    if len != meta.bytes || len < HEADER_BYTES as u64 {
        let what = format!("it has {len} bytes and the manifest says {}", meta.bytes);
        return Err(Error::corruption(path, len.min(meta.bytes), what));
    }
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(0, &mut header).map_err(|source| Error::io("read", path, source))?;
    match Header::decode(&header) {
        Ok(header) if (header.number, header.keyspace) == (meta.number, u32::from(meta.keyspace.0)) => {
            Ok(Opened { file, block_bytes: header.block_bytes as usize })
        }
        Ok(header) => {
            let what = format!("it says that it is file {} of keyspace {}", header.number, header.keyspace);
            Err(Error::corruption(path, 12, what))
        }
        Err(HeaderError::Damaged(what)) => Err(Error::corruption(path, 0, what)),
        Err(HeaderError::Newer(found)) => {
            Err(Error::NewerFormat { path: path.to_path_buf(), found, supported: BLOB_FORMAT })
        }
    }
}
