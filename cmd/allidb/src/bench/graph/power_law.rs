//! A graph of which few nodes are the targets of most edges.

/// Numbers that look random, the same for the same seed (Vigna, SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        (self.uniform() * f64::from(end)) as u32
    }
}

/// Edges from any node to nodes of which the r-th most frequent has a share in proportion to r^(-2/3): the number of edges that
/// lead to a node follows a power law of exponent 2.5, as that of links between pages does. Which node is the r-th is random.
pub(crate) fn edges(nodes: u32, edges: u64, seed: u64) -> impl Iterator<Item = (u32, u32)> {
    let mut random = SplitMix(seed);
    let mut places: Vec<u32> = (0..nodes).collect();
    for at in (1..places.len()).rev() {
        places.swap(at, random.below(at as u32 + 1) as usize);
    }
    (0..edges).map(move |_| {
        let (from, rank) = (random.below(nodes), random.uniform().powi(3) * f64::from(nodes));
        (from, places[rank as usize])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_nodes_are_the_targets_of_most_edges() {
        let mut into = vec![0_u32; 10_000];
        edges(10_000, 100_000, 1).for_each(|(_, to)| into[to as usize] += 1);
        into.sort_unstable_by(|a, b| b.cmp(a));
        let first: u32 = into[..100].iter().sum();
        // A hundredth of the nodes has the cube root of a hundredth of the edges.
        assert!((18_000..25_000).contains(&first), "{first}");
        assert!(edges(10_000, 1_000, 1).eq(edges(10_000, 1_000, 1)));
    }
}
