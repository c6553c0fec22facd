//! The bytes of a segment file: a header block, sections of whole blocks, and a checksum of each block.
//!
//! All numbers are little-endian. The header is written last; a file without a whole header is none.

use std::ops::Range;

use crate::codec::{DecodeError, Decoder};

/// Bytes that share a checksum.
pub(crate) const BLOCK: usize = 16 << 10;
/// The newest format.
pub(crate) const FORMAT: u32 = 1;
/// Numbers that share an entry of the directory.
pub(crate) const PAGE: u64 = 4096;
/// Bytes of a page: for each 64 numbers, a bit for each that has a record, and how many have one before.
pub(crate) const PAGE_BYTES: usize = PAGE as usize / 64 * 16;
/// In the directory: no number of the page has a record.
pub(crate) const NO_PAGE: u32 = u32::MAX;

/// Magic, format and length stay at their places for ever, whatever comes after.
const MAGIC: [u8; 8] = *b"ALLIGRA\n";
const LEN_AT: usize = 12;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// A record for each node, in the order of their numbers.
    Records,
    /// u64 a record: where it ends; it begins where that before ends.
    Ends,
    /// Which numbers have a record, and which.
    Pages,
    /// u32 for every so many numbers: their page.
    Directory,
    /// crc32 of each block of the file but the first and those of this section.
    Checksums,
}

impl Section {
    pub(crate) const ALL: [Section; 5] =
        [Section::Records, Section::Ends, Section::Pages, Section::Directory, Section::Checksums];
}

/// What the header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Never given to another file: checksums are salted with it.
    pub(crate) id: u64,
    /// All that was written up to this sequence, of those nodes and edges.
    pub(crate) covered: u64,
    pub(crate) nodes: u64,
    /// Edges, each counted at its source; those included that are no more.
    pub(crate) edges: u64,
    pub(crate) record_bytes: u64,
    pub(crate) pages: u64,
    /// The page of the first entry of the directory.
    pub(crate) first_page: u64,
    pub(crate) directory: u64,
    /// Of the section of checksums.
    pub(crate) checksums: u32,
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// What is wrong with it.
    Damaged(&'static str),
    /// The format it has.
    Newer(u32),
}

impl From<DecodeError> for HeaderError {
    fn from(_: DecodeError) -> Self {
        Self::Damaged("the header ends early")
    }
}

impl Header {
    fn section_len(&self, section: Section) -> usize {
        let len = match section {
            Section::Records => self.record_bytes,
            Section::Ends => 8 * self.nodes,
            Section::Pages => PAGE_BYTES as u64 * self.pages,
            Section::Directory => 4 * self.directory,
            Section::Checksums => {
                let sections = Section::ALL.into_iter().filter(|section| *section != Section::Checksums);
                return 4 * sections.map(|section| self.section_len(section).div_ceil(BLOCK)).sum::<usize>();
            }
        };
        len as usize
    }

    /// Where a section lies in the file.
    pub(crate) fn section(&self, section: Section) -> Range<usize> {
        let before = Section::ALL.into_iter().take_while(|other| *other != section);
        let start =
            BLOCK + before.map(|other| self.section_len(other).div_ceil(BLOCK) * BLOCK).sum::<usize>();
        start..start + self.section_len(section)
    }

    /// How long the whole file is.
    pub(crate) fn file_len(&self) -> usize {
        self.section(Section::Checksums).end
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(FORMAT.to_le_bytes());
        out.extend([0; 4]);
        let Header { id, covered, nodes, edges, record_bytes, pages, first_page, directory, checksums } =
            self;
        for number in [id, covered, nodes, edges, record_bytes, pages, first_page, directory] {
            out.extend(number.to_le_bytes());
        }
        out.extend(checksums.to_le_bytes());
        let len = out.len() as u32;
        out[LEN_AT..LEN_AT + 4].copy_from_slice(&len.to_le_bytes());
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let mut from = Decoder::new(bytes);
        if from.take(8)? != MAGIC {
            return Err(HeaderError::Damaged("it is no segment of a graph"));
        }
        let (format, len) = (from.u32_le()?, from.u32_le()? as usize);
        let checked = bytes.get(..len).ok_or(HeaderError::Damaged("the header ends early"))?;
        if Decoder::new(&bytes[len..]).u32_le()? != crc32fast::hash(checked) {
            return Err(HeaderError::Damaged("the header's checksum does not match"));
        }
        if format > FORMAT {
            return Err(HeaderError::Newer(format));
        }
        let mut number = || from.u64_le();
        let header = Header {
            id: number()?,
            covered: number()?,
            nodes: number()?,
            edges: number()?,
            record_bytes: number()?,
            pages: number()?,
            first_page: number()?,
            directory: number()?,
            checksums: from.u32_le()?,
        };
        let is_sane = header.record_bytes < 1 << 48
            && header.nodes <= header.record_bytes
            && header.pages <= header.nodes
            && header.directory < 1 << 40
            && header.first_page < 1 << 52;
        if is_sane { Ok(header) } else { Err(HeaderError::Damaged("its numbers cannot be")) }
    }
}
