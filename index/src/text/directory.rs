//! tantivy's files on our file system: those of one segment lie side by side, their names beginning with the segment's id.

use std::{
    fmt,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use allidb_storage::fs::{File, Fs};
use tantivy::directory::{
    AntiCallToken, Directory, DirectoryLock, FileHandle, Lock, TerminatingWrite, WatchCallback, WatchHandle,
    WritePtr,
    error::{DeleteError, LockError, OpenReadError, OpenWriteError},
};

use crate::text::shared::Shared;

/// Where the files of one segment lie.
#[derive(Clone)]
pub(super) struct SegmentFiles {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    /// Every file's name begins so.
    prefix: String,
}

/// What the names of a segment's files begin with.
pub(super) fn file_prefix(id: u64) -> String {
    format!("{id:016x}.")
}

impl SegmentFiles {
    pub(super) fn new(fs: &Arc<dyn Fs>, dir: &Path, id: u64) -> Self {
        Self { fs: Arc::clone(fs), dir: dir.to_owned(), prefix: file_prefix(id) }
    }

    pub(super) fn place(&self, path: &Path) -> PathBuf {
        self.dir.join(format!("{}{}", self.prefix, path.display()))
    }

    fn map(&self, path: &Path) -> io::Result<Shared> {
        self.fs.open_read(&self.place(path))?.map().map(Shared::new)
    }
}

impl fmt::Debug for SegmentFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}*", self.dir.display(), self.prefix)
    }
}

/// Appends to a file, which is durable when it was terminated.
struct Appending {
    file: Arc<dyn File>,
    at: u64,
}

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(self.at, bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TerminatingWrite for Appending {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        self.file.sync()
    }
}

fn open_error(path: &Path, error: io::Error) -> OpenReadError {
    match error.kind() {
        io::ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
        _ => OpenReadError::wrap_io_error(error, path.to_owned()),
    }
}

impl Directory for SegmentFiles {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        Ok(Arc::new(self.map(path).map_err(|error| open_error(path, error))?))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.fs.remove(&self.place(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DeleteError::FileDoesNotExist(path.to_owned()),
            _ => DeleteError::IoError { io_error: Arc::new(error), filepath: path.to_owned() },
        })
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        match self.fs.open_read(&self.place(path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(open_error(path, error)),
        }
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let file = self.fs.create(&self.place(path)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => OpenWriteError::FileAlreadyExists(path.to_owned()),
            _ => OpenWriteError::wrap_io_error(error, path.to_owned()),
        })?;
        Ok(BufWriter::new(Box::new(Appending { file, at: 0 })))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let read = self.fs.open_read(&self.place(path)).and_then(|file| file.read_all());
        read.map_err(|error| open_error(path, error))
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let place = self.place(path);
        let new = place.with_extension("new");
        match self.fs.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.fs.create(&new)?;
        file.write_all_at(0, data)?;
        file.sync()?;
        self.fs.rename(&new, &place)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.fs.sync_dir(&self.dir)
    }

    /// Nobody else has a segment's files before they are whole, and nobody changes them then.
    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
