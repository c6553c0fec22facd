//! Which nodes hold each partition.
//!
//! | module | concept |
//! |---|---|
//! | `assign` | choosing them: zones, capacities, few moves |
//! | `flow` | flows of least cost, which that is computed as |
//! | `record` | the layout as it is kept on every node |
//! | `topology` | which layouts the ring goes by, and how far it is from one to the next |
//!
//! A layout is a pure function of the members and of the layout before, so that every node that knows both comes to the same. Ownership is
//! never derived from who is alive.

mod assign;
mod flow;
mod record;
mod topology;

use allidb_index::{Error, PARTITIONS};

pub use record::DamagedLayout;
pub(crate) use record::FORMAT as LAYOUT_FORMAT;
pub(crate) use topology::FORMAT as TOPOLOGY_FORMAT;
pub use topology::{Phase, Staged, Topology, TopologyError};

/// Most replicas of a partition.
pub const MAX_REPLICATION: usize = 7;

/// A node of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// As operators see it: sixteen hexadecimal digits.
impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_shown = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let node = is_shown.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        let why = || format!("is {text:?}; the id of a node is sixteen hexadecimal digits");
        node.map(Self).ok_or_else(|| Error::invalid("node", why()))
    }
}

/// A node that holds data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// What may fail together with it: a rack, a site. Replicas are spread over zones before anything else.
    pub zone: String,
    /// How much it is to hold, compared with others; in any unit, above 0.
    pub capacity: u32,
}

/// Partition to the nodes that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    version: u64,
    replication: usize,
    /// Ascending.
    members: Vec<Member>,
    /// Of each partition, ascending.
    replicas: Vec<Vec<NodeId>>,
}

/// Why there is no such layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Too many replicas, or none.
    #[error("{0} replicas of each partition are asked for; 1 to {MAX_REPLICATION} are possible")]
    Replication(usize),
    /// Two replicas would lie on one node.
    #[error("{members} members cannot hold {replication} replicas of each partition")]
    TooFewMembers {
        /// How many there are.
        members: usize,
        /// How many are needed.
        replication: usize,
    },
    /// A member is named more than once.
    #[error("node {0} is named twice")]
    NamedTwice(NodeId),
    /// What is named is none.
    #[error("node {0} is no member of the ring")]
    NoMember(NodeId),
    /// A member may hold nothing.
    #[error("node {0} has no capacity")]
    NoCapacity(NodeId),
}

impl Layout {
    /// The layout of a ring of one: `node` holds everything.
    pub fn of_one(node: NodeId) -> Self {
        let members = vec![Member { node, zone: String::new(), capacity: 1 }];
        Self { version: 1, replication: 1, members, replicas: vec![vec![node]; usize::from(PARTITIONS)] }
    }

    /// The first layout of a ring.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn found(members: Vec<Member>, replication: usize) -> Result<Self, LayoutError> {
        let nothing = Self { version: 0, replication, members: Vec::new(), replicas: Vec::new() };
        nothing.next(members, replication)
    }

    /// The layout that follows this one if the ring is to have these members: as many zones for each partition as there can be, members as
    /// full as their capacities say, and as little moved as that takes.
    ///
    /// # Errors
    /// If there are too few members, or members or the number of replicas are wrong.
    pub fn next(&self, mut members: Vec<Member>, replication: usize) -> Result<Self, LayoutError> {
        members.sort_by_key(|member| member.node);
        if !(1..=MAX_REPLICATION).contains(&replication) {
            return Err(LayoutError::Replication(replication));
        }
        if members.len() < replication {
            return Err(LayoutError::TooFewMembers { members: members.len(), replication });
        }
        if let Some(twice) = members.iter().zip(members.iter().skip(1)).find(|(a, b)| a.node == b.node) {
            return Err(LayoutError::NamedTwice(twice.0.node));
        }
        if let Some(member) = members.iter().find(|member| member.capacity == 0) {
            return Err(LayoutError::NoCapacity(member.node));
        }
        let replicas = assign::assign(&members, PARTITIONS, replication, |partition, node| {
            self.replicas(partition).contains(&node)
        });
        Ok(Self { version: self.version + 1, replication, members, replicas })
    }

    /// The layout that is left without some members, which are lost: their partitions are held by those of their replicas that are left, here or by
    /// the layout that the ring was moving to, or where none is by any member. Replicas are not made up for.
    ///
    /// # Errors
    /// If one of them is no member, or none is left.
    pub(super) fn without(&self, lost: &[NodeId], next: Option<&Self>) -> Result<Self, LayoutError> {
        let is_left = |node: &NodeId| !lost.contains(node);
        let of_next = next.into_iter().flat_map(|next| &next.members);
        let mut members: Vec<Member> = self.members.iter().chain(of_next).cloned().collect();
        members.sort_by_key(|member| member.node);
        members.dedup_by_key(|member| member.node);
        if let Some(node) = lost.iter().find(|node| members.iter().all(|member| member.node != **node)) {
            return Err(LayoutError::NoMember(*node));
        }
        members.retain(|member| is_left(&member.node));
        let left = |layout: &Self, partition| -> Vec<NodeId> {
            layout.replicas(partition).iter().copied().filter(is_left).collect()
        };
        let replicas = (0..PARTITIONS).map(|partition| {
            let mut held = left(self, partition);
            if let (true, Some(next)) = (held.is_empty(), next) {
                held = left(next, partition);
            }
            let anybody = members.iter().cycle().nth(usize::from(partition));
            let anybody = anybody.ok_or(LayoutError::TooFewMembers { members: 0, replication: 1 })?.node;
            Ok(if held.is_empty() { vec![anybody] } else { held })
        });
        let replicas = replicas.collect::<Result<_, LayoutError>>()?;
        Ok(Self { version: self.version + 1, replication: self.replication, members, replicas })
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many nodes are to hold each partition; after members were lost there may be fewer.
    pub fn replication(&self) -> usize {
        self.replication
    }

    /// The nodes that hold data, ascending.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The nodes that hold a partition, ascending.
    pub fn replicas(&self, partition: u16) -> &[NodeId] {
        self.replicas.get(usize::from(partition)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn member(node: u64, zone: &str, capacity: u32) -> Member {
        Member { node: NodeId(node), zone: zone.to_owned(), capacity }
    }

    fn alike(nodes: impl IntoIterator<Item = u64>) -> Vec<Member> {
        nodes.into_iter().map(|node| member(node, "a", 1)).collect()
    }

    fn loads(layout: &Layout) -> Vec<usize> {
        let load = |of: &Member| layout.replicas.iter().filter(|held| held.contains(&of.node)).count();
        layout.members.iter().map(load).collect()
    }

    /// Replicas that were not there before.
    fn moves(from: &Layout, to: &Layout) -> usize {
        let moved = |(before, after): (&Vec<NodeId>, &Vec<NodeId>)| {
            after.iter().filter(|node| !before.contains(node)).count()
        };
        from.replicas.iter().zip(&to.replicas).map(moved).sum()
    }

    fn members() -> impl Strategy<Value = Vec<Member>> {
        let of_node = (prop::sample::select(vec!["a", "b", "c", "d"]), 1_u32..6);
        prop::collection::btree_map(0_u64..20, of_node, 1..9).prop_map(|members| {
            members.into_iter().map(|(node, (zone, capacity))| member(node, zone, capacity)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn replicas_lie_on_different_nodes_in_as_many_zones_as_there_can_be(
            steps in prop::collection::vec((members(), 1_usize..5), 1..4),
        ) {
            let mut layout = Layout::of_one(NodeId(0));
            for (mut members, replication) in steps {
                if members.len() < replication {
                    prop_assert!(layout.next(members, replication).is_err());
                    continue;
                }
                let next = layout.next(members.clone(), replication).unwrap();
                members.reverse();
                prop_assert_eq!(&layout.next(members.clone(), replication).unwrap(), &next, "their order says nothing");
                prop_assert_eq!(moves(&next, &next.next(members.clone(), replication).unwrap()), 0);
                prop_assert_eq!(next.version(), layout.version() + 1);
                let zone = |node: &NodeId| members.iter().find(|member| member.node == *node).map(|member| &member.zone);
                let all_zones: BTreeSet<_> = members.iter().map(|member| &member.zone).collect();
                for partition in 0..PARTITIONS {
                    let held: BTreeSet<&NodeId> = next.replicas(partition).iter().collect();
                    let zones: BTreeSet<_> = held.iter().map(|node| zone(node).expect("a member")).collect();
                    prop_assert_eq!(held.len(), replication);
                    prop_assert_eq!(zones.len(), replication.min(all_zones.len()));
                }
                layout = next;
            }
        }

        #[test]
        fn members_of_one_zone_are_as_full_as_they_can_be_alike(capacities in prop::collection::vec(1_u32..6, 4..9)) {
            let of = |(node, capacity): (usize, &u32)| member(node as u64, "a", *capacity);
            let layout = Layout::found(capacities.iter().enumerate().map(of).collect(), 1).unwrap();
            let total: u32 = capacities.iter().sum();
            for (load, capacity) in loads(&layout).into_iter().zip(&capacities) {
                let share = f64::from(PARTITIONS) * f64::from(*capacity) / f64::from(total);
                prop_assert!((load as f64 - share).abs() < 1.5, "{load} rather than {share}");
            }
        }
    }

    #[test]
    fn no_more_is_moved_than_a_new_member_takes_or_one_that_leaves_had() {
        let mut layout = Layout::found(alike(1..=3), 3).unwrap();
        for nodes in 4..=8 {
            let next = layout.next(alike(1..=nodes), 3).unwrap();
            let loads = loads(&next);
            assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
            assert_eq!(moves(&layout, &next), *loads.last().unwrap());
            layout = next;
        }
        let held = loads(&layout)[3];
        let next = layout.next(alike((1..=8).filter(|node| *node != 4)), 3).unwrap();
        assert_eq!(moves(&layout, &next), held);
        assert!(
            next.replicas.iter().collect::<BTreeSet<_>>().len() > 20,
            "those that share one share not all"
        );
    }

    #[test]
    fn one_of_each_zone_whatever_its_capacity_and_the_rest_by_capacity() {
        let members = [("a", 1), ("b", 100), ("b", 100), ("c", 100), ("c", 50)]
            .into_iter()
            .zip(1..)
            .collect::<Vec<_>>();
        let members = members.into_iter().map(|((zone, capacity), node)| member(node, zone, capacity));
        let layout = Layout::found(members.collect(), 3).unwrap();
        let loads = loads(&layout);
        assert_eq!((loads[0], loads[1], loads[2]), (256, 128, 128));
        assert!(loads[3].abs_diff(171) <= 1 && loads[3] + loads[4] == 256, "{loads:?}");
    }

    #[test]
    fn what_is_left_without_members_is_held_by_the_rest() {
        let layout = Layout::found(alike(1..=5), 3).unwrap();
        let lost = [NodeId(2), NodeId(3), NodeId(4)];
        let left = layout.without(&lost, None).unwrap();
        assert_eq!(left.members(), [member(1, "a", 1), member(5, "a", 1)]);
        assert_eq!((left.version(), left.replication()), (2, 3));
        let mut orphans = 0;
        for partition in 0..PARTITIONS {
            let before: Vec<NodeId> =
                layout.replicas(partition).iter().copied().filter(|node| !lost.contains(node)).collect();
            orphans += usize::from(before.is_empty());
            let now = left.replicas(partition);
            assert!(if before.is_empty() { now.len() == 1 } else { now == before }, "{before:?} {now:?}");
        }
        assert!((1..100).contains(&orphans), "{orphans}");
        assert_eq!(Layout::decode(&left.encode()).as_ref(), Ok(&left));
        // Nothing is moved to those that have it.
        let next = left.next(alike([1, 5, 6]), 3).unwrap();
        assert!(
            (0..PARTITIONS).all(|of| left.replicas(of).iter().all(|node| next.replicas(of).contains(node)))
        );
        let refused = |lost: &[u64]| {
            let lost: Vec<NodeId> = lost.iter().copied().map(NodeId).collect();
            layout.without(&lost, None).unwrap_err()
        };
        assert_eq!(refused(&[2, 9]), LayoutError::NoMember(NodeId(9)));
        assert_eq!(refused(&[1, 2, 3, 4, 5]), LayoutError::TooFewMembers { members: 0, replication: 1 });
        // What nobody held that is left, somebody may hold already that was to.
        let moved = layout.next(alike(5..=9), 3).unwrap();
        let left = layout.without(&[1, 2, 3, 4].map(NodeId), Some(&moved)).unwrap();
        for partition in 0..PARTITIONS {
            match layout.replicas(partition).contains(&NodeId(5)) {
                true => assert_eq!(left.replicas(partition), [NodeId(5)]),
                false => assert_eq!(left.replicas(partition), moved.replicas(partition)),
            }
        }
    }

    #[test]
    fn wrong_members_are_refused() {
        let refused = |members, replication| Layout::found(members, replication).unwrap_err();
        assert_eq!(refused(alike(1..=2), 3), LayoutError::TooFewMembers { members: 2, replication: 3 });
        assert_eq!(refused(alike([1, 2, 1]), 2), LayoutError::NamedTwice(NodeId(1)));
        assert_eq!(refused(alike(1..=9), 8), LayoutError::Replication(8));
        assert_eq!(refused(alike(1..=3), 0), LayoutError::Replication(0));
        assert_eq!(refused(vec![member(1, "a", 0)], 1), LayoutError::NoCapacity(NodeId(1)));
    }
}
