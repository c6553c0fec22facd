//! Contents and directories that may or may not reach the simulated disk.

use std::collections::BTreeMap;

const SECTOR_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) content: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// What turns `durable` into `content`.
    pub(super) pending: Vec<Write>,
}

#[derive(Clone, Debug)]
pub(super) enum Write {
    At(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<String, u64>,
    pub(super) durable: BTreeMap<String, u64>,
    /// What turns `durable` into `entries`.
    pub(super) pending: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Add(String, u64),
    Remove(String),
    Rename(String, String, u64),
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

impl Directory {
    fn apply(entries: &mut BTreeMap<String, u64>, change: &Entry) {
        match change {
            Entry::Add(name, inode) => {
                entries.insert(name.clone(), *inode);
            }
            Entry::Remove(name) => {
                entries.remove(name);
            }
            Entry::Rename(from, to, inode) => {
                entries.remove(from);
                entries.insert(to.clone(), *inode);
            }
        }
    }

    pub(super) fn change(&mut self, change: Entry) {
        Directory::apply(&mut self.entries, &change);
        self.pending.push(change);
    }

    pub(super) fn flush(&mut self) {
        self.pending.clear();
        self.durable.clone_from(&self.entries);
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        // Sometimes in order, as a journal keeps it, sometimes any of them.
        let prefix = random.coin().then(|| random.below(pending.len() + 1));
        for (index, change) in pending.iter().enumerate() {
            let keep = match prefix {
                Some(len) => index < len,
                None => random.coin(),
            };
            if keep {
                Directory::apply(&mut self.durable, change);
            }
        }
        self.entries.clone_from(&self.durable);
    }
}

impl Inode {
    fn apply(content: &mut Vec<u8>, write: &Write) {
        match write {
            Write::At(offset, bytes) => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(target) = content.get_mut(*offset..end) {
                    target.copy_from_slice(bytes);
                }
            }
            Write::SetLen(len) => content.resize(*len, 0),
        }
    }

    pub(super) fn change(&mut self, write: Write) {
        Inode::apply(&mut self.content, &write);
        self.pending.push(write);
    }

    pub(super) fn flush(&mut self) {
        for write in std::mem::take(&mut self.pending) {
            Inode::apply(&mut self.durable, &write);
        }
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        match random.below(5) {
            // Nothing of it, or everything.
            0 => {}
            1 => pending.iter().for_each(|write| Inode::apply(&mut self.durable, write)),
            // A part of the writes, the last one torn.
            2 => {
                let whole = random.below(pending.len() + 1);
                for (index, write) in pending.iter().enumerate().take(whole + 1) {
                    match write {
                        Write::At(offset, bytes) if index == whole => {
                            let torn = bytes.get(..random.below(bytes.len() + 1)).unwrap_or_default();
                            Inode::apply(&mut self.durable, &Write::At(*offset, torn.to_vec()));
                        }
                        _ if index == whole => {}
                        write => Inode::apply(&mut self.durable, write),
                    }
                }
            }
            // Any sectors: a later one without an earlier one.
            3 => {
                for write in &pending {
                    match write {
                        Write::SetLen(_) => Inode::apply(&mut self.durable, write),
                        Write::At(offset, bytes) => self.crash_sectors(*offset, bytes, random),
                    }
                }
            }
            // The length without the data.
            _ => self.durable.resize(self.content.len(), 0),
        }
        self.content.clone_from(&self.durable);
    }

    fn crash_sectors(&mut self, offset: usize, bytes: &[u8], random: &mut Random) {
        let mut start = 0;
        while start < bytes.len() {
            let sector_end = (offset + start) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
            let end = (sector_end - offset).min(bytes.len());
            if random.coin() {
                let sector = bytes.get(start..end).unwrap_or_default().to_vec();
                Inode::apply(&mut self.durable, &Write::At(offset + start, sector));
            }
            start = end;
        }
    }
}
