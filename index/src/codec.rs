//! Reading and writing the bytes of keys and row values.

use crate::version::Version;

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More was to come.
    #[error("it ends too early")]
    Short,
    /// A text is none.
    #[error("text is not UTF-8")]
    Utf8,
    /// Of a kind or a format that is not known.
    #[error("unknown tag {0}")]
    Tag(u8),
    /// There is more than there is to be.
    #[error("bytes are left over")]
    Trailing,
    /// Too deep to be read safely.
    #[error("values are nested too deeply")]
    Depth,
    /// Such a number makes no sense here.
    #[error("a number is out of range")]
    Range,
}

/// LEB128: seven bits a byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Order-preserving: a zero byte becomes `00 FF`, the end is `00 00`.
pub(crate) fn put_escaped(out: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// Takes bytes apart from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Short)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16_be(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32_be(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64_be(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32_le(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64_le(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn f64_le(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    pub(crate) fn version(&mut self) -> Result<Version, DecodeError> {
        Version::from_bytes(self.take(Version::BYTES)?).ok_or(DecodeError::Short)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Range);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Range)
    }

    /// A count of things of at least `least` bytes each, so that garbage cannot ask for much memory.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Range)?;
        if count > self.0.len() / least.max(1) { Err(DecodeError::Short) } else { Ok(count) }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = self.count(1)?;
        self.take(count)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Utf8)
    }

    pub(crate) fn text(&mut self) -> Result<String, DecodeError> {
        self.str().map(str::to_owned)
    }

    pub(crate) fn escaped(&mut self) -> Result<String, DecodeError> {
        let mut out = Vec::new();
        loop {
            let plain = self.0.iter().position(|byte| *byte == 0).ok_or(DecodeError::Short)?;
            let run = self.take(plain)?;
            self.u8()?;
            let end = self.u8()?;
            match end {
                0 if out.is_empty() => {
                    return std::str::from_utf8(run).map(str::to_owned).map_err(|_| DecodeError::Utf8);
                }
                0 | 0xff => out.extend_from_slice(run),
                tag => return Err(DecodeError::Tag(tag)),
            }
            if end == 0 {
                return String::from_utf8(out).map_err(|_| DecodeError::Utf8);
            }
            out.push(0);
        }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip(number: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            let mut decoder = Decoder::new(&bytes);
            prop_assert_eq!(decoder.varint(), Ok(number));
            prop_assert_eq!(decoder.finish(), Ok(()));
        }

        #[test]
        fn escaped_text_keeps_its_order(a in "\\PC{0,6}|[a-b\0]{0,5}", b in "\\PC{0,6}|[a-b\0]{0,5}") {
            let encode = |text: &str| {
                let mut bytes = Vec::new();
                put_escaped(&mut bytes, text);
                bytes
            };
            prop_assert_eq!(a.as_bytes().cmp(b.as_bytes()), encode(&a).cmp(&encode(&b)));
            prop_assert_eq!(Decoder::new(&encode(&a)).escaped(), Ok(a));
        }
    }
}
