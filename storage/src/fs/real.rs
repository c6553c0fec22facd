//! The file system of the operating system.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::{File, Fs, Lock, Mapped, ScratchFile};

/// Files of the operating system, with positioned reads and writes, `fdatasync` and `flock`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

#[derive(Debug)]
struct RealFile(fs::File);

#[derive(Debug)]
struct RealLock {
    // Closing the file releases the lock.
    _file: fs::File,
}

impl Lock for RealLock {}

impl Fs for RealFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::File::open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if fs::exists(dir)? {
            return Ok(());
        }
        // Each new directory is an entry of the one above, which has to reach the disk as well.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.create_dir_all(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.sync_dir(parent)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn scratch(&self, dir: &Path, len: u64) -> io::Result<Option<ScratchFile>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}.scratch", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = dir.join(name);
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let file = RealFile(file);
        fs::remove_file(&path)?;
        // A page for which there is no space when it is written to would end the process.
        match file.allocate(len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
            allocated => {
                allocated?;
                ScratchFile::map(&file.0).map(Some)
            }
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file }))
    }
}

impl File for RealFile {
    fn map(&self) -> io::Result<Mapped> {
        Mapped::map(&self.0)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            // Network and copy-on-write file systems.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Err(io::ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_within_one_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealFs.lock(&path).unwrap();
        assert_eq!(RealFs.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealFs.lock(&path).unwrap();
    }

    #[test]
    fn files_keep_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        RealFs.create_dir_all(&nested).unwrap();
        let file = RealFs.create(&nested.join("file")).unwrap();
        file.write_all_at(3, b"abc").unwrap();
        file.sync().unwrap();
        assert_eq!(file.read_all().unwrap(), b"\0\0\0abc");
        assert_eq!(RealFs.create(&nested.join("file")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.allocate(5000).unwrap();
        assert_eq!(file.byte_len().unwrap(), 5000);
        file.set_len(4).unwrap();
        RealFs.rename(&nested.join("file"), &nested.join("other")).unwrap();
        assert_eq!(RealFs.open(&nested.join("other")).unwrap().byte_len().unwrap(), 4);
        assert_eq!(RealFs.list(&nested).unwrap(), ["other"]);
        assert!(RealFs.free_bytes(&nested).unwrap() > 0);
        RealFs.hard_link(&nested.join("other"), &dir.path().join("link")).unwrap();
        assert_eq!(RealFs.open(&dir.path().join("link")).unwrap().byte_len().unwrap(), 4);
        RealFs.remove(&nested.join("other")).unwrap();
        RealFs.sync_dir(&nested).unwrap();
    }

    #[test]
    fn a_scratch_file_is_memory_that_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut scratch = RealFs.scratch(dir.path(), 10_000).unwrap().expect("space can be allocated");
        assert_eq!(scratch.bytes(), [0; 10_000]);
        scratch.bytes_mut()[4..8].copy_from_slice(&7_u32.to_le_bytes());
        let words = scratch.into_words();
        assert_eq!((words.len(), words[1].load(Ordering::Relaxed)), (2_500, 7));
        words[2].store(8, Ordering::Relaxed);
        assert_eq!(words[2].load(Ordering::Relaxed), 8);
        assert_eq!(RealFs.list(dir.path()).unwrap(), [""; 0]);
        assert!(RealFs.scratch(dir.path(), 1 << 60).is_err(), "no disk has so much space");
    }
}
