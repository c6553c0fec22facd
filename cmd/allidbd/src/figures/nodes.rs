//! What a node tells of each other one of its ring, as the ring is now. The recorder would tell of a node for ever that is gone, and whoever looks at
//! that would be alarmed.

use std::fmt::Write;

use allidb_cluster::{Coordinator, NodeId};

/// In the text format of Prometheus; nothing if this node is alone.
pub(super) fn text(coordinator: &Coordinator) -> String {
    if coordinator.ring_counts().is_none() {
        return String::new();
    }
    let (own, topology) = (coordinator.node(), coordinator.topology());
    let members: Vec<NodeId> = topology.layout().members().iter().map(|member| member.node).collect();
    let others: Vec<NodeId> = members.iter().copied().filter(|node| *node != own).collect();
    let is_there = |(node, _): &(NodeId, f64)| topology.has(*node);
    let nodes = coordinator.nodes();
    let view = |node: NodeId| nodes.iter().find(|view| view.node == node);
    let is_alive = |node| view(node).is_some_and(|view| view.is_alive);
    let agrees = |node| view(node).is_some_and(|view| view.topology == Some(topology.digest()));
    let compared = |node| coordinator.compared(node).map(|(ago, _)| (node, ago.as_secs_f64()));
    let (calls, clocks, hints) = (coordinator.calls(), coordinator.clocks(), coordinator.hints());
    let under_way = calls.iter().map(|calls| (calls.node, calls.under_way as f64));
    let withheld = calls.iter().map(|calls| (calls.node, flag(calls.is_failing)));
    let ahead = clocks.iter().map(|clock| (clock.node, clock.ahead_ms as f64 / 1_000.0));
    let hinted = hints.iter().map(|hints| (hints.node, hints.bytes as f64));
    [
        gauge(
            "allidb_ring_node_up",
            "Whether another node is heard from",
            others.iter().map(|node| (*node, flag(is_alive(*node)))),
        ),
        gauge(
            "allidb_ring_node_agrees",
            "Whether another node goes by the same topology as this one",
            others.iter().map(|node| (*node, flag(agrees(*node)))),
        ),
        gauge(
            "allidb_ring_compared_age_seconds",
            "How long ago what lies here was compared with what another node holds, if that is this one's part",
            members.iter().copied().filter_map(compared),
        ),
        gauge(
            "allidb_ring_node_calls",
            "Calls of another node that it has not answered yet",
            under_way.filter(is_there),
        ),
        gauge(
            "allidb_ring_node_withheld",
            "Whether calls of another node are withheld, as it did not answer lately",
            withheld.filter(is_there),
        ),
        gauge(
            "allidb_ring_clock_ahead_seconds",
            "How far the clock of another node is ahead of this one's",
            ahead.filter(is_there),
        ),
        gauge(
            "allidb_ring_hint_bytes",
            "Writes kept for a node that has not acknowledged them",
            hinted.filter(is_there),
        ),
    ]
    .concat()
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// A figure of each node that has it.
fn gauge(name: &str, help: &str, of: impl Iterator<Item = (NodeId, f64)>) -> String {
    let mut lines = String::new();
    for (node, value) in of {
        // Writing to a string cannot fail.
        writeln!(lines, "{name}{{node=\"{node}\"}} {value}").ok();
    }
    if lines.is_empty() {
        return lines;
    }
    format!("# HELP {name} {help}\n# TYPE {name} gauge\n{lines}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_once_for_each_node_and_not_at_all_without_any() {
        assert_eq!(gauge("x", "Something", std::iter::empty()), "");
        let told = gauge("x", "Something", [(NodeId(1), 0.5), (NodeId(2), 3.0)].into_iter());
        let expected = "# HELP x Something\n# TYPE x gauge\n\
            x{node=\"0000000000000001\"} 0.5\nx{node=\"0000000000000002\"} 3\n\n";
        assert_eq!(told, expected);
    }
}
