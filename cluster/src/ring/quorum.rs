//! How many of which nodes must answer.

use crate::{coordinator::Consistency, layout::NodeId};

/// So many of each of these sets of nodes. While the ring changes its shape there are two, which may share nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quorum(Vec<(Vec<NodeId>, usize)>);

impl Quorum {
    /// As many of each set as a consistency needs.
    pub(super) fn of<'n>(sets: impl Iterator<Item = &'n [NodeId]>, consistency: Consistency) -> Self {
        let mut quorum: Vec<(Vec<NodeId>, usize)> = Vec::with_capacity(1);
        for nodes in sets {
            if quorum.iter().all(|(known, _)| known != nodes) {
                quorum.push((nodes.to_vec(), consistency.needed(nodes.len())));
            }
        }
        Self(quorum)
    }

    /// So many of some nodes.
    pub(super) fn of_nodes(nodes: Vec<NodeId>, needed: usize) -> Self {
        Self(vec![(nodes, needed)])
    }

    /// All nodes of all sets, each once.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.0.iter().flat_map(|(nodes, _)| nodes.iter().copied()).collect();
        if self.0.len() > 1 {
            nodes.sort_unstable();
            nodes.dedup();
        }
        nodes
    }

    fn lacking<'q>(&'q self, told: &'q [NodeId]) -> impl Iterator<Item = &'q [NodeId]> {
        let lacks = |(nodes, needed): &&(Vec<NodeId>, usize)| {
            nodes.iter().filter(|node| told.contains(node)).count() < *needed
        };
        self.0.iter().filter(lacks).map(|(nodes, _)| nodes.as_slice())
    }

    /// Whether these are enough.
    pub(super) fn is_met(&self, told: &[NodeId]) -> bool {
        self.lacking(told).next().is_none()
    }

    /// Whether one more would bring these nearer to being enough.
    pub(super) fn is_helped(&self, told: &[NodeId], node: NodeId) -> bool {
        self.lacking(told).any(|nodes| nodes.contains(&node))
    }

    /// How many nodes it takes at least, for whoever is told that there were fewer.
    pub(super) fn needed(&self) -> usize {
        self.0.iter().map(|(_, needed)| *needed).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_sets_each_must_be_met() {
        let [old, new] = [[1, 2, 3].map(NodeId), [2, 4, 5].map(NodeId)];
        let quorum = Quorum::of([&old[..], &new[..], &old[..]].into_iter(), Consistency::Quorum);
        assert_eq!(quorum.nodes(), [1, 2, 3, 4, 5].map(NodeId));
        assert!(!quorum.is_met(&[1, 2].map(NodeId)) && !quorum.is_met(&[4, 5, 1].map(NodeId)));
        assert!(quorum.is_met(&[1, 2, 5].map(NodeId)));
        assert!(quorum.is_helped(&[1, 3].map(NodeId), NodeId(4)));
        assert!(!quorum.is_helped(&[1, 3].map(NodeId), NodeId(1)));
        let one = Quorum::of([&old[..]].into_iter(), Consistency::One);
        assert!(one.is_met(&[NodeId(3)]) && !one.is_met(&[NodeId(4)]));
        assert_eq!(one.needed(), 1);
    }
}
