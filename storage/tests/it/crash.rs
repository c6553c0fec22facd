//! Power cuts and kills at every operation of a workload.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use allidb_storage::fs::{Fs, SimFs};
use allidb_storage::{Durability, Engine, Error, KeyspaceOptions, SortedFileWriter};

use crate::model::{Edit, Model, Random, apply, assert_whole, batch, contents, effort, keyspace, open, tiny};

/// What a workload was told.
#[derive(Default)]
struct Told {
    /// Batches in the order in which they were handed to the engine.
    batches: Vec<Vec<Edit>>,
    /// How many of them were acknowledged as synced, or are before one that was.
    synced: usize,
    /// The same for the operating system's memory.
    flushed: usize,
    /// What checkpoints that were acknowledged have to hold.
    checkpoints: Vec<(PathBuf, Model)>,
}

impl Told {
    fn write(&mut self, engine: &Engine, random: &mut Random) -> Result<(), Error> {
        let changes = random.edits();
        let durability = [Durability::None, Durability::Flush, Durability::Sync, Durability::Sync]
            [random.below(4) as usize];
        self.batches.push(changes.clone());
        engine.write(batch(engine, &changes), durability)?;
        let count = self.batches.len();
        match durability {
            Durability::Sync => (self.synced, self.flushed) = (count, count),
            Durability::Flush => self.flushed = count,
            Durability::None => {}
        }
        Ok(())
    }

    fn acknowledged(&mut self) {
        (self.synced, self.flushed) = (self.batches.len(), self.batches.len());
    }

    /// A value large enough for blob files of its own, over others, whose space becomes garbage.
    fn write_large(&mut self, engine: &Engine, random: &mut Random) -> Result<(), Error> {
        let key = format!("key{:02}", random.below(6)).into_bytes();
        let changes = vec![Edit::from((0, key, Some(vec![random.next() as u8; 700])))];
        self.batches.push(changes.clone());
        engine.write(batch(engine, &changes), Durability::Sync)?;
        self.acknowledged();
        Ok(())
    }

    /// A file that was built elsewhere, with deletions.
    fn ingest(&mut self, fs: &SimFs, engine: &Engine, random: &mut Random) -> Result<(), Error> {
        let path = PathBuf::from(format!("/outside{}", self.batches.len()));
        let index = random.below(2) as usize;
        let mut writer =
            SortedFileWriter::create(fs, &path, 1 << 60 | random.next(), &KeyspaceOptions::new(""))?;
        let (from, mut rows) = (random.below(30), Vec::new());
        for key in (from..from + 10).map(|key| format!("key{key:02}").into_bytes()) {
            let value = (random.below(4) > 0).then(|| vec![random.next() as u8; 60]);
            match &value {
                Some(value) => writer.put(&key, value)?,
                None => writer.delete(&key)?,
            }
            rows.push(Edit::from((index, key, value)));
        }
        writer.finish()?;
        self.batches.push(rows);
        engine.ingest(keyspace(engine, index), &[path], |_| {})?;
        self.acknowledged();
        Ok(())
    }

    fn checkpoint(&mut self, engine: &Engine) -> Result<(), Error> {
        let dir = PathBuf::from(format!("/checkpoint{}", self.batches.len()));
        engine.checkpoint(&dir)?;
        self.acknowledged();
        let mut model = Model::new();
        self.batches.iter().for_each(|changes| apply(&mut model, changes));
        self.checkpoints.push((dir, model));
        Ok(())
    }

    fn check_checkpoints(&self, fs: &SimFs, context: &str) {
        for (dir, model) in &self.checkpoints {
            let engine = Engine::open(Arc::new(fs.clone()), dir, tiny())
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(
                &contents(&engine, &engine.snapshot()).unwrap(),
                model,
                "{context}: {}",
                dir.display()
            );
        }
    }

    /// Writes with flushes, compactions, snapshots and a restart in between.
    fn workload(&mut self, fs: &SimFs, seed: u64) -> Result<(), Error> {
        let mut random = Random(seed);
        for _ in 0..2 {
            let engine = open(fs, tiny())?;
            let mut snapshots = Vec::new();
            for turn in 0..40 {
                self.write(&engine, &mut random)?;
                if turn % 10 == 5 {
                    snapshots.push(engine.snapshot());
                }
                if turn % 16 == 15 {
                    engine.flush()?;
                    self.synced = self.batches.len();
                    self.flushed = self.batches.len();
                }
                if turn % 20 == 19 {
                    engine.compact(keyspace(&engine, 0))?;
                }
            }
        }
        Ok(())
    }

    /// As [`workload`](Told::workload), with large values whose garbage is collected, ingested files and checkpoints.
    fn rich_workload(&mut self, fs: &SimFs, seed: u64) -> Result<(), Error> {
        let mut random = Random(seed);
        fs.create_dir_all(Path::new("/")).map_err(|error| panic!("{error}"))?;
        for _ in 0..2 {
            let engine = open(fs, tiny())?;
            let mut snapshot = None;
            for turn in 0..24 {
                match turn % 8 {
                    1 | 2 | 4 => self.write_large(&engine, &mut random)?,
                    5 => self.ingest(fs, &engine, &mut random)?,
                    _ => self.write(&engine, &mut random)?,
                }
                match turn {
                    3 => snapshot = Some(engine.snapshot()),
                    11 => self.checkpoint(&engine)?,
                    14 => engine.compact(keyspace(&engine, 0))?,
                    17 => snapshot = None,
                    20 => engine.compact(keyspace(&engine, 1))?,
                    _ => {}
                }
            }
            drop(snapshot);
        }
        Ok(())
    }

    /// The workload ends with an error, unless all that failed was the removal of files that nobody needs.
    fn until_the_power_fails(&mut self, fs: &SimFs, seed: u64) {
        if self.workload(fs, seed).is_ok() {
            assert_eq!(self.batches.len(), 80);
        }
    }

    /// The store holds the first batches, whole, without a gap, and at least `certain` of them.
    fn check(&self, engine: &Engine, certain: usize, context: &str) {
        let count = engine.recovery().last_sequence as usize;
        assert!(count >= certain, "{context}: {count} batches are left of {certain} acknowledged ones");
        assert!(count <= self.batches.len(), "{context}: {count} batches of {} written", self.batches.len());
        let mut model = Model::new();
        for changes in &self.batches[..count] {
            apply(&mut model, changes);
        }
        assert_eq!(contents(engine, &engine.snapshot()).unwrap(), model, "{context}");
        assert_whole(engine);
    }
}

/// Opens the store, which must succeed, checks it, and sees that it goes on: writes more and opens it again.
fn recover_and_go_on(fs: &SimFs, told: &mut Told, certain: usize, context: &str) {
    let engine = open(fs, tiny()).unwrap_or_else(|error| panic!("{context}: {error}"));
    told.check(&engine, certain, context);
    told.batches.truncate(engine.recovery().last_sequence as usize);
    let mut random = Random(99);
    for _ in 0..12 {
        told.write(&engine, &mut random).unwrap();
    }
    drop(engine);
    let engine = open(fs, tiny()).unwrap_or_else(|error| panic!("{context}, opened again: {error}"));
    told.check(&engine, told.batches.len(), context);
}

/// The number of operations that a workload takes when nothing goes wrong.
fn operations(seed: u64) -> u64 {
    let fs = SimFs::new();
    let mut told = Told::default();
    told.workload(&fs, seed).unwrap();
    assert_eq!(told.batches.len(), 80);
    fs.operations()
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    for seed in 0..effort() {
        let operations = operations(seed);
        assert!(operations > 300, "the workload does too little: {operations}");
        for at in 0..operations {
            for crash in 0..4 {
                let context = format!("workload {seed}, power cut at {at}, crash {crash}");
                let fs = SimFs::new();
                fs.power_off_at(at);
                let mut told = Told::default();
                told.until_the_power_fails(&fs, seed);
                fs.crash(at * 31 + crash);
                let synced = told.synced;
                recover_and_go_on(&fs, &mut told, synced, &context);
            }
        }
    }
}

#[test]
fn a_power_cut_amid_ingests_checkpoints_and_garbage_collection_loses_nothing_acknowledged() {
    for seed in 300..300 + effort() {
        let fs = SimFs::new();
        let mut told = Told::default();
        told.rich_workload(&fs, seed).unwrap();
        let engine = open(&fs, tiny()).unwrap();
        let written = engine.stats();
        assert!(written.blob_files > 0 && told.checkpoints.len() == 2 && told.batches.len() == 48);
        drop(engine);
        for at in 0..fs.operations() {
            for crash in 0..2 {
                let context = format!("workload {seed}, power cut at {at}, crash {crash}");
                let fs = SimFs::new();
                fs.power_off_at(at);
                let mut told = Told::default();
                // It may end well, if all that failed was the removal of files that nobody needs.
                told.rich_workload(&fs, seed).ok();
                fs.crash(at * 31 + crash);
                if crash == 1 {
                    // And again while it recovers.
                    fs.power_off_at(fs.operations() + at % 7);
                    drop(open(&fs, tiny()));
                    fs.crash(at);
                }
                let synced = told.synced;
                recover_and_go_on(&fs, &mut told, synced, &context);
                told.check_checkpoints(&fs, &context);
            }
        }
    }
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_acknowledged() {
    for seed in 100..100 + effort() {
        let operations = operations(seed);
        for at in (0..operations).step_by(3) {
            let context = format!("workload {seed}, power cut at {at}");
            let fs = SimFs::new();
            fs.power_off_at(at);
            let mut told = Told::default();
            told.until_the_power_fails(&fs, seed);
            fs.crash(at);
            // Each attempt gets a little further before the next cut.
            for attempt in 0..12 {
                fs.power_off_at(fs.operations() + attempt * 2);
                drop(open(&fs, tiny()));
                fs.crash(at + attempt);
            }
            let synced = told.synced;
            recover_and_go_on(&fs, &mut told, synced, &context);
        }
    }
}

#[test]
fn a_kill_at_any_operation_loses_nothing_that_the_operating_system_has() {
    for seed in 200..200 + effort() {
        for at in 0..operations(seed) {
            let context = format!("workload {seed}, kill at {at}");
            let fs = SimFs::new();
            fs.power_off_at(at);
            let mut told = Told::default();
            told.until_the_power_fails(&fs, seed);
            fs.kill();
            let flushed = told.flushed;
            recover_and_go_on(&fs, &mut told, flushed, &context);
        }
    }
}

#[test]
fn one_seed_gives_one_history() {
    let trace = || {
        let fs = SimFs::new();
        Told::default().workload(&fs, 7).unwrap();
        (fs.operations(), fs.files())
    };
    assert_eq!(trace(), trace());
}

#[test]
fn directory_entries_are_durable_before_anybody_relies_on_them() {
    // Many power cuts right after an acknowledgement: whatever the disk makes of what was not synced, files
    // that were created and renamed for that acknowledgement are there.
    for crash in 0..200 {
        let fs = SimFs::new();
        let mut told = Told::default();
        let engine = open(&fs, tiny()).unwrap();
        let mut random = Random(crash);
        for _ in 0..30 {
            told.write(&engine, &mut random).unwrap();
        }
        if crash % 2 == 0 {
            engine.flush().unwrap();
            told.synced = told.batches.len();
        }
        fs.power_off_at(0);
        drop(engine);
        fs.crash(crash);
        assert!(fs.files().iter().any(|(path, _)| path == Path::new("/store/MANIFEST")));
        let synced = told.synced;
        recover_and_go_on(&fs, &mut told, synced, &format!("crash {crash}"));
    }
}
