//! Files of earlier releases, which are read for ever.
//!
//! Each file of `golden` is a segment as it was written when its format was new, compressed. One of a new format is made by
//! running these tests with `ALLIDB_WRITE_GOLDEN=1`; a file that is there is never written anew.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use allidb_storage::fs::{File, Fs, SimFs};

use super::*;
use crate::{
    model::Metric,
    vector::{
        Measure,
        graph::{BuildOptions, BuildRun},
        kernel::CodeKind,
        quantize::Form,
    },
};

/// Name, metric, dimension, codes, residuals, graph.
pub(super) type Golden = (&'static str, Metric, usize, Form, bool, bool);

pub(super) const GOLDEN: [Golden; 6] = [
    ("v1-cosine", Metric::Cosine, 100, Form::Codes(CodeKind::Bits4), true, true),
    ("v1-l2", Metric::L2, 30, Form::Codes(CodeKind::Bits4), true, true),
    ("v1-flat", Metric::Dot, 16, Form::Codes(CodeKind::Bits4), true, false),
    ("v1-bits8", Metric::Cosine, 20, Form::Codes(CodeKind::Bits8), false, true),
    ("v1-floats", Metric::Cosine, 20, Form::Floats, false, true),
    ("v1-bits1", Metric::L2, 70, Form::Codes(CodeKind::Bits1), true, true),
];
const ROWS: usize = 200;
const PATH: &str = "/s/1.segment";

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/vector/segment/golden").join(format!("{name}.zst"))
}

fn vector(row: usize, dimension: usize) -> Vec<f32> {
    // Halves and quarters: exact, whatever adds them up.
    (0..dimension).map(|at| ((row * 7 + at * 13 + row * at) % 29) as f32 / 4.0 - 3.5).collect()
}

/// A segment as this release writes it.
fn written((_, metric, dimension, form, has_residuals, has_graph): Golden) -> Vec<u8> {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("/s")).unwrap();
    let build = has_graph.then_some(BuildOptions { connections: 6, breadth: 30, slack: 1.1 });
    let spec = SegmentSpec { id: 1, covered: 9, seed: 42, metric, dimension, form, has_residuals, build };
    let numbers: Vec<u64> = (0..ROWS as u64).map(|row| 3 * row + 1).collect();
    let owner = |row: usize, out: &mut Vec<u8>| {
        *out = Owner::encode(&format!("entity {row}"), if row < 100 { "" } else { "chunk" }).into();
        Ok(())
    };
    let vector = |row: usize, out: &mut Vec<f32>| {
        *out = Measure(metric).prepare(&vector(row, dimension));
        Ok(())
    };
    let rows = SegmentRows { numbers: &numbers, owner: &owner, vector: &vector, kept: None };
    assert!(write(&fs, Path::new(PATH), &spec, &rows, &BuildRun::alone()).unwrap());
    fs.open_read(Path::new(PATH)).unwrap().read_all().unwrap()
}

pub(super) fn golden(name: &str) -> Vec<u8> {
    zstd::decode_all(&fs::read(place(name)).unwrap()[..]).unwrap()
}

#[test]
fn segments_of_every_format_are_read_for_ever() {
    for golden_one in GOLDEN {
        let (name, metric, dimension, _, _, has_graph) = golden_one;
        if std::env::var_os("ALLIDB_WRITE_GOLDEN").is_some() && !place(name).exists() {
            fs::write(place(name), zstd::encode_all(&written(golden_one)[..], 19).unwrap()).unwrap();
        }
        let fs = SimFs::new();
        fs.create_dir_all(Path::new("/s")).unwrap();
        let file: Arc<dyn File> = fs.create(Path::new(PATH)).unwrap();
        file.write_all_at(0, &golden(name)).unwrap();
        let segment = Segment::open(&fs, Path::new(PATH)).unwrap();
        segment.verify_all().unwrap();
        assert_eq!((segment.rows(), segment.is_flat()), (ROWS, !has_graph), "{name}");
        assert_eq!(segment.number(7).unwrap(), 22);
        let owner = segment.owner_of(150).unwrap();
        assert_eq!((owner.id.as_str(), owner.chunk.as_str()), ("entity 150", "chunk"));
        let mut searcher = Searcher::default();
        for row in (0..ROWS).step_by(9) {
            let prepared = Measure(metric).prepare(&vector(row, dimension));
            let mut probe = Probe::new(&prepared);
            let near = match has_graph {
                true => segment.walk(&mut probe, 100, 10, None, &mut searcher).unwrap(),
                false => segment.scan(&mut probe, 0..ROWS as u32, 10, &mut searcher).unwrap(),
            };
            let distance = |row: u32| {
                let other = Measure(metric).prepare(&vector(row as usize, dimension));
                Measure(metric).distance(&prepared, &other)
            };
            let best = (0..ROWS as u32).map(distance).fold(f32::INFINITY, f32::min);
            let found = distance(near[0].row());
            assert!(found <= best + 0.02 * best.abs().max(1.0), "{name}, row {row}: {found}, not {best}");
        }
    }
}

/// What tells of rows alone: a later release may build another graph over them.
const OF_ROWS: [Section; 9] = [
    Section::Centre,
    Section::Codes,
    Section::Steps,
    Section::Biases,
    Section::Residuals,
    Section::ResidualSteps,
    Section::Numbers,
    Section::OwnerEnds,
    Section::Owners,
];

#[test]
fn segments_are_written_as_the_golden_ones_were() {
    // A change of the format, even an unintended one, needs a new format version and new files.
    for golden_one in GOLDEN.into_iter().filter(|(name, ..)| name.starts_with("v1")) {
        let (name, .., has_graph) = golden_one;
        let (now, then) = (written(golden_one), golden(name));
        assert!(has_graph || now == then, "{name} differs");
        let header = |bytes: &[u8]| Header::decode(&bytes[..BLOCK]).unwrap();
        let (now_header, then_header) = (header(&now), header(&then));
        for section in OF_ROWS {
            let (now, then) = (&now[now_header.section(section)], &then[then_header.section(section)]);
            assert!(now == then, "{name}: {section:?} differs");
        }
        let same = Header {
            entry: then_header.entry,
            layers: then_header.layers.clone(),
            checksums: then_header.checksums,
            ..now_header
        };
        assert_eq!(same, then_header, "{name}");
    }
}
