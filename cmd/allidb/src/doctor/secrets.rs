//! Files that hold secrets: whether anybody else may read them.

use std::{io, os::unix::fs::MetadataExt, path::Path};

use super::{place::Place, verdict::Verdict};

pub(super) fn check(place: &Place) -> Vec<Verdict> {
    let config = &place.config;
    let own = config.data_dir.join("admin-key");
    // That one is made when it is needed.
    let own = Some(&own).filter(|path| path.exists());
    let named = [
        ("listen.key_file", config.listen.key_file.as_ref()),
        ("ring.key_file", config.ring.key_file.as_ref()),
        ("access.admin_key_file", config.access.admin_key_file.as_ref()),
        ("embedding.key_file", config.embedding.key_file.as_ref()),
        ("the node's own key", own),
    ];
    let verdicts: Vec<Verdict> =
        named.into_iter().filter_map(|(name, path)| Some(file(name, path?))).collect();
    match verdicts.is_empty() {
        true => vec![Verdict::ok("there are none")],
        false => verdicts,
    }
}

fn file(name: &str, path: &Path) -> Verdict {
    let shown = format!("{name}: {}", path.display());
    let found = match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Verdict::fail(
                format!("{shown} cannot be read by this user"),
                "run this as the daemon's user, or give the file to it",
            );
        }
        Err(error) => return Verdict::fail(format!("{shown}: {error}"), "name a file that is there"),
    };
    let mode = found.mode() & 0o777;
    match mode {
        _ if mode & 0o007 != 0 => {
            let found = format!("{shown} is open to everybody on this machine (mode {mode:o})");
            Verdict::fail(found, "chmod 600, and replace what is in it")
        }
        _ if mode & 0o030 != 0 => {
            Verdict::warn(format!("{shown} can be changed by its group (mode {mode:o})"), "chmod 640 or 600")
        }
        _ => Verdict::ok(format!("{shown}, mode {mode:o}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;
    use crate::doctor::{place::tests::bare, verdict::State};

    #[test]
    fn secrets_are_for_their_owner() {
        let dir = TempDir::new().expect("a directory");
        let mut place = bare(&dir);
        assert_eq!(check(&place), [Verdict::ok("there are none")]);
        let key = place.config.data_dir.join("admin-key");
        fs::write(&key, "adb_").expect("written");
        for (mode, expected) in [
            (0o600, State::Ok),
            (0o640, State::Ok),
            (0o660, State::Warn),
            (0o644, State::Fail),
            (0o666, State::Fail),
        ] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(check(&place)[0].state, expected, "{mode:o}");
        }
        place.config.listen.key_file = Some(dir.path().join("nowhere"));
        let verdicts = check(&place);
        assert!(verdicts.len() == 2 && verdicts[0].state == State::Fail, "{verdicts:?}");
        assert!(verdicts[0].found.contains("listen.key_file"), "{verdicts:?}");
    }
}
