//! Randomness, injected.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{Error, Result};

/// A source of random bytes.
pub trait Random: Send + Sync + fmt::Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// Where the operating system has no randomness to give.
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;
}

/// The operating system's randomness, fit for keys.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        getrandom::fill(bytes).map_err(|error| Error::FailedPrecondition(format!("no randomness: {error}")))
    }
}

/// The same bytes for the same seed: for simulations, never for keys that must be secret.
#[derive(Debug)]
pub struct SeededRandom(parking_lot::Mutex<(u64, u64)>);

impl SeededRandom {
    /// A sequence that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(parking_lot::Mutex::new((seed, 0)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        let mut state = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            state.1 += 1;
            let word = xxh3_64_with_seed(&state.1.to_le_bytes(), state.0).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}
