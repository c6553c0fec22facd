//! A copy of another node's disk that arrives, file by file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use allidb_storage::{
    Durability, WriteBatch,
    fs::{File, Fs},
};
use serde::{Deserialize, Serialize};

use super::{CopiedFile, INDEXES, MANIFEST, ROWS, TAKEN, directories, names, remove, remove_files, sync_dir};
use crate::{
    error::{Error, Result},
    placement::PARTITIONS,
    replica::{Replica, placement::encode_partitions},
};

/// Which copy it is that arrives.
pub(super) const FROM: &str = "FROM";
/// How far it is: whole, with this node's own rows, and in its place.
pub(super) const READY: &str = "READY";
pub(super) const PREPARED: &str = "PREPARED";
pub(super) const PLACED: &str = "PLACED";
/// So much more than a copy takes must be free: a tenth.
const SPARE: u64 = 10;
/// What ends the name of a file that is not whole yet.
const PART: &str = ".part";
/// The row that says which copy was taken last.
pub(super) const COPY: &[u8] = b"copy";

/// Which copy of another node's disk was taken last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyNote {
    /// By the topology of which epoch.
    pub epoch: u64,
    /// Whether it is what lies here; if not, it was of no use.
    pub is_here: bool,
}

impl CopyNote {
    pub(super) fn encode(self) -> Result<Vec<u8>> {
        encode(&self)
    }
}

/// What is known of a copy that is whole.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    pub(super) epoch: u64,
    /// What this node went by when it was, and is to still when it takes its place.
    pub(super) topology: Vec<u8>,
    pub(super) catalogue: u64,
    /// Partitions that are not to lie here, of which something may be in the copy.
    pub(super) left: Vec<u8>,
}

fn encode(of: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_allocvec(of).map_err(|error| Error::Internal(format!("cannot be encoded: {error}")))
}

/// A copy that arrives.
pub struct Taken {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    files: Vec<CopiedFile>,
    /// Which try at it this is. Another one that was given up may still write to what it began.
    attempt: u64,
}

/// A file of it that does.
pub struct Arriving {
    fs: Arc<dyn Fs>,
    file: Arc<dyn File>,
    path: PathBuf,
    /// Its name until it is whole.
    part: PathBuf,
    at: u64,
    bytes: u64,
}

impl Arriving {
    /// Appends to it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, content: &[u8]) -> Result<()> {
        self.file.write_all_at(self.at, content).map_err(|source| Error::io("write", &self.part, source))?;
        self.at += content.len() as u64;
        Ok(())
    }

    /// Says that it is whole: durably, but for its name.
    ///
    /// # Errors
    /// If it is not as long as it is to be, or cannot be synced.
    pub fn finish(self) -> Result<()> {
        if self.at != self.bytes {
            let why = format!("{} has {} bytes in place of {}", self.path.display(), self.at, self.bytes);
            return Err(Error::Unavailable(why));
        }
        self.file.sync().map_err(|source| Error::io("fsync", &self.part, source))?;
        self.fs.rename(&self.part, &self.path).map_err(|source| Error::io("rename", &self.part, source))
    }
}

/// # Errors
/// If a copy is not to have a file of this name: it comes from another node.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |name: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(is_plain)
            && !name.ends_with(PART)
    };
    let parts = name.split_once('/');
    let is_good = parts.is_some_and(|(directory, name)| {
        (directory == ROWS || INDEXES.contains(&directory)) && is_plain(name)
    });
    match is_good {
        true => Ok(()),
        false => Err(Error::Unavailable(format!("a copy is said to have a file {name:?}"))),
    }
}

impl Taken {
    /// Whether a file is there already.
    ///
    /// # Errors
    /// If that cannot be told.
    pub fn has(&self, CopiedFile { name, bytes }: &CopiedFile) -> Result<bool> {
        let path = self.dir.join(name);
        match self.fs.open_read(&path).and_then(|file| file.byte_len()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            len => len.map(|len| len == *bytes).map_err(|source| Error::io("stat", &path, source)),
        }
    }

    /// Begins a file.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin(&self, CopiedFile { name, bytes }: &CopiedFile) -> Result<Arriving> {
        let path = self.dir.join(name);
        let part = self.dir.join(format!("{name}.{}{PART}", self.attempt));
        let file = self.fs.create(&part).map_err(|source| Error::io("create", &part, source))?;
        Ok(Arriving { fs: Arc::clone(&self.fs), file, path, part, at: 0, bytes: *bytes })
    }
}

impl Replica {
    /// Begins to take a copy of these files, or goes on with it: what is there of the same copy stays.
    ///
    /// # Errors
    /// If it is none, there is no space for it, or files cannot be made.
    pub fn take_copy(&self, copy: u64, files: Vec<CopiedFile>) -> Result<Taken> {
        files.iter().try_for_each(|file| check_name(&file.name))?;
        let mut named: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        named.sort_unstable();
        if let Some([twice, _]) = named.array_windows().find(|[a, b]| a == b) {
            return Err(Error::Unavailable(format!("a copy is said to have {twice} twice")));
        }
        let manifest = format!("{ROWS}/{MANIFEST}");
        if !files.iter().any(|file| file.name == manifest) {
            return Err(Error::Unavailable("a copy is said to have no manifest".to_owned()));
        }
        let dir = self.dir.join(TAKEN);
        let (fs, from) = (&*self.fs, dir.join(FROM));
        let is_same = match fs.open_read(&from).and_then(|file| file.read_all()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            known => known.map_err(|source| Error::io("read", &from, source))? == copy.to_be_bytes(),
        };
        if !is_same {
            self.forget_copy()?;
            for directory in directories(&dir) {
                fs.create_dir_all(&directory)
                    .map_err(|source| Error::io("create the directory", &directory, source))?;
            }
            write_marker(fs, &dir, FROM, &copy.to_be_bytes())?;
        }
        // What broke off of it begins anew.
        for directory in directories(&dir) {
            for part in names(fs, &directory)?.into_iter().filter(|name| name.ends_with(PART)) {
                remove(fs, &directory.join(part))?;
            }
        }
        let attempt = self.copy_attempts.fetch_add(1, Ordering::Relaxed);
        let taken = Taken { fs: Arc::clone(&self.fs), dir, files, attempt };
        let mut missing: u64 = 0;
        for file in &taken.files {
            missing = missing.saturating_add(if taken.has(file)? { 0 } else { file.bytes });
        }
        let free = fs.free_bytes(&taken.dir).map_err(|source| Error::io("stat", &taken.dir, source))?;
        // What is written meanwhile takes space, too.
        match free >= missing.saturating_add(missing / SPARE) {
            true => Ok(taken),
            false => Err(Error::FailedPrecondition(format!(
                "{missing} bytes are to be copied, and {free} are free"
            ))),
        }
    }

    /// Removes what has arrived of a copy, if it is not to take the place of what lies here.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_copy(&self) -> Result<()> {
        if self.has_copy() {
            return Ok(());
        }
        let dir = self.dir.join(TAKEN);
        // First, so that nobody goes on with what is partly removed.
        if !names(&*self.fs, &dir)?.is_empty() {
            remove(&*self.fs, &dir.join(FROM))?;
            sync_dir(&*self.fs, &dir)?;
        }
        remove_files(&*self.fs, &dir)
    }

    /// Has a copy that is whole take the place of what lies here when this replica is opened again, if it still goes by the same topology and
    /// catalogue then. What is this node's own stays: who it is, what it promised, and what it keeps for others.
    ///
    /// # Errors
    /// If a file of it is missing, or that cannot be noted.
    pub fn conclude_copy(&self, taken: &Taken, epoch: u64) -> Result<()> {
        for file in &taken.files {
            if !taken.has(file)? {
                return Err(Error::Unavailable(format!("{} is missing in a copy", file.name)));
            }
        }
        for directory in directories(&taken.dir) {
            // What another copy had there.
            for name in names(&*self.fs, &directory)? {
                let path = directory.join(&name);
                let is_of_it = |file: &CopiedFile| taken.dir.join(&file.name) == path;
                if !taken.files.iter().any(is_of_it) {
                    remove(&*self.fs, &path)?;
                }
            }
            sync_dir(&*self.fs, &directory)?;
        }
        let left: Vec<bool> = (0..PARTITIONS).map(|partition| !self.holds(partition)).collect();
        let ready = Ready {
            epoch,
            topology: self.topology()?.unwrap_or_default().to_vec(),
            catalogue: self.catalogue_version(),
            left: encode_partitions(&left),
        };
        // It is not tried again if it comes to nothing.
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.local, COPY, CopyNote { epoch, is_here: false }.encode()?);
        self.engine.write(batch, Durability::Sync)?;
        write_marker(&*self.fs, &taken.dir, READY, &encode(&ready)?)?;
        self.has_copy.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Whether a copy takes the place of what lies here when this replica is opened again.
    pub fn has_copy(&self) -> bool {
        self.has_copy.load(Ordering::SeqCst)
    }

    /// Which copy was taken last, if any ever was.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn copy_note(&self) -> Result<Option<CopyNote>> {
        let Some(note) = self.engine.get(self.keyspaces.local, COPY)? else { return Ok(None) };
        let note = postcard::from_bytes(&note).map_err(|error| Error::corrupt("local", COPY, error))?;
        Ok(Some(note))
    }
}

/// Writes a small file, whole or not at all, durably.
fn write_marker(fs: &dyn Fs, dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    remove(fs, &new)?;
    let file = fs.create(&new).map_err(|source| Error::io("create", &new, source))?;
    let written = file.write_all_at(0, content).and_then(|()| file.sync());
    written.map_err(|source| Error::io("write", &new, source))?;
    fs.rename(&new, &path).map_err(|source| Error::io("rename", &new, source))?;
    sync_dir(fs, dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_files_in_its_own_directories_alone() {
        for good in [
            "rows/MANIFEST",
            "rows/000000000012.table",
            "vectors/1.segment",
            "texts/0f.store",
            "graph/7.graph",
        ] {
            check_name(good).unwrap();
        }
        for bad in [
            "MANIFEST",
            "rows/../x",
            "rows/.x",
            "/etc/x",
            "../rows/x",
            "rows/a/b",
            "rows/",
            "other/x",
            "rows/x.part",
            "",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
