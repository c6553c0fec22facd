//! What the figures were measured on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};
use serde::Serialize;

/// Hardware and operating system, as far as figures depend on them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    /// Cores that this process may use.
    cores: usize,
    memory_bytes: u64,
    kernel: String,
    /// Type and device of the file system that the files are on.
    file_system: String,
    /// Processes that wanted to run during the minute before the start, on average.
    load_before: f64,
}

impl Machine {
    /// Of this machine, with the file system of `dir`, which must exist.
    pub(crate) fn with_files_in(dir: &Path) -> Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let memory_kib: u64 = field(&memory, "MemTotal")
            .and_then(|value| value.trim_end_matches(" kB").parse().ok())
            .context("/proc/meminfo: no MemTotal")?;
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        let mount = Mount::of(&fs::canonicalize(dir)?, &mounts)
            .with_context(|| format!("{}: on no mounted file system", dir.display()))?;
        Ok(Self {
            // Not on every architecture.
            cpu: field(&cpu, "model name").unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism()?.get(),
            memory_bytes: memory_kib << 10,
            kernel: one_line("/proc/sys/kernel/osrelease")?,
            file_system: format!("{} on {}", mount.file_system, mount.device),
            load_before: one_line("/proc/loadavg")?
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .context("/proc/loadavg")?,
        })
    }

    /// Whether the files are in memory only, where nothing is ever waited for.
    pub(crate) fn files_are_in_memory(&self) -> bool {
        ["tmpfs ", "ramfs "].iter().any(|kind| self.file_system.starts_with(kind))
    }

    /// In one line.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{}, {} cores, {:.0} GiB, Linux {}, {}; load before {:.2}",
            self.cpu,
            self.cores,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.file_system,
            self.load_before
        )
    }
}

/// One line of the list of mounted file systems.
struct Mount<'a> {
    device: &'a str,
    file_system: &'a str,
}

impl<'a> Mount<'a> {
    /// The innermost mount that `path`, which is canonical, lies on. Of several at one place the last is on top.
    fn of(path: &Path, mounts: &'a str) -> Option<Self> {
        let parse = |line: &'a str| {
            let mut fields = line.split(' ');
            let (device, point, file_system) = (fields.next()?, fields.next()?, fields.next()?);
            Some((PathBuf::from(point), Self { device, file_system }))
        };
        mounts
            .lines()
            .filter_map(parse)
            .filter(|(point, _)| path.starts_with(point))
            .max_by_key(|(point, _)| point.components().count())
            .map(|(_, mount)| mount)
    }
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim())
}

fn one_line(path: &str) -> Result<String> {
    let text: io::Result<String> = fs::read_to_string(path);
    Ok(text.context(path.to_owned())?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\n\
            /dev/vdb /data xfs rw 0 0\n\
            /dev/vdc /data-2 btrfs rw 0 0\n\
            tmpfs /data xfs rw 0 0\n";
        let device = |path: &str| Mount::of(Path::new(path), mounts).unwrap().device;
        assert_eq!(device("/home"), "/dev/vda");
        assert_eq!(device("/data/store"), "tmpfs");
        assert_eq!(device("/data-2/store"), "/dev/vdc");
        assert!(Mount::of(Path::new("/"), "").is_none());
    }

    #[test]
    fn this_machine_can_be_described() {
        let machine = Machine::with_files_in(Path::new(".")).unwrap();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
        assert!(machine.describe().contains(&machine.file_system));
    }
}
