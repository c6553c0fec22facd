//! Writing a segment, node by node, in little memory: 8 bytes a node, and a bit for each number near one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use allidb_storage::{
    Sequence,
    fs::{File, Fs},
};

use super::{
    checksum,
    layout::{BLOCK, Header, NO_PAGE, PAGE, PAGE_BYTES},
};
use crate::error::{Error, Result};

/// A segment under way.
pub(crate) struct SegmentWriter {
    path: PathBuf,
    file: Arc<dyn File>,
    header: Header,
    /// What is not written yet; begins at a block boundary.
    pending: Vec<u8>,
    written: u64,
    checksums: Vec<u8>,
    ends: Vec<u8>,
    directory: Vec<u32>,
    pages: Vec<[u64; PAGE as usize / 64]>,
}

/// Bytes written at a time.
const CHUNK: usize = 64 * BLOCK;

impl SegmentWriter {
    /// `covered`: everything written up to this sequence is in it, as far as it is about its nodes and edges.
    pub(crate) fn create(fs: &dyn Fs, path: &Path, id: u64, covered: Sequence) -> Result<Self> {
        let file = fs.create(path).map_err(|source| Error::io("create", path, source))?;
        let header = Header {
            id,
            covered,
            nodes: 0,
            edges: 0,
            record_bytes: 0,
            pages: 0,
            first_page: 0,
            directory: 0,
            checksums: 0,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            pending: Vec::new(),
            written: BLOCK as u64,
            checksums: Vec::new(),
            ends: Vec::new(),
            directory: Vec::new(),
            pages: Vec::new(),
        })
    }

    /// How many nodes it has.
    pub(crate) fn nodes(&self) -> u64 {
        self.header.nodes
    }

    /// Adds a node's record, which has so many edges going out. Numbers ascend.
    pub(crate) fn put(&mut self, number: u64, record: &[u8], edges: u64) -> Result<()> {
        let header = &mut self.header;
        if header.nodes == 0 {
            header.first_page = number / PAGE;
        }
        let page = (number / PAGE - header.first_page) as usize;
        if page >= self.directory.len() {
            self.directory.resize(page, NO_PAGE);
            self.directory.push(self.pages.len() as u32);
            self.pages.push([0; PAGE as usize / 64]);
        }
        if let Some(bits) = self.pages.last_mut() {
            bits[(number % PAGE / 64) as usize] |= 1 << (number % 64);
        }
        header.nodes += 1;
        header.edges += edges;
        header.record_bytes += record.len() as u64;
        self.ends.extend(header.record_bytes.to_le_bytes());
        self.write(record)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.flush(self.pending.len() / BLOCK * BLOCK)?;
        }
        Ok(())
    }

    /// Writes whole blocks off the front of what is pending.
    fn flush(&mut self, len: usize) -> Result<()> {
        for block in self.pending[..len].chunks(BLOCK) {
            let at = 1 + self.checksums.len() / 4;
            self.checksums.extend(checksum(self.header.id, at, block).to_le_bytes());
        }
        let written = self.file.write_all_at(self.written, &self.pending[..len]);
        written.map_err(|source| Error::io("write", &self.path, source))?;
        self.written += len as u64;
        self.pending.drain(..len);
        Ok(())
    }

    fn end_section(&mut self) -> Result<()> {
        let len = self.pending.len().div_ceil(BLOCK) * BLOCK;
        self.pending.resize(len, 0);
        self.flush(len)
    }

    /// Writes what comes after the records, makes all of it durable, and gives its path.
    pub(crate) fn finish(mut self, fs: &dyn Fs) -> Result<PathBuf> {
        self.end_section()?;
        let ends = std::mem::take(&mut self.ends);
        self.write(&ends)?;
        self.end_section()?;
        let mut before = 0_u64;
        let pages = std::mem::take(&mut self.pages);
        let mut bytes = Vec::with_capacity(PAGE_BYTES);
        for page in &pages {
            bytes.clear();
            for bits in page {
                bytes.extend(bits.to_le_bytes());
                bytes.extend(before.to_le_bytes());
                before += u64::from(bits.count_ones());
            }
            self.write(&bytes)?;
        }
        self.end_section()?;
        let directory = std::mem::take(&mut self.directory);
        for page in &directory {
            self.write(&page.to_le_bytes())?;
        }
        self.end_section()?;
        (self.header.pages, self.header.directory) = (pages.len() as u64, directory.len() as u64);
        self.header.checksums = crc32fast::hash(&self.checksums);
        let io = |op| {
            let path = &self.path;
            move |source| Error::io(op, path, source)
        };
        self.file.write_all_at(self.written, &self.checksums).map_err(io("write"))?;
        let mut first = self.header.encode();
        first.resize(BLOCK, 0);
        self.file.write_all_at(0, &first).map_err(io("write"))?;
        self.file.sync().map_err(io("fsync"))?;
        if let Some(dir) = self.path.parent() {
            fs.sync_dir(dir).map_err(io("fsync the directory of"))?;
        }
        Ok(self.path)
    }
}
