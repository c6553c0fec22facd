//! Writes a table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3Default;

use super::block_builder::BlockBuilder;
use super::codec::Compressor;
use super::footer::Footer;
use super::frame::{Handle, frame};
use super::index_builder::IndexBuilder;
use super::meta::{Properties, TableMeta};
use crate::Sequence;
use crate::blob::{BlobRef, BlobUse};
use crate::error::Error;
use crate::fs::{File, Fs};
use crate::key::{Kind, common_prefix};
use crate::options::{Keyspace, KeyspaceOptions};

/// The most entries between two keys that are written whole: larger saves space, smaller saves time in a lookup.
const RESTART_INTERVAL: usize = 8;
/// Partitions of a table of level 0 are so many times as large, so that it seldom has more than one, which an open table keeps
/// in memory: these tables are few and small, and each lookup asks all of them.
const LEVEL0_PARTITION_FACTOR: usize = 32;
/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Appends versions in order and ends with a synced file.
pub(crate) struct TableBuilder {
    file: Arc<dyn File>,
    path: PathBuf,
    id: u64,
    keyspace: Keyspace,
    block_bytes: usize,
    compressor: Compressor,
    block: BlockBuilder,
    index: IndexBuilder,
    /// The last finished block, whose separator is chosen when the next key is known.
    finished: Option<Handle>,
    /// Not yet written bytes, which belong at `written`.
    buffer: Vec<u8>,
    written: u64,
    hasher: Xxh3Default,
    smallest: Bytes,
    last_key: Vec<u8>,
    properties: Properties,
    /// By file.
    blobs: BTreeMap<u64, BlobUse>,
}

impl std::fmt::Debug for TableBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TableBuilder").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TableBuilder {
    /// Creates the file of a table for a level. The engine's own tables have their number as `id`; one that is built
    /// elsewhere has another.
    pub(crate) fn create(
        fs: &dyn Fs,
        path: PathBuf,
        id: u64,
        keyspace: Keyspace,
        options: &KeyspaceOptions,
        level: usize,
    ) -> Result<TableBuilder, Error> {
        let compressor = Compressor::new(options.compression_at(level))
            .map_err(|source| Error::io("compress", &path, source))?;
        let file = fs.create(&path).map_err(|source| Error::io("create", &path, source))?;
        let mut partition_bytes = options.index_partition_bytes;
        if level == 0 {
            partition_bytes = partition_bytes.saturating_mul(LEVEL0_PARTITION_FACTOR);
        }
        Ok(TableBuilder {
            file,
            path,
            id,
            keyspace,
            block_bytes: options.block_bytes,
            compressor,
            block: BlockBuilder::new(RESTART_INTERVAL),
            index: IndexBuilder::new(options.filter_bits_per_key, partition_bytes),
            finished: None,
            buffer: Vec::with_capacity(WRITE_BYTES + (WRITE_BYTES >> 2)),
            written: 0,
            hasher: Xxh3Default::new(),
            smallest: Bytes::new(),
            last_key: Vec::new(),
            properties: Properties { smallest_sequence: u64::MAX, ..Properties::default() },
            blobs: BTreeMap::new(),
        })
    }

    /// Appends a version, which must follow the one before in [`crate::key::compare`]'s order. The value of a
    /// [`Kind::Separated`] is the encoded [`BlobRef`].
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        sequence: Sequence,
        kind: Kind,
        value: &[u8],
    ) -> Result<(), Error> {
        if let Some(handle) = self.finished.take() {
            let separator = separator(&self.last_key, key);
            self.index.add_block(separator.as_deref().unwrap_or(&self.last_key), handle);
        }
        let first = self.properties.entries == 0;
        if first {
            self.smallest = Bytes::copy_from_slice(key);
        }
        let continues = !first && self.last_key == key;
        self.index.add_key(key, continues);
        if !continues {
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        self.block.add(key, sequence, kind, value);
        self.properties.entries += 1;
        self.properties.tombstones += u64::from(kind == Kind::Tombstone);
        if kind == Kind::Separated
            && let Some(blob) = BlobRef::decode(value)
        {
            let used = self.blobs.entry(blob.file).or_insert(BlobUse { file: blob.file, blobs: 0, bytes: 0 });
            used.blobs += 1;
            used.bytes += blob.len as u64;
        }
        self.properties.smallest_sequence = self.properties.smallest_sequence.min(sequence);
        self.properties.largest_sequence = self.properties.largest_sequence.max(sequence);
        if self.block.byte_len() >= self.block_bytes {
            self.finish_block()?;
        }
        Ok(())
    }

    /// The size of the file so far, in bytes.
    pub(crate) fn byte_len(&self) -> u64 {
        self.written + self.buffer.len() as u64 + self.block.byte_len() as u64
    }

    /// The last key added.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Writes filter, index, properties and footer and syncs the file; the caller syncs the directory.
    pub(crate) fn finish(mut self) -> Result<TableMeta, Error> {
        self.finish_block()?;
        if let Some(handle) = self.finished.take() {
            self.index.add_block(&self.last_key, handle);
        }
        self.properties.smallest = self.smallest.to_vec();
        self.properties.largest = self.last_key.clone();
        self.properties.keyspace = u32::from(self.keyspace.0);
        self.properties.blobs = std::mem::take(&mut self.blobs).into_values().collect();
        let mut footer = Footer { id: self.id, ..Footer::default() };
        let (id, written, buffer) = (self.id, self.written, &mut self.buffer);
        // These are never compressed: a lookup needs them at once.
        let mut append = |block: &[u8]| {
            let offset = written + buffer.len() as u64;
            frame(buffer, block, id, offset, None)
        };
        self.index.finish(&mut footer, &mut append);
        footer.properties = append(&self.properties.encode_to_vec());
        if !footer.encode(&mut self.buffer) {
            let what = format!("{} would need an index or a filter of 4 GiB", self.path.display());
            return Err(Error::InvalidArgument { what });
        }
        self.hasher.update(&self.buffer);
        write(&*self.file, &self.path, self.written, &self.buffer)?;
        self.file.sync().map_err(|source| Error::io("fsync", &self.path, source))?;
        Ok(TableMeta {
            number: self.id,
            id: self.id,
            keyspace: self.keyspace,
            bytes: self.written + self.buffer.len() as u64,
            checksum: self.hasher.digest(),
            smallest: self.smallest,
            largest: Bytes::from(self.last_key),
            smallest_sequence: self.properties.smallest_sequence,
            largest_sequence: self.properties.largest_sequence,
            entries: self.properties.entries,
            tombstones: self.properties.tombstones,
            global_sequence: None,
            cleaned: 0,
        })
    }

    fn finish_block(&mut self) -> Result<(), Error> {
        if self.block.is_empty() {
            return Ok(());
        }
        let offset = self.written + self.buffer.len() as u64;
        let block = self.block.finish();
        self.finished = Some(frame(&mut self.buffer, block, self.id, offset, Some(&mut self.compressor)));
        self.block.clear();
        if self.buffer.len() >= WRITE_BYTES {
            self.hasher.update(&self.buffer);
            write(&*self.file, &self.path, self.written, &self.buffer)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

fn write(file: &dyn File, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    file.write_all_at(offset, bytes).map_err(|source| Error::io("write", path, source))
}

/// The shortest key that is at least `last` and below `next`; `None` if that is `last` itself.
fn separator(last: &[u8], next: &[u8]) -> Option<Vec<u8>> {
    let common = common_prefix(last, next);
    let (&from, &to) = (last.get(common)?, next.get(common)?);
    if from.checked_add(1)? < to && common + 1 < last.len() {
        let mut separator = last.get(..common)?.to_vec();
        separator.push(from + 1);
        return Some(separator);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn separators_separate(a in prop::collection::vec(0u8..4, 0..6), b in prop::collection::vec(0u8..4, 0..6)) {
            let (last, next) = if a < b { (a, b) } else { (b, a) };
            if let Some(separator) = separator(&last, &next) {
                prop_assert!(last <= separator && separator < next && separator.len() < last.len() + 1);
            }
        }
    }
}
