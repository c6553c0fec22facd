//! Describes a blob file.

use std::path::Path;

use bytes::Bytes;

use crate::blob::{BLOB_FORMAT, HEADER_BYTES, HeaderError, LENGTH_BYTES, decode_header};
use crate::error::Error;
use crate::fs::File;
use crate::quarantine::Damage;
use crate::table::frame::{Handle, Payload};

/// A blob file: large values of tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobFile {
    /// The number of the file, from its name. It is part of every checksum in it.
    pub number: u64,
    /// The length of the file, in bytes.
    pub bytes: u64,
    /// The id of the keyspace whose values it holds; `None` if the header is damaged.
    pub keyspace: Option<u32>,
    /// Its values, in the order in which they lie in the file.
    pub values: Vec<BlobValue>,
    /// What is wrong with it.
    pub damages: Vec<Damage>,
}

/// A value in a blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobValue {
    /// Where references to it point.
    pub offset: u64,
    /// Its length in the file without its trailer, in bytes.
    pub stored_bytes: u64,
    /// Its length in memory, in bytes; 0 if it is damaged.
    pub bytes: u64,
}

pub(super) fn inspect(file: &dyn File, path: &Path, number: u64) -> Result<BlobFile, Error> {
    let io = |source| Error::io("read", path, source);
    let len = file.byte_len().map_err(io)?;
    let mut found = BlobFile { number, bytes: len, ..BlobFile::default() };
    let damage = |offset, what: &str| Damage { path: path.to_path_buf(), offset, what: what.to_owned() };
    let mut header = vec![0; (HEADER_BYTES as u64).min(len) as usize];
    file.read_exact_at(0, &mut header).map_err(io)?;
    match decode_header(&header) {
        Ok((own, keyspace)) => {
            found.keyspace = Some(keyspace);
            if own != number {
                found.damages.push(damage(12, &format!("it says that it is blob file {own}")));
            }
        }
        Err(HeaderError::Damaged(what)) => found.damages.push(damage(0, what)),
        Err(HeaderError::Newer(format)) => {
            let path = path.to_path_buf();
            return Err(Error::NewerFormat { path, found: format, supported: BLOB_FORMAT });
        }
    }
    let mut at = HEADER_BYTES as u64;
    // Behind a damaged value nobody knows whether its length is right, and where the next one lies.
    let mut is_lost = false;
    while at < len {
        let start = at + LENGTH_BYTES as u64;
        let mut stored = [0; LENGTH_BYTES];
        let handle = match start <= len {
            true => {
                file.read_exact_at(at, &mut stored).map_err(io)?;
                Some(Handle { offset: start, len: u64::from(u32::from_le_bytes(stored)) })
            }
            false => None,
        };
        let placed = handle.and_then(|handle| {
            let end = handle.end().filter(|&end| end <= len)?;
            Some((handle, handle.framed_len()?, end))
        });
        let Some((handle, framed_len, end)) = placed else {
            if !is_lost {
                found.damages.push(damage(at, "the length of a value goes beyond the end"));
            }
            break;
        };
        let mut framed = vec![0; framed_len];
        file.read_exact_at(handle.offset, &mut framed).map_err(io)?;
        let value = Payload::check(Bytes::from(framed), number, handle.offset).and_then(Payload::decompress);
        let bytes = match value {
            Ok(value) => {
                is_lost = false;
                value.len() as u64
            }
            Err(_) if is_lost => break,
            Err(what) => {
                found.damages.push(damage(at, what));
                is_lost = true;
                0
            }
        };
        found.values.push(BlobValue { offset: handle.offset, stored_bytes: handle.len, bytes });
        at = end;
    }
    Ok(found)
}
