//! Figures of the process, by the names that all servers give them, and of the disk that its data lies on.

use std::{
    fmt::{Display, Write},
    fs,
    path::Path,
};

use rustix::{
    fs::statvfs,
    param::page_size,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// All of them, in the text format of Prometheus. What the operating system does not tell is left out.
pub(crate) fn text(data_dir: &Path, min_free_bytes: u64) -> String {
    let mut text = String::new();
    let mut tell = |name: &str, kind: &str, help: &str, value: Option<&dyn Display>| {
        let Some(value) = value else { return };
        // Writing to a string cannot fail.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n").ok();
    };
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    tell("process_cpu_seconds_total", "counter", "Time of processors that was taken", Some(&cpu));
    let resident = resident_bytes();
    let resident = resident.as_ref().map(|bytes| bytes as &dyn Display);
    tell("process_resident_memory_bytes", "gauge", "Memory in use, mapped files among it", resident);
    let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    let open = open.as_ref().map(|count| count as &dyn Display);
    tell("process_open_fds", "gauge", "Files and connections that are open", open);
    let most = getrlimit(Resource::Nofile).current;
    let most = most.as_ref().map(|count| count as &dyn Display);
    tell("process_max_fds", "gauge", "Files and connections that may be open", most);
    if let Ok(disk) = statvfs(data_dir) {
        let free = disk.f_bavail * disk.f_frsize;
        let size = disk.f_blocks * disk.f_frsize;
        tell("allidb_disk_free_bytes", "gauge", "Free on the disk of the data directory", Some(&free));
        tell("allidb_disk_size_bytes", "gauge", "Size of the disk of the data directory", Some(&size));
    }
    let help = "Writes other than deletes are refused when less is free (storage.min_free_bytes)";
    tell("allidb_disk_reserved_bytes", "gauge", help, Some(&min_free_bytes));
    text
}

fn resident_bytes() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_told_once_with_its_type() {
        let dir = tempfile::tempdir().expect("a directory");
        let told = text(dir.path(), 333);
        let value = |name: &str| -> f64 {
            assert_eq!(told.matches(&format!("# TYPE {name} ")).count(), 1, "{told}");
            let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.expect("a value").parse().expect("a number")
        };
        assert!(value("process_resident_memory_bytes") > 1e6 && value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_open_fds") > 2.0 && value("process_open_fds") < value("process_max_fds"));
        assert!(value("allidb_disk_free_bytes") <= value("allidb_disk_size_bytes"));
        assert_eq!(value("allidb_disk_reserved_bytes"), 333.0);
    }
}
