//! Carries a compaction out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::clean;
use super::output::Output;
use super::pick::{self, Task};
use crate::cover::{Cover, Source};
use crate::error::Error;
use crate::merge::{Cursor, LevelCursor, Merge};
use crate::options::Keyspace;
use crate::retention::Retention;
use crate::snapshot::Direction;
use crate::state::Inner;
use crate::table::{Access, Table, TableCursor};
use crate::version::{LEVELS, SuperVersion, VersionEdit};

/// Versions between two looks at whether the engine is being closed.
const CHECK_EVERY: u64 = 4096;
/// Bytes between two times that compaction is held back.
const THROTTLE_EVERY: usize = 256 << 10;

/// Ends a compaction's registration.
struct Registration<'a> {
    inner: &'a Inner,
    ticket: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.inner.compacting.lock().end(self.ticket);
        self.inner.signal.notify();
    }
}

/// Ends the reservation of a keyspace.
struct Reservation<'a> {
    inner: &'a Inner,
    keyspace: Keyspace,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.inner.compacting.lock().release(self.keyspace);
        self.inner.signal.notify();
    }
}

impl Inner {
    /// Does the compaction that is needed most; false if none is that could start now.
    pub(crate) fn compact_once(&self) -> Result<bool, Error> {
        self.check_writable()?;
        let mut compacting = self.compacting.lock();
        // Under the lock: a compaction that has ended is in the version before it gives its tables free.
        let super_version = self.super_version();
        let oldest = self.oldest_snapshot();
        if let Some(task) = clean::pick_dead(&super_version.version, &compacting, oldest) {
            let _registration = Registration { inner: self, ticket: compacting.start(&task) };
            drop(compacting);
            self.drop_tables(task)?;
            return Ok(true);
        }
        let Some(task) = pick::pick(&self.options, &super_version.version, &compacting, oldest) else {
            return Ok(false);
        };
        if let Some((level, table)) = task.inputs.first()
            && *level > 0
            && task.target > *level
        {
            compacting.pointers.insert((task.keyspace, *level), table.meta.largest.clone());
        }
        let registration = Registration { inner: self, ticket: compacting.start(&task) };
        drop(compacting);
        let done = self.run_task(&task, &super_version);
        // Obsolete files are gone before anybody hears that the compaction has ended.
        drop((task, super_version));
        drop(registration);
        done?;
        Ok(true)
    }

    /// Whether a compaction is due that could start now.
    pub(crate) fn needs_compaction(&self) -> bool {
        let compacting = self.compacting.lock();
        let version = &self.super_version().version;
        let oldest = self.oldest_snapshot();
        clean::pick_dead(version, &compacting, oldest).is_some()
            || pick::pick(&self.options, version, &compacting, oldest).is_some()
    }

    /// Drops tables of which nothing is left. Readers see the range tombstones that deleted them.
    fn drop_tables(&self, dead: Task) -> Result<(), Error> {
        let count = dead.inputs.len() as u64;
        self.install(&VersionEdit { removed: dead.inputs, ..VersionEdit::default() }, None)?;
        self.counters().dropped_tables.add(count);
        Ok(())
    }

    /// Waits for the compactions that run to end.
    pub(crate) fn wait_for_compactions(&self) {
        self.signal.wait(|| (self.compacting.lock().len() == 0).then_some(()));
    }

    /// Merges all tables of a keyspace into one level.
    pub(crate) fn compact_all(&self, keyspace: Keyspace) -> Result<(), Error> {
        self.check_writable()?;
        self.signal.wait(|| self.compacting.lock().reserve(keyspace).then_some(()));
        let _reservation = Reservation { inner: self, keyspace };
        self.signal.wait(|| (!self.compacting.lock().runs_in(keyspace)).then_some(()));
        let super_version = self.super_version();
        let tasks = pick::pick_all(&self.options, &super_version.version, keyspace);
        tasks.iter().try_for_each(|task| self.run_task(task, &super_version))
    }

    fn run_task(&self, task: &Task, super_version: &SuperVersion) -> Result<(), Error> {
        let mut edit = VersionEdit { removed: task.inputs.clone(), ..VersionEdit::default() };
        if task.is_move {
            edit.added = task.inputs.iter().map(|(_, table)| (task.target, table.clone())).collect();
            self.install(&edit, None)?;
            self.counters().trivial_moves.add(edit.added.len() as u64);
            return Ok(());
        }
        edit.added = self.write_merged(task, super_version)?;
        let written = edit.added.iter().map(|(_, table)| table.meta.bytes).sum();
        let read = task.inputs.iter().map(|(_, table)| table.meta.bytes).sum();
        self.install(&edit, None)?;
        self.counters().compactions.add(1);
        self.counters().compaction_bytes_read.add(read);
        self.counters().compaction_bytes_written.add(written);
        Ok(())
    }

    fn write_merged(
        &self,
        task: &Task,
        super_version: &SuperVersion,
    ) -> Result<Vec<(usize, Arc<Table>)>, Error> {
        let Some(entry) = self.keyspaces.get(usize::from(task.keyspace.0)) else { return Ok(Vec::new()) };
        let levels = super_version.version.keyspace(task.keyspace);
        // A tombstone may go when no table of a deeper level has keys where it lies. Within level 0 older tables may.
        let is_lowest = |key: &[u8]| {
            task.target > 0
                && levels.is_none_or(|levels| {
                    (task.target + 1..LEVELS).all(|level| {
                        let tables = levels.level(level);
                        let index = tables.partition_point(|table| table.meta.largest < key);
                        tables.get(index).is_none_or(|table| !table.overlaps(key, key))
                    })
                })
        };
        let mut merge = Merge::new(cursors(task)?, Direction::Forward);
        let live = self.live_snapshots();
        let flushed = super_version.version.last_sequence;
        let cleaned = live.first().copied().unwrap_or(0).min(flushed);
        let range_tombstones = levels.map(|levels| Source::Fixed(levels.range_tombstones.clone()));
        let mut retention = Retention::new(live, Cover::new(range_tombstones.into_iter().collect()));
        let table_bytes = self.options.table_bytes;
        let mut output = Output::new(self, task.keyspace, &entry.options, task.target, table_bytes, cleaned);
        let blobs = task.inputs.iter().flat_map(|(_, table)| table.blob_uses());
        let known: BTreeMap<_, _> = blobs.map(|(used, file)| (used.file, file.clone())).collect();
        output.refer(known, task.relocated.clone());
        let mut seen = 0u64;
        let mut unpaid = 0;
        while let Some(cursor) = merge.current() {
            let Some((key, sequence)) = cursor.key() else { break };
            seen += 1;
            if seen.is_multiple_of(CHECK_EVERY) {
                self.check_writable()?;
            }
            if retention.keeps(key, sequence, cursor.kind(), is_lowest) {
                unpaid += output.add(key, sequence, cursor.kind(), cursor.value_bytes())?;
                if unpaid >= THROTTLE_EVERY {
                    self.hold_back(std::mem::take(&mut unpaid));
                }
            }
            merge.advance()?;
        }
        if let Some(damage) = task.inputs.iter().find_map(|(_, table)| table.damage()) {
            // Found by somebody else meanwhile: the file stays.
            return Err(damage.error());
        }
        output.finish()
    }

    fn hold_back(&self, bytes: usize) {
        if !self.options.background.is_inline() {
            let delay = self.throttle.delay(bytes, Instant::now());
            if !delay.is_zero() {
                self.signal.wait_for(delay, || self.check_writable().is_err());
            }
        }
    }
}

fn cursors(task: &Task) -> Result<Vec<Cursor>, Error> {
    let mut cursors = Vec::new();
    let mut levels: Vec<Vec<Arc<Table>>> = vec![Vec::new(); LEVELS];
    for (level, table) in &task.inputs {
        if *level == 0 {
            let cursor = TableCursor::new(table.clone(), None, Direction::Forward, Access::Bulk)?;
            cursors.push(Cursor::Table(Box::new(cursor)));
        } else if let Some(tables) = levels.get_mut(*level) {
            tables.push(table.clone());
        }
    }
    for tables in levels.into_iter().filter(|tables| !tables.is_empty()) {
        let cursor = LevelCursor::new(Arc::new(tables), None, None, Direction::Forward, Access::Bulk)?;
        cursors.push(Cursor::Level(Box::new(cursor)));
    }
    Ok(cursors)
}
