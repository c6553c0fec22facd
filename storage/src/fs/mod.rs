//! The file system as the engine sees it: everything that touches a disk goes through [`Fs`].

mod map;
mod real;
mod sim;
mod sim_disk;
mod sim_faults;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use map::{Mapped, ScratchFile, ScratchWords};
pub use real::RealFs;
pub use sim::SimFs;
pub use sim_faults::{Effect, Fault, Operation};

/// A file system. Nothing is durable before a [`sync`](File::sync) of the file *and*, for a file that was
/// created, renamed or removed, a [`sync_dir`](Fs::sync_dir) of its directory.
pub trait Fs: Send + Sync + Debug {
    /// Creates a file for reading and writing; fails if it exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading alone, which is all that may be done with the result.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }

    /// The names of the files in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and those above it, durably; fine if it exists.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file within its directory, replacing what has the new name. Atomic: after a crash either
    /// the old or the new file is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, which must not exist, on the same file system. [`io::ErrorKind::CrossesDevices`] if it
    /// is another one.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles go on working.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes created, renamed and removed entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// How many bytes may still be written to the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Memory of so many bytes, not 0, in a file that takes space on the file system of `dir` while it lives and leaves nothing
    /// behind but, after a crash at the wrong moment, a file that ends in `.scratch`. `None` where that is not to be had.
    fn scratch(&self, dir: &Path, len: u64) -> io::Result<Option<ScratchFile>> {
        let _ = (dir, len);
        Ok(None)
    }

    /// Takes an exclusive lock, creating its file if needed; it is released when the result is dropped.
    /// [`io::ErrorKind::WouldBlock`] if somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// A held lock of a directory.
pub trait Lock: Send + Sync + Debug {}

/// An open file, read and written at explicit offsets, from any number of threads.
pub trait File: Send + Sync + Debug {
    /// Reads at most `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes at most `bytes.len()` bytes at `offset`, extending the file as needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes the content and the length durable.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    fn byte_len(&self) -> io::Result<u64>;

    /// Cuts the file off at `len` bytes, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends the file with zeros to at least `len` bytes of allocated space, so that later writes within it change
    /// no metadata and a [`sync`](File::sync) is cheaper. [`io::ErrorKind::Unsupported`] if the file system cannot.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Fills `buffer` from `offset`; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_at(offset + done as u64, rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.write_at(offset + done as u64, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The content of a file that is never changed again. Mapped into memory where the file system can; here it is
    /// read.
    fn map(&self) -> io::Result<Mapped> {
        let len = usize::try_from(self.byte_len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Mapped::read(len, |bytes| self.read_exact_at(0, bytes))
    }

    /// The whole content.
    fn read_all(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.byte_len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; len];
        self.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }
}
