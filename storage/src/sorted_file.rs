//! Sorted files that are built apart from any store, to be ingested later.
//!
//! Such a file is a table whose entries have no sequence of their own: they get one together when the file is ingested.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3Default;

use crate::blob::BlobUse;
use crate::error::Error;
use crate::files;
use crate::fs::{File, Fs};
use crate::key::Kind;
use crate::options::{Keyspace, KeyspaceOptions, MAX_KEY_BYTES};
use crate::snapshot::Direction;
use crate::table::meta::{EXTERNAL_KEYSPACE, Properties, STORED_SEQUENCE};
use crate::table::reader::{self, TableContext};
use crate::table::{Access, Table, TableBuilder, TableCursor, TableMeta};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Writes a sorted file. See [`Engine::ingest`](crate::Engine::ingest).
#[derive(Debug)]
pub struct SortedFileWriter {
    builder: TableBuilder,
    path: PathBuf,
    is_empty: bool,
}

impl SortedFileWriter {
    /// Creates the file at `path`, which must not exist. `id` tells it from all other files that may ever come to the
    /// same store, so it should be random. Of `options` all count but the name; compression is that of the last level.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(
        fs: &dyn Fs,
        path: &Path,
        id: u64,
        options: &KeyspaceOptions,
    ) -> Result<SortedFileWriter, Error> {
        let path = path.to_path_buf();
        let last = crate::version::LEVELS - 1;
        let builder = TableBuilder::create(fs, path.clone(), id, EXTERNAL_KEYSPACE, options, last)?;
        Ok(SortedFileWriter { builder, path, is_empty: true })
    }

    /// Appends a key, which must be greater than the one before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is not, or is too long; the file can be continued. [`Error::Io`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.add(key, Kind::Value, value)
    }

    /// Appends the deletion of a key, which must be greater than the one before.
    ///
    /// # Errors
    /// As [`put`](SortedFileWriter::put).
    pub fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        self.add(key, Kind::Tombstone, &[])
    }

    /// The size of the file so far, in bytes.
    pub fn byte_len(&self) -> u64 {
        self.builder.byte_len()
    }

    /// Completes the file and makes its content durable.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is empty, [`Error::Io`].
    pub fn finish(self) -> Result<(), Error> {
        if self.is_empty {
            return Err(Error::InvalidArgument { what: format!("{} has no keys", self.path.display()) });
        }
        self.builder.finish().map(|_| ())
    }

    fn add(&mut self, key: &[u8], kind: Kind, value: &[u8]) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::InvalidArgument { what });
        if key.len() > MAX_KEY_BYTES {
            return refuse(format!("a key of {} bytes; the limit is {MAX_KEY_BYTES}", key.len()));
        }
        if !self.is_empty && key <= self.builder.last_key() {
            return refuse(format!("key {key:02x?} does not follow {:02x?}", self.builder.last_key()));
        }
        self.is_empty = false;
        self.builder.add(key, STORED_SEQUENCE, kind, value)
    }
}

/// Reads what a sorted file says about itself, as the table `number` of `keyspace` that it is to become. Its sequences
/// are left open.
pub(crate) fn describe(
    file: &Arc<dyn File>,
    path: &Path,
    number: u64,
    keyspace: Keyspace,
) -> Result<TableMeta, Error> {
    let bytes = file.byte_len().map_err(|source| Error::io("stat", path, source))?;
    let (footer, properties) = reader::read_external(&**file, path, bytes)?;
    let at = footer.properties.offset;
    let properties =
        Properties::decode(properties).map_err(|_| Error::corruption(path, at, "malformed properties"))?;
    Ok(TableMeta {
        number,
        id: footer.id,
        keyspace,
        bytes,
        checksum: checksum(&**file, path, bytes)?,
        smallest: Bytes::from(properties.smallest),
        largest: Bytes::from(properties.largest),
        smallest_sequence: STORED_SEQUENCE,
        largest_sequence: STORED_SEQUENCE,
        entries: properties.entries,
        tombstones: properties.tombstones,
        global_sequence: Some(STORED_SEQUENCE),
        cleaned: 0,
    })
}

fn checksum(file: &dyn File, path: &Path, bytes: u64) -> Result<u64, Error> {
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let len = (bytes - offset).min(READ_BYTES as u64);
        let chunk = buffer.get_mut(..len as usize).unwrap_or_default();
        file.read_exact_at(offset, chunk).map_err(|source| Error::io("read", path, source))?;
        hasher.update(chunk);
        offset += len;
    }
    Ok(hasher.digest())
}

/// Opens the file of a future table and reads all of it: whether its keys are in order and everything it says about
/// itself is true. `path` is what errors name.
pub(crate) fn open_and_check(context: &TableContext, meta: TableMeta, path: &Path) -> Result<Table, Error> {
    let ours = files::table(&context.dir, meta.number);
    let blame = |error| match error {
        Error::Corruption { path: named, offset, what } if named == ours => {
            Error::corruption(path, offset, what)
        }
        error => error,
    };
    let table = Arc::new(Table::open(context, meta, |_| None).map_err(blame)?);
    // Before anything is read through the table, which would take damage for one of the store.
    if let ControlFlow::Continue(found) =
        crate::table::check::check(context, &table.meta, &mut |_| ControlFlow::Continue(()))
        && let Some(damage) = found.damages.first()
    {
        return Err(blame(damage.error()));
    }
    check(&table, path).map_err(blame)?;
    Arc::into_inner(table).ok_or_else(|| Error::corruption(path, 0, "it is in use"))
}

fn check(table: &Arc<Table>, path: &Path) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::corruption(path, 0, what));
    let mut cursor = TableCursor::new(table.clone(), None, Direction::Forward, Access::Bulk)?;
    let (mut entries, mut tombstones) = (0, 0);
    let mut last: Option<Vec<u8>> = None;
    while let Some((key, _)) = cursor.key() {
        if cursor.stored_sequence() != Some(STORED_SEQUENCE) || cursor.kind() == Kind::Separated {
            return wrong("it is a table of a store, not a file to be ingested");
        }
        if key.len() > MAX_KEY_BYTES {
            return wrong("a key is too long");
        }
        match &mut last {
            None if *key != *table.meta.smallest => return wrong("its smallest key is not its first"),
            Some(last) if last.as_slice() >= key => return wrong("its keys are not in order"),
            Some(last) => {
                last.clear();
                last.extend_from_slice(key);
            }
            None => last = Some(key.to_vec()),
        }
        entries += 1;
        tombstones += u64::from(cursor.kind() == Kind::Tombstone);
        cursor.advance()?;
    }
    if last.as_deref() != Some(&*table.meta.largest) {
        return wrong("its largest key is not its last");
    }
    if (entries, tombstones) != (table.meta.entries, table.meta.tombstones) {
        return wrong("it has another number of entries than it says");
    }
    if table.blob_uses().map(|(used, _): (&BlobUse, _)| used.blobs).sum::<u64>() > 0 {
        return wrong("it refers to blob files");
    }
    Ok(())
}
