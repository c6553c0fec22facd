//! Writes a blob file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::format::{BlobMeta, BlobRef, Header, LENGTH_BYTES};
use crate::error::Error;
use crate::files;
use crate::fs::{File, Fs};
use crate::options::{Keyspace, KeyspaceOptions};
use crate::table::codec::Compressor;
use crate::table::frame::frame;

/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// After this many blocks in a row that did not get smaller …
const HOPELESS: u32 = 4;
/// … this many are stored without trying. Vectors of floats hardly ever get smaller.
const SKIPPED: u32 = 28;

/// Appends values and ends with a synced file. Values that follow each other share a block, as they are likely to be
/// read together: a scan then looks into the cache once for several.
pub(crate) struct BlobWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    number: u64,
    keyspace: Keyspace,
    compressor: Compressor,
    block_bytes: usize,
    /// The values of the block to come.
    block: Vec<u8>,
    /// Blocks in a row that were not compressed.
    incompressible: u32,
    /// Not yet written bytes, which belong at `written`.
    buffer: Vec<u8>,
    written: u64,
    hasher: Xxh3Default,
    blobs: u64,
    value_bytes: u64,
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BlobWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl BlobWriter {
    /// Creates the file, for values of tables of a level.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        number: u64,
        keyspace: Keyspace,
        options: &KeyspaceOptions,
        level: usize,
    ) -> Result<BlobWriter, Error> {
        let path = files::blob(dir, number);
        let compressor = Compressor::new(options.compression_at(level))
            .map_err(|source| Error::io("compress", &path, source))?;
        let file = fs.create(&path).map_err(|source| Error::io("create", &path, source))?;
        // Readers take at least that much at once, so it has to be a reasonable length.
        let block_bytes = options.blob_block_bytes.min(1 << 20);
        let header = Header { number, keyspace: u32::from(keyspace.0), block_bytes: block_bytes as u32 };
        let mut buffer = Vec::with_capacity(WRITE_BYTES + (WRITE_BYTES >> 2));
        buffer.extend_from_slice(&header.encode());
        Ok(BlobWriter {
            file,
            path,
            number,
            keyspace,
            compressor,
            block_bytes,
            block: Vec::new(),
            incompressible: 0,
            buffer,
            written: 0,
            hasher: Xxh3Default::new(),
            blobs: 0,
            value_bytes: 0,
        })
    }

    /// Appends a value.
    pub(crate) fn add(&mut self, value: &[u8]) -> Result<BlobRef, Error> {
        if !self.block.is_empty() && self.block.len() + value.len() > self.block_bytes {
            self.finish_block()?;
        }
        let start = self.block.len();
        self.block.extend_from_slice(value);
        self.blobs += 1;
        self.value_bytes += value.len() as u64;
        Ok(BlobRef { file: self.number, block: self.end(), start, len: value.len() })
    }

    /// The size of the file so far, in bytes.
    pub(crate) fn byte_len(&self) -> u64 {
        self.end() + self.block.len() as u64
    }

    /// Writes the rest and syncs the file; the caller syncs the directory.
    pub(crate) fn finish(mut self) -> Result<BlobMeta, Error> {
        self.finish_block()?;
        self.write()?;
        self.file.sync().map_err(|source| Error::io("fsync", &self.path, source))?;
        Ok(BlobMeta {
            number: self.number,
            keyspace: self.keyspace,
            bytes: self.written,
            checksum: self.hasher.digest(),
            blobs: self.blobs,
            value_bytes: self.value_bytes,
        })
    }

    /// Where the block to come will lie.
    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn finish_block(&mut self) -> Result<(), Error> {
        if self.block.is_empty() {
            return Ok(());
        }
        let start = self.buffer.len();
        let offset = self.end() + LENGTH_BYTES as u64;
        self.buffer.extend_from_slice(&[0; LENGTH_BYTES]);
        let tries = self.incompressible % (HOPELESS + SKIPPED) < HOPELESS;
        let compressor = tries.then_some(&mut self.compressor);
        let handle = frame(&mut self.buffer, &self.block, self.number, offset, compressor);
        let is_smaller = handle.len < self.block.len() as u64;
        self.incompressible = if is_smaller { 0 } else { self.incompressible.wrapping_add(1) };
        // Values are shorter than batches, and those fit.
        let len = (handle.len as u32).to_le_bytes();
        if let Some(place) = self.buffer.get_mut(start..).and_then(|rest| rest.first_chunk_mut()) {
            *place = len;
        }
        self.block.clear();
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
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
