//! Up to which versions writes are taken no more, and deletions are forgotten.
//!
//! A tombstone may go when nothing can come that it would have to hide. That is so in steps, each of which holds for good (ADR 0027): a node plans
//! nothing up to a version W (*floor*), takes nothing up to W that was planned (*closed*), and, once all replicas hold what any of them held of
//! that, takes nothing up to W either that was read at a replica before (*purged*). Then what lay here before the last comparison is
//! [swept](super::purge).

use allidb_storage::{Durability, Engine, Keyspace, Snapshot, WriteBatch};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::{
    error::{Error, Result},
    mutation::Mutation,
    version::Version,
};

pub(super) const CLOSED: &[u8] = b"closed";
pub(super) const PURGED: &[u8] = b"purged";
pub(super) const SWEPT: &[u8] = b"swept";

/// The watermarks of this node. None of them ever falls.
pub(super) struct Watermarks {
    keyspace: Keyspace,
    /// Held by whoever posts a write until that is in the outbox.
    floor: RwLock<Version>,
    /// Held by whoever makes a write until that is visible.
    closed: RwLock<Version>,
    /// Held by whoever takes over what others hold until that is visible.
    purged: RwLock<Version>,
    /// The same, for whoever must not wait.
    known_purged: Mutex<Version>,
    /// Up to where deletions were forgotten here.
    swept: RwLock<Version>,
    /// What lay here before replicas compared for the last time, in which round, and when that was, in milliseconds since the Unix epoch.
    pub(super) marked: Mutex<Option<(Version, Snapshot, u64)>>,
    /// One sweeps at a time.
    pub(super) sweeping: Mutex<()>,
}

impl Watermarks {
    pub(super) fn open(engine: &Engine, keyspace: Keyspace) -> Result<Self> {
        let kept = |key: &'static [u8]| -> Result<RwLock<Version>> {
            let Some(bytes) = engine.get(keyspace, key)? else { return Ok(RwLock::default()) };
            let version = Version::from_bytes(&bytes);
            let corrupt = || Error::corrupt("local", key, "it is no version");
            Ok(RwLock::new(version.ok_or_else(corrupt)?))
        };
        let purged = kept(PURGED)?;
        let known_purged = Mutex::new(*purged.read());
        Ok(Self {
            keyspace,
            floor: RwLock::default(),
            closed: kept(CLOSED)?,
            known_purged,
            purged,
            swept: kept(SWEPT)?,
            marked: Mutex::default(),
            sweeping: Mutex::default(),
        })
    }

    /// Has nothing be posted from now on that was planned up to this version.
    pub(super) fn raise_floor(&self, upto: Version) {
        let mut floor = self.floor.write();
        *floor = upto.max(*floor);
    }

    /// Whether writes may be posted; to be kept until they are.
    ///
    /// # Errors
    /// [`Error::Late`] if one is not above the floor.
    pub(super) fn may_post(&self, mutations: &[Mutation]) -> Result<RwLockReadGuard<'_, Version>> {
        let floor = self.floor.read();
        match mutations.iter().find(|mutation| mutation.version <= *floor) {
            Some(late) => Err(Error::Late { version: late.version, closed: *floor }),
            None => Ok(floor),
        }
    }

    /// Up to where no writes are taken; to be kept until those that are were made.
    pub(super) fn closed(&self) -> RwLockReadGuard<'_, Version> {
        self.closed.read()
    }

    /// Whether what was read elsewhere may be taken over, when this was the watermark; to be kept until it is.
    ///
    /// # Errors
    /// [`Error::Purged`] if it was read too long ago.
    pub(super) fn may_absorb(&self, read_at: Version) -> Result<RwLockReadGuard<'_, Version>> {
        let purged = self.purged.read();
        match read_at < *purged {
            true => Err(Error::Purged(*purged)),
            false => Ok(purged),
        }
    }

    /// Up to where all replicas hold the same, for good.
    pub(super) fn purged(&self) -> Version {
        *self.known_purged.lock()
    }

    /// Up to where deletions were forgotten here.
    pub(super) fn swept(&self) -> Version {
        *self.swept.read()
    }

    pub(super) fn close(&self, engine: &Engine, upto: Version) -> Result<()> {
        self.raise(engine, (&self.closed, CLOSED), upto)
    }

    pub(super) fn purge(&self, engine: &Engine, upto: Version) -> Result<()> {
        self.raise(engine, (&self.purged, PURGED), upto)?;
        let mut known = self.known_purged.lock();
        *known = upto.max(*known);
        Ok(())
    }

    pub(super) fn is_swept(&self, engine: &Engine, upto: Version) -> Result<()> {
        self.raise(engine, (&self.swept, SWEPT), upto)
    }

    /// Raises a watermark, durably before this returns.
    fn raise(
        &self,
        engine: &Engine,
        (watermark, key): (&RwLock<Version>, &'static [u8]),
        upto: Version,
    ) -> Result<()> {
        let mut watermark = watermark.write();
        if upto <= *watermark {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        batch.put(self.keyspace, key, upto.to_bytes().to_vec());
        // It makes room.
        batch.use_reserve();
        engine.write(batch, Durability::Sync)?;
        *watermark = upto;
        Ok(())
    }
}
