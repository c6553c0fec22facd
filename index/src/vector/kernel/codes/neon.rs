//! NEON: products of signed bytes in 16 bits, added up in pairs in 32.

use std::arch::aarch64::{
    int8x16_t, int16x8_t, int32x4_t, uint8x16_t, vaddvq_s32, vandq_s8, vandq_u8, vcombine_u8, vdup_n_u8,
    vdupq_n_s16, vdupq_n_s32, vdupq_n_u8, veorq_u8, vget_low_s8, vld1q_s8, vld1q_u8, vmlal_high_s8, vmlal_s8,
    vmull_high_s8, vmull_s8, vpadalq_s8, vpadalq_s16, vreinterpretq_s8_u8, vshrq_n_u8, vtstq_u8,
};

use super::{BLOCK, CodeKind, Rows};

/// Bytes of a register.
const REGISTER: usize = 16;

#[target_feature(enable = "neon")]
pub(super) fn dot_rows(kind: CodeKind, of: Rows<'_>, rows: &[u32], query: &[i8], sums: &mut [i32]) {
    match kind {
        CodeKind::Bits8 => {
            // A code less 128 is a signed byte; what that takes from each sum is the same for all rows.
            let taken = 128 * query.iter().map(|q| i32::from(*q)).sum::<i32>();
            each(of, rows, sums, |blocks| bits8(blocks, query.as_chunks().0) + taken);
        }
        CodeKind::Bits4 => each(of, rows, sums, |blocks| bits4(blocks, query.as_chunks().0)),
        CodeKind::Bits1 => each(of, rows, sums, |blocks| bits1(blocks, query.as_chunks().0)),
    }
}

#[inline(always)]
fn each(of: Rows<'_>, rows: &[u32], sums: &mut [i32], dot: impl Fn(&[[u8; BLOCK]]) -> i32) {
    for (row, sum) in rows.iter().zip(sums) {
        *sum = dot(of.get(*row));
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn codes(bytes: &[u8; REGISTER]) -> uint8x16_t {
    // SAFETY: the array is as long as the register; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn digits(bytes: &[i8; REGISTER]) -> int8x16_t {
    // SAFETY: as above.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn bits8(blocks: &[[u8; BLOCK]], query: &[[i8; REGISTER]]) -> i32 {
    let (zero, middle) = (vdupq_n_s32(0), vdupq_n_u8(128));
    let bytes = blocks.as_flattened().as_chunks::<REGISTER>().0;
    let sum = bytes.iter().zip(query).fold(zero, |sum, (bytes, query)| {
        let (codes, query) = (vreinterpretq_s8_u8(veorq_u8(codes(bytes), middle)), digits(query));
        // A product is 2^14 at most: two of them would not fit 16 bits.
        let sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(codes), vget_low_s8(query)));
        vpadalq_s16(sum, vmull_high_s8(codes, query))
    });
    vaddvq_s32(sum)
}

#[inline]
#[target_feature(enable = "neon")]
fn bits4(blocks: &[[u8; BLOCK]], query: &[[i8; 2 * BLOCK]]) -> i32 {
    let low = vdupq_n_u8(15);
    let sum: int32x4_t = blocks.iter().zip(query).fold(vdupq_n_s32(0), |sum, (block, query)| {
        let (of_low, of_high) = query.as_chunks::<REGISTER>().0.split_at(BLOCK / REGISTER);
        // Sixteen products of 15 · 128 at most fit 16 bits.
        let products: int16x8_t = (block.as_chunks().0.iter().zip(of_low.iter().zip(of_high))).fold(
            vdupq_n_s16(0),
            |products, (bytes, (l, h))| {
                let pairs = codes(bytes);
                let products = add_products(products, vreinterpretq_s8_u8(vandq_u8(pairs, low)), digits(l));
                add_products(products, vreinterpretq_s8_u8(vshrq_n_u8::<4>(pairs)), digits(h))
            },
        );
        vpadalq_s16(sum, products)
    });
    vaddvq_s32(sum)
}

#[inline]
#[target_feature(enable = "neon")]
fn add_products(sum: int16x8_t, a: int8x16_t, b: int8x16_t) -> int16x8_t {
    vmlal_high_s8(vmlal_s8(sum, vget_low_s8(a), vget_low_s8(b)), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn bits1(blocks: &[[u8; BLOCK]], query: &[[i8; REGISTER]]) -> i32 {
    let bit = codes(&[1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128]);
    let pairs = blocks.as_flattened().as_chunks::<2>().0;
    let sum = pairs.iter().zip(query).fold(vdupq_n_s32(0), |sum, ([first, second], query)| {
        let set = vtstq_u8(vcombine_u8(vdup_n_u8(*first), vdup_n_u8(*second)), bit);
        let taken = vandq_s8(vreinterpretq_s8_u8(set), digits(query));
        vpadalq_s16(sum, vpadalq_s8(vdupq_n_s16(0), taken))
    });
    vaddvq_s32(sum)
}
