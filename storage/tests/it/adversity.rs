//! Random histories in which everything goes wrong: power cuts, kills, failing and short operations, a full disk, and a store
//! that comes back with other options each time.
//!
//! The model knows of every batch whether it was acknowledged, refused, or neither: the one that poisoned the engine may or may not
//! be there when the store is opened again. What is recovered has to be a prefix of what was handed over, with everything
//! that was acknowledged as durable.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use allidb_storage::fs::{Effect, Fault, Fs, Operation, SimFs};
use allidb_storage::{
    Durability, Engine, Error, KeyspaceOptions, Options, Snapshot, SortedFileWriter, WriteBatch,
};

use crate::model::{DIR, Edit, Model, Random, apply, assert_whole, effort, open, tiny};
use crate::variety::{NAMES, contents, declared, indexes, options};

const OUTSIDE: &str = "/outside";

/// What one sequence did.
type Entry = Vec<Edit>;

struct Run {
    seed: u64,
    random: Random,
    threads: bool,
    fs: SimFs,
    /// At some operation to come, or since one.
    power_fails: bool,
    /// `None` while the store is closed.
    engine: Option<Engine>,
    /// By sequence, from 1.
    entries: Vec<Entry>,
    model: Model,
    /// What may follow the entries when the store is opened again.
    unknown: Option<Entry>,
    /// How many entries a power cut spares, and a kill.
    synced: usize,
    flushed: usize,
    snapshots: Vec<(Snapshot, Model)>,
    checkpoints: Vec<(PathBuf, Model)>,
    files: u64,
    log: Vec<String>,
}

/// What came up in all runs together: a test that never gets there tests nothing.
#[derive(Debug, Default)]
struct Seen {
    counts: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

impl Run {
    fn new(seed: u64, threads: bool) -> Run {
        let fs = SimFs::new();
        fs.create_dir_all(Path::new(OUTSIDE)).unwrap();
        if threads {
            for operation in [Operation::Write, Operation::Sync, Operation::Rename] {
                fs.set_delay(operation, Duration::from_micros(30));
            }
        }
        let mut run = Run {
            seed,
            random: Random(seed),
            threads,
            fs,
            power_fails: false,
            engine: None,
            entries: Vec::new(),
            model: Model::new(),
            unknown: None,
            synced: 0,
            flushed: 0,
            snapshots: Vec::new(),
            checkpoints: Vec::new(),
            files: 0,
            log: Vec::new(),
        };
        run.reopen();
        run
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn is_poisoned(&self) -> bool {
        self.engine().stats().poisoned.is_some()
    }

    fn durable(&mut self) {
        (self.synced, self.flushed) = (self.entries.len(), self.entries.len());
    }

    /// An entry was acknowledged under this sequence.
    fn accept(&mut self, sequence: u64, entry: Entry) {
        self.entries.push(entry);
        assert_eq!(sequence, self.entries.len() as u64, "sequences have no gaps");
        apply(&mut self.model, self.entries.last().unwrap());
    }

    /// An entry was refused, or nobody knows.
    fn refuse(&mut self, error: &Error, was_poisoned: bool, entry: Entry) {
        // The check of a file to be ingested takes what it cannot open or read for damaged.
        let unreadable = matches!(error, Error::Corruption { path, what, .. }
            if path.starts_with(OUTSIDE) && what.starts_with("cannot "));
        assert!(unreadable || !matches!(error, Error::Corruption { .. } | Error::Closed), "{error}");
        if self.is_poisoned() && !was_poisoned {
            assert!(self.unknown.is_none());
            self.unknown = Some(entry);
        }
    }

    fn edits(&mut self) -> Entry {
        let known = indexes(self.engine());
        let mut edits = self.random.edits();
        for edit in &mut edits {
            let (Edit::Change((index, ..)) | Edit::DeleteRange(index, ..)) = edit;
            *index = known[self.random.below(known.len() as u64) as usize];
        }
        if self.random.below(6) == 0 {
            // Large values, which lie apart.
            let value = vec![self.random.next() as u8; 100 + self.random.below(300) as usize];
            edits.push(Edit::Change((
                0,
                format!("key{:02}", self.random.below(40)).into_bytes(),
                Some(value),
            )));
        }
        edits
    }

    fn write(&mut self, seen: &mut Seen) {
        let edits = self.edits();
        let durability =
            [Durability::None, Durability::Flush, Durability::Sync][self.random.below(3) as usize];
        let mut batch = WriteBatch::new();
        for edit in edits.clone() {
            match edit {
                Edit::Change((index, key, value)) => {
                    let handle = self.engine().keyspace(NAMES[index]).unwrap();
                    match value {
                        Some(value) => batch.put(handle, key, value),
                        None => batch.delete(handle, key),
                    }
                }
                Edit::DeleteRange(index, lower, upper) => {
                    let handle = self.engine().keyspace(NAMES[index]).unwrap();
                    batch.delete_range(handle, lower, upper.map(Into::into));
                }
            }
        }
        let was_poisoned = self.is_poisoned();
        match self.engine().write(batch, durability) {
            Ok(sequence) => {
                self.accept(sequence, edits);
                match durability {
                    Durability::Sync => self.durable(),
                    Durability::Flush => self.flushed = self.entries.len(),
                    Durability::None => {}
                }
                seen.count("writes");
            }
            Err(error) => {
                self.log.push(format!("write: {error}"));
                self.refuse(&error, was_poisoned, edits);
                match error {
                    Error::Poisoned { .. } => seen.count("poisoned writes"),
                    Error::DiskFull { .. } => seen.count("writes refused by a full disk"),
                    Error::Busy { .. } => seen.count("writes refused as busy"),
                    error => panic!("a write failed with: {error}"),
                }
            }
        }
    }

    /// Files over ranges that do not overlap, with deletions.
    fn ingest(&mut self, seen: &mut Seen) {
        let known = indexes(self.engine());
        let index = known[self.random.below(known.len() as u64) as usize];
        let (mut from, mut paths, mut entry) = (self.random.below(20), Vec::new(), Entry::new());
        // The files are built when the disk is well: that they cannot be is no matter of the store.
        let healthy = SimFs::new();
        healthy.create_dir_all(Path::new(OUTSIDE)).unwrap();
        for _ in 0..1 + self.random.below(2) {
            let to = from + 1 + self.random.below(15);
            self.files += 1;
            let path = Path::new(OUTSIDE).join(format!("{}", self.files));
            let options = KeyspaceOptions {
                block_bytes: 100,
                index_partition_bytes: 60 + self.random.below(300) as usize,
                ..KeyspaceOptions::new("")
            };
            let id = 1 << 60 | self.files;
            let mut writer = SortedFileWriter::create(&healthy, &path, id, &options).unwrap();
            for key in (from..to).map(|key| format!("key{key:02}").into_bytes()) {
                let value = (self.random.below(4) > 0).then(|| vec![self.random.next() as u8; 70]);
                match &value {
                    Some(value) => writer.put(&key, value).unwrap(),
                    None => writer.delete(&key).unwrap(),
                }
                entry.push(Edit::Change((index, key, value)));
            }
            writer.finish().unwrap();
            let bytes = healthy.open(&path).unwrap().read_all().unwrap();
            let copied = self.fs.create(&path).and_then(|file| file.write_all_at(0, &bytes));
            if copied.is_err() {
                return;
            }
            paths.push(path);
            from = to + self.random.below(5);
        }
        let was_poisoned = self.is_poisoned();
        let handle = self.engine().keyspace(NAMES[index]).unwrap();
        match self.engine().ingest(handle, &paths, |_| {}) {
            Ok(sequence) => {
                self.accept(sequence, entry);
                self.durable();
                seen.count("ingests");
            }
            Err(error) => {
                self.log.push(format!("ingest: {error}"));
                self.refuse(&error, was_poisoned, entry);
                seen.count("failed ingests");
            }
        }
        // The names outside are no longer needed, whatever became of it.
        paths.iter().for_each(|path| drop(self.fs.remove(path)));
    }

    fn checkpoint(&mut self, seen: &mut Seen) {
        let dir = PathBuf::from(format!("/checkpoint{}", self.checkpoints.len()));
        if let Err(error) = self.engine().checkpoint(&dir) {
            self.log.push(format!("checkpoint: {error}"));
            seen.count("failed checkpoints");
            // A directory in part is not used again.
            self.checkpoints.push((PathBuf::new(), Model::new()));
            return;
        }
        seen.count("checkpoints");
        self.durable();
        if self.random.below(2) == 0 && !self.power_fails {
            self.calm();
            self.open_checkpoint(&dir, &self.model.clone());
        }
        self.checkpoints.push((dir, self.model.clone()));
    }

    fn open_checkpoint(&self, dir: &Path, model: &Model) {
        // With every keyspace there may be.
        let keyspaces = NAMES.map(KeyspaceOptions::new).to_vec();
        let options = Options { keyspaces, ..tiny() };
        let engine = Engine::open(Arc::new(self.fs.clone()), dir, options).unwrap();
        assert_eq!(&contents(&engine, &engine.snapshot()).unwrap(), model, "a checkpoint is another store");
        assert_whole(&engine);
    }

    fn fault(&mut self) {
        let operation = [
            Operation::Create,
            Operation::Open,
            Operation::Read,
            Operation::Read,
            Operation::Write,
            Operation::Write,
            Operation::Sync,
            Operation::SetLen,
            Operation::Allocate,
            Operation::Rename,
            Operation::Link,
            Operation::Remove,
            Operation::SyncDir,
            Operation::List,
        ][self.random.below(14) as usize];
        let kinds = [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::Interrupted];
        let kind = kinds[self.random.below(3) as usize];
        let len = 1 + self.random.below(60) as usize;
        let effect = match (operation, self.random.below(4)) {
            (Operation::Read, 0..=1) => Effect::Short(len),
            (Operation::Write, 0) => Effect::Short(len),
            (Operation::Write, 1) => Effect::Torn(len),
            (Operation::Write, 2) => Effect::Full(len),
            // Nobody tries an fsync again, and so no interrupted one is shown.
            (Operation::Sync | Operation::SyncDir, _) => Effect::Fail(io::ErrorKind::Other),
            _ => Effect::Fail(kind),
        };
        let suffix = ["", ".log", ".table", ".blob", "MANIFEST"][self.random.below(5) as usize];
        let (skip, times) = (self.random.below(12), 1 + self.random.below(3));
        self.log.push(format!("fault: {operation:?} on {suffix:?} after {skip}, {times} times, {effect:?}"));
        self.fs.inject(Fault { operation, suffix: suffix.to_owned(), skip, times, effect });
    }

    /// No more faults, and space again.
    fn calm(&mut self) {
        self.fs.heal();
        self.fs.set_capacity(None);
    }

    fn read(&mut self, seen: &mut Seen) {
        let at = self.random.below(self.snapshots.len() as u64 + 1) as usize;
        let now = (self.engine().snapshot(), self.model.clone());
        let (snapshot, model) = self.snapshots.get(at).unwrap_or(&now);
        match contents(self.engine(), snapshot) {
            Ok(read) => assert_eq!(read, declared(self.engine(), model), "{}", self.history()),
            Err(Error::Io { .. }) => seen.count("failed reads"),
            Err(error) => panic!("a read failed with: {error}\n{}", self.history()),
        }
    }

    fn history(&self) -> String {
        format!("seed {}:\n{}", self.seed, self.log.join("\n"))
    }

    fn step(&mut self, seen: &mut Seen) {
        let step = self.random.below(100);
        match step {
            0..=54 => self.write(seen),
            55..=58 => self.ingest(seen),
            59..=61 => self.checkpoint(seen),
            62..=65 => {
                self.log.push("flush".into());
                if self.engine().flush().is_ok() {
                    self.durable();
                }
            }
            66..=67 => {
                self.log.push("sync".into());
                if self.engine().sync().is_ok() {
                    self.durable();
                }
            }
            68..=70 => {
                let known = indexes(self.engine());
                let index = known[self.random.below(known.len() as u64) as usize];
                self.log.push(format!("compact {index}"));
                drop(self.engine().compact(self.engine().keyspace(NAMES[index]).unwrap()));
            }
            71 => drop(self.engine().wait_idle()),
            72..=76 => self.read(seen),
            77..=78 if self.snapshots.len() < 4 => {
                self.snapshots.push((self.engine().snapshot(), self.model.clone()));
            }
            79 if !self.snapshots.is_empty() => {
                let at = self.random.below(self.snapshots.len() as u64) as usize;
                self.snapshots.swap_remove(at);
            }
            80..=87 => self.fault(),
            88 => {
                let used: u64 = self.fs.files().iter().map(|(_, len)| len).sum();
                self.log.push("the disk fills up".into());
                self.fs.set_capacity(Some(used + self.random.below(6000)));
            }
            89..=91 => {
                self.log.push("the disk is well again".into());
                self.calm();
            }
            92 => {
                let at = self.fs.operations() + self.random.below(60);
                self.log.push(format!("the power fails at {at}"));
                self.fs.power_off_at(at);
                self.power_fails = true;
            }
            93..=94 => self.close_and_reopen(seen),
            95..=96 => self.crash(seen, true),
            97 => self.crash(seen, false),
            _ => {}
        }
    }

    fn close_and_reopen(&mut self, seen: &mut Seen) {
        self.calm();
        let poisoned = self.is_poisoned();
        self.snapshots.clear();
        let engine = self.engine.take().unwrap();
        let closes = self.random.below(2) == 0;
        self.log.push(format!("reopen, closed before: {closes}"));
        if closes {
            // The power may be off.
            engine.close().ok();
        } else {
            drop(engine);
        }
        if poisoned {
            // A failed fsync drops what the operating system had.
            self.flushed = self.synced;
        } else if !self.power_fails {
            // Buffered batches were written when the engine went.
            self.flushed = self.entries.len();
        }
        self.fs.kill();
        self.power_fails = false;
        seen.count("reopened");
        self.recover(self.flushed);
    }

    fn crash(&mut self, seen: &mut Seen, power: bool) {
        let poisoned = self.is_poisoned();
        self.snapshots.clear();
        // Whatever still runs in the background gets nothing more done.
        self.fs.power_off_at(self.fs.operations());
        self.engine = None;
        let seed = self.random.next();
        if power {
            self.fs.crash(seed);
        } else {
            self.fs.kill();
        }
        self.log.push(if power { "power cut" } else { "kill" }.to_owned());
        // A failed fsync drops what the operating system had.
        let certain = if power || poisoned { self.synced } else { self.flushed };
        self.fs.set_capacity(None);
        self.power_fails = false;
        seen.count(if power { "power cuts" } else { "kills" });
        // Once more, while the store recovers.
        let mut certain = certain;
        while self.random.below(3) == 0 {
            self.fs.power_off_at(self.fs.operations() + self.random.below(12));
            let options = options(&mut self.random, self.threads);
            drop(open(&self.fs, options));
            let seed = self.random.next();
            self.fs.crash(seed);
            certain = self.synced;
            seen.count("power cuts during recovery");
        }
        self.recover(certain);
    }

    /// Opens the store, perhaps not at once, and takes over what is there.
    fn recover(&mut self, mut certain: usize) {
        if self.random.below(4) == 0 {
            self.fault();
            let options = options(&mut self.random, self.threads);
            if let Err(error) = open(&self.fs, options) {
                assert!(!matches!(error, Error::Corruption { .. }), "{error}\n{}", self.history());
                self.log.push(format!("open: {error}"));
            }
            // A failed fsync may have dropped what only the operating system had.
            certain = self.synced;
            self.fs.kill();
        }
        let options = options(&mut self.random, self.threads);
        let engine = open(&self.fs, options).unwrap_or_else(|error| panic!("{error}\n{}", self.history()));
        let count = engine.recovery().last_sequence as usize;
        self.entries.extend(self.unknown.take());
        assert!(count >= certain, "{count} entries are left of {certain}\n{}", self.history());
        assert!(count <= self.entries.len(), "{count} of {}\n{}", self.entries.len(), self.history());
        self.entries.truncate(count);
        self.model.clear();
        for entry in &self.entries {
            apply(&mut self.model, entry);
        }
        // What recovery has read it has synced.
        self.durable();
        self.engine = Some(engine);
        let read = contents(self.engine(), &self.engine().snapshot()).unwrap();
        assert_eq!(read, declared(self.engine(), &self.model), "{}", self.history());
    }

    fn reopen(&mut self) {
        let options = options(&mut self.random, self.threads);
        self.engine = Some(open(&self.fs, options).unwrap());
    }

    fn finish(mut self, seen: &mut Seen) {
        self.crash(seen, true);
        assert_whole(self.engine());
        self.engine().wait_idle().unwrap();
        let read = contents(self.engine(), &self.engine().snapshot()).unwrap();
        assert_eq!(read, declared(self.engine(), &self.model), "{}", self.history());
        for (dir, model) in self.checkpoints.iter().filter(|(dir, _)| *dir != PathBuf::new()) {
            self.open_checkpoint(dir, model);
        }
        assert!(self.fs.files().iter().any(|(path, _)| path.starts_with(DIR)));
    }
}

fn run(seeds: std::ops::Range<u64>, steps: u64, threads: bool) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        let mut run = Run::new(seed, threads);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..steps {
                run.step(&mut seen);
            }
            run.finish(&mut seen);
        }));
        if let Err(panic) = done {
            eprintln!("the history of seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
    seen
}

const KINDS: [&str; 13] = [
    "writes",
    "poisoned writes",
    "writes refused by a full disk",
    "ingests",
    "failed ingests",
    "checkpoints",
    "failed checkpoints",
    "failed reads",
    "reopened",
    "power cuts",
    "kills",
    "power cuts during recovery",
    "writes refused as busy",
];

#[test]
fn what_is_acknowledged_survives_whatever_goes_wrong() {
    let seen = run(0..150 * effort(), 200, false);
    for kind in KINDS {
        assert!(seen.counts.contains_key(kind), "none of them: {kind}: {seen:?}");
    }
}

#[test]
fn what_is_acknowledged_survives_with_threads_in_the_background() {
    let seen = run(10_000..10_000 + 15 * effort(), 150, true);
    assert!(seen.counts.get("power cuts") > seen.counts.get("none"), "{seen:?}");
}
