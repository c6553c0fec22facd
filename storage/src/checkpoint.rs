//! Checkpoints: a second store out of hard links to the files of one that is open.
//!
//! Tables and blob files never change, so a link is as good as a copy and takes no space until the first store gives
//! the file up. The manifest comes last: a directory without one is not taken for a store.

use std::io;
use std::path::{Path, PathBuf};

use crate::Sequence;
use crate::error::Error;
use crate::files;
use crate::manifest::Manifest;
use crate::state::Inner;
use crate::wal::record::{LOG_FORMAT, SegmentHeader};
use crate::wal::writer::SegmentWriter;

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The sequence of the last batch in it.
    pub sequence: Sequence,
    /// Tables and blob files.
    pub files: usize,
    /// Their length, in bytes.
    pub bytes: u64,
}

/// Files of a checkpoint that is being made; removed unless it is completed.
struct Unfinished<'a> {
    inner: &'a Inner,
    files: Vec<PathBuf>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        for path in &self.files {
            match self.inner.fs().remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a part of an unfinished checkpoint");
                }
                _ => {}
            }
        }
    }
}

impl Inner {
    /// Flushes, and links everything into `dir`.
    pub(crate) fn checkpoint(&self, dir: &Path) -> Result<Checkpoint, Error> {
        let fs = self.fs();
        fs.create_dir_all(dir).map_err(|source| Error::io("create", dir, source))?;
        let names = fs.list(dir).map_err(|source| Error::io("list", dir, source))?;
        if let Some(name) = names.first() {
            let what = format!("a checkpoint needs an empty directory, and {} holds {name}", dir.display());
            return Err(Error::InvalidArgument { what });
        }
        // Most is flushed before writers are kept out. The version keeps its files from being removed.
        self.freeze_active()?;
        self.drain_frozen()?;
        let (version, mut manifest) = {
            let mut log = self.commit.lock_log();
            self.check_writable()?;
            self.flush_all_of(&mut log)?;
            let state = self.manifest.lock();
            let version = self.super_version().version.clone();
            let manifest = self.manifest_of(&version, &state);
            (version, manifest)
        };
        manifest.log = self.next_file_number();
        manifest.next_file = manifest.log + 1;
        let mut unfinished = Unfinished { inner: self, files: Vec::new() };
        let tables = version.tables().map(|(_, table)| (table.meta.number, table.meta.bytes, false));
        let blobs = version.blobs().values().map(|live| (live.file.meta.number, live.file.meta.bytes, true));
        let mut made = Checkpoint { sequence: manifest.last_sequence, files: 0, bytes: 0 };
        for (number, bytes, is_blob) in tables.chain(blobs) {
            let name = if is_blob { files::blob } else { files::table };
            self.link(&name(self.dir(), number), &name(dir, number), &mut unfinished)?;
            made.files += 1;
            made.bytes += bytes;
        }
        unfinished.files.push(files::log(dir, manifest.log));
        let header = SegmentHeader {
            format: LOG_FORMAT,
            number: manifest.log,
            previous: 0,
            previous_len: 0,
            previous_synced: true,
        };
        // Makes the links durable as well.
        SegmentWriter::create(fs, dir, header, true, self.options.wal_segment_bytes)?;
        self.name_manifest(&manifest, dir, &mut unfinished)?;
        unfinished.files.clear();
        Ok(made)
    }

    fn link(&self, from: &Path, to: &Path, unfinished: &mut Unfinished<'_>) -> Result<(), Error> {
        match self.fs().hard_link(from, to) {
            Ok(()) => {
                unfinished.files.push(to.to_path_buf());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let what = format!("{} is not on the file system of {}", to.display(), from.display());
                Err(Error::InvalidArgument { what })
            }
            Err(source) => Err(Error::io("link", to, source)),
        }
    }

    fn name_manifest(
        &self,
        manifest: &Manifest,
        dir: &Path,
        unfinished: &mut Unfinished<'_>,
    ) -> Result<(), Error> {
        // Once renamed it may be there after a crash, and then all the rest has to be.
        unfinished.files.extend([dir.join(files::MANIFEST_NEW), dir.join(files::MANIFEST)]);
        unfinished.files.reverse();
        manifest.write(self.fs(), dir).map_err(|failed| failed.error)
    }
}
