//! Snapshots: all that a ring holds, kept elsewhere.
//!
//! A snapshot holds entities as replicas tell them each other, partition by partition, and the catalogue; nothing in it says which nodes held what.
//! So a ring of any shape takes it over, and comes to the same Merkle trees. What a partition's tree says has not changed since the snapshot before
//! is not read again: the new one refers to what the old one holds (ADR 0034).
//!
//! | module | what it holds |
//! |---|---|
//! | `place` | where snapshots are kept: a directory, or an object store |
//! | `credentials` | what is shown to an object store |
//! | `format` | the manifest, and objects with entities |
//! | `create` | making one |
//! | `restore` | taking one over |
//! | `keep` | listing, verifying and deleting them |
//! | `claim` | keeping those who make some and those who delete some apart |

mod claim;
mod create;
mod credentials;
mod format;
mod keep;
mod place;
mod restore;

use std::collections::BTreeSet;

use allidb_index::{Error, Result};
use tokio::{sync::mpsc, task::JoinSet};

pub use place::{SnapshotPlace, SnapshotPlaceError};

pub(crate) use claim::reading;
pub(crate) use create::create;
pub(crate) use format::FORMAT;
pub(crate) use keep::{check_restorable, delete, list, verify};
pub(crate) use restore::{catalogue_of, restore};

use format::Manifest;

/// Partitions that are read, or written, at a time.
const AT_A_TIME: usize = 4;

/// What there is to know of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is called; those made later sort behind.
    pub id: String,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// The ring's name.
    pub ring: String,
    /// Bytes of all that it refers to.
    pub bytes: u64,
    /// Those of them that were not there before.
    pub new_bytes: u64,
    /// Names of its collections.
    pub collections: Vec<String>,
    /// What the Merkle trees say is there: the same of two rings that hold the same.
    pub digest: String,
    /// Why it cannot be read, if it cannot: nothing but its id is known then.
    pub damage: Option<String>,
}

/// How far a snapshot is with being made, restored or verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Which one.
    pub snapshot: Snapshot,
    /// Partitions that are done.
    pub partitions_done: u32,
    /// Partitions in all.
    pub partitions_total: u32,
    /// Entities that were read or written, those that were deleted too.
    pub entities: u64,
    /// Bytes that were read or written.
    pub bytes: u64,
    /// What was found to be wrong with it.
    pub damages: Vec<String>,
    /// This is the result.
    pub finished: bool,
}

/// Whom it is told.
#[derive(Clone, Debug)]
pub(crate) struct Told(mpsc::Sender<Result<SnapshotProgress>>);

impl Told {
    pub(crate) fn new(messages: mpsc::Sender<Result<SnapshotProgress>>) -> Self {
        Self(messages)
    }

    /// One that does not keep up is told the next time.
    fn tell(&self, progress: &SnapshotProgress) {
        self.0.try_send(Ok(progress.clone())).ok();
    }
}

/// Does something for each of these, some at a time, and hands on what comes of each.
///
/// # Errors
/// The first; what is under way ends then.
async fn for_each<I, T, F>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> F,
    mut done: impl FnMut(T),
) -> Result<()>
where
    F: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let (mut items, mut under_way) = (items.into_iter(), JoinSet::new());
    loop {
        while under_way.len() < AT_A_TIME
            && let Some(item) = items.next()
        {
            under_way.spawn(work(item));
        }
        match under_way.join_next().await {
            Some(Ok(came)) => done(came?),
            Some(Err(error)) => return Err(Error::Internal(format!("a snapshot broke off: {error}"))),
            None => return Ok(()),
        }
    }
}

/// What a manifest says of its snapshot.
fn described(manifest: &Manifest) -> Snapshot {
    let mut seen = BTreeSet::new();
    let objects = manifest.objects().filter(|object| seen.insert(object.hash.clone()));
    Snapshot {
        id: manifest.id.clone(),
        created_at_ms: manifest.created_at_ms,
        ring: manifest.ring.clone(),
        bytes: objects.map(|object| object.bytes).sum(),
        new_bytes: manifest.new_bytes,
        collections: manifest.collections.clone(),
        digest: manifest.digest.clone(),
        damage: None,
    }
}
