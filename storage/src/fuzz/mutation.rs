//! Changes to bytes and numbers that decoders are most likely to trip over.

use crate::coding::put_varint;

/// A generator of changes: everything follows from its seed (splitmix64).
#[derive(Debug)]
pub(super) struct Mutation {
    state: u64,
}

impl Mutation {
    pub(super) fn new(seed: u64) -> Mutation {
        Mutation { state: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 on; 0 if `bound` is.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A number that breaks sums, lengths and offsets, or one next to the right one.
    pub(super) fn number(&mut self, right: u64) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => 1,
            2 => right.wrapping_add(1),
            3 => right.wrapping_sub(1),
            4 => u64::MAX - (self.below(2) * self.below(70)) as u64,
            5 => u64::from(u32::MAX) - 1 + self.below(3) as u64,
            6 => i64::MAX as u64 - 1 + self.below(3) as u64,
            7 => 1 << self.below(64),
            8 => right.wrapping_mul(2),
            _ => self.next() >> self.below(64),
        }
    }

    /// Sometimes another number.
    pub(super) fn maybe(&mut self, number: &mut u64, times: usize) {
        if self.once_in(times) {
            *number = self.number(*number);
        }
    }

    /// A few changes.
    pub(super) fn bytes(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            self.change(bytes);
        }
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let longest = if self.once_in(3) { len - start } else { (len - start).min(8) };
        start..start + self.below(longest + 1)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(12) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = *self.pick(&[0, 1, 0x7f, 0x80, 0xfe, 0xff]),
            3 => bytes.truncate(at),
            4 => {
                let filler = *self.pick(&[0, 0xff, self.state as u8]);
                let len = self.below(80);
                bytes.resize(bytes.len() + len, filler);
            }
            5 => {
                let range = self.range(bytes.len());
                bytes.drain(range);
            }
            // Twice, or somewhere else as well.
            6 | 7 => {
                let range = self.range(bytes.len());
                let copy = bytes[range].to_vec();
                bytes.splice(at..at, copy);
            }
            8 if bytes.len() > 1 => {
                let other = self.below(bytes.len());
                let len = self.below(bytes.len() - at.max(other)).min(at.abs_diff(other));
                for offset in 0..len {
                    bytes.swap(at + offset, other + offset);
                }
            }
            9 => {
                let width = *self.pick(&[1, 2, 4, 8]);
                let number = self.number(bytes.len() as u64).to_le_bytes();
                for (byte, new) in bytes[at..].iter_mut().zip(&number[..width]) {
                    *byte = *new;
                }
            }
            // In the place of a byte, and so often of a varint.
            10 => {
                let mut varint = Vec::new();
                put_varint(&mut varint, self.number(bytes.len() as u64));
                let end = (at + 1).min(bytes.len());
                bytes.splice(at..end, varint);
            }
            // A varint that never ends.
            _ => drop(bytes.splice(at..at, [0xff; 11])),
        }
    }

    /// Leaves a part out, doubles one, or swaps two.
    pub(super) fn parts<T: Clone>(&mut self, parts: &mut Vec<T>) {
        if parts.is_empty() {
            return;
        }
        let (at, other) = (self.below(parts.len()), self.below(parts.len()));
        match self.below(3) {
            0 => drop(parts.remove(at)),
            1 => parts.insert(other, parts[at].clone()),
            _ => parts.swap(at, other),
        }
    }
}
