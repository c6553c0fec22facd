//! Checkpoints: second stores out of hard links.

use std::path::Path;
use std::sync::Arc;

use allidb_storage::fs::{Fault, Fs, Operation, SimFs};
use allidb_storage::{Durability, Engine, Error};

use crate::model::{Model, Random, apply, assert_whole, batch, contents, effort, keyspace, open, put, tiny};

const CHECKPOINT: &str = "/checkpoint";

fn open_checkpoint(fs: &SimFs) -> Result<Engine, Error> {
    Engine::open(Arc::new(fs.clone()), Path::new(CHECKPOINT), tiny())
}

fn filled(fs: &SimFs, seed: u64) -> (Engine, Model) {
    let engine = open(fs, tiny()).unwrap();
    let mut random = Random(seed);
    let mut model = Model::new();
    for _ in 0..150 {
        let changes = random.changes();
        engine.write(batch(&engine, &changes), Durability::Flush).unwrap();
        apply(&mut model, &changes);
    }
    (engine, model)
}

#[test]
fn a_checkpoint_is_a_store_of_its_own() {
    let fs = SimFs::new();
    let (engine, model) = filled(&fs, 1);
    // A batch without changes takes a sequence as well.
    engine.write(batch::<crate::model::Edit>(&engine, &[]), Durability::Flush).unwrap();
    let made = engine.checkpoint(Path::new(CHECKPOINT)).unwrap();
    assert_eq!(made.sequence, engine.visible_sequence());
    assert!(made.files > 2 && made.bytes > 0, "{made:?}");
    // The first store goes on, and gives up all the files that both have.
    for index in 0..2 {
        for key in 0..40 {
            let gone = vec![(index, format!("key{key:02}").into_bytes(), None)];
            engine.write(batch(&engine, &gone), Durability::Flush).unwrap();
        }
        engine.flush().unwrap();
        engine.compact(keyspace(&engine, index)).unwrap();
    }
    assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), Model::new());
    let copy = open_checkpoint(&fs).unwrap();
    assert_eq!(copy.recovery().last_sequence, made.sequence);
    assert_eq!(contents(&copy, &copy.snapshot()).unwrap(), model);
    assert_eq!(copy.write(put(&copy, "new", b"1"), Durability::Sync).unwrap(), made.sequence + 1);
    assert_whole(&copy);
    copy.compact(keyspace(&copy, 0)).unwrap();
    assert_whole(&engine);
}

#[test]
fn a_directory_that_is_in_use_is_refused() {
    let fs = SimFs::new();
    let (engine, _) = filled(&fs, 2);
    engine.checkpoint(Path::new(CHECKPOINT)).unwrap();
    for dir in [CHECKPOINT, crate::model::DIR] {
        let error = engine.checkpoint(Path::new(dir)).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

#[test]
fn a_checkpoint_that_fails_leaves_nothing_behind_and_harms_nothing() {
    for operation in [Operation::Link, Operation::Create, Operation::Sync, Operation::Rename] {
        let fs = SimFs::new();
        let (engine, model) = filled(&fs, 3);
        engine.flush().unwrap();
        let skip = u64::from(operation == Operation::Link) * 2;
        fs.inject(Fault { skip, ..Fault::once(operation) });
        engine.checkpoint(Path::new(CHECKPOINT)).unwrap_err();
        assert_eq!(fs.list(Path::new(CHECKPOINT)).unwrap(), Vec::<String>::new(), "{operation:?}");
        engine.checkpoint(Path::new(CHECKPOINT)).unwrap();
        assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model);
    }
}

#[test]
fn a_power_cut_at_any_operation_of_a_checkpoint_leaves_a_whole_one_or_none() {
    let fs = SimFs::new();
    let (engine, model) = filled(&fs, 4);
    engine.flush().unwrap();
    drop(engine);
    let base = fs.fork();
    let operations = {
        let fs = base.fork();
        let engine = open(&fs, tiny()).unwrap();
        let before = fs.operations();
        engine.checkpoint(Path::new(CHECKPOINT)).unwrap();
        fs.operations() - before
    };
    for at in 0..operations {
        for seed in 0..4 * effort() {
            let fs = base.fork();
            let engine = open(&fs, tiny()).unwrap();
            fs.power_off_at(fs.operations() + at);
            engine.checkpoint(Path::new(CHECKPOINT)).unwrap_err();
            drop(engine);
            fs.crash(seed);
            let engine = open(&fs, tiny()).unwrap();
            assert_eq!(contents(&engine, &engine.snapshot()).unwrap(), model, "operation {at}, seed {seed}");
            match open_checkpoint(&fs) {
                Ok(copy) => {
                    let found = contents(&copy, &copy.snapshot()).unwrap();
                    // A directory without anything durable in it becomes a new store.
                    assert!(found == model || copy.recovery().created, "operation {at}, seed {seed}");
                }
                Err(Error::Corruption { path, .. }) => {
                    assert!(path.ends_with("MANIFEST"), "{}", path.display())
                }
                Err(error) => panic!("operation {at}, seed {seed}: {error}"),
            }
        }
    }
}
