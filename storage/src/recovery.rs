//! Opening a store: manifest, tables, log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::Sequence;
use crate::blob::BlobFile;
use crate::error::Error;
use crate::files::{self, Name};
use crate::fs::Fs;
use crate::manifest::Manifest;
use crate::memtable::{self, MemtableSet};
use crate::options::KeyspaceOptions;
use crate::quarantine::Damage;
use crate::table::check::{Check, check};
use crate::table::reader::TableContext;
use crate::table::{Table, TableMeta};
use crate::version::{LEVELS, Version, VersionEdit};
use crate::wal::reader::{SegmentReader, has_records, vouches_for_earlier};
use crate::wal::record::{HeaderError, LOG_FORMAT, SegmentHeader};

/// No file and no batch comes to a number like this, so the sums of numbers below cannot overflow.
const NUMBER_LIMIT: u64 = u64::MAX / 3;
/// Nor has any file so many bytes or entries.
const SIZE_LIMIT: u64 = 1 << 48;

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The store did not exist before.
    pub created: bool,
    /// Log segments that were replayed.
    pub segments: usize,
    /// Batches in them.
    pub batches: u64,
    /// Their length, in bytes.
    pub bytes: u64,
    /// The sequence of the last batch, in the log or in tables.
    pub last_sequence: Sequence,
    /// The torn end of the log that was cut off, if there was one.
    pub truncated: Option<Truncation>,
    /// Files that an interrupted flush, compaction or start had left behind, and that were removed.
    pub removed_files: usize,
    /// Damage in tables and blob files that the manifest names. They stay as they are, and what is in them cannot be read: see
    /// [`crate::Stats::damages`]. Once the file is restored, opening the store takes it back.
    pub quarantined: Vec<Damage>,
}

/// Bytes at the end of the log that were no complete record. No write in them was acknowledged as synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// The log segment.
    pub path: PathBuf,
    /// Its new length.
    pub offset: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
}

/// A segment's name and start.
struct Segment {
    path: PathBuf,
    header: SegmentHeader,
}

/// A store's content as found on disk.
pub(crate) struct Recovered {
    pub(crate) recovery: Recovery,
    /// Names by id: those on disk, then new ones.
    pub(crate) keyspaces: Vec<String>,
    pub(crate) version: Version,
    /// Newest first.
    pub(crate) frozen: Vec<Arc<MemtableSet>>,
    /// The manifest does not know all keyspaces, or does not exist.
    pub(crate) needs_manifest: bool,
    pub(crate) next_file: u64,
    /// The newest segment and its length; 0, 0 if there is none.
    pub(crate) previous: (u64, u64),
    /// Files to remove once the store is complete again.
    pub(crate) orphans: Vec<PathBuf>,
}

/// Reads what is in the directory. Changes nothing but the torn end of the log.
pub(crate) fn recover(context: &TableContext, declared: &[KeyspaceOptions]) -> Result<Recovered, Error> {
    let (fs, dir) = (&*context.fs, context.dir.as_path());
    let names = fs.list(dir).map_err(|source| Error::io("list", dir, source))?;
    let names: Vec<Name> = names.iter().map(|name| files::parse(name)).collect();
    let manifest = Manifest::read(fs, dir)?;
    let mut orphans = Vec::new();
    if names.contains(&Name::ManifestNew) {
        orphans.push(dir.join(files::MANIFEST_NEW));
    }
    if manifest.is_none() {
        check_is_new(fs, dir, &names)?;
    }
    let created = manifest.is_none();
    let manifest = manifest.unwrap_or_default();
    let mut keyspaces = manifest.keyspaces.clone();
    for options in declared {
        if !keyspaces.contains(&options.name) {
            keyspaces.push(options.name.clone());
        }
    }
    if keyspaces.len() > usize::from(u16::MAX) {
        return Err(Error::InvalidArgument { what: format!("{} keyspaces", keyspaces.len()) });
    }
    let version = open_tables(context, &manifest, keyspaces.len())?;
    let mut live: BTreeSet<u64> = version.tables().map(|(_, table)| table.meta.number).collect();
    let segments = if created { Vec::new() } else { chain(fs, dir, &names, manifest.log)? };
    live.extend(version.blobs().keys());
    live.extend(segments.iter().map(|segment| segment.header.number));
    let mut next_file = manifest.next_file.max(1);
    for name in &names {
        let path = match *name {
            Name::Table(number) => files::table(dir, number),
            Name::Log(number) => files::log(dir, number),
            Name::Blob(number) => files::blob(dir, number),
            _ => continue,
        };
        if let Name::Table(number) | Name::Log(number) | Name::Blob(number) = *name {
            next_file = next_file.max(number.saturating_add(1));
            if !live.contains(&number) {
                orphans.push(path);
            }
        }
    }
    if next_file > NUMBER_LIMIT || manifest.last_sequence > NUMBER_LIMIT {
        let what = format!("file {next_file} or batch {} cannot be", manifest.last_sequence);
        return Err(Error::corruption(&dir.join(files::MANIFEST), 0, what));
    }
    let mut recovered = Recovered {
        recovery: Recovery {
            created,
            last_sequence: manifest.last_sequence,
            quarantined: context.damages.list(),
            ..Recovery::default()
        },
        needs_manifest: created
            || keyspaces.len() > manifest.keyspaces.len()
            || changed_quarantine(&manifest, &version),
        keyspaces,
        version,
        frozen: Vec::new(),
        next_file,
        previous: (0, 0),
        orphans,
    };
    let mut rest = segments.as_slice();
    while let Some((segment, later)) = rest.split_first() {
        let goes_on = recovered.replay(fs, segment, later)?;
        if !goes_on {
            recovered.discard(fs, dir, later)?;
        }
        rest = if goes_on { later } else { &[] };
    }
    Ok(recovered)
}

impl Recovered {
    /// False if the log ends within the segment, so that `later` ones count for nothing.
    fn replay(&mut self, fs: &dyn Fs, segment: &Segment, later: &[Segment]) -> Result<bool, Error> {
        let final_len = later.first().map(|next| next.header.previous_len);
        let path = &segment.path;
        let file = fs.open(path).map_err(|source| Error::io("open", path, source))?;
        let bytes = Bytes::from(file.read_all().map_err(|source| Error::io("read", path, source))?);
        let (keyspaces, last_sequence) = (self.keyspaces.len(), self.recovery.last_sequence);
        let set = MemtableSet::new(segment.header.number, keyspaces, last_sequence, Arc::default());
        let mut reader = SegmentReader::new(path.clone(), segment.header.number, bytes, final_len);
        let mut offset = reader.valid_len();
        while let Some((sequence, batch)) = reader.next()? {
            let expected = self.recovery.last_sequence + 1;
            if sequence != expected {
                let what = format!("batch {sequence} where batch {expected} belongs");
                return Err(Error::corruption(path, offset, what));
            }
            if batch.changes().iter().any(|change| usize::from(change.keyspace.0) >= self.keyspaces.len()) {
                return Err(Error::corruption(path, offset, "a change to a keyspace that does not exist"));
            }
            set.reserve(memtable::memory_bytes(&batch));
            set.insert(batch, sequence);
            self.recovery.last_sequence = sequence;
            self.recovery.batches += 1;
            offset = reader.valid_len();
        }
        let len = reader.valid_len();
        self.recovery.segments += 1;
        self.recovery.bytes += len;
        let is_short = reader.is_short();
        if is_short && is_vouched_for(fs, later)? {
            return Err(
                reader.corruption("no valid record, although a later segment says that this was synced")
            );
        }
        if final_len.is_none() || is_short {
            // The next segment says where this one ends, which has to be true.
            if file.byte_len().map_err(|source| Error::io("stat", path, source))? > len {
                file.set_len(len).map_err(|source| Error::io("truncate", path, source))?;
            }
            let torn = reader.torn_bytes().max(final_len.map_or(0, |end| end.saturating_sub(len)));
            if torn > 0 {
                tracing::warn!(path = %path.display(), offset = len, bytes = torn, "cut off the torn end of the log");
                self.recovery.truncated = Some(Truncation { path: path.clone(), offset: len, bytes: torn });
            }
        }
        // What was replayed may so far be in the operating system's memory only.
        file.sync().map_err(|source| Error::io("fsync", path, source))?;
        set.set_log_bytes(len);
        self.previous = (segment.header.number, len);
        self.frozen.insert(0, Arc::new(set));
        Ok(!is_short)
    }

    /// Removes segments that follow a torn one. None of their batches was acknowledged as synced.
    fn discard(&mut self, fs: &dyn Fs, dir: &Path, later: &[Segment]) -> Result<(), Error> {
        // The last one first, durably before the next: each names the one before, which a power cut must not take away
        // from it.
        for segment in later.iter().rev() {
            let path = &segment.path;
            tracing::warn!(path = %path.display(), "removed a log segment that follows a torn one");
            fs.remove(path).map_err(|source| Error::io("remove", path, source))?;
            fs.sync_dir(dir).map_err(|source| Error::io("fsync the directory", dir, source))?;
            self.recovery.removed_files += 1;
        }
        Ok(())
    }
}

/// Whether one of the segments, or a record in it, says that those before were synced.
fn is_vouched_for(fs: &dyn Fs, later: &[Segment]) -> Result<bool, Error> {
    for segment in later {
        let number = segment.header.number;
        if segment.header.previous_synced || vouches_for_earlier(&read(fs, &segment.path)?, number) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A directory without a manifest may only hold what an interrupted creation leaves.
fn check_is_new(fs: &dyn Fs, dir: &Path, names: &[Name]) -> Result<(), Error> {
    for name in names {
        let holds_data = match *name {
            Name::Table(_) | Name::Blob(_) => true,
            Name::Log(number) => has_records(&read(fs, &files::log(dir, number))?, number),
            _ => false,
        };
        if holds_data {
            return Err(Error::corruption(
                &dir.join(files::MANIFEST),
                0,
                "it is missing in a directory with data",
            ));
        }
    }
    Ok(())
}

fn open_tables(context: &TableContext, manifest: &Manifest, keyspaces: usize) -> Result<Version, Error> {
    let path = context.dir.join(files::MANIFEST);
    let tables = manifest.tables.iter().flat_map(|table| [table.bytes, table.entries, table.tombstones]);
    let blobs = manifest.blobs.iter().flat_map(|blob| [blob.bytes, blob.blobs, blob.value_bytes]);
    if let Some(size) = tables.chain(blobs).find(|&size| size > SIZE_LIMIT) {
        return Err(Error::corruption(&path, 0, format!("a file with {size} bytes or entries cannot be")));
    }
    let mut edit = VersionEdit { last_sequence: Some(manifest.last_sequence), ..VersionEdit::default() };
    let mut blobs = BTreeMap::new();
    for record in &manifest.blobs {
        let known = (record.keyspace as usize) < manifest.keyspaces.len();
        let meta = record.meta().filter(|_| known);
        let meta = meta.ok_or_else(|| Error::corruption(&path, 0, "a blob file of an unknown keyspace"))?;
        blobs.insert(meta.number, Arc::new(BlobFile::open(context, meta)?));
    }
    for record in &manifest.tables {
        let known = (record.keyspace as usize) < manifest.keyspaces.len() && (record.level as usize) < LEVELS;
        let meta: Option<TableMeta> = record.meta().filter(|_| known);
        let meta =
            meta.ok_or_else(|| Error::corruption(&path, 0, "a table of an unknown keyspace or level"))?;
        if meta.cleaned > manifest.last_sequence {
            return Err(Error::corruption(
                &path,
                0,
                "a table to which range deletes yet to come were applied",
            ));
        }
        let table = open_table(context, meta, record.quarantined, &blobs)?;
        edit.added.push((record.level as usize, Arc::new(table)));
    }
    for record in &manifest.range_tombstones {
        let known = (record.keyspace as usize) < manifest.keyspaces.len()
            && (1..=manifest.last_sequence).contains(&record.sequence);
        let tombstone = record.tombstone().filter(|_| known);
        let what = "a range tombstone of an unknown keyspace or sequence, or without keys";
        edit.range_tombstones.push(tombstone.ok_or_else(|| Error::corruption(&path, 0, what))?);
    }
    let version = Version::empty(keyspaces).apply(&edit, &[]);
    match version.misplaced() {
        Some(table) => {
            let what = format!("table {} overlaps another one of its level", table.meta.number);
            Err(Error::corruption(&path, 0, what))
        }
        None => Ok(version),
    }
}

/// Opens a table, or puts it into quarantine. One that was there when the store was last open is looked at as a
/// whole, since nobody knows who put what there meanwhile.
fn open_table(
    context: &TableContext,
    meta: TableMeta,
    was_quarantined: bool,
    blobs: &BTreeMap<u64, Arc<BlobFile>>,
) -> Result<Table, Error> {
    let found = match was_quarantined.then(|| check(context, &meta, &mut |_| ControlFlow::Continue(()))) {
        Some(ControlFlow::Continue(found)) => found,
        _ => Check::default(),
    };
    let unreadable = found.damages.first().filter(|_| found.is_foreign).cloned();
    let opened = match unreadable {
        Some(damage) => Err(damage),
        None => match Table::open(context, meta.clone(), |number| blobs.get(&number).cloned()) {
            Ok(table) => Ok(table),
            Err(error) => Err(Damage::of(&error).ok_or(error)?),
        },
    };
    let table = opened.unwrap_or_else(|damage| {
        let blobs = blobs.values().filter(|blob| blob.meta.keyspace == meta.keyspace).cloned().collect();
        Table::unreadable(context, meta, damage, blobs)
    });
    found.damages.iter().for_each(|damage| table.quarantine(damage));
    Ok(table)
}

/// Whether the manifest should say of other tables that they are in quarantine.
fn changed_quarantine(manifest: &Manifest, version: &Version) -> bool {
    let recorded = manifest.tables.iter().filter(|table| table.quarantined).map(|table| table.number);
    let found = version.tables().filter(|(_, table)| table.is_quarantined());
    recorded.collect::<BTreeSet<u64>>() != found.map(|(_, table)| table.meta.number).collect()
}

/// The segments from `oldest` on. Each names the one before, so none can be missing unnoticed.
fn chain(fs: &dyn Fs, dir: &Path, names: &[Name], oldest: u64) -> Result<Vec<Segment>, Error> {
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| if let Name::Log(number) = *name { Some(number) } else { None })
        .filter(|&number| number >= oldest)
        .collect();
    numbers.sort_unstable();
    let mut segments: Vec<Segment> = Vec::new();
    for number in numbers {
        let path = files::log(dir, number);
        let header = match read_header(fs, &path)? {
            Ok(header) if header.number == number => header,
            Ok(header) => {
                return Err(Error::corruption(
                    &path,
                    12,
                    format!("it says that it is segment {}", header.number),
                ));
            }
            Err(HeaderError::Newer(found)) => {
                return Err(Error::NewerFormat { path, found, supported: LOG_FORMAT });
            }
            // No record is written before the header is durable, so this segment was never in use. If it was, it
            // has records, or the next one names it.
            Err(HeaderError::Damaged) if !has_records(&read(fs, &path)?, number) => continue,
            Err(HeaderError::Damaged) => return Err(Error::corruption(&path, 0, "the header is damaged")),
        };
        let previous = segments.last().map(|segment| segment.header.number);
        match previous {
            None if number != oldest => {
                let missing = files::log(dir, oldest);
                return Err(Error::corruption(
                    &missing,
                    0,
                    "the segment is missing or its header is damaged",
                ));
            }
            Some(previous) if previous != header.previous => {
                let missing = files::log(dir, header.previous);
                return Err(Error::corruption(
                    &missing,
                    0,
                    "the segment is missing or its header is damaged",
                ));
            }
            _ => {}
        }
        segments.push(Segment { path, header });
    }
    if segments.is_empty() {
        let missing = files::log(dir, oldest);
        return Err(Error::corruption(&missing, 0, "the segment is missing or its header is damaged"));
    }
    Ok(segments)
}

fn read_header(fs: &dyn Fs, path: &Path) -> Result<Result<SegmentHeader, HeaderError>, Error> {
    let file = fs.open(path).map_err(|source| Error::io("open", path, source))?;
    let mut bytes = [0; crate::wal::record::SEGMENT_HEADER_BYTES];
    match file.read_exact_at(0, &mut bytes) {
        Ok(()) => Ok(SegmentHeader::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(HeaderError::Damaged)),
        Err(source) => Err(Error::io("read", path, source)),
    }
}

fn read(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>, Error> {
    let file = fs.open(path).map_err(|source| Error::io("open", path, source))?;
    file.read_all().map_err(|source| Error::io("read", path, source))
}
