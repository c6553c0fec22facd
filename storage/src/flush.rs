//! Frozen memtables become tables of level 0.

use std::sync::Arc;

use crate::compaction::Output;
use crate::cover::{Cover, Source};
use crate::error::Error;
use crate::files;
use crate::key::Kind;
use crate::memtable::MemtableSet;
use crate::options::Keyspace;
use crate::retention::Retention;
use crate::state::Inner;
use crate::table::Table;
use crate::version::VersionEdit;

impl Inner {
    /// Flushes the oldest frozen memtables; false if there are none. Always the oldest: a log segment may only go
    /// when those before it have gone.
    pub(crate) fn flush_oldest(&self) -> Result<bool, Error> {
        let _flushing = self.flushing.lock();
        self.check_writable()?;
        let Some(set) = self.super_version().frozen.last().cloned() else { return Ok(false) };
        let added = self.write_tables(&set)?;
        let bytes = added.iter().map(|(_, table)| table.meta.bytes).sum();
        let edit = VersionEdit {
            added,
            range_tombstones: set.all_range_tombstones(),
            last_sequence: Some(set.last_sequence()),
            ..VersionEdit::default()
        };
        self.install(&edit, Some(&set))?;
        self.counters().flushes.add(1);
        self.counters().flush_bytes_written.add(bytes);
        let log = files::log(self.dir(), set.log);
        if let Err(error) = self.fs().remove(&log) {
            // The next open removes it.
            tracing::warn!(path = %log.display(), %error, "cannot remove a flushed log segment");
        }
        Ok(true)
    }

    fn write_tables(&self, set: &Arc<MemtableSet>) -> Result<Vec<(usize, Arc<Table>)>, Error> {
        let mut outputs = Vec::new();
        for (id, entry) in self.keyspaces.iter().enumerate() {
            let keyspace = Keyspace(id as u16);
            if set.is_keyspace_empty(keyspace) {
                continue;
            }
            let live = self.live_snapshots();
            let cleaned = live.first().copied().unwrap_or(0).min(set.last_sequence());
            // Only its own: those of newer memtables may yet be lost in a power cut, and these versions must not be.
            let cover = Cover::new(vec![Source::Memtables(set.clone(), keyspace)]);
            let mut retention = Retention::new(live, cover);
            let mut output = Output::new(self, keyspace, &entry.options, 0, u64::MAX, cleaned);
            set.for_each(keyspace, |key, sequence, value| {
                let kind = if value.is_some() { Kind::Value } else { Kind::Tombstone };
                if retention.keeps(key, sequence, kind, |_| false) {
                    output.add(key, sequence, kind, value.unwrap_or_default())?;
                }
                Ok(())
            })?;
            outputs.push(output);
        }
        let mut added = Vec::new();
        for output in outputs {
            match output.finish() {
                Ok(mut tables) => added.append(&mut tables),
                Err(error) => {
                    forget_new(&added);
                    return Err(error);
                }
            }
        }
        Ok(added)
    }
}

/// Lets the files of a flush go that came to nothing.
fn forget_new(tables: &[(usize, Arc<Table>)]) {
    for (_, table) in tables {
        table.mark_obsolete();
        table.blob_uses().for_each(|(_, file)| file.mark_obsolete());
    }
}
