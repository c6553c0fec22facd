//! Keys and values, made from numbers.

/// The length of a key.
pub(super) const KEY_BYTES: usize = 16;

/// The shortest value: its first half has room for the mark of its key.
pub(super) const SHORTEST_VALUE: usize = 2 * MARK_BYTES;

const MARK_BYTES: usize = 8;

/// A key.
pub(super) type Key = [u8; KEY_BYTES];

/// The key of a number. Keys of different numbers differ, and neighbours in number are far apart in order.
pub(super) fn key(number: u64) -> Key {
    let high = mix(number);
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&high.to_be_bytes());
    key[8..].copy_from_slice(&mix(high).to_be_bytes());
    key
}

/// A random bijection (the last step of splitmix64; Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random numbers: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(super) fn next(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        number
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// Makes values: the first half random, the second constant, so that they compress to about one half.
#[derive(Debug)]
pub(super) struct Values {
    random: Random,
    buffer: Vec<u8>,
}

impl Values {
    /// Of `bytes` bytes each, at least [`SHORTEST_VALUE`].
    pub(super) fn new(bytes: usize, seed: u64) -> Self {
        Self { random: Random::new(seed), buffer: vec![b'.'; bytes] }
    }

    /// A new value for a key. It begins with a mark that tells whose it is.
    pub(super) fn for_key(&mut self, key: &Key) -> &[u8] {
        let half = self.buffer.len() / 2;
        let (mark, rest) = self.buffer[..half].split_at_mut(MARK_BYTES);
        mark.copy_from_slice(&key[..MARK_BYTES]);
        for chunk in rest.chunks_mut(8) {
            chunk.copy_from_slice(&self.random.next().to_le_bytes()[..chunk.len()]);
        }
        &self.buffer
    }
}

/// Whether a value of this length was made for this key.
pub(super) fn is_value_of(value: &[u8], key: &[u8], bytes: usize) -> bool {
    value.len() == bytes && value.get(..MARK_BYTES) == key.get(..MARK_BYTES)
}

/// Reads a byte of every cache line, as a caller who uses the value would.
pub(super) fn touch(value: &[u8]) -> u8 {
    value.iter().step_by(64).fold(0, |sum, byte| sum ^ byte)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_differ_and_are_spread() {
        let keys: BTreeSet<Key> = (0..10_000).map(key).collect();
        assert_eq!(keys.len(), 10_000);
        for quarter in 0..4_u8 {
            let share = keys.iter().filter(|key| key[0] >> 6 == quarter).count();
            assert!((2_000..3_000).contains(&share), "{share} keys in quarter {quarter}");
        }
    }

    #[test]
    fn values_name_their_key_and_are_half_random() {
        let mut values = Values::new(100, 1);
        let first = values.for_key(&key(1)).to_vec();
        let second = values.for_key(&key(1)).to_vec();
        assert!(is_value_of(&first, &key(1), 100) && is_value_of(&second, &key(1), 100));
        assert!(!is_value_of(&first, &key(2), 100) && !is_value_of(&first, &key(1), 101));
        assert_ne!(first[8..50], second[8..50]);
        assert_eq!(first[50..], [b'.'; 50]);
        assert!(first[8..50].iter().collect::<BTreeSet<_>>().len() > 20);
    }

    #[test]
    fn random_numbers_stay_below_and_repeat_with_the_seed() {
        let mut random = Random::new(7);
        let drawn: Vec<u64> = (0..1000).map(|_| random.below(10)).collect();
        assert!((0..10).all(|number| drawn.contains(&number)) && drawn.iter().all(|&number| number < 10));
        let mut again = Random::new(7);
        assert!(drawn.iter().all(|&number| number == again.below(10)));
    }
}
