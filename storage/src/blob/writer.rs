//! Writes a blob file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::format::{BlobMeta, BlobRef, LENGTH_BYTES, encode_header};
use crate::error::Error;
use crate::files;
use crate::fs::{File, Fs};
use crate::options::{Compression, Keyspace};
use crate::table::codec::Compressor;
use crate::table::frame::{Handle, Payload, frame};

/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// After this many values in a row that did not get smaller …
const HOPELESS: u32 = 8;
/// … this many are stored without trying. Vectors of floats hardly ever get smaller.
const SKIPPED: u32 = 56;

/// Appends values and ends with a synced file.
pub(crate) struct BlobWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    number: u64,
    keyspace: Keyspace,
    compressor: Compressor,
    /// Values in a row that were not compressed.
    incompressible: u32,
    /// Not yet written bytes, which belong at `written`.
    buffer: Vec<u8>,
    written: u64,
    hasher: Xxh3Default,
    blobs: u64,
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BlobWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl BlobWriter {
    /// Creates the file.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        number: u64,
        keyspace: Keyspace,
        compression: Compression,
    ) -> Result<BlobWriter, Error> {
        let path = files::blob(dir, number);
        let compressor =
            Compressor::new(compression).map_err(|source| Error::io("compress", &path, source))?;
        let file = fs.create(&path).map_err(|source| Error::io("create", &path, source))?;
        let mut buffer = Vec::with_capacity(WRITE_BYTES + (WRITE_BYTES >> 2));
        buffer.extend_from_slice(&encode_header(number, keyspace));
        Ok(BlobWriter {
            file,
            path,
            number,
            keyspace,
            compressor,
            incompressible: 0,
            buffer,
            written: 0,
            hasher: Xxh3Default::new(),
            blobs: 0,
        })
    }

    /// Appends a value.
    pub(crate) fn add(&mut self, value: &[u8]) -> Result<BlobRef, Error> {
        let tries = self.incompressible % (HOPELESS + SKIPPED) < HOPELESS;
        let start = self.begin();
        let offset = self.byte_len();
        let compressor = tries.then_some(&mut self.compressor);
        let handle = frame(&mut self.buffer, value, self.number, offset, compressor);
        let is_smaller = handle.len < value.len() as u64;
        self.incompressible = if is_smaller { 0 } else { self.incompressible.wrapping_add(1) };
        self.end(start, handle)
    }

    /// Appends a value as another blob file held it.
    pub(crate) fn add_payload(&mut self, payload: &Payload) -> Result<BlobRef, Error> {
        let start = self.begin();
        let offset = self.byte_len();
        let handle = payload.frame(&mut self.buffer, self.number, offset);
        self.end(start, handle)
    }

    fn begin(&mut self) -> usize {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; LENGTH_BYTES]);
        start
    }

    fn end(&mut self, start: usize, handle: Handle) -> Result<BlobRef, Error> {
        // Values are shorter than batches, and those fit.
        let len = (handle.len as u32).to_le_bytes();
        if let Some(place) = self.buffer.get_mut(start..).and_then(|rest| rest.first_chunk_mut()) {
            *place = len;
        }
        self.blobs += 1;
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(BlobRef { file: self.number, handle })
    }

    /// The size of the file so far, in bytes.
    pub(crate) fn byte_len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Writes the rest and syncs the file; the caller syncs the directory.
    pub(crate) fn finish(mut self) -> Result<BlobMeta, Error> {
        self.write()?;
        self.file.sync().map_err(|source| Error::io("fsync", &self.path, source))?;
        Ok(BlobMeta {
            number: self.number,
            keyspace: self.keyspace,
            bytes: self.written,
            checksum: self.hasher.digest(),
            blobs: self.blobs,
        })
    }

    fn write(&mut self) -> Result<(), Error> {
        self.hasher.update(&self.buffer);
        self.file
            .write_all_at(self.written, &self.buffer)
            .map_err(|source| Error::io("write", &self.path, source))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
