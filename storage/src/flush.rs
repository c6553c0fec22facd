//! Frozen memtables become tables of level 0.

use std::sync::Arc;

use crate::error::Error;
use crate::files;
use crate::key::Kind;
use crate::memtable::MemtableSet;
use crate::options::Keyspace;
use crate::retention::Retention;
use crate::state::Inner;
use crate::table::{Table, TableBuilder, TableMeta};
use crate::version::VersionEdit;

impl Inner {
    /// Flushes the oldest frozen memtables; false if there are none. Always the oldest: a log segment may only go
    /// when those before it have gone.
    pub(crate) fn flush_oldest(&self) -> Result<bool, Error> {
        let _flushing = self.flushing.lock();
        self.check_writable()?;
        let Some(set) = self.super_version().frozen.last().cloned() else { return Ok(false) };
        let mut created = Vec::new();
        let added = self.write_tables(&set, &mut created).and_then(|metas| self.open_tables(0, metas));
        let added = added.inspect_err(|_| self.remove_tables(&created))?;
        let bytes = added.iter().map(|(_, table)| table.meta.bytes).sum();
        let edit = VersionEdit { added, ..VersionEdit::default() };
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

    /// Opens new tables for a level.
    pub(crate) fn open_tables(
        &self,
        level: usize,
        metas: Vec<TableMeta>,
    ) -> Result<Vec<(usize, Arc<Table>)>, Error> {
        metas.into_iter().map(|meta| Ok((level, Arc::new(Table::open(&self.context, meta)?)))).collect()
    }

    fn write_tables(&self, set: &Arc<MemtableSet>, created: &mut Vec<u64>) -> Result<Vec<TableMeta>, Error> {
        let mut metas = Vec::new();
        for (id, entry) in self.keyspaces.iter().enumerate() {
            let keyspace = Keyspace(id as u16);
            if set.is_keyspace_empty(keyspace) {
                continue;
            }
            let number = self.next_file_number();
            created.push(number);
            let mut builder = TableBuilder::create(self.fs(), self.dir(), number, keyspace, &entry.options)?;
            let mut retention = Retention::new(self.live_snapshots());
            set.for_each(keyspace, |key, sequence, value| {
                let kind = if value.is_some() { Kind::Value } else { Kind::Tombstone };
                if retention.keeps(key, sequence, kind, |_| false) {
                    builder.add(key, sequence, kind, value.unwrap_or_default())?;
                }
                Ok(())
            })?;
            metas.push(builder.finish()?);
        }
        if !metas.is_empty() {
            self.sync_dir()?;
        }
        Ok(metas)
    }
}
