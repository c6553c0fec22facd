//! The data directory: whose it is, what it lies on, how fast that is, and the store in it.

use std::{
    fs::Metadata,
    io::{self, Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use allidb_storage::{
    Error,
    fs::RealFs,
    inspect::{InspectOptions, inspect},
};
use rustix::fs::{Access, access, statfs, statvfs};

use super::{place::Place, verdict::Verdict};
use crate::maintenance::size;

/// File systems on which a store loses data, or its speed: their numbers (statfs(2)), names, and why.
const BAD_FILE_SYSTEMS: &[(u32, &str, &str)] = &[
    (0x0102_1994, "tmpfs", "it is in memory, and gone after a restart"),
    (0x8584_58f6, "ramfs", "it is in memory, and gone after a restart"),
    (0x6969, "NFS", "its locks and fsync may not hold what they promise"),
    (0xff53_4d42, "CIFS", "its locks and fsync may not hold what they promise"),
    (0xfe53_4d42, "SMB", "its locks and fsync may not hold what they promise"),
    (0x6573_5546, "FUSE", "its fsync may not hold what it promises"),
    (0x0102_1997, "9p", "its fsync may not hold what it promises"),
    (0x794c_7630, "overlayfs", "it is the layer of a container, and is gone with it"),
];
/// How often a write is synced to see how long that takes: the median of so many is told.
const SYNCS: usize = 9;
/// Longer than solid state disks take, and about what a turn of a spinning one does.
const SLOW_SYNC: Duration = Duration::from_millis(20);

pub(super) fn permissions(place: &Place) -> Vec<Verdict> {
    let dir = &place.config.data_dir;
    vec![match dir.metadata() {
        Ok(found) => judge_directory(dir, &found, rustix::process::geteuid().as_raw()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match place.nearest_dir() {
            Some(above) if access(above, Access::WRITE_OK | Access::EXEC_OK).is_ok() => {
                Verdict::ok(format!("{} is made with the first start", dir.display()))
            }
            _ => Verdict::fail(
                format!("{} is not there, and cannot be made", dir.display()),
                "make it, and give it to the user that the daemon runs as",
            ),
        },
        Err(error) => Verdict::fail(format!("{}: {error}", dir.display()), "have the daemon's user reach it"),
    }]
}

fn judge_directory(dir: &Path, found: &Metadata, user: u32) -> Verdict {
    let (shown, mode) = (dir.display(), found.mode() & 0o777);
    if !found.is_dir() {
        return Verdict::fail(format!("{shown} is no directory"), "set `data_dir` to one");
    }
    if access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Verdict::fail(
            format!("{shown} cannot be written to by this user ({user})"),
            "run this as the user that the daemon runs as, or give the directory to it",
        );
    }
    if found.uid() != user {
        return Verdict::warn(
            format!("{shown} is of user {}, and this is user {user}", found.uid()),
            "run the daemon as one user: files that another one makes may not be its own to write",
        );
    }
    if mode & 0o022 != 0 {
        let why = "chmod 750: whoever writes there can change everything";
        return Verdict::warn(format!("{shown} can be written to by others (mode {mode:o})"), why);
    }
    if mode & 0o007 != 0 {
        let why = "chmod 750: everything that is stored is in its files, as it is";
        return Verdict::warn(format!("{shown} is open to everybody on this machine (mode {mode:o})"), why);
    }
    Verdict::ok(format!("{shown}, of user {user}, mode {mode:o}"))
}

pub(super) fn store(place: &Place) -> Vec<Verdict> {
    let path = place.config.data_dir.join("MANIFEST");
    if !path.exists() {
        return vec![Verdict::ok("no store yet")];
    }
    vec![match inspect(&RealFs, &path, InspectOptions::default()) {
        Ok(found) if found.damages().is_empty() => {
            Verdict::ok("its manifest is whole, and of a format that is read")
        }
        Ok(found) => Verdict::fail(
            format!(
                "the manifest is damaged: {}",
                found.damages().iter().map(|damage| &*damage.what).collect::<Vec<_>>().join("; ")
            ),
            "put back a copy of the file, or replace the node (docs/operations.md)",
        ),
        Err(error @ Error::NewerFormat { .. }) => {
            Verdict::fail(error.to_string(), "start the release that wrote it, or a newer one")
        }
        Err(error) => Verdict::fail(error.to_string(), "have the daemon's user read it"),
    }]
}

pub(super) fn file_system(place: &Place) -> Vec<Verdict> {
    // The bits count: their type differs between machines.
    let kind = place.nearest_dir().and_then(|dir| statfs(dir).ok()).map(|found| found.f_type as u32);
    vec![kind.map_or_else(|| Verdict::skipped("the system does not say"), judge_file_system)]
}

fn judge_file_system(kind: u32) -> Verdict {
    match BAD_FILE_SYSTEMS.iter().find(|(number, ..)| *number == kind) {
        Some((_, name, why)) => {
            Verdict::warn(format!("{name}: {why}"), "set `data_dir` to a local disk (ext4, XFS)")
        }
        None => Verdict::ok(format!("of a kind without known trouble ({kind:#x})")),
    }
}

pub(super) fn free_space(place: &Place) -> Vec<Verdict> {
    let found = place.nearest_dir().and_then(|dir| statvfs(dir).ok());
    let least = place.config.storage.min_free_bytes.0;
    vec![match found {
        Some(found) => judge_free_space(
            found.f_bavail.saturating_mul(found.f_frsize),
            found.f_blocks.saturating_mul(found.f_frsize),
            least,
        ),
        None => Verdict::skipped("the system does not say"),
    }]
}

fn judge_free_space(free: u64, all: u64, least: u64) -> Verdict {
    let found = format!("{} of {} are free", size(free), size(all));
    if free < least {
        return Verdict::fail(
            format!("{found}: less than `storage.min_free_bytes`, {}", size(least)),
            "make room: all writes but deletions are refused",
        );
    }
    // Compaction writes what it merges before it removes what that was merged of.
    if free < least.saturating_mul(4) || free < all / 10 {
        return Verdict::warn(
            found,
            "make room: compaction needs some, and below `storage.min_free_bytes` writes are refused",
        );
    }
    Verdict::ok(found)
}

pub(super) fn sync_latency(place: &Place) -> Vec<Verdict> {
    let Some(dir) = place.nearest_dir() else { return vec![Verdict::skipped("there is no directory")] };
    vec![match measure_syncs(dir) {
        Ok(median) => judge_sync_latency(median),
        Err(error) => Verdict::skipped(format!("nothing can be written there: {error}")),
    }]
}

/// The median of several writes to a file without a name, each of them synced.
fn measure_syncs(dir: &Path) -> io::Result<Duration> {
    let mut file = tempfile::tempfile_in(dir)?;
    let block = [0xa5; 4096];
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        // In place: what a growing file costs beside is the file system's own.
        file.rewind()?;
        file.write_all(&block)?;
        let begun = Instant::now();
        file.sync_data()?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok(took.get(SYNCS / 2).copied().unwrap_or_default())
}

fn judge_sync_latency(median: Duration) -> Verdict {
    let found = format!("an fsync takes {:.2} ms", median.as_secs_f64() * 1e3);
    if median > SLOW_SYNC {
        return Verdict::warn(
            found,
            "use a faster disk, or one with less load: each durable write waits for it",
        );
    }
    Verdict::ok(found)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

    use allidb_storage::{Engine, Options};
    use tempfile::TempDir;

    use super::*;
    use crate::doctor::{place::tests::bare, verdict::State};

    fn only(verdicts: Vec<Verdict>) -> Verdict {
        let [verdict] = <[Verdict; 1]>::try_from(verdicts).expect("one verdict");
        verdict
    }

    #[test]
    fn directories() {
        let dir = TempDir::new().expect("a directory");
        let mut place = bare(&dir);
        let data = place.config.data_dir.clone();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).expect("ours");
        assert_eq!(only(permissions(&place)).state, State::Ok);
        for mode in [0o777, 0o755, 0o751, 0o770] {
            fs::set_permissions(&data, fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(only(permissions(&place)).state, State::Warn, "{mode:o}");
        }
        let found = data.metadata().expect("there");
        assert_eq!(judge_directory(&data, &found, found.uid() + 1).state, State::Warn);
        place.config.data_dir = data.join("new");
        assert_eq!(only(permissions(&place)).state, State::Ok);
        let file = data.join("file");
        fs::write(&file, "").expect("written");
        place.config.data_dir = file;
        assert_eq!(only(permissions(&place)).state, State::Fail);
    }

    #[test]
    fn stores() {
        let dir = TempDir::new().expect("a directory");
        let place = bare(&dir);
        assert_eq!(only(store(&place)).state, State::Ok);
        let engine = Engine::open(Arc::new(RealFs), &place.config.data_dir, Options::default());
        engine.expect("a store").close().expect("closed");
        assert_eq!(only(store(&place)).state, State::Ok);
        let path = place.config.data_dir.join("MANIFEST");
        let mut bytes = fs::read(&path).expect("there");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).expect("written");
        assert_eq!(only(store(&place)).state, State::Fail);
    }

    #[test]
    fn file_systems() {
        assert_eq!(judge_file_system(0xef53).state, State::Ok);
        for (kind, name, _) in BAD_FILE_SYSTEMS {
            let verdict = judge_file_system(*kind);
            assert!(verdict.state == State::Warn && verdict.found.contains(name), "{verdict:?}");
        }
        let dir = TempDir::new().expect("a directory");
        assert_ne!(only(file_system(&bare(&dir))).state, State::Skipped);
    }

    #[test]
    fn free_spaces() {
        const GIB: u64 = 1 << 30;
        for (free, all, expected) in [
            (50 * GIB, 100 * GIB, State::Ok),
            (9 * GIB, 100 * GIB, State::Warn),
            (3 * GIB, 4 * GIB, State::Warn),
            (GIB - 1, 100 * GIB, State::Fail),
        ] {
            assert_eq!(judge_free_space(free, all, GIB).state, expected, "{free} of {all}");
        }
        let dir = TempDir::new().expect("a directory");
        let mut place = bare(&dir);
        assert_ne!(only(free_space(&place)).state, State::Skipped);
        place.config.storage.min_free_bytes.0 = u64::MAX;
        assert_eq!(only(free_space(&place)).state, State::Fail);
    }

    #[test]
    fn disks() {
        assert_eq!(judge_sync_latency(Duration::from_millis(1)).state, State::Ok);
        assert_eq!(judge_sync_latency(Duration::from_millis(21)).state, State::Warn);
        let dir = TempDir::new().expect("a directory");
        let place = bare(&dir);
        assert_ne!(only(sync_latency(&place)).state, State::Skipped);
        assert_eq!(fs::read_dir(&place.config.data_dir).expect("there").count(), 0, "nothing is left there");
    }
}
