//! Keys as they are written: `adb_`, an id, `_`, and 256 random bits as 64 hexadecimal digits.

use allidb_index::model::KEY_ID_LENGTH;
use zeroize::Zeroizing;

const PREFIX: &str = "adb_";
/// Digits of the secret.
const DIGITS: usize = 64;

/// A key that was shown.
pub(crate) struct Secret<'k> {
    /// Which one it says it is.
    pub(crate) id: &'k str,
    hash: blake3::Hash,
}

impl<'k> Secret<'k> {
    /// What is written like a key; `None`: it is none.
    pub(crate) fn parse(key: &'k str) -> Option<Self> {
        let (id, digits) = key.strip_prefix(PREFIX)?.split_once('_')?;
        let is_id = id.len() == KEY_ID_LENGTH
            && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let is_secret =
            digits.len() == DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (is_id && is_secret).then(|| Self { id, hash: hash(digits) })
    }

    /// Whether the secret is the one of this hash. Takes as long if it is not.
    pub(crate) fn is_of(&self, hash: &[u8; 32]) -> bool {
        self.hash == blake3::Hash::from_bytes(*hash)
    }
}

impl Secret<'_> {
    /// Whether both have the same secret. Takes as long if they do not.
    pub(super) fn is_same(&self, other: &Secret<'_>) -> bool {
        self.hash == other.hash
    }
}

/// A slow hash would protect what people choose; this is drawn from 2^256.
fn hash(digits: &str) -> blake3::Hash {
    blake3::hash(digits.as_bytes())
}

/// A key that nobody has yet: as it is written, its id, and the hash of its secret.
///
/// # Errors
/// If the system gives no random bits.
pub(crate) fn draw() -> Result<(Zeroizing<String>, String, [u8; 32]), getrandom::Error> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let (mut id, mut secret) = ([0; KEY_ID_LENGTH], Zeroizing::new([0; DIGITS / 2]));
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut *secret)?;
    let id: String = id.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    let mut key = Zeroizing::new(String::with_capacity(PREFIX.len() + id.len() + 1 + DIGITS));
    key.extend([PREFIX, &id, "_"]);
    for byte in secret.iter() {
        key.extend([byte >> 4, byte & 0xf].map(|digit| char::from(HEX[usize::from(digit)])));
    }
    let hash = *hash(&key[key.len() - DIGITS..]).as_bytes();
    Ok((key, id, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_drawn_is_known_and_no_other() {
        let (key, id, hash) = draw().expect("random bits");
        let shown = Secret::parse(&key).expect("a key");
        assert_eq!(shown.id, id);
        assert!(shown.is_of(&hash));
        let (other, other_id, other_hash) = draw().expect("random bits");
        assert!(other != key && other_id != id);
        assert!(!shown.is_of(&other_hash));
    }

    #[test]
    fn what_is_written_otherwise_is_no_key() {
        let (key, ..) = draw().expect("random bits");
        for wrong in [
            "",
            "adb_",
            "adb__",
            &key[1..],
            &key[..key.len() - 1],
            &format!("{}0", *key),
            &key.to_uppercase(),
            &key.replace("adb_", "adb_ä"),
        ] {
            assert!(Secret::parse(wrong).is_none(), "{wrong}");
        }
    }
}
