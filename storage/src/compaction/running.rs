//! Which compactions are under way, so that several can run at once without getting in each other's way.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::pick::Task;
use crate::options::Keyspace;

/// The state that compactions share.
#[derive(Debug, Default)]
pub(crate) struct Compacting {
    /// Where the last compaction of a level ended: the next one goes on behind.
    pub(crate) pointers: BTreeMap<(Keyspace, usize), Bytes>,
    running: Vec<Running>,
    next_ticket: u64,
    /// Keyspaces that somebody wants to himself; nothing new is started there.
    reserved: Vec<Keyspace>,
}

#[derive(Debug)]
struct Running {
    ticket: u64,
    keyspace: Keyspace,
    tables: Vec<u64>,
    target: usize,
    smallest: Bytes,
    largest: Bytes,
}

impl Compacting {
    /// Whether the task may start: it shares no table with a running one and writes to no range of a level that
    /// a running one writes to.
    pub(crate) fn allows(&self, task: &Task) -> bool {
        if self.reserved.contains(&task.keyspace) {
            return false;
        }
        let (smallest, largest) = task.range();
        self.running.iter().filter(|running| running.keyspace == task.keyspace).all(|running| {
            let same_range =
                running.target == task.target && running.smallest <= largest && smallest <= running.largest;
            !same_range && task.inputs.iter().all(|(_, table)| !running.tables.contains(&table.meta.number))
        })
    }

    /// Whether a running compaction may write to a part of the closed range.
    pub(crate) fn writes_to(&self, keyspace: Keyspace, smallest: &[u8], largest: &[u8]) -> bool {
        let in_keyspace = self.running.iter().filter(|running| running.keyspace == keyspace);
        self.reserved.contains(&keyspace)
            || in_keyspace
                .into_iter()
                .any(|running| *running.smallest <= *largest && *smallest <= *running.largest)
    }

    /// Whether a running compaction has this table.
    pub(crate) fn is_busy(&self, table: u64) -> bool {
        self.running.iter().any(|running| running.tables.contains(&table))
    }

    /// Registers a task; [`end`](Compacting::end) has to follow.
    pub(crate) fn start(&mut self, task: &Task) -> u64 {
        self.next_ticket += 1;
        let (smallest, largest) = task.range();
        self.running.push(Running {
            ticket: self.next_ticket,
            keyspace: task.keyspace,
            tables: task.inputs.iter().map(|(_, table)| table.meta.number).collect(),
            target: task.target,
            smallest,
            largest,
        });
        self.next_ticket
    }

    pub(crate) fn end(&mut self, ticket: u64) {
        self.running.retain(|running| running.ticket != ticket);
    }

    /// Keeps others out of a keyspace; false if somebody else does already.
    pub(crate) fn reserve(&mut self, keyspace: Keyspace) -> bool {
        let is_free = !self.reserved.contains(&keyspace);
        if is_free {
            self.reserved.push(keyspace);
        }
        is_free
    }

    pub(crate) fn release(&mut self, keyspace: Keyspace) {
        self.reserved.retain(|reserved| *reserved != keyspace);
    }

    /// Whether a compaction runs in the keyspace.
    pub(crate) fn runs_in(&self, keyspace: Keyspace) -> bool {
        self.running.iter().any(|running| running.keyspace == keyspace)
    }

    /// How many compactions run.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }
}
