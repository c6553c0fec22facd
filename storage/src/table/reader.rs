//! An open table.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;

use super::block::{Block, Lookup, Malformed};
use super::cursor::Access;
use super::data_block::DataBlock;
use super::filter::Filter;
use super::footer::{FOOTER_BYTES, Footer, FooterError, IndexLayout, TABLE_FORMAT};
use super::frame::{Handle, unframe};
use super::index::Index;
use super::layout::{Layout, Part};
use super::meta::{Properties, TableMeta};
use super::pins::{PinBudget, Pins};
use super::top_index::TopIndex;
use crate::Sequence;
use crate::blob::{BlobFile, BlobRef, BlobUse};
use crate::cache::BlockCache;
use crate::error::Error;
use crate::files;
use crate::fs::{File, Fs};
use crate::key::{Kind, Position, compare};
use crate::quarantine::{Damage, Damages};
use crate::stats::Counters;

/// Memory of an open table beside what is counted: its path, its file's handle, the allocations' headers.
const OVERHEAD_BYTES: usize = 512;

/// What every table of an engine needs.
#[derive(Clone, Debug)]
pub(crate) struct TableContext {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) pins: Arc<PinBudget>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) damages: Arc<Damages>,
}

/// An open table. The file of one that has become obsolete is removed when the last user lets go of it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) meta: TableMeta,
    pub(super) path: PathBuf,
    /// The damage instead if the file cannot be opened for it.
    content: Result<Content, Damage>,
    uses: Vec<BlobUse>,
    /// Those that `uses` names, in the same order.
    blobs: Vec<Arc<BlobFile>>,
    context: TableContext,
    /// What put it into quarantine.
    damage: OnceLock<Damage>,
    obsolete: AtomicBool,
}

/// What a table that could be opened is read through.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) file: Arc<dyn File>,
    pub(super) layout: Layout,
}

impl Table {
    /// Opens the file and reads the footer, the properties, and what stays in memory of index and filter. `blob` finds
    /// the blob files that it refers to.
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
        let footer = read_footer(&*file, &path, meta.id, len)?;
        let read = |handle| read_block(&*file, &path, meta.id, len, handle);
        let handle = footer.index;
        let layout = match footer.layout {
            IndexLayout::Whole => Layout::Whole {
                handle,
                index: parse(&path, handle, read(handle)?)?,
                filter: match footer.filter.len {
                    0 => None,
                    _ => Some(parse(&path, footer.filter, read(footer.filter)?)?),
                },
            },
            IndexLayout::Partitioned => {
                let top = Block::new(read(handle)?)
                    .and_then(TopIndex::new)
                    .map_err(|_| Error::corruption(&path, handle.offset, "a malformed top-level index"))?;
                Layout::Partitioned { handle, pins: Pins::reserve(&context.pins, &top), top }
            }
        };
        let at = footer.properties.offset;
        let malformed = || Error::corruption(&path, at, "malformed properties");
        let mut uses = Properties::decode(read(footer.properties)?).map_err(|_| malformed())?.blobs;
        uses.sort_unstable_by_key(|used| used.file);
        let unknown = |file| {
            let what = format!("it refers to blob file {file}, which the manifest does not name");
            Error::corruption(&path, at, what)
        };
        let blobs = uses.iter().map(|used| blob(used.file).ok_or_else(|| unknown(used.file)));
        let blobs = blobs.collect::<Result<_, _>>()?;
        Ok(Table {
            context: context.clone(),
            path,
            content: Ok(Content { file, layout }),
            uses,
            blobs,
            damage: OnceLock::new(),
            obsolete: AtomicBool::new(false),
            meta,
        })
    }

    /// Stands for a table that cannot be opened because of `damage`: whatever is asked of it fails. Nobody knows to which
    /// blob files it refers, so it keeps all of `blobs` as they are.
    pub(crate) fn unreadable(
        context: &TableContext,
        meta: TableMeta,
        damage: Damage,
        blobs: Vec<Arc<BlobFile>>,
    ) -> Table {
        context.damages.note(&damage);
        let all = |blob: &Arc<BlobFile>| {
            let meta = &blob.meta;
            BlobUse { file: meta.number, blobs: meta.blobs.max(1), bytes: meta.value_bytes }
        };
        let uses = blobs.iter().map(all).collect();
        Table {
            context: context.clone(),
            path: damage.path.clone(),
            content: Err(damage.clone()),
            uses,
            blobs,
            damage: OnceLock::from(damage),
            obsolete: AtomicBool::new(false),
            meta,
        }
    }

    /// The damage that was found in it first.
    pub(crate) fn damage(&self) -> Option<&Damage> {
        self.damage.get()
    }

    /// Whether damage was found in it: then compaction leaves it alone.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.damage().is_some()
    }

    /// Whether damage was found in it, or in a file of values that it refers to.
    pub(crate) fn lacks_something(&self) -> bool {
        self.is_quarantined() || self.blobs.iter().any(|blob| blob.is_quarantined())
    }

    /// Remembers damage found in the file.
    pub(crate) fn quarantine(&self, damage: &Damage) {
        self.context.damages.note(damage);
        self.damage.get_or_init(|| damage.clone());
    }

    /// Passes an error on, and quarantines the table if it tells of damage.
    pub(super) fn report(&self, error: Error) -> Error {
        if let Some(damage) = Damage::of(&error) {
            self.quarantine(&damage);
        }
        error
    }

    pub(super) fn content(&self) -> Result<&Content, Error> {
        self.content.as_ref().map_err(Damage::error)
    }

    pub(super) fn layout(&self) -> Result<&Layout, Error> {
        Ok(&self.content()?.layout)
    }

    /// The newest version of `key` that is not newer than `sequence`, with its sequence; `hash` is the key's
    /// [`filter::hash`](super::filter::hash).
    pub(crate) fn get(
        &self,
        key: &[u8],
        hash: u64,
        sequence: Sequence,
    ) -> Result<Option<(Sequence, Kind, Bytes)>, Error> {
        if self.meta.global_sequence.is_some_and(|global| sequence < global) {
            return Ok(None);
        }
        match self.layout()? {
            Layout::Whole { index, filter, .. } => {
                if filter.as_ref().is_some_and(|filter| !self.may_contain(filter, hash)) {
                    return Ok(None);
                }
                Ok(self.search(index, key, sequence)?.found())
            }
            Layout::Partitioned { top, pins, .. } => {
                let first = top.at_least(key).map_err(|_| self.malformed_index())?;
                // Of a key that is there, the first partition that may know it knows the newest version.
                if let Some(filter) = top.partitions().get(first).and_then(|partition| partition.filter) {
                    let may_contain = match pins {
                        Some(pins) => {
                            let read = || self.missed(filter);
                            pins.filter(first, read, |filter| self.may_contain(filter, hash))?
                        }
                        None => self.may_contain(&self.cached(filter)?, hash),
                    };
                    if !may_contain {
                        return Ok(None);
                    }
                }
                for partition in first..top.partitions().len() {
                    let index = self.index_partition(partition, Access::Cached)?;
                    match self.search(&index, key, sequence)? {
                        Answer::PastEnd => {}
                        answer => return Ok(answer.found()),
                    }
                }
                Ok(None)
            }
        }
    }

    fn may_contain(&self, filter: &Filter, hash: u64) -> bool {
        let may_contain = filter.may_contain(hash);
        self.context.counters.filter_checks.add(1);
        self.context.counters.filter_useful.add(u64::from(!may_contain));
        may_contain
    }

    /// What the blocks of an index say about a key.
    fn search(&self, index: &Index, key: &[u8], sequence: Sequence) -> Result<Answer, Error> {
        let first = index.at_least(key).map_err(|_| self.malformed_index())?;
        for at in first..index.entries() {
            let handle = index.handle(at).map_err(|_| self.malformed_index())?;
            let block: Arc<DataBlock> = self.cached(handle)?;
            match block.get(key, sequence).map_err(|malformed| self.malformed(handle, malformed))? {
                Lookup::Found(entry) => {
                    let sequence = self.meta.global_sequence.unwrap_or(entry.sequence);
                    let value = block.block().slice(entry.value);
                    return Ok(Answer::Found(sequence, entry.kind, value));
                }
                Lookup::Absent => return Ok(Answer::Absent),
                Lookup::PastEnd => {}
            }
        }
        Ok(Answer::PastEnd)
    }

    /// The value that an entry of the table refers to; `reference` is what the entry holds.
    pub(crate) fn separated(&self, reference: &[u8]) -> Result<Bytes, Error> {
        let (blob, file) = self.locate(reference)?;
        file.value(&file.block(&blob)?, &blob)
    }

    /// Where the value lies that an entry of the table refers to.
    pub(crate) fn locate(&self, reference: &[u8]) -> Result<(BlobRef, &Arc<BlobFile>), Error> {
        let malformed =
            || self.report(Error::corruption(&self.path, 0, "a malformed reference to a blob file"));
        let blob = BlobRef::decode(reference).ok_or_else(malformed)?;
        Ok((blob, self.blob_file(blob.file).ok_or_else(malformed)?))
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

    /// A partition of the index; a whole index is the first.
    pub(super) fn index_partition(&self, partition: usize, access: Access) -> Result<Arc<Index>, Error> {
        match self.layout()? {
            Layout::Whole { index, .. } => Ok(index.clone()),
            Layout::Partitioned { top, pins, .. } => {
                let handle = top.partitions().get(partition).ok_or_else(|| self.malformed_index())?.index;
                match (access, pins) {
                    (Access::Cached, Some(pins)) => pins.index(partition, || self.missed(handle)),
                    (Access::Cached, None) => self.cached(handle),
                    (Access::Bulk, _) => self.read_part(handle),
                }
            }
        }
    }

    /// How many parts of about equal size the table has, and how many of them have keys in `lower..upper` (`None`: from the
    /// first, to the last key), as far as that is known without reading: data blocks, or partitions of a large table.
    pub(crate) fn parts_between(
        &self,
        lower: Option<&[u8]>,
        upper: Option<&[u8]>,
    ) -> Result<(usize, usize), Error> {
        let layout = self.layout()?;
        let parts = layout.parts();
        let at_least = |key| layout.part_at_least(key).map_err(|_| self.malformed_index());
        let first = lower.map_or(Ok(0), at_least)?;
        let last = upper.map_or(Ok(parts), at_least)?;
        Ok((parts, (last + 1).min(parts).saturating_sub(first)))
    }

    /// About how much of the table lies in `lower..upper` (`None`: to the last key): of its data blocks, those that reach into it. May
    /// read two partitions of the index.
    pub(crate) fn share_between(&self, lower: &[u8], upper: Option<&[u8]>) -> Result<f64, Error> {
        let end = match upper {
            Some(upper) => self.place_of(upper)?,
            None => 1.0,
        };
        // The block that the range begins in, and the one that it ends in, are part of it.
        let partitions = self.layout()?.parts() as f64;
        let block = match self.layout()? {
            Layout::Whole { .. } => 1.0 / partitions.max(1.0),
            Layout::Partitioned { .. } => {
                let first = self.layout()?.part_at_least(lower).map_err(|_| self.malformed_index())?;
                let first = first.min(self.layout()?.parts().saturating_sub(1));
                let blocks = self.index_partition(first, Access::Cached)?.entries();
                1.0 / (partitions * blocks as f64).max(1.0)
            }
        };
        Ok((end - self.place_of(lower)? + block).clamp(0.0, 1.0))
    }

    /// How much of the table lies before the data block that may hold a key, in [0, 1]. Partitions count as if equally large.
    fn place_of(&self, key: &[u8]) -> Result<f64, Error> {
        let layout = self.layout()?;
        let parts = layout.parts().max(1);
        let part = layout.part_at_least(key).map_err(|_| self.malformed_index())?;
        if matches!(layout, Layout::Whole { .. }) || part >= parts {
            return Ok(part.min(parts) as f64 / parts as f64);
        }
        let index = self.index_partition(part, Access::Cached)?;
        let block = index.at_least(key).map_err(|_| self.malformed_index())?;
        Ok((part as f64 + block as f64 / index.entries().max(1) as f64) / parts as f64)
    }

    /// A part of the table, through the cache.
    pub(super) fn cached<P: Part>(&self, handle: Handle) -> Result<P, Error> {
        if let Some(part) = self.context.cache.get(self.meta.number, handle.offset).and_then(P::of) {
            self.context.counters.cache_hits.add(1);
            return Ok(part);
        }
        let part: P = self.missed(handle)?;
        self.context.cache.insert(self.meta.number, handle.offset, part.clone().into());
        Ok(part)
    }

    /// A part of the table that should have been in memory.
    fn missed<P: Part>(&self, handle: Handle) -> Result<P, Error> {
        self.context.counters.cache_misses.add(1);
        self.context.counters.bytes_read.add(handle.len);
        self.read_part(handle)
    }

    /// A part of the table, from the disk.
    pub(super) fn read_part<P: Part>(&self, handle: Handle) -> Result<P, Error> {
        self.read_block(handle)
            .and_then(|bytes| parse(&self.path, handle, bytes))
            .map_err(|error| self.report(error))
    }

    /// The bytes of a block, from the disk.
    fn read_block(&self, handle: Handle) -> Result<Bytes, Error> {
        read_block(&*self.content()?.file, &self.path, self.meta.id, self.meta.bytes, handle)
    }

    /// Lets the file be removed when the last user is gone.
    pub(crate) fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// Whether all its versions lie before the position.
    pub(crate) fn is_before(&self, position: &Position) -> bool {
        compare(&self.meta.largest, 1, &position.key, position.sequence).is_lt()
    }

    /// Whether none of its versions lies before the position.
    pub(crate) fn is_behind(&self, position: &Position) -> bool {
        compare(&self.meta.smallest, Sequence::MAX, &position.key, position.sequence).is_ge()
    }

    /// Whether keys of the table lie within the closed range.
    pub(crate) fn overlaps(&self, smallest: &[u8], largest: &[u8]) -> bool {
        self.meta.smallest <= largest && smallest <= self.meta.largest
    }

    /// Memory that the table takes outside of the cache, in bytes: its index and filter, or the top level of a
    /// partitioned index, and what is known of it.
    pub(crate) fn memory_bytes(&self) -> usize {
        let meta = self.meta.smallest.len() + self.meta.largest.len();
        let blobs = (size_of::<BlobUse>() + size_of::<Arc<BlobFile>>()) * self.uses.len();
        let layout = self.content.as_ref().map_or(0, |content| content.layout.byte_len());
        size_of::<Table>() + OVERHEAD_BYTES + meta + blobs + layout
    }

    pub(super) fn malformed(&self, handle: Handle, _: Malformed) -> Error {
        self.report(Error::corruption(&self.path, handle.offset, <Arc<DataBlock>>::MALFORMED))
    }

    pub(super) fn malformed_index(&self) -> Error {
        let offset = self.content.as_ref().map_or(0, |content| content.layout.handle().offset);
        self.report(Error::corruption(&self.path, offset, "a malformed index"))
    }
}

/// What some blocks in a row say about a key.
enum Answer {
    Found(Sequence, Kind, Bytes),
    Absent,
    /// The blocks behind may hold it.
    PastEnd,
}

impl Answer {
    fn found(self) -> Option<(Sequence, Kind, Bytes)> {
        if let Answer::Found(sequence, kind, value) = self { Some((sequence, kind, value)) } else { None }
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

/// Reads the end of a table that was built elsewhere, and its properties.
pub(crate) fn read_external(file: &dyn File, path: &Path, len: u64) -> Result<(Footer, Bytes), Error> {
    let footer = read_any_footer(file, path, len, Footer::decode_any)?;
    let properties = read_block(file, path, footer.id, len, footer.properties)?;
    Ok((footer, properties))
}

/// Reads the end of the table `id`, whose file has `len` bytes.
pub(super) fn read_footer(file: &dyn File, path: &Path, id: u64, len: u64) -> Result<Footer, Error> {
    read_any_footer(file, path, len, |bytes| Footer::decode(id, bytes))
}

fn read_any_footer(
    file: &dyn File,
    path: &Path,
    len: u64,
    decode: impl Fn(&[u8]) -> Result<Footer, FooterError>,
) -> Result<Footer, Error> {
    let start = len
        .checked_sub(FOOTER_BYTES as u64)
        .ok_or_else(|| Error::corruption(path, 0, "it is shorter than a footer"))?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(start, &mut footer).map_err(|source| Error::io("read", path, source))?;
    decode(&footer).map_err(|error| match error {
        FooterError::Damaged(what) => Error::corruption(path, start, what),
        FooterError::Newer(found) => {
            Error::NewerFormat { path: path.to_path_buf(), found, supported: TABLE_FORMAT }
        }
    })
}

pub(super) fn parse<P: Part>(path: &Path, handle: Handle, bytes: Bytes) -> Result<P, Error> {
    P::parse(bytes).map_err(|_| Error::corruption(path, handle.offset, P::MALFORMED))
}

/// Reads and checks the block at `handle` of the table `id`, whose file has `len` bytes.
pub(crate) fn read_block(
    file: &dyn File,
    path: &Path,
    id: u64,
    len: u64,
    handle: Handle,
) -> Result<Bytes, Error> {
    let end = len.saturating_sub(FOOTER_BYTES as u64);
    let framed_len = handle.framed_len().filter(|_| handle.end().is_some_and(|block_end| block_end <= end));
    let framed_len =
        framed_len.ok_or_else(|| Error::corruption(path, handle.offset, "a block beyond the end"))?;
    let mut framed = vec![0; framed_len];
    file.read_exact_at(handle.offset, &mut framed).map_err(|source| Error::io("read", path, source))?;
    unframe(&Bytes::from(framed), id, handle.offset)
        .map_err(|what| Error::corruption(path, handle.offset, what))
}
