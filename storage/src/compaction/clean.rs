//! Gives back the space of what range tombstones delete.
//!
//! Any compaction drops what they delete from the tables it merges. Beyond that, a table goes at once when all of its
//! versions are deleted, without being read, be it in quarantine; and one of which a good part is deleted is rewritten alone, within its level,
//! from which it only loses versions that nobody sees. A range tombstone that no table needs any more is gone with the
//! next version. Snapshots that are older than a range tombstone hold all of this up.

use std::sync::Arc;

use super::pick::Task;
use super::running::Compacting;
use crate::Sequence;
use crate::options::Keyspace;
use crate::range_tombstone::{MAX_RANGE_TOMBSTONES, RangeTombstones};
use crate::table::Table;
use crate::version::{KeyspaceVersion, LEVELS, Version};

/// A table is rewritten when this part of it holds deleted keys: one in eight. Rewriting a whole table for each
/// small range would cost far more than the space that comes back.
const DELETED_PART: usize = 8;
/// From this many range tombstones of a keyspace on, tables are rewritten for any of them.
const MANY_RANGE_TOMBSTONES: usize = MAX_RANGE_TOMBSTONES / 16;

/// All tables of a keyspace of which nothing is left for any reader. `oldest` is the oldest live snapshot. Nothing is
/// written, so the task has no level for a target.
pub(crate) fn pick_dead(version: &Version, compacting: &Compacting, oldest: Sequence) -> Option<Task> {
    uncleaned(version).find_map(|(id, keyspace)| {
        let tombstones = &keyspace.range_tombstones;
        // Also those in quarantine: nobody needs what is damaged in them.
        let mut tables = keyspace.tables().collect::<Vec<_>>();
        tables.retain(|(_, table)| {
            !compacting.is_busy(table.meta.number) && is_dead(table, tombstones, oldest)
        });
        let task = Task { target: LEVELS, ..rewrite(id, 0, tables) };
        (!task.inputs.is_empty() && compacting.allows(&task)).then_some(task)
    })
}

/// A table to be rewritten without what range tombstones delete.
pub(crate) fn pick(version: &Version, compacting: &Compacting, oldest: Sequence) -> Option<Task> {
    uncleaned(version).find_map(|(id, keyspace)| {
        let tombstones = &keyspace.range_tombstones;
        free_tables(keyspace, compacting)
            .filter(|(_, table)| is_worth_rewriting(table, tombstones, oldest))
            .map(|(level, table)| rewrite(id, level, vec![(level, table)]))
            .find(|task| compacting.allows(task))
    })
}

fn uncleaned(version: &Version) -> impl Iterator<Item = (Keyspace, &KeyspaceVersion)> {
    version.keyspaces().filter(|(_, keyspace)| !keyspace.range_tombstones.is_empty())
}

fn free_tables(
    keyspace: &KeyspaceVersion,
    compacting: &Compacting,
) -> impl Iterator<Item = (usize, Arc<Table>)> {
    let is_free = |table: &Table| !compacting.is_busy(table.meta.number) && !table.is_quarantined();
    keyspace.tables().filter(move |(_, table)| is_free(table))
}

fn rewrite(keyspace: Keyspace, target: usize, inputs: Vec<(usize, Arc<Table>)>) -> Task {
    Task { keyspace, inputs, target, is_move: false, relocated: Vec::new() }
}

fn is_dead(table: &Table, tombstones: &RangeTombstones, oldest: Sequence) -> bool {
    let meta = &table.meta;
    let mut fragments = tombstones.between(&meta.smallest, &meta.largest, oldest);
    fragments.all(|(_, newest)| newest > meta.largest_sequence)
}

fn is_worth_rewriting(table: &Table, tombstones: &RangeTombstones, oldest: Sequence) -> bool {
    let meta = &table.meta;
    let applied = meta.cleaned.max(meta.smallest_sequence);
    let mut lower = None;
    let mut all = 1;
    let mut deleted = 0;
    for (upper, newest) in tombstones.between(&meta.smallest, &meta.largest, oldest) {
        let upper = upper.map(|upper| &**upper);
        if newest > applied {
            // Rewriting it finds out what is wrong with the index.
            let (parts, between) = table.parts_between(lower, upper).unwrap_or((1, 1));
            all = parts.max(1);
            deleted += between;
        }
        lower = upper;
    }
    let part = if tombstones.len() < MANY_RANGE_TOMBSTONES { DELETED_PART } else { usize::MAX };
    deleted.saturating_mul(part) >= all
}
