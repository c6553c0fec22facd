//! Segments against brute force, and against every kind of damage.

use std::{path::Path, time::Duration};

use allidb_storage::fs::{Fs, SimFs};

use super::*;
use crate::vector::Measure;
use crate::{
    deadline::Deadline,
    error::Error,
    model::Metric,
    vector::{
        graph::{BuildOptions, BuildRun},
        kernel::CodeKind,
        pool::Candidate,
        quantize::Form,
    },
};

const PATH: &str = "/s/1.segment";

/// Points around a few centres, the same for the same seed.
fn points(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    let centres: Vec<Vec<f32>> = (0..40).map(|_| (0..dimension).map(|_| uniform() * 3.0).collect()).collect();
    (0..count).map(|at| centres[at % 40].iter().map(|x| x + uniform()).collect()).collect()
}

const BITS_8: Form = Form::Codes(CodeKind::Bits8);
const BITS_4: Form = Form::Codes(CodeKind::Bits4);
const BITS_1: Form = Form::Codes(CodeKind::Bits1);

fn spec(metric: Metric, dimension: usize, form: Form, has_residuals: bool) -> SegmentSpec {
    let build = Some(BuildOptions { connections: 12, breadth: 60, slack: 1.1 });
    SegmentSpec { id: 7, covered: 5, seed: 42, metric, dimension, form, has_residuals, build }
}

/// A segment of these vectors; the n-th has number 10 n + 3.
fn segment(fs: &SimFs, spec: &SegmentSpec, vectors: &[Vec<f32>]) -> Segment {
    fs.create_dir_all(Path::new("/s")).unwrap();
    let numbers: Vec<u64> = (0..vectors.len() as u64).map(|at| 10 * at + 3).collect();
    let measure = Measure(spec.metric);
    let vector = |at: usize, out: &mut Vec<f32>| {
        *out = measure.prepare(&vectors[at]);
        Ok(())
    };
    let owner = |at: usize, out: &mut Vec<u8>| {
        *out = Owner::encode(&format!("e{at}"), if at.is_multiple_of(2) { "" } else { "c" }).into();
        Ok(())
    };
    let rows = SegmentRows { numbers: &numbers, owner: &owner, vector: &vector, kept: None };
    assert!(write(fs, Path::new(PATH), spec, &rows, &BuildRun::alone()).unwrap());
    Segment::open(fs, Path::new(PATH)).unwrap()
}

/// Rows by their exact distance.
fn exact(metric: Metric, vectors: &[Vec<f32>], query: &[f32]) -> Vec<(f32, u32)> {
    let measure = Measure(metric);
    let query = measure.prepare(query);
    let mut all: Vec<(f32, u32)> = (vectors.iter().enumerate())
        .map(|(at, vector)| (measure.distance(&query, &measure.prepare(vector)), at as u32))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

fn rows(candidates: &[Candidate]) -> Vec<u32> {
    candidates.iter().map(|candidate| candidate.row()).collect()
}

#[test]
fn walks_find_what_brute_force_finds_in_every_metric_and_code() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        for (form, has_residuals, least) in [
            (BITS_4, true, 0.97),
            (BITS_8, true, 0.97),
            (BITS_8, false, 0.95),
            (BITS_1, true, 0.6),
            (Form::Floats, false, 0.97),
        ] {
            for dimension in [20, 120] {
                let fs = SimFs::new();
                let vectors = points(1_500, dimension, 1);
                let segment = segment(&fs, &spec(metric, dimension, form, has_residuals), &vectors);
                let mut searcher = Searcher::default();
                let (mut found, queries) = (0, points(40, dimension, 2));
                for query in &queries {
                    let prepared = Measure(metric).prepare(query);
                    let mut probe = Probe::new(&prepared);
                    let truth = exact(metric, &vectors, query);
                    let near = segment.walk(&mut probe, 100, 100, None, &mut searcher).unwrap();
                    let top: Vec<u32> = truth[..10].iter().map(|(_, row)| *row).collect();
                    found += rows(&near)[..10].iter().filter(|row| top.contains(row)).count();
                    if form == Form::Floats || has_residuals && form != BITS_1 {
                        for candidate in &near {
                            let (want, _) = truth.iter().find(|(_, row)| *row == candidate.row()).unwrap();
                            let error = (candidate.distance() - want).abs();
                            assert!(
                                error < 1e-2 * want.abs().max(1.0),
                                "{metric:?} {form:?}: {error} off {want}"
                            );
                        }
                    }
                    let all = segment.scan_exactly(&mut probe, 0..1_500, 10, &mut searcher).unwrap();
                    for (candidate, doubt) in &all {
                        let (want, _) = truth.iter().find(|(_, row)| *row == candidate.row()).unwrap();
                        let error = (candidate.distance() - want).abs();
                        assert!(error <= *doubt, "{metric:?} {form:?}: {error} off, {doubt} expected");
                    }
                    let all: Vec<Candidate> = all.into_iter().map(|(candidate, _)| candidate).collect();
                    assert!(
                        top.iter().all(|row| rows(&all).contains(row)),
                        "{metric:?} {form:?}: exact is exact"
                    );
                }
                let recall = found as f64 / (10 * queries.len()) as f64;
                assert!(recall >= least, "{metric:?} {form:?} {dimension}: recall {recall}");
            }
        }
    }
}

#[test]
fn a_search_whose_time_is_over_ends() {
    let fs = SimFs::new();
    let vectors = points(1_500, 20, 1);
    let segment = segment(&fs, &spec(Metric::L2, 20, BITS_8, true), &vectors);
    let deadline = Some(Deadline::after(Duration::ZERO));
    let mut searcher = Searcher::default();
    searcher.deadline = deadline;
    let mut probe = Probe::new(&vectors[0]);
    let accept = |row: u32| row == 7;
    let results = [
        segment.walk(&mut probe, 200, 10, None, &mut searcher),
        segment.walk(&mut probe, 200, 10, Some(&accept), &mut searcher),
        segment.scan(&mut probe, 0..1_500, 10, &mut searcher),
    ];
    for result in results {
        assert!(matches!(result, Err(Error::DeadlineExceeded)), "{result:?}");
    }
    let exact = segment.scan_exactly(&mut probe, 0..1_500, 10, &mut searcher);
    assert!(matches!(exact, Err(Error::DeadlineExceeded)));
    // The next one has its own.
    searcher.deadline = None;
    assert_eq!(rows(&segment.walk(&mut probe, 200, 10, None, &mut searcher).unwrap())[0], 0);
}

#[test]
fn rows_that_are_not_accepted_are_walked_through() {
    let fs = SimFs::new();
    let vectors = points(2_000, 16, 1);
    let segment = segment(&fs, &spec(Metric::L2, 16, BITS_4, true), &vectors);
    let mut searcher = Searcher::default();
    for (every, least) in [(2, 0.95), (10, 0.95), (100, 0.95)] {
        let (mut found, mut wanted) = (0, 0);
        for query in points(20, 16, 3) {
            let accept = |row: u32| row.is_multiple_of(every);
            let near = segment.walk(&mut Probe::new(&query), 80, 25, Some(&accept), &mut searcher).unwrap();
            let near = rows(&near[..10.min(near.len())]);
            assert!(near.iter().all(|row| accept(*row)));
            let top =
                exact(Metric::L2, &vectors, &query).into_iter().filter(|(_, row)| accept(*row)).take(10);
            for (_, row) in top {
                wanted += 1;
                found += usize::from(near.contains(&row));
            }
        }
        assert!(
            f64::from(found as u32) >= least * f64::from(wanted as u32),
            "1 in {every}: {found} of {wanted}"
        );
    }
}

#[test]
fn a_segment_without_a_graph_is_scanned() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let fs = SimFs::new();
        let vectors = points(1_000, 40, 1);
        let flat = SegmentSpec { build: None, ..spec(metric, 40, BITS_4, true) };
        let segment = segment(&fs, &flat, &vectors);
        assert!(segment.is_flat());
        segment.verify_all().unwrap();
        let mut searcher = Searcher::default();
        let mut found = 0;
        for query in points(20, 40, 2) {
            let prepared = Measure(metric).prepare(&query);
            let near = segment.scan(&mut Probe::new(&prepared), 0..1_000, 25, &mut searcher).unwrap();
            let near = rows(&near[..10]);
            found +=
                exact(metric, &vectors, &query)[..10].iter().filter(|(_, row)| near.contains(row)).count();
        }
        assert!(found >= 196, "{metric:?}: {found} of 200");
    }
}

#[test]
fn numbers_lead_to_rows_and_back() {
    let fs = SimFs::new();
    let segment = segment(&fs, &spec(Metric::Cosine, 3, BITS_4, true), &points(100, 3, 1));
    for row in 0..100 {
        let owner = segment.owner_of(row).unwrap();
        assert_eq!((owner.id, owner.chunk.is_empty()), (format!("e{row}"), row % 2 == 0));
        assert_eq!(segment.number(row).unwrap(), u64::from(row) * 10 + 3);
        assert_eq!(segment.row_of(u64::from(row) * 10 + 3).unwrap(), Some(row));
        assert_eq!(segment.row_of(u64::from(row) * 10 + 4).unwrap(), None);
    }
}

#[test]
fn tiny_and_strange_sets_are_no_special_case() {
    let strange = [f32::MAX, -f32::MAX, 0.0, f32::MIN_POSITIVE, 1e-40, 1e30];
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        for form in [BITS_8, BITS_4, BITS_1, Form::Floats] {
            for count in [1, 2, 6] {
                for dimension in [1, 2, 65] {
                    let fs = SimFs::new();
                    let vectors: Vec<Vec<f32>> =
                        strange[..count].iter().map(|x| vec![*x; dimension]).collect();
                    let segment =
                        segment(&fs, &spec(metric, dimension, form, form != Form::Floats), &vectors);
                    for query in &vectors {
                        let prepared = Measure(metric).prepare(query);
                        let mut probe = Probe::new(&prepared);
                        let mut searcher = Searcher::default();
                        let near = segment.walk(&mut probe, 10, 10, None, &mut searcher).unwrap();
                        assert_eq!(near.len(), count, "{metric:?} {form:?} {dimension}");
                        let all =
                            segment.scan_exactly(&mut probe, 0..count as u32, 10, &mut searcher).unwrap();
                        assert_eq!(all.len(), count);
                    }
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_by_verifying_and_never_followed() {
    let fs = SimFs::new();
    let dimension = 20;
    let len = segment(&fs, &spec(Metric::L2, dimension, BITS_4, true), &points(300, dimension, 1)).bytes().0;
    let path = Path::new(PATH);
    let header = fs.open_read(path).unwrap().read_all().unwrap();
    let header = u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize + 4;
    for at in (0..header).chain((BLOCK..len).step_by(997)) {
        assert!(fs.flip_bit(path, at as u64, (at % 8) as u8));
        let found = Segment::open(&fs, path).and_then(|segment| segment.verify_all());
        let error = found.expect_err(&format!("byte {at} is not covered"));
        assert!(error.is_damage(), "{at}: {error}");
        if let Err(error) = fuzz_tests::use_it(&fs, Path::new(PATH)) {
            assert!(error.to_string().contains("1.segment"), "{error}");
        }
        assert!(fs.flip_bit(path, at as u64, (at % 8) as u8));
    }
    Segment::open(&fs, path).unwrap().verify_all().unwrap();
}

#[test]
fn a_segment_of_a_newer_release_is_refused_as_such() {
    let fs = SimFs::new();
    drop(segment(&fs, &spec(Metric::Cosine, 2, BITS_4, true), &points(5, 2, 1)));
    let file = fs.open(Path::new(PATH)).unwrap();
    let mut bytes = file.read_all().unwrap();
    bytes[8] = 2;
    file.write_all_at(0, &fuzz_tests::whole_header(&bytes)).unwrap();
    let refused = Segment::open(&fs, Path::new(PATH)).unwrap_err();
    assert!(refused.to_string().contains("has format 2"), "{refused}");
}
