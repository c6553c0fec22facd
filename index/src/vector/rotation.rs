//! A random rotation that is cheap to apply.
//!
//! After it the coordinates of any vector look like draws from one bell curve, whatever the data was: no
//! coordinate stands out, so that a few bits each are enough and one step size fits all. Rounds of random signs
//! and Walsh-Hadamard transforms take the place of a dense matrix (Ailon and Chazelle, "The Fast
//! Johnson-Lindenstrauss Transform", 2009); where the dimension is no power of two, two transforms overlap.

use std::sync::OnceLock;

use crate::vector::kernel::hadamard;

/// Rounds of signs and transforms. Two leave traces of single coordinates, three do not.
const ROUNDS: usize = 3;

/// A rotation of vectors of one dimension.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    dimension: usize,
    seed: u64,
    /// One sign a coordinate and round, as the sign bit of an f32; once a vector is rotated: there may be many spaces that are empty.
    signs: OnceLock<Vec<Vec<u32>>>,
    /// The greatest power of two that is not above the dimension.
    power: usize,
}

impl Rotation {
    /// The rotation that the seed stands for, in every release alike.
    pub(crate) fn new(dimension: usize, seed: u64) -> Self {
        let power = if dimension == 0 { 0 } else { 1 << dimension.ilog2() };
        Self { dimension, seed, signs: OnceLock::new(), power }
    }

    fn signs(&self) -> &[Vec<u32>] {
        self.signs.get_or_init(|| {
            let mut state = self.seed;
            let mut sign = || {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((mixed >> 63) as u32) << 31
            };
            (0..ROUNDS).map(|_| (0..self.dimension).map(|_| sign()).collect()).collect()
        })
    }

    /// Rotates in place; lengths and products stay what they were.
    pub(crate) fn apply(&self, vector: &mut [f32]) {
        let end = vector.len() - self.power;
        for signs in self.signs() {
            for (x, sign) in vector.iter_mut().zip(signs) {
                *x = f32::from_bits(x.to_bits() ^ sign);
            }
            hadamard(&mut vector[..self.power]);
            if end > 0 {
                hadamard(&mut vector[end..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn products_stay(pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 1..400), seed: u64) {
            let (mut a, mut b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (before, length) = (product(&a, &b), product(&a, &a));
            let rotation = Rotation::new(a.len(), seed);
            rotation.apply(&mut a);
            rotation.apply(&mut b);
            prop_assert!((product(&a, &b) - before).abs() < 1e-3);
            prop_assert!((product(&a, &a) - length).abs() < 1e-3);
        }
    }

    #[test]
    fn one_coordinate_is_spread_over_all() {
        for dimension in [64, 100, 384, 1_000] {
            for at in [0, dimension / 2, dimension - 1] {
                let mut vector = vec![0.0; dimension];
                vector[at] = 1.0;
                Rotation::new(dimension, 1).apply(&mut vector);
                let greatest = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                assert!(greatest < 6.0 / (dimension as f32).sqrt(), "{dimension} {at}: {greatest}");
            }
        }
    }

    #[test]
    fn the_rotation_of_a_seed_never_changes() {
        let mut vector = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        Rotation::new(6, 42).apply(&mut vector);
        let rounded = vector.map(|x| (x * 1e4).round() as i32);
        assert_eq!(rounded, [25_000, -12_500, 38_750, -6_250, -41_250, -71_250]);
    }
}
