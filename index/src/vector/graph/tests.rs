//! Graphs against brute force over the same codes, fresh and after much has come and gone.

use allidb_storage::fs::{Fs as _, RealFs};

use super::*;
use crate::vector::{quantize::Grid, rotation::Rotation};

const OPTIONS: BuildOptions = BuildOptions { connections: 12, breadth: 60, slack: 1.1 };
const DIMENSION: usize = 24;

struct Points(u64);

impl Points {
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    }

    fn next(&mut self) -> Vec<f32> {
        (0..DIMENSION).map(|_| self.uniform()).collect()
    }
}

fn rows(vectors: &[(u64, Vec<f32>)]) -> BuildRows {
    let row_bytes = CodeKind::Bits8.row_bytes(DIMENSION);
    let codes = BuildCodes::Owned(vec![128; vectors.len() * row_bytes]);
    let mut rows = BuildRows { row_bytes, codes, ..BuildRows::default() };
    let rotation = Rotation::new(DIMENSION, 1);
    for (at, (number, vector)) in vectors.iter().enumerate() {
        let mut vector = vector.clone();
        rotation.apply(&mut vector);
        rows.numbers.push(*number);
        rows.biases.push(vector.iter().map(|x| x * x).sum::<f32>() / 2.0);
        let codes = &mut rows.codes[at * row_bytes..][..row_bytes];
        rows.steps.push(Grid(CodeKind::Bits8).encode(&mut vector, codes));
    }
    rows
}

fn build(rows: &BuildRows, kept: Option<&Kept<'_>>) -> Graph {
    Graph::build(rows, OPTIONS, kept, &BuildRun::alone()).unwrap().unwrap()
}

/// Rows that a walk of this breadth finds equal to a row.
fn equals_found(graph: &Graph, rows: &BuildRows, row: u32, breadth: usize) -> usize {
    let mut scratch = Scratch::default();
    rows.probe(row, &mut scratch.probe);
    let mut at = graph.entry;
    for layer in (1..graph.layers()).rev() {
        at = graph.descend(rows, at, layer, &mut scratch);
    }
    graph.search_broadly(rows, &[at], 0, breadth, &mut scratch);
    let codes = |row: u32| &rows.codes[row as usize * rows.row_bytes..][..rows.row_bytes];
    scratch.pool.candidates().iter().filter(|found| codes(found.row()) == codes(row)).count()
}

#[test]
fn every_copy_of_a_vector_is_found_however_many_there_are() {
    let mut points = Points(11);
    let mut vectors: Vec<(u64, Vec<f32>)> = (0..600).map(|number| (number, points.next())).collect();
    // Groups of 2, 30 and 900 copies, spread over the numbers.
    for (of, count) in [(3, 2), (100, 30), (200, 900)] {
        let copied = vectors[of].1.clone();
        (1..count).for_each(|_| {
            let number = vectors.len() as u64;
            vectors.push((number, copied.clone()));
        });
    }
    let all = rows(&vectors);
    let graph = build(&all, None);
    assert!(recall(&graph, &all) > 0.9);
    for (of, count) in [(3, 2), (100, 30), (200, 900)] {
        assert_eq!(equals_found(&graph, &all, of, 1_000), count);
    }
    let same: Vec<(u64, Vec<f32>)> = (0..500).map(|number| (number, vec![0.5; DIMENSION])).collect();
    let same = rows(&same);
    assert_eq!(equals_found(&build(&same, None), &same, 499, 600), 500, "nothing but copies");
}

#[test]
fn a_graph_built_in_scratch_files_is_the_same() {
    let mut points = Points(5);
    let vectors: Vec<(u64, Vec<f32>)> = (0..1_500).map(|number| (number, points.next())).collect();
    let in_memory = rows(&vectors);
    let dir = tempfile::tempdir().unwrap();
    let taken = AtomicUsize::new(0);
    let run = BuildRun {
        pool: None,
        is_cancelled: &|| false,
        inserted: &AtomicUsize::new(0),
        pace: &|_| {},
        scratch: &|len| {
            taken.fetch_add(1, Ordering::Relaxed);
            Ok(RealFs.scratch(dir.path(), len as u64).unwrap())
        },
    };
    let mut codes = run.zero_codes(in_memory.codes.len()).unwrap();
    assert!(codes.iter().all(|code| *code == 128));
    codes.copy_from_slice(&in_memory.codes);
    let BuildRows { numbers, row_bytes, steps, biases, .. } = rows(&vectors);
    let in_scratch = BuildRows { numbers, codes, row_bytes, steps, biases };
    let graph = Graph::build(&in_scratch, OPTIONS, None, &run).unwrap().unwrap();
    assert_eq!(taken.into_inner(), 3, "codes, links of the bottom layer, links above");
    let same = build(&in_memory, None);
    for row in 0..1_500 {
        for layer in 0..=same.top(row) {
            assert!(same.neighbours(row, layer).eq(graph.neighbours(row, layer)), "row {row}");
        }
    }
}

/// How many of the ten nearest of every 20th row a walk finds.
fn recall(graph: &Graph, rows: &BuildRows) -> f64 {
    let queries = (0..rows.len() as u32).step_by(20);
    recall_of(graph, rows, rows, queries, OPTIONS.breadth)
}

/// How many of the ten nearest of some queries a walk of some breadth finds, or others as near.
fn recall_of(
    graph: &Graph,
    rows: &BuildRows,
    queries: &BuildRows,
    asked: impl Iterator<Item = u32>,
    breadth: usize,
) -> f64 {
    let mut scratch = Scratch::default();
    let all: Vec<u32> = (0..rows.len() as u32).collect();
    let (mut found, mut wanted) = (0, 0);
    for query in asked {
        queries.probe(query, &mut scratch.probe);
        let mut at = graph.entry;
        for layer in (1..graph.layers()).rev() {
            at = graph.descend(rows, at, layer, &mut scratch);
        }
        graph.search_broadly(rows, &[at], 0, breadth, &mut scratch);
        let near: Vec<f32> = scratch.pool.candidates().iter().take(10).map(|c| c.distance()).collect();
        let Scratch { probe, sums, distances, .. } = &mut scratch;
        rows.distances(probe, &all, sums, distances);
        distances.sort_unstable_by(f32::total_cmp);
        wanted += 10;
        found += near.iter().filter(|distance| **distance <= distances[9]).count();
    }
    f64::from(found as u32) / f64::from(wanted)
}

/// A graph after fifteen rounds in which a fifth of 3,000 rows goes and as many come.
fn churned(points: &mut Points, vector: impl Fn(&mut Points) -> Vec<f32>) -> (Graph, BuildRows) {
    let mut vectors: Vec<(u64, Vec<f32>)> = (0..3_000).map(|number| (number, vector(points))).collect();
    let mut built = rows(&vectors);
    let mut graph = build(&built, None);
    for round in 0..15 {
        // Half of those that come are under the number of one that was there.
        let mut next: Vec<(u64, Vec<f32>, u32)> = Vec::new();
        for (row, (number, old)) in vectors.iter().enumerate() {
            match points.uniform() {
                x if x < -0.4 => {}
                x if x < -0.3 => next.push((*number, vector(points), NONE)),
                _ => next.push((*number, old.clone(), row as u32)),
            }
        }
        let mut number = vectors.last().unwrap().0;
        while next.len() < 3_000 {
            number += 1;
            next.push((number, vector(points), NONE));
        }
        let old_rows: Vec<u32> = next.iter().map(|(_, _, old)| *old).collect();
        let mut new_rows = vec![NONE; vectors.len()];
        for (new, old) in old_rows.iter().enumerate().filter(|(_, old)| **old != NONE) {
            new_rows[*old as usize] = new as u32;
        }
        let old = graph;
        let lists: Vec<Vec<Vec<u32>>> = (0..old.rows as u32)
            .map(|row| (0..=old.top(row)).map(|layer| old.neighbours(row, layer).collect()).collect())
            .collect();
        let links = |row: u32, layer: usize| lists[row as usize].get(layer).map_or(&[][..], |list| list);
        vectors = next.into_iter().map(|(number, vector, _)| (number, vector)).collect();
        built = rows(&vectors);
        graph = build(&built, Some(&Kept::new(old_rows, new_rows, &links)));
        let rows_with_edges = (0..3_000).filter(|row| graph.neighbours(*row, 0).next().is_some()).count();
        assert_eq!(rows_with_edges, 3_000, "round {round}");
    }
    (graph, built)
}

#[test]
fn a_graph_that_rows_come_to_and_go_from_stays_as_good_as_a_fresh_one() {
    let (graph, rows) = churned(&mut Points(7), Points::next);
    let (kept, fresh) = (recall(&graph, &rows), recall(&build(&rows, None), &rows));
    assert!(fresh > 0.9, "{fresh}");
    assert!(kept > fresh - 0.01, "after fifteen rounds {kept}, built afresh {fresh}");
}

#[test]
fn a_graph_full_of_copies_that_come_and_go_stays_as_good_as_a_fresh_one() {
    let mut points = Points(13);
    // Three rows for each vector, of which now one goes, now the one that stands for the others.
    let known: Vec<Vec<f32>> = (0..1_000).map(|_| points.next()).collect();
    let drawn = |points: &mut Points| known[((points.uniform() + 0.5) * 1_000.0) as usize].clone();
    let (graph, built) = churned(&mut points, drawn);
    let queries: Vec<(u64, Vec<f32>)> = (0..2_000).map(|number| (number, points.next())).collect();
    let queries = rows(&queries);
    let recall = |graph: &Graph| recall_of(graph, &built, &queries, 0..2_000, 40);
    let (kept, fresh) = (recall(&graph), recall(&build(&built, None)));
    assert!(fresh > 0.94, "{fresh}");
    assert!(kept > fresh - 0.01, "after fifteen rounds {kept}, built afresh {fresh}");
}

#[test]
fn a_graph_of_which_nothing_is_left_is_built_afresh() {
    let mut points = Points(7);
    let vectors: Vec<(u64, Vec<f32>)> = (0..500).map(|number| (number, points.next())).collect();
    let built = rows(&vectors);
    let nothing = |_: u32, _: usize| &[][..];
    for old_rows in [vec![NONE; 500], (0..500).collect()] {
        let graph = build(&built, Some(&Kept::new(old_rows, vec![NONE; 500], &nothing)));
        assert!(recall(&graph, &built) > 0.9);
    }
}
