//! The fixed end of a table: where its parts lie, and the version of the format.

use super::frame::Handle;
use crate::coding::Decoder;

/// Size of the footer.
pub(crate) const FOOTER_BYTES: usize = 64;
/// The newest format of tables.
pub(crate) const TABLE_FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"ALLISST\n";
/// Magic, format and checksum stay at these places for ever, whatever comes before.
const CHECKED_BYTES: usize = FOOTER_BYTES - 12;

/// Where the parts of a table lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) properties: Handle,
    pub(crate) index: Handle,
    /// Of length 0 if there is no filter.
    pub(crate) filter: Handle,
}

/// Why a footer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FooterError {
    Damaged(&'static str),
    Newer(u32),
}

fn checksum(file: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher.update(&file.to_le_bytes());
    hasher.finalize()
}

impl Footer {
    pub(crate) fn encode(&self, file: u64, out: &mut Vec<u8>) {
        let start = out.len();
        for handle in [self.properties, self.index, self.filter] {
            out.extend_from_slice(&handle.offset.to_le_bytes());
            out.extend_from_slice(&handle.len.to_le_bytes());
        }
        out.extend_from_slice(&TABLE_FORMAT.to_le_bytes());
        let checksum = checksum(file, out.get(start..).unwrap_or_default());
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&MAGIC);
    }

    pub(crate) fn decode(file: u64, bytes: &[u8]) -> Result<Footer, FooterError> {
        if bytes.len() != FOOTER_BYTES || !bytes.ends_with(&MAGIC) {
            return Err(FooterError::Damaged("the footer's magic is missing"));
        }
        let parse = || {
            let mut decoder = Decoder::new(bytes);
            let mut handle = || Some(Handle { offset: decoder.u64()?, len: decoder.u64()? });
            let footer = Footer { properties: handle()?, index: handle()?, filter: handle()? };
            Some((footer, decoder.u32()?, decoder.u32()?))
        };
        let (footer, format, expected) = parse().ok_or(FooterError::Damaged("the footer is too short"))?;
        if checksum(file, bytes.get(..CHECKED_BYTES).unwrap_or_default()) != expected {
            return Err(FooterError::Damaged("the footer's checksum does not match"));
        }
        if format > TABLE_FORMAT {
            return Err(FooterError::Newer(format));
        }
        Ok(footer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn footers_round_trip_and_notice_each_flipped_bit(places: [u64; 6], file: u64, bit in 0usize..512) {
            let [a, b, c, d, e, f] = places;
            let footer = Footer {
                properties: Handle { offset: a, len: b },
                index: Handle { offset: c, len: d },
                filter: Handle { offset: e, len: f },
            };
            let mut bytes = Vec::new();
            footer.encode(file, &mut bytes);
            prop_assert_eq!(bytes.len(), FOOTER_BYTES);
            prop_assert_eq!(Footer::decode(file, &bytes), Ok(footer));
            prop_assert!(Footer::decode(file ^ 1, &bytes).is_err());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(Footer::decode(file, &bytes), Err(FooterError::Damaged(_))));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(Footer::decode(1, &bytes).is_err());
        }
    }
}
