//! Reads a segment, and decides what a place means that holds no record: torn or corrupt.

use std::path::PathBuf;

use bytes::Bytes;

use super::record::{self, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES};
use crate::Sequence;
use crate::batch::WriteBatch;
use crate::error::Error;

/// Reads the records of one segment in order.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    path: PathBuf,
    number: u64,
    bytes: Bytes,
    offset: usize,
    /// The length the segment had when the next one was started.
    final_len: Option<u64>,
}

impl SegmentReader {
    /// `bytes` is the whole file with a valid header.
    pub(crate) fn new(path: PathBuf, number: u64, bytes: Bytes, final_len: Option<u64>) -> SegmentReader {
        SegmentReader { path, number, bytes, offset: SEGMENT_HEADER_BYTES, final_len }
    }

    /// Where the valid records end, once [`next`](SegmentReader::next) has returned `None`.
    pub(crate) fn valid_len(&self) -> u64 {
        self.offset as u64
    }

    /// The bytes behind the valid records. Zeros do not count: space may have been allocated ahead.
    pub(crate) fn torn_bytes(&self) -> u64 {
        let tail = self.bytes.get(self.offset..).unwrap_or_default();
        if tail.iter().all(|&byte| byte == 0) { 0 } else { tail.len() as u64 }
    }

    /// The next batch; `None` where the log ends.
    pub(crate) fn next(&mut self) -> Result<Option<(Sequence, WriteBatch)>, Error> {
        if self.final_len.is_some_and(|len| self.offset as u64 >= len) {
            return Ok(None);
        }
        let Some((header, end)) = record::parse(&self.bytes, self.offset, self.number) else {
            return self.judge_end().map(|()| None);
        };
        let body = self.bytes.slice(self.offset + RECORD_HEADER_BYTES..end);
        let batch = WriteBatch::decode(&body)
            .ok_or_else(|| self.corruption("a batch that is malformed although its checksum matches"))?;
        self.offset = end;
        Ok(Some((header.sequence, batch)))
    }

    /// Whether records are missing that were there when the next segment was started.
    pub(crate) fn is_short(&self) -> bool {
        self.final_len.is_some_and(|len| self.valid_len() < len)
    }

    /// There is no record here. That is the end of the log unless this place is known to have been synced, by a record
    /// further on or in a later segment. Without such a witness a later record proves nothing, as sectors that were not
    /// synced reach the disk in any order.
    fn judge_end(&self) -> Result<(), Error> {
        let here = self.offset as u64;
        let number = self.number.to_le_bytes();
        // Candidates are found by the log number, which lies eight bytes into the header.
        for start in self.offset + 1..self.bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1) {
            if self.bytes.get(start + 8..start + 16) != Some(&number) {
                continue;
            }
            // Only of one that says so the checksum is worth computing.
            let says_so = |witness: &RecordHeader| witness.synced > here;
            if is_record(&self.bytes, start, self.number, says_so) {
                return Err(self.corruption(&format!(
                    "no valid record, although the record at {start} says that this was synced"
                )));
            }
        }
        Ok(())
    }

    /// Damage at the end of the valid records.
    pub(crate) fn corruption(&self, what: &str) -> Error {
        Error::corruption(&self.path, self.offset as u64, what)
    }
}

/// Whether a file without a valid segment header holds records all the same, which are only written once the
/// header is durable.
pub(crate) fn has_records(bytes: &[u8], number: u64) -> bool {
    has_record(bytes, number, |_| true)
}

/// Whether a segment holds a record that says that the segments before were synced.
pub(crate) fn vouches_for_earlier(bytes: &[u8], number: u64) -> bool {
    has_record(bytes, number, |record| record.synced > 0)
}

fn has_record(bytes: &[u8], number: u64, matches: impl Fn(&RecordHeader) -> bool) -> bool {
    (0..bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1)).any(|start| {
        bytes.get(start + 8..start + 16) == Some(&number.to_le_bytes())
            && is_record(bytes, start, number, &matches)
    })
}

/// Whether a record starts here whose header matches.
fn is_record(bytes: &[u8], start: usize, number: u64, matches: impl Fn(&RecordHeader) -> bool) -> bool {
    let header = bytes.get(start..).and_then(RecordHeader::decode);
    header.is_some_and(|header| matches(&header)) && record::parse(bytes, start, number).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Keyspace;
    use proptest::prelude::*;

    /// Records with the length that was synced when each was written; returns where each starts.
    fn segment(synced: &[u64]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        let mut starts = Vec::new();
        for (index, &synced) in synced.iter().enumerate() {
            let mut batch = WriteBatch::new();
            batch.put(Keyspace(0), vec![index as u8; 40], vec![7; 100]);
            let offset = bytes.len() as u64;
            starts.push(bytes.len());
            record::append(&mut bytes, offset, 5, index as u64 + 1, synced, |out| batch.encode(out));
        }
        (bytes, starts)
    }

    fn read(bytes: Vec<u8>, final_len: Option<u64>) -> Result<(usize, u64, u64), Error> {
        let mut reader = SegmentReader::new("5.log".into(), 5, Bytes::from(bytes), final_len);
        let mut count = 0;
        while reader.next()?.is_some() {
            count += 1;
        }
        Ok((count, reader.valid_len(), reader.torn_bytes()))
    }

    #[test]
    fn a_torn_record_at_the_end_ends_the_log() {
        let (bytes, starts) = segment(&[40, 40, 40]);
        for len in starts[2]..bytes.len() {
            let (count, valid, torn) = read(bytes[..len].to_vec(), None).unwrap();
            assert_eq!((count, valid, torn), (2, starts[2] as u64, (len - starts[2]) as u64));
        }
    }

    #[test]
    fn zeros_behind_the_records_are_space_allocated_ahead() {
        let (mut bytes, _) = segment(&[40, 40]);
        let len = bytes.len() as u64;
        bytes.resize(bytes.len() + 5000, 0);
        assert_eq!(read(bytes, None).unwrap(), (2, len, 0));
    }

    #[test]
    fn a_later_record_that_reached_the_disk_before_an_earlier_one_is_no_corruption() {
        let (mut bytes, starts) = segment(&[40, 40, 40, 40]);
        bytes[starts[1]..starts[2]].fill(0);
        let (count, valid, torn) = read(bytes, None).unwrap();
        assert_eq!((count, valid), (1, starts[1] as u64));
        assert!(torn > 0);
    }

    #[test]
    fn a_damaged_record_below_a_synced_offset_is_corruption_named_by_offset() {
        let (bytes, starts) = segment(&[40, 40, 40]);
        let (mut bytes2, _) = segment(&[40, 40, starts[2] as u64]);
        bytes2[starts[1] + 50] ^= 1;
        assert!(bytes.len() == bytes2.len());
        match read(bytes2, None).unwrap_err() {
            Error::Corruption { offset, .. } => assert_eq!(offset, starts[1] as u64),
            error => panic!("{error}"),
        }
    }

    #[test]
    fn a_segment_that_lacks_records_before_the_next_is_short() {
        let (bytes, starts) = segment(&[40, 40, 40]);
        let len = bytes.len() as u64;
        let is_short = |bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            let mut reader = SegmentReader::new("5.log".into(), 5, bytes, Some(len));
            while reader.next().unwrap().is_some() {}
            (reader.valid_len() as usize, reader.is_short())
        };
        assert_eq!(is_short(&bytes), (bytes.len(), false));
        assert_eq!(is_short(&[bytes.as_slice(), &[0; 100]].concat()), (bytes.len(), false));
        assert_eq!(is_short(&bytes[..starts[2]]), (starts[2], true));
    }

    #[test]
    fn a_record_vouches_for_earlier_segments_wherever_it_lies() {
        let (bytes, starts) = segment(&[0, 0, 40]);
        assert!(vouches_for_earlier(&bytes, 5) && !vouches_for_earlier(&bytes, 6));
        assert!(vouches_for_earlier(&[&vec![0; starts[2]], &bytes[starts[2]..]].concat(), 5));
        assert!(!vouches_for_earlier(&bytes[..starts[2]], 5));
    }

    #[test]
    fn records_of_an_earlier_use_of_the_space_are_not_read() {
        let (bytes, _) = segment(&[40, 40]);
        let mut reader = SegmentReader::new("6.log".into(), 6, Bytes::from(bytes), None);
        assert!(reader.next().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(tail: Vec<u8>) {
            let (mut bytes, _) = segment(&[40]);
            bytes.extend(tail);
            prop_assert_eq!(read(bytes, None).unwrap().0, 1);
        }
    }
}
