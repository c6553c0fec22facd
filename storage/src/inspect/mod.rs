//! Describes a single file of a store, without opening the store: what is in it, and what is wrong with it.
//!
//! Only reads. A damaged file is described as far as it makes sense. A file of a store that is open may change while
//! it is read, its newest log segment above all.

mod blob;
mod log;
mod manifest;
mod table;

use std::path::Path;

use bytes::Bytes;

use crate::blob::BlobRef;
use crate::error::Error;
use crate::files::{self, Name};
use crate::fs::Fs;
use crate::key::Kind;
use crate::quarantine::Damage;
use crate::{Keyspace, Sequence};

pub use blob::{BlobBlock, BlobFile};
pub use log::{ChangeCount, LogFile, LogHeader, LogRecord};
pub use manifest::{ManifestBlob, ManifestFile, ManifestRangeTombstone, ManifestTable};
pub use table::{TableBlock, TableFile, TablePart, TableProperties};

/// What to tell of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InspectOptions {
    /// Every entry of tables and log records.
    pub entries: bool,
    /// So many bytes of each value; of the rest only the length.
    pub value_bytes: usize,
}

/// The description of a file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Inspection {
    /// A manifest, the current one or one that was being written.
    Manifest(ManifestFile),
    /// A segment of the log.
    Log(LogFile),
    /// A sorted table.
    Table(TableFile),
    /// A blob file.
    Blob(BlobFile),
}

impl Inspection {
    /// Everything that is wrong with the file.
    pub fn damages(&self) -> &[Damage] {
        match self {
            Inspection::Manifest(file) => &file.damages,
            Inspection::Log(file) => &file.damages,
            Inspection::Table(file) => &file.damages,
            Inspection::Blob(file) => &file.damages,
        }
    }
}

/// What an entry says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EntryKind {
    /// It has this value.
    Put,
    /// It does not exist any more.
    Delete,
    /// Its value lies in a blob file.
    Separated,
    /// No key exists any more from this one on, up to another one or to the end of all keys.
    DeleteRange,
}

/// An entry of a table or a change in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The keyspace's id: the place of its name in the manifest.
    pub keyspace: u16,
    /// The batch it is of.
    pub sequence: Sequence,
    /// What it says of its key.
    pub kind: EntryKind,
    /// The key.
    pub key: Bytes,
    /// The length of the value, in bytes; 0 if it is separated.
    pub value_len: usize,
    /// The value, up to [`InspectOptions::value_bytes`].
    pub value: Bytes,
    /// Where a separated value lies.
    pub place: Option<BlobPlace>,
    /// Where a deleted range ends, this key excluded; `None`: with the last of all keys.
    pub upper: Option<Bytes>,
}

/// Where a separated value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobPlace {
    /// The number of the blob file.
    pub file: u64,
    /// Where its block lies in the file, in bytes.
    pub block: u64,
    /// Where it starts in the decompressed block, in bytes.
    pub start: usize,
    /// Its length, in bytes.
    pub bytes: usize,
}

impl Entry {
    fn new(
        options: InspectOptions,
        keyspace: Keyspace,
        sequence: Sequence,
        key: &[u8],
        kind: Kind,
        held: &[u8],
    ) -> Entry {
        let (kind, value, place) = match kind {
            Kind::Value => (EntryKind::Put, held, None),
            Kind::Tombstone => (EntryKind::Delete, [].as_slice(), None),
            Kind::Separated => (EntryKind::Separated, [].as_slice(), BlobRef::decode(held)),
        };
        let place =
            place.map(|BlobRef { file, block, start, len }| BlobPlace { file, block, start, bytes: len });
        let shown = value.get(..options.value_bytes).unwrap_or(value);
        Entry {
            keyspace: keyspace.0,
            sequence,
            kind,
            key: Bytes::copy_from_slice(key),
            value_len: value.len(),
            value: Bytes::copy_from_slice(shown),
            place,
            upper: None,
        }
    }
}

/// Describes the file at `path`, whose name says what it is: `MANIFEST`, `MANIFEST.new`, `<number>.log`,
/// `<number>.table` or `<number>.blob`.
///
/// # Errors
/// [`Error::InvalidArgument`] for other names, [`Error::Io`], [`Error::NewerFormat`]. Damage is part of the description.
pub fn inspect(fs: &dyn Fs, path: &Path, options: InspectOptions) -> Result<Inspection, Error> {
    let name = path.file_name().and_then(|name| name.to_str()).map_or(Name::Foreign, files::parse);
    let open = || fs.open_read(path).map_err(|source| Error::io("open", path, source));
    match name {
        Name::Manifest | Name::ManifestNew => manifest::inspect(&*open()?, path).map(Inspection::Manifest),
        Name::Log(number) => log::inspect(&*open()?, path, number, options).map(Inspection::Log),
        Name::Table(number) => table::inspect(&*open()?, path, number, options).map(Inspection::Table),
        Name::Blob(number) => blob::inspect(&*open()?, path, number).map(Inspection::Blob),
        Name::Lock | Name::Foreign => {
            // What is missing is reported as that.
            open()?;
            let path = path.display();
            let what = format!("{path} is not named like a manifest, a log segment, a table or a blob file");
            Err(Error::InvalidArgument { what })
        }
    }
}
