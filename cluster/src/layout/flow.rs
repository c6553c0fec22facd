//! Flows of least cost through a network: each unit takes the cheapest path that is left, where what flows already may be sent
//! another way (Ahuja, Magnanti and Orlin, "Network Flows", 1993: successive shortest paths with potentials).
#![expect(clippy::indexing_slicing, reason = "nodes and edges are numbered by the network itself")]

use std::{cmp::Reverse, collections::BinaryHeap};

/// Nodes, by number, and edges that carry so many units at most, each at a cost.
pub(super) struct Network {
    /// Each edge is followed by its way back.
    edges: Vec<Edge>,
    /// The edges that leave each node.
    leaving: Vec<Vec<usize>>,
    /// What keeps costs of edges that have room left from being negative.
    potentials: Vec<i64>,
    /// What each unit costs, of all edges.
    costs: Vec<i64>,
}

struct Edge {
    to: usize,
    room: u32,
    /// Of the next unit.
    cost: i64,
    /// Where the costs of its units begin; those of the way back are its edge's.
    costs_at: usize,
}

/// An edge of a network, by its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdgeId(usize);

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            edges: Vec::new(),
            leaving: vec![Vec::new(); nodes],
            potentials: vec![0; nodes],
            costs: Vec::new(),
        }
    }

    /// Adds an edge that carries as many units as costs are given. No cost is negative, or less than the one before.
    pub(super) fn connect(&mut self, from: usize, to: usize, costs: impl IntoIterator<Item = i64>) -> EdgeId {
        let (id, costs_at) = (self.edges.len(), self.costs.len());
        self.costs.extend(costs);
        let room = (self.costs.len() - costs_at) as u32;
        let cost = self.costs.get(costs_at).copied().unwrap_or(0);
        self.leaving[from].push(id);
        self.edges.push(Edge { to, room, cost, costs_at });
        self.leaving[to].push(id + 1);
        self.edges.push(Edge { to: from, room: 0, cost: 0, costs_at });
        EdgeId(id)
    }

    /// Sends as many units as there is room for, as cheaply as can be; returns how many.
    pub(super) fn send(&mut self, source: usize, sink: usize) -> u32 {
        let mut sent = 0;
        while let Some(path) = self.cheapest(source, sink) {
            for edge in path {
                self.edges[edge].room -= 1;
                self.edges[edge ^ 1].room += 1;
                self.price(edge & !1);
            }
            sent += 1;
        }
        sent
    }

    /// How many units an edge carries.
    pub(super) fn carried(&self, EdgeId(edge): EdgeId) -> u32 {
        self.edges[edge ^ 1].room
    }

    /// Sets what the next unit costs, and what one less saves.
    fn price(&mut self, edge: usize) {
        let carried = self.edges[edge ^ 1].room as usize;
        let costs = &self.costs[self.edges[edge].costs_at..];
        if self.edges[edge].room > 0 {
            self.edges[edge].cost = costs[carried];
        }
        if carried > 0 {
            self.edges[edge ^ 1].cost = -costs[carried - 1];
        }
    }

    /// The edges of the cheapest path that has room (Dijkstra over reduced costs).
    fn cheapest(&mut self, source: usize, sink: usize) -> Option<Vec<usize>> {
        let mut costs = vec![i64::MAX; self.leaving.len()];
        let mut came_by: Vec<Option<usize>> = vec![None; self.leaving.len()];
        let mut open = BinaryHeap::from([Reverse((0, source))]);
        costs[source] = 0;
        while let Some(Reverse((cost, node))) = open.pop() {
            if node == sink {
                break;
            }
            if cost > costs[node] {
                continue;
            }
            for &at in &self.leaving[node] {
                let Edge { to, room, cost: of_edge, .. } = self.edges[at];
                let next = cost + of_edge + self.potentials[node] - self.potentials[to];
                if room > 0 && next < costs[to] {
                    costs[to] = next;
                    came_by[to] = Some(at);
                    open.push(Reverse((next, to)));
                }
            }
        }
        let reached = costs[sink];
        if reached == i64::MAX {
            return None;
        }
        for (potential, cost) in self.potentials.iter_mut().zip(&costs) {
            // What lies further than the sink was not looked at.
            *potential += (*cost).min(reached);
        }
        let mut path = Vec::new();
        let mut node = sink;
        while let Some(at) = came_by[node] {
            path.push(at);
            node = self.edges[at ^ 1].to;
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flows_already_is_sent_another_way_if_that_costs_less() {
        // Two ways from 0 to 3: over 1 and over 2; the cheapest for one unit, 0-1-2-3, is given up for two.
        let mut network = Network::new(4);
        let edges = [(0, 1, 1), (0, 2, 5), (1, 2, 1), (1, 3, 5), (2, 3, 1)];
        let edges = edges.map(|(from, to, cost)| network.connect(from, to, [cost]));
        assert_eq!(network.send(0, 3), 2);
        assert_eq!(edges.map(|edge| network.carried(edge)), [1, 1, 0, 1, 1]);
    }

    #[test]
    fn units_take_the_edge_whose_next_one_is_cheapest() {
        let mut network = Network::new(3);
        network.connect(0, 1, [0; 5]);
        let rising = network.connect(1, 2, [1, 3, 9]);
        let flat = network.connect(1, 2, [2, 2, 5, 5]);
        assert_eq!(network.send(0, 2), 5);
        assert_eq!((network.carried(rising), network.carried(flat)), (2, 3));
    }
}
