//! Carries a compaction out.

use std::sync::Arc;

use super::pick::{self, Task};
use crate::error::Error;
use crate::merge::{Cursor, LevelCursor, Merge};
use crate::options::Keyspace;
use crate::retention::Retention;
use crate::snapshot::Direction;
use crate::state::Inner;
use crate::table::{Access, Table, TableBuilder, TableCursor, TableMeta};
use crate::version::{LEVELS, SuperVersion, VersionEdit};

/// Versions between two looks at whether the engine is being closed.
const CHECK_EVERY: u64 = 4096;

impl Inner {
    /// Does the compaction that is needed most; false if none is.
    pub(crate) fn compact_once(&self) -> Result<bool, Error> {
        let mut pointers = self.compacting.lock();
        self.check_writable()?;
        let super_version = self.super_version();
        let Some(task) = pick::pick(&self.options, &super_version.version, &pointers) else {
            return Ok(false);
        };
        if let Some((level, table)) = task.inputs.first()
            && *level > 0
        {
            pointers.insert((task.keyspace, *level), table.meta.largest.clone());
        }
        self.run_task(&task, &super_version)?;
        Ok(true)
    }

    /// Whether a compaction is due.
    pub(crate) fn needs_compaction(&self) -> bool {
        // The pointers only choose which table goes first.
        pick::pick(&self.options, &self.super_version().version, &pick::Pointers::new()).is_some()
    }

    /// Merges all tables of a keyspace into one level.
    pub(crate) fn compact_all(&self, keyspace: Keyspace) -> Result<(), Error> {
        let _pointers = self.compacting.lock();
        self.check_writable()?;
        let super_version = self.super_version();
        match pick::pick_all(&self.options, &super_version.version, keyspace) {
            Some(task) => self.run_task(&task, &super_version),
            None => Ok(()),
        }
    }

    fn run_task(&self, task: &Task, super_version: &SuperVersion) -> Result<(), Error> {
        let mut edit = VersionEdit { removed: task.inputs.clone(), ..VersionEdit::default() };
        if task.is_move {
            edit.added = task.inputs.iter().map(|(_, table)| (task.target, table.clone())).collect();
            self.install(&edit, None)?;
            self.counters().trivial_moves.add(edit.added.len() as u64);
            return Ok(());
        }
        let mut created = Vec::new();
        let added = self
            .write_merged(task, super_version, &mut created)
            .and_then(|metas| self.open_tables(task.target, metas));
        edit.added = added.inspect_err(|_| self.remove_tables(&created))?;
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
        created: &mut Vec<u64>,
    ) -> Result<Vec<TableMeta>, Error> {
        let Some(entry) = self.keyspaces.get(usize::from(task.keyspace.0)) else { return Ok(Vec::new()) };
        let levels = super_version.version.keyspace(task.keyspace);
        // A tombstone may go when no table of a deeper level has keys where it lies.
        let is_lowest = |key: &[u8]| {
            levels.is_none_or(|levels| {
                (task.target + 1..LEVELS).all(|level| {
                    let tables = levels.level(level);
                    let index = tables.partition_point(|table| table.meta.largest < key);
                    tables.get(index).is_none_or(|table| !table.overlaps(key, key))
                })
            })
        };
        let mut merge = Merge::new(cursors(task)?, Direction::Forward);
        let mut retention = Retention::new(self.live_snapshots());
        let mut metas = Vec::new();
        let mut builder: Option<TableBuilder> = None;
        let mut seen = 0u64;
        while let Some(cursor) = merge.current() {
            let Some((key, sequence)) = cursor.key() else { break };
            seen += 1;
            if seen.is_multiple_of(CHECK_EVERY) {
                self.check_writable()?;
            }
            if retention.keeps(key, sequence, cursor.kind(), is_lowest) {
                // Versions of one key stay together, or a lookup would have to ask two tables of a level.
                let full = builder.take_if(|builder| {
                    builder.byte_len() >= self.options.table_bytes && builder.last_key() != key
                });
                if let Some(full) = full {
                    metas.push(full.finish()?);
                }
                let builder = match &mut builder {
                    Some(builder) => builder,
                    None => {
                        let number = self.next_file_number();
                        created.push(number);
                        let new = TableBuilder::create(
                            self.fs(),
                            self.dir(),
                            number,
                            task.keyspace,
                            &entry.options,
                        )?;
                        builder.insert(new)
                    }
                };
                builder.add(key, sequence, cursor.kind(), cursor.value_bytes())?;
            }
            merge.advance()?;
        }
        if let Some(builder) = builder {
            metas.push(builder.finish()?);
        }
        if !metas.is_empty() {
            self.sync_dir()?;
        }
        Ok(metas)
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
        let cursor = LevelCursor::new(Arc::new(tables), None, Direction::Forward, Access::Bulk)?;
        cursors.push(Cursor::Level(Box::new(cursor)));
    }
    Ok(cursors)
}
