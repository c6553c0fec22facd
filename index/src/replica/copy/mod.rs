//! Copies of all that lies on a node's disk, for another one to begin with: rows, and the indexes that were made of them, which need not be made again
//! then (ADR 0047).
//!
//! | module | concept |
//! |---|---|
//! | `giving` | a copy that another node reads: second names for files that never change |
//! | `taking` | a copy that arrives, file by file |
//! | `install` | putting it in the place of what lies here, when the replica opens |

mod giving;
mod install;
mod taking;

use std::{
    io,
    path::{Path, PathBuf},
};

use allidb_storage::fs::Fs;

pub use giving::Given;
pub(super) use install::install;
pub use taking::{Arriving, CopyNote, Taken};

use crate::{
    error::{Error, Result},
    graph, text, vector,
};

/// A file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedFile {
    /// Its directory within the copy, and its name there: `rows/000000000012.table`.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
}

/// Where a copy is that is given, and one that is taken, within the node's directory.
const GIVEN: &str = "given";
const TAKEN: &str = "taken";
/// Where in a copy the rows are, and without which file there are none.
const ROWS: &str = "rows";
const MANIFEST: &str = "MANIFEST";
/// Directories of indexes, in a copy and within the node's directory.
const INDEXES: [&str; 3] = [vector::DIRECTORY, text::DIRECTORY, graph::DIRECTORY];

fn directories(copy: &Path) -> impl Iterator<Item = PathBuf> {
    std::iter::once(ROWS).chain(INDEXES).map(|directory| copy.join(directory))
}

/// The names in a directory; none if there is no such directory.
fn names(fs: &dyn Fs, dir: &Path) -> Result<Vec<String>> {
    match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|source| Error::io("list", dir, source)),
    }
}

fn remove(fs: &dyn Fs, path: &Path) -> Result<()> {
    match fs.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| Error::io("remove", path, source)),
    }
}

/// Removes the files of a copy, durably.
fn remove_files(fs: &dyn Fs, copy: &Path) -> Result<()> {
    for dir in directories(copy) {
        let names = names(fs, &dir)?;
        if names.is_empty() {
            continue;
        }
        for name in names {
            remove(fs, &dir.join(name))?;
        }
        sync_dir(fs, &dir)?;
    }
    Ok(())
}

/// Makes the entries of a directory durable.
fn sync_dir(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.sync_dir(dir).map_err(|source| Error::io("fsync", dir, source))
}
