//! An open table.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3Default;

use super::block::{Block, Lookup, Malformed};
use super::filter::Filter;
use super::footer::{FOOTER_BYTES, Footer, FooterError, TABLE_FORMAT};
use super::frame::{Handle, unframe};
use super::index::Index;
use crate::Sequence;
use crate::blob::{BlobFile, BlobRef, BlobUse};
use crate::cache::BlockCache;
use crate::error::Error;
use crate::files;
use crate::fs::{File, Fs};
use crate::key::Kind;
use crate::options::Keyspace;
use crate::stats::Counters;

/// Bytes read at a time by [`Table::verify`].
const VERIFY_BYTES: usize = 1 << 20;

/// What a table says about itself, in its properties block.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Properties {
    #[prost(uint32, tag = "1")]
    pub(crate) keyspace: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) smallest: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) largest: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(crate) smallest_sequence: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) largest_sequence: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) entries: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) tombstones: u64,
    /// By file.
    #[prost(message, repeated, tag = "8")]
    pub(crate) blobs: Vec<BlobUse>,
}

/// What the manifest says about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    pub(crate) number: u64,
    pub(crate) keyspace: Keyspace,
    pub(crate) bytes: u64,
    /// xxh3 of the whole file.
    pub(crate) checksum: u64,
    pub(crate) smallest: Bytes,
    pub(crate) largest: Bytes,
    pub(crate) smallest_sequence: Sequence,
    pub(crate) largest_sequence: Sequence,
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    /// All range tombstones up to this sequence have been applied: no version that one of them deletes is left.
    pub(crate) cleaned: Sequence,
}

/// What every table of an engine needs.
#[derive(Clone, Debug)]
pub(crate) struct TableContext {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) counters: Arc<Counters>,
}

/// An open table with its index and filter in memory. The file of one that has become obsolete is removed
/// when the last user lets go of it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) meta: TableMeta,
    context: TableContext,
    path: PathBuf,
    file: Arc<dyn File>,
    index: Index,
    filter: Option<Filter>,
    properties: Handle,
    uses: Vec<BlobUse>,
    /// Those that `uses` names, in the same order.
    blobs: Vec<Arc<BlobFile>>,
    obsolete: AtomicBool,
}

impl Table {
    /// Opens the file and reads footer, index, filter and properties. `blob` finds the blob files that it refers to.
    pub(crate) fn open(
        context: &TableContext,
        meta: TableMeta,
        blob: impl Fn(u64) -> Option<Arc<BlobFile>>,
    ) -> Result<Table, Error> {
        let path = files::table(&context.dir, meta.number);
        let file = context.fs.open(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::corruption(&path, 0, "the manifest names it and it is missing")
            }
            _ => Error::io("open", &path, source),
        })?;
        let len = file.byte_len().map_err(|source| Error::io("stat", &path, source))?;
        if len != meta.bytes {
            let what = format!("it has {len} bytes and the manifest says {}", meta.bytes);
            return Err(Error::corruption(&path, len.min(meta.bytes), what));
        }
        let start = len
            .checked_sub(FOOTER_BYTES as u64)
            .ok_or_else(|| Error::corruption(&path, 0, "it is shorter than a footer"))?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(start, &mut footer).map_err(|source| Error::io("read", &path, source))?;
        let footer = Footer::decode(meta.number, &footer).map_err(|error| match error {
            FooterError::Damaged(what) => Error::corruption(&path, start, what),
            FooterError::Newer(found) => {
                Error::NewerFormat { path: path.clone(), found, supported: TABLE_FORMAT }
            }
        })?;
        let read = |handle| read_block(&*file, &path, meta.number, start, handle);
        let index = Index::new(parse(&path, footer.index.offset, read(footer.index)?)?)
            .map_err(|_| Error::corruption(&path, footer.index.offset, "a malformed index"))?;
        let filter = if footer.filter.len == 0 {
            None
        } else {
            let filter = Filter::new(read(footer.filter)?);
            Some(filter.ok_or_else(|| Error::corruption(&path, footer.filter.offset, "a malformed filter"))?)
        };
        let at = footer.properties.offset;
        let malformed = || Error::corruption(&path, at, "malformed properties");
        let mut uses = Properties::decode(read(footer.properties)?).map_err(|_| malformed())?.blobs;
        uses.sort_unstable_by_key(|used| used.file);
        let unknown = |file| {
            Error::corruption(
                &path,
                at,
                format!("it refers to blob file {file}, which the manifest does not name"),
            )
        };
        let blobs = uses.iter().map(|used| blob(used.file).ok_or_else(|| unknown(used.file)));
        let blobs = blobs.collect::<Result<_, _>>()?;
        Ok(Table {
            context: context.clone(),
            path,
            file,
            index,
            filter,
            properties: footer.properties,
            uses,
            blobs,
            obsolete: AtomicBool::new(false),
            meta,
        })
    }

    /// The newest version of `key` that is not newer than `sequence`, with its sequence; `hash` is the key's
    /// [`filter::hash`](super::filter::hash).
    pub(crate) fn get(
        &self,
        key: &[u8],
        hash: u64,
        sequence: Sequence,
    ) -> Result<Option<(Sequence, Kind, Bytes)>, Error> {
        if let Some(filter) = &self.filter {
            self.context.counters.filter_checks.add(1);
            if !filter.may_contain(hash) {
                self.context.counters.filter_useful.add(1);
                return Ok(None);
            }
        }
        let first = self.block_at_least(key)?;
        for index in first..self.blocks() {
            let handle = self.handle(index)?;
            let block = self.cached_block(handle)?;
            match block.get(key, sequence).map_err(|malformed| self.malformed(handle, malformed))? {
                Lookup::Found(entry) => {
                    return Ok(Some((entry.sequence, entry.kind, block.slice(entry.value))));
                }
                Lookup::Absent => return Ok(None),
                Lookup::PastEnd => {}
            }
        }
        Ok(None)
    }

    /// The value that an entry of the table refers to; `reference` is what the entry holds.
    pub(crate) fn separated(&self, reference: &[u8]) -> Result<Bytes, Error> {
        let malformed = || Error::corruption(&self.path, 0, "a malformed reference to a blob file");
        let blob = BlobRef::decode(reference).ok_or_else(malformed)?;
        self.blob_file(blob.file).ok_or_else(malformed)?.get(blob.handle)
    }

    /// One of the blob files that entries refer to.
    pub(crate) fn blob_file(&self, number: u64) -> Option<&Arc<BlobFile>> {
        let at = self.uses.binary_search_by_key(&number, |used| used.file).ok()?;
        self.blobs.get(at)
    }

    /// How much entries refer to in which blob files.
    pub(crate) fn blob_uses(&self) -> impl Iterator<Item = (&BlobUse, &Arc<BlobFile>)> {
        self.uses.iter().zip(&self.blobs)
    }

    /// The number of data blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.index.blocks()
    }

    /// The first block that may hold keys from `key` on.
    pub(crate) fn block_at_least(&self, key: &[u8]) -> Result<usize, Error> {
        self.index.block_at_least(key).map_err(|malformed| self.malformed_index(malformed))
    }

    /// The first block that holds no key up to `key` behind those keys.
    pub(crate) fn block_above(&self, key: &[u8]) -> Result<usize, Error> {
        self.index.block_above(key).map_err(|malformed| self.malformed_index(malformed))
    }

    /// About how many data blocks have keys in `lower..upper`; `None`: from the first, to the last key.
    pub(crate) fn blocks_between(&self, lower: Option<&[u8]>, upper: Option<&[u8]>) -> Result<usize, Error> {
        let first = lower.map_or(Ok(0), |lower| self.block_at_least(lower))?;
        let last = upper.map_or(Ok(self.blocks()), |upper| self.block_at_least(upper))?;
        Ok((last + 1).min(self.blocks()).saturating_sub(first))
    }

    /// Where a data block lies.
    pub(crate) fn handle(&self, index: usize) -> Result<Handle, Error> {
        self.index.handle(index).map_err(|malformed| self.malformed_index(malformed))
    }

    /// A data block, through the cache.
    pub(crate) fn cached_block(&self, handle: Handle) -> Result<Block, Error> {
        if let Some(block) = self.context.cache.get(self.meta.number, handle.offset) {
            self.context.counters.cache_hits.add(1);
            return Ok(block);
        }
        self.context.counters.cache_misses.add(1);
        self.context.counters.bytes_read.add(handle.len);
        let bytes = read_block(&*self.file, &self.path, self.meta.number, self.meta.bytes, handle)?;
        let block = parse(&self.path, handle.offset, bytes)?;
        self.context.cache.insert(self.meta.number, handle.offset, block.clone());
        Ok(block)
    }

    /// A data block out of `window`, which is moved ahead by `window_bytes` when it does not hold the block.
    /// For those who read a whole table once and would only push others out of the cache.
    pub(crate) fn bulk_block(
        &self,
        handle: Handle,
        window: &mut Window,
        window_bytes: usize,
    ) -> Result<Block, Error> {
        let len = handle.framed_len().ok_or_else(|| self.malformed_index(Malformed))?;
        let inside = |window: &Window| {
            let start = usize::try_from(handle.offset.checked_sub(window.offset)?).ok()?;
            let end = start.checked_add(len)?;
            (end <= window.bytes.len()).then(|| window.bytes.slice(start..end))
        };
        let framed = match inside(window) {
            Some(framed) => framed,
            None => {
                let rest = self.meta.bytes.saturating_sub(handle.offset);
                let wanted = (window_bytes.max(len) as u64).min(rest) as usize;
                if wanted < len {
                    return Err(Error::corruption(&self.path, handle.offset, "a block beyond the end"));
                }
                let mut bytes = vec![0; wanted];
                self.file
                    .read_exact_at(handle.offset, &mut bytes)
                    .map_err(|source| Error::io("read", &self.path, source))?;
                *window = Window { offset: handle.offset, bytes: Bytes::from(bytes) };
                inside(window).ok_or_else(|| self.malformed_index(Malformed))?
            }
        };
        let bytes = unframe(&framed, self.meta.number, handle.offset)
            .map_err(|what| Error::corruption(&self.path, handle.offset, what))?;
        parse(&self.path, handle.offset, bytes)
    }

    /// Reads the whole file and compares it with the checksum in the manifest.
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
        // The block checksums say where.
        for index in 0..self.blocks() {
            read_block(&*self.file, &self.path, self.meta.number, self.meta.bytes, self.handle(index)?)?;
        }
        let data_end = if self.blocks() == 0 { None } else { self.handle(self.blocks() - 1)?.end() };
        Err(Error::corruption(
            &self.path,
            data_end.unwrap_or(0),
            "behind its data blocks it is not what was written",
        ))
    }

    fn verify_properties(&self) -> Result<(), Error> {
        let bytes = read_block(&*self.file, &self.path, self.meta.number, self.meta.bytes, self.properties)?;
        let meta = &self.meta;
        let expected = Properties {
            keyspace: u32::from(meta.keyspace.0),
            smallest: meta.smallest.to_vec(),
            largest: meta.largest.to_vec(),
            smallest_sequence: meta.smallest_sequence,
            largest_sequence: meta.largest_sequence,
            entries: meta.entries,
            tombstones: meta.tombstones,
            blobs: self.uses.clone(),
        };
        if Properties::decode(bytes).ok() == Some(expected) {
            Ok(())
        } else {
            let offset = self.properties.offset;
            Err(Error::corruption(&self.path, offset, "its properties are not those in the manifest"))
        }
    }

    /// Lets the file be removed when the last user is gone.
    pub(crate) fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// Whether keys of the table lie within the closed range.
    pub(crate) fn overlaps(&self, smallest: &[u8], largest: &[u8]) -> bool {
        self.meta.smallest <= largest && smallest <= self.meta.largest
    }

    /// Memory of index and filter, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.byte_len() + self.filter.as_ref().map_or(0, Filter::byte_len)
    }

    pub(crate) fn malformed(&self, handle: Handle, _: Malformed) -> Error {
        Error::corruption(&self.path, handle.offset, "a malformed block")
    }

    fn malformed_index(&self, _: Malformed) -> Error {
        Error::corruption(&self.path, 0, "a malformed index")
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire)
            && let Err(error) = self.context.fs.remove(&self.path)
        {
            // The next open removes what the manifest does not name.
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an obsolete table");
        }
    }
}

/// A part of a table's file in memory.
#[derive(Debug, Default)]
pub(crate) struct Window {
    offset: u64,
    bytes: Bytes,
}

fn parse(path: &Path, offset: u64, bytes: Bytes) -> Result<Block, Error> {
    Block::new(bytes).map_err(|_| Error::corruption(path, offset, "a malformed block"))
}

/// Reads and checks the block at `handle`, which must end before `limit`.
fn read_block(file: &dyn File, path: &Path, number: u64, limit: u64, handle: Handle) -> Result<Bytes, Error> {
    let len = handle.framed_len().filter(|_| handle.end().is_some_and(|end| end <= limit));
    let len = len.ok_or_else(|| Error::corruption(path, handle.offset, "a block beyond the end"))?;
    let mut framed = vec![0; len];
    file.read_exact_at(handle.offset, &mut framed).map_err(|source| Error::io("read", path, source))?;
    unframe(&Bytes::from(framed), number, handle.offset)
        .map_err(|what| Error::corruption(path, handle.offset, what))
}
