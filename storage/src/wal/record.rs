//! The headers of segments and records.

use crate::Sequence;
use crate::coding::Decoder;

/// The newest format of segments. In format 1 there are no range deletes, and each was synced in full before the next was
/// started.
pub(crate) const LOG_FORMAT: u32 = 2;
/// Size of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 40;
/// Size of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 32;

/// The bit of the previous segment's length that says that it was synced.
const PREVIOUS_SYNCED: u64 = 1 << 63;

const MAGIC: [u8; 8] = *b"ALLIWAL\n";

/// The start of a segment. Written and synced before any record, when the segment before is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) format: u32,
    pub(crate) number: u64,
    /// The number of the segment before; 0 for the first.
    pub(crate) previous: u64,
    /// Its final length.
    pub(crate) previous_len: u64,
    /// Whether it and all before it were synced by then; of format 1 they always were.
    pub(crate) previous_synced: bool,
}

/// Why a segment's header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    Newer(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.format.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.previous.to_le_bytes());
        let synced = if self.previous_synced { PREVIOUS_SYNCED } else { 0 };
        bytes.extend_from_slice(&(self.previous_len | synced).to_le_bytes());
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let parse = || {
            let mut decoder = Decoder::new(bytes.get(..SEGMENT_HEADER_BYTES)?);
            let magic = decoder.bytes(MAGIC.len())?;
            let (format, number, previous) = (decoder.u32()?, decoder.u64()?, decoder.u64()?);
            let len = decoder.u64()?;
            let header = SegmentHeader {
                format,
                number,
                previous,
                previous_len: if format < 2 { len } else { len & !PREVIOUS_SYNCED },
                previous_synced: format < 2 || len & PREVIOUS_SYNCED > 0,
            };
            let checked = bytes.get(..SEGMENT_HEADER_BYTES - 4)?;
            (magic == MAGIC && decoder.u32()? == crc32fast::hash(checked)).then_some(header)
        };
        let header = parse().ok_or(HeaderError::Damaged)?;
        if header.format > LOG_FORMAT { Err(HeaderError::Newer(header.format)) } else { Ok(header) }
    }
}

/// The start of a record; a batch follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// Bytes of the batch.
    pub(crate) len: u32,
    pub(crate) checksum: u32,
    /// The segment it was written to: tells what an earlier use of the space left behind.
    pub(crate) log: u64,
    pub(crate) sequence: Sequence,
    /// The length of the segment that was synced when the record was written. 0 if the segments before may not have
    /// been synced either.
    pub(crate) synced: u64,
}

impl RecordHeader {
    pub(crate) fn decode(bytes: &[u8]) -> Option<RecordHeader> {
        let mut decoder = Decoder::new(bytes);
        Some(RecordHeader {
            len: decoder.u32()?,
            checksum: decoder.u32()?,
            log: decoder.u64()?,
            sequence: decoder.u64()?,
            synced: decoder.u64()?,
        })
    }
}

/// The checksum of a record that lies at `offset`. The place is part of it, so that a value that holds a copy
/// of a record is not taken for one.
fn checksum(offset: u64, len: u32, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut salt = [0; 12];
    let (place, length) = salt.split_at_mut(8);
    place.copy_from_slice(&offset.to_le_bytes());
    length.copy_from_slice(&len.to_le_bytes());
    hasher.update(&salt);
    hasher.update(rest);
    hasher.finalize()
}

/// Appends a record that will lie at `offset` of segment `log`; `body` appends the batch. False, with nothing
/// appended, if the batch is too long for a record.
pub(crate) fn append(
    out: &mut Vec<u8>,
    offset: u64,
    log: u64,
    sequence: Sequence,
    synced: u64,
    body: impl FnOnce(&mut Vec<u8>),
) -> bool {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    for field in [log, sequence, synced] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    body(out);
    let Ok(len) = u32::try_from(out.len() - start - RECORD_HEADER_BYTES) else {
        out.truncate(start);
        return false;
    };
    let checksum = checksum(offset, len, out.get(start + 8..).unwrap_or_default());
    if let Some(prefix) = out.get_mut(start..).and_then(|record| record.first_chunk_mut::<8>()) {
        let (length, sum) = prefix.split_at_mut(4);
        length.copy_from_slice(&len.to_le_bytes());
        sum.copy_from_slice(&checksum.to_le_bytes());
    }
    true
}

/// The record that lies at `offset` of `segment`, and where its batch ends; `None` if there is none.
pub(crate) fn parse(segment: &[u8], offset: usize, log: u64) -> Option<(RecordHeader, usize)> {
    let bytes = segment.get(offset..)?;
    let header = RecordHeader::decode(bytes)?;
    if header.log != log {
        return None;
    }
    let len = RECORD_HEADER_BYTES.checked_add(header.len as usize)?;
    let rest = bytes.get(8..len)?;
    (checksum(offset as u64, header.len, rest) == header.checksum).then_some((header, offset + len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip_and_notice_each_flipped_bit(
            number: u64, previous: u64, previous_len in 0..1u64 << 63, previous_synced: bool, bit in 0usize..320,
        ) {
            let header =
                SegmentHeader { format: LOG_FORMAT, number, previous, previous_len, previous_synced };
            let mut bytes = header.encode();
            prop_assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
            prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Damaged));
        }

        #[test]
        fn records_round_trip_and_notice_each_flipped_bit(
            before: Vec<u8>, body: Vec<u8>, log: u64, sequence: u64, synced: u64, bit: prop::sample::Index,
        ) {
            let mut segment = before.clone();
            append(&mut segment, before.len() as u64, log, sequence, synced, |out| out.extend(&body));
            let (header, end) = parse(&segment, before.len(), log).unwrap();
            prop_assert_eq!((header.sequence, header.synced, end), (sequence, synced, segment.len()));
            let bit = before.len() * 8 + bit.index((segment.len() - before.len()) * 8);
            segment[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(parse(&segment, before.len(), log), None);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>, offset in 0usize..100) {
            SegmentHeader::decode(&bytes).ok();
            parse(&bytes, offset, 1);
        }
    }

    #[test]
    fn a_copy_of_a_record_at_another_place_is_none() {
        let mut segment = Vec::new();
        append(&mut segment, 0, 1, 1, 0, |out| out.extend(b"batch"));
        let copy = [segment.as_slice(), &segment].concat();
        assert!(parse(&copy, 0, 1).is_some());
        assert!(parse(&copy, segment.len(), 1).is_none());
    }
}
