//! Putting a copy in the place of what lies here, when the replica opens.
//!
//! It goes in steps, each of which is noted durably and may be done again: the node's own rows are put into the copy (*ready* → *prepared*), its files
//! are linked in the place of those that are here (→ *placed*), and its own names are removed.

use std::{ops::Bound, path::Path};

use allidb_storage::{Direction, Durability, Engine, Keyspace, Snapshot, WriteBatch, fs::Fs};
use bytes::Bytes;

use super::{
    INDEXES, ROWS, TAKEN, names, remove, remove_files, sync_dir,
    taking::{COPY, CopyNote, FROM, PLACED, PREPARED, READY, Ready},
};
use crate::{
    catalogue::{DROPPED, catalogue_version},
    error::{Error, Result},
    graph,
    keyspaces::{Keyspaces, keyspace_options},
    replica::{
        ReplicaOptions,
        apply::CLOCK,
        beneath::BENEATH,
        heal::DAMAGED,
        numbers::LEASED,
        placement::{LEFTOVERS, TOPOLOGY},
        watermarks::{CLOSED, PURGED, SWEPT},
    },
    secondary::BUILT,
};

/// What rows of the keyspace `local` begin with that say something of the rows and indexes beside them. All others are the node's own.
const OF_WHAT_LIES_HERE: [&[u8]; 8] = [graph::RELATION, LEASED, BUILT, BENEATH, CLOCK, CLOSED, PURGED, SWEPT];
/// Those that never fall, and are what numbers in the order of their bytes are: of two the greater counts.
const NEVER_FALL: [&[u8]; 3] = [CLOCK, CLOSED, PURGED];

/// Bytes of rows that are written at a time.
const BATCH_BYTES: usize = 1 << 20;

/// Puts a copy that is whole in its place, or goes on with that.
///
/// # Errors
/// If what lies here cannot be opened, or files cannot be linked: it goes on when this is called again. A copy that is of no use is removed.
pub(in crate::replica) fn install(options: &ReplicaOptions) -> Result<()> {
    let (fs, taken) = (&*options.fs, options.dir.join(TAKEN));
    let has = |name: &str| -> Result<bool> { Ok(names(fs, &taken)?.iter().any(|known| known == name)) };
    let goes_on_to = |before: &str, next: &str| -> Result<()> {
        let from = taken.join(before);
        fs.rename(&from, &taken.join(next)).map_err(|source| Error::io("rename", &from, source))?;
        sync_dir(fs, &taken)
    };
    if has(READY)? {
        match prepare(options, &taken)? {
            None => goes_on_to(READY, PREPARED)?,
            Some(why) => {
                tracing::error!(why, "a copy of another node's disk is of no use, and is removed");
                goes_on_to(READY, PLACED)?;
            }
        }
    }
    if has(PREPARED)? {
        for directory in INDEXES {
            replace_files(fs, &taken.join(directory), &options.dir.join(directory))?;
        }
        allidb_storage::replace(fs, &options.dir, &taken.join(ROWS))?;
        goes_on_to(PREPARED, PLACED)?;
        tracing::info!("a copy of another node's disk is in its place");
    }
    if has(PLACED)? {
        remove(fs, &taken.join(FROM))?;
        remove_files(fs, &taken)?;
        remove(fs, &taken.join(PLACED))?;
    }
    Ok(())
}

fn replace_files(fs: &dyn Fs, from: &Path, to: &Path) -> Result<()> {
    fs.create_dir_all(to).map_err(|source| Error::io("create the directory", to, source))?;
    for name in names(fs, to)? {
        remove(fs, &to.join(name))?;
    }
    for name in names(fs, from)? {
        let path = to.join(&name);
        fs.hard_link(&from.join(&name), &path).map_err(|source| Error::io("link", &path, source))?;
    }
    sync_dir(fs, to)
}

/// Puts this node's own rows into a copy. Says why the copy is of no use, if it is of none.
fn prepare(options: &ReplicaOptions, taken: &Path) -> Result<Option<String>> {
    let open = |dir: &Path| {
        let mut storage = options.storage.clone();
        storage.keyspaces = keyspace_options(&options.keyspace);
        Engine::open(options.fs.clone(), dir, storage)
    };
    let path = taken.join(READY);
    let ready = options.fs.open_read(&path).and_then(|file| file.read_all());
    let ready = ready.map_err(|source| Error::io("read", &path, source))?;
    let Ok(ready) = postcard::from_bytes::<Ready>(&ready) else {
        return Ok(Some("it was taken by another release".to_owned()));
    };
    let own = match open(&options.dir) {
        Ok(own) => own,
        Err(error @ allidb_storage::Error::Locked { .. }) => return Err(error.into()),
        // Whoever opens it after this says what is to be done about that.
        Err(error) => return Ok(Some(format!("what lies here cannot be opened: {error}"))),
    };
    let copy = match open(&taken.join(ROWS)) {
        Ok(copy) => copy,
        Err(error) => {
            own.close()?;
            return Ok(Some(format!("it cannot be opened: {error}")));
        }
    };
    let useless = match why_useless(&own, &copy, &ready) {
        Ok(None) => put_own_rows(&own, &copy, &ready).err().map(|error| error.to_string()),
        Ok(why) => why.map(str::to_owned),
        Err(error) => Some(error.to_string()),
    };
    own.close()?;
    let closed = copy.close().err().map(|error| error.to_string());
    Ok(useless.or(closed))
}

fn why_useless(own: &Engine, copy: &Engine, ready: &Ready) -> Result<Option<&'static str>> {
    let (keyspaces, in_copy) = (Keyspaces::of(own)?, Keyspaces::of(copy)?);
    let topology = own.get(keyspaces.cluster, TOPOLOGY)?.unwrap_or_default();
    if topology != ready.topology {
        return Ok(Some("the ring has another topology by now"));
    }
    // Rows of what was dropped in between nobody would ever remove.
    let version = catalogue_version(own, keyspaces.cluster)?;
    if version != ready.catalogue || version != catalogue_version(copy, in_copy.cluster)? {
        return Ok(Some("the catalogue has changed"));
    }
    if !copy.damaged().is_empty() {
        return Ok(Some("it is damaged"));
    }
    Ok(None)
}

/// Of the rows of single nodes those of this one, and of the catalogue, which is the same, what is being removed there.
fn put_own_rows(own: &Engine, copy: &Engine, ready: &Ready) -> Result<()> {
    let (keyspaces, in_copy) = (Keyspaces::of(own)?, Keyspaces::of(copy)?);
    let (here, there) = (own.snapshot(), copy.snapshot());
    let mut rows = Rows { copy, batch: WriteBatch::new(), bytes: 0 };
    let is_of_what_lies_here = |key: &[u8]| OF_WHAT_LIES_HERE.iter().any(|prefix| key.starts_with(prefix));
    for row in all(&there, in_copy.local)? {
        let (key, _) = row?;
        if !is_of_what_lies_here(&key) {
            rows.delete(in_copy.local, key)?;
        }
    }
    for row in all(&here, keyspaces.local)? {
        let (key, value) = row?;
        let is_greater = || -> Result<bool> {
            let there = there.get(in_copy.local, &key)?;
            Ok(NEVER_FALL.contains(&&*key) && there.is_none_or(|there| value > there))
        };
        // What is damaged here is in the copy no more.
        let is_own = !is_of_what_lies_here(&key) && *key != *DAMAGED;
        if is_own || is_greater()? {
            rows.put(in_copy.local, key, value)?;
        }
    }
    for row in all(&there, in_copy.cluster)? {
        let (key, _) = row?;
        if !key.starts_with(DROPPED) {
            rows.delete(in_copy.cluster, key)?;
        }
    }
    for row in all(&here, keyspaces.cluster)? {
        let (key, value) = row?;
        rows.put(in_copy.cluster, key, value)?;
    }
    rows.put(in_copy.local, Bytes::from_static(LEFTOVERS), ready.left.clone().into())?;
    let note = CopyNote { epoch: ready.epoch, is_here: true };
    rows.put(in_copy.local, Bytes::from_static(COPY), note.encode()?.into())?;
    rows.write(Durability::Sync)
}

fn all(
    snapshot: &Snapshot,
    keyspace: Keyspace,
) -> Result<impl Iterator<Item = Result<(Bytes, Bytes)>> + use<>> {
    let rows = snapshot.scan(keyspace, Bound::Unbounded, Bound::Unbounded, Direction::Forward)?;
    Ok(rows.map(|row| Ok(row?)))
}

/// Rows on their way into a copy.
struct Rows<'c> {
    copy: &'c Engine,
    batch: WriteBatch,
    bytes: usize,
}

impl Rows<'_> {
    fn put(&mut self, keyspace: Keyspace, key: Bytes, value: Bytes) -> Result<()> {
        self.bytes += key.len() + value.len();
        self.batch.put(keyspace, key, value);
        self.write_if_full()
    }

    fn delete(&mut self, keyspace: Keyspace, key: Bytes) -> Result<()> {
        self.bytes += key.len();
        self.batch.delete(keyspace, key);
        self.write_if_full()
    }

    fn write_if_full(&mut self) -> Result<()> {
        match self.bytes >= BATCH_BYTES {
            true => self.write(Durability::None),
            false => Ok(()),
        }
    }

    fn write(&mut self, durability: Durability) -> Result<()> {
        let mut batch = std::mem::replace(&mut self.batch, WriteBatch::new());
        self.bytes = 0;
        // There is not to be more of it than there was.
        batch.use_reserve();
        self.copy.write(batch, durability)?;
        Ok(())
    }
}
