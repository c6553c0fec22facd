//! Log segments taken apart into records, changed and put together again with the right checksums.

use bytes::Bytes;

use super::mutation::Mutation;
use super::{rounds, within};
use crate::batch::WriteBatch;
use crate::options::Keyspace;
use crate::wal::reader::{SegmentReader, has_records, vouches_for_earlier};
use crate::wal::record::{self, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader};

#[derive(Clone, Debug)]
struct Record {
    log: u64,
    sequence: u64,
    synced: u64,
    body: Vec<u8>,
}

fn take_apart(segment: &[u8], number: u64) -> Vec<Record> {
    let (mut offset, mut records) = (SEGMENT_HEADER_BYTES, Vec::new());
    while let Some((header, end)) = record::parse(segment, offset, number) {
        let body = segment[offset + RECORD_HEADER_BYTES..end].to_vec();
        records.push(Record { log: header.log, sequence: header.sequence, synced: header.synced, body });
        offset = end;
    }
    records
}

fn put_together(header: SegmentHeader, records: &[Record]) -> Vec<u8> {
    let mut segment = header.encode();
    for Record { log, sequence, synced, body } in records {
        let offset = segment.len() as u64;
        assert!(record::append(&mut segment, offset, *log, *sequence, *synced, |out| out.extend(body)));
    }
    segment
}

/// A segment with something changed, all of whose checksums are right.
pub(super) fn change(mutation: &mut Mutation, segment: &[u8]) -> Vec<u8> {
    let mut header = SegmentHeader::decode(segment).unwrap();
    let mut records = take_apart(segment, header.number);
    let at = mutation.below(records.len());
    match (mutation.below(8), records.get_mut(at)) {
        (0, _) => match mutation.below(4) {
            0 => header.previous = mutation.number(header.previous),
            1 => header.previous_len = mutation.number(header.previous_len),
            2 => header.number = mutation.number(header.number),
            _ => header.format = mutation.number(u64::from(header.format)) as u32,
        },
        (1, _) => mutation.parts(&mut records),
        (2, Some(record)) => record.synced = mutation.number(record.synced),
        (3, Some(record)) => record.sequence = mutation.number(record.sequence),
        (4, Some(record)) => record.log = mutation.number(record.log),
        (_, Some(record)) => mutation.bytes(&mut record.body),
        (_, None) => {}
    }
    let mut segment = put_together(header, &records);
    if mutation.once_in(6) {
        // And a torn end.
        segment.truncate(SEGMENT_HEADER_BYTES + mutation.below(segment.len()));
    }
    segment
}

/// The segment behind one that has this length now.
pub(super) fn follow(segment: &[u8], previous_len: u64) -> Vec<u8> {
    let header = SegmentHeader::decode(segment).unwrap();
    [SegmentHeader { previous_len, ..header }.encode(), segment[SEGMENT_HEADER_BYTES..].to_vec()].concat()
}

fn batch(mutation: &mut Mutation) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..mutation.below(6) {
        let keyspace = Keyspace(mutation.below(3) as u16);
        let (key, value) = (vec![mutation.next() as u8; mutation.below(5)], vec![7; mutation.below(40)]);
        match mutation.below(4) {
            0 => batch.delete(keyspace, key),
            1 => batch.delete_range(keyspace, key, Some(value.into())),
            2 => batch.delete_range(keyspace, key, None),
            _ => batch.put(keyspace, key, value),
        }
    }
    batch
}

fn encoded(batch: &WriteBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    batch.encode(&mut bytes);
    bytes
}

#[test]
fn batches() {
    rounds("batches", 10_000, |mutation| {
        let mut bytes = encoded(&batch(mutation));
        mutation.bytes(&mut bytes);
        let limit = 4096 + 200 * bytes.len() as u64;
        let Some(decoded) = within(limit, || WriteBatch::decode(&Bytes::from(bytes))) else { return };
        let again = encoded(&decoded);
        assert_eq!(again.len(), decoded.byte_len());
        assert_eq!(WriteBatch::decode(&Bytes::from(again)), Some(decoded));
    });
}

#[test]
fn segments() {
    rounds("segments", 4_000, |mutation| {
        let header =
            SegmentHeader { format: 2, number: 5, previous: 3, previous_len: 777, previous_synced: true };
        let mut records = Vec::new();
        for sequence in 1..=mutation.below(8) as u64 {
            records.push(Record { log: 5, sequence, synced: 40, body: encoded(&batch(mutation)) });
        }
        let mut bytes = put_together(header, &records);
        if mutation.once_in(2) {
            bytes = change(mutation, &bytes);
        } else {
            mutation.bytes(&mut bytes);
        }
        let final_len = mutation.once_in(2).then(|| mutation.number(bytes.len() as u64));
        let limit = 64 * 1024 + 400 * bytes.len() as u64;
        within(limit, || {
            SegmentHeader::decode(&bytes).ok();
            has_records(&bytes, 5);
            vouches_for_earlier(&bytes, 5);
            let len = bytes.len() as u64;
            let mut reader = SegmentReader::new("5.log".into(), 5, Bytes::from(bytes), final_len);
            let mut last = 0;
            while let Ok(Some((_, batch))) = reader.next() {
                assert!(reader.valid_len() > last && reader.valid_len() <= len, "no step forward");
                last = reader.valid_len();
                batch.into_parts(7);
            }
            reader.is_short();
            reader.torn_bytes();
        });
    });
}
