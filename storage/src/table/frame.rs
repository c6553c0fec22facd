//! How a block lies in its file: compressed or not, then a trailer with a checksum.
//!
//! The checksum is salted with the file's id and the block's offset, so that a block that a disk or a
//! copy put in the wrong place fails like one with a flipped bit.

use bytes::Bytes;

use super::codec::{self, Compressor, STORED};
use crate::coding::{Decoder, put_varint};

/// Compression byte and crc32 behind each block.
pub(crate) const TRAILER_BYTES: usize = 5;

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
        let handle = Handle::read(&mut decoder)?;
        decoder.rest().is_empty().then_some(handle)
    }

    pub(crate) fn read(decoder: &mut Decoder<'_>) -> Option<Handle> {
        Some(Handle { offset: decoder.varint()?, len: decoder.varint()? })
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

fn checksum(id: u64, offset: u64, payload: &[u8], compression: u8) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(payload);
    let mut salt = [0; 17];
    let (tag, rest) = salt.split_at_mut(1);
    tag.copy_from_slice(&[compression]);
    let (table, place) = rest.split_at_mut(8);
    table.copy_from_slice(&id.to_le_bytes());
    place.copy_from_slice(&offset.to_le_bytes());
    hasher.update(&salt);
    hasher.finalize()
}

/// Appends the block and its trailer to `out`, which is written at `offset` of the file `id`. Without a compressor it
/// is stored as it is.
pub(crate) fn frame(
    out: &mut Vec<u8>,
    block: &[u8],
    id: u64,
    offset: u64,
    compressor: Option<&mut Compressor>,
) -> Handle {
    let start = out.len();
    let compression = match compressor {
        Some(compressor) => compressor.append(block, out),
        None => {
            out.extend_from_slice(block);
            STORED
        }
    };
    push_trailer(out, start, id, offset, compression)
}

/// Appends the trailer of the block that lies in `out` from `start` on.
pub(crate) fn push_trailer(out: &mut Vec<u8>, start: usize, id: u64, offset: u64, compression: u8) -> Handle {
    let payload = out.get(start..).unwrap_or_default();
    let handle = Handle { offset, len: payload.len() as u64 };
    let checksum = checksum(id, offset, payload, compression);
    out.push(compression);
    out.extend_from_slice(&checksum.to_le_bytes());
    handle
}

/// Checks and decompresses a block with its trailer. The error says what is wrong with it.
pub(crate) fn unframe(framed: &Bytes, id: u64, offset: u64) -> Result<Bytes, &'static str> {
    let len = framed.len().checked_sub(TRAILER_BYTES).ok_or("a block shorter than its trailer")?;
    let payload = framed.slice(..len);
    let mut trailer = Decoder::new(framed.get(len..).unwrap_or_default());
    let (Some(compression), Some(expected)) = (trailer.u8(), trailer.u32()) else {
        return Err("a block shorter than its trailer");
    };
    if checksum(id, offset, &payload, compression) != expected {
        return Err("a block's checksum does not match");
    }
    codec::decompress(compression, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Compression;
    use proptest::prelude::*;

    fn framed(block: &[u8], compression: Compression) -> Bytes {
        let mut out = Vec::new();
        let mut compressor = Compressor::new(compression).unwrap();
        frame(&mut out, block, 7, 4096, Some(&mut compressor));
        Bytes::from(out)
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(block: Vec<u8>, zstd: bool, bit: prop::sample::Index) {
            let compression = if zstd { Compression::Zstd(3) } else { Compression::Lz4 };
            let block = block.repeat(4);
            let mut framed = framed(&block, compression).to_vec();
            prop_assert_eq!(unframe(&Bytes::from(framed.clone()), 7, 4096).unwrap(), block);
            let bit = bit.index(framed.len() * 8);
            framed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(unframe(&Bytes::from(framed), 7, 4096).is_err());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            unframe(&Bytes::from(bytes), 1, 1).ok();
        }
    }

    #[test]
    fn a_misplaced_block_is_noticed() {
        let framed = framed(b"block", Compression::None);
        assert!(unframe(&framed, 7, 4096).is_ok());
        assert!(unframe(&framed, 8, 4096).is_err());
        assert!(unframe(&framed, 7, 0).is_err());
    }
}
