//! What may be compacted beside tables in quarantine.
//!
//! A quarantined table stays where it is, and comes back to life if its file is restored. So no older version may be
//! left above a newer one meanwhile, and no table may come to lie over it in its level:
//! - a table of level 0 stays if it overlaps an older one that stays, or a quarantined one of the level it would go to;
//! - a table of another level stays if it overlaps a quarantined one of the next;
//! - tables that are merged lie on one side of every quarantined table of the level they go to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::table::Table;
use crate::version::{KeyspaceVersion, LEVELS};

/// The tables of level 0 that can go to level `target` together, newest first: all of them unless some are held up.
pub(super) fn level0_sources(keyspace: &KeyspaceVersion, target: usize) -> Vec<Arc<Table>> {
    let barriers: Vec<&Arc<Table>> = quarantined(keyspace, target).collect();
    if barriers.is_empty() && quarantined(keyspace, 0).next().is_none() {
        return keyspace.level(0).to_vec();
    }
    let mut staying: Vec<&Arc<Table>> = Vec::new();
    // By the number of barriers before them.
    let mut groups: BTreeMap<usize, Vec<Arc<Table>>> = BTreeMap::new();
    for table in keyspace.level(0).iter().rev() {
        let overlaps = |other: &&&Arc<Table>| overlap(table, other);
        if table.is_quarantined()
            || staying.iter().any(|other| overlaps(&other))
            || barriers.iter().any(|other| overlaps(&other))
        {
            staying.push(table);
        } else {
            let gap = barriers.partition_point(|barrier| barrier.meta.largest < table.meta.smallest);
            groups.entry(gap).or_default().insert(0, table.clone());
        }
    }
    groups.into_values().max_by_key(Vec::len).unwrap_or_default()
}

/// The tables of all levels, cut where keys are connected with those of a quarantined table: each run can become
/// one level. Within a run as [`super::pick::Task::inputs`].
pub(super) fn runs(keyspace: &KeyspaceVersion) -> Vec<Vec<(usize, Arc<Table>)>> {
    let mut tables: Vec<(usize, Arc<Table>)> = (0..LEVELS)
        .flat_map(|level| keyspace.level(level).iter().map(move |table| (level, table.clone())))
        .collect();
    let mut by_key: Vec<Arc<Table>> = tables.iter().map(|(_, table)| table.clone()).collect();
    by_key.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
    let clusters = clusters(by_key);
    let mut runs = Vec::new();
    for run in clusters.split(|cluster| cluster.iter().any(|table| table.is_quarantined())) {
        let (Some(first), Some(last)) = (run.first().and_then(|c| c.first()), run.last()) else { continue };
        let smallest = first.meta.smallest.clone();
        let Some(largest) = last.iter().map(|table| &table.meta.largest).max() else { continue };
        runs.push(tables.extract_if(.., |(_, table)| table.overlaps(&smallest, largest)).collect());
    }
    runs
}

/// Tables whose keys overlap, directly or by way of others.
fn clusters(by_key: Vec<Arc<Table>>) -> Vec<Vec<Arc<Table>>> {
    let mut clusters: Vec<Vec<Arc<Table>>> = Vec::new();
    let mut end = None;
    for table in by_key {
        let largest = table.meta.largest.clone();
        match clusters.last_mut() {
            Some(cluster) if end.as_ref().is_some_and(|end| table.meta.smallest <= *end) => {
                cluster.push(table);
            }
            _ => clusters.push(vec![table]),
        }
        end = end.max(Some(largest));
    }
    clusters
}

fn quarantined(keyspace: &KeyspaceVersion, level: usize) -> impl Iterator<Item = &Arc<Table>> {
    keyspace.level(level).iter().filter(|table| table.is_quarantined())
}

fn overlap(a: &Table, b: &Table) -> bool {
    a.overlaps(&b.meta.smallest, &b.meta.largest)
}
