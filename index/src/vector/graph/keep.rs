//! Going on from the graph of an older segment: its rows stay where they are, except that lists with dead neighbours are
//! mended (as in Singh et al., "FreshDiskANN", 2021): whoever pointed to a dead row is offered that row's neighbours.

use std::sync::atomic::Ordering;

use super::{
    BuildRows, BuildRun, Graph, NONE, Scratch,
    copies::{Copies, is_of_hanging},
};

/// A graph over some of the rows, made with the same number of connections.
pub(crate) struct Kept<'a> {
    /// For each row its place in the old graph, [`NONE`] if it was not there or is another vector now.
    old_rows: Vec<u32>,
    /// For each row of the old graph its place among the rows, [`NONE`] if it is dead.
    new_rows: Vec<u32>,
    /// For each row of the old graph whether it hung below an equal one.
    hung: Vec<bool>,
    /// Neighbours of an old row in a layer.
    links: &'a (dyn Fn(u32, usize) -> &'a [u32] + Sync),
}

impl<'a> Kept<'a> {
    /// `old_rows` gives for each row its place in the old graph, [`NONE`] if it was not there or is another vector now; `new_rows`
    /// the reverse, [`NONE`] for the dead; `links` the neighbours of an old row in a layer.
    pub(crate) fn new(
        old_rows: Vec<u32>,
        new_rows: Vec<u32>,
        links: &'a (dyn Fn(u32, usize) -> &'a [u32] + Sync),
    ) -> Self {
        let hung = (0..new_rows.len() as u32).map(|old| is_of_hanging(old, links(old, 0))).collect();
        Self { old_rows, new_rows, hung, links }
    }

    /// How many rows live.
    pub(crate) fn living_rows(&self) -> usize {
        self.new_rows.iter().filter(|row| **row != NONE).count()
    }

    /// Whether a row is in the old graph, and not below an equal one.
    pub(super) fn stood(&self, row: u32) -> bool {
        let old = self.old_rows[row as usize];
        old != NONE && !self.hung[old as usize]
    }

    /// Neighbours of an old row by distance, not as its copies.
    fn old_links(&self, old: u32, layer: usize) -> impl Iterator<Item = u32> {
        let links = (self.links)(old, layer).iter().copied().take_while(|id| *id != NONE);
        links.filter(|id| !self.hung.get(*id as usize).is_some_and(|hung| *hung))
    }
}

impl Graph {
    /// Takes over the lists of the rows that stood in an older graph and stand now. Tells for each row whether it has
    /// neighbours now; those that do not are still to be inserted.
    pub(super) fn keep(
        &self,
        rows: &BuildRows,
        kept: &Kept<'_>,
        copies: &Copies,
        run: &BuildRun<'_>,
    ) -> Vec<bool> {
        // The place among the rows of an old one that is there still for others to point to.
        let stands = |old: u32| {
            let row = kept.new_rows.get(old as usize).copied().filter(|row| *row != NONE);
            row.filter(|row| !copies.hangs(*row))
        };
        self.for_each_row(run, |row, scratch| {
            if kept.stood(row) && !copies.hangs(row) {
                for layer in 0..=self.top(row) {
                    let stands = |old: u32| stands(old).filter(|row| self.top(*row) >= layer);
                    self.keep_list(rows, kept, stands, row, layer, scratch);
                }
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
        stands: impl Fn(u32) -> Option<u32>,
        row: u32,
        layer: usize,
        scratch: &mut Scratch,
    ) {
        let (old, list) = (kept.old_rows[row as usize], self.list(row, layer));
        scratch.visited.begin(self.rows);
        scratch.visited.insert(row);
        scratch.fresh.clear();
        let mut lost = 0;
        for id in kept.old_links(old, layer) {
            match stands(id) {
                Some(id) if scratch.visited.insert(id) => scratch.fresh.push(id),
                Some(_) => {}
                None => lost += 1,
            }
        }
        if lost > 0 {
            let degree = scratch.fresh.len() + lost;
            let lost = kept.old_links(old, layer).filter(|id| stands(*id).is_none());
            for id in lost.flat_map(|lost| kept.old_links(lost, layer)).filter_map(&stands) {
                if scratch.visited.insert(id) {
                    scratch.fresh.push(id);
                }
            }
            let offered = std::mem::take(&mut scratch.fresh);
            self.choose(rows, row, &offered, list.len(), scratch);
            scratch.fresh = offered;
            // A list chosen anew is shorter than one that has grown; if all became so, walks would find less.
            let Scratch { nearest, chosen, fresh, .. } = scratch;
            for candidate in nearest.iter() {
                if chosen.len() < degree && !chosen.contains(&candidate.row()) {
                    chosen.push(candidate.row());
                }
            }
            std::mem::swap(fresh, chosen);
        }
        for (slot, id) in list.iter().zip(&scratch.fresh) {
            slot.store(*id, Ordering::Release);
        }
    }
}
