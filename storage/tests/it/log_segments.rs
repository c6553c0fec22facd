//! Several log segments that nobody has synced yet, since no write has asked for that: what a power cut, a torn segment or a
//! flipped bit make of them.

use std::path::PathBuf;

use allidb_storage::fs::{Fault, Fs, Operation, SimFs};
use allidb_storage::{Durability, Engine, Error, Options};

use crate::model::{Edit, Model, Random, apply, assert_whole, batch, contents, effort, open, tiny};

fn options() -> Options {
    Options { wal_segment_bytes: 600, memtable_bytes: 1 << 20, frozen_memtables: 100, ..tiny() }
}

/// Memtables stay in memory from now on, and their segments on disk.
fn keep_segments(fs: &SimFs) {
    fs.inject(Fault { times: u64::MAX, ..Fault::once(Operation::Create).on(".table") });
}

fn segments(fs: &SimFs) -> Vec<(PathBuf, u64)> {
    fs.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")).collect()
}

#[derive(Default)]
struct Written {
    batches: Vec<Vec<Edit>>,
    synced: usize,
    flushed: usize,
}

impl Written {
    fn write(&mut self, engine: &Engine, random: &mut Random, durability: Durability) -> Result<(), Error> {
        let edits = random.edits();
        self.batches.push(edits.clone());
        engine.write(batch(engine, &edits), durability)?;
        match durability {
            Durability::Sync => (self.synced, self.flushed) = (self.batches.len(), self.batches.len()),
            Durability::Flush => self.flushed = self.batches.len(),
            Durability::None => {}
        }
        Ok(())
    }

    /// Some 20 batches, and so several segments, between a durable write and the next.
    fn bursts(&mut self, fs: &SimFs, seed: u64, bursts: u64) -> Result<(), Error> {
        let mut random = Random(seed);
        let engine = open(fs, options())?;
        for burst in 0..bursts {
            keep_segments(fs);
            for _ in 0..20 {
                let durability = [Durability::None, Durability::Flush][random.below(2) as usize];
                self.write(&engine, &mut random, durability)?;
            }
            match burst % 3 {
                0 => self.write(&engine, &mut random, Durability::Sync)?,
                1 => {
                    engine.sync()?;
                    (self.synced, self.flushed) = (self.batches.len(), self.batches.len());
                }
                _ => {
                    fs.heal();
                    engine.flush()?;
                    (self.synced, self.flushed) = (self.batches.len(), self.batches.len());
                }
            }
        }
        for _ in 0..20 {
            self.write(&engine, &mut random, Durability::Flush)?;
        }
        Ok(())
    }

    fn model(&self, count: usize) -> Model {
        let mut model = Model::new();
        self.batches[..count].iter().for_each(|edits| apply(&mut model, edits));
        model
    }

    /// The store holds the first batches, at least `certain` of them, and takes durable writes that the next power cut
    /// spares. Returns how many it held.
    fn check(&mut self, fs: &SimFs, certain: usize, context: &str) -> usize {
        let engine = open(fs, options()).unwrap_or_else(|error| panic!("{context}: {error}"));
        let count = engine.recovery().last_sequence as usize;
        assert!((certain..=self.batches.len()).contains(&count), "{context}: {count} of {certain}");
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), self.model(count), "{context}");
        self.batches.truncate(count);
        let mut random = Random(7);
        keep_segments(fs);
        for _ in 0..6 {
            self.write(&engine, &mut random, Durability::Flush).unwrap();
        }
        self.write(&engine, &mut random, Durability::Sync).unwrap();
        fs.power_off_at(fs.operations());
        drop(engine);
        fs.crash(certain as u64);
        let engine = open(fs, options()).unwrap_or_else(|error| panic!("{context}, opened again: {error}"));
        assert_eq!(engine.recovery().last_sequence as usize, self.batches.len(), "{context}");
        let all = self.model(self.batches.len());
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), all, "{context}");
        assert_whole(&engine);
        count
    }
}

#[test]
fn a_power_cut_at_any_operation_amid_unsynced_segments_leaves_a_prefix() {
    for seed in 0..effort() {
        let fs = SimFs::new();
        Written::default().bursts(&fs, seed, 4).unwrap();
        let (operations, mut in_between) = (fs.operations(), 0);
        for at in 0..operations {
            for crash in 0..4 {
                let context = format!("seed {seed}, power cut at {at}, crash {crash}");
                let fs = SimFs::new();
                fs.power_off_at(at);
                let mut written = Written::default();
                written.bursts(&fs, seed, 4).ok();
                fs.crash(at * 31 + crash);
                let (synced, handed_over) = (written.synced, written.batches.len());
                let count = written.check(&fs, synced, &context);
                in_between += usize::from(count > synced && count < handed_over);
            }
        }
        assert!(in_between > 100, "hardly a power cut left a part of the unsynced: {in_between}");
    }
}

#[test]
fn a_power_cut_at_any_operation_of_a_recovery_that_removes_segments_leaves_a_prefix() {
    let mut removed = 0;
    for seed in 0..10 * effort() {
        let fs = SimFs::new();
        let mut written = Written::default();
        written.bursts(&fs, seed, 1).unwrap();
        fs.crash(seed);
        let whole = fs.fork();
        let engine = open(&whole, options()).unwrap();
        removed += engine.recovery().removed_files;
        drop(engine);
        for at in 0..whole.operations() {
            let fs = fs.fork();
            let mut certain = 0;
            for attempt in 0..3 {
                fs.power_off_at(fs.operations() + (at + attempt) % (whole.operations() + 1));
                if let Ok(engine) = open(&fs, options()) {
                    // What was recovered once has been synced.
                    certain = engine.recovery().last_sequence as usize;
                }
                fs.crash(at * 5 + attempt);
            }
            let synced = written.synced;
            let mut again = Written { batches: written.batches.clone(), ..Written::default() };
            again.check(&fs, synced.max(certain), &format!("seed {seed}, power cut at {at}"));
        }
    }
    assert!(removed > 5, "no segment followed a torn one: {removed}");
}

#[test]
fn a_kill_amid_unsynced_segments_loses_nothing_that_the_operating_system_has() {
    for seed in 0..effort() {
        let fs = SimFs::new();
        Written::default().bursts(&fs, seed, 3).unwrap();
        for at in 0..fs.operations() {
            let fs = SimFs::new();
            fs.power_off_at(at);
            let mut written = Written::default();
            written.bursts(&fs, seed, 3).ok();
            fs.kill();
            let flushed = written.flushed;
            written.check(&fs, flushed, &format!("seed {seed}, kill at {at}"));
        }
    }
}

#[test]
fn a_torn_segment_in_the_middle_ends_the_log_and_later_writes_survive() {
    let fs = SimFs::new();
    let mut written = Written::default();
    let mut random = Random(3);
    let engine = open(&fs, options()).unwrap();
    keep_segments(&fs);
    for _ in 0..40 {
        written.write(&engine, &mut random, Durability::Flush).unwrap();
    }
    drop(engine);
    let all = segments(&fs);
    assert!(all.len() >= 5, "{all:?}");
    for (at, (path, len)) in all.iter().enumerate().take(all.len() - 1) {
        // The end is missing, or a sector in the middle, or all of it but the header.
        for (offset, zeros) in [(len - 1, 1), (len / 2, 30), (40, len - 40)] {
            let fs = fs.fork();
            let file = fs.open(path).unwrap();
            file.write_all_at(offset, &vec![0; zeros as usize]).unwrap();
            let context = format!("{} torn at {offset}", path.display());
            let engine = open(&fs.fork(), options()).unwrap_or_else(|error| panic!("{context}: {error}"));
            let recovery = engine.recovery();
            assert_eq!(&recovery.truncated.as_ref().expect("said to be torn").path, path, "{context}");
            assert!(recovery.truncated.as_ref().unwrap().offset <= offset, "{context}");
            assert_eq!(recovery.segments, at + 1, "{context}");
            assert!(recovery.removed_files >= all.len() - at - 1, "{context}: {recovery:?}");
            assert!(recovery.last_sequence < 40, "{context}");
            drop(engine);
            let mut written = Written { batches: written.batches.clone(), ..Written::default() };
            written.check(&fs, 0, &context);
        }
    }
}

#[test]
fn bit_rot_in_an_older_synced_segment_is_never_cut_off() {
    let fs = SimFs::new();
    let mut written = Written::default();
    let mut random = Random(5);
    let engine = open(&fs, options()).unwrap();
    keep_segments(&fs);
    for turn in 0..40 {
        let durability = if turn == 36 { Durability::Sync } else { Durability::Flush };
        written.write(&engine, &mut random, durability).unwrap();
    }
    drop(engine);
    let all = segments(&fs);
    assert!(all.len() >= 5, "{all:?}");
    // The last record of the last segment that was synced has no witness but those behind it, in segments or in its own.
    let durable = &all[..all.len() - 1];
    assert!(durable.len() >= 3);
    for (path, len) in durable.iter().take(durable.len() - 1) {
        for offset in 0..*len {
            let fs = fs.fork();
            assert!(fs.flip_bit(path, offset, (offset % 8) as u8));
            for _ in 0..2 {
                let error = open(&fs, options()).err().unwrap_or_else(|| panic!("{path:?} at {offset}"));
                assert!(matches!(&error, Error::Corruption { path: named, .. } if named == path), "{error}");
            }
            let now = segments(&fs);
            assert_eq!(now, all, "nothing was cut off or removed");
        }
    }
}

#[test]
fn bit_rot_at_the_end_of_a_synced_segment_is_damage_even_if_nothing_was_synced_since() {
    let fs = SimFs::new();
    let mut written = Written::default();
    let mut random = Random(6);
    let engine = open(&fs, options()).unwrap();
    keep_segments(&fs);
    // The first record of the newest segment is not synced, and the last of the one before is.
    while segments(&fs).len() < 3 {
        written.write(&engine, &mut random, Durability::Sync).unwrap();
        engine.sync().unwrap();
        let count = segments(&fs).len();
        written.write(&engine, &mut random, Durability::Flush).unwrap();
        if segments(&fs).len() == count {
            engine.sync().unwrap();
        }
    }
    drop(engine);
    let all = segments(&fs);
    let (path, len) = &all[all.len() - 2];
    assert!(fs.flip_bit(path, len - 1, 3));
    let error = open(&fs, options()).unwrap_err();
    assert!(matches!(&error, Error::Corruption { path: named, .. } if named == path), "{error}");
    assert_eq!(segments(&fs), all);
}
