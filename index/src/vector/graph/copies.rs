//! Rows that are equal. None of them is nearer to anything than another, so that choosing neighbours by distance would leave
//! all but a few of them out of reach. One stands for all in the graph; the others hang below it in a tree, in which each
//! knows its parent, its children, and the neighbours of the one on top.

use std::sync::atomic::Ordering;

use xxhash_rust::xxh3::xxh3_64;

use super::{BuildRows, Graph, NONE};

/// Children of a node of the tree at most; half of a list at most.
const CHILDREN: usize = 8;
/// Steps of equal vectors differ by rounding alone.
const SAME_STEP: f32 = 1e-5;

/// Groups of equal rows.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Each begins with the row that stands for it.
    groups: Vec<Vec<u32>>,
    /// A bit for each row that another one stands for; empty, if there is none.
    hangs: Vec<u64>,
}

impl Copies {
    /// Finds them. Of a group, the first row of those that `is_kept` in an older graph stands for all, or else the first of all.
    pub(super) fn find(rows: &BuildRows, is_kept: impl Fn(u32) -> bool) -> Self {
        let codes = |row: u32| &rows.codes[row as usize * rows.row_bytes..][..rows.row_bytes];
        let mut hashed: Vec<(u64, u32)> =
            (0..rows.len() as u32).map(|row| (xxh3_64(codes(row)), row)).collect();
        hashed.sort_unstable();
        let mut copies = Self::default();
        for alike in hashed.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1) {
            let mut left: Vec<u32> = alike.iter().map(|(_, row)| *row).collect();
            // Almost always one group; what merely has the same hash or other steps makes further ones.
            while let Some(first) = left.first().copied() {
                let step = |row: u32| rows.steps[row as usize];
                let is_same = |row: &u32| {
                    codes(*row) == codes(first) && (step(*row) - step(first)).abs() <= SAME_STEP * step(first)
                };
                let (mut group, others): (Vec<u32>, Vec<u32>) = left.into_iter().partition(is_same);
                left = others;
                if group.len() > 1 {
                    let stands = group.iter().position(|row| is_kept(*row)).unwrap_or(0);
                    group.swap(0, stands);
                    copies.add(group, rows.len());
                }
            }
        }
        copies
    }

    fn add(&mut self, group: Vec<u32>, rows: usize) {
        self.hangs.resize(rows.div_ceil(64), 0);
        for row in &group[1..] {
            self.hangs[*row as usize / 64] |= 1 << (row % 64);
        }
        self.groups.push(group);
    }

    /// Whether another row stands for this one.
    pub(super) fn hangs(&self, row: u32) -> bool {
        self.hangs.get(row as usize / 64).is_some_and(|word| word & 1 << (row % 64) != 0)
    }
}

impl Graph {
    /// Hangs the rows of each group below the one that stands for them, whose neighbours are found by now.
    pub(super) fn hang(&self, copies: &Copies) {
        for group in &copies.groups {
            let of_top: Vec<u32> = self.neighbours(group[0], 0).collect();
            for (at, row) in group.iter().enumerate() {
                let list = self.list(*row, 0);
                let fan = CHILDREN.min(list.len() / 2);
                let parent = at.checked_sub(1).map(|before| group[before / fan]);
                let mut ids: Vec<u32> = parent.into_iter().collect();
                ids.extend(group.iter().skip(fan * at + 1).take(fan));
                // One that was part of an older graph has neighbours of its own, who may be reached through it alone.
                let own: Vec<u32> = self.neighbours(*row, 0).collect();
                for id in own.into_iter().chain(of_top.iter().copied()) {
                    if ids.len() < list.len() && id != *row && !ids.contains(&id) {
                        ids.push(id);
                    }
                }
                for (at, slot) in list.iter().enumerate() {
                    slot.store(ids.get(at).copied().unwrap_or(NONE), Ordering::Relaxed);
                }
            }
        }
    }
}
