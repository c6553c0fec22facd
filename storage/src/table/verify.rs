//! Reads all of a table to find out whether it still is what was written.

use std::sync::Arc;

use prost::Message;
use xxhash_rust::xxh3::Xxh3Default;

use super::block::Block;
use super::cursor::Access;
use super::filter::Filter;
use super::index::Index;
use super::layout::Layout;
use super::meta::Properties;
use super::reader::{Table, read_footer};
use crate::error::Error;

/// Bytes read at a time.
const VERIFY_BYTES: usize = 1 << 20;

impl Table {
    /// Reads the whole file and compares it with the checksum in the manifest. The error names the first part that is
    /// damaged, and where it lies.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        let mut hasher = Xxh3Default::new();
        let mut offset = 0;
        let mut buffer = vec![0; VERIFY_BYTES];
        while offset < self.meta.bytes {
            let len = (self.meta.bytes - offset).min(VERIFY_BYTES as u64) as usize;
            let chunk = buffer.get_mut(..len).unwrap_or_default();
            self.file.read_exact_at(offset, chunk).map_err(|source| Error::io("read", &self.path, source))?;
            hasher.update(chunk);
            offset += len as u64;
        }
        if hasher.digest() == self.meta.checksum {
            return self.verify_properties();
        }
        // The checksums of the parts say where.
        self.verify_parts()?;
        Err(Error::corruption(&self.path, 0, "it is a sound table, but not the one that was written"))
    }

    /// Reads each part from the disk: index, filter, data blocks, properties.
    pub(crate) fn verify_parts(&self) -> Result<(), Error> {
        for partition in 0..self.layout.partitions() {
            let index = self.index_partition(partition, Access::Bulk)?;
            for at in 0..index.entries() {
                let handle = index.handle(at).map_err(|_| self.malformed_index())?;
                self.read_part::<Block>(handle)?;
            }
        }
        if let Layout::Partitioned { top, .. } = &self.layout {
            for filter in top.partitions().iter().filter_map(|partition| partition.filter) {
                self.read_part::<Filter>(filter)?;
            }
        }
        let footer = read_footer(&*self.file, &self.path, self.meta.id, self.meta.bytes)?;
        self.read_part::<Arc<Index>>(footer.index)?;
        if footer.filter.len > 0 {
            self.read_part::<Filter>(footer.filter)?;
        }
        self.verify_properties()
    }

    fn verify_properties(&self) -> Result<(), Error> {
        let bytes = self.read_block(self.properties)?;
        if Properties::decode(bytes).ok() == Some(self.meta.properties(&self.uses)) {
            Ok(())
        } else {
            let offset = self.properties.offset;
            Err(Error::corruption(&self.path, offset, "its properties are not those in the manifest"))
        }
    }
}
