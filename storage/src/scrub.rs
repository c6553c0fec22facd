//! Scrub: reads everything on disk and tells what is not as it was written.
//!
//! What is read is what there was when the scrub began: the manifest, the tables of one super-version, and the log as
//! far as it was synced. Tables are read past the block cache. Reads and writes go on meanwhile.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::blob::{self, BlobFile};
use crate::compaction::Throttle;
use crate::error::Error;
use crate::files;
use crate::manifest::Manifest;
use crate::quarantine::Damage;
use crate::sequential::READ_BYTES;
use crate::state::Inner;
use crate::table::Table;
use crate::table::check::check;
use crate::version::SuperVersion;
use crate::wal::reader::SegmentReader;
use crate::wal::record::{HeaderError, LOG_FORMAT, SEGMENT_HEADER_BYTES, SegmentHeader};

/// How often the caller of a throttled scrub is asked whether to go on.
const PATIENCE: Duration = Duration::from_millis(100);

/// How to scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes to read in a second at most; 0: as fast as they come.
    pub bytes_per_second: u64,
}

/// How far a scrub has come, and in the end its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Files read to their end.
    pub files: u64,
    /// Files there were to read when it began.
    pub files_total: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes there were to read when it began.
    pub bytes_total: u64,
    /// Everything that is damaged, in the order in which it was found.
    pub damages: Vec<Damage>,
    /// It was stopped by its caller before it had read everything.
    pub cancelled: bool,
}

/// One file to read.
enum Target {
    Manifest,
    /// The number of a log segment, and how much of it is to be there: of the active one what is synced, of others all.
    Segment(u64, u64),
    Table(Arc<Table>),
    Blob(Arc<BlobFile>),
}

/// A scrub under way.
struct Scrub<'a> {
    inner: &'a Inner,
    report: ScrubReport,
    throttle: Throttle,
    progress: &'a mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
}

impl Inner {
    /// Reads everything on disk. `progress` is called after each piece of at most a mebibyte and while waiting, and may
    /// stop the scrub.
    pub(crate) fn scrub(
        &self,
        options: ScrubOptions,
        progress: &mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport, Error> {
        // In this order: a segment that is not active any more by then is among the frozen ones.
        let (active, synced) = self.synced_segment();
        // The header always is.
        let synced = synced.max(SEGMENT_HEADER_BYTES as u64);
        let super_version = self.super_version();
        let targets = targets(&super_version, active, synced);
        let version = &super_version.version;
        let tables = version.tables().map(|(_, table)| table.meta.bytes);
        let blobs = version.blobs().values().map(|live| live.file.meta.bytes);
        let manifest = self.fs().open(&self.dir().join(files::MANIFEST)).and_then(|file| file.byte_len());
        let segments = targets.iter().map(|target| match target {
            Target::Segment(_, len) => *len,
            Target::Manifest | Target::Table(_) | Target::Blob(_) => 0,
        });
        let report = ScrubReport {
            files_total: targets.len() as u64,
            bytes_total: tables.chain(blobs).sum::<u64>() + segments.sum::<u64>() + manifest.unwrap_or(0),
            ..ScrubReport::default()
        };
        let throttle = Throttle::new(options.bytes_per_second);
        let mut scrub = Scrub { inner: self, report, throttle, progress };
        for target in &targets {
            if self.closing.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            if scrub.target(target).is_break() {
                if self.closing.load(Ordering::Acquire) {
                    return Err(Error::Closed);
                }
                scrub.report.cancelled = true;
                break;
            }
            scrub.report.files += 1;
        }
        Ok(scrub.report)
    }
}

/// Everything that the store consists of. A kind of file that comes to be is to be added here.
fn targets(super_version: &SuperVersion, active: u64, synced: u64) -> Vec<Target> {
    let frozen = super_version.frozen.iter().rev();
    let mut targets = vec![Target::Manifest];
    targets.extend(frozen.map(|set| Target::Segment(set.log, set.log_bytes())));
    if super_version.frozen.iter().all(|set| set.log != active) {
        targets.push(Target::Segment(active, synced));
    }
    targets.extend(super_version.version.tables().map(|(_, table)| Target::Table(table.clone())));
    targets.extend(super_version.version.blobs().values().map(|live| Target::Blob(live.file.clone())));
    targets
}

impl Scrub<'_> {
    fn target(&mut self, target: &Target) -> ControlFlow<()> {
        match target {
            Target::Manifest => self.manifest(),
            Target::Segment(number, len) => self.segment(*number, *len),
            Target::Table(table) => self.table(table),
            Target::Blob(file) => self.blob(file),
        }
    }

    /// Counts what was read, waits as the throttle says, and asks whether to go on.
    fn pace(&mut self, bytes: u64) -> ControlFlow<()> {
        self.report.bytes += bytes;
        self.inner.counters().scrub_bytes_read.add(bytes);
        let mut delay = self.throttle.delay(bytes as usize, Instant::now());
        let closing = || self.inner.closing.load(Ordering::Acquire);
        loop {
            if closing() {
                return ControlFlow::Break(());
            }
            (self.progress)(&self.report)?;
            if delay.is_zero() {
                return ControlFlow::Continue(());
            }
            let step = delay.min(PATIENCE);
            self.inner.signal.wait_for(step, closing);
            delay -= step;
        }
    }

    fn damaged(&mut self, damage: Damage) {
        self.inner.context.damages.note(&damage);
        self.report.damages.push(damage);
    }

    fn manifest(&mut self) -> ControlFlow<()> {
        let path = self.inner.dir().join(files::MANIFEST);
        match Manifest::read(self.inner.fs(), self.inner.dir()) {
            Ok(Some(manifest)) => self.pace(manifest.file_len()),
            Ok(None) => {
                self.damaged(Damage { path, offset: 0, what: "it is missing".to_owned() });
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.damaged(Damage::found(&path, 0, &error));
                ControlFlow::Continue(())
            }
        }
    }

    /// Every record up to `len` must be there.
    fn segment(&mut self, number: u64, len: u64) -> ControlFlow<()> {
        let path = files::log(self.inner.dir(), number);
        let bytes = match self.read_segment(&path, len) {
            Ok(ControlFlow::Continue(bytes)) => bytes,
            Ok(ControlFlow::Break(())) => return ControlFlow::Break(()),
            // Flushed meanwhile, and removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_needed(number) => {
                return ControlFlow::Continue(());
            }
            Err(error) => {
                let what = match error.kind() {
                    io::ErrorKind::NotFound => "the segment is missing".to_owned(),
                    _ => format!("cannot read it: {error}"),
                };
                self.damaged(Damage { path, offset: 0, what });
                return ControlFlow::Continue(());
            }
        };
        if let Err(error) = check_segment(&path, number, bytes, len) {
            self.damaged(Damage::found(&path, 0, &error));
        }
        ControlFlow::Continue(())
    }

    /// The first `len` bytes, or as many as there are.
    fn read_segment(&mut self, path: &Path, len: u64) -> io::Result<ControlFlow<(), Bytes>> {
        let file = self.inner.fs().open(path)?;
        let len = len.min(file.byte_len()?);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let at = bytes.len();
            let piece = (len - at as u64).min(READ_BYTES);
            bytes.resize(at + piece as usize, 0);
            file.read_exact_at(at as u64, bytes.get_mut(at..).unwrap_or_default())?;
            if self.pace(piece).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(Bytes::from(bytes)))
    }

    fn is_needed(&self, log: u64) -> bool {
        let super_version = self.inner.super_version();
        super_version.active.log == log || super_version.frozen.iter().any(|set| set.log == log)
    }

    fn table(&mut self, table: &Table) -> ControlFlow<()> {
        let context = &self.inner.context;
        let found = check(context, &table.meta, &mut |bytes| self.pace(bytes))?;
        for damage in &found.damages {
            table.quarantine(damage);
        }
        if found.damages.is_empty() && table.is_quarantined() {
            let path: PathBuf = files::table(self.inner.dir(), table.meta.number);
            let what = "damage was found in it earlier, and it is whole now: open the store again".to_owned();
            self.report.damages.push(Damage { path, offset: 0, what });
        }
        self.report.damages.extend(found.damages);
        ControlFlow::Continue(())
    }

    fn blob(&mut self, file: &BlobFile) -> ControlFlow<()> {
        let context = &self.inner.context;
        let found = blob::check::check(context, file.meta, &mut |bytes| self.pace(bytes))?;
        found.iter().for_each(|damage| file.quarantine(damage));
        self.report.damages.extend(found);
        ControlFlow::Continue(())
    }
}

/// Reads header and records; `bytes` is what there is of the first `len` bytes.
fn check_segment(path: &Path, number: u64, bytes: Bytes, len: u64) -> Result<(), Error> {
    match SegmentHeader::decode(&bytes) {
        Ok(header) if header.number == number => {}
        Ok(header) => {
            return Err(Error::corruption(path, 12, format!("it says that it is segment {}", header.number)));
        }
        Err(HeaderError::Damaged) => return Err(Error::corruption(path, 0, "the header is damaged")),
        Err(HeaderError::Newer(found)) => {
            return Err(Error::NewerFormat { path: path.to_path_buf(), found, supported: LOG_FORMAT });
        }
    }
    let mut reader = SegmentReader::new(path.to_path_buf(), number, bytes, Some(len));
    while reader.next()?.is_some() {}
    if reader.is_short() {
        return Err(reader.corruption(&format!("no valid record, although records were written up to {len}")));
    }
    Ok(())
}
