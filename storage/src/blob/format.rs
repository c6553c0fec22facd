//! The header of a blob file, references into it, and what is known about it elsewhere.

use prost::Message;

use crate::coding::{Decoder, put_varint};
use crate::options::Keyspace;
use crate::table::frame::{Handle, TRAILER_BYTES};

/// The newest format of blob files.
pub(crate) const BLOB_FORMAT: u32 = 1;
/// Size of the header.
pub(crate) const HEADER_BYTES: usize = 28;
/// The length in front of each blob.
pub(crate) const LENGTH_BYTES: usize = 4;

const MAGIC: [u8; 8] = *b"ALLIBLB\n";

/// What the manifest says about a blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobMeta {
    pub(crate) number: u64,
    pub(crate) keyspace: Keyspace,
    pub(crate) bytes: u64,
    /// xxh3 of the whole file.
    pub(crate) checksum: u64,
    pub(crate) blobs: u64,
}

impl BlobMeta {
    /// What the blobs take, with lengths and trailers.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.bytes.saturating_sub(HEADER_BYTES as u64)
    }
}

/// How much of a blob file the entries of one table refer to.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct BlobUse {
    #[prost(uint64, tag = "1")]
    pub(crate) file: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) blobs: u64,
    /// With lengths and trailers.
    #[prost(uint64, tag = "3")]
    pub(crate) bytes: u64,
}

/// Where a value lies; what a table keeps in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobRef {
    pub(crate) file: u64,
    pub(crate) handle: Handle,
}

impl BlobRef {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.file);
        self.handle.encode(out);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<BlobRef> {
        let mut decoder = Decoder::new(bytes);
        let file = decoder.varint()?;
        Some(BlobRef { file, handle: Handle::decode(decoder.rest())? })
    }

    /// What the blob takes in its file.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.handle.len.saturating_add((LENGTH_BYTES + TRAILER_BYTES) as u64)
    }
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged(&'static str),
    Newer(u32),
}

pub(crate) fn encode_header(number: u64, keyspace: Keyspace) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&BLOB_FORMAT.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&u32::from(keyspace.0).to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The number and keyspace that the header names.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<(u64, u32), HeaderError> {
    let parse = || {
        let mut decoder = Decoder::new(bytes);
        let magic = decoder.bytes(MAGIC.len())?;
        let (format, number, keyspace) = (decoder.u32()?, decoder.u64()?, decoder.u32()?);
        Some((magic == MAGIC, format, number, keyspace, decoder.u32()?))
    };
    let (is_ours, format, number, keyspace, expected) =
        parse().ok_or(HeaderError::Damaged("it is shorter than its header"))?;
    if !is_ours {
        return Err(HeaderError::Damaged("the magic is missing"));
    }
    if crc32fast::hash(bytes.get(..HEADER_BYTES - 4).unwrap_or_default()) != expected {
        return Err(HeaderError::Damaged("the header's checksum does not match"));
    }
    if format > BLOB_FORMAT { Err(HeaderError::Newer(format)) } else { Ok((number, keyspace)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip_and_notice_each_flipped_bit(number: u64, keyspace: u16, bit in 0..HEADER_BYTES * 8) {
            let mut bytes = encode_header(number, Keyspace(keyspace));
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            prop_assert_eq!(decode_header(&bytes), Ok((number, u32::from(keyspace))));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(decode_header(&bytes), Err(HeaderError::Damaged(_))));
        }

        #[test]
        fn references_round_trip(file: u64, offset: u64, len: u64) {
            let reference = BlobRef { file, handle: Handle { offset, len } };
            let mut bytes = Vec::new();
            reference.encode(&mut bytes);
            prop_assert_eq!(BlobRef::decode(&bytes), Some(reference));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            BlobRef::decode(&bytes);
            prop_assert!(decode_header(&bytes).is_err());
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut bytes = encode_header(7, Keyspace(1));
        bytes[8] = 2;
        let checksum = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode_header(&bytes), Err(HeaderError::Newer(2)));
    }
}
