//! NumPy's array files, as far as vectors need them: version 1 and 2, little-endian float16 and
//! float32, C order, two dimensions.
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use allidb_api::v1::{Vector, VectorEncoding};
use anyhow::{Context, Result, bail};
use bytes::Bytes;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy's own headers are 64 or 128 bytes; this only keeps garbage from asking for gigabytes.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// F16 or F32.
    pub(crate) encoding: VectorEncoding,
    /// Number of vectors.
    pub(crate) rows: usize,
    /// Numbers in each vector.
    pub(crate) dimension: usize,
    /// Where the first row begins.
    offset: usize,
}

impl Header {
    /// Bytes of one row.
    pub(crate) fn row_bytes(&self) -> usize {
        let width = if self.encoding == VectorEncoding::F16 { 2 } else { 4 };
        // `parse` has checked that all rows together fit.
        self.dimension * width
    }
}

/// A file of vectors, read by row.
#[derive(Debug)]
pub(crate) struct NpyFile {
    file: File,
    header: Header,
}

impl NpyFile {
    /// Opens a file and checks its header against its length.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || {
            let file = File::open(path)?;
            let mut start = Vec::new();
            (&file).take(MAX_HEADER_BYTES as u64).read_to_end(&mut start)?;
            let header = parse(&start)?;
            let expected = (header.offset + header.rows * header.row_bytes()) as u64;
            let length = file.metadata()?.len();
            if length != expected {
                bail!("the header promises {expected} bytes, the file has {length}");
            }
            Ok(Self { file, header })
        };
        open().with_context(|| path.display().to_string())
    }

    /// The header.
    pub(crate) fn header(&self) -> Header {
        self.header
    }

    /// The bytes of `count` rows from `first`; the caller stays within the header's rows.
    pub(crate) fn rows(&self, first: usize, count: usize) -> io::Result<Bytes> {
        let width = self.header.row_bytes();
        let mut bytes = vec![0; count * width];
        self.file.read_exact_at(&mut bytes, (self.header.offset + first * width) as u64)?;
        Ok(bytes.into())
    }

    /// Every row, as vectors ready to send.
    pub(crate) fn vectors(&self) -> io::Result<Vec<Vector>> {
        let all = self.rows(0, self.header.rows)?;
        Ok((0..self.header.rows).map(|row| self.vector(&all, row)).collect())
    }

    /// Row `row` of a block that [`Self::rows`] returned, without copying it.
    pub(crate) fn vector(&self, block: &Bytes, row: usize) -> Vector {
        let width = self.header.row_bytes();
        Vector {
            raw: block.slice(row * width..(row + 1) * width),
            encoding: self.header.encoding as i32,
            dimension: self.header.dimension as u32,
            ..Vector::default()
        }
    }
}

/// Reads the header at the beginning of `bytes`. Never panics, whatever the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Header> {
    let rest = bytes.strip_prefix(MAGIC).context("not a NumPy file: it does not begin with \\x93NUMPY")?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [version, _, ..] if !matches!(version, 1 | 2) => {
            bail!("NumPy format version {version} is not supported")
        }
        _ => bail!("the header is cut off"),
    };
    if length > MAX_HEADER_BYTES {
        bail!("a header of {length} bytes is too long");
    }
    let text = rest.get(..length).context("the header is cut off")?;
    let text = str::from_utf8(text).ok().filter(|text| text.is_ascii()).context("the header is not ASCII")?;
    let offset = bytes.len() - rest.len() + length;

    let encoding = match quoted(field(text, "descr")?) {
        Some("<f2") => VectorEncoding::F16,
        Some("<f4") => VectorEncoding::F32,
        Some(other) => bail!("numbers of type `{other}`; only `<f2` and `<f4` (little-endian) are read"),
        None => bail!("`descr` is not a single type"),
    };
    if !field(text, "fortran_order")?.starts_with("False") {
        bail!("the array is in Fortran order; save it with numpy.ascontiguousarray");
    }
    let (rows, dimension) = shape(field(text, "shape")?)?;
    let header = Header { encoding, rows, dimension, offset };
    let width: usize = if encoding == VectorEncoding::F16 { 2 } else { 4 };
    let total = dimension.checked_mul(width).and_then(|row| row.checked_mul(rows));
    if dimension == 0 || dimension > 65_535 {
        bail!("vectors have 1 to 65,535 numbers, these have {dimension}");
    }
    if total.and_then(|total| total.checked_add(offset)).is_none_or(|end| end > i64::MAX as usize) {
        bail!("{rows} rows of {dimension} numbers cannot be");
    }
    Ok(header)
}

/// What follows `'name':` in the header's dictionary.
fn field<'a>(header: &'a str, name: &str) -> Result<&'a str> {
    let (_, after) =
        header.split_once(&format!("'{name}'")).with_context(|| format!("the header lacks `{name}`"))?;
    let after = after.trim_start().strip_prefix(':').with_context(|| format!("`{name}` has no value"))?;
    Ok(after.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    let (inside, _) = text.strip_prefix('\'')?.split_once('\'')?;
    Some(inside)
}

fn shape(text: &str) -> Result<(usize, usize)> {
    let inside =
        text.strip_prefix('(').and_then(|text| text.split_once(')')).context("`shape` is not a tuple")?.0;
    let sizes = inside
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().with_context(|| format!("`{size}` in `shape` is not a size")))
        .collect::<Result<Vec<usize>>>()?;
    match sizes[..] {
        [rows, dimension] => Ok((rows, dimension)),
        _ => bail!("the array has {} dimensions; vectors need 2", sizes.len()),
    }
}

/// Writes a version 1 file of the rows in `data`.
pub(crate) fn write(
    mut out: impl Write,
    encoding: VectorEncoding,
    rows: usize,
    dimension: usize,
    data: &[u8],
) -> io::Result<()> {
    let descr = if encoding == VectorEncoding::F16 { "<f2" } else { "<f4" };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}");
    // Magic, version and length take 10 bytes; NumPy aligns the data to 64.
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    out.write_all(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.bytes());
        bytes
    }

    const GOOD: &str = "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }\n";

    #[test]
    fn both_versions_are_read() {
        let expected = |offset| Header { encoding: VectorEncoding::F16, rows: 3, dimension: 4, offset };
        assert_eq!(parse(&file(1, GOOD)).unwrap(), expected(10 + GOOD.len()));
        assert_eq!(parse(&file(2, GOOD)).unwrap(), expected(12 + GOOD.len()));
    }

    #[test]
    fn what_is_written_is_read() {
        let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut bytes = Vec::new();
        write(&mut bytes, VectorEncoding::F32, 2, 2, &data).unwrap();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &bytes).unwrap();
        let npy = NpyFile::open(path.path()).unwrap();
        assert_eq!(npy.header().offset % 64, 0);
        let vectors = npy.vectors().unwrap();
        assert_eq!(crate::vector_numbers::numbers(&vectors[1]), [3.0, 4.0]);

        bytes.pop();
        std::fs::write(path.path(), &bytes).unwrap();
        assert!(format!("{:#}", NpyFile::open(path.path()).unwrap_err()).contains("promises"));
    }

    #[test]
    fn each_unsupported_kind_is_named() {
        for (header, part) in [
            (GOOD.replace("<f2", ">f2"), ">f2"),
            (GOOD.replace("<f2", "<f8"), "<f8"),
            (GOOD.replace("False", "True"), "Fortran"),
            (GOOD.replace("(3, 4)", "(3,)"), "1 dimensions"),
            (GOOD.replace("(3, 4)", "(3, 4, 5)"), "3 dimensions"),
            (GOOD.replace("(3, 4)", "(3, 0)"), "65,535"),
            (GOOD.replace("(3, 4)", "(99999999999999999, 65535)"), "cannot be"),
            (GOOD.replace("(3, 4)", "(3, -4)"), "not a size"),
            (GOOD.replace("'shape'", "'form'"), "lacks `shape`"),
        ] {
            let error = parse(&file(1, &header)).unwrap_err();
            assert!(error.to_string().contains(part), "{header}: {error}");
        }
        assert!(parse(&file(3, GOOD)).unwrap_err().to_string().contains("version 3"));
    }

    #[test]
    fn garbage_and_cuts_never_panic() {
        let good = file(1, GOOD);
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err());
        }
        for position in 0..good.len() {
            for byte in 0..=255 {
                let mut bytes = good.clone();
                bytes[position] = byte;
                // Either answer will do; it must come back.
                drop(parse(&bytes));
            }
        }
    }
}
