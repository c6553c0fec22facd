//! Random numbers from a seed, so that a failure can be run again.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
};

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `ALLIDB_SEED`, or from the system. Prints the seed.
    pub(crate) fn seeded(test: &str) -> Self {
        let seed = match std::env::var("ALLIDB_SEED") {
            Ok(seed) => seed.parse().expect("ALLIDB_SEED is a number"),
            Err(_) => RandomState::new().hash_one(test),
        };
        println!("{test}: ALLIDB_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.end - range.start)
    }

    /// In [-1, 1).
    pub(crate) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    pub(crate) fn vector(&mut self, dimension: usize) -> Vec<f32> {
        (0..dimension).map(|_| self.number()).collect()
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number that depends on every byte of the text.
pub(crate) fn hash(text: &str, salt: u64) -> u64 {
    text.bytes().fold(mix(salt), |hash, byte| mix(hash ^ u64::from(byte)))
}
