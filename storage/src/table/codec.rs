//! Compression of blocks, with contexts that are reused from block to block.
//!
//! A compressed block starts with its decompressed length, which is checked before memory is taken for it: LZ4 cannot
//! expand more than 255 times, and a ZSTD block is never longer than [`ZSTD_MAX_BYTES`].

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use lz4_flex::block::CompressTable;

use crate::coding::Decoder;
use crate::options::Compression;

/// What the byte behind a block says about it.
pub(crate) const STORED: u8 = 0;
pub(crate) const LZ4: u8 = 1;
pub(crate) const ZSTD: u8 = 2;

/// LZ4 needs at least one byte for 255; a length beyond is not one we wrote.
const LZ4_MAX_RATIO: usize = 255;
/// A few bytes of ZSTD may stand for any length, so it has a limit. Larger blocks, which hold one huge value, are
/// compressed with LZ4 instead.
const ZSTD_MAX_BYTES: usize = 64 << 20;
/// The length in front of a compressed block.
const LENGTH_BYTES: usize = 4;

thread_local! {
    /// A context takes some 150 KiB and time to set up, so each thread that reads keeps one.
    static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> = RefCell::default();
}

/// Compresses blocks.
pub(crate) struct Compressor {
    compression: Compression,
    lz4: Option<CompressTable>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Compressor").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl Compressor {
    /// Fails for a ZSTD level that does not exist.
    pub(crate) fn new(compression: Compression) -> io::Result<Compressor> {
        let zstd = match compression {
            Compression::Zstd(level) => Some(zstd::bulk::Compressor::new(i32::from(level))?),
            _ => None,
        };
        Ok(Compressor { compression, lz4: None, zstd, scratch: Vec::new() })
    }

    /// Appends the block as it is stored to `out`, compressed if that saves at least an eighth. Returns how.
    pub(crate) fn append(&mut self, block: &[u8], out: &mut Vec<u8>) -> u8 {
        let tag = match self.compression {
            Compression::None => STORED,
            Compression::Zstd(_) if block.len() <= ZSTD_MAX_BYTES => self.zstd(block),
            Compression::Lz4 | Compression::Zstd(_) => self.lz4(block),
        };
        if tag == STORED || self.scratch.len() + LENGTH_BYTES > block.len() - block.len() / 8 {
            out.extend_from_slice(block);
            return STORED;
        }
        out.extend_from_slice(&(block.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.scratch);
        tag
    }

    fn lz4(&mut self, block: &[u8]) -> u8 {
        if u32::try_from(block.len()).is_err() {
            return STORED;
        }
        let table = self.lz4.get_or_insert_with(CompressTable::large);
        self.scratch.resize(lz4_flex::block::get_maximum_output_size(block.len()), 0);
        match lz4_flex::block::compress_into_with_table(block, &mut self.scratch, table) {
            Ok(len) => {
                self.scratch.truncate(len);
                LZ4
            }
            Err(_) => STORED,
        }
    }

    fn zstd(&mut self, block: &[u8]) -> u8 {
        self.scratch.clear();
        // What does not fit in there does not pay.
        self.scratch.reserve(block.len());
        match self.zstd.as_mut().map(|zstd| zstd.compress_to_buffer(block, &mut self.scratch)) {
            Some(Ok(_)) => ZSTD,
            _ => STORED,
        }
    }
}

/// Decompresses what [`Compressor::append`] wrote. The error says what is wrong with it.
pub(crate) fn decompress(tag: u8, stored: Bytes) -> Result<Bytes, &'static str> {
    let decompressed = match tag {
        STORED => Some(stored),
        LZ4 => lz4(&stored),
        ZSTD => zstd(&stored),
        _ => return Err("a block of an unknown compression"),
    };
    decompressed.ok_or("a block that does not decompress")
}

fn lz4(stored: &[u8]) -> Option<Bytes> {
    let mut decoder = Decoder::new(stored);
    let len = usize::try_from(decoder.u32()?).ok()?;
    if len > decoder.rest().len().saturating_mul(LZ4_MAX_RATIO) {
        return None;
    }
    let mut block = vec![0; len];
    let written = lz4_flex::block::decompress_into(decoder.rest(), &mut block).ok()?;
    (written == len).then(|| Bytes::from(block))
}

fn zstd(stored: &[u8]) -> Option<Bytes> {
    let mut decoder = Decoder::new(stored);
    let len = usize::try_from(decoder.u32()?).ok()?;
    if len > ZSTD_MAX_BYTES {
        return None;
    }
    let mut block = Vec::with_capacity(len);
    let decompress = |context: &RefCell<zstd::bulk::Decompressor<'static>>| {
        context.try_borrow_mut().ok()?.decompress_to_buffer(decoder.rest(), &mut block).ok()
    };
    let written = DECOMPRESSOR.try_with(decompress).ok()??;
    (written == len).then(|| Bytes::from(block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(block: &[u8], compression: Compression) -> (u8, usize) {
        let mut stored = Vec::new();
        let tag = Compressor::new(compression).unwrap().append(block, &mut stored);
        let len = stored.len();
        assert!(decompress(tag, stored.into()).unwrap() == block, "another block came back");
        (tag, len)
    }

    fn compressions() -> impl Strategy<Value = Compression> {
        let level = prop_oneof![Just(-5i8), Just(1), Just(3), Just(9)];
        prop_oneof![Just(Compression::None), Just(Compression::Lz4), level.prop_map(Compression::Zstd)]
    }

    proptest! {
        #[test]
        fn blocks_round_trip(blocks in prop::collection::vec((any::<Vec<u8>>(), 0usize..40), 1..4), compression in compressions()) {
            // One compressor for all of them: nothing may be left of the block before.
            let mut compressor = Compressor::new(compression).unwrap();
            for (block, repeat) in blocks {
                let block = block.repeat(repeat);
                let mut stored = Vec::new();
                let tag = compressor.append(&block, &mut stored);
                prop_assert_eq!(decompress(tag, stored.into()).unwrap(), block);
            }
        }

        #[test]
        fn garbage_does_not_decompress_into_a_panic(tag in 0u8..4, bytes: Vec<u8>, len in 0u32..100_000) {
            decompress(tag, bytes.clone().into()).ok();
            let stored = [len.to_le_bytes().as_slice(), &bytes].concat();
            decompress(tag, stored.into()).ok();
        }
    }

    #[test]
    fn compression_that_does_not_pay_is_left_out() {
        for compression in [Compression::Lz4, Compression::Zstd(3)] {
            assert_eq!(round_trip(b"abc", compression), (STORED, 3));
            assert!(round_trip(&[7; 1000], compression).1 < 100);
        }
    }

    #[test]
    fn levels_of_zstd_differ() {
        let words: Vec<u8> = (0..20_000u32)
            .flat_map(|index| {
                format!("{} ", index.wrapping_mul(index).wrapping_mul(0x9e37) % 977).into_bytes()
            })
            .collect();
        let (fast, small) =
            (round_trip(&words, Compression::Zstd(1)), round_trip(&words, Compression::Zstd(19)));
        assert!(fast.0 == ZSTD && small.0 == ZSTD && small.1 < fast.1, "{fast:?} {small:?}");
        assert!(round_trip(&words, Compression::Lz4).1 > fast.1);
    }

    #[test]
    fn a_decompressed_length_is_believed_within_bounds_only() {
        // ZSTD up to its limit, at any ratio; beyond it LZ4, whose ratio is bounded.
        assert_eq!(round_trip(&vec![7; ZSTD_MAX_BYTES], Compression::Zstd(1)).0, ZSTD);
        assert_eq!(round_trip(&vec![7; ZSTD_MAX_BYTES + 1], Compression::Zstd(1)).0, LZ4);
        let long = vec![7; ZSTD_MAX_BYTES + 1];
        let frame = zstd::bulk::compress(&long, 1).unwrap();
        let stored = |len: usize| Bytes::from([&(len as u32).to_le_bytes(), frame.as_slice()].concat());
        assert!(decompress(ZSTD, stored(long.len())).is_err());
        assert!(decompress(ZSTD, stored(ZSTD_MAX_BYTES)).is_err());
        assert!(decompress(LZ4, Bytes::from_static(&[255, 255, 255, 255, 0, 0, 0, 0])).is_err());
    }
}
