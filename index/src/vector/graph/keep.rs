//! Going on from the graph of an older segment: its rows stay where they are, except that lists with dead neighbours are
//! mended (as in Singh et al., "FreshDiskANN", 2021): whoever pointed to a dead row is offered that row's neighbours.

use std::sync::atomic::Ordering;

use super::{BuildRows, BuildRun, Graph, NONE, Scratch};
use crate::vector::pool::Candidate;

/// A graph over some of the rows, made with the same number of connections.
pub(crate) struct Kept<'a> {
    /// For each row its place in the old graph, [`NONE`] if it was not there or is another vector now.
    pub(crate) old_rows: Vec<u32>,
    /// For each row of the old graph its place among the rows, [`NONE`] if it is dead.
    pub(crate) new_rows: Vec<u32>,
    /// Neighbours of an old row in a layer.
    pub(crate) links: &'a (dyn Fn(u32, usize) -> &'a [u32] + Sync),
}

/// Neighbours of dead neighbours that a list is chosen from, at most: so many times its length.
const OFFERED: usize = 4;

impl Kept<'_> {
    /// The place among the rows of an old row that lives.
    fn living(&self, old: u32) -> Option<u32> {
        self.new_rows.get(old as usize).copied().filter(|row| *row != NONE)
    }

    fn old_links(&self, old: u32, layer: usize) -> impl Iterator<Item = u32> {
        (self.links)(old, layer).iter().copied().take_while(|id| *id != NONE)
    }
}

impl Graph {
    /// Takes over the lists of the rows that were in an older graph. Tells for each row whether it has neighbours now; those
    /// that do not are still to be inserted.
    pub(super) fn keep(&self, rows: &BuildRows, kept: &Kept<'_>, run: &BuildRun<'_>) -> Vec<bool> {
        self.for_each_row(run, |row, scratch| {
            let old = kept.old_rows[row as usize];
            if old != NONE {
                (0..=self.top(row)).for_each(|layer| self.keep_list(rows, kept, row, old, layer, scratch));
            }
        });
        // Read again: a row without neighbours in the bottom layer could be found by nobody.
        let has_neighbours = |row: u32| self.neighbours(row, 0).next().is_some();
        (0..rows.len() as u32).map(has_neighbours).collect()
    }

    fn keep_list(
        &self,
        rows: &BuildRows,
        kept: &Kept<'_>,
        row: u32,
        old: u32,
        layer: usize,
        scratch: &mut Scratch,
    ) {
        let list = self.list(row, layer);
        scratch.visited.begin(self.rows);
        scratch.visited.insert(row);
        scratch.fresh.clear();
        let mut has_lost = false;
        for id in kept.old_links(old, layer) {
            match kept.living(id) {
                Some(id) if self.top(id) >= layer && scratch.visited.insert(id) => scratch.fresh.push(id),
                Some(_) => {}
                None => has_lost = true,
            }
        }
        if has_lost {
            let dead = kept.old_links(old, layer).filter(|id| kept.living(*id).is_none());
            for id in dead.flat_map(|dead| kept.old_links(dead, layer)).filter_map(|id| kept.living(id)) {
                if self.top(id) >= layer && scratch.visited.insert(id) {
                    scratch.fresh.push(id);
                }
            }
            let Scratch { probe, fresh, sums, distances, nearest, .. } = scratch;
            rows.probe(row, probe);
            rows.distances(probe, fresh, sums, distances);
            nearest.clear();
            nearest.extend(fresh.iter().zip(&*distances).map(|(id, d)| Candidate::new(*d, *id)));
            nearest.sort_unstable();
            nearest.truncate(OFFERED * list.len());
            self.select(rows, list.len(), scratch);
            std::mem::swap(&mut scratch.fresh, &mut scratch.chosen);
        }
        for (slot, id) in list.iter().zip(&scratch.fresh) {
            slot.store(*id, Ordering::Release);
        }
    }
}
