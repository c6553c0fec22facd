//! An open blob file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::format::{BLOB_FORMAT, BlobMeta, HEADER_BYTES, HeaderError, LENGTH_BYTES, decode_header};
use crate::cache::Cached;
use crate::error::Error;
use crate::files;
use crate::fs::File;
use crate::quarantine::Damage;
use crate::table::frame::{Handle, Payload};
use crate::table::reader::TableContext;

/// A blob file; its tables share it. A file that is damaged or missing as a whole is noticed when a value is read,
/// so that the others of the store are not lost with it. The file of one that has become obsolete is removed when
/// the last user lets go of it.
#[derive(Debug)]
pub(crate) struct BlobFile {
    pub(crate) meta: BlobMeta,
    context: TableContext,
    path: PathBuf,
    file: Result<Arc<dyn File>, Damage>,
    quarantined: AtomicBool,
    obsolete: AtomicBool,
}

impl BlobFile {
    /// Opens the file and checks its header and length.
    pub(crate) fn open(context: &TableContext, meta: BlobMeta) -> Result<BlobFile, Error> {
        let path = files::blob(&context.dir, meta.number);
        let file = match open(context, &path, meta) {
            Ok(file) => Ok(file),
            Err(error) => Err(Damage::of(&error).ok_or(error)?),
        };
        let opened = BlobFile {
            meta,
            context: context.clone(),
            path,
            file,
            quarantined: AtomicBool::new(false),
            obsolete: AtomicBool::new(false),
        };
        if let Err(damage) = &opened.file {
            opened.quarantine(damage);
        }
        Ok(opened)
    }

    /// Why no value can be read, if so.
    pub(crate) fn damage(&self) -> Option<&Damage> {
        self.file.as_ref().err()
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

    /// A value, through the cache.
    pub(crate) fn get(&self, handle: Handle) -> Result<Bytes, Error> {
        let context = &self.context;
        if let Some(Cached::Blob(value)) = context.cache.get(self.meta.number, handle.offset) {
            context.counters.cache_hits.add(1);
            return Ok(value);
        }
        context.counters.cache_misses.add(1);
        context.counters.bytes_read.add(handle.len);
        let value = self.value(handle)?;
        context.cache.insert(self.meta.number, handle.offset, Cached::Blob(value.clone()));
        Ok(value)
    }

    /// A value as it is stored, checked, past the cache.
    pub(crate) fn payload(&self, handle: Handle) -> Result<Payload, Error> {
        let file = self.file.as_ref().map_err(Damage::error)?;
        let corruption = |what| self.corruption(handle, what);
        let is_inside = handle.end().is_some_and(|end| end <= self.meta.bytes);
        let len =
            handle.framed_len().filter(|_| is_inside).ok_or_else(|| corruption("a value beyond the end"))?;
        let mut framed = vec![0; len];
        file.read_exact_at(handle.offset, &mut framed)
            .map_err(|source| Error::io("read", &self.path, source))?;
        Payload::check(Bytes::from(framed), self.meta.number, handle.offset).map_err(corruption)
    }

    fn value(&self, handle: Handle) -> Result<Bytes, Error> {
        let payload = self.payload(handle)?;
        payload.decompress().map_err(|what| self.corruption(handle, what))
    }

    fn corruption(&self, handle: Handle, what: &str) -> Error {
        let error = Error::corruption(&self.path, handle.offset.saturating_sub(LENGTH_BYTES as u64), what);
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

pub(super) fn open(
    context: &TableContext,
    path: &std::path::Path,
    meta: BlobMeta,
) -> Result<Arc<dyn File>, Error> {
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
    match decode_header(&header) {
        Ok(named) if named == (meta.number, u32::from(meta.keyspace.0)) => Ok(file),
        Ok((number, keyspace)) => {
            let what = format!("it says that it is blob file {number} of keyspace {keyspace}");
            Err(Error::corruption(path, 12, what))
        }
        Err(HeaderError::Damaged(what)) => Err(Error::corruption(path, 0, what)),
        Err(HeaderError::Newer(found)) => {
            Err(Error::NewerFormat { path: path.to_path_buf(), found, supported: BLOB_FORMAT })
        }
    }
}
