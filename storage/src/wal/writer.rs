//! Appends to the newest segment.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{self, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::Sequence;
use crate::batch::WriteBatch;
use crate::error::Error;
use crate::files;
use crate::fs::{File, Fs};

/// Unwritten bytes from which on they are written, although nobody waits for that.
const BUFFER_BYTES: usize = 256 << 10;

/// Capacity that the buffer keeps once it is written.
const KEPT_BUFFER_BYTES: usize = 8 << 20;

/// Space that is allocated ahead of the records: within it a sync need not make a new length durable.
const ALLOCATE_BYTES: u64 = 4 << 20;

/// Zeros that are written ahead of durable records: blocks that are only allocated are marked as written by a commit of
/// the file system's journal, which a sync then waits for; with blocks that were written before it waits for the data alone.
const ZEROS_AHEAD_BYTES: u64 = 128 << 10;
/// Where zeros are of use: fewer bytes seldom reach a new block, and with more the journal's part of a sync is small.
const ZEROS_AHEAD_OF: RangeInclusive<usize> = 1 << 10..=16 << 10;

/// The segment that takes new batches.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    pub(crate) number: u64,
    /// What is in the file and not in `buffer`.
    written: u64,
    /// How much of that is synced.
    synced: u64,
    /// How long the file is, zeros included; `None` if the file system does not allocate ahead.
    allocated: Option<u64>,
    /// Up to where zeros were written ahead.
    zeroed: u64,
    /// How much is allocated at a time.
    allocate_bytes: u64,
    buffer: Vec<u8>,
}

/// A segment that is complete and may not be synced.
#[derive(Debug)]
pub(crate) struct CompleteSegment {
    file: Arc<dyn File>,
    path: PathBuf,
    pub(crate) number: u64,
}

impl CompleteSegment {
    /// Returns how long it took.
    pub(crate) fn sync(&self) -> Result<Duration, Error> {
        sync(&*self.file, &self.path)
    }
}

fn sync(file: &dyn File, path: &Path) -> Result<Duration, Error> {
    let _span = tracing::debug_span!("fsync").entered();
    let start = Instant::now();
    file.sync().map_err(|source| Error::io("fsync", path, source))?;
    Ok(start.elapsed())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A place to go back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl SegmentWriter {
    /// Creates the segment and makes it durable, header and directory entry. `follows_synced` says whether the segments
    /// before are synced. It will take about `segment_bytes`. Returns also how long the fsync of the file took.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        header: SegmentHeader,
        follows_synced: bool,
        segment_bytes: u64,
    ) -> Result<(SegmentWriter, Duration), Error> {
        let path = files::log(dir, header.number);
        let file = fs.create(&path).map_err(|source| Error::io("create", &path, source))?;
        let bytes = header.encode();
        file.write_all_at(0, &bytes).map_err(|source| Error::io("write", &path, source))?;
        let time = sync(&*file, &path)?;
        fs.sync_dir(dir).map_err(|source| Error::io("fsync the directory of", &path, source))?;
        let len = SEGMENT_HEADER_BYTES as u64;
        let segment = SegmentWriter {
            file,
            path,
            number: header.number,
            written: len,
            synced: if follows_synced { len } else { 0 },
            allocated: Some(len),
            zeroed: 0,
            allocate_bytes: ALLOCATE_BYTES.min(segment_bytes),
            buffer: Vec::new(),
        };
        Ok((segment, time))
    }

    /// The length with what is not yet written.
    pub(crate) fn byte_len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// How much of the file is synced.
    pub(crate) fn synced_len(&self) -> u64 {
        self.synced
    }

    /// Where the buffer ends now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.buffer.len())
    }

    /// Adds a batch to the buffer. False if it is too long.
    pub(crate) fn append(&mut self, batch: &WriteBatch, sequence: Sequence) -> bool {
        let offset = self.byte_len();
        record::append(&mut self.buffer, offset, self.number, sequence, self.synced, |out| batch.encode(out))
    }

    /// Whether the buffer has grown so large that it should be written.
    pub(crate) fn is_buffer_full(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES
    }

    /// Hands the buffer to the operating system.
    pub(crate) fn write(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.allocate()?;
        self.file
            .write_all_at(self.written, &self.buffer)
            .map_err(|source| Error::io("write", &self.path, source))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        // What a huge batch needed is not kept for the small ones that follow.
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        Ok(())
    }

    fn allocate(&mut self) -> Result<(), Error> {
        let needed = self.byte_len();
        let Some(allocated) = self.allocated.filter(|&allocated| allocated < needed) else { return Ok(()) };
        let target = needed.max(allocated + self.allocate_bytes);
        match self.file.allocate(target) {
            Ok(()) => self.allocated = Some(target),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.allocated = None,
            // There may still be room for the records themselves.
            Err(error) if is_full(&error) => {}
            Err(source) => return Err(Error::io("allocate", &self.path, source)),
        }
        Ok(())
    }

    /// Writes zeros behind the records, if the next ones are likely to be synced in small portions as well.
    fn write_zeros_ahead(&mut self) -> Result<(), Error> {
        let end = self.byte_len();
        let target = self.allocated.map_or(0, |allocated| allocated.min(end + ZEROS_AHEAD_BYTES));
        if end <= self.zeroed || target <= end || !ZEROS_AHEAD_OF.contains(&self.buffer.len()) {
            return Ok(());
        }
        let zeros = vec![0; (target - end) as usize];
        match self.file.write_all_at(end, &zeros) {
            Ok(()) => self.zeroed = target,
            // Only slower.
            Err(error) if is_full(&error) => {}
            Err(source) => return Err(Error::io("write", &self.path, source)),
        }
        Ok(())
    }

    /// Writes everything and gives back what was allocated beyond; the length is then that of the records.
    pub(crate) fn trim(&mut self) -> Result<(), Error> {
        self.write()?;
        if self.allocated.is_some_and(|allocated| allocated > self.written) {
            self.cut()?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Error> {
        self.file.set_len(self.written).map_err(|source| Error::io("truncate", &self.path, source))?;
        self.allocated = self.allocated.map(|_| self.written);
        self.zeroed = self.zeroed.min(self.written);
        Ok(())
    }

    /// Whether everything is durable, in the segments before as well.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced == self.byte_len()
    }

    /// The segment that is complete and takes no more batches.
    pub(crate) fn complete(&self) -> CompleteSegment {
        CompleteSegment { file: self.file.clone(), path: self.path.clone(), number: self.number }
    }

    /// The segments before have been synced.
    pub(crate) fn follow_synced(&mut self) {
        self.synced = self.synced.max(SEGMENT_HEADER_BYTES as u64);
    }

    /// Makes all that is written durable. The segments before must be synced. Returns how long the fsync took; `None` if
    /// there was nothing to do.
    pub(crate) fn sync(&mut self) -> Result<Option<Duration>, Error> {
        if self.is_synced() {
            return Ok(None);
        }
        self.allocate()?;
        self.write_zeros_ahead()?;
        self.write()?;
        let time = sync(&*self.file, &self.path)?;
        self.synced = self.written;
        Ok(Some(time))
    }

    /// After a write that failed for want of space: forgets what was appended since `mark`, and cuts off what of
    /// the buffer reached the file.
    pub(crate) fn roll_back(&mut self, mark: Mark) -> Result<(), Error> {
        self.buffer.truncate(mark.0);
        self.cut()
    }
}
