//! Which members hold each partition: spread over zones, balanced by capacity, moving the least; in that order.
//!
//! Replicas flow from partitions through zones to members, and the cheapest flow is the assignment. A second replica of a partition in one zone
//! costs more than any imbalance, the next replica on a member costs by how full it is for its capacity, and a replica that was not there
//! before costs least of all. (Garage computes its layouts as flows, too: Mendes and Auvolat, "Optimal partition assignment in Garage", 2022.)

use std::collections::BTreeMap;

use super::{Member, NodeId, flow::Network};

/// What a replica costs that has to be moved.
const MOVE: i64 = 1;
/// More than all moves together: the least by which costs of imbalance differ.
const MOST_MOVES: i64 = 1 << 14;
/// Such differences to half a replica on a member of average capacity.
const STEPS: u128 = 16;
/// However little its capacity, a replica on a member costs no more.
const FULLEST: i64 = 1 << 34;
/// What a further replica of a partition in the same zone costs: more than any imbalance.
const SAME_ZONE: i64 = 1 << 46;

const SOURCE: usize = 0;
const SINK: usize = 1;

/// The members that hold each partition, ascending. There are at least `replication` members, in the order of their nodes; `holds` says where
/// replicas lie now.
#[expect(clippy::indexing_slicing, reason = "members, zones and partitions are counted here")]
pub(super) fn assign(
    members: &[Member],
    partitions: u16,
    replication: usize,
    holds: impl Fn(u16, NodeId) -> bool,
) -> Vec<Vec<NodeId>> {
    let mut zones: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, member) in members.iter().enumerate() {
        zones.entry(&member.zone).or_default().push(at);
    }
    let count = usize::from(partitions);
    let of_partitions = SINK + 1;
    let of_zones = of_partitions + count;
    let of_members = of_zones + count * zones.len();
    let mut network = Network::new(of_members + members.len());
    let mut choices = Vec::new();
    for partition in 0..partitions {
        let place = usize::from(partition);
        network.connect(SOURCE, of_partitions + place, (0..replication).map(|_| 0));
        for (nth, of_zone) in zones.values().enumerate() {
            let zone = of_zones + place * zones.len() + nth;
            let of_replicas = (0..of_zone.len().min(replication)).map(|already| already as i64 * SAME_ZONE);
            network.connect(of_partitions + place, zone, of_replicas);
            // Begun elsewhere for each partition, so that those that share a member do not share all others, too.
            for turn in 0..of_zone.len() {
                let at = of_zone[(turn + place) % of_zone.len()];
                let cost = if holds(partition, members[at].node) { 0 } else { MOVE };
                choices.push((place, at, network.connect(zone, of_members + at, [cost])));
            }
        }
    }
    let capacity: u128 = members.iter().map(|member| u128::from(member.capacity)).sum();
    for (at, member) in members.iter().enumerate() {
        let share = u128::from(member.capacity) * members.len() as u128;
        // The sum over what a member holds is as the square of how full it is: least where all are equally full.
        let of_replicas = (0..count as u128).map(|held| {
            let full = STEPS * (2 * held + 1) * capacity / share;
            i64::try_from(full).map_or(FULLEST, |full| full.saturating_mul(MOST_MOVES).min(FULLEST))
        });
        network.connect(of_members + at, SINK, of_replicas);
    }
    network.send(SOURCE, SINK);
    let mut held = vec![Vec::new(); count];
    for (partition, at, edge) in choices {
        if network.carried(edge) > 0 {
            held[partition].push(members[at].node);
        }
    }
    held.iter_mut().for_each(|nodes| nodes.sort_unstable());
    held
}
