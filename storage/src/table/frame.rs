//! How a block lies in its file: compressed or not, then a trailer with a checksum.
//!
//! The checksum is salted with the file's number and the block's offset, so that a block that a disk or a
//! copy put in the wrong place fails like one with a flipped bit.

use bytes::Bytes;

use crate::coding::{Decoder, put_varint};
use crate::options::Compression;

/// Compression byte and crc32 behind each block.
pub(crate) const TRAILER_BYTES: usize = 5;

const STORED: u8 = 0;
const LZ4: u8 = 1;

/// LZ4 needs at least one byte for 255; a length beyond is not one we wrote.
const LZ4_MAX_RATIO: usize = 255;

/// Where a block lies, without its trailer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Handle {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.offset);
        put_varint(out, self.len);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Handle> {
        let mut decoder = Decoder::new(bytes);
        let handle = Handle { offset: decoder.varint()?, len: decoder.varint()? };
        decoder.rest().is_empty().then_some(handle)
    }

    /// Length on disk, with the trailer.
    pub(crate) fn framed_len(self) -> Option<usize> {
        usize::try_from(self.len).ok()?.checked_add(TRAILER_BYTES)
    }

    /// The first byte behind the block and its trailer.
    pub(crate) fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)?.checked_add(TRAILER_BYTES as u64)
    }
}

fn checksum(file: u64, offset: u64, payload: &[u8], compression: u8) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(payload);
    let mut salt = [0; 17];
    let (tag, rest) = salt.split_at_mut(1);
    tag.copy_from_slice(&[compression]);
    let (number, place) = rest.split_at_mut(8);
    number.copy_from_slice(&file.to_le_bytes());
    place.copy_from_slice(&offset.to_le_bytes());
    hasher.update(&salt);
    hasher.finalize()
}

/// Compresses blocks, with memory that is reused from block to block.
pub(crate) struct Framer {
    compression: Compression,
    table: lz4_flex::block::CompressTable,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Framer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Framer").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl Framer {
    pub(crate) fn new(compression: Compression) -> Framer {
        Framer { compression, table: lz4_flex::block::CompressTable::large(), scratch: Vec::new() }
    }

    /// Appends the block and its trailer to `out`, which is written at `offset` of file `file`.
    pub(crate) fn frame(
        &mut self,
        out: &mut Vec<u8>,
        block: &[u8],
        file: u64,
        offset: u64,
        compress: bool,
    ) -> Handle {
        let start = out.len();
        let compression = if compress && self.compression == Compression::Lz4 && self.compress(block) {
            out.extend_from_slice(&(block.len() as u32).to_le_bytes());
            out.extend_from_slice(&self.scratch);
            LZ4
        } else {
            out.extend_from_slice(block);
            STORED
        };
        let payload = out.get(start..).unwrap_or_default();
        let handle = Handle { offset, len: payload.len() as u64 };
        let checksum = checksum(file, offset, payload, compression);
        out.push(compression);
        out.extend_from_slice(&checksum.to_le_bytes());
        handle
    }

    /// Fills `scratch`; false if that does not pay.
    fn compress(&mut self, block: &[u8]) -> bool {
        if u32::try_from(block.len()).is_err() {
            return false;
        }
        self.scratch.resize(lz4_flex::block::get_maximum_output_size(block.len()), 0);
        match lz4_flex::block::compress_into_with_table(block, &mut self.scratch, &mut self.table) {
            Ok(len) => {
                self.scratch.truncate(len);
                len + 4 <= block.len() - block.len() / 8
            }
            Err(_) => false,
        }
    }
}

/// A block as it is stored, without its trailer, and checked.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    bytes: Bytes,
    compression: u8,
}

impl Payload {
    /// Checks a block with its trailer. The error says what is wrong with it.
    pub(crate) fn check(framed: Bytes, file: u64, offset: u64) -> Result<Payload, &'static str> {
        let len = framed.len().checked_sub(TRAILER_BYTES).ok_or("a block shorter than its trailer")?;
        let bytes = framed.slice(..len);
        let mut trailer = Decoder::new(framed.get(len..).unwrap_or_default());
        let (Some(compression), Some(expected)) = (trailer.u8(), trailer.u32()) else {
            return Err("a block shorter than its trailer");
        };
        if checksum(file, offset, &bytes, compression) != expected {
            return Err("a block's checksum does not match");
        }
        Ok(Payload { bytes, compression })
    }

    /// The block itself.
    pub(crate) fn decompress(self) -> Result<Bytes, &'static str> {
        match self.compression {
            STORED => Ok(self.bytes),
            LZ4 => decompress(&self.bytes).ok_or("a block that does not decompress"),
            _ => Err("a block of an unknown compression"),
        }
    }

    /// Appends it with a new trailer to `out`, which is written at `offset` of file `file`.
    pub(crate) fn frame(&self, out: &mut Vec<u8>, file: u64, offset: u64) -> Handle {
        out.extend_from_slice(&self.bytes);
        push_trailer(out, file, offset, &self.bytes, self.compression)
    }
}

fn push_trailer(out: &mut Vec<u8>, file: u64, offset: u64, payload: &[u8], compression: u8) -> Handle {
    out.push(compression);
    out.extend_from_slice(&checksum(file, offset, payload, compression).to_le_bytes());
    Handle { offset, len: payload.len() as u64 }
}

/// Checks and decompresses a block with its trailer. The error says what is wrong with it.
pub(crate) fn unframe(framed: &Bytes, file: u64, offset: u64) -> Result<Bytes, &'static str> {
    Payload::check(framed.clone(), file, offset)?.decompress()
}

fn decompress(payload: &[u8]) -> Option<Bytes> {
    let mut decoder = Decoder::new(payload);
    let len = usize::try_from(decoder.u32()?).ok()?;
    if len > decoder.rest().len().saturating_mul(LZ4_MAX_RATIO) {
        return None;
    }
    let mut block = vec![0; len];
    let written = lz4_flex::block::decompress_into(decoder.rest(), &mut block).ok()?;
    (written == len).then(|| Bytes::from(block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(block: &[u8], compression: Compression) -> Bytes {
        let mut out = Vec::new();
        Framer::new(compression).frame(&mut out, block, 7, 4096, true);
        Bytes::from(out)
    }

    proptest! {
        #[test]
        fn blocks_round_trip(block: Vec<u8>, repeat in 1usize..200, lz4: bool) {
            let block = block.repeat(repeat);
            let compression = if lz4 { Compression::Lz4 } else { Compression::None };
            let framed = frame(&block, compression);
            prop_assert_eq!(unframe(&framed, 7, 4096).unwrap(), block);
        }

        #[test]
        fn every_flipped_bit_is_noticed(block: Vec<u8>, bit: prop::sample::Index) {
            let mut framed = frame(&block.repeat(4), Compression::Lz4).to_vec();
            let bit = bit.index(framed.len() * 8);
            framed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(unframe(&Bytes::from(framed), 7, 4096).is_err());
        }

        #[test]
        fn garbage_does_not_decompress_into_a_panic(bytes: Vec<u8>) {
            decompress(&bytes);
            unframe(&Bytes::from(bytes), 1, 1).ok();
        }
    }

    #[test]
    fn a_misplaced_block_is_noticed() {
        let framed = frame(b"block", Compression::None);
        assert!(unframe(&framed, 7, 4096).is_ok());
        assert!(unframe(&framed, 8, 4096).is_err());
        assert!(unframe(&framed, 7, 0).is_err());
    }

    #[test]
    fn compression_that_does_not_pay_is_left_out() {
        assert_eq!(frame(b"abc", Compression::Lz4).len(), 3 + TRAILER_BYTES);
        assert!(frame(&[7; 1000], Compression::Lz4).len() < 100);
    }
}
