//! A file system in memory that fails on demand.
//!
//! Survivable by contract, and therefore simulated:
//! - a crash loses any part of what was not synced: contents (the tail, any sectors of 512 bytes, or only the
//!   data behind a length that was kept) and directory entries (any of them, independently);
//! - any operation fails, once or from some point on; a read or write is short; an fsync fails;
//! - the disk fills up;
//! - a bit flips.
//!
//! Not simulated: a disk that says it synced and did not, and the loss of a directory itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::sim_disk::{Directory, Entry, Inode, Random, Write};
use super::sim_faults::{Effect, Fault, Operation};
use super::{File, Fs, Lock};

/// A simulated disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    directories: BTreeMap<PathBuf, Directory>,
    locks: BTreeSet<PathBuf>,
    /// Raised by each crash: handles from before are dead.
    generation: u64,
    operations: u64,
    power_off_at: Option<u64>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    delays: Vec<(Operation, Duration)>,
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
    name: String,
    generation: u64,
}

#[derive(Debug)]
struct SimLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    generation: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.generation == self.generation {
            disk.locks.remove(&self.path);
        }
    }
}

impl SimFs {
    /// An empty disk without limits or faults.
    pub fn new() -> SimFs {
        SimFs::default()
    }

    /// The power fails: of everything that was not synced a part remains that depends on `seed`. Then the
    /// power is back: faults and [`power_off_at`](SimFs::power_off_at) are over, handles and locks from
    /// before are dead.
    pub fn crash(&self, seed: u64) {
        let mut random = Random(seed);
        let mut disk = self.disk.lock();
        let disk = &mut *disk;
        let mut kept = BTreeSet::new();
        for directory in disk.directories.values_mut() {
            directory.crash(&mut random);
            kept.extend(directory.entries.values().copied());
        }
        disk.inodes.retain(|inode, _| kept.contains(inode));
        for inode in disk.inodes.values_mut() {
            inode.crash(&mut random);
        }
        disk.locks.clear();
        disk.faults.clear();
        disk.power_off_at = None;
        disk.generation += 1;
    }

    /// The process dies and the machine does not: nothing is lost, handles and locks are dead.
    pub fn kill(&self) {
        let mut disk = self.disk.lock();
        disk.locks.clear();
        disk.faults.clear();
        disk.power_off_at = None;
        disk.generation += 1;
    }

    /// How many operations have changed the disk so far.
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// From the operation of this number on (see [`operations`](SimFs::operations)) everything fails. That
    /// operation itself is done, unsynced, although it reports a failure.
    pub fn power_off_at(&self, operation: u64) {
        self.disk.lock().power_off_at = Some(operation);
    }

    /// Lets operations fail.
    pub fn inject(&self, fault: Fault) {
        self.disk.lock().faults.push(fault);
    }

    /// Takes back all faults.
    pub fn heal(&self) {
        self.disk.lock().faults.clear();
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity = bytes;
    }

    /// Lets every such operation take at least `delay`.
    pub fn set_delay(&self, operation: Operation, delay: Duration) {
        let mut disk = self.disk.lock();
        disk.delays.retain(|(delayed, _)| *delayed != operation);
        disk.delays.push((operation, delay));
    }

    /// The files with their lengths, in the order of their paths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.disk.lock();
        let mut files = Vec::new();
        for (dir, directory) in &disk.directories {
            for (name, inode) in &directory.entries {
                let len = disk.inodes.get(inode).map_or(0, |inode| inode.content.len() as u64);
                files.push((dir.join(name), len));
            }
        }
        files
    }

    /// Flips one bit of a file, durably. False if the file is shorter or absent.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut disk = self.disk.lock();
        let Ok(inode) = disk.find(path) else { return false };
        let Some(inode) = disk.inodes.get_mut(&inode) else { return false };
        inode.flush();
        for content in [&mut inode.content, &mut inode.durable] {
            match usize::try_from(offset).ok().and_then(|offset| content.get_mut(offset)) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => return false,
            }
        }
        true
    }

    /// A copy of the disk as it is now, with nothing unsynced left and without faults: many crashes can start from one history.
    pub fn fork(&self) -> SimFs {
        let mut disk = self.disk.lock();
        let disk = &mut *disk;
        for inode in disk.inodes.values_mut() {
            inode.flush();
        }
        for directory in disk.directories.values_mut() {
            directory.flush();
        }
        let copy = Disk {
            inodes: disk
                .inodes
                .iter()
                .map(|(&number, inode)| {
                    let content = inode.content.clone();
                    (number, Inode { durable: content.clone(), content, pending: Vec::new() })
                })
                .collect(),
            next_inode: disk.next_inode,
            directories: disk
                .directories
                .iter()
                .map(|(path, directory)| {
                    let entries = directory.entries.clone();
                    (path.clone(), Directory { durable: entries.clone(), entries, pending: Vec::new() })
                })
                .collect(),
            ..Disk::default()
        };
        SimFs { disk: Arc::new(Mutex::new(copy)) }
    }

    fn perform<T>(
        &self,
        operation: Operation,
        path: &Path,
        action: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let delay = self.disk.lock().delay(operation);
        pause(delay);
        let mut disk = self.disk.lock();
        let verdict = disk.judge(operation, &name)?;
        if let Verdict::Fault(Effect::Fail(kind)) = verdict {
            return Err(kind.into());
        }
        let result = action(&mut disk)?;
        if verdict == Verdict::PowerOff { Err(power_off()) } else { Ok(result) }
    }
}

#[derive(PartialEq)]
enum Verdict {
    Fine,
    Fault(Effect),
    /// Done, but nobody is there to hear of it.
    PowerOff,
}

fn pause(delay: Option<Duration>) {
    if let Some(delay) = delay {
        std::thread::sleep(delay);
    }
}

fn power_off() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("")).to_path_buf(), name.to_owned()))
}

impl Disk {
    fn delay(&self, operation: Operation) -> Option<Duration> {
        self.delays.iter().find(|(delayed, _)| *delayed == operation).map(|(_, delay)| *delay)
    }

    /// Counts an operation and says how it goes.
    fn judge(&mut self, operation: Operation, name: &str) -> io::Result<Verdict> {
        if self.power_off_at.is_some_and(|at| self.operations > at) {
            return Err(power_off());
        }
        let number = self.operations;
        if operation.mutates() {
            self.operations += 1;
        }
        if self.power_off_at == Some(number) {
            if !operation.mutates() {
                return Ok(Verdict::Fine);
            }
            // A sync that nobody hears of may as well not have happened: the crash decides what it kept.
            return if matches!(operation, Operation::Sync | Operation::SyncDir) {
                Err(power_off())
            } else {
                Ok(Verdict::PowerOff)
            };
        }
        for index in 0..self.faults.len() {
            let Some(fault) = self.faults.get_mut(index) else { break };
            if fault.operation != operation || !name.ends_with(&fault.suffix) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            let effect = fault.effect;
            fault.times -= 1;
            if fault.times == 0 {
                self.faults.remove(index);
            }
            return Ok(Verdict::Fault(effect));
        }
        Ok(Verdict::Fine)
    }

    fn directory(&mut self, dir: &Path) -> io::Result<&mut Directory> {
        self.directories.get_mut(dir).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let (dir, name) = split(path)?;
        let directory = self.directories.get(&dir).ok_or(io::ErrorKind::NotFound)?;
        directory.entries.get(&name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let linked: BTreeSet<u64> =
            self.directories.values().flat_map(|directory| directory.entries.values().copied()).collect();
        linked.iter().filter_map(|inode| self.inodes.get(inode)).map(|inode| inode.content.len() as u64).sum()
    }
}

impl Fs for SimFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.perform(Operation::Create, path, |disk| {
            let (dir, name) = split(path)?;
            let inode = disk.next_inode;
            let directory = disk.directory(&dir)?;
            if directory.entries.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            directory.change(Entry::Add(name.clone(), inode));
            disk.next_inode += 1;
            disk.inodes.insert(inode, Inode::default());
            let file = SimFile { disk: self.disk.clone(), inode, name, generation: disk.generation };
            Ok(Arc::new(file) as Arc<dyn File>)
        })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.perform(Operation::Open, path, |disk| {
            let (_, name) = split(path)?;
            let inode = disk.find(path)?;
            let file = SimFile { disk: self.disk.clone(), inode, name, generation: disk.generation };
            Ok(Arc::new(file) as Arc<dyn File>)
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.perform(Operation::List, dir, |disk| Ok(disk.directory(dir)?.entries.keys().cloned().collect()))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        for ancestor in dir.ancestors() {
            disk.directories.entry(ancestor.to_path_buf()).or_default();
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.perform(Operation::Rename, to, |disk| {
            let inode = disk.find(from)?;
            let ((dir, from), (to_dir, to)) = (split(from)?, split(to)?);
            if dir != to_dir {
                return Err(io::ErrorKind::CrossesDevices.into());
            }
            disk.directory(&dir)?.change(Entry::Rename(from, to, inode));
            Ok(())
        })
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.perform(Operation::Link, to, |disk| {
            let inode = disk.find(from)?;
            let (dir, name) = split(to)?;
            let directory = disk.directory(&dir)?;
            if directory.entries.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            directory.change(Entry::Add(name, inode));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.perform(Operation::Remove, path, |disk| {
            disk.find(path)?;
            let (dir, name) = split(path)?;
            disk.directory(&dir)?.change(Entry::Remove(name));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.perform(Operation::SyncDir, dir, |disk| {
            disk.directory(dir)?.flush();
            Ok(())
        })
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let disk = self.disk.lock();
        Ok(disk.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut disk = self.disk.lock();
        let generation = disk.generation;
        if !disk.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.disk.clone(), path: path.to_path_buf(), generation }))
    }
}

impl SimFile {
    fn perform<T>(
        &self,
        operation: Operation,
        action: impl FnOnce(&mut Disk, Option<Effect>) -> io::Result<T>,
    ) -> io::Result<T> {
        let delay = self.disk.lock().delay(operation);
        pause(delay);
        let mut disk = self.disk.lock();
        if disk.generation != self.generation {
            return Err(io::Error::other("the file was open before the crash"));
        }
        match disk.judge(operation, &self.name)? {
            Verdict::Fine => action(&mut disk, None),
            Verdict::Fault(Effect::Fail(kind)) => {
                if operation == Operation::Sync {
                    // The dirty pages are marked clean and may be dropped: "fsyncgate", 2018.
                    let inode = disk.inode(self.inode)?;
                    inode.pending.clear();
                    inode.content.clone_from(&inode.durable);
                }
                Err(kind.into())
            }
            Verdict::Fault(effect) => action(&mut disk, Some(effect)),
            Verdict::PowerOff => action(&mut disk, None).and(Err(power_off())),
        }
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.perform(Operation::Read, |disk, effect| {
            let content = &disk.inode(self.inode)?.content;
            let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..));
            let rest = rest.unwrap_or_default();
            let limit = if let Some(Effect::Short(len)) = effect { len } else { usize::MAX };
            let len = rest.len().min(buffer.len()).min(limit);
            if let (Some(source), Some(target)) = (rest.get(..len), buffer.get_mut(..len)) {
                target.copy_from_slice(source);
            }
            Ok(len)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.perform(Operation::Write, |disk, effect| {
            let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let limit = match effect {
                Some(Effect::Short(len) | Effect::Torn(len) | Effect::Full(len)) => len,
                _ => usize::MAX,
            };
            let old_len = disk.inode(self.inode)?.content.len();
            let space = disk.capacity.map_or(usize::MAX, |capacity| {
                usize::try_from(capacity.saturating_sub(disk.used())).unwrap_or(usize::MAX)
            });
            let room = old_len.saturating_sub(offset).saturating_add(space);
            let len = bytes.len().min(limit).min(room);
            if len == 0 && !bytes.is_empty() && room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let written = bytes.get(..len).unwrap_or_default().to_vec();
            disk.inode(self.inode)?.change(Write::At(offset, written));
            match effect {
                Some(Effect::Torn(_)) => Err(io::Error::other("a simulated torn write")),
                Some(Effect::Full(_)) => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(len),
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.perform(Operation::Sync, |disk, _| {
            disk.inode(self.inode)?.flush();
            Ok(())
        })
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inode(self.inode)?.content.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.perform(Operation::SetLen, |disk, _| {
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            disk.inode(self.inode)?.change(Write::SetLen(len));
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.perform(Operation::Allocate, |disk, _| {
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let more = len.saturating_sub(disk.inode(self.inode)?.content.len());
            if disk.capacity.is_some_and(|capacity| capacity < disk.used() + more as u64) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if more > 0 {
                disk.inode(self.inode)?.change(Write::SetLen(len));
            }
            Ok(())
        })
    }
}
