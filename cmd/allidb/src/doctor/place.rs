//! What checks without a daemon look at, and their table.

use std::path::{Path, PathBuf};

use allidbd::Config;

use super::{
    certificates, directory, machine, ports, secrets,
    verdict::{Check, Finding},
};

/// A configuration, on a machine.
pub(super) struct Place {
    pub(super) config: Config,
    /// Where `/proc` and `/run` are: elsewhere in tests.
    pub(super) root: PathBuf,
}

/// All checks, in the order in which they are shown.
const CHECKS: &[Check<Place>] = &[
    ("directory", directory::permissions),
    ("store", directory::store),
    ("file system", directory::file_system),
    ("free space", directory::free_space),
    ("disk", directory::sync_latency),
    ("open files", machine::open_files),
    ("memory", machine::memory),
    ("overcommit", machine::overcommit),
    ("clock", machine::clock),
    ("certificates", certificates::check),
    ("secrets", secrets::check),
    ("ports", ports::check),
    ("openness", ports::openness),
];

pub(super) fn check(place: &Place) -> Vec<Finding> {
    CHECKS
        .iter()
        .flat_map(|&(name, check)| check(place).into_iter().map(move |found| (name, found)))
        .collect()
}

impl Place {
    pub(super) fn of(config: Config) -> Self {
        Self { config, root: PathBuf::from("/") }
    }

    /// The data directory, or the one in which it will be made; `None` if there is nothing at all.
    pub(super) fn nearest_dir(&self) -> Option<&Path> {
        let named = |dir| if dir == Path::new("") { Path::new(".") } else { dir };
        self.config.data_dir.ancestors().map(named).find(|dir| dir.is_dir())
    }

    /// What a file of the kernel's says, if there is one.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use tempfile::TempDir;

    use super::*;

    /// A machine that is nothing but a directory, with a data directory in it.
    pub(in crate::doctor) fn bare(dir: &TempDir) -> Place {
        let config = Config { data_dir: dir.path().join("data"), ..Config::default() };
        std::fs::create_dir(&config.data_dir).expect("a directory");
        Place { config, root: dir.path().to_owned() }
    }

    /// Has a file of the kernel's say something.
    pub(in crate::doctor) fn say(place: &Place, path: &str, text: &str) {
        let path = place.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn every_check_has_a_name_of_its_own_and_says_something() {
        let dir = TempDir::new().expect("a directory");
        let findings = check(&bare(&dir));
        let said: HashSet<&str> = findings.iter().map(|(name, _)| *name).collect();
        assert_eq!(said.len(), CHECKS.len(), "{findings:?}");
        assert!(findings.iter().all(|(_, verdict)| !verdict.found.is_empty()), "{findings:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_lies_in_one_that_is() {
        let dir = TempDir::new().expect("a directory");
        let mut place = bare(&dir);
        place.config.data_dir = dir.path().join("data/of/one");
        assert_eq!(place.nearest_dir(), Some(dir.path().join("data").as_path()));
        place.config.data_dir = PathBuf::from("nowhere");
        assert_eq!(place.nearest_dir(), Some(Path::new(".")));
    }
}
