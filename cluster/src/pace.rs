//! What is done now and then at most, however often there is a reason to.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often something is done at most.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Pace {
    /// Once in so long.
    pub const fn of(every: Duration) -> Self {
        Self { every, last: Mutex::new(None) }
    }

    /// Whether it may be done now; if so, it counts as done.
    pub fn is_due(&self) -> bool {
        let mut last = self.last.lock();
        let is_due = last.is_none_or(|at| at.elapsed() >= self.every);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_once_in_so_long() {
        let pace = Pace::of(Duration::from_millis(50));
        assert!(pace.is_due());
        assert!(!pace.is_due());
        std::thread::sleep(Duration::from_millis(60));
        assert!(pace.is_due());
    }
}
