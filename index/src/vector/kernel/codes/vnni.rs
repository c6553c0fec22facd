//! AVX-512 VNNI: VPDPBUSD multiplies 64 unsigned with 64 signed bytes and adds up fours of the products, without saturation.

use std::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_maskz_mov_epi8,
    _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_srli_epi16,
};

use super::{BLOCK, CodeKind, Rows};

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dot_rows(kind: CodeKind, of: Rows<'_>, rows: &[u32], query: &[[i8; BLOCK]], sums: &mut [i32]) {
    match kind {
        CodeKind::Bits8 => bits8(of, rows, query, sums),
        CodeKind::Bits4 => bits4(of, rows, query, sums),
        CodeKind::Bits1 => bits1(of, rows, query, sums),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load<T>(block: &[T; BLOCK]) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: the block is 64 bytes long; the load needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn each(of: Rows<'_>, rows: &[u32], sums: &mut [i32], dot: impl Fn(&[[u8; BLOCK]]) -> __m512i) {
    for (row, sum) in rows.iter().zip(sums) {
        *sum = _mm512_reduce_add_epi32(dot(of.get(*row)));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bits8(of: Rows<'_>, rows: &[u32], query: &[[i8; BLOCK]], sums: &mut [i32]) {
    each(of, rows, sums, |blocks| {
        blocks
            .iter()
            .zip(query)
            .fold(_mm512_setzero_si512(), |sum, (b, q)| _mm512_dpbusd_epi32(sum, load(b), load(q)))
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bits4(of: Rows<'_>, rows: &[u32], query: &[[i8; BLOCK]], sums: &mut [i32]) {
    let low = _mm512_set1_epi8(15);
    each(of, rows, sums, |blocks| {
        blocks.iter().zip(query.as_chunks::<2>().0).fold(_mm512_setzero_si512(), |sum, (block, [l, h])| {
            let pairs = load(block);
            let sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(pairs, low), load(l));
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), low);
            _mm512_dpbusd_epi32(sum, high, load(h))
        })
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bits1(of: Rows<'_>, rows: &[u32], query: &[[i8; BLOCK]], sums: &mut [i32]) {
    let one = _mm512_set1_epi8(1);
    each(of, rows, sums, |blocks| {
        let words = blocks.iter().flat_map(|block| block.as_chunks::<8>().0);
        words.zip(query).fold(_mm512_setzero_si512(), |sum, (word, q)| {
            let ones = _mm512_maskz_mov_epi8(u64::from_le_bytes(*word), one);
            _mm512_dpbusd_epi32(sum, ones, load(q))
        })
    });
}
