//! What becomes of a space when segments turn out to be damaged at the wrong moment.

use std::path::Path;

use allidb_storage::fs::{Fs as _, SimFs};

use super::*;
use crate::vector::{
    graph::BuildRun,
    kernel::CodeKind,
    quantize::Form,
    segment::{SegmentRows, SegmentSpec, write},
};

const DIMENSION: usize = 4;

/// A flat segment with these numbers.
fn segment(fs: &SimFs, id: u64, numbers: &[u64]) -> Segment {
    fs.create_dir_all(Path::new("/s")).unwrap();
    let path = Path::new("/s").join(format!("{id}.segment"));
    let spec = SegmentSpec {
        id,
        covered: 1,
        seed: ROTATION_SEED,
        metric: Metric::L2,
        dimension: DIMENSION,
        form: Form::Codes(CodeKind::Bits4),
        has_residuals: true,
        build: None,
    };
    let owner = |at: usize, out: &mut Vec<u8>| {
        *out = crate::vector::Owner::encode(&format!("e{at}"), "").into();
        Ok(())
    };
    let vector = |at: usize, out: &mut Vec<f32>| {
        *out = vec![at as f32; DIMENSION];
        Ok(())
    };
    let rows = SegmentRows { numbers, owner: &owner, vector: &vector, kept: None };
    assert!(write(fs, &path, &spec, &rows, &BuildRun::alone()).unwrap());
    Segment::open(fs, &path).unwrap()
}

/// A space with two segments of 2,000 rows each.
fn space(fs: &SimFs) -> SpaceIndex {
    let shape = Shape { metric: Metric::L2, dimension: DIMENSION, codes: Codes::default() };
    let space = SpaceIndex::new((CollectionId(1), SpaceId(1)), shape, 1, true, &Arc::default());
    for id in 0..2 {
        let segment = segment(fs, id + 1, &(2_000 * id..2_000 * (id + 1)).collect::<Vec<u64>>());
        let deaths = Deaths::new(segment.rows(), &roaring::RoaringBitmap::new());
        space.add_sealed(segment, deaths);
    }
    space
}

#[test]
fn a_merge_of_a_segment_that_was_taken_out_meanwhile_is_thrown_away() {
    let fs = SimFs::new();
    let space = space(&fs);
    let inputs = space.due(Work::Merge).unwrap();
    let merged = segment(&fs, 3, &(0..4_000).collect::<Vec<u64>>());
    assert!(space.take_out(Path::new("/s/1.segment")));
    // Noted nowhere but as written: the segment that holds the number is out of use.
    let writing = space.begin_write();
    space.remove(&writing, 7, 50);
    drop(writing);
    assert!(!space.install(&inputs, Some(merged), 10, &|| 60).unwrap());
    let ids: Vec<u64> = space.inventory().0.iter().map(|sealed| sealed.segment.id()).collect();
    assert_eq!(ids, [2], "the number that was removed has come back");
    assert!(space.is_missing_rows());
    let again = segment(&fs, 4, &(0..4_000).collect::<Vec<u64>>());
    let inputs = Inputs::Sealed(space.inventory().0);
    assert!(space.install(&inputs, Some(again), 10, &|| 60).unwrap());
}

#[test]
fn a_segment_taken_out_during_a_restore_has_it_begin_again() {
    let fs = SimFs::new();
    let space = space(&fs);
    assert!(space.take_out(Path::new("/s/1.segment")));
    let taken_out = space.taken_out();
    // Rows of the second segment are passed over, and then it goes, too.
    assert!(space.take_out(Path::new("/s/2.segment")));
    assert!(!space.take_out(Path::new("/s/2.segment")), "it is out already");
    space.end_restore(taken_out, 5);
    assert!(space.is_missing_rows() && !space.inventory().2);
    space.end_restore(space.taken_out(), 5);
    assert!(!space.is_missing_rows());
}

#[test]
fn what_was_written_into_a_segment_that_is_lost_is_read_again() {
    let fs = SimFs::new();
    let space = space(&fs);
    assert!(space.take_out(Path::new("/s/1.segment")));
    let put = |number: u64, sequence: Sequence| {
        let writing = space.begin_write();
        let fresh = writing.growing().encode(vec![1.0; DIMENSION], Box::default());
        space.upsert(&writing, number, &fresh, sequence);
        fresh
    };
    let fresh = put(7, 50);
    // It is sealed, and its segment is lost as well, before all rows were read again.
    space.close_growing();
    let inputs = space.due(Work::Seal).unwrap();
    assert!(space.install(&inputs, Some(segment(&fs, 3, &[7])), 55, &|| 60).unwrap());
    assert!(space.take_out(Path::new("/s/3.segment")));
    let vectors = || space.counts().vectors;
    let before = vectors();
    space.restore(7, &fresh, 40);
    assert_eq!(vectors(), before, "what was read before it was written is an older vector");
    space.restore(7, &fresh, 60);
    assert_eq!(vectors(), before + 1);
    space.end_restore(space.taken_out(), 60);
    assert!(!space.view().fits(59) && space.view().fits(60));
}
