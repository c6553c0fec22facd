//! Which sealed segments become one: few segments to search, little work for each row.
//!
//! A merge goes on from the graph of its largest segment and inserts only the rows of the others. Beside them, the rows of the
//! largest cost little: they are read and written again.

use std::sync::Arc;

use crate::vector::space::Sealed;

/// Rows that are worth a graph; fewer are scanned as fast.
pub(crate) const GRAPH_ROWS: usize = 2_000;
/// Segments with a graph besides the largest one at most.
const MAX_SMALL: usize = 3;
/// Segments without a graph at most.
const MAX_FLAT: usize = 4;
/// Inserting a row costs as much as copying so many.
const COPIES: usize = 16;

/// The segments to be merged now; none if all is well. They are: those without a graph, as soon as they have rows for one; those
/// of whose rows a fifth is dead; every one that costs less to copy than what is inserted anyway; and the smallest, while
/// there are too many.
pub(crate) fn choose(sealed: &[Arc<Sealed>]) -> Vec<Arc<Sealed>> {
    let (flat, graphs): (Vec<&Arc<Sealed>>, Vec<&Arc<Sealed>>) =
        sealed.iter().partition(|sealed| sealed.segment.is_flat());
    let flat_rows: usize = flat.iter().map(|sealed| sealed.living()).sum();
    let mut graphs = graphs;
    graphs.sort_by_key(|sealed| (sealed.living(), sealed.segment.id()));
    let mut chosen: Vec<Arc<Sealed>> = Vec::new();
    let mut rows = 0;
    if flat_rows >= GRAPH_ROWS || flat.len() > MAX_FLAT {
        chosen.extend(flat.into_iter().cloned());
        rows = flat_rows;
    } else {
        chosen.extend(flat.into_iter().filter(|sealed| sealed.living() == 0).cloned());
    }
    let will_be_graph = flat_rows >= GRAPH_ROWS;
    let mut left = graphs.len();
    for sealed in graphs {
        let is_cheap = will_be_graph && sealed.living() <= COPIES * rows;
        let is_one_too_many = left + usize::from(rows > 0) > MAX_SMALL + 1;
        if is_wasteful(sealed) || is_cheap || is_one_too_many {
            rows += sealed.living();
            left -= 1;
            chosen.push(Arc::clone(sealed));
        }
    }
    // One alone and whole would be written again for nothing.
    let is_alone = chosen.len() == 1 && !is_wasteful(&chosen[0]);
    let becomes_graph = is_alone && chosen[0].segment.is_flat() && will_be_graph;
    if is_alone && !becomes_graph {
        chosen.clear();
    }
    chosen
}

/// Whether so much of it is dead that searches pay for it.
fn is_wasteful(sealed: &Sealed) -> bool {
    let dead = sealed.deaths.count();
    dead > 1_000 && dead * 5 > sealed.segment.rows() || dead > 0 && dead == sealed.segment.rows()
}
