//! Writes on conditions: two proposers that have both read that an entity is not there, and want to make it, each by itself; three acceptors.
//! Messages come in any order or never, and so do answers. Or somebody deletes it in between, or an acceptor loses its disk, and takes over what
//! the two others know.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, HasDiscoveries, Model, Property};

const ACCEPTORS: usize = 3;
const PROPOSERS: usize = 2;
const QUORUM: usize = 2;
/// Ballots that each proposer may begin.
const ATTEMPTS: u8 = 2;

/// A ballot, and a version; 0: none.
type Ballot = u8;

/// Under which it is deleted: between the first and the second of each proposer.
const DELETION: Ballot = 1 + PROPOSERS as u8;
const DELETER: usize = PROPOSERS;

/// What is made: its version, and by whom it was asked for.
type Value = (Ballot, usize);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Acceptor {
    promised: Ballot,
    accepted: Option<(Ballot, Value)>,
    committed: Ballot,
    /// The entity, or that it was deleted.
    row: Option<Value>,
    /// The versions of writes that were made, one bit each.
    made: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    Prepare,
    /// With the versions of what was made.
    Accept(Value, u8),
    Commit(Value),
}

/// What an acceptor tells that has promised: what it accepted, what it committed, the entity, and what was made.
type Promise = (Option<(Ballot, Value)>, Ballot, Option<Value>, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Preparing(BTreeMap<usize, Promise>),
    Accepting(Value, BTreeSet<usize>),
    Committing(Value, BTreeSet<usize>),
    /// It was told that there is a newer ballot, or has finished what another one began.
    Outbid,
    Made,
    Refused,
    /// It does not know.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposer {
    attempt: u8,
    phase: Phase,
    /// Under which ballots its own may have been accepted.
    tried: Vec<Ballot>,
}

/// From a proposer, under a ballot, to an acceptor.
type Message = (usize, Ballot, Step, usize);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    acceptors: Vec<Acceptor>,
    proposers: Vec<Proposer>,
    sent: BTreeSet<Message>,
    /// What was deleted.
    deleted: Option<Value>,
    /// Whether an acceptor has lost its disk.
    has_healed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// Whether its answer is heard: what one accepted of which nobody heard, it may tell later.
    Deliver(Message, bool),
    /// Somebody deletes the entity on the condition that it is as it is, at these two acceptors.
    Delete(usize, usize),
    /// An acceptor loses what it knows, and takes over what the others do before it says anything.
    Heal(usize),
    BeginAgain(usize),
}

/// What must never be.
const BROKEN: [&str; 4] = [
    "one alone makes it",
    "what was made is at a quorum, and stays",
    "what was deleted does not come back",
    "what was refused is nowhere",
];
/// What may be.
const ENDS: [&str; 2] = ["both end, and one has made it", "it is found out that it was made"];

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Acceptors accept whatever they promised.
    Promises,
    /// Whoever asks for a promise again is told that it is given, and nothing else.
    Answers,
    /// What others accepted is not finished.
    Finishing,
    /// What some of those that promised hold is not made at the others before anything follows from it.
    Repair,
    /// Whoever was outbid takes a version that is not its own for a refusal, and one that is as well.
    Recognition,
    /// Whoever takes over what others know takes over entities alone.
    Acceptors,
    /// It does so while others count on what it answered before.
    Waiting,
}

/// What happens besides. If anything does no answers are lost, and the second proposer begins once alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Besides {
    Nothing,
    /// What was made is deleted.
    Deletion,
    /// An acceptor loses its disk.
    Loss,
}

const ALL_BESIDES: [Besides; 3] = [Besides::Nothing, Besides::Deletion, Besides::Loss];

struct Decide {
    without: Without,
    besides: Besides,
}

/// How many proposers are so far.
fn count(state: &State, phase: &Phase) -> usize {
    state.proposers.iter().filter(|proposer| proposer.phase == *phase).count()
}

fn ballot_of(proposer: usize, attempt: u8) -> Ballot {
    1 + attempt * (PROPOSERS as u8 + 1) + proposer as u8
}

impl State {
    fn send(&mut self, proposer: usize, ballot: Ballot, step: Step) {
        self.sent.extend((0..ACCEPTORS).map(|acceptor| (proposer, ballot, step, acceptor)));
    }

    fn begin(&mut self, proposer: usize) {
        self.proposers[proposer].phase = Phase::Preparing(BTreeMap::new());
    }

    /// What a proposer does that has heard of an acceptor.
    fn hears(&mut self, without: Without, (from, ballot, step, at): Message, told: Result<Promise, ()>) {
        let Proposer { attempt, phase, tried } = &mut self.proposers[from];
        if ballot != ballot_of(from, *attempt) {
            return;
        }
        let own = (ballot, from);
        match (phase, step) {
            (Phase::Preparing(promises), Step::Prepare) => {
                let Ok(promise) = told else { return self.proposers[from].phase = Phase::Outbid };
                promises.insert(at, promise);
                if promises.len() < QUORUM {
                    return;
                }
                let committed = promises.values().map(|promise| promise.1).max().unwrap_or_default();
                let accepted = promises.values().filter_map(|promise| promise.0);
                let newest = accepted.filter(|(ballot, _)| *ballot > committed).max();
                let row = promises.values().filter_map(|promise| promise.2).max();
                let made = promises.values().fold(0, |made, promise| made | promise.3);
                if without != Without::Repair {
                    for at in promises.keys() {
                        self.acceptors[*at].row = self.acceptors[*at].row.max(row);
                    }
                }
                let is_in_progress = newest.is_some() && without != Without::Finishing;
                if !is_in_progress && without != Without::Recognition {
                    if tried.iter().any(|version| made & (1 << version) > 0) {
                        return self.proposers[from].phase = Phase::Made;
                    }
                    // It was not made; nor will it be, if a newer one was.
                    tried.retain(|version| *version >= committed);
                }
                let next = match (newest, row) {
                    (Some((_, value)), _) if is_in_progress => value,
                    (_, Some((_, by))) if by != DELETER => {
                        let is_known = tried.is_empty() || without == Without::Recognition;
                        return self.proposers[from].phase =
                            if is_known { Phase::Refused } else { Phase::Unknown };
                    }
                    _ => own,
                };
                self.proposers[from].phase = Phase::Accepting(next, BTreeSet::new());
                if next == own {
                    self.proposers[from].tried.push(ballot);
                }
                self.send(from, ballot, Step::Accept(next, made));
            }
            (Phase::Accepting(value, accepted), Step::Accept(of, _)) if *value == of => {
                if told.is_err() {
                    self.proposers[from].phase = Phase::Outbid;
                    return;
                }
                accepted.insert(at);
                if accepted.len() == QUORUM {
                    self.proposers[from].phase = Phase::Committing(of, BTreeSet::new());
                    self.send(from, ballot, Step::Commit(of));
                }
            }
            (Phase::Committing(value, made), Step::Commit(of)) if *value == of => {
                made.insert(at);
                if made.len() == QUORUM {
                    let is_own = of.1 == from && tried.contains(&of.0);
                    self.proposers[from].phase = if is_own { Phase::Made } else { Phase::Outbid };
                }
            }
            _ => {}
        }
    }
}

impl Acceptor {
    fn answers(&mut self, without: Without, ballot: Ballot, step: Step) -> Result<Promise, ()> {
        match step {
            Step::Prepare if ballot == self.promised && without == Without::Answers => Ok((None, 0, None, 0)),
            // Whoever asks again, as the answer was lost, gets the same.
            Step::Prepare if ballot >= self.promised => {
                self.promised = ballot;
                let accepted = self.accepted.filter(|(ballot, _)| *ballot > self.committed);
                Ok((accepted, self.committed, self.row, self.made))
            }
            Step::Accept(value, made) if ballot >= self.promised || without == Without::Promises => {
                self.promised = ballot.max(self.promised);
                self.accepted = Some((ballot, value));
                self.made |= made;
                Ok((None, 0, None, 0))
            }
            Step::Prepare | Step::Accept(..) => Err(()),
            Step::Commit(value) => {
                self.row = self.row.max(Some(value));
                self.made |= 1 << value.0;
                self.committed = self.committed.max(ballot);
                self.promised = self.promised.max(ballot);
                if self.accepted.is_some_and(|(accepted, _)| accepted <= ballot) {
                    self.accepted = None;
                }
                Ok((None, 0, None, 0))
            }
        }
    }
}

impl Model for Decide {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let proposer = Proposer { attempt: 0, phase: Phase::Outbid, tried: Vec::new() };
        let mut state = State {
            acceptors: vec![Acceptor::default(); ACCEPTORS],
            proposers: vec![proposer; PROPOSERS],
            sent: BTreeSet::new(),
            deleted: None,
            has_healed: false,
        };
        (0..PROPOSERS).for_each(|proposer| state.begin(proposer));
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for message in &state.sent {
            actions.push(Action::Deliver(*message, true));
            if matches!(message.2, Step::Accept(..)) && self.besides == Besides::Nothing {
                actions.push(Action::Deliver(*message, false));
            }
        }
        let may_delete = self.besides == Besides::Deletion && state.deleted.is_none();
        for (a, b) in [(0, 1), (0, 2), (1, 2)].into_iter().filter(|_| may_delete) {
            let both = [&state.acceptors[a], &state.acceptors[b]];
            let committed = both.iter().map(|acceptor| acceptor.committed).max().unwrap_or_default();
            let is_in_progress =
                both.iter().any(|acceptor| acceptor.accepted.is_some_and(|(ballot, _)| ballot > committed));
            let may_promise = both.iter().all(|acceptor| acceptor.promised < DELETION);
            if may_promise && !is_in_progress && both.iter().any(|acceptor| acceptor.row.is_some()) {
                actions.push(Action::Delete(a, b));
            }
        }
        if self.besides == Besides::Loss && !state.has_healed {
            actions.extend((0..ACCEPTORS).map(Action::Heal));
        }
        for (at, proposer) in state.proposers.iter().enumerate() {
            // One that comes late only promises more.
            if let Phase::Preparing(promises) = &proposer.phase {
                let ballot = ballot_of(at, proposer.attempt);
                let is_fresh =
                    |at: &usize| state.sent.is_empty() && state.acceptors[*at] == Acceptor::default();
                // Of those of whom nobody has heard it does not matter which is asked.
                let first = (0..ACCEPTORS).find(is_fresh);
                let silent = (0..ACCEPTORS)
                    .filter(|at| !promises.contains_key(at) && (!is_fresh(at) || first == Some(*at)));
                for to in silent {
                    let message = (at, ballot, Step::Prepare, to);
                    actions.push(Action::Deliver(message, true));
                    if at == 0 {
                        // Asked again then.
                        actions.push(Action::Deliver(message, false));
                    }
                }
            }
            let attempts = if self.besides != Besides::Nothing && at > 0 { 1 } else { ATTEMPTS };
            if proposer.phase == Phase::Outbid && proposer.attempt + 1 < attempts {
                actions.push(Action::BeginAgain(at));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Deliver(message @ (_, ballot, step, at), is_heard) => {
                state.sent.remove(&message);
                let told = state.acceptors[at].answers(self.without, ballot, step);
                if is_heard {
                    state.hears(self.without, message, told);
                }
            }
            Action::Delete(a, b) => {
                let both = [&before.acceptors[a], &before.acceptors[b]];
                let made = both.iter().fold(1 << DELETION, |made, acceptor| made | acceptor.made);
                state.deleted = both.iter().filter_map(|acceptor| acceptor.row).max();
                for at in [a, b] {
                    let row = Some((DELETION, DELETER));
                    state.acceptors[at] =
                        Acceptor { promised: DELETION, accepted: None, committed: DELETION, row, made };
                }
            }
            Action::Heal(at) => {
                let mut healed = Acceptor::default();
                for (_, other) in state.acceptors.iter().enumerate().filter(|(other, _)| *other != at) {
                    healed.row = healed.row.max(other.row);
                    if self.without != Without::Acceptors {
                        healed.promised = healed.promised.max(other.promised);
                        healed.accepted = healed.accepted.max(other.accepted);
                        healed.committed = healed.committed.max(other.committed);
                        healed.made |= other.made;
                    }
                }
                state.acceptors[at] = healed;
                state.has_healed = true;
                // It waits before for so long that nobody counts any more on what it answered.
                for proposer in &mut state.proposers {
                    let counts_on_it = match &proposer.phase {
                        Phase::Preparing(promises) => promises.contains_key(&at),
                        Phase::Accepting(_, told) | Phase::Committing(_, told) => told.contains(&at),
                        _ => false,
                    };
                    if counts_on_it && self.without != Without::Waiting {
                        proposer.phase = Phase::Unknown;
                    }
                }
            }
            Action::BeginAgain(at) => {
                state.proposers[at].attempt += 1;
                state.begin(at);
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one alone makes it", |_, state: &State| {
                state.deleted.is_some() || count(state, &Phase::Made) <= 1
            }),
            Property::always("what was made is at a quorum, and stays", |_, state: &State| {
                if state.deleted.is_some() {
                    return true;
                }
                let made = state.proposers.iter().position(|proposer| proposer.phase == Phase::Made);
                let has = |by: usize| {
                    state
                        .acceptors
                        .iter()
                        .filter(|acceptor| acceptor.row.is_some_and(|row| row.1 == by))
                        .count()
                };
                made.is_none_or(|by| has(by) >= QUORUM)
            }),
            Property::always("what was deleted does not come back", |_, state: &State| {
                state.deleted.is_none_or(|(_, by)| {
                    let is_back = |row: Value| row.1 == by && row.0 > DELETION;
                    !state.acceptors.iter().any(|acceptor| acceptor.row.is_some_and(is_back))
                })
            }),
            Property::always("what was refused is nowhere", |_, state: &State| {
                let refused = |(_, by): Value| {
                    state.proposers.get(by).is_some_and(|proposer| proposer.phase == Phase::Refused)
                };
                !state.acceptors.iter().any(|acceptor| acceptor.row.is_some_and(refused))
            }),
            Property::sometimes("both end, and one has made it", |_, state: &State| {
                count(state, &Phase::Made) == 1 && count(state, &Phase::Refused) == 1
            }),
            Property::sometimes("it is found out that it was made", |_, state: &State| {
                let begun_again = |proposer: &Proposer| {
                    proposer.phase == Phase::Made && proposer.attempt == 1 && proposer.tried == [1]
                };
                state.proposers.iter().any(begun_again)
            }),
        ]
    }
}

#[test]
fn of_two_that_make_the_same_on_condition_one_does() {
    for besides in ALL_BESIDES {
        let model = Decide { without: Without::Nothing, besides };
        let checker = model.checker().threads(2).spawn_bfs().join();
        println!("{} states", checker.unique_state_count());
        assert!(checker.is_done());
        let failed = checker.discoveries().into_iter().find(|(name, _)| BROKEN.contains(name));
        assert!(failed.is_none(), "{:?}", failed.map(|(name, path)| (name, path.into_actions())));
        let found = checker.discoveries();
        assert!(ENDS.iter().all(|name| found.contains_key(name)), "{:?}", found.keys());
    }
}

/// Otherwise the model proves nothing of them.
#[test]
fn each_rule_is_needed() {
    for without in [
        Without::Promises,
        Without::Answers,
        Without::Finishing,
        Without::Repair,
        Without::Recognition,
        Without::Acceptors,
        Without::Waiting,
    ] {
        let found = ALL_BESIDES.into_iter().find_map(|besides| {
            let is_about_loss = matches!(without, Without::Acceptors | Without::Waiting);
            if is_about_loss && besides != Besides::Loss {
                return None;
            }
            let model = Decide { without, besides };
            let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
            let path = |name: &&'static str| Some((*name, checker.discovery(name)?.into_actions()));
            BROKEN.iter().find_map(path)
        });
        println!("{without:?}: {found:?}");
        assert!(found.is_some(), "without {without:?} nothing goes wrong");
    }
}
