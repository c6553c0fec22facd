//! A bloom filter whose probes for one key stay within one cache line.
//!
//! Putze, Sanders, Singler: Cache-, hash- and space-efficient bloom filters (2007); the line is chosen by
//! the upper half of the hash and the bits by multiples of the lower one, as in RocksDB's fast local bloom.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

const LINE_BYTES: usize = 64;
const LINE_BITS: u32 = 512;
/// The first byte of the block: this layout.
const BLOCKED: u8 = 1;
const HEADER_BYTES: usize = 2;

/// The hash of a key, computed once for all tables that are asked.
pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

fn line_of(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize
}

/// The bits of a key within its line.
fn probes(hash: u64, count: u8) -> impl Iterator<Item = (usize, u8)> {
    let mut state = hash as u32;
    (0..count).map(move |_| {
        let bit = state >> (32 - LINE_BITS.trailing_zeros());
        state = state.wrapping_mul(0x9e37_79b9);
        ((bit / 8) as usize, 1 << (bit % 8))
    })
}

fn lines_for(keys: usize, bits_per_key: u8) -> usize {
    keys.saturating_mul(usize::from(bits_per_key)).div_ceil(LINE_BITS as usize).max(1)
}

/// The size of the block for this many keys.
pub(crate) fn byte_len(keys: usize, bits_per_key: u8) -> usize {
    HEADER_BYTES + lines_for(keys, bits_per_key) * LINE_BYTES
}

/// Builds the block for the keys with these hashes.
pub(crate) fn build(hashes: &[u64], bits_per_key: u8) -> Vec<u8> {
    // ln 2 × bits per key minimises false positives; one fewer suits the uneven load of lines.
    let count = ((f64::from(bits_per_key) * 0.65) as u8).clamp(1, 16);
    let mut bytes = vec![0; byte_len(hashes.len(), bits_per_key)];
    let (header, body) = bytes.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&[BLOCKED, count]);
    let (lines, _) = body.as_chunks_mut::<LINE_BYTES>();
    for &hash in hashes {
        let index = line_of(hash, lines.len());
        if let Some(line) = lines.get_mut(index) {
            for (byte, mask) in probes(hash, count) {
                if let Some(byte) = line.get_mut(byte) {
                    *byte |= mask;
                }
            }
        }
    }
    bytes
}

/// A filter in memory.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    lines: Bytes,
    probes: u8,
}

impl Filter {
    /// `None` if the block is not a filter of a known layout.
    pub(crate) fn new(block: Bytes) -> Option<Filter> {
        let &[BLOCKED, probes] = block.get(..HEADER_BYTES)? else { return None };
        let lines = block.slice(HEADER_BYTES..);
        (!lines.is_empty() && lines.len().is_multiple_of(LINE_BYTES)).then_some(Filter { lines, probes })
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.lines.len()
    }

    /// False only if no key with this hash was added.
    #[inline]
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        let (lines, _) = self.lines.as_chunks::<LINE_BYTES>();
        match lines.get(line_of(hash, lines.len())) {
            Some(line) => probes(hash, self.probes)
                .all(|(byte, mask)| line.get(byte).is_some_and(|byte| byte & mask != 0)),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_key_is_missed_and_few_others_pass() {
        let hashes: Vec<u64> = (0..20_000u32).map(|key| hash(&key.to_be_bytes())).collect();
        let filter = Filter::new(build(&hashes, 10).into()).unwrap();
        assert!(hashes.iter().all(|&hash| filter.may_contain(hash)));
        let passed = (20_000..120_000u32).filter(|key| filter.may_contain(hash(&key.to_be_bytes()))).count();
        // 1.0 % for an ideal filter of ten bits; lines cost a little.
        assert!(passed < 1_500, "{passed} of 100000 absent keys passed");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>, hash: u64) {
            if let Some(filter) = Filter::new(bytes.into()) {
                filter.may_contain(hash);
            }
        }
    }
}
