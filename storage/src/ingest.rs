//! Takes over sorted files that were built elsewhere, without writing their entries again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Sequence;
use crate::commit::Publish;
use crate::error::Error;
use crate::files;
use crate::options::Keyspace;
use crate::sorted_file;
use crate::state::Inner;
use crate::table::Table;
use crate::version::{LEVELS, Version, VersionEdit};

/// Tables on their way in; their files go if they do not arrive.
struct Arriving<'a> {
    inner: &'a Inner,
    tables: Vec<Table>,
    files: Vec<PathBuf>,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        for path in &self.files {
            match self.inner.fs().remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // The next open removes it.
                    tracing::warn!(path = %path.display(), %error, "cannot remove a file that was not ingested");
                }
                _ => {}
            }
        }
    }
}

impl Inner {
    /// See [`Engine::ingest`](crate::Engine::ingest).
    pub(crate) fn ingest(
        &self,
        keyspace: Keyspace,
        paths: &[PathBuf],
        publish: Publish,
    ) -> Result<Sequence, Error> {
        self.check_writable()?;
        let mut arriving = Arriving { inner: self, tables: Vec::new(), files: Vec::new() };
        for path in paths {
            self.take_over(keyspace, path, &mut arriving)?;
        }
        arriving.tables.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
        if let Some([left, _]) =
            arriving.tables.array_windows().find(|[left, right]| left.meta.largest >= right.meta.smallest)
        {
            let what = format!("two files hold keys about {:02x?}", left.meta.largest);
            return Err(Error::InvalidArgument { what });
        }
        self.sync_dir()?;
        // All older versions have to be in tables: a lookup takes the first one that it finds. Most are after this, so
        // that writers wait for the rest only.
        self.freeze_active()?;
        self.drain_frozen()?;
        self.install_ingested(&mut arriving, publish)
    }

    /// Gives a file a name of ours, and checks all of it.
    fn take_over(&self, keyspace: Keyspace, path: &Path, arriving: &mut Arriving<'_>) -> Result<(), Error> {
        let fs = self.fs();
        let original = fs.open(path).map_err(|source| Error::io("open", path, source))?;
        let bytes = original.byte_len().map_err(|source| Error::io("stat", path, source))?;
        self.check_space(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let number = self.next_file_number();
        let ours = files::table(self.dir(), number);
        match fs.hard_link(path, &ours) {
            Ok(()) => arriving.files.push(ours.clone()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                arriving.files.push(ours.clone());
                self.copy(path, &*original, bytes, &ours)?;
            }
            Err(source) => return Err(Error::io("link", &ours, source)),
        }
        let file = fs.open(&ours).map_err(|source| Error::io("open", &ours, source))?;
        file.sync().map_err(|source| Error::io("fsync", &ours, source))?;
        let meta = sorted_file::describe(&file, path, number, keyspace)?;
        arriving.tables.push(sorted_file::open_and_check(&self.context, meta, path)?);
        Ok(())
    }

    fn copy(&self, from: &Path, original: &dyn crate::fs::File, bytes: u64, to: &Path) -> Result<(), Error> {
        let copy = self.fs().create(to).map_err(|source| Error::io("create", to, source))?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < bytes {
            let len = (bytes - offset).min(buffer.len() as u64);
            let chunk = buffer.get_mut(..len as usize).unwrap_or_default();
            original.read_exact_at(offset, chunk).map_err(|source| Error::io("read", from, source))?;
            copy.write_all_at(offset, chunk).map_err(|source| Error::io("write", to, source))?;
            offset += len;
        }
        Ok(())
    }

    /// Stops writers, gives the tables the next sequence, and makes them durable, published and visible.
    fn install_ingested(&self, arriving: &mut Arriving<'_>, publish: Publish) -> Result<Sequence, Error> {
        let mut log = self.commit.lock_log();
        self.check_writable()?;
        self.flush_all_of(&mut log)?;
        let sequence = log.last_sequence() + 1;
        let mut edit = VersionEdit { last_sequence: Some(sequence), ..VersionEdit::default() };
        // Until the tables are in the version no compaction may start that would write to where they go.
        let compacting = self.compacting.lock();
        let version = self.super_version().version.clone();
        for mut table in std::mem::take(&mut arriving.tables) {
            table.meta.global_sequence = Some(sequence);
            (table.meta.smallest_sequence, table.meta.largest_sequence) = (sequence, sequence);
            let meta = &table.meta;
            let is_written_to = compacting.writes_to(meta.keyspace, &meta.smallest, &meta.largest);
            let level = if is_written_to { 0 } else { lowest_free_level(&version, &table) };
            edit.added.push((level, Arc::new(table)));
        }
        let bytes = edit.added.iter().map(|(_, table)| table.meta.bytes).sum();
        // From here on the files belong to the tables. Where it is open which manifest a crash would leave they stay, and the
        // next open removes what that one does not name.
        arriving.files.clear();
        self.install(&edit, None)?;
        drop(compacting);
        self.counters().ingested_bytes.add(bytes);
        let active = self.commit.lock_apply();
        log.skip_to(&active, sequence);
        let published = catch_unwind(AssertUnwindSafe(|| publish(sequence)));
        self.visible.store(sequence, Ordering::Release);
        match published {
            Ok(()) => Ok(sequence),
            Err(_) => Err(self.poison(format!("the publication of ingested files, {sequence}, panicked"))),
        }
    }
}

/// The deepest level that a table with the newest versions may be put into: above all others with keys in its range.
fn lowest_free_level(version: &Version, table: &Table) -> usize {
    let Some(levels) = version.keyspace(table.meta.keyspace) else { return 0 };
    let overlaps = |level| !levels.overlapping(level, &table.meta.smallest, &table.meta.largest).is_empty();
    match (0..LEVELS).find(|level| overlaps(*level)) {
        Some(level) => level.saturating_sub(1),
        None => LEVELS - 1,
    }
}
