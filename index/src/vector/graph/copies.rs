//! Rows that are equal. None of them is nearer to anything than another, so that choosing neighbours by distance would leave
//! all but a few of them out of reach. One stands for all in the graph; the others hang below it in a tree, and no other row
//! points to them. The list of the one on top ends with its only child. That of a row that hangs begins with the row itself, by
//! which a later build knows it, then its parent and its children.

use std::sync::atomic::Ordering;

use xxhash_rust::xxh3::xxh3_64;

use super::{BuildRows, Graph, NONE, Scratch};

/// Children of a row that hangs at most; half of a list at most.
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
    /// Finds them. Of a group, the first row of those that `stood` in an older graph stands for all, or else the first of all.
    pub(super) fn find(rows: &BuildRows, stood: impl Fn(u32) -> bool) -> Self {
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
                    let stands = group.iter().position(|row| stood(*row)).unwrap_or(0);
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

/// Whether a row with this list hangs below another.
pub(super) fn is_of_hanging(row: u32, list: &[u32]) -> bool {
    list.first() == Some(&row)
}

impl Graph {
    /// Hangs the rows of each group below the one that stands for them, whose neighbours are found by now.
    pub(super) fn hang(&self, rows: &BuildRows, copies: &Copies) {
        let mut scratch = Scratch::default();
        for group in &copies.groups {
            let width = self.list(group[0], 0).len();
            let fan = CHILDREN.min(width / 2);
            for (at, row) in group.iter().enumerate() {
                // One child for the row on top, whose list is for its neighbours.
                let (first, most) = if at == 0 { (1, 1) } else { (fan * (at - 1) + 2, fan) };
                let mut ids = match at {
                    0 => self.foremost(rows, *row, width - 1, &mut scratch),
                    1 => vec![*row, group[0]],
                    _ => vec![*row, group[(at - 2) / fan + 1]],
                };
                ids.extend(group.iter().skip(first).take(most));
                for (at, slot) in self.list(*row, 0).iter().enumerate() {
                    slot.store(ids.get(at).copied().unwrap_or(NONE), Ordering::Relaxed);
                }
            }
        }
    }

    /// At most so many of the neighbours of a row in the bottom layer, chosen anew if there are more.
    fn foremost(&self, rows: &BuildRows, row: u32, most: usize, scratch: &mut Scratch) -> Vec<u32> {
        let ids: Vec<u32> = self.neighbours(row, 0).collect();
        if ids.len() <= most {
            return ids;
        }
        self.choose(rows, row, &ids, most, scratch);
        scratch.chosen.clone()
    }
}
