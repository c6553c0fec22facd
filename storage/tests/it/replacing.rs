//! Another store in the place of one.

use std::path::Path;

use allidb_storage::{
    Durability, Error,
    fs::{Fs, SimFs},
    replace,
};

use crate::model::{DIR, Model, Random, apply, assert_whole, batch, contents, open, put, tiny};

const ANOTHER: &str = "/another";

/// A disk with a store of which a checkpoint was made, which holds this, and that has gone on since.
fn two_stores() -> (SimFs, Model) {
    let fs = SimFs::new();
    let engine = open(&fs, tiny()).unwrap();
    let (mut random, mut model) = (Random(5), Model::new());
    for round in 0..120 {
        let changes = random.changes();
        engine.write(batch(&engine, &changes), Durability::Flush).unwrap();
        if round < 60 {
            apply(&mut model, &changes);
        }
        if round == 59 {
            engine.checkpoint(Path::new(ANOTHER)).unwrap();
        }
    }
    engine.write(put(&engine, "since", b"1"), Durability::Sync).unwrap();
    let locked = replace(&fs, Path::new(DIR), Path::new(ANOTHER)).unwrap_err();
    assert!(matches!(locked, Error::Locked { .. }), "{locked}");
    engine.close().unwrap();
    (fs, model)
}

fn holds(fs: &SimFs, model: &Model) {
    let engine = open(fs, tiny()).unwrap();
    assert_eq!(&contents(&engine, &engine.snapshot()).unwrap(), model);
    assert_whole(&engine);
    engine.write(put(&engine, "more", b"1"), Durability::Sync).unwrap();
    engine.close().unwrap();
}

#[test]
fn a_store_takes_the_place_of_another_and_strangers_stay() {
    let (fs, model) = two_stores();
    let strange = Path::new(DIR).join("stranger");
    fs.create(&strange).unwrap();
    replace(&fs, Path::new(DIR), Path::new(ANOTHER)).unwrap();
    fs.open(&strange).unwrap();
    holds(&fs, &model);
    // It is another name for files that never change; logs are begun anew.
    let another = fs.list(Path::new(ANOTHER)).unwrap();
    assert!(another.iter().any(|name| name == "MANIFEST"), "{another:?}");
}

#[test]
fn it_does_whenever_the_power_is_cut_off_if_it_is_done_again() {
    let mut cuts = 0;
    for operations in 0.. {
        let (fs, model) = two_stores();
        fs.power_off_at(fs.operations() + operations);
        let is_done = replace(&fs, Path::new(DIR), Path::new(ANOTHER)).is_ok();
        fs.crash(operations);
        replace(&fs, Path::new(DIR), Path::new(ANOTHER)).unwrap();
        fs.crash(operations + 1);
        holds(&fs, &model);
        if is_done {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 10, "the power was cut off {cuts} times");
}
