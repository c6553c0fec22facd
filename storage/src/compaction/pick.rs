//! What to compact next.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::options::{Keyspace, Options};
use crate::table::Table;
use crate::version::{KeyspaceVersion, LEVELS, Version};

/// Where the last compaction of a level ended: the next one goes on behind.
pub(crate) type Pointers = BTreeMap<(Keyspace, usize), Bytes>;

/// Tables to merge, and the level that takes the result.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) keyspace: Keyspace,
    /// With their levels; those of level 0 newest first, those of other levels in key order.
    pub(crate) inputs: Vec<(usize, Arc<Table>)>,
    pub(crate) target: usize,
    /// Nothing to merge: the tables can change their level as they are.
    pub(crate) is_move: bool,
}

/// The size above which a level goes to the next.
fn level_limit(options: &Options, level: usize) -> u64 {
    let factor = options.level_multiplier.max(2).saturating_pow(level.saturating_sub(1) as u32);
    options.level_base_bytes.max(1).saturating_mul(factor)
}

/// How full a level is; from 1.0 on it has to be compacted.
fn score(options: &Options, keyspace: &KeyspaceVersion, level: usize) -> f64 {
    if level == 0 {
        keyspace.level(0).len() as f64 / options.level0_files.max(1) as f64
    } else {
        keyspace.level_bytes(level) as f64 / level_limit(options, level) as f64
    }
}

/// The compaction that is needed most, if any is.
pub(crate) fn pick(options: &Options, version: &Version, pointers: &Pointers) -> Option<Task> {
    let candidates = version.keyspaces().flat_map(|(id, keyspace)| {
        (0..LEVELS - 1).map(move |level| (score(options, keyspace, level), id, level, keyspace))
    });
    let (_, id, level, keyspace) =
        candidates.filter(|(score, ..)| *score >= 1.0).max_by(|(a, ..), (b, ..)| a.total_cmp(b))?;
    let sources: Vec<Arc<Table>> = if level == 0 {
        keyspace.level(0).to_vec()
    } else {
        let tables = keyspace.level(level);
        let behind = pointers.get(&(id, level));
        let next = tables.iter().find(|table| behind.is_none_or(|behind| table.meta.smallest > *behind));
        next.or(tables.first()).cloned().into_iter().collect()
    };
    Some(task(id, keyspace, level, sources))
}

/// Compacts everything into one level, the smallest that may hold it.
pub(crate) fn pick_all(options: &Options, version: &Version, id: Keyspace) -> Option<Task> {
    let keyspace = version.keyspace(id)?;
    let tables: Vec<(usize, Arc<Table>)> = (0..LEVELS)
        .flat_map(|level| keyspace.level(level).iter().map(move |table| (level, table.clone())))
        .collect();
    let deepest = tables.iter().map(|(level, _)| *level).max()?;
    let bytes = tables.iter().map(|(_, table)| table.meta.bytes).sum::<u64>();
    let fits = (1..LEVELS - 1).find(|&level| bytes <= level_limit(options, level)).unwrap_or(LEVELS - 1);
    Some(Task { keyspace: id, inputs: tables, target: deepest.max(fits), is_move: false })
}

fn task(id: Keyspace, keyspace: &KeyspaceVersion, level: usize, sources: Vec<Arc<Table>>) -> Task {
    let target = level + 1;
    let smallest = sources.iter().map(|table| &table.meta.smallest).min().cloned().unwrap_or_default();
    let largest = sources.iter().map(|table| &table.meta.largest).max().cloned().unwrap_or_default();
    let below = keyspace.overlapping(target, &smallest, &largest);
    let is_move = below.is_empty() && (level > 0 || are_disjoint(&sources));
    let inputs = sources
        .into_iter()
        .map(|table| (level, table))
        .chain(below.into_iter().map(|table| (target, table)))
        .collect();
    Task { keyspace: id, inputs, target, is_move }
}

fn are_disjoint(tables: &[Arc<Table>]) -> bool {
    let mut sorted: Vec<&Arc<Table>> = tables.iter().collect();
    sorted.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
    sorted.array_windows().all(|[left, right]| left.meta.largest < right.meta.smallest)
}
