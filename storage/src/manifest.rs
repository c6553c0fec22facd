//! The manifest: the current version, whole, in one small file that is replaced atomically.

use std::io;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::blob::BlobMeta;
use crate::coding::Decoder;
use crate::error::Error;
use crate::files;
use crate::fs::Fs;
use crate::options::Keyspace;
use crate::range_tombstone::RangeTombstone;
use crate::table::TableMeta;

/// The newest format of manifests.
pub(crate) const MANIFEST_FORMAT: u32 = 2;

const MAGIC: [u8; 8] = *b"ALLIMAN\n";
/// Magic, format, length and crc32.
const HEADER_BYTES: usize = 20;

/// The content of a manifest.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Manifest {
    /// Every keyspace there has been; the id is the place in this list.
    #[prost(string, repeated, tag = "1")]
    pub(crate) keyspaces: Vec<String>,
    /// The sequence of the last batch that is in tables.
    #[prost(uint64, tag = "2")]
    pub(crate) last_sequence: u64,
    /// The oldest log segment whose batches are not in tables. It exists.
    #[prost(uint64, tag = "3")]
    pub(crate) log: u64,
    /// All file numbers in use are below.
    #[prost(uint64, tag = "4")]
    pub(crate) next_file: u64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) tables: Vec<TableRecord>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) blobs: Vec<BlobRecord>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) range_tombstones: Vec<RangeTombstoneRecord>,
}

/// One blob file in a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct BlobRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) keyspace: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) bytes: u64,
    #[prost(fixed64, tag = "4")]
    pub(crate) checksum: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) blobs: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) value_bytes: u64,
}

impl BlobRecord {
    pub(crate) fn new(meta: &BlobMeta) -> BlobRecord {
        BlobRecord {
            keyspace: u32::from(meta.keyspace.0),
            number: meta.number,
            bytes: meta.bytes,
            checksum: meta.checksum,
            blobs: meta.blobs,
            value_bytes: meta.value_bytes,
        }
    }

    /// `None` if the keyspace's id is out of range.
    pub(crate) fn meta(&self) -> Option<BlobMeta> {
        Some(BlobMeta {
            number: self.number,
            keyspace: Keyspace(u16::try_from(self.keyspace).ok()?),
            bytes: self.bytes,
            checksum: self.checksum,
            blobs: self.blobs,
            value_bytes: self.value_bytes,
        })
    }
}

/// One range tombstone in a manifest.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeTombstoneRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) keyspace: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) lower: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) upper: Option<Bytes>,
    #[prost(uint64, tag = "4")]
    pub(crate) sequence: u64,
}

impl RangeTombstoneRecord {
    pub(crate) fn new(keyspace: Keyspace, tombstone: RangeTombstone) -> RangeTombstoneRecord {
        let RangeTombstone { lower, upper, sequence } = tombstone;
        RangeTombstoneRecord { keyspace: u32::from(keyspace.0), lower, upper, sequence }
    }

    /// `None` if the keyspace's id is out of range, or there are no keys in the range.
    pub(crate) fn tombstone(&self) -> Option<(Keyspace, RangeTombstone)> {
        let keyspace = Keyspace(u16::try_from(self.keyspace).ok()?);
        let RangeTombstoneRecord { lower, upper, sequence, .. } = self.clone();
        let has_keys = upper.as_ref().is_none_or(|upper| lower < *upper);
        has_keys.then_some((keyspace, RangeTombstone { lower, upper, sequence }))
    }
}

/// One table in a manifest.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) keyspace: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) level: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) bytes: u64,
    #[prost(fixed64, tag = "5")]
    pub(crate) checksum: u64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) smallest: Bytes,
    #[prost(bytes = "bytes", tag = "7")]
    pub(crate) largest: Bytes,
    #[prost(uint64, tag = "8")]
    pub(crate) smallest_sequence: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) largest_sequence: u64,
    #[prost(uint64, tag = "10")]
    pub(crate) entries: u64,
    #[prost(uint64, tag = "11")]
    pub(crate) tombstones: u64,
    /// 0: the number.
    #[prost(uint64, tag = "12")]
    pub(crate) id: u64,
    /// 0: each entry has its own.
    #[prost(uint64, tag = "13")]
    pub(crate) global_sequence: u64,
    #[prost(uint64, tag = "14")]
    pub(crate) cleaned: u64,
    /// Damage was found in it: whoever opens it looks at all of it first.
    #[prost(bool, tag = "15")]
    pub(crate) quarantined: bool,
}

impl TableRecord {
    pub(crate) fn new(level: usize, meta: &TableMeta, quarantined: bool) -> TableRecord {
        TableRecord {
            keyspace: u32::from(meta.keyspace.0),
            level: level as u32,
            number: meta.number,
            bytes: meta.bytes,
            checksum: meta.checksum,
            smallest: meta.smallest.clone(),
            largest: meta.largest.clone(),
            smallest_sequence: meta.smallest_sequence,
            largest_sequence: meta.largest_sequence,
            entries: meta.entries,
            tombstones: meta.tombstones,
            id: if meta.id == meta.number { 0 } else { meta.id },
            global_sequence: meta.global_sequence.unwrap_or_default(),
            cleaned: meta.cleaned,
            quarantined,
        }
    }

    /// `None` if the keyspace's id is out of range.
    pub(crate) fn meta(&self) -> Option<TableMeta> {
        Some(TableMeta {
            number: self.number,
            keyspace: Keyspace(u16::try_from(self.keyspace).ok()?),
            bytes: self.bytes,
            checksum: self.checksum,
            smallest: self.smallest.clone(),
            largest: self.largest.clone(),
            smallest_sequence: self.smallest_sequence,
            largest_sequence: self.largest_sequence,
            entries: self.entries,
            tombstones: self.tombstones,
            id: if self.id == 0 { self.number } else { self.id },
            global_sequence: (self.global_sequence > 0).then_some(self.global_sequence),
            cleaned: self.cleaned,
        })
    }
}

impl Manifest {
    /// Reads the current manifest; `None` if there is none.
    pub(crate) fn read(fs: &dyn Fs, dir: &Path) -> Result<Option<Manifest>, Error> {
        let path = dir.join(files::MANIFEST);
        let file = match fs.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io("open", &path, source)),
        };
        let bytes = file.read_all().map_err(|source| Error::io("read", &path, source))?;
        Manifest::from_file(&path, &bytes).map(Some)
    }

    /// Makes this the current manifest. After a failure it is open which one a crash would leave.
    pub(crate) fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<(), WriteError> {
        let new = dir.join(files::MANIFEST_NEW);
        let current = dir.join(files::MANIFEST);
        let before = |op| {
            let new = &new;
            move |source| WriteError { error: Error::io(op, new, source), undone: op != "fsync" }
        };
        match fs.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(before("remove")(error)),
            _ => {}
        }
        let file = fs.create(&new).map_err(before("create"))?;
        file.write_all_at(0, &self.to_file()).map_err(before("write"))?;
        file.sync().map_err(before("fsync"))?;
        let after = |op| {
            let current = &current;
            move |source| WriteError { error: Error::io(op, current, source), undone: false }
        };
        fs.rename(&new, &current).map_err(after("rename"))?;
        fs.sync_dir(dir).map_err(after("fsync the directory of"))
    }

    /// The length of its file.
    pub(crate) fn file_len(&self) -> u64 {
        (HEADER_BYTES + self.encoded_len()) as u64
    }

    fn to_file(&self) -> Vec<u8> {
        let body = self.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&MANIFEST_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum(MANIFEST_FORMAT, &body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The version of the format that a file claims to have.
    pub(crate) fn format_of(bytes: &[u8]) -> Option<u32> {
        let mut decoder = Decoder::new(bytes);
        decoder.bytes(MAGIC.len())?;
        decoder.u32()
    }

    /// What can be read of a damaged file. Nothing in it is certain.
    pub(crate) fn salvage(bytes: &[u8]) -> Option<Manifest> {
        Manifest::decode(bytes.get(HEADER_BYTES..)?).ok()
    }

    pub(crate) fn from_file(path: &Path, bytes: &[u8]) -> Result<Manifest, Error> {
        let corruption = |offset, what| Error::corruption(path, offset, what);
        let mut decoder = Decoder::new(bytes);
        if decoder.bytes(MAGIC.len()) != Some(&MAGIC) {
            return Err(corruption(0, "the magic is missing"));
        }
        let (Some(format), Some(len), Some(expected)) = (decoder.u32(), decoder.u32(), decoder.u32()) else {
            return Err(corruption(bytes.len() as u64, "it is shorter than its header"));
        };
        let body = decoder.rest();
        if body.len() as u64 != u64::from(len) {
            return Err(corruption(12, "it has another length than its header says"));
        }
        if checksum(format, body) != expected {
            return Err(corruption(0, "the checksum does not match"));
        }
        if format > MANIFEST_FORMAT {
            return Err(Error::NewerFormat {
                path: path.to_path_buf(),
                found: format,
                supported: MANIFEST_FORMAT,
            });
        }
        Manifest::decode(body).map_err(|_| corruption(HEADER_BYTES as u64, "it is malformed"))
    }
}

/// Why a manifest could not be written.
#[derive(Debug)]
pub(crate) struct WriteError {
    pub(crate) error: Error,
    /// The manifest of before is certainly still the current one, so the write may be tried again.
    pub(crate) undone: bool,
}

fn checksum(format: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&format.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Manifest {
        Manifest {
            keyspaces: vec!["entity".into(), "vector".into()],
            last_sequence: 17,
            log: 3,
            next_file: 9,
            tables: vec![TableRecord { level: 1, number: 4, bytes: 100, ..TableRecord::default() }],
            blobs: vec![BlobRecord { number: 5, bytes: 50, ..BlobRecord::default() }],
            range_tombstones: vec![RangeTombstoneRecord { sequence: 16, ..RangeTombstoneRecord::default() }],
        }
    }

    #[test]
    fn a_table_built_elsewhere_keeps_its_id_and_its_sequence() {
        let record =
            TableRecord { number: 4, smallest_sequence: 9, largest_sequence: 9, ..TableRecord::default() };
        let own = record.meta().unwrap();
        assert_eq!((own.id, own.global_sequence), (4, None));
        assert_eq!(TableRecord::new(0, &own, false), record);
        let elsewhere = TableRecord { id: u64::MAX, global_sequence: 9, ..record };
        let meta = elsewhere.meta().unwrap();
        assert_eq!((meta.number, meta.id, meta.global_sequence), (4, u64::MAX, Some(9)));
        assert_eq!(TableRecord::new(0, &meta, false), elsewhere);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut bytes = sample().to_file();
        bytes[8] = 3;
        let crc = checksum(3, &bytes[HEADER_BYTES..]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        let error = Manifest::from_file(Path::new("MANIFEST"), &bytes).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { found: 3, supported: 2, .. }), "{error}");
    }

    #[test]
    fn a_range_tombstone_without_keys_or_keyspace_is_refused() {
        let record = |keyspace, lower, upper: Option<&'static [u8]>| RangeTombstoneRecord {
            keyspace,
            lower: Bytes::from_static(lower),
            upper: upper.map(Bytes::from_static),
            sequence: 1,
        };
        let good = record(1, b"a", Some(b"b"));
        let (keyspace, tombstone) = good.tombstone().unwrap();
        assert_eq!(RangeTombstoneRecord::new(keyspace, tombstone), good);
        assert!(record(1, b"a", None).tombstone().is_some());
        for bad in [record(1, b"a", Some(b"a")), record(1, b"b", Some(b"a")), record(70_000, b"a", None)] {
            assert_eq!(bad.tombstone(), None);
        }
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(bit: prop::sample::Index) {
            let mut bytes = sample().to_file();
            prop_assert_eq!(Manifest::from_file(Path::new("MANIFEST"), &bytes).unwrap(), sample());
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Manifest::from_file(Path::new("MANIFEST"), &bytes).unwrap_err();
            let named = matches!(error, Error::Corruption { .. });
            prop_assert!(named, "{}", error);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(Manifest::from_file(Path::new("MANIFEST"), &bytes).is_err());
            Manifest::decode(bytes.as_slice()).ok();
        }
    }
}
