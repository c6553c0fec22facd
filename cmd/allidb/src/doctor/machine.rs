//! What the machine gives: open files, memory, a clock.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use allidbd::Config;
use rustix::process::{Resource, getrlimit};

use super::{place::Place, verdict::Verdict};
use crate::maintenance::size;

/// Files that a daemon opens beside connections: tables, segments, logs.
const FILES_BESIDE: u64 = 1_024;
/// What clocks of different machines, and file systems, may differ by.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
/// Before this was written: 2026-01-01, in seconds since 1970.
const PAST: u64 = 1_767_225_600;

pub(super) fn open_files(place: &Place) -> Vec<Verdict> {
    // The daemon raises it as far as it may.
    vec![judge_open_files(getrlimit(Resource::Nofile).maximum, place.config.limits.connections as u64)]
}

fn judge_open_files(most: Option<u64>, connections: u64) -> Verdict {
    let Some(most) = most else { return Verdict::ok("as many as are asked for") };
    let found = format!("{most} may be open");
    let advice = "raise the limit: `ulimit -Hn`, or LimitNOFILE= of the service";
    if most < FILES_BESIDE {
        return Verdict::fail(format!("{found}: too few for tables and segments"), advice);
    }
    if most / 4 < connections {
        let why = format!(
            "{found}: at each port {} connections are taken, and not the {connections} of `limits.connections`",
            most / 4
        );
        return Verdict::warn(why, advice);
    }
    Verdict::ok(found)
}

pub(super) fn memory(place: &Place) -> Vec<Verdict> {
    let Config { storage, vectors, limits, .. } = &place.config;
    let budgets = [storage.memory_bytes, vectors.memory_bytes, limits.request_bytes];
    let asked = budgets.iter().fold(0, |sum: u64, budget| sum.saturating_add(budget.0));
    vec![match memory_of(place) {
        Some(there) => judge_memory(asked, there),
        None => Verdict::skipped("the system does not say how much there is"),
    }]
}

/// That of the machine, or less, if this is all that a container may use.
fn memory_of(place: &Place) -> Option<u64> {
    let info = place.read("proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10;
    let limits = ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|path| place.read(path)?.trim().parse::<u64>().ok());
    Some(limits.fold(machine, u64::min))
}

fn judge_memory(asked: u64, there: u64) -> Verdict {
    let found = format!(
        "{} of {} are budgets (`storage.memory_bytes`, `vectors.memory_bytes`, `limits.request_bytes`)",
        size(asked),
        size(there)
    );
    let advice = "lower them: the kernel ends what takes more than there is";
    match asked {
        _ if asked > there => Verdict::fail(found, advice),
        // What is left is for mapped segments, and for whatever else runs here.
        _ if asked > there / 4 * 3 => Verdict::warn(found, advice),
        _ => Verdict::ok(found),
    }
}

pub(super) fn overcommit(place: &Place) -> Vec<Verdict> {
    let mode = place.read("proc/sys/vm/overcommit_memory");
    vec![match mode.as_deref().map(str::trim) {
        None => Verdict::skipped("the system does not say"),
        // The allocator reserves addresses by the gigabyte, which it never fills.
        Some("2") => Verdict::warn(
            "vm.overcommit_memory is 2: memory that is only reserved counts as used",
            "sysctl vm.overcommit_memory=0, or leave much more room than the budgets",
        ),
        Some(mode) => Verdict::ok(format!("vm.overcommit_memory is {mode}")),
    }]
}

pub(super) fn clock(place: &Place) -> Vec<Verdict> {
    let now = SystemTime::now();
    let newest = newest_file(place);
    let is_synchronised = place.root.join("run/systemd/timesync/synchronized").exists();
    vec![judge_clock(now, newest, is_synchronised)]
}

/// When a file of the data directory was written last, and which one it was.
fn newest_file(place: &Place) -> Option<(SystemTime, String)> {
    let files = fs::read_dir(&place.config.data_dir).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        Some((entry.metadata().ok()?.modified().ok()?, entry.file_name().to_string_lossy().into_owned()))
    });
    files.max()
}

fn judge_clock(now: SystemTime, newest: Option<(SystemTime, String)>, is_synchronised: bool) -> Verdict {
    let advice = "have a service keep it right (chrony, systemd-timesyncd) before the daemon is started";
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(PAST) {
        return Verdict::fail("it is years behind", advice);
    }
    if let Some((written, name)) = newest.filter(|(written, _)| *written > now + CLOCK_SLACK) {
        let ahead = written.duration_since(now).unwrap_or_default().as_secs();
        return Verdict::fail(
            format!("{name} was written {ahead} s from now: the clock was set back, or was ahead"),
            advice,
        );
    }
    match is_synchronised {
        true => Verdict::ok("systemd-timesyncd keeps it"),
        // Other services say so only when they are asked in ways of their own.
        false => Verdict::skipped(
            "whether a service keeps it is not known here; it is not behind what was written, and nodes compare theirs",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::doctor::{
        place::tests::{bare, say},
        verdict::State,
    };

    #[test]
    fn files_that_may_be_open() {
        for (most, expected) in [
            (None, State::Ok),
            (Some(1 << 20), State::Ok),
            (Some(4 * 4_096), State::Ok),
            (Some(4_096), State::Warn),
            (Some(256), State::Fail),
        ] {
            assert_eq!(judge_open_files(most, 4_096).state, expected, "{most:?}");
        }
    }

    #[test]
    fn memory_that_is_there() {
        let dir = TempDir::new().expect("a directory");
        let place = bare(&dir);
        assert_eq!(memory(&place)[0].state, State::Skipped);
        // By default the budgets are three times 512 MiB.
        for (kib, expected) in [(8 << 20, State::Ok), (1_900 << 10, State::Warn), (1 << 20, State::Fail)] {
            say(&place, "proc/meminfo", &format!("MemTotal:       {kib} kB\nMemFree: 1 kB\n"));
            assert_eq!(memory(&place)[0].state, expected, "{kib} KiB");
        }
        say(&place, "proc/meminfo", "MemTotal:       8388608 kB\n");
        say(&place, "sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(memory(&place)[0].state, State::Ok);
        say(&place, "sys/fs/cgroup/memory.max", "1073741824\n");
        assert_eq!(memory(&place)[0].state, State::Fail);
    }

    #[test]
    fn memory_that_is_reserved() {
        let dir = TempDir::new().expect("a directory");
        let place = bare(&dir);
        assert_eq!(overcommit(&place)[0].state, State::Skipped);
        for (mode, expected) in [("0\n", State::Ok), ("1\n", State::Ok), ("2\n", State::Warn)] {
            say(&place, "proc/sys/vm/overcommit_memory", mode);
            assert_eq!(overcommit(&place)[0].state, expected, "{mode:?}");
        }
    }

    #[test]
    fn clocks() {
        let dir = TempDir::new().expect("a directory");
        let place = bare(&dir);
        assert_eq!(clock(&place)[0].state, State::Skipped);
        say(&place, "run/systemd/timesync/synchronized", "");
        assert_eq!(clock(&place)[0].state, State::Ok);
        let file = fs::File::create(place.config.data_dir.join("000001.log")).expect("made");
        assert_eq!(clock(&place)[0].state, State::Ok);
        file.set_modified(SystemTime::now() + Duration::from_secs(3_600)).expect("ours");
        let verdict = &clock(&place)[0];
        assert!(verdict.state == State::Fail && verdict.found.contains("000001.log"), "{verdict:?}");
        assert_eq!(judge_clock(SystemTime::UNIX_EPOCH, None, true).state, State::Fail);
    }
}
