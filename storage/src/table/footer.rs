//! The fixed end of a table: where its parts lie, who it is, and the version of the format.

use super::frame::Handle;
use crate::coding::Decoder;

/// Size of the footer.
pub(crate) const FOOTER_BYTES: usize = 64;
/// The newest format of tables.
pub(crate) const TABLE_FORMAT: u32 = 2;

const MAGIC: [u8; 8] = *b"ALLISST\n";
/// Magic, format and checksum stay at these places for ever, whatever comes before; from format 2 on the id, too.
const CHECKED_BYTES: usize = FOOTER_BYTES - 12;

/// The format, and the id from format 2 on, that the bytes of a footer claim.
pub(crate) fn claims(bytes: &[u8]) -> Option<(u32, Option<u64>)> {
    let (parts, format) = bytes.get(..CHECKED_BYTES)?.split_last_chunk::<4>()?;
    let format = u32::from_le_bytes(*format);
    let id = if format < 2 { None } else { Some(decode_2(&mut Decoder::new(parts))?.0.id) };
    Some((format, id))
}

/// How index and filter are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IndexLayout {
    /// One index block and at most one filter for the whole table.
    #[default]
    Whole,
    /// A top-level index block, which leads to partitions of index and filter.
    Partitioned,
}

/// Where the parts of a table lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) properties: Handle,
    /// The index, or its top level.
    pub(crate) index: Handle,
    /// Of length 0 if there is no filter for the whole table.
    pub(crate) filter: Handle,
    /// What the table's checksums are salted with.
    pub(crate) id: u64,
    pub(crate) layout: IndexLayout,
}

/// Why a footer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FooterError {
    Damaged(&'static str),
    Newer(u32),
}

fn checksum(id: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher.update(&id.to_le_bytes());
    hasher.finalize()
}

impl Footer {
    /// Appends the footer; false if a part is too long for it.
    #[must_use]
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        for handle in [self.properties, self.index, self.filter] {
            let Ok(len) = u32::try_from(handle.len) else { return false };
            out.extend_from_slice(&handle.offset.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        }
        out.extend_from_slice(&self.id.to_le_bytes());
        let layout: u32 = match self.layout {
            IndexLayout::Whole => 1,
            IndexLayout::Partitioned => 2,
        };
        out.extend_from_slice(&layout.to_le_bytes());
        out.extend_from_slice(&TABLE_FORMAT.to_le_bytes());
        let checksum = checksum(self.id, out.get(start..).unwrap_or_default());
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        true
    }

    /// Reads the footer of a table that may be any.
    pub(crate) fn decode_any(bytes: &[u8]) -> Result<Footer, FooterError> {
        const ID: std::ops::Range<usize> = 36..44;
        let id = bytes.get(ID).and_then(|id| id.first_chunk::<8>());
        let id = id.ok_or(FooterError::Damaged("the footer is too short"))?;
        Footer::decode(u64::from_le_bytes(*id), bytes)
    }

    /// Reads the footer of the table `id`.
    pub(crate) fn decode(id: u64, bytes: &[u8]) -> Result<Footer, FooterError> {
        const SHORT: FooterError = FooterError::Damaged("the footer is too short");
        if bytes.len() != FOOTER_BYTES || !bytes.ends_with(&MAGIC) {
            return Err(FooterError::Damaged("the footer's magic is missing"));
        }
        let (checked, end) = bytes.split_at_checked(CHECKED_BYTES).ok_or(SHORT)?;
        let (parts, format) = checked.split_last_chunk::<4>().ok_or(SHORT)?;
        let format = u32::from_le_bytes(*format);
        let expected = Decoder::new(end).u32().ok_or(SHORT)?;
        let mut decoder = Decoder::new(parts);
        let footer = match format {
            1 => decode_1(&mut decoder, id),
            _ => decode_2(&mut decoder),
        };
        let (footer, layout) = footer.ok_or(SHORT)?;
        if checksum(footer.id, checked) != expected {
            return Err(FooterError::Damaged("the footer's checksum does not match"));
        }
        if format > TABLE_FORMAT {
            return Err(FooterError::Newer(format));
        }
        if footer.id != id {
            return Err(FooterError::Damaged("it is another table"));
        }
        let layout = match (format, layout) {
            (1.., 1) => IndexLayout::Whole,
            (2, 2) => IndexLayout::Partitioned,
            _ => return Err(FooterError::Damaged("a format or a layout that never was")),
        };
        Ok(Footer { layout, ..footer })
    }
}

/// A table of format 1 does not say who it is: its checksum says whether it is `id`.
fn decode_1(decoder: &mut Decoder<'_>, id: u64) -> Option<(Footer, u32)> {
    let mut handle = || Some(Handle { offset: decoder.u64()?, len: decoder.u64()? });
    let (properties, index, filter) = (handle()?, handle()?, handle()?);
    Some((Footer { properties, index, filter, id, layout: IndexLayout::Whole }, 1))
}

fn decode_2(decoder: &mut Decoder<'_>) -> Option<(Footer, u32)> {
    let mut handle = || Some(Handle { offset: decoder.u64()?, len: u64::from(decoder.u32()?) });
    let (properties, index, filter) = (handle()?, handle()?, handle()?);
    let (id, layout) = (decoder.u64()?, decoder.u32()?);
    Some((Footer { properties, index, filter, id, layout: IndexLayout::Whole }, layout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn footers_round_trip_and_notice_each_flipped_bit(
            places: [(u64, u32); 3], id: u64, partitioned: bool, bit in 0usize..512,
        ) {
            let [properties, index, filter] =
                places.map(|(offset, len)| Handle { offset, len: u64::from(len) });
            let layout = if partitioned { IndexLayout::Partitioned } else { IndexLayout::Whole };
            let footer = Footer { properties, index, filter, id, layout };
            let mut bytes = Vec::new();
            prop_assert!(footer.encode(&mut bytes));
            prop_assert_eq!(bytes.len(), FOOTER_BYTES);
            prop_assert_eq!(Footer::decode(id, &bytes), Ok(footer));
            prop_assert_eq!(Footer::decode(id ^ 1, &bytes), Err(FooterError::Damaged("it is another table")));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(matches!(Footer::decode(id, &bytes), Err(FooterError::Damaged(_))));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(Footer::decode(1, &bytes).is_err());
        }
    }

    /// Sets a field and makes the checksum right again.
    fn changed(at: usize, to: u32) -> Result<Footer, FooterError> {
        let mut bytes = Vec::new();
        assert!(Footer { id: 7, ..Footer::default() }.encode(&mut bytes));
        bytes[at..at + 4].copy_from_slice(&to.to_le_bytes());
        let checksum = checksum(7, &bytes[..CHECKED_BYTES]).to_le_bytes();
        bytes[CHECKED_BYTES..CHECKED_BYTES + 4].copy_from_slice(&checksum);
        Footer::decode(7, &bytes)
    }

    #[test]
    fn formats_and_layouts_that_are_unknown_are_refused() {
        const FORMAT: usize = 48;
        const LAYOUT: usize = 44;
        assert!(changed(FORMAT, 2).is_ok());
        assert_eq!(changed(FORMAT, 3), Err(FooterError::Newer(3)));
        assert!(matches!(changed(FORMAT, 0), Err(FooterError::Damaged(_))));
        for layout in [0, 3] {
            assert!(matches!(changed(LAYOUT, layout), Err(FooterError::Damaged(_))));
        }
    }

    #[test]
    fn a_part_that_is_too_long_is_refused() {
        let index = Handle { offset: 0, len: 1 << 32 };
        assert!(!Footer { index, ..Footer::default() }.encode(&mut Vec::new()));
    }
}
