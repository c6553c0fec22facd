//! About how many keys lie in a range, from memtables and the indexes of tables: for whoever plans how to read them.

use std::sync::Arc;

use crate::error::Error;
use crate::key::Position;
use crate::memtable::{MemtableCursor, MemtableSet};
use crate::options::Keyspace;
use crate::snapshot::{Direction, Snapshot};
use crate::version::SuperVersion;

/// Entries of a memtable that are counted at most: beyond them a range is taken to reach as far as it was not counted.
const COUNTED: usize = 1_000;

impl Snapshot {
    /// About how many keys there are from `lower` on and below `upper` (`None`: to the last): as many entries as the data blocks hold
    /// that reach into the range, and those of memtables, of which no more than the first thousand are looked at. Older versions and
    /// tombstones count, too, so that this tells how much there is to read. Reads parts of the indexes of tables at most.
    ///
    /// # Errors
    /// [`Error::UnknownKeyspace`].
    pub fn estimate(&self, keyspace: Keyspace, lower: &[u8], upper: Option<&[u8]>) -> Result<u64, Error> {
        Ok(self.super_version(keyspace)?.estimate(keyspace, lower, upper))
    }
}

impl SuperVersion {
    fn estimate(&self, keyspace: Keyspace, lower: &[u8], upper: Option<&[u8]>) -> u64 {
        let memtables = std::iter::once(&self.active).chain(&self.frozen);
        let fresh: u64 = memtables.map(|memtables| count_fresh(memtables, keyspace, lower, upper)).sum();
        let Some(levels) = self.version.keyspace(keyspace) else { return fresh };
        let sealed = levels.tables().map(|(_, table)| {
            let starts_behind = upper.is_some_and(|upper| *table.meta.smallest >= *upper);
            if starts_behind || *table.meta.largest < *lower {
                return 0;
            }
            // Of a table that cannot be read nothing is known; whoever reads the range is told.
            let Ok(share) = table.share_between(lower, upper) else { return 0 };
            (table.meta.entries as f64 * share) as u64
        });
        fresh + sealed.sum::<u64>()
    }
}

/// The entries of a memtable in the range: all of them or, if they are many, at least the first thousand.
fn count_fresh(memtables: &Arc<MemtableSet>, keyspace: Keyspace, lower: &[u8], upper: Option<&[u8]>) -> u64 {
    if memtables.is_keyspace_empty(keyspace) {
        return 0;
    }
    let from = Position::before(lower);
    let mut cursor = MemtableCursor::new(memtables.clone(), keyspace, Some(&from), Direction::Forward);
    let mut count = 0;
    while count < COUNTED
        && let Some((key, _)) = cursor.key()
        && upper.is_none_or(|upper| key < upper)
    {
        count += 1;
        if cursor.advance().is_err() {
            break;
        }
    }
    count as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::fs::SimFs;
    use crate::{Durability, Engine, KeyspaceOptions, Options, WriteBatch};

    #[test]
    fn ranges_are_told_apart_by_how_much_they_hold() {
        let fs = std::sync::Arc::new(SimFs::new());
        let keyspaces = vec![KeyspaceOptions::new("k")];
        let options = Options { keyspaces, ..Options::default() };
        let engine = Engine::open(fs, Path::new("/store"), options).expect("opens");
        let keyspace = engine.keyspace("k").expect("declared");
        let put = |from: u32, count: u32| {
            let mut batch = WriteBatch::new();
            for number in from..from + count {
                batch.put(keyspace, number.to_be_bytes().to_vec(), vec![7; 40]);
            }
            engine.write(batch, Durability::Flush).expect("written");
        };
        let estimate = |lower: u32, upper: u32| {
            let (lower, upper) = (lower.to_be_bytes(), upper.to_be_bytes());
            engine.snapshot().estimate(keyspace, &lower, Some(&upper)).expect("known keyspace")
        };
        (0..5).for_each(|at| put(at * 10_000, 10_000));
        assert_eq!(estimate(10, 20), 10);
        // Of so many in a memtable only the first are counted.
        assert_eq!(estimate(10, 20_000), super::COUNTED as u64);
        engine.flush().expect("flushed");
        for (lower, upper) in [(0, 50_000), (10_000, 35_000), (45_000, 50_000)] {
            let (about, exactly) = (estimate(lower, upper), u64::from(upper - lower));
            assert!(about.abs_diff(exactly) <= 1_000, "{about} in {lower}..{upper}");
        }
        assert!(estimate(20_000, 20_100) <= 400, "{}", estimate(20_000, 20_100));
        assert_eq!(estimate(60_000, 70_000), 0);
        put(60_000, 300);
        assert_eq!(estimate(60_000, 70_000), 300);
        assert!(estimate(5, 6) <= 1_000);
    }
}
