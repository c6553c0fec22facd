//! A copy that another node reads.

use std::{io, path::PathBuf, sync::Arc};

use allidb_storage::{Direction, fs::Fs};

use super::{CopiedFile, GIVEN, INDEXES, ROWS, directories, names, remove_files};
use crate::{
    error::{Error, Result},
    replica::{Replica, rewire::PENDING},
};

/// Files that are being written, or that nobody is to have.
const OF_NOBODY: [&str; 3] = [".scratch", ".new", ".damaged"];

/// A copy of what lay here at one moment, to be read by another node. It takes no space until files are given up here.
#[derive(Debug)]
pub struct Given {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    files: Vec<CopiedFile>,
}

impl Given {
    /// Its files.
    pub fn files(&self) -> &[CopiedFile] {
        &self.files
    }

    /// So many bytes of a file, or fewer at its end.
    ///
    /// # Errors
    /// If there is no such file, or it cannot be read.
    pub fn read(&self, file: usize, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let unknown = || Error::invalid("a copy", format!("has no file {file}"));
        let CopiedFile { name, bytes: len } = self.files.get(file).ok_or_else(unknown)?;
        let path = self.dir.join(name);
        let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut content = vec![0; bytes.min(left)];
        let read = self.fs.open_read(&path).and_then(|file| file.read_exact_at(offset, &mut content));
        read.map_err(|source| Error::io("read", &path, source)).map(|()| content)
    }
}

impl Replica {
    /// Makes a copy of what lies here, in the place of one that was made before. What is written meanwhile waits for a moment.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] if something of it is damaged, edges of a merged entity are being moved, or little space is left; if files
    /// cannot be linked.
    pub fn give_copy(&self) -> Result<Given> {
        let refused = |why: &str| Err(Error::FailedPrecondition(why.to_owned()));
        if !self.engine.damaged().is_empty() || !self.healing().is_empty() {
            return refused("something of what lies here is damaged");
        }
        // They are moved by the clock of this node, and would be by another one's again.
        let rewired = self.engine.snapshot().prefix(self.keyspaces.local, PENDING, Direction::Forward)?;
        if rewired.take(1).count() > 0 {
            return refused("edges of a merged entity are being moved here");
        }
        if !self.may_give_copies() {
            return refused("little space is left here");
        }
        self.end_copy()?;
        let dir = self.dir.join(GIVEN);
        for directory in directories(&dir) {
            self.fs
                .create_dir_all(&directory)
                .map_err(|source| Error::io("create the directory", &directory, source))?;
        }
        // A segment that the rows name was there before them, or is there after; one that both miss is made again from rows.
        self.link_segments()?;
        self.engine.checkpoint(&dir.join(ROWS))?;
        self.link_segments()?;
        let mut files = Vec::new();
        for directory in std::iter::once(ROWS).chain(INDEXES) {
            for name in names(&*self.fs, &dir.join(directory))? {
                let path = dir.join(directory).join(&name);
                let bytes = self.fs.open_read(&path).and_then(|file| file.byte_len());
                let bytes = bytes.map_err(|source| Error::io("stat", &path, source))?;
                files.push(CopiedFile { name: format!("{directory}/{name}"), bytes });
            }
        }
        Ok(Given { fs: Arc::clone(&self.fs), dir, files })
    }

    /// Whether there is space for a copy: it keeps files that would be removed.
    pub fn may_give_copies(&self) -> bool {
        self.engine.free_space().is_ok()
    }

    /// Removes a copy that was made for another node, if there is one.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn end_copy(&self) -> Result<()> {
        remove_files(&*self.fs, &self.dir.join(GIVEN))
    }

    /// Gives second names to the files of indexes, as far as they have none.
    fn link_segments(&self) -> Result<()> {
        for directory in INDEXES {
            let (from, to) = (self.dir.join(directory), self.dir.join(GIVEN).join(directory));
            for name in names(&*self.fs, &from)? {
                if OF_NOBODY.iter().any(|end| name.ends_with(end)) {
                    continue;
                }
                match self.fs.hard_link(&from.join(&name), &to.join(&name)) {
                    // It was linked before, or is gone by now.
                    Err(error)
                        if [io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound]
                            .contains(&error.kind()) => {}
                    linked => linked.map_err(|source| Error::io("link", &to.join(name), source))?,
                }
            }
        }
        Ok(())
    }
}
