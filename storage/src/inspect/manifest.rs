//! Describes a manifest.

use std::path::Path;

use bytes::Bytes;

use crate::Sequence;
use crate::error::Error;
use crate::fs::File;
use crate::manifest::{BlobRecord, Manifest, RangeTombstoneRecord, TableRecord};
use crate::quarantine::Damage;

/// A manifest.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ManifestFile {
    /// The length of the file, in bytes.
    pub bytes: u64,
    /// The version of its format; `None` if it is too short to tell.
    pub format: Option<u32>,
    /// The names of the keyspaces; the place is the id.
    pub keyspaces: Vec<String>,
    /// The sequence of the last batch in tables.
    pub last_sequence: Sequence,
    /// The number of the oldest log segment that is needed.
    pub log: u64,
    /// A number above those of all files.
    pub next_file: u64,
    /// The tables.
    pub tables: Vec<ManifestTable>,
    /// The blob files.
    pub blobs: Vec<ManifestBlob>,
    /// Deleted ranges that are not yet applied to all tables.
    pub range_tombstones: Vec<ManifestRangeTombstone>,
    /// What is wrong with it.
    pub damages: Vec<Damage>,
}

/// A table as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestTable {
    /// The id of its keyspace.
    pub keyspace: u32,
    /// Its level.
    pub level: u32,
    /// The number of its file.
    pub number: u64,
    /// The length of its file, in bytes.
    pub bytes: u64,
    /// The xxh3 hash of its file.
    pub checksum: u64,
    /// Its smallest key.
    pub smallest: Bytes,
    /// Its largest key.
    pub largest: Bytes,
    /// Its smallest sequence.
    pub smallest_sequence: Sequence,
    /// Its largest sequence.
    pub largest_sequence: Sequence,
    /// Its entries, tombstones among them.
    pub entries: u64,
    /// Its tombstones.
    pub tombstones: u64,
    /// No version is left in it that a range delete up to this sequence deletes.
    pub cleaned: Sequence,
    /// Damage was found in it.
    pub quarantined: bool,
}

impl From<TableRecord> for ManifestTable {
    fn from(record: TableRecord) -> ManifestTable {
        ManifestTable {
            keyspace: record.keyspace,
            level: record.level,
            number: record.number,
            bytes: record.bytes,
            checksum: record.checksum,
            smallest: record.smallest,
            largest: record.largest,
            smallest_sequence: record.smallest_sequence,
            largest_sequence: record.largest_sequence,
            entries: record.entries,
            tombstones: record.tombstones,
            cleaned: record.cleaned,
            quarantined: record.quarantined,
        }
    }
}

/// A blob file as a manifest describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestBlob {
    /// The id of its keyspace.
    pub keyspace: u32,
    /// The number of its file.
    pub number: u64,
    /// The length of its file, in bytes.
    pub bytes: u64,
    /// The xxh3 hash of its file.
    pub checksum: u64,
    /// How many values it holds.
    pub blobs: u64,
    /// The length of these, before compression, in bytes.
    pub value_bytes: u64,
}

impl From<BlobRecord> for ManifestBlob {
    fn from(record: BlobRecord) -> ManifestBlob {
        let BlobRecord { keyspace, number, bytes, checksum, blobs, value_bytes } = record;
        ManifestBlob { keyspace, number, bytes, checksum, blobs, value_bytes }
    }
}

/// A deleted range as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestRangeTombstone {
    /// The id of its keyspace.
    pub keyspace: u32,
    /// The first key.
    pub lower: Bytes,
    /// The key that it ends before; `None`: with the last of all keys.
    pub upper: Option<Bytes>,
    /// The batch that deleted it.
    pub sequence: Sequence,
}

impl From<RangeTombstoneRecord> for ManifestRangeTombstone {
    fn from(record: RangeTombstoneRecord) -> ManifestRangeTombstone {
        let RangeTombstoneRecord { keyspace, lower, upper, sequence } = record;
        ManifestRangeTombstone { keyspace, lower, upper, sequence }
    }
}

pub(super) fn inspect(file: &dyn File, path: &Path) -> Result<ManifestFile, Error> {
    let bytes = file.read_all().map_err(|source| Error::io("read", path, source))?;
    let mut found = ManifestFile {
        bytes: bytes.len() as u64,
        format: Manifest::format_of(&bytes),
        ..ManifestFile::default()
    };
    let manifest = match Manifest::from_file(path, &bytes) {
        Ok(manifest) => Some(manifest),
        Err(error @ Error::NewerFormat { .. }) => return Err(error),
        Err(error) => {
            found.damages.extend(Damage::of(&error));
            Manifest::salvage(&bytes)
        }
    };
    if let Some(manifest) = manifest {
        found.keyspaces = manifest.keyspaces;
        found.last_sequence = manifest.last_sequence;
        found.log = manifest.log;
        found.next_file = manifest.next_file;
        found.tables = manifest.tables.into_iter().map(ManifestTable::from).collect();
        let ranges = manifest.range_tombstones.into_iter();
        found.range_tombstones = ranges.map(ManifestRangeTombstone::from).collect();
        found.blobs = manifest.blobs.into_iter().map(ManifestBlob::from).collect();
    }
    Ok(found)
}
