//! What the operating system counts for this process and its files.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use anyhow::{Context, Result};
use rustix::{
    fs::{Advice, fadvise},
    time::{ClockId, clock_gettime},
};

/// Bytes handed to the operating system in calls that write, files of all kinds taken together.
pub(crate) fn bytes_written() -> Result<u64> {
    counter("/proc/self/io", "wchar")
}

/// Bytes that were fetched from a disk.
pub(crate) fn bytes_read_from_disk() -> Result<u64> {
    counter("/proc/self/io", "read_bytes")
}

/// Time that all threads of this process have run, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Time that all threads of another process have run, in seconds.
pub(crate) fn cpu_seconds_of(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // See proc_pid_stat(5): behind the name, which is in parentheses, field 14 is user and 15 system time.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    let ticks = fields.into_iter().flatten().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().with_context(|| path)?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory that is no page of a file, in bytes.
pub(crate) fn anonymous_memory() -> Result<u64> {
    Ok(counter("/proc/self/status", "RssAnon")? << 10)
}

/// The largest resident memory since the last [`reset_peak_memory`], in bytes.
pub(crate) fn peak_memory() -> Result<u64> {
    Ok(counter("/proc/self/status", "VmHWM")? << 10)
}

/// Begins a new peak.
pub(crate) fn reset_peak_memory() -> Result<()> {
    // See proc_pid_clear_refs(5).
    fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")
}

/// The value of the line `name: value …`.
fn counter(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()).and_then(|word| word.parse().ok());
    number.with_context(|| format!("{path}: no {name}"))
}

/// Bytes that the files below a directory take on disk: whole blocks, what is preallocated among them.
pub(crate) fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for_each_file(dir, &mut |path| {
        bytes += fs::metadata(path)?.blocks() * 512;
        Ok(())
    })?;
    Ok(bytes)
}

/// Makes the operating system forget the contents of the files below a directory. Pages must be clean for
/// that, so they are written first.
pub(crate) fn drop_page_cache(dir: &Path) -> Result<()> {
    for_each_file(dir, &mut |path| {
        let file = File::open(path)?;
        file.sync_all()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    })
}

fn for_each_file(dir: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            for_each_file(&path, each)?;
            continue;
        }
        match each(&path) {
            // Engines remove files whenever they like.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.with_context(|| path.display().to_string())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;

    #[test]
    fn files_are_counted_whole_and_recursively() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        let before = bytes_written().unwrap();
        fs::write(dir.path().join("one"), vec![1; 10_000]).unwrap();
        fs::write(dir.path().join("below/two"), vec![1; 10_000]).unwrap();
        assert!(bytes_written().unwrap() - before >= 20_000);
        drop_page_cache(dir.path()).unwrap();
        assert!((20_000..80_000).contains(&disk_bytes(dir.path()).unwrap()));
    }

    #[test]
    fn processor_time_counts_all_threads() {
        let before = cpu_seconds();
        let work = || (0..20_000_000_u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
        let started = Instant::now();
        thread::spawn(work).join().unwrap();
        let (used, elapsed) = (cpu_seconds() - before, started.elapsed().as_secs_f64());
        // The thread may have had to wait for a core, and other tests may run.
        assert!(used > 0.001 && used < elapsed * 64.0, "{used} s in {elapsed} s");
    }

    #[test]
    fn the_peak_of_memory_begins_anew() {
        const BYTES: usize = 256 << 20;
        // Straight from the kernel: an allocator gives memory back when it likes.
        let mut large = memmap2::MmapMut::map_anon(BYTES).unwrap();
        large.fill(1);
        assert!(large.iter().step_by(4096).all(|&byte| byte == 1));
        assert!(peak_memory().unwrap() >= BYTES as u64);
        drop(large);
        reset_peak_memory().unwrap();
        assert!(peak_memory().unwrap() < BYTES as u64);
    }
}
