//! Writes a table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3Default;

use super::block_builder::BlockBuilder;
use super::filter;
use super::footer::Footer;
use super::frame::{Framer, Handle};
use super::reader::{Properties, TableMeta};
use crate::blob::{BlobRef, BlobUse};
use crate::error::Error;
use crate::fs::{File, Fs};
use crate::key::{Kind, common_prefix};
use crate::options::{Keyspace, KeyspaceOptions};
use crate::{Sequence, files};

/// Entries between two keys that are written whole: larger saves space, smaller saves time in a lookup.
const RESTART_INTERVAL: usize = 8;
/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Appends versions in order and ends with a synced file.
pub(crate) struct TableBuilder {
    file: Arc<dyn File>,
    path: PathBuf,
    number: u64,
    keyspace: Keyspace,
    block_bytes: usize,
    filter_bits_per_key: u8,
    framer: Framer,
    block: BlockBuilder,
    index: BlockBuilder,
    /// The last finished block, whose separator is chosen when the next key is known.
    finished: Option<Handle>,
    hashes: Vec<u64>,
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
    /// Creates the file.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        number: u64,
        keyspace: Keyspace,
        options: &KeyspaceOptions,
    ) -> Result<TableBuilder, Error> {
        let path = files::table(dir, number);
        let file = fs.create(&path).map_err(|source| Error::io("create", &path, source))?;
        Ok(TableBuilder {
            file,
            path,
            number,
            keyspace,
            block_bytes: options.block_bytes,
            filter_bits_per_key: options.filter_bits_per_key,
            framer: Framer::new(options.compression),
            block: BlockBuilder::new(RESTART_INTERVAL),
            index: BlockBuilder::new(1),
            finished: None,
            hashes: Vec::new(),
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
            self.add_index(separator.as_deref(), handle);
        }
        let first = self.properties.entries == 0;
        if first {
            self.smallest = Bytes::copy_from_slice(key);
        }
        if first || self.last_key != key {
            if self.filter_bits_per_key > 0 {
                self.hashes.push(filter::hash(key));
            }
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
            used.bytes += blob.stored_bytes();
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
            self.add_index(None, handle);
        }
        let mut footer = Footer::default();
        if self.filter_bits_per_key > 0 {
            let block = filter::build(&self.hashes, self.filter_bits_per_key);
            footer.filter = self.append(&block);
        }
        let mut index = std::mem::replace(&mut self.index, BlockBuilder::new(1));
        footer.index = self.append(index.finish());
        self.properties.smallest = self.smallest.to_vec();
        self.properties.largest = self.last_key.clone();
        self.properties.keyspace = u32::from(self.keyspace.0);
        self.properties.blobs = std::mem::take(&mut self.blobs).into_values().collect();
        footer.properties = self.append(&self.properties.encode_to_vec());
        footer.encode(self.number, &mut self.buffer);
        self.write()?;
        self.file.sync().map_err(|source| Error::io("fsync", &self.path, source))?;
        Ok(TableMeta {
            number: self.number,
            keyspace: self.keyspace,
            bytes: self.written,
            checksum: self.hasher.digest(),
            smallest: self.smallest,
            largest: Bytes::from(self.last_key),
            smallest_sequence: self.properties.smallest_sequence,
            largest_sequence: self.properties.largest_sequence,
            entries: self.properties.entries,
            tombstones: self.properties.tombstones,
            cleaned: 0,
        })
    }

    fn add_index(&mut self, separator: Option<&[u8]>, handle: Handle) {
        let mut value = Vec::with_capacity(20);
        handle.encode(&mut value);
        self.index.add(separator.unwrap_or(&self.last_key), 0, Kind::Value, &value);
    }

    fn finish_block(&mut self) -> Result<(), Error> {
        if self.block.is_empty() {
            return Ok(());
        }
        let offset = self.offset();
        let block = self.block.finish();
        self.finished = Some(self.framer.frame(&mut self.buffer, block, self.number, offset, true));
        self.block.clear();
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Appends a block that is read once, when the table is opened.
    fn append(&mut self, block: &[u8]) -> Handle {
        let offset = self.offset();
        self.framer.frame(&mut self.buffer, block, self.number, offset, false)
    }

    fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
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
