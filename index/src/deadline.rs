//! When a caller stops waiting.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// When a caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// What is left.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// # Errors
    /// [`Error::DeadlineExceeded`] if it has passed.
    pub fn check(self) -> Result<()> {
        if self.has_passed() { Err(Error::DeadlineExceeded) } else { Ok(()) }
    }
}
