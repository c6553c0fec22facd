//! The header of a blob file, references into it, and what is known about it elsewhere.

use prost::Message;

use crate::coding::{Decoder, put_varint};
use crate::options::Keyspace;

/// The newest format of blob files.
pub(crate) const BLOB_FORMAT: u32 = 1;
/// Size of the header.
pub(crate) const HEADER_BYTES: usize = 32;
/// The length in front of each block.
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
    /// The length of all values together.
    pub(crate) value_bytes: u64,
}

/// How much of a blob file the entries of one table refer to.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct BlobUse {
    #[prost(uint64, tag = "1")]
    pub(crate) file: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) blobs: u64,
    /// The length of these values.
    #[prost(uint64, tag = "3")]
    pub(crate) bytes: u64,
}

/// Where a value lies; what a table keeps in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobRef {
    pub(crate) file: u64,
    /// The offset of the block in the file.
    pub(crate) block: u64,
    /// The offset of the value in the block.
    pub(crate) start: usize,
    /// The value's length.
    pub(crate) len: usize,
}

impl BlobRef {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.file);
        put_varint(out, self.block);
        put_varint(out, self.start as u64);
        put_varint(out, self.len as u64);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<BlobRef> {
        let mut decoder = Decoder::new(bytes);
        let blob = BlobRef {
            file: decoder.varint()?,
            block: decoder.varint()?,
            start: decoder.len()?,
            len: decoder.len()?,
        };
        // The end of the value is a place as well.
        blob.start.checked_add(blob.len)?;
        decoder.rest().is_empty().then_some(blob)
    }
}

/// The start of a blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) keyspace: u32,
    /// The length, before compression, that a block with more than one value never exceeds.
    pub(crate) block_bytes: u32,
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged(&'static str),
    Newer(u32),
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&BLOB_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.keyspace.to_le_bytes());
        bytes.extend_from_slice(&self.block_bytes.to_le_bytes());
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let parse = || {
            let mut decoder = Decoder::new(bytes);
            let magic = decoder.bytes(MAGIC.len())?;
            let format = decoder.u32()?;
            let header =
                Header { number: decoder.u64()?, keyspace: decoder.u32()?, block_bytes: decoder.u32()? };
            Some((magic == MAGIC, format, header, decoder.u32()?))
        };
        let (is_ours, format, header, expected) =
            parse().ok_or(HeaderError::Damaged("it is shorter than its header"))?;
        if !is_ours {
            return Err(HeaderError::Damaged("the magic is missing"));
        }
        if crc32fast::hash(bytes.get(..HEADER_BYTES - 4).unwrap_or_default()) != expected {
            return Err(HeaderError::Damaged("the header's checksum does not match"));
        }
        if format > BLOB_FORMAT { Err(HeaderError::Newer(format)) } else { Ok(header) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip_and_notice_each_flipped_bit(
            number: u64, keyspace: u32, block_bytes: u32, bit in 0..HEADER_BYTES * 8,
        ) {
            let header = Header { number, keyspace, block_bytes };
            let mut bytes = header.encode();
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            prop_assert_eq!(Header::decode(&bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(Header::decode(&bytes), Err(HeaderError::Damaged(_))));
        }

        #[test]
        fn references_round_trip(file: u64, block: u64, start in 0usize..1 << 40, len in 0usize..1 << 40) {
            let blob = BlobRef { file, block, start, len };
            let mut bytes = Vec::new();
            blob.encode(&mut bytes);
            prop_assert_eq!(BlobRef::decode(&bytes), Some(blob));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            BlobRef::decode(&bytes);
            prop_assert!(Header::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut bytes = Header { number: 7, keyspace: 1, block_bytes: 9 }.encode();
        bytes[8] = 2;
        let checksum = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Newer(2)));
    }
}
