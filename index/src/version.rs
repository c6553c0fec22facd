//! Versions: hybrid logical clock readings that order every change of every row.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// A hybrid logical clock reading (Kulkarni et al., "Logical Physical Clocks", 2014): 48 bits of
/// milliseconds since the Unix epoch, 16 bits of counter, and then the node that took it, so that no two
/// writes have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    time: u64,
    node: u64,
}

impl Version {
    /// Below every version that a clock gives.
    pub const ZERO: Version = Version { time: 0, node: 0 };
    /// Above every version that a clock gives.
    pub const MAX: Version = Version { time: u64::MAX, node: u64::MAX };
    /// Length of the encoded form.
    pub const BYTES: usize = 16;

    /// From its parts; `millis` beyond 48 bits are cut off.
    pub fn new(millis: u64, counter: u16, node: u64) -> Self {
        Self { time: (millis << 16) | u64::from(counter), node }
    }

    pub(crate) fn from_time(time: u64, node: u64) -> Self {
        Self { time, node }
    }

    /// Milliseconds and counter as one number that grows with time.
    pub(crate) fn time(self) -> u64 {
        self.time
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(self) -> u64 {
        self.time >> 16
    }

    /// The node that gave it; of a marker just below it, one less.
    pub(crate) fn node(self) -> u64 {
        self.node
    }

    /// When it was taken, to the millisecond.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.millis())
    }

    /// The version just below: what a put clears up to, so that its own rows stay.
    pub fn just_below(self) -> Self {
        match self.node.checked_sub(1) {
            Some(node) => Self { time: self.time, node },
            None => Self { time: self.time.saturating_sub(1), node: u64::MAX },
        }
    }

    /// Big-endian, so that bytes compare as versions do.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.time.to_be_bytes());
        bytes[8..].copy_from_slice(&self.node.to_be_bytes());
        bytes
    }

    /// The inverse of [`Version::to_bytes`]; `None` unless there are exactly 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (time, node) = bytes.split_at_checked(8)?;
        Some(Self {
            time: u64::from_be_bytes(time.try_into().ok()?),
            node: u64::from_be_bytes(node.try_into().ok()?),
        })
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{:x}", self.millis(), self.time & 0xffff, self.node)
    }
}
