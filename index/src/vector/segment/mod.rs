//! Sealed segments: immutable files of coded rows and the graph over them, mapped into memory.
//!
//! | module | concept |
//! |---|---|
//! | `layout` | the bytes of the file |
//! | `writer` | coding rows, building their graph, writing the file |
//! | `probe` | a query made ready for a segment |
//! | `rows` | what a search reads of rows: neighbours, scores, distances |
//! | `search` | walking the graph, scanning all rows, re-ranking |
//!
//! Opening reads the header and nothing else. A block is verified when a search first touches it, until the whole file has
//! been verified once in the background; from then on searches go unchecked.

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod golden_tests;
mod layout;
mod probe;
mod rows;
mod search;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use allidb_storage::fs::{Fs, Mapped};
use roaring::RoaringTreemap;

use crate::{
    error::{Error, Result},
    interpolation::first_not_below,
    vector::{graph::NONE, owner::Owner, rotation::Rotation},
};
use layout::{BLOCK, FORMAT, Header, HeaderError, Section, checksum};

pub(crate) use layout::FORMAT as SEGMENT_FORMAT;
pub(crate) use probe::Probe;
pub(crate) use search::{Searcher, least_breadth};
pub(crate) use writer::{SegmentRows, SegmentSpec, write};

/// A row whose comparison takes longer on average was not in memory.
const SLOW_ROW: Duration = Duration::from_micros(3);
/// One slow walk may have been interrupted by something else.
const COLD_WALKS: u8 = 2;
/// Blocks that a scrub reads in one go.
const SCRUBBED_BLOCKS: usize = 16;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    header: Header,
    /// Where each of [`Section::ALL`] lies.
    sections: [Range<usize>; Section::ALL.len()],
    mapped: Mapped,
    rotation: Rotation,
    /// A bit for each block that was found whole.
    verified: Box<[AtomicU64]>,
    all_verified: AtomicBool,
    /// Walks in a row that were so slow that they must have waited for the disk.
    slow_walks: AtomicU8,
}

impl Segment {
    /// Opens a segment file.
    ///
    /// # Errors
    /// If it cannot be read, was written by a newer release, or its header is damaged.
    pub(crate) fn open(fs: &dyn Fs, path: &Path) -> Result<Segment> {
        let io = |source| allidb_storage::Error::Io { op: "map", path: path.to_owned(), source };
        let mapped = fs.open_read(path).and_then(|file| file.map()).map_err(io)?;
        mapped.expect_random_reads();
        let bytes = mapped.bytes();
        let damaged = |offset: usize, what: &str| damage(path, offset, what);
        let header = match Header::decode(&bytes[..bytes.len().min(BLOCK)]) {
            Ok(header) => header,
            Err(HeaderError::Damaged(what)) => return Err(damaged(0, what)),
            Err(HeaderError::Newer(found)) => {
                let newer =
                    allidb_storage::Error::NewerFormat { path: path.to_owned(), found, supported: FORMAT };
                return Err(newer.into());
            }
        };
        if bytes.len() != header.file_len() {
            return Err(damaged(bytes.len(), "the file has another length than its header says"));
        }
        let checksums = header.section(Section::Checksums);
        if crc32fast::hash(&bytes[checksums.clone()]) != header.checksums {
            return Err(damaged(checksums.start, "the checksums of the blocks do not match theirs"));
        }
        let blocks = checksums.start / BLOCK;
        let segment = Segment {
            path: path.to_owned(),
            rotation: Rotation::new(header.dimension as usize, header.seed),
            verified: (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            all_verified: AtomicBool::new(false),
            slow_walks: AtomicU8::new(0),
            sections: Section::ALL.map(|section| header.section(section)),
            header,
            mapped,
        };
        // Every query needs the centre.
        segment.verify(segment.place(Section::Centre))?;
        Ok(segment)
    }

    /// What its file is named after; never given to another one.
    pub(crate) fn id(&self) -> u64 {
        self.header.id
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> usize {
        self.header.rows as usize
    }

    /// Whether there is no graph, so that searches scan.
    pub(crate) fn is_flat(&self) -> bool {
        self.header.width == 0
    }

    /// Most neighbours of a row in each layer but the bottom one.
    pub(crate) fn connections(&self) -> usize {
        self.header.upper_width as usize
    }

    /// Neighbours of a row in a layer, none if it is not in it; only to be read when the file has been verified.
    pub(crate) fn links(&self, row: u32, layer: usize) -> &[u32] {
        if layer == 0 {
            let width = self.header.width as usize;
            return &self.slice(Section::Links)[row as usize * width..][..width];
        }
        let width = self.header.upper_width as usize;
        let Some(below) = self.header.layers.get(..layer) else { return &[] };
        let end = below.iter().sum::<u32>() as usize;
        let start = end - below[layer - 1] as usize;
        match self.slice::<u32>(Section::UpperRows)[start..end].binary_search(&row) {
            Ok(at) => &self.slice(Section::UpperLinks)[(start + at) * width..][..width],
            Err(_) => &[],
        }
    }

    /// Bytes of the file, and whether they are mapped rather than held in memory.
    pub(crate) fn bytes(&self) -> (usize, bool) {
        (self.mapped.bytes().len(), self.mapped.is_mapped())
    }

    fn place(&self, section: Section) -> Range<usize> {
        self.sections[section as usize].clone()
    }

    /// The number of a row.
    ///
    /// # Errors
    /// If that part of the file is damaged.
    pub(crate) fn number(&self, row: u32) -> Result<u64> {
        self.verify_items(Section::Numbers, 8, row)?;
        Ok(self.slice::<u64>(Section::Numbers)[row as usize])
    }

    /// Whose vector a row holds, as [`Owner`](crate::vector::owner::Owner) encodes it.
    ///
    /// # Errors
    /// If that part of the file is damaged.
    pub(crate) fn owner(&self, row: u32) -> Result<&[u8]> {
        let ends: &[u64] = self.slice(Section::OwnerEnds);
        let start = match row.checked_sub(1) {
            None => 0,
            Some(before) => {
                self.verify_items(Section::OwnerEnds, 8, before)?;
                ends[before as usize]
            }
        };
        self.verify_items(Section::OwnerEnds, 8, row)?;
        let end = ends[row as usize];
        let place = self.place(Section::Owners);
        if start > end || end > place.len() as u64 {
            let offset = self.place(Section::OwnerEnds).start + 8 * row as usize;
            return Err(damage(&self.path, offset, "an owner ends where it cannot"));
        }
        let range = place.start + start as usize..place.start + end as usize;
        if !self.all_verified.load(Ordering::Acquire) {
            self.verify(range.clone())?;
        }
        Ok(&self.mapped.bytes()[range])
    }

    /// A row's owner, decoded.
    ///
    /// # Errors
    /// If that part of the file is damaged.
    pub(crate) fn owner_of(&self, row: u32) -> Result<Owner> {
        let bytes = self.owner(row)?;
        let damaged = |_| damage(&self.path, self.place(Section::Owners).start, "an owner cannot be read");
        Owner::decode(bytes).map_err(damaged)
    }

    /// The row that holds the number's vector.
    ///
    /// # Errors
    /// If that part of the file is damaged.
    pub(crate) fn row_of(&self, number: u64) -> Result<Option<u32>> {
        let (mut low, mut high) = (0, self.header.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.number(middle)?.cmp(&number) {
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// The rows that hold vectors of these numbers, ascending.
    ///
    /// # Errors
    /// If that part of the file is damaged.
    pub(crate) fn rows_of(&self, numbers: &RoaringTreemap) -> Result<Vec<u32>> {
        if !self.all_verified.load(Ordering::Acquire) {
            self.verify(self.place(Section::Numbers))?;
        }
        let all: &[u64] = self.slice(Section::Numbers);
        let mut rows = Vec::new();
        let mut from = 0;
        for number in numbers {
            from = first_not_below(from..all.len(), number, |at| all[at]);
            match all.get(from) {
                None => break,
                Some(other) if *other == number => rows.push(from as u32),
                Some(_) => {}
            }
        }
        Ok(rows)
    }

    /// Verifies every block; afterwards searches need not.
    ///
    /// # Errors
    /// At the first damaged block.
    pub(crate) fn verify_all(&self) -> Result<()> {
        for section in Section::ALL.into_iter().filter(|section| *section != Section::Checksums) {
            self.verify(self.place(section))?;
        }
        self.all_verified.store(true, Ordering::Release);
        Ok(())
    }

    /// Reads the whole file once more, past the mapping, and compares it with its checksums. `pace` is told of every so many
    /// bytes, and may end it.
    ///
    /// # Errors
    /// If the file cannot be read, or at the first damaged block.
    pub(crate) fn scrub(
        &self,
        fs: &dyn Fs,
        pace: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let io = |source| allidb_storage::Error::Io { op: "read", path: self.path.clone(), source };
        let file = fs.open_read(&self.path).map_err(io)?;
        let len = self.header.file_len();
        let checksums = self.place(Section::Checksums);
        let mut expected = vec![0_u32; checksums.len() / 4];
        file.read_exact_at(checksums.start as u64, bytemuck::cast_slice_mut(&mut expected)).map_err(io)?;
        if crc32fast::hash(bytemuck::cast_slice(&expected)) != self.header.checksums {
            return Err(damage(
                &self.path,
                checksums.start,
                "the checksums of the blocks do not match theirs",
            ));
        }
        let mut first = vec![0; BLOCK.min(len)];
        file.read_exact_at(0, &mut first).map_err(io)?;
        if Header::decode(&first) != Ok(self.header.clone()) {
            return Err(damage(&self.path, 0, "the header is not what it was when the file was opened"));
        }
        if pace(first.len() + checksums.len()).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mut blocks = vec![0; SCRUBBED_BLOCKS * BLOCK];
        for start in (BLOCK..checksums.start).step_by(blocks.len()) {
            let read = blocks.len().min(checksums.start - start);
            file.read_exact_at(start as u64, &mut blocks[..read]).map_err(io)?;
            for (nth, bytes) in blocks[..read].chunks(BLOCK).enumerate() {
                let block = start / BLOCK + nth;
                if checksum(self.header.id, block, bytes) != expected[block - 1] {
                    return Err(damage(&self.path, block * BLOCK, "a block's checksum does not match"));
                }
            }
            if pace(read).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn damaged_link(&self, row: u32) -> Error {
        let offset = self.place(Section::Links).start + 4 * self.header.width as usize * row as usize;
        damage(&self.path, offset, "a neighbour is no row of the segment")
    }

    /// Whether pages are likely to be on disk, so that it pays to ask for them together before each is waited for. Asking costs
    /// as much as comparing several rows that are in memory.
    fn is_cold(&self) -> bool {
        self.slow_walks.load(Ordering::Relaxed) >= COLD_WALKS
    }

    fn note_pace(&self, took: Duration, compared: u64) {
        let slow_walks = self.slow_walks.load(Ordering::Relaxed);
        let of_row = took / u32::try_from(compared.max(1)).unwrap_or(u32::MAX);
        let now = if of_row > SLOW_ROW { slow_walks.saturating_add(1).min(COLD_WALKS) } else { 0 };
        if now != slow_walks {
            self.slow_walks.store(now, Ordering::Relaxed);
        }
    }

    fn will_need(&self, section: Section, item: usize, at: u32) {
        let start = self.place(section).start + at as usize * item;
        self.mapped.will_need(start..start + item);
    }

    /// The items of a section. Whether they are whole is another question.
    fn slice<T: bytemuck::AnyBitPattern>(&self, section: Section) -> &[T] {
        // Sections begin at block boundaries and hold whole items, so that the cast finds them aligned.
        bytemuck::cast_slice(&self.mapped.bytes()[self.place(section)])
    }

    #[inline]
    fn verify_items(&self, section: Section, item: usize, at: u32) -> Result<()> {
        if self.all_verified.load(Ordering::Acquire) {
            return Ok(());
        }
        let start = self.place(section).start + at as usize * item;
        self.verify(start..start + item)
    }

    /// Verifies the blocks of a range of the file that were not verified yet.
    fn verify(&self, range: Range<usize>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            let (word, bit) = (&self.verified[block / 64], 1 << (block % 64));
            if word.load(Ordering::Acquire) & bit == 0 {
                self.verify_block(block)?;
                word.fetch_or(bit, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    fn verify_block(&self, block: usize) -> Result<()> {
        let start = block * BLOCK;
        let bytes = &self.mapped.bytes()[start..start + BLOCK];
        let expected = self.slice::<u32>(Section::Checksums)[block - 1];
        if checksum(self.header.id, block, bytes) != expected {
            return Err(damage(&self.path, start, "a block's checksum does not match"));
        }
        // What a walk follows must lead somewhere, whoever made the file.
        let is_in = |section| self.place(section).contains(&start);
        if is_in(Section::Links) || is_in(Section::UpperLinks) || is_in(Section::UpperRows) {
            let ids: &[u32] = bytemuck::cast_slice(bytes);
            if ids.iter().any(|id| *id >= self.header.rows && *id != NONE) {
                return Err(damage(&self.path, start, "a neighbour is no row of the segment"));
            }
        }
        Ok(())
    }
}

fn damage(path: &Path, offset: usize, what: &str) -> Error {
    let (path, offset, what) = (path.to_owned(), offset as u64, what.to_owned());
    allidb_storage::Error::Corruption { path, offset, what }.into()
}
