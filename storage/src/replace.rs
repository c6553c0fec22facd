//! Putting another store in the place of one.

use std::io;
use std::path::Path;

use crate::error::Error;
use crate::files::{self, Name};
use crate::fs::Fs;

/// Puts the store in `by`, on the same file system, in the place of the one in `dir`, which is gone then; neither may be open. Files of `by` get second
/// names in `dir`, and stay. Until this returns there may be parts of both, or of none: whoever calls it has noted that durably, and calls it again after
/// a crash before `dir` is opened.
///
/// # Errors
/// [`Error::Locked`] if the store in `dir` is open, [`Error::Io`]; it may be called again then.
pub fn replace(fs: &dyn Fs, dir: &Path, by: &Path) -> Result<(), Error> {
    let lock = dir.join(files::LOCK);
    let _lock = fs.lock(&lock).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => Error::Locked { path: lock.clone() },
        _ => Error::io("lock", &lock, source),
    })?;
    for name in names(fs, dir)? {
        let is_of_store = match files::parse(&name) {
            Name::Manifest | Name::ManifestNew | Name::Table(_) | Name::Log(_) | Name::Blob(_) => true,
            Name::Lock | Name::Foreign => false,
        };
        if is_of_store {
            let path = dir.join(name);
            fs.remove(&path).map_err(|source| Error::io("remove", &path, source))?;
        }
    }
    let link = |name: &str| {
        let to = dir.join(name);
        fs.hard_link(&by.join(name), &to).map_err(|source| Error::io("link", &to, source))
    };
    for name in names(fs, by)? {
        if matches!(files::parse(&name), Name::Table(_) | Name::Log(_) | Name::Blob(_)) {
            link(&name)?;
        }
    }
    sync(fs, dir)?;
    // What it names is there.
    link(files::MANIFEST)?;
    sync(fs, dir)
}

fn names(fs: &dyn Fs, dir: &Path) -> Result<Vec<String>, Error> {
    fs.list(dir).map_err(|source| Error::io("list", dir, source))
}

fn sync(fs: &dyn Fs, dir: &Path) -> Result<(), Error> {
    fs.sync_dir(dir).map_err(|source| Error::io("fsync", dir, source))
}
