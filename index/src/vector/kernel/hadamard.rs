//! The Walsh-Hadamard transform.

use crate::vector::kernel::Isa;

/// Transforms in place, scaled to keep lengths. Every instruction set gives the same floats: there is nothing to round
/// differently.
///
/// # Panics
/// If the length is no power of two.
pub(crate) fn hadamard(values: &mut [f32]) {
    assert!(values.len().is_power_of_two());
    match Isa::best() {
        Isa::Portable => transform(values),
        // What plain loops are compiled to there.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => transform(values),
        // SAFETY: this value of `Isa` is handed out only where the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(values) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni => unsafe { avx512(values) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(values: &mut [f32]) {
    transform(values);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(values: &mut [f32]) {
    transform(values);
}

/// Values that the first steps, which pair near neighbours, take together.
const NEAR: usize = 16;

#[inline(always)]
fn transform(values: &mut [f32]) {
    let mut half = 1;
    let (near, rest) = values.as_chunks_mut::<NEAR>();
    if rest.is_empty() {
        for values in near {
            step_within::<1>(values);
            step_within::<2>(values);
            step_within::<4>(values);
            step_within::<8>(values);
        }
        half = NEAR;
    }
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
}

/// Pairs values that are `HALF` apart: said so that it is a permutation, an addition and a change of signs.
#[inline(always)]
fn step_within<const HALF: usize>(values: &mut [f32; NEAR]) {
    let before = *values;
    for (at, value) in values.iter_mut().enumerate() {
        let other = before[at ^ HALF];
        *value = if at & HALF == 0 { before[at] + other } else { other - before[at] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_gives_the_sums_and_differences_that_define_it() {
        for bits in 0..11 {
            let len = 1_usize << bits;
            let values: Vec<f32> = (0..len).map(|at| (at * 37 % 101) as f32 - 50.0).collect();
            let mut transformed = values.clone();
            hadamard(&mut transformed);
            let mut portable = values.clone();
            transform(&mut portable);
            assert_eq!(transformed, portable);
            for (row, got) in transformed.iter().enumerate() {
                let sign = |at: usize| if (row & at).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                let want: f32 = values.iter().enumerate().map(|(at, x)| sign(at) * x).sum();
                let want = want / (len as f32).sqrt();
                assert!((got - want).abs() <= want.abs() * 1e-5 + 1e-3, "{len}: {got} instead of {want}");
            }
        }
    }
}
