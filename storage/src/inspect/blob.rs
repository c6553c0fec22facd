//! Describes a blob file.

use std::path::Path;

use bytes::Bytes;

use crate::blob::{BLOB_FORMAT, HEADER_BYTES, Header, HeaderError, LENGTH_BYTES, block_at};
use crate::error::Error;
use crate::fs::File;
use crate::quarantine::Damage;
use crate::table::frame::TRAILER_BYTES;

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
    /// The blocks of its values, in the order in which they lie in the file.
    pub blocks: Vec<BlobBlock>,
    /// What is wrong with it.
    pub damages: Vec<Damage>,
}

/// A block of a blob file: some values one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobBlock {
    /// Where references to its values point.
    pub offset: u64,
    /// Its length in the file without what is around it, in bytes.
    pub stored_bytes: u64,
    /// The length of its values together, in bytes; 0 if it is damaged.
    pub bytes: u64,
}

pub(super) fn inspect(file: &dyn File, path: &Path, number: u64) -> Result<BlobFile, Error> {
    let io = |source| Error::io("read", path, source);
    let len = file.byte_len().map_err(io)?;
    let mut found = BlobFile { number, bytes: len, ..BlobFile::default() };
    let damage = |offset, what: &str| Damage { path: path.to_path_buf(), offset, what: what.to_owned() };
    let mut header = vec![0; (HEADER_BYTES as u64).min(len) as usize];
    file.read_exact_at(0, &mut header).map_err(io)?;
    match Header::decode(&header) {
        Ok(own) => {
            found.keyspace = Some(own.keyspace);
            if own.number != number {
                found.damages.push(damage(12, &format!("it says that it is blob file {}", own.number)));
            }
        }
        Err(HeaderError::Damaged(what)) => found.damages.push(damage(0, what)),
        Err(HeaderError::Newer(format)) => {
            let path = path.to_path_buf();
            return Err(Error::NewerFormat { path, found: format, supported: BLOB_FORMAT });
        }
    }
    let mut at = HEADER_BYTES as u64;
    // Behind a damaged block nobody knows whether its length is right, and where the next one lies.
    let mut is_lost = false;
    while at < len {
        let mut stored = [0; LENGTH_BYTES];
        let has_length = len - at >= LENGTH_BYTES as u64;
        if has_length {
            file.read_exact_at(at, &mut stored).map_err(io)?;
        }
        let stored_bytes = u64::from(u32::from_le_bytes(stored));
        let whole = stored_bytes + (LENGTH_BYTES + TRAILER_BYTES) as u64;
        if !has_length || whole > len - at {
            if !is_lost {
                found.damages.push(damage(at, "the length of a block goes beyond the end"));
            }
            break;
        }
        let mut block = vec![0; whole as usize];
        file.read_exact_at(at, &mut block).map_err(io)?;
        let bytes = match block_at(number, at, &Bytes::from(block)) {
            Ok((block, _)) => {
                is_lost = false;
                block.len() as u64
            }
            Err(_) if is_lost => break,
            Err(what) => {
                found.damages.push(damage(at, what));
                is_lost = true;
                0
            }
        };
        found.blocks.push(BlobBlock { offset: at, stored_bytes, bytes });
        at += whole;
    }
    Ok(found)
}
