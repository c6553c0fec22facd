//! An open blob file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use super::format::{BLOB_FORMAT, BlobMeta, BlobRef, HEADER_BYTES, Header, HeaderError, LENGTH_BYTES};
use crate::cache::Cached;
use crate::error::Error;
use crate::files;
use crate::fs::File;
use crate::table::frame::{TRAILER_BYTES, unframe};
use crate::table::reader::TableContext;

/// Bytes read at a time by [`BlobFile::verify`].
const VERIFY_BYTES: usize = 1 << 20;

/// A blob file; its tables share it. A file that is damaged or missing as a whole is noticed when a value is read,
/// so that the others of the store are not lost with it. The file of one that has become obsolete is removed when
/// the last user lets go of it.
#[derive(Debug)]
pub(crate) struct BlobFile {
    pub(crate) meta: BlobMeta,
    context: TableContext,
    path: PathBuf,
    opened: Result<Opened, Error>,
    obsolete: AtomicBool,
}

#[derive(Debug)]
struct Opened {
    file: Arc<dyn File>,
    block_bytes: usize,
}

impl BlobFile {
    /// Opens the file and checks its header and length.
    pub(crate) fn open(context: &TableContext, meta: BlobMeta) -> Result<BlobFile, Error> {
        let path = files::blob(&context.dir, meta.number);
        let opened = match open(context, &path, meta) {
            Err(error @ Error::Corruption { .. }) => {
                tracing::error!(%error, "values in a blob file cannot be read");
                Err(error)
            }
            opened => Ok(opened?),
        };
        Ok(BlobFile { meta, context: context.clone(), path, opened, obsolete: AtomicBool::new(false) })
    }

    /// Why no value can be read, if so.
    pub(crate) fn damage(&self) -> Option<&Error> {
        self.opened.as_ref().err()
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
        self.parse(blob.block, Bytes::from(bytes)).map(|(block, _)| block)
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

    /// The block at the start of `bytes`, which lie at `offset`; and what it takes with its length and trailer.
    fn parse(&self, offset: u64, bytes: Bytes) -> Result<(Bytes, u64), Error> {
        let corruption = |what| self.corruption(offset, what);
        let len = bytes.first_chunk::<LENGTH_BYTES>().ok_or_else(|| corruption("a block beyond the end"))?;
        let end = (u32::from_le_bytes(*len) as usize).checked_add(LENGTH_BYTES + TRAILER_BYTES);
        let end = end.filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(|| corruption("a block longer than it can be"))?;
        let framed = bytes.slice(LENGTH_BYTES..end);
        let block = unframe(&framed, self.meta.number, offset + LENGTH_BYTES as u64).map_err(corruption)?;
        Ok((block, end as u64))
    }

    fn opened(&self) -> Result<&Opened, Error> {
        self.opened.as_ref().map_err(Error::duplicate)
    }

    fn corruption(&self, offset: u64, what: &str) -> Error {
        Error::corruption(&self.path, offset, what)
    }

    /// Reads the whole file and compares it with the checksum in the manifest.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        let file = &self.opened()?.file;
        let read = |offset, buffer: &mut [u8]| {
            file.read_exact_at(offset, buffer).map_err(|source| Error::io("read", &self.path, source))
        };
        let mut hasher = Xxh3Default::new();
        let mut buffer = vec![0; VERIFY_BYTES];
        let mut offset = 0;
        while offset < self.meta.bytes {
            let len = (self.meta.bytes - offset).min(VERIFY_BYTES as u64);
            let chunk = buffer.get_mut(..len as usize).unwrap_or_default();
            read(offset, chunk)?;
            hasher.update(chunk);
            offset += len;
        }
        if hasher.digest() == self.meta.checksum {
            return Ok(());
        }
        // The checksums of the blocks say where.
        let mut offset = HEADER_BYTES as u64;
        while offset < self.meta.bytes {
            let mut len = [0; LENGTH_BYTES];
            read(offset, &mut len)?;
            let framed = u64::from(u32::from_le_bytes(len)) + (LENGTH_BYTES + TRAILER_BYTES) as u64;
            if framed > self.meta.bytes - offset {
                return Err(self.corruption(offset, "a block beyond the end"));
            }
            let mut bytes = vec![0; usize::try_from(framed).unwrap_or(usize::MAX)];
            read(offset, &mut bytes)?;
            let (_, len) = self.parse(offset, Bytes::from(bytes))?;
            offset += len;
        }
        Err(self.corruption(0, "it is not what was written"))
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

fn open(context: &TableContext, path: &std::path::Path, meta: BlobMeta) -> Result<Opened, Error> {
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
