//! Dot products of rows of codes with one query of signed bytes.
//!
//! A row is a run of whole 64-byte blocks. A query is laid out to match, one signed byte for each code; where
//! a row has more room than dimensions the query is zero, so that whatever stands there does not count.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use crate::vector::kernel::Isa;

/// Bytes of a block: a cache line, and the widest register.
pub(crate) const BLOCK: usize = 64;

/// How codes lie in the bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeKind {
    /// One a byte.
    Bits8,
    /// Two a byte: the first 64 of a block's codes in the low halves, the others in the high ones.
    Bits4,
    /// Eight a byte, code `i` of a block in bit `i % 8` of byte `i / 8`.
    Bits1,
}

impl CodeKind {
    /// Codes in a block.
    pub(crate) fn per_block(self) -> usize {
        match self {
            CodeKind::Bits8 => BLOCK,
            CodeKind::Bits4 => 2 * BLOCK,
            CodeKind::Bits1 => 8 * BLOCK,
        }
    }

    /// Bytes of a row of so many codes.
    pub(crate) fn row_bytes(self, dimensions: usize) -> usize {
        dimensions.div_ceil(self.per_block()) * BLOCK
    }

    /// Signed bytes of a query for rows of so many codes.
    pub(crate) fn query_len(self, dimensions: usize) -> usize {
        dimensions.div_ceil(self.per_block()) * self.per_block()
    }
}

/// Writes to `sums` Σ code·query of each of the rows, which callers have better prefetched. `row_bytes` is the length of a row, and the query
/// is of the matching length.
///
/// # Panics
/// If a row is beyond the end of `codes`, or a length does not match.
pub(crate) fn dot_rows(
    isa: Isa,
    kind: CodeKind,
    codes: &[u8],
    row_bytes: usize,
    rows: &[u32],
    query: &[i8],
    sums: &mut [i32],
) {
    assert_eq!(row_bytes % BLOCK, 0);
    assert_eq!(query.len(), row_bytes / BLOCK * kind.per_block());
    assert_eq!(rows.len(), sums.len());
    let (codes, _) = codes.as_chunks::<BLOCK>();
    let of = Rows { codes, blocks: row_bytes / BLOCK };
    match isa {
        Isa::Portable => portable(kind, of, rows, query, sums),
        // SAFETY: this value of `Isa` is handed out only where the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(kind, of, rows, query, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(kind, of, rows, query, sums) },
        // SAFETY: every processor of this architecture has NEON.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::dot_rows(kind, of, rows, query, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { vnni::dot_rows(kind, of, rows, query.as_chunks().0, sums) },
    }
}

/// Rows of whole blocks, one after the other.
#[derive(Clone, Copy)]
struct Rows<'a> {
    codes: &'a [[u8; BLOCK]],
    blocks: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn span(self, row: u32) -> Range<usize> {
        let start = row as usize * self.blocks;
        start..start + self.blocks
    }

    #[inline(always)]
    fn get(self, row: u32) -> &'a [[u8; BLOCK]] {
        &self.codes[self.span(row)]
    }
}

#[inline(always)]
fn portable(kind: CodeKind, of: Rows<'_>, rows: &[u32], query: &[i8], sums: &mut [i32]) {
    for (row, sum) in rows.iter().zip(sums) {
        let blocks = of.get(*row);
        *sum = match kind {
            CodeKind::Bits8 => blocks.iter().zip(query.as_chunks().0).map(|(b, q)| bytes(b, q)).sum(),
            CodeKind::Bits4 => {
                let halves = query.as_chunks::<{ 2 * BLOCK }>().0;
                let both = |(block, query): (&[u8; BLOCK], &[i8; 2 * BLOCK])| {
                    let (low, high) = query.split_at(BLOCK);
                    (0..BLOCK).fold(0, |sum, at| {
                        sum + i32::from(block[at] & 15) * i32::from(low[at])
                            + i32::from(block[at] >> 4) * i32::from(high[at])
                    })
                };
                blocks.iter().zip(halves).map(both).sum()
            }
            CodeKind::Bits1 => {
                let set = |(at, query): (usize, &i8)| {
                    let byte = blocks[at / (8 * BLOCK)][at / 8 % BLOCK];
                    i32::from(byte >> (at % 8) & 1) * i32::from(*query)
                };
                query.iter().enumerate().map(set).sum()
            }
        };
    }
}

#[inline(always)]
fn bytes(block: &[u8; BLOCK], query: &[i8; BLOCK]) -> i32 {
    (0..BLOCK).fold(0, |sum, at| sum + i32::from(block[at]) * i32::from(query[at]))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(kind: CodeKind, of: Rows<'_>, rows: &[u32], query: &[i8], sums: &mut [i32]) {
    portable(kind, of, rows, query, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn avx512(kind: CodeKind, of: Rows<'_>, rows: &[u32], query: &[i8], sums: &mut [i32]) {
    portable(kind, of, rows, query, sums);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(kind: CodeKind, row: &[u8], at: usize) -> i64 {
        let (block, within) = (at / kind.per_block() * BLOCK, at % kind.per_block());
        i64::from(match kind {
            CodeKind::Bits8 => row[block + within],
            CodeKind::Bits4 if within < BLOCK => row[block + within] & 15,
            CodeKind::Bits4 => row[block + within - BLOCK] >> 4,
            CodeKind::Bits1 => row[block + within / 8] >> (within % 8) & 1,
        })
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_exact_sums(
            dimensions in 1_usize..1_100,
            seed: [u8; 16],
            rows in prop::collection::vec(0_u32..12, 0..40),
        ) {
            for kind in [CodeKind::Bits8, CodeKind::Bits4, CodeKind::Bits1] {
                let row_bytes = kind.row_bytes(dimensions);
                // Extremes are as likely as all other bytes together.
                let byte = |at: usize| match seed[at % 16].wrapping_mul(at as u8 | 1) { 0..64 => 255, 64..128 => 0, x => x };
                let codes: Vec<u8> = (0..12 * row_bytes).map(byte).collect();
                let query: Vec<i8> = (0..kind.query_len(dimensions)).map(|at| byte(at + 7) as i8).collect();
                let exact: Vec<i32> = rows.iter().map(|row| {
                    let row = &codes[*row as usize * row_bytes..][..row_bytes];
                    query.iter().enumerate().map(|(at, q)| code(kind, row, at) * i64::from(*q)).sum::<i64>() as i32
                }).collect();
                for isa in Isa::available() {
                    let mut sums = vec![0; rows.len()];
                    dot_rows(isa, kind, &codes, row_bytes, &rows, &query, &mut sums);
                    prop_assert_eq!(&sums, &exact, "{:?} {:?}", isa, kind);
                }
            }
        }
    }
}
