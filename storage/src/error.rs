//! What can go wrong, sorted by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the storage engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation. Reads may be tried again; a write that fails like
    /// this has poisoned the engine or will be repeated in the background.
    #[error("cannot {op} {path}: {source}")]
    Io {
        /// What was tried: "read", "write", "fsync", …
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file holds something else than what was written to it. Restore the file from a replica or a
    /// backup; nothing of it was used.
    #[error("{path} is corrupt at offset {offset}: {what}")]
    Corruption {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What was expected and found.
        what: String,
    },
    /// A write or an fsync failed earlier, so what lies on disk is unknown. Reads still work; writes
    /// need the engine to be opened again, which replays what really reached the disk.
    #[error("the engine accepts no writes since a write to disk failed: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// Not enough free space for a write. Nothing was written; deletes still work and writes do again
    /// as soon as there is space.
    #[error("disk full: {free_bytes} bytes are free, {required_bytes} are required")]
    DiskFull {
        /// Free bytes at the last look.
        free_bytes: u64,
        /// What has to be free for a write to be admitted.
        required_bytes: u64,
    },
    /// Flush or compaction fails or lags so far behind that a write would exceed the memory it may use.
    #[error("writes have to wait: {reason}")]
    Busy {
        /// What holds the background work up.
        reason: String,
    },
    /// Another process, or another engine in this one, has the directory open.
    #[error("{path} is held by another process")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file was written by a newer release.
    #[error("{path} has format {found}; this release reads up to {supported}")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest format version known here.
        supported: u32,
    },
    /// The call breaks a documented limit.
    #[error("invalid argument: {what}")]
    InvalidArgument {
        /// Which limit.
        what: String,
    },
    /// A keyspace handle of another engine.
    #[error("there is no keyspace {id}")]
    UnknownKeyspace {
        /// The id inside the handle.
        id: u16,
    },
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed later without anybody repairing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::DiskFull { .. } | Error::Busy { .. } | Error::Locked { .. } => true,
            Error::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::Interrupted
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::StorageFull
            ),
            _ => false,
        }
    }

    /// The same error for another caller who waited for the same thing.
    pub(crate) fn duplicate(&self) -> Error {
        match self {
            Error::Io { op, path, source } => {
                let source = io::Error::new(source.kind(), source.to_string());
                Error::Io { op, path: path.clone(), source }
            }
            Error::Corruption { path, offset, what } => {
                Error::Corruption { path: path.clone(), offset: *offset, what: what.clone() }
            }
            Error::Poisoned { reason } => Error::Poisoned { reason: reason.clone() },
            Error::DiskFull { free_bytes, required_bytes } => {
                Error::DiskFull { free_bytes: *free_bytes, required_bytes: *required_bytes }
            }
            Error::Busy { reason } => Error::Busy { reason: reason.clone() },
            Error::Locked { path } => Error::Locked { path: path.clone() },
            Error::NewerFormat { path, found, supported } => {
                Error::NewerFormat { path: path.clone(), found: *found, supported: *supported }
            }
            Error::InvalidArgument { what } => Error::InvalidArgument { what: what.clone() },
            Error::UnknownKeyspace { id } => Error::UnknownKeyspace { id: *id },
            Error::Closed => Error::Closed,
        }
    }

    /// Whether an fsync failed: what it should have made durable may be lost, and the next fsync will not say so.
    pub(crate) fn is_sync(&self) -> bool {
        matches!(self, Error::Io { op, .. } if op.starts_with("fsync"))
    }

    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { op, path: path.to_path_buf(), source }
    }

    pub(crate) fn corruption(path: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::Corruption { path: path.to_path_buf(), offset, what: what.into() }
    }

    /// Whether space ran out: the one failure of a write that says that nothing else is wrong.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Error::DiskFull { .. } => true,
            Error::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
