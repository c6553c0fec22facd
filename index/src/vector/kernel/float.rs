//! Dot product and squared Euclidean distance of two f32 slices.

use std::sync::OnceLock;

type Kernel = fn(&[f32], &[f32]) -> f32;

/// Σ a·b over the shorter of the two.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    static CHOSEN: OnceLock<Kernel> = OnceLock::new();
    CHOSEN.get_or_init(|| choose([dot_avx512, dot_avx2, dot_portable]))(a, b)
}

/// Σ (a−b)² over the shorter of the two.
pub(crate) fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    static CHOSEN: OnceLock<Kernel> = OnceLock::new();
    CHOSEN.get_or_init(|| choose([squared_l2_avx512, squared_l2_avx2, squared_l2_portable]))(a, b)
}

/// The widest of AVX-512, AVX2 and portable code that runs here.
fn choose([avx512, avx2, portable]: [Kernel; 3]) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return avx2;
        }
    }
    // Elsewhere all three are the same portable code.
    let _ = (avx512, avx2);
    portable
}

/// Sums `term` over both slices in `LANES` independent lanes, so that the compiler can use vector registers.
#[inline(always)]
fn lanes<const LANES: usize>(a: &[f32], b: &[f32], term: impl Fn(f32, f32, f32) -> f32) -> f32 {
    // Cut first: chunks of the longer one would take what is the rest of the shorter one.
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] = term(a[lane], b[lane], sums[lane]);
        }
    }
    let mut rest = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest = term(*a, *b, rest);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0] + rest
}

/// Fused where every processor can.
#[inline(always)]
fn add_product(a: f32, b: f32, sum: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { f32::mul_add(a, b, sum) } else { sum + a * b }
}

fn dot_portable(a: &[f32], b: &[f32]) -> f32 {
    lanes::<16>(a, b, add_product)
}

fn squared_l2_portable(a: &[f32], b: &[f32]) -> f32 {
    lanes::<16>(a, b, |a, b, sum| add_product(a - b, a - b, sum))
}

/// Defines a safe function that runs `$body` compiled with the given features.
macro_rules! with_features {
    ($name:ident, $features:literal, $lanes:literal, $fallback:ident, $term:expr) => {
        #[cfg(target_arch = "x86_64")]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            #[target_feature(enable = $features)]
            fn compiled(a: &[f32], b: &[f32]) -> f32 {
                lanes::<$lanes>(a, b, $term)
            }
            // SAFETY: `choose` hands this function out only where the processor has these features.
            unsafe { compiled(a, b) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            $fallback(a, b)
        }
    };
}

with_features!(dot_avx512, "avx512f", 64, dot_portable, f32::mul_add);
with_features!(dot_avx2, "avx2,fma", 32, dot_portable, f32::mul_add);
with_features!(squared_l2_avx512, "avx512f", 64, squared_l2_portable, |a, b, sum| {
    let difference = a - b;
    f32::mul_add(difference, difference, sum)
});
with_features!(squared_l2_avx2, "avx2,fma", 32, squared_l2_portable, |a, b, sum| {
    let difference = a - b;
    f32::mul_add(difference, difference, sum)
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_kernel_agrees_with_plain_sums(
            pairs in prop::collection::vec((-10.0_f32..10.0, -10.0_f32..10.0), 0..300),
            more in 0_usize..100,
        ) {
            let (mut a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            a.extend(vec![3.0; more]);
            let plain_dot: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let plain_l2: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            for (got, want) in [
                (dot(&a, &b), plain_dot),
                (dot_portable(&a, &b), plain_dot),
                (squared_l2(&a, &b), plain_l2),
                (squared_l2_portable(&a, &b), plain_l2),
            ] {
                prop_assert!((f64::from(got) - want).abs() < 0.05, "{} instead of {}", got, want);
            }
        }
    }
}
