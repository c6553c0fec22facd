//! Which items of a stream go into the next group: as many as fit, in order, and none whose entity or edge
//! has a write under way, so that two writes of the same one are made in the order in which they came.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
};

use allidb_index::model::{EntityRef, SourceOwner, Write};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::weight::Taken;

/// Items of one group at most.
pub(super) const GROUP_ITEMS: usize = 512;
/// Bytes of one group at most, unless a single item is larger.
const GROUP_BYTES: usize = 4 << 20;

/// An item that was read.
pub(super) struct Item {
    pub(super) sequence: u64,
    pub(super) write: Result<Write, Status>,
    pub(super) bytes: usize,
    pub(super) ticket: Ticket,
}

/// The room that an item takes among those that were not answered yet; given back when dropped.
pub(super) struct Ticket {
    _room: Option<OwnedSemaphorePermit>,
    _weight: Option<Taken>,
}

impl Ticket {
    pub(super) fn of(room: OwnedSemaphorePermit, weight: Option<Taken>) -> Self {
        Self { _room: Some(room), _weight: weight }
    }
}

/// Stands for an entity or an edge. Two that collide only wait for each other needlessly.
pub(super) type Target = u64;

/// Writes that are made together.
#[derive(Default)]
pub(super) struct Group {
    pub(super) writes: Vec<Write>,
    /// Of each write, its sequence and ticket.
    pub(super) items: Vec<(u64, Ticket)>,
    pub(super) targets: Vec<Target>,
    /// Items on the way that could not be read.
    pub(super) refused: Vec<(u64, Status)>,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.refused.is_empty()
    }
}

/// Items that wait, and the targets of those under way.
#[derive(Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Box<Item>>,
    flying: HashSet<Target>,
    hasher: RandomState,
}

impl Backlog {
    pub(super) fn push(&mut self, item: Box<Item>) {
        self.waiting.push_back(item);
    }

    /// Whether there is enough for another group already.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= GROUP_ITEMS
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The longest run from the front that fits a group and has nothing under way; it is under way from now
    /// on, until [`Backlog::land`].
    pub(super) fn next_group(&mut self) -> Group {
        let mut group = Group::default();
        let mut bytes = 0;
        while let Some(item) = self.waiting.pop_front() {
            match item.write {
                Err(status) => group.refused.push((item.sequence, status)),
                Ok(write) => {
                    let target = target(&self.hasher, &write);
                    let full = group.writes.len() == GROUP_ITEMS || bytes + item.bytes > GROUP_BYTES;
                    if self.flying.contains(&target) || (full && !group.writes.is_empty()) {
                        self.waiting.push_front(Box::new(Item { write: Ok(write), ..*item }));
                        break;
                    }
                    bytes += item.bytes;
                    group.writes.push(write);
                    group.items.push((item.sequence, item.ticket));
                    group.targets.push(target);
                }
            }
        }
        self.flying.extend(&group.targets);
        group
    }

    /// Writes of these targets are no longer under way.
    pub(super) fn land(&mut self, targets: &[Target]) {
        for target in targets {
            self.flying.remove(target);
        }
    }
}

/// What a write changes.
fn target(hasher: &RandomState, write: &Write) -> Target {
    let entity = |entity: &EntityRef| hasher.hash_one((0u8, &entity.collection, &entity.id));
    let edge = |from: &EntityRef, relation: &str, to: &EntityRef, edge_id: &str| {
        hasher.hash_one((1u8, from, relation, to, edge_id))
    };
    match write {
        Write::Put { collection, entity } => hasher.hash_one((0u8, collection, &entity.id)),
        Write::Update(patch) => entity(&patch.entity),
        Write::Delete(name) | Write::DeleteIf { entity: name, .. } | Write::Merge { from: name, .. } => {
            entity(name)
        }
        Write::DropSource { of: SourceOwner::Entity(name) | SourceOwner::Chunk(name, _), .. } => entity(name),
        Write::DropSource { of: SourceOwner::Edge(name), .. } | Write::DeleteEdge(name) => {
            edge(&name.from, &name.relation, &name.to, &name.edge_id)
        }
        Write::If { write, .. } => target(hasher, write),
        Write::PutEdge(put) => edge(&put.from, &put.relation, &put.to, &put.edge_id),
    }
}

#[cfg(test)]
mod tests {
    use allidb_index::model::{Edge, Entity};

    use super::*;

    fn put(id: &str) -> Result<Write, Status> {
        let entity = Entity { id: id.into(), ..Entity::default() };
        Ok(Write::Put { collection: "c".into(), entity: Box::new(entity) })
    }

    fn edge(to: &str) -> Result<Write, Status> {
        Ok(Write::PutEdge(Box::new(Edge::new(EntityRef::new("c", "a"), "r", EntityRef::new("c", to)))))
    }

    fn backlog(items: Vec<(Result<Write, Status>, usize)>) -> Backlog {
        let mut backlog = Backlog::default();
        for (sequence, (write, bytes)) in items.into_iter().enumerate() {
            backlog.push(Box::new(Item {
                sequence: sequence as u64,
                write,
                bytes,
                ticket: Ticket { _room: None, _weight: None },
            }));
        }
        backlog
    }

    fn sequences(group: &Group) -> Vec<u64> {
        group.items.iter().map(|(sequence, _)| *sequence).collect()
    }

    #[test]
    fn a_target_under_way_is_waited_for_and_so_is_all_behind_it() {
        let mut backlog = backlog(vec![(put("a"), 1), (put("b"), 1), (edge("a"), 1)]);
        let first = backlog.next_group();
        assert_eq!(sequences(&first), [0, 1, 2]);
        for (sequence, write) in [(3, edge("b")), (4, put("a")), (5, put("c"))] {
            backlog.push(Box::new(Item {
                sequence,
                write,
                bytes: 1,
                ticket: Ticket { _room: None, _weight: None },
            }));
        }
        let second = backlog.next_group();
        assert_eq!(sequences(&second), [3], "an entity and an edge of it are two targets");
        assert!(backlog.next_group().is_empty());
        backlog.land(&second.targets);
        assert!(backlog.next_group().is_empty(), "the first group is still under way");
        backlog.land(&first.targets);
        assert_eq!(sequences(&backlog.next_group()), [4, 5]);
    }

    #[test]
    fn one_group_may_hold_several_writes_of_one_target_in_order() {
        let mut backlog = backlog(vec![(put("a"), 1), (put("b"), 1), (put("a"), 1)]);
        assert_eq!(sequences(&backlog.next_group()), [0, 1, 2]);
    }

    #[test]
    fn groups_are_bounded_in_items_and_bytes() {
        let many = (0..GROUP_ITEMS + 1).map(|at| (put(&at.to_string()), 1)).collect();
        let mut backlog_of_many = backlog(many);
        assert!(backlog_of_many.is_full());
        assert_eq!(backlog_of_many.next_group().writes.len(), GROUP_ITEMS);
        assert_eq!(backlog_of_many.next_group().writes.len(), 1);

        let half = GROUP_BYTES / 2;
        let mut heavy =
            backlog(vec![(put("a"), half), (put("b"), half), (put("c"), 9 * half), (put("d"), 1)]);
        for want in [vec![0, 1], vec![2], vec![3]] {
            assert_eq!(sequences(&heavy.next_group()), want);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_on_the_way() {
        let mut backlog =
            backlog(vec![(Err(Status::unknown("x")), 1), (put("a"), 1), (Err(Status::unknown("y")), 1)]);
        let group = backlog.next_group();
        assert_eq!(sequences(&group), [1]);
        assert_eq!(group.refused.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [0, 2]);
    }
}
