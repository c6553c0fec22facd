//! Where a flush or compaction writes to: tables, and blob files for what is large.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::Sequence;
use crate::blob::{BlobFile, BlobMeta, BlobRef, BlobWriter};
use crate::error::Error;
use crate::files;
use crate::key::Kind;
use crate::options::{Keyspace, KeyspaceOptions};
use crate::state::Inner;
use crate::table::{Table, TableBuilder, TableMeta};

/// Takes versions in order. What it has created is removed again if it is dropped unfinished.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    inner: &'a Inner,
    keyspace: Keyspace,
    options: &'a KeyspaceOptions,
    level: usize,
    table_bytes: u64,
    cleaned: Sequence,
    table: Option<TableBuilder>,
    tables: Vec<TableMeta>,
    blob: Option<BlobWriter>,
    blobs: Vec<BlobMeta>,
    /// Blob files that the versions refer to.
    known: BTreeMap<u64, Arc<BlobFile>>,
    /// Those of them whose values are moved to a new one.
    relocated: Vec<u64>,
    /// The block that was last read from each of these: values of one block mostly come one after the other.
    read: BTreeMap<u64, (u64, Bytes)>,
    reference: Vec<u8>,
    created: Vec<PathBuf>,
}

impl<'a> Output<'a> {
    /// For versions of `keyspace` that come to lie in `level`; tables are split at about `table_bytes`.
    /// Range tombstones have been applied to them up to `cleaned`.
    pub(crate) fn new(
        inner: &'a Inner,
        keyspace: Keyspace,
        options: &'a KeyspaceOptions,
        level: usize,
        table_bytes: u64,
        cleaned: Sequence,
    ) -> Output<'a> {
        Output {
            inner,
            keyspace,
            options,
            level,
            table_bytes,
            cleaned,
            table: None,
            tables: Vec::new(),
            blob: None,
            blobs: Vec::new(),
            known: BTreeMap::new(),
            relocated: Vec::new(),
            read: BTreeMap::new(),
            reference: Vec::new(),
            created: Vec::new(),
        }
    }

    /// Tells which blob files versions to come refer to, and which of these are given up.
    pub(crate) fn refer(&mut self, known: BTreeMap<u64, Arc<BlobFile>>, relocated: Vec<u64>) {
        self.known = known;
        self.relocated = relocated;
    }

    /// Appends a version; `value` is what a cursor holds beside the key, so of a separated one the reference. Returns how
    /// many bytes that wrote or will write.
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        sequence: Sequence,
        kind: Kind,
        value: &[u8],
    ) -> Result<usize, Error> {
        let mut kind = kind;
        let mut blob_bytes = 0;
        let separates = self.options.separation_bytes > 0 && value.len() >= self.options.separation_bytes;
        let blob = match kind {
            Kind::Value if separates => {
                blob_bytes = value.len();
                Some(self.blob_writer()?.add(value)?)
            }
            Kind::Separated => self.relocate(value, &mut blob_bytes)?,
            Kind::Value | Kind::Tombstone => None,
        };
        let mut reference = std::mem::take(&mut self.reference);
        let value = match blob {
            Some(blob) => {
                kind = Kind::Separated;
                reference.clear();
                blob.encode(&mut reference);
                reference.as_slice()
            }
            None => value,
        };
        let table = self.table_builder(key)?;
        table.add(key, sequence, kind, value)?;
        let written = key.len() + value.len() + blob_bytes;
        self.reference = reference;
        Ok(written)
    }

    /// Completes the files, makes them durable and opens the tables.
    pub(crate) fn finish(mut self) -> Result<Vec<(usize, Arc<Table>)>, Error> {
        if let Some(table) = self.table.take() {
            self.tables.push(table.finish()?);
        }
        if let Some(blob) = self.blob.take() {
            self.blobs.push(blob.finish()?);
        }
        if !self.created.is_empty() {
            self.inner.sync_dir()?;
        }
        for meta in std::mem::take(&mut self.blobs) {
            self.inner.counters().blob_bytes_written.add(meta.bytes);
            let file = BlobFile::open(&self.inner.context, meta)?;
            if let Some(damage) = file.damage() {
                return Err(damage.error());
            }
            self.known.insert(meta.number, Arc::new(file));
        }
        let mut tables = Vec::with_capacity(self.tables.len());
        for meta in std::mem::take(&mut self.tables) {
            let meta = TableMeta { cleaned: self.cleaned, ..meta };
            let table = Table::open(&self.inner.context, meta, |number| self.known.get(&number).cloned())?;
            tables.push((self.level, Arc::new(table)));
        }
        self.created.clear();
        Ok(tables)
    }

    fn relocate(&mut self, reference: &[u8], bytes: &mut usize) -> Result<Option<BlobRef>, Error> {
        let Some(blob) = BlobRef::decode(reference) else { return Ok(None) };
        if !self.relocated.contains(&blob.file) {
            return Ok(None);
        }
        let Some(file) = self.known.get(&blob.file).cloned() else { return Ok(None) };
        let block = match self.read.get(&blob.file) {
            Some((offset, block)) if *offset == blob.block => block.clone(),
            _ => {
                let block = file.read_block(&blob)?;
                self.read.insert(blob.file, (blob.block, block.clone()));
                block
            }
        };
        let value = file.value(&block, &blob)?;
        *bytes = value.len();
        self.blob_writer()?.add(&value).map(Some)
    }

    fn table_builder(&mut self, key: &[u8]) -> Result<&mut TableBuilder, Error> {
        // Versions of one key stay together, or a lookup would have to ask two tables of a level.
        let table_bytes = self.table_bytes;
        if let Some(full) =
            self.table.take_if(|table| table.byte_len() >= table_bytes && table.last_key() != key)
        {
            self.tables.push(full.finish()?);
        }
        match self.table {
            Some(ref mut table) => Ok(table),
            None => {
                let number = self.inner.next_file_number();
                let path = files::table(self.inner.dir(), number);
                self.created.push(path.clone());
                let (fs, keyspace) = (self.inner.fs(), self.keyspace);
                let new = TableBuilder::create(fs, path, number, keyspace, self.options, self.level)?;
                Ok(self.table.insert(new))
            }
        }
    }

    fn blob_writer(&mut self) -> Result<&mut BlobWriter, Error> {
        let limit = self.inner.options.blob_file_bytes;
        if let Some(full) = self.blob.take_if(|blob| blob.byte_len() >= limit) {
            self.blobs.push(full.finish()?);
        }
        match self.blob {
            Some(ref mut blob) => Ok(blob),
            None => {
                let number = self.inner.next_file_number();
                self.created.push(files::blob(self.inner.dir(), number));
                let (fs, dir) = (self.inner.fs(), self.inner.dir());
                let new = BlobWriter::create(fs, dir, number, self.keyspace, self.options, self.level)?;
                Ok(self.blob.insert(new))
            }
        }
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        for path in &self.created {
            match self.inner.fs().remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // The next open removes it.
                    tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
                }
                _ => {}
            }
        }
    }
}
