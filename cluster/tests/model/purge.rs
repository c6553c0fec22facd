//! Forgetting what was deleted, of one register with three replicas: messages come at any time, in any order, more than once or never, and each step
//! is taken by one replica after the other.
//!
//! A put, a deletion of the entity and the end of an edge (which has the version of what it ends, and is taken however late) are on their way all
//! the time; so is what is read at one replica, to be merged by another.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

const REPLICAS: usize = 3;
const PUT: u8 = 1;
const DELETED: u8 = 2;
/// Up to where the round goes.
const W: u8 = 2;

/// What a replica holds: nothing, or a value or tombstone of a version. A tombstone beats the value of its version, and what is newer what is older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Register {
    version: u8,
    is_gone: bool,
}

impl Register {
    fn is_there(self) -> bool {
        self.version > 0 && !self.is_gone
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    holds: Register,
    closed: u8,
    purged: u8,
    marked: Option<Register>,
    has_forgotten: bool,
}

/// What was read, and what whoever read it knew to be purged.
type Read = (Register, u8);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    replicas: [Replica; REPLICAS],
    reads: BTreeSet<Read>,
    /// Pairs that were made alike after all had closed, and after all had marked.
    alike: [BTreeSet<(usize, usize)>; 2],
    /// The newest that was forgotten anywhere.
    forgotten: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Put(usize),
    Delete(usize),
    EndEdge(usize),
    /// By somebody who knows so much to be purged.
    Read(usize, u8),
    Absorb(usize, Read),
    Close(usize),
    MakeAlike(usize, (usize, usize)),
    Mark(usize),
    Forget(usize),
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    Closing,
    /// Marks are made before replicas are alike, and none are compared then.
    SecondComparison,
    /// What is on its way is merged though it was read before.
    ReadAt,
    /// All that says that something is gone is removed, also what came after the mark.
    Marks,
}

struct Purge(Without);

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..REPLICAS).flat_map(|a| (a + 1..REPLICAS).map(move |b| (a, b)))
}

impl State {
    fn all(&self, holds: impl Fn(&Replica) -> bool) -> bool {
        self.replicas.iter().all(holds)
    }

    fn are_alike(&self, nth: usize) -> bool {
        self.alike[nth].len() == pairs().count()
    }
}

impl Model for Purge {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let knows: BTreeSet<u8> = state.replicas.iter().map(|replica| replica.purged).chain([0]).collect();
        let has_closed = self.0 == Without::Closing || state.all(|replica| replica.closed == W);
        let has_compared = state.are_alike(0);
        let has_marked = state.all(|replica| replica.marked.is_some());
        for at in 0..REPLICAS {
            actions.extend([Action::Put(at), Action::Delete(at), Action::EndEdge(at), Action::Close(at)]);
            actions.extend(knows.iter().map(|purged| Action::Read(at, *purged)));
            actions.extend(state.reads.iter().map(|read| Action::Absorb(at, *read)));
            let may_mark = has_compared || (self.0 == Without::SecondComparison && has_closed);
            if may_mark && state.replicas[at].marked.is_none() {
                actions.push(Action::Mark(at));
            }
            let may_forget = match self.0 {
                Without::SecondComparison => has_compared && has_marked,
                _ => state.are_alike(1),
            };
            if may_forget && !state.replicas[at].has_forgotten {
                actions.push(Action::Forget(at));
            }
        }
        for pair in pairs() {
            if has_closed && !state.alike[0].contains(&pair) {
                actions.push(Action::MakeAlike(0, pair));
            }
            if has_marked && !state.alike[1].contains(&pair) {
                actions.push(Action::MakeAlike(1, pair));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        let merge = |replica: &mut Replica, other: Register| replica.holds = replica.holds.max(other);
        match action {
            Action::Put(at) | Action::Delete(at) => {
                let is_gone = matches!(action, Action::Delete(_));
                let version = if is_gone { DELETED } else { PUT };
                let replica = &mut state.replicas[at];
                if version > replica.closed {
                    merge(replica, Register { version, is_gone });
                }
            }
            Action::EndEdge(at) => {
                merge(&mut state.replicas[at], Register { version: PUT, is_gone: true });
            }
            Action::Read(at, purged) => {
                let replica = &mut state.replicas[at];
                replica.purged = replica.purged.max(purged);
                state.reads.insert((replica.holds, purged));
            }
            Action::Absorb(at, (register, read_at)) => {
                let replica = &mut state.replicas[at];
                if read_at >= replica.purged || self.0 == Without::ReadAt {
                    merge(replica, register);
                }
            }
            Action::Close(at) => state.replicas[at].closed = W,
            Action::MakeAlike(nth, (a, b)) => {
                let both = state.replicas[a].holds.max(state.replicas[b].holds);
                (state.replicas[a].holds, state.replicas[b].holds) = (both, both);
                state.alike[nth].insert((a, b));
            }
            Action::Mark(at) => state.replicas[at].marked = Some(state.replicas[at].holds),
            Action::Forget(at) => {
                let replica = &mut state.replicas[at];
                replica.purged = W;
                replica.has_forgotten = true;
                let is_marked = replica.marked == Some(replica.holds) || self.0 == Without::Marks;
                if replica.holds.is_gone && replica.holds.version <= W && is_marked {
                    state.forgotten = state.forgotten.max(replica.holds.version);
                    replica.holds = Register::default();
                }
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was forgotten does not come back", |_, state: &State| {
                state.all(|replica| !replica.holds.is_there() || replica.holds.version > state.forgotten)
            }),
            Property::sometimes("a deletion is forgotten everywhere", |_, state: &State| {
                state.forgotten == DELETED
                    && state.all(|replica| replica.has_forgotten && replica.holds == Register::default())
            }),
            Property::sometimes("what was not deleted stays", |_, state: &State| {
                state.all(|replica| replica.has_forgotten && replica.holds.is_there())
            }),
        ]
    }
}

#[test]
fn what_was_forgotten_does_not_come_back() {
    let checker = Purge(Without::Nothing).checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    assert!(checker.is_done());
    checker.assert_properties();
}

/// Otherwise the model proves nothing of them.
#[test]
fn each_step_is_needed() {
    for without in [Without::Closing, Without::SecondComparison, Without::ReadAt, Without::Marks] {
        let checker = Purge(without).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let path = checker.discovery("what was forgotten does not come back");
        println!("{without:?}: {:?}", path.as_ref().map(|path| path.clone().into_actions()));
        assert!(path.is_some(), "without {without:?} nothing goes wrong");
    }
}
