//! A navigable small-world graph laid out flat for search (Malkov and Yashunin, "Efficient and robust
//! approximate nearest neighbor search using Hierarchical Navigable Small World graphs", 2016).

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use crate::vector::{Measure, rows::Rows};

/// Adjacency of the slots `0..covered`. Immutable; a larger one replaces it.
#[derive(Debug)]
pub(crate) struct FlatGraph {
    covered: usize,
    /// Where every walk begins, and the highest layer it is in.
    entry: u32,
    /// Neighbours in the bottom layer: `stride` numbers a slot, of which the first counts the rest.
    base: Vec<u32>,
    stride: usize,
    /// The layers above, from the second lowest up: slot to neighbours.
    upper: Vec<HashMap<u32, Box<[u32]>>>,
}

/// Walking found these.
pub(crate) struct Walked {
    /// Nearest first: distance and slot.
    pub(crate) nearest: Vec<(f32, u32)>,
    /// Distances computed.
    pub(crate) compared: u64,
}

impl FlatGraph {
    /// From the neighbours of each slot, layer by layer from the bottom. `entry` is in the top layer.
    pub(crate) fn new(layers: Vec<HashMap<u32, Box<[u32]>>>, covered: usize, entry: u32) -> Self {
        let mut layers = layers.into_iter();
        let bottom = layers.next().unwrap_or_default();
        let stride = 1 + bottom.values().map(|neighbours| neighbours.len()).max().unwrap_or(0);
        let mut base = vec![0; covered * stride];
        for (slot, neighbours) in bottom {
            let start = slot as usize * stride;
            base[start] = neighbours.len() as u32;
            base[start + 1..=start + neighbours.len()].copy_from_slice(&neighbours);
        }
        Self { covered, entry, base, stride, upper: layers.collect() }
    }

    /// Slots `0..covered` are in the graph.
    pub(crate) fn covered(&self) -> usize {
        self.covered
    }

    fn neighbours(&self, slot: u32) -> &[u32] {
        let start = slot as usize * self.stride;
        let count = self.base[start] as usize;
        &self.base[start + 1..=start + count]
    }

    /// The `ef` nearest visible slots that a walk of that breadth finds. Invisible ones are walked through.
    pub(crate) fn walk(
        &self,
        rows: &Rows,
        measure: Measure,
        query: &[f32],
        ef: usize,
        is_visible: impl Fn(u32) -> bool,
    ) -> Walked {
        let mut compared = 1;
        let mut near = (measure.distance(query, rows.vector(self.entry as usize)), self.entry);
        for layer in self.upper.iter().rev() {
            loop {
                let neighbours = layer.get(&near.1).map_or(&[][..], |neighbours| neighbours);
                let before = near.1;
                for &slot in neighbours {
                    compared += 1;
                    let distance = measure.distance(query, rows.vector(slot as usize));
                    if distance < near.0 {
                        near = (distance, slot);
                    }
                }
                if near.1 == before {
                    break;
                }
            }
        }
        VISITED.with_borrow_mut(|visited| {
            visited.begin(self.covered);
            visited.insert(near.1);
            let mut frontier = BinaryHeap::from([Reverse(Candidate::new(near.0, near.1))]);
            let mut found = BinaryHeap::with_capacity(ef + 1);
            if is_visible(near.1) {
                found.push(Candidate::new(near.0, near.1));
            }
            while let Some(Reverse(candidate)) = frontier.pop() {
                if found.len() >= ef && found.peek().is_some_and(|worst| candidate > *worst) {
                    break;
                }
                for &slot in self.neighbours(candidate.slot()) {
                    if !visited.insert(slot) {
                        continue;
                    }
                    compared += 1;
                    let next = Candidate::new(measure.distance(query, rows.vector(slot as usize)), slot);
                    if found.len() < ef || found.peek().is_some_and(|worst| next < *worst) {
                        frontier.push(Reverse(next));
                        if is_visible(slot) {
                            found.push(next);
                            if found.len() > ef {
                                found.pop();
                            }
                        }
                    }
                }
            }
            let nearest = found.into_sorted_vec().into_iter().map(|c| (c.distance(), c.slot())).collect();
            Walked { nearest, compared }
        })
    }
}

/// A slot and its distance in one number: distances are never negative, so their bits order as they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate(u64);

impl Candidate {
    pub(crate) fn new(distance: f32, slot: u32) -> Self {
        Self(u64::from(distance.to_bits()) << 32 | u64::from(slot))
    }

    pub(crate) fn distance(self) -> f32 {
        f32::from_bits((self.0 >> 32) as u32)
    }

    pub(crate) fn slot(self) -> u32 {
        self.0 as u32
    }
}

thread_local! {
    /// One set of visited slots a thread, cleared by counting walks.
    static VISITED: RefCell<Visited> = RefCell::default();
}

#[derive(Default)]
struct Visited {
    walk: u32,
    last_walk: Vec<u32>,
}

impl Visited {
    fn begin(&mut self, slots: usize) {
        if self.last_walk.len() < slots {
            self.last_walk.resize(slots, 0);
        }
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.last_walk.fill(0);
            self.walk = 1;
        }
    }

    /// Whether it was not visited before.
    fn insert(&mut self, slot: u32) -> bool {
        std::mem::replace(&mut self.last_walk[slot as usize], self.walk) != self.walk
    }
}
