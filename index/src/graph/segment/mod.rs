//! Sealed segments: immutable files of nodes and their edges, mapped into memory.
//!
//! | module | concept |
//! |---|---|
//! | `layout` | the bytes of the file |
//! | `record` | what it has of a node |
//! | `writer` | writing it, node by node |
//!
//! A block is verified when it is first touched; a start touches all of them, to know which nodes are there.

mod layout;
mod record;
mod writer;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use allidb_storage::{
    Sequence,
    fs::{Fs, Mapped},
};

use crate::error::{Error, Result};
use layout::{BLOCK, FORMAT, Header, HeaderError, NO_PAGE, PAGE, PAGE_BYTES, Section};

pub(crate) use layout::FORMAT as SEGMENT_FORMAT;
pub(crate) use record::{Record, put_record};
pub(crate) use writer::SegmentWriter;

/// An open segment.
#[derive(Debug)]
pub(crate) struct GraphSegment {
    path: PathBuf,
    header: Header,
    /// Where each of [`Section::ALL`] lies.
    sections: [Range<usize>; Section::ALL.len()],
    mapped: Mapped,
    /// A bit for each block that was found whole.
    verified: Box<[AtomicU64]>,
}

/// The checksum of a block: of its bytes, its file and its place.
fn checksum(id: u64, block: usize, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher.update(&id.to_le_bytes());
    hasher.update(&(block as u64).to_le_bytes());
    hasher.finalize()
}

impl GraphSegment {
    /// Opens a segment file.
    ///
    /// # Errors
    /// If it cannot be read, was written by a newer release, or its header is damaged.
    pub(crate) fn open(fs: &dyn Fs, path: &Path) -> Result<Self> {
        let mapped = fs.open_read(path).and_then(|file| file.map());
        let mapped = mapped.map_err(|source| Error::io("map", path, source))?;
        mapped.expect_random_reads();
        let bytes = mapped.bytes();
        let damaged = |offset: usize, what: &str| damage(path, offset, what);
        let header = match Header::decode(&bytes[..bytes.len().min(BLOCK)]) {
            Ok(header) => header,
            Err(HeaderError::Damaged(what)) => return Err(damaged(0, what)),
            Err(HeaderError::Newer(found)) => {
                let (path, supported) = (path.to_owned(), FORMAT);
                return Err(allidb_storage::Error::NewerFormat { path, found, supported }.into());
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
        let verified = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let sections = Section::ALL.map(|section| header.section(section));
        let segment = Self { path: path.to_owned(), sections, header, mapped, verified };
        let directory = segment.place(Section::Directory);
        segment.verify(&directory)?;
        let pages = bytemuck::cast_slice::<u8, u32>(&segment.mapped.bytes()[directory.clone()]);
        if pages.iter().any(|page| *page != NO_PAGE && u64::from(*page) >= segment.header.pages) {
            return Err(damaged(directory.start, "an entry of the directory leads nowhere"));
        }
        Ok(segment)
    }

    /// What its file is named after; never given to another one.
    pub(crate) fn id(&self) -> u64 {
        self.header.id
    }

    /// It has what was written up to this sequence, and nothing later.
    pub(crate) fn covered(&self) -> Sequence {
        self.header.covered
    }

    /// How many nodes it has something of.
    pub(crate) fn nodes(&self) -> u64 {
        self.header.nodes
    }

    /// How many edges, those included that are no more.
    pub(crate) fn edges(&self) -> u64 {
        self.header.edges
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.mapped.bytes().len() as u64
    }

    fn place(&self, section: Section) -> Range<usize> {
        self.sections[section as usize].clone()
    }

    /// What it has of a node.
    ///
    /// # Errors
    /// If that part of the file is damaged.
    #[inline]
    pub(crate) fn record(&self, number: u64) -> Result<Option<Record<'_>>> {
        let Some(page) = (number / PAGE).checked_sub(self.header.first_page) else { return Ok(None) };
        if page >= self.header.directory {
            return Ok(None);
        }
        let bytes = self.mapped.bytes();
        let entry = self.sections[Section::Directory as usize].start + 4 * page as usize;
        let page = u32::from_le_bytes(*fixed(bytes, entry));
        if page == NO_PAGE {
            return Ok(None);
        }
        let word = self.sections[Section::Pages as usize].start
            + PAGE_BYTES * page as usize
            + 16 * (number % PAGE / 64) as usize;
        self.verify(&(word..word + 16))?;
        let bits = u64::from_le_bytes(*fixed(bytes, word));
        let bit = 1 << (number % 64);
        if bits & bit == 0 {
            return Ok(None);
        }
        let before = u64::from_le_bytes(*fixed(bytes, word + 8));
        self.nth_record(before + u64::from((bits & (bit - 1)).count_ones())).map(Some)
    }

    fn nth_record(&self, at: u64) -> Result<Record<'_>> {
        let ends = &self.sections[Section::Ends as usize];
        let end = ends.start + 8 * at as usize;
        let damaged = |offset: usize, what: &str| damage(&self.path, offset, what);
        if end + 8 > ends.end {
            return Err(damaged(end, "there is no such record"));
        }
        let bytes = self.mapped.bytes();
        let first = if at == 0 { end } else { end - 8 };
        self.verify(&(first..end + 8))?;
        let start = if at == 0 { 0 } else { u64::from_le_bytes(*fixed(bytes, first)) };
        let stop = u64::from_le_bytes(*fixed(bytes, end));
        if start > stop || stop > self.header.record_bytes {
            return Err(damaged(end, "a record ends where it cannot"));
        }
        let records = self.sections[Section::Records as usize].start;
        let range = records + start as usize..records + stop as usize;
        self.verify(&range)?;
        Record::decode(&bytes[range.clone()]).map_err(|error| damaged(range.start, &error.to_string()))
    }

    /// Every node that it has something of, in the order of their numbers.
    pub(crate) fn records(&self) -> impl Iterator<Item = Result<(u64, Record<'_>)>> {
        let numbers = (0..self.header.directory).flat_map(move |at| {
            let entry = self.place(Section::Directory).start + 4 * at as usize;
            let page = u32::from_le_bytes(*fixed(self.mapped.bytes(), entry));
            let words = if page == NO_PAGE { 0 } else { PAGE / 64 };
            (0..words).flat_map(move |word| {
                let start =
                    self.place(Section::Pages).start + PAGE_BYTES * page as usize + 16 * word as usize;
                let verified = self.verify(&(start..start + 16));
                let bits = u64::from_le_bytes(*fixed(self.mapped.bytes(), start));
                let first = (self.header.first_page + at) * PAGE + 64 * word;
                let bits = if verified.is_ok() { bits } else { 0 };
                let numbers = (0..64).filter(move |bit| bits & 1 << bit != 0).map(move |bit| Ok(first + bit));
                verified.err().map(Err).into_iter().chain(numbers)
            })
        });
        numbers.enumerate().map(|(at, number)| Ok((number?, self.nth_record(at as u64)?)))
    }

    /// Tells where damage is that was found in a record.
    pub(crate) fn damaged(&self, error: impl std::fmt::Display) -> Error {
        damage(&self.path, self.place(Section::Records).start, &error.to_string())
    }

    /// Verifies every block.
    pub(crate) fn verify_all(&self) -> Result<()> {
        self.verify(&(BLOCK..self.place(Section::Checksums).start))
    }

    /// Verifies the blocks of a range of the file that were not verified yet.
    #[inline]
    fn verify(&self, range: &Range<usize>) -> Result<()> {
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            let (word, bit) = (&self.verified[block / 64], 1 << (block % 64));
            if word.load(Ordering::Acquire) & bit == 0 {
                self.verify_block(block)?;
                word.fetch_or(bit, Ordering::AcqRel);
            }
        }
        Ok(())
    }

    #[cold]
    fn verify_block(&self, block: usize) -> Result<()> {
        let start = block * BLOCK;
        let bytes = self.mapped.bytes();
        let expected = self.place(Section::Checksums).start + 4 * (block - 1);
        if checksum(self.header.id, block, &bytes[start..start + BLOCK])
            != u32::from_le_bytes(*fixed(bytes, expected))
        {
            return Err(damage(&self.path, start, "a block's checksum does not match"));
        }
        Ok(())
    }
}

/// So many bytes from a place that is known to have them: sections were measured when the file was opened.
#[inline]
fn fixed<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().unwrap_or(&[0; N])
}

fn damage(path: &Path, offset: usize, what: &str) -> Error {
    let (path, offset, what) = (path.to_owned(), offset as u64, what.to_owned());
    allidb_storage::Error::Corruption { path, offset, what }.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use allidb_storage::fs::RealFs;

    use super::*;
    use crate::{
        codec::Decoder,
        graph::{
            adjacency::{EdgeName, EdgeValue, Group, Side, put_group},
            nodes::NodeState,
        },
        model::{CollectionId, TenantId},
        row::EntityKey,
    };

    fn write(dir: &Path, numbers: &[u64]) -> PathBuf {
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let path = dir.join("7.graph");
        let mut writer = SegmentWriter::create(&*fs, &path, 7, 99).unwrap();
        for number in numbers {
            let name = EntityKey::new(TenantId(1), CollectionId(2), &format!("n{number}"));
            let state = NodeState { exists: true, ..NodeState::default() };
            let edge_name = EdgeName { relation: 3, other: number + 1, edge_id: "".into() };
            let value = EdgeValue { weight: 1.0, valid_from: None, valid_to: None };
            let mut group = Vec::new();
            put_group(&mut group, &[(edge_name, Some(value))]);
            let mut record = Vec::new();
            put_record(&mut record, Some(&(name, state)), [&group, &[]]);
            writer.put(*number, &record, 1).unwrap();
        }
        writer.finish(&*fs).unwrap();
        path
    }

    #[test]
    fn nodes_are_found_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let numbers = [5, 6, 63, 64, 70, 4095, 4096, 99_999, 1 << 33];
        let path = write(dir.path(), &numbers);
        let segment = GraphSegment::open(&RealFs, &path).unwrap();
        segment.verify_all().unwrap();
        assert_eq!((segment.id(), segment.covered(), segment.nodes(), segment.edges()), (7, 99, 9, 9));
        for number in numbers {
            let record = segment.record(number).unwrap().unwrap();
            assert_eq!(record.name().unwrap().unwrap().id, format!("n{number}"));
            let groups: Vec<Group<'_>> = record.groups(Side::Out).map(|group| group.unwrap()).collect();
            assert_eq!(groups.iter().map(|group| group.other(0)).collect::<Vec<_>>(), [number + 1]);
            assert!(!record.has_edges(Side::In));
        }
        for number in [0, 4, 7, 62, 65, 4094, 4097, 100_000, (1 << 33) + 1, u64::MAX] {
            assert!(segment.record(number).unwrap().is_none(), "{number}");
        }
        let all: Vec<u64> = segment.records().map(|record| record.unwrap().0).collect();
        assert_eq!(all, numbers);
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &[5, 6, 63, 1 << 20]);
        let whole = std::fs::read(&path).unwrap();
        let header = Decoder::new(&whole[12..]).u32_le().unwrap() as usize + 4;
        for at in (0..header).chain((BLOCK..whole.len()).step_by(97)) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let found = GraphSegment::open(&RealFs, &path).and_then(|segment| segment.verify_all());
            assert!(found.is_err(), "byte {at}");
        }
        for len in [0, 7, 100, BLOCK, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(GraphSegment::open(&RealFs, &path).is_err(), "{len}");
        }
    }
}
