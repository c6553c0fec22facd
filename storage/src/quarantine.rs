//! Damage that was found, remembered for those who have to repair it.
//!
//! A table in which damage was found is quarantined: compaction leaves it alone, so that the file stays for whoever
//! can restore it, and a read that needs what is damaged fails instead of answering from further down.
//! One that cannot even be opened fails every read within its keys.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::Error;
use crate::options::Keyspace;

/// Damages that are remembered in all, and of each file.
const REMEMBERED: usize = 1024;
const REMEMBERED_OF_FILE: usize = 16;

/// A place in a file that does not hold what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What was expected and found.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is corrupt at offset {}: {}", self.path.display(), self.offset, self.what)
    }
}

impl Damage {
    /// What an error says of damage; `None` if it says something else.
    pub(crate) fn of(error: &Error) -> Option<Damage> {
        match error {
            Error::Corruption { path, offset, what } => {
                Some(Damage { path: path.clone(), offset: *offset, what: what.clone() })
            }
            _ => None,
        }
    }

    /// What an error says of the file at `path`, which was read at `offset`. A place that cannot be read is damage as
    /// much as one that holds something else.
    pub(crate) fn found(path: &Path, offset: u64, error: &Error) -> Damage {
        Damage::of(error).unwrap_or_else(|| {
            let what = match error {
                Error::Io { op, source, .. } => format!("cannot {op} it: {source}"),
                other => other.to_string(),
            };
            Damage { path: path.to_path_buf(), offset, what }
        })
    }

    /// The error of those who need what is damaged.
    pub(crate) fn error(&self) -> Error {
        Error::corruption(&self.path, self.offset, self.what.as_str())
    }
}

/// The keys among which damage was found: those of a table that is damaged, or of which values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedKeys {
    /// Whose they are.
    pub keyspace: Keyspace,
    /// The first of them.
    pub smallest: Bytes,
    /// The last of them.
    pub largest: Bytes,
}

/// The damages found since the store was opened, up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Damages {
    found: Mutex<Vec<Damage>>,
}

impl Damages {
    /// Remembers a damage, unless one of that place is known or there are too many.
    pub(crate) fn note(&self, damage: &Damage) {
        let mut found = self.found.lock();
        let of_file = found.iter().filter(|known| known.path == damage.path);
        let (mut count, mut known) = (0, false);
        for other in of_file {
            count += 1;
            known |= other.offset == damage.offset;
        }
        if known || count >= REMEMBERED_OF_FILE || found.len() >= REMEMBERED {
            return;
        }
        tracing::error!(path = %damage.path.display(), offset = damage.offset, what = damage.what, "found damage");
        found.push(damage.clone());
    }

    /// In the order in which they were found.
    pub(crate) fn list(&self) -> Vec<Damage> {
        self.found.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_told_once() {
        let damages = Damages::default();
        let damage = |file: usize, offset| Damage { path: file.to_string().into(), offset, what: "x".into() };
        damages.note(&damage(0, 7));
        damages.note(&damage(0, 7));
        assert_eq!(damages.list(), [damage(0, 7)]);
        for offset in 0..100 {
            damages.note(&damage(1, offset));
        }
        assert_eq!(damages.list().len(), 1 + REMEMBERED_OF_FILE);
        for file in 2..2 * REMEMBERED {
            damages.note(&damage(file, 0));
        }
        assert_eq!(damages.list().len(), REMEMBERED);
    }
}
