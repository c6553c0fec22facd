//! Sorted files from elsewhere, which may hold anything: what is ingested has been checked, so a store stays sound.

use std::path::Path;

use super::mutation::Mutation;
use super::stores::{Base, exercise, open, read};
use super::{ZSTD_BYTES, rounds, tables, within};
use crate::fs::{Fs, SimFs};
use crate::{Compression, Error, KeyspaceOptions, SortedFileWriter};

const FILE: &str = "/outside/file";

fn write(fs: &SimFs, mutation: &mut Mutation) -> Vec<u8> {
    let options = KeyspaceOptions {
        block_bytes: 100,
        index_partition_bytes: *mutation.pick(&[60, 1 << 20]),
        compression: vec![*mutation.pick(&[Compression::None, Compression::Lz4, Compression::Zstd(1)])],
        ..KeyspaceOptions::new("")
    };
    fs.create_dir_all(Path::new("/outside")).unwrap();
    let mut writer = SortedFileWriter::create(fs, Path::new(FILE), 1 << 60, &options).unwrap();
    for number in 0..2 + mutation.below(38) {
        let key = format!("key{number:02}");
        if mutation.once_in(4) {
            writer.delete(key.as_bytes()).unwrap();
        } else {
            writer.put(key.as_bytes(), &vec![7; mutation.below(50)]).unwrap();
        }
    }
    writer.finish().unwrap();
    read(fs, Path::new(FILE))
}

#[test]
fn ingested_files() {
    let base = Base::small();
    let mut accepted = 0;
    rounds("ingested files", 2_000, |mutation| {
        let fs = base.fs.fork();
        let sound = write(&fs, mutation);
        let mut bytes = if mutation.once_in(4) { sound.clone() } else { tables::change(mutation, &sound) };
        if mutation.once_in(8) {
            mutation.bytes(&mut bytes);
        }
        let file = fs.open(Path::new(FILE)).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(0, &bytes).unwrap();
        within((24 << 20) + ZSTD_BYTES, || {
            let engine = open(&fs).unwrap();
            let keyspace = engine.keyspace("b").unwrap();
            match engine.ingest(keyspace, &[FILE.into()], |_| {}) {
                Ok(_) => accepted += 1,
                Err(Error::Corruption { path, .. } | Error::NewerFormat { path, .. }) => {
                    assert_eq!(path, Path::new(FILE), "the file that is to blame");
                }
                Err(error) => panic!("a damaged file is shown as: {error:?}"),
            }
            drop(engine);
            assert!(exercise(&fs, true), "a file that was refused damaged the store");
        });
    });
    assert!(accepted > 0, "no file was ingested");
}
