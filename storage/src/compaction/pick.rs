//! What to compact next.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::clean;
use super::levels::LevelTargets;
use super::quarantine;
use super::running::Compacting;
use crate::Sequence;
use crate::options::{Keyspace, Options};
use crate::table::Table;
use crate::version::{KeyspaceVersion, LEVELS, LiveBlobs, Version};

/// Tables to merge, and the level that takes the result.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) keyspace: Keyspace,
    /// With their levels; those of level 0 newest first, those of other levels in key order.
    pub(crate) inputs: Vec<(usize, Arc<Table>)>,
    pub(crate) target: usize,
    /// Nothing to merge: the tables can change their level as they are.
    pub(crate) is_move: bool,
    /// Blob files whose values are to be moved to a new one.
    pub(crate) relocated: Vec<u64>,
}

impl Task {
    /// The smallest and largest key of the inputs.
    pub(crate) fn range(&self) -> (Bytes, Bytes) {
        let tables = || self.inputs.iter().map(|(_, table)| &table.meta);
        let smallest = tables().map(|meta| &meta.smallest).min().cloned().unwrap_or_default();
        let largest = tables().map(|meta| &meta.largest).max().cloned().unwrap_or_default();
        (smallest, largest)
    }

    /// Whether a table that it would take is in quarantine.
    fn is_held_up(&self) -> bool {
        self.inputs.iter().any(|(_, table)| table.is_quarantined())
    }
}

/// The compaction that is needed most and can start now, if there is one. `oldest` is the oldest live snapshot.
pub(crate) fn pick(
    options: &Options,
    version: &Version,
    compacting: &Compacting,
    oldest: Sequence,
) -> Option<Task> {
    let garbage = garbage(options, version);
    let mut candidates = Vec::new();
    for (id, keyspace) in version.keyspaces() {
        let targets = LevelTargets::of(options, keyspace);
        let level0 = quarantine::level0_sources(keyspace, targets.base).len();
        let level0 = level0 as f64 / options.level0_files.max(1) as f64;
        candidates.push((level0, id, keyspace, 0, targets.base));
        for level in 1..LEVELS - 1 {
            let score = targets.score(level, keyspace.level_bytes(level));
            candidates.push((score, id, keyspace, level, level + 1));
        }
    }
    candidates.retain(|(score, ..)| *score >= 1.0);
    candidates.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    let mut tasks = candidates.into_iter().flat_map(|(_, id, keyspace, level, target)| {
        sources(compacting, id, keyspace, level, target)
            .map(move |sources| merge(id, keyspace, level, target, sources))
    });
    let task = tasks.find(|task| compacting.allows(task) && !task.is_held_up());
    let task = task.or_else(|| clean::pick(version, compacting, oldest));
    let mut task = task.or_else(|| collect_garbage(version, compacting, &garbage))?;
    task.relocated = garbage.into_keys().collect();
    Some(task)
}

/// How many tables of level 0 could go down together.
pub(crate) fn level0_due(options: &Options, keyspace: &KeyspaceVersion) -> usize {
    quarantine::level0_sources(keyspace, LevelTargets::of(options, keyspace).base).len()
}

/// Bytes that are to be compacted until nothing is due.
pub(crate) fn debt(options: &Options, version: &Version) -> u64 {
    let of_keyspace = |keyspace: &KeyspaceVersion| {
        let targets = LevelTargets::of(options, keyspace);
        let is_due = keyspace.level(0).len() >= options.level0_files;
        let level0 = if is_due { keyspace.level_bytes(0) } else { 0 };
        level0 + (1..LEVELS).map(|level| targets.debt(level, keyspace.level_bytes(level))).sum::<u64>()
    };
    version.keyspaces().map(|(_, keyspace)| of_keyspace(keyspace)).sum()
}

/// Compacts everything into the last level: one task, or several around tables in quarantine.
pub(crate) fn pick_all(options: &Options, version: &Version, id: Keyspace) -> Vec<Task> {
    let Some(keyspace) = version.keyspace(id) else { return Vec::new() };
    let relocated: Vec<u64> = garbage(options, version).into_keys().collect();
    let task = |inputs| {
        let relocated = relocated.clone();
        Task { keyspace: id, inputs, target: LEVELS - 1, is_move: false, relocated }
    };
    quarantine::runs(keyspace).into_iter().map(task).collect()
}

/// The tables of a level that may go down, in the order in which they should: level 0 as far as it can go together, of
/// others one.
fn sources<'a>(
    compacting: &'a Compacting,
    id: Keyspace,
    keyspace: &'a KeyspaceVersion,
    level: usize,
    target: usize,
) -> impl Iterator<Item = Vec<Arc<Table>>> + 'a {
    let tables = keyspace.level(level);
    let behind = compacting.pointers.get(&(id, level));
    let next = tables.partition_point(|table| behind.is_some_and(|behind| table.meta.smallest <= *behind));
    let next = if level == 0 { 0 } else { next };
    let (before, after) = tables.split_at_checked(next).unwrap_or((tables, &[]));
    let whole = (level == 0).then(|| quarantine::level0_sources(keyspace, target));
    let single = (level > 0).then(|| after.iter().chain(before)).into_iter().flatten();
    let single = single.filter(|table| !compacting.is_busy(table.meta.number));
    whole.into_iter().chain(single.map(|table| vec![table.clone()]))
}

fn merge(
    id: Keyspace,
    keyspace: &KeyspaceVersion,
    level: usize,
    target: usize,
    sources: Vec<Arc<Table>>,
) -> Task {
    let is_disjoint = level > 0 || are_disjoint(&sources);
    let inputs = sources.into_iter().map(|table| (level, table)).collect();
    let mut task = Task { keyspace: id, inputs, target, is_move: false, relocated: Vec::new() };
    let (smallest, largest) = task.range();
    let below = keyspace.overlapping(target, &smallest, &largest);
    task.is_move = below.is_empty() && is_disjoint;
    task.inputs.extend(below.into_iter().map(|table| (target, table)));
    task
}

fn are_disjoint(tables: &[Arc<Table>]) -> bool {
    let mut sorted: Vec<&Arc<Table>> = tables.iter().collect();
    sorted.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
    sorted.array_windows().all(|[left, right]| left.meta.largest < right.meta.smallest)
}

/// The blob files that are to be given up, with what is still in use: of each keyspace with too much garbage those that
/// hold most of it, so that little has to be moved.
fn garbage(options: &Options, version: &Version) -> BTreeMap<u64, u64> {
    let percent = u128::from(options.blob_garbage_percent.min(100));
    let mut keyspaces: BTreeMap<Keyspace, Vec<&LiveBlobs>> = BTreeMap::new();
    for live in version.blobs().values() {
        keyspaces.entry(live.file.meta.keyspace).or_default().push(live);
    }
    let mut given_up = BTreeMap::new();
    for mut files in keyspaces.into_values() {
        let sum = |of: fn(&LiveBlobs) -> u64| files.iter().map(|live| u128::from(of(live))).sum::<u128>();
        let mut garbage = sum(LiveBlobs::garbage_bytes);
        let mut all = sum(|live| live.file.meta.value_bytes);
        // A file that was just written has none: moving values comes to an end.
        files.retain(|live| live.garbage_bytes() > 0 && !live.file.is_quarantined());
        let share = |live: &LiveBlobs| live.garbage_bytes() as f64 / live.file.meta.value_bytes.max(1) as f64;
        files.sort_by(|a, b| share(b).total_cmp(&share(a)));
        for live in files {
            if garbage * 100 < all * percent {
                break;
            }
            garbage -= u128::from(live.garbage_bytes());
            all -= u128::from(live.garbage_bytes());
            given_up.insert(live.file.meta.number, live.bytes);
        }
    }
    given_up
}

/// Rewrites the table that holds most of what is in use in files full of garbage.
fn collect_garbage(version: &Version, compacting: &Compacting, garbage: &BTreeMap<u64, u64>) -> Option<Task> {
    if garbage.is_empty() {
        return None;
    }
    let held = |table: &Table| -> u64 {
        let uses = table.blob_uses().map(|(used, _)| used);
        uses.filter(|used| garbage.contains_key(&used.file)).map(|used| used.bytes).sum()
    };
    let tables = version.tables().filter(|(_, table)| !compacting.is_busy(table.meta.number));
    let tables = tables.map(|(level, table)| (held(table), level, table)).filter(|(held, ..)| *held > 0);
    let rewrite = |level, table: &Arc<Table>| Task {
        keyspace: table.meta.keyspace,
        inputs: vec![(level, table.clone())],
        target: level,
        is_move: false,
        relocated: Vec::new(),
    };
    let tasks = tables.map(|(held, level, table)| (held, rewrite(level, table)));
    let tasks = tasks.filter(|(_, task)| compacting.allows(task) && !task.is_held_up());
    tasks.max_by_key(|(held, _)| *held).map(|(_, task)| task)
}
