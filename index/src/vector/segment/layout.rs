//! The bytes of a segment file: a header block, sections of whole blocks, and a checksum of each block.
//!
//! All numbers are little-endian. Sections begin at block boundaries, so that a block belongs to one section. The header
//! is written last; a file without a whole header is none.

use std::ops::Range;

use crate::{
    codec::{DecodeError, Decoder},
    model::Metric,
    vector::{graph::MAX_LAYERS, kernel::CodeKind, quantize::Form},
};

/// Bytes that share a checksum.
pub(crate) const BLOCK: usize = 16 << 10;
/// The newest format.
pub(crate) const FORMAT: u32 = 1;

/// Magic, format, length and a checksum behind as many bytes stay at their places for ever, whatever comes between.
const MAGIC: [u8; 8] = *b"ALLIVEC\n";
const LEN_AT: usize = 12;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// f32 a dimension: what was taken from each vector before it was rotated.
    Centre,
    /// A row of codes, or of f32, a vector: for the walk.
    Codes,
    /// f32 a row: the step of its codes.
    Steps,
    /// f32 a row, for Euclidean spaces: half its squared length.
    Biases,
    /// A row of bytes a vector: what its codes left over.
    Residuals,
    /// f32 a row: the step of its residuals.
    ResidualSteps,
    /// `width` u32 a row: its neighbours in the bottom layer.
    Links,
    /// u32 each: the rows in the second lowest layer, ascending, then those of the next, and so on.
    UpperRows,
    /// `upper_width` u32 for each of those: its neighbours in that layer.
    UpperLinks,
    /// u64 a row, ascending: whose vector it is.
    Numbers,
    /// u64 a row: where its owner ends in the next section; it begins where that of the row before ends.
    OwnerEnds,
    /// Whose vector each row is.
    Owners,
    /// crc32 of each block of the file but the first and those of this section.
    Checksums,
}

impl Section {
    pub(crate) const ALL: [Section; 13] = [
        Section::Centre,
        Section::Codes,
        Section::Steps,
        Section::Biases,
        Section::Residuals,
        Section::ResidualSteps,
        Section::Links,
        Section::UpperRows,
        Section::UpperLinks,
        Section::Numbers,
        Section::OwnerEnds,
        Section::Owners,
        Section::Checksums,
    ];
}

/// What the header tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    /// Never given to another file: checksums are salted with it.
    pub(crate) id: u64,
    /// Rows as of this sequence of the log.
    pub(crate) covered: u64,
    /// Of the rotation.
    pub(crate) seed: u64,
    pub(crate) metric: Metric,
    pub(crate) dimension: u32,
    pub(crate) rows: u32,
    /// How rows are held for the walk.
    pub(crate) form: Form,
    /// Whether residuals follow, of eight bits.
    pub(crate) has_residuals: bool,
    /// Most neighbours in the bottom layer; zero: there is no graph.
    pub(crate) width: u32,
    /// Most neighbours in the layers above.
    pub(crate) upper_width: u32,
    /// Where walks begin: a row of the highest layer.
    pub(crate) entry: u32,
    /// Rows in each layer above the bottom, from the second lowest up.
    pub(crate) layers: Vec<u32>,
    /// Bytes of all owners.
    pub(crate) owner_bytes: u64,
    /// The root of the mean square of what the codes for the walk leave over, residuals not counted.
    pub(crate) walk_error: f32,
    /// The longest that codes and residuals leave over of any row.
    pub(crate) error: f32,
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

/// The checksum of a block: of its bytes, its file and its place.
pub(crate) fn checksum(id: u64, block: usize, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher.update(&id.to_le_bytes());
    hasher.update(&(block as u64).to_le_bytes());
    hasher.finalize()
}

impl Header {
    /// How long a section is, in bytes.
    pub(crate) fn section_len(&self, section: Section) -> usize {
        let (rows, dimension) = (self.rows as usize, self.dimension as usize);
        let upper: usize = self.layers.iter().map(|rows| *rows as usize).sum();
        match section {
            Section::Centre => 4 * dimension,
            Section::Codes => rows * self.form.row_bytes(dimension),
            Section::Steps => 4 * rows,
            Section::Biases if self.metric == Metric::L2 => 4 * rows,
            Section::Biases => 0,
            Section::Residuals if self.has_residuals => rows * CodeKind::Bits8.row_bytes(dimension),
            Section::ResidualSteps if self.has_residuals => 4 * rows,
            Section::Residuals | Section::ResidualSteps => 0,
            Section::Links => 4 * rows * self.width as usize,
            Section::UpperRows => 4 * upper,
            Section::UpperLinks => 4 * upper * self.upper_width as usize,
            Section::Numbers | Section::OwnerEnds => 8 * rows,
            Section::Owners => self.owner_bytes as usize,
            Section::Checksums => {
                let sections = Section::ALL.into_iter().filter(|section| *section != Section::Checksums);
                4 * sections.map(|section| self.section_len(section).div_ceil(BLOCK)).sum::<usize>()
            }
        }
    }

    /// Where a section lies in the file.
    pub(crate) fn section(&self, section: Section) -> Range<usize> {
        let mut start = BLOCK;
        for other in Section::ALL {
            let len = self.section_len(other);
            if other == section {
                return start..start + len;
            }
            start += len.div_ceil(BLOCK) * BLOCK;
        }
        start..start
    }

    /// How long the whole file is.
    pub(crate) fn file_len(&self) -> usize {
        self.section(Section::Checksums).end
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(FORMAT.to_le_bytes());
        out.extend([0; 4]);
        for number in [self.id, self.covered, self.seed] {
            out.extend(number.to_le_bytes());
        }
        let metric = match self.metric {
            Metric::Cosine => 1,
            Metric::Dot => 2,
            Metric::L2 => 3,
        };
        let bits = match self.form {
            Form::Floats => 32,
            Form::Codes(CodeKind::Bits8) => 8,
            Form::Codes(CodeKind::Bits4) => 4,
            Form::Codes(CodeKind::Bits1) => 1,
        };
        out.extend([metric, bits, u8::from(self.has_residuals), self.layers.len() as u8]);
        for number in [self.dimension, self.rows, self.width, self.upper_width, self.entry] {
            out.extend(number.to_le_bytes());
        }
        self.layers.iter().for_each(|rows| out.extend(rows.to_le_bytes()));
        out.extend(self.owner_bytes.to_le_bytes());
        out.extend(self.walk_error.to_le_bytes());
        out.extend(self.error.to_le_bytes());
        out.extend(self.checksums.to_le_bytes());
        let len = out.len() as u32;
        out[LEN_AT..LEN_AT + 4].copy_from_slice(&len.to_le_bytes());
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let mut from = Decoder::new(bytes);
        if from.take(8)? != MAGIC {
            return Err(HeaderError::Damaged("it is no segment of vectors"));
        }
        let (format, len) = (from.u32_le()?, from.u32_le()? as usize);
        let checked = bytes.get(..len).ok_or(HeaderError::Damaged("the header ends early"))?;
        if Decoder::new(&bytes[len..]).u32_le()? != crc32fast::hash(checked) {
            return Err(HeaderError::Damaged("the header's checksum does not match"));
        }
        if format > FORMAT {
            return Err(HeaderError::Newer(format));
        }
        let (id, covered, seed) = (from.u64_le()?, from.u64_le()?, from.u64_le()?);
        let (metric, bits, residuals, layers) = (from.u8()?, from.u8()?, from.u8()?, from.u8()?);
        let [dimension, rows, width, upper_width, entry] =
            [from.u32_le()?, from.u32_le()?, from.u32_le()?, from.u32_le()?, from.u32_le()?];
        if usize::from(layers) > MAX_LAYERS {
            return Err(HeaderError::Damaged("it has too many layers"));
        }
        let layers = (0..layers).map(|_| from.u32_le()).collect::<Result<Vec<_>, _>>()?;
        let owner_bytes = from.u64_le()?;
        let walk_error = f32::from_bits(from.u32_le()?);
        let (error, checksums) = (f32::from_bits(from.u32_le()?), from.u32_le()?);
        let metric = match metric {
            1 => Metric::Cosine,
            2 => Metric::Dot,
            3 => Metric::L2,
            _ => return Err(HeaderError::Damaged("its metric is unknown")),
        };
        let form = match bits {
            32 => Form::Floats,
            8 => Form::Codes(CodeKind::Bits8),
            4 => Form::Codes(CodeKind::Bits4),
            1 => Form::Codes(CodeKind::Bits1),
            _ => return Err(HeaderError::Damaged("its codes are unknown")),
        };
        let is_sane = rows < 1 << 31
            && (1..=1 << 16).contains(&dimension)
            && width <= 1 << 10
            && upper_width <= 1 << 10
            && (entry < rows || (rows == 0 && entry == 0))
            && owner_bytes < 1 << 40
            && layers.iter().all(|count| *count <= rows);
        if !is_sane {
            return Err(HeaderError::Damaged("its numbers cannot be"));
        }
        let has_residuals = residuals != 0;
        Ok(Header {
            id,
            covered,
            seed,
            metric,
            dimension,
            rows,
            form,
            has_residuals,
            width,
            upper_width,
            entry,
            layers,
            owner_bytes,
            walk_error,
            error,
            checksums,
        })
    }
}
