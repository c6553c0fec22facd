//! Describes a segment of the log.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::{Entry, EntryKind, InspectOptions};
use crate::Sequence;
use crate::batch::{ChangeKind, WriteBatch};
use crate::error::Error;
use crate::fs::File;
use crate::key::Kind;
use crate::quarantine::Damage;
use crate::wal::record::{
    self, HeaderError, LOG_FORMAT, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader,
};

/// A segment of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogFile {
    /// The length of the file, in bytes.
    pub bytes: u64,
    /// Its header; `None` if that is damaged.
    pub header: Option<LogHeader>,
    /// Its records; those behind damage too, as far as they can be found.
    pub records: Vec<LogRecord>,
    /// Where the last record ends.
    pub end: u64,
    /// Bytes behind the last record that are no zeros, which are space allocated ahead: a record that was not written
    /// whole. This is no damage, unless the next segment's header says that there was more.
    pub torn_bytes: u64,
    /// What is wrong with it.
    pub damages: Vec<Damage>,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// The version of its format.
    pub format: u32,
    /// The number of the segment.
    pub number: u64,
    /// The number of the segment before; 0: none.
    pub previous: u64,
    /// The final length of the segment before.
    pub previous_len: u64,
    /// Whether that and all before were synced when it was started.
    pub previous_synced: bool,
}

/// A record of the log: one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// Where it lies.
    pub offset: u64,
    /// Its length with its header, in bytes.
    pub bytes: u64,
    /// The batch's number.
    pub sequence: Sequence,
    /// How much of the segment was synced when it was written; 0 if those before may not have been either.
    pub synced: u64,
    /// How many changes there are of each keyspace and kind.
    pub changes: Vec<ChangeCount>,
    /// The changes, if they were asked for.
    pub entries: Vec<Entry>,
}

/// Changes of one keyspace and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeCount {
    /// The id of the keyspace.
    pub keyspace: u16,
    /// What they do.
    pub kind: EntryKind,
    /// How many there are.
    pub count: u64,
}

pub(super) fn inspect(
    file: &dyn File,
    path: &Path,
    number: u64,
    options: InspectOptions,
) -> Result<LogFile, Error> {
    let bytes = Bytes::from(file.read_all().map_err(|source| Error::io("read", path, source))?);
    let mut found =
        LogFile { bytes: bytes.len() as u64, end: SEGMENT_HEADER_BYTES as u64, ..LogFile::default() };
    let damage = |offset: usize, what: &str| Damage {
        path: path.to_path_buf(),
        offset: offset as u64,
        what: what.to_owned(),
    };
    match SegmentHeader::decode(&bytes) {
        Ok(SegmentHeader { format, number: own, previous, previous_len, previous_synced }) => {
            found.header = Some(LogHeader { format, number: own, previous, previous_len, previous_synced });
            if own != number {
                found.damages.push(damage(12, &format!("it says that it is segment {own}")));
            }
        }
        Err(HeaderError::Damaged) => found.damages.push(damage(0, "the header is damaged")),
        Err(HeaderError::Newer(version)) => {
            let path = path.to_path_buf();
            return Err(Error::NewerFormat { path, found: version, supported: LOG_FORMAT });
        }
    }
    let mut offset = SEGMENT_HEADER_BYTES;
    while let Some(start) = next_record(&bytes, offset, number) {
        let Some((header, end)) = record::parse(&bytes, start, number) else { break };
        if start > offset {
            found.damages.push(damage(offset, &format!("no valid record; the next one is at {start}")));
        }
        let batch = WriteBatch::decode(&bytes.slice(start + RECORD_HEADER_BYTES..end));
        let (changes, entries) = match &batch {
            Some(batch) => describe(batch, header.sequence, options),
            None => {
                found.damages.push(damage(start, "a batch that is malformed although its checksum matches"));
                (Vec::new(), Vec::new())
            }
        };
        found.records.push(LogRecord {
            offset: start as u64,
            bytes: (end - start) as u64,
            sequence: header.sequence,
            synced: header.synced,
            changes,
            entries,
        });
        found.end = end as u64;
        offset = end;
    }
    let tail = bytes.get(offset..).unwrap_or_default();
    if tail.iter().any(|&byte| byte != 0) {
        found.torn_bytes = tail.len() as u64;
    }
    Ok(found)
}

/// Where the first record from `offset` on lies.
fn next_record(bytes: &[u8], offset: usize, number: u64) -> Option<usize> {
    // Candidates are found by the segment's number, which lies eight bytes into a record.
    (offset..bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1)).find(|&start| {
        bytes.get(start + 8..start + 16) == Some(&number.to_le_bytes())
            && record::parse(bytes, start, number).is_some()
    })
}

fn describe(
    batch: &WriteBatch,
    sequence: Sequence,
    options: InspectOptions,
) -> (Vec<ChangeCount>, Vec<Entry>) {
    let mut counts = BTreeMap::new();
    let mut entries = Vec::new();
    for change in batch.changes() {
        let (kind, value) = match &change.kind {
            ChangeKind::Put(value) => (Kind::Value, value.as_ref()),
            ChangeKind::Delete | ChangeKind::DeleteRange(_) => (Kind::Tombstone, [].as_slice()),
        };
        let mut entry = Entry::new(options, change.keyspace, sequence, &change.key, kind, value);
        if let ChangeKind::DeleteRange(upper) = &change.kind {
            entry.kind = EntryKind::DeleteRange;
            entry.upper = upper.as_ref().map(|upper| Bytes::copy_from_slice(upper));
        }
        *counts.entry((entry.keyspace, entry.kind)).or_insert(0) += 1;
        if options.entries {
            entries.push(entry);
        }
    }
    let counts = counts.into_iter().map(|((keyspace, kind), count)| ChangeCount { keyspace, kind, count });
    (counts.collect(), entries)
}
