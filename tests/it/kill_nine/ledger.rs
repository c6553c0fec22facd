//! What was sent and what was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::content::State;

/// The life of one thing: what it surely is, and what it may have become since.
#[derive(Debug)]
pub(super) struct Record<S> {
    pub(super) acknowledged: S,
    /// Of the write that made it so; empty where that was read back after a kill.
    pub(super) version: Bytes,
    pub(super) in_flight: Vec<S>,
}

impl<S: PartialEq + Copy> Record<S> {
    fn new(absent: S) -> Self {
        Self { acknowledged: absent, version: Bytes::new(), in_flight: Vec::new() }
    }

    /// Writes of one thing are acknowledged in their order, so those sent before are over too.
    fn land(&mut self, state: S, version: Bytes) {
        let at = self.in_flight.iter().position(|flying| *flying == state).expect("sent before");
        self.in_flight.drain(..=at);
        self.acknowledged = state;
        self.version = version;
    }

    fn undo(&mut self, state: S) {
        self.in_flight.retain(|flying| *flying != state);
    }

    /// After a kill: what was read is what it is from now on.
    pub(super) fn settle(&mut self, state: S) {
        if state != self.acknowledged {
            self.acknowledged = state;
            self.version = Bytes::new();
        }
        self.in_flight.clear();
    }
}

/// The source and the target of an edge.
pub(super) type Ends = (String, String);

/// Everything that was ever written.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) entities: BTreeMap<String, Record<State>>,
    /// The number of the write that put it, if it is there.
    pub(super) edges: BTreeMap<Ends, Record<Option<u64>>>,
    /// Entities whose delete was under way, with edges that stand and fall with them.
    pub(super) doomed: BTreeMap<String, Vec<Ends>>,
}

impl Records {
    pub(super) fn entity(&mut self, id: &str) -> &mut Record<State> {
        self.entities.entry(id.to_owned()).or_insert_with(|| Record::new(State::Absent))
    }

    pub(super) fn edge(&mut self, ends: &Ends) -> &mut Record<Option<u64>> {
        self.edges.entry(ends.clone()).or_insert_with(|| Record::new(None))
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: Mutex<Records>,
    round: AtomicU64,
    last_write: AtomicU64,
    total: AtomicUsize,
    another: Notify,
    is_ending: AtomicBool,
}

impl Ledger {
    pub(super) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().expect("no writer panicked")
    }

    pub(super) fn begin_round(&self, round: u64) {
        self.round.store(round, Ordering::SeqCst);
        self.total.store(0, Ordering::SeqCst);
        self.is_ending.store(false, Ordering::SeqCst);
    }

    /// From now on writes may fail.
    pub(super) fn expect_breakage(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }

    /// The number of a new write; its upper half is the round.
    pub(super) fn next_write(&self) -> u64 {
        let write = self.last_write.fetch_add(1, Ordering::SeqCst) + 1;
        (self.round.load(Ordering::SeqCst) << 32) | write
    }

    pub(super) fn round_total(&self) -> usize {
        self.total.load(Ordering::SeqCst)
    }

    /// Returns once this round has so many.
    pub(super) async fn acknowledged_writes(&self, target: usize) {
        loop {
            let another = self.another.notified();
            if self.round_total() >= target {
                return;
            }
            another.await;
        }
    }

    fn count(&self) {
        self.total.fetch_add(1, Ordering::SeqCst);
        self.another.notify_waiters();
    }

    pub(super) fn state(&self, id: &str) -> State {
        self.records().entity(id).acknowledged
    }

    pub(super) fn send(&self, id: &str, state: State) {
        self.records().entity(id).in_flight.push(state);
    }

    pub(super) fn land(&self, id: &str, state: State, version: Bytes) {
        self.records().entity(id).land(state, version);
        self.count();
    }

    /// It was refused for a reason that says that nothing changed.
    pub(super) fn refused(&self, id: &str, state: State) {
        self.records().entity(id).undo(state);
    }

    pub(super) fn send_edge(&self, ends: &Ends, put: Option<u64>) {
        self.records().edge(ends).in_flight.push(put);
    }

    pub(super) fn land_edge(&self, ends: &Ends, put: Option<u64>, version: Bytes) {
        self.records().edge(ends).land(put, version);
        self.count();
    }

    /// The entity and these edges, all there, are to go together.
    pub(super) fn send_doom(&self, id: &str, edges: &[Ends]) {
        let mut records = self.records();
        records.entity(id).in_flight.push(State::Absent);
        for ends in edges {
            records.edge(ends).in_flight.push(None);
        }
        records.doomed.insert(id.to_owned(), edges.to_vec());
    }

    pub(super) fn land_doom(&self, id: &str, version: &Bytes) {
        let mut records = self.records();
        records.entity(id).land(State::Absent, version.clone());
        for ends in records.doomed.remove(id).expect("doomed before") {
            records.edge(&ends).land(None, version.clone());
        }
        drop(records);
        self.count();
    }
}
