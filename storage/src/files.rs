//! The names of the files of a store.

use std::path::{Path, PathBuf};

/// The lock file.
pub(crate) const LOCK: &str = "LOCK";
/// The current manifest.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// A manifest that is being written.
pub(crate) const MANIFEST_NEW: &str = "MANIFEST.new";

const TABLE: &str = "table";
const LOG: &str = "log";
const BLOB: &str = "blob";

/// What a name in the directory stands for. Tables, logs and blob files share one sequence of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Lock,
    Manifest,
    ManifestNew,
    Table(u64),
    Log(u64),
    Blob(u64),
    /// Not one of ours; left alone.
    Foreign,
}

/// The path of a table.
pub(crate) fn table(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.{TABLE}"))
}

/// The path of a log segment.
pub(crate) fn log(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.{LOG}"))
}

/// The path of a blob file.
pub(crate) fn blob(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.{BLOB}"))
}

/// What a file name stands for.
pub(crate) fn parse(name: &str) -> Name {
    match name {
        LOCK => return Name::Lock,
        MANIFEST => return Name::Manifest,
        MANIFEST_NEW => return Name::ManifestNew,
        _ => {}
    }
    let parsed = name.split_once('.').and_then(|(number, kind)| {
        let number = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
        match kind {
            TABLE => Some(Name::Table(number)),
            LOG => Some(Name::Log(number)),
            BLOB => Some(Name::Blob(number)),
            _ => None,
        }
    });
    parsed.unwrap_or(Name::Foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let name = |path: PathBuf| parse(path.file_name().unwrap().to_str().unwrap());
        assert_eq!(name(table(Path::new("/x"), 17)), Name::Table(17));
        assert_eq!(name(log(Path::new("/x"), u64::MAX)), Name::Log(u64::MAX));
        assert_eq!(name(blob(Path::new("/x"), 3)), Name::Blob(3));
        assert_eq!(parse("17.log"), Name::Log(17));
        for foreign in ["", "x.log", "+1.log", "1.log.old", "99999999999999999999999.table", ".table"] {
            assert_eq!(parse(foreign), Name::Foreign, "{foreign}");
        }
    }
}
