//! The order of versions: user keys ascending, and of one user key the newest first.

use std::cmp::Ordering;

use crate::Sequence;

/// What a version says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key does not exist from this sequence on.
    Tombstone,
    /// The key has a value.
    Value,
    /// The key has a value that lies in a blob file.
    Separated,
}

/// A place between versions: before the first version of `key` that is not newer than `sequence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) key: bytes::Bytes,
    pub(crate) sequence: Sequence,
}

impl Position {
    /// Before every version of `key`.
    pub(crate) fn before(key: &[u8]) -> Position {
        Position { key: bytes::Bytes::copy_from_slice(key), sequence: Sequence::MAX }
    }

    /// Behind every version of `key`: sequences start at 1.
    pub(crate) fn after(key: &[u8]) -> Position {
        Position { key: bytes::Bytes::copy_from_slice(key), sequence: 0 }
    }
}

/// Compares two versions.
#[inline]
pub(crate) fn compare(a: &[u8], a_sequence: Sequence, b: &[u8], b_sequence: Sequence) -> Ordering {
    a.cmp(b).then_with(|| b_sequence.cmp(&a_sequence))
}

/// The number of leading bytes two keys have in common.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut len = 0;
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        if a != b {
            break;
        }
        len += 8;
    }
    let (a, b) = (a.get(len..).unwrap_or_default(), b.get(len..).unwrap_or_default());
    len + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The smallest key that starts with no byte string that `prefix` is a prefix of, and follows all that
/// do; `None` if there is none (an empty prefix, or only 0xff).
pub(crate) fn prefix_successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut successor = prefix.get(..=last)?.to_vec();
    *successor.last_mut()? += 1;
    Some(successor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_successor_follows_the_prefix_and_nothing_else(prefix: Vec<u8>, key: Vec<u8>) {
            let inside = key.starts_with(&prefix);
            let in_range = key >= prefix && prefix_successor(&prefix).is_none_or(|end| key < end);
            prop_assert_eq!(inside, in_range);
        }

        #[test]
        fn common_prefixes(prefix: Vec<u8>, a: Vec<u8>, b: Vec<u8>) {
            let a = [prefix.as_slice(), &a].concat();
            let b = [prefix.as_slice(), &b].concat();
            let expected = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(common_prefix(&a, &b), expected);
        }
    }

    #[test]
    fn of_one_key_the_newest_version_comes_first() {
        assert_eq!(compare(b"a", 1, b"a", 2), Ordering::Greater);
        assert_eq!(compare(b"a", 1, b"ab", 2), Ordering::Less);
    }
}
