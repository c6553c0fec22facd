//! The part of each of many sorted keys that a search among them looks at first.

use super::block::Malformed;
use crate::key::common_prefix;

/// What all keys have in common, and the eight bytes behind that of each. A binary search among these stays within a few
/// cache lines; among the keys themselves it misses the processor's caches with every step.
#[derive(Debug)]
pub(crate) struct Heads {
    common: Box<[u8]>,
    heads: Box<[u64]>,
}

/// The first eight bytes as a number; shorter keys are filled up with zeros.
fn head(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            key.iter().fold(0, |head, &byte| head << 8 | u64::from(byte))
                << (64 - 8 * key.len() as u32).min(63)
        }
    }
}

impl Heads {
    /// Of `count` keys in order, which `key` finds by their place.
    pub(crate) fn new<'a>(
        count: usize,
        key: impl Fn(usize) -> Result<&'a [u8], Malformed>,
    ) -> Result<Heads, Malformed> {
        let mut common: &[u8] = &[];
        if count > 0 {
            // They are in order, so what the first and the last share, all share.
            let (first, last) = (key(0)?, key(count - 1)?);
            common = first.get(..common_prefix(first, last)).unwrap_or_default();
        }
        let heads = (0..count).map(|at| Ok(head(key(at)?.strip_prefix(common).ok_or(Malformed)?)));
        Ok(Heads { heads: heads.collect::<Result<_, _>>()?, common: common.into() })
    }

    /// The length of the keys' list.
    pub(crate) fn count(&self) -> usize {
        self.heads.len()
    }

    /// Memory it takes, in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.common.len() + size_of_val(&*self.heads)
    }

    /// The number of keys that are `before` a place, which those are that are less than `key`, and those are not that are
    /// greater; it is asked only about keys whose head is that of `key`.
    pub(crate) fn partition_point(
        &self,
        key: &[u8],
        before: impl Fn(usize) -> Result<bool, Malformed>,
    ) -> Result<usize, Malformed> {
        let (mut low, mut high) = match key.strip_prefix(&*self.common) {
            Some(rest) => {
                let head = head(rest);
                let low = self.heads.partition_point(|&other| other < head);
                let equal =
                    self.heads.get(low..).unwrap_or_default().iter().take_while(|&&other| other == head);
                (low, low + equal.count())
            }
            // Before all of them, or behind.
            None if key < &*self.common => (0, 0),
            None => (self.count(), self.count()),
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if before(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
