//! Giving another node a copy of what lies here (ADR 0047).

use std::{sync::Arc, time::Duration};

use allidb_index::{CopiedFile, Error, Given, Replica, Result};
use parking_lot::Mutex;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::proto::{self, CopyReply, ReadCopy};
use crate::layout::NodeId;

/// A copy of which nobody has read anything for so long is not kept: files that are given up here take space as long as it is.
const KEPT: Duration = Duration::from_secs(600);
/// A piece of a copy at most.
pub(crate) const PIECE_BYTES: u32 = 4 << 20;

/// The copy that is given now: one at a time.
#[derive(Default)]
pub(crate) struct Giving(Mutex<Option<Copy>>);

struct Copy {
    id: u64,
    to: NodeId,
    /// By the topology of which epoch: what is deleted and forgotten between two moves is in it still.
    epoch: u64,
    given: Arc<Given>,
    read_at: Instant,
}

impl Giving {
    /// Begins a copy for a node, or goes on with the one that it has begun.
    ///
    /// # Errors
    /// [`Error::Exhausted`] while another node is given one; if none can be made.
    pub(crate) fn begin(&self, replica: &Replica, to: NodeId, epoch: u64) -> Result<CopyReply> {
        let mut giving = self.0.lock();
        let is_kept = |copy: &Copy| copy.epoch == epoch && copy.read_at.elapsed() < KEPT;
        let copy = match giving.take().filter(is_kept) {
            Some(copy) if copy.to == to => copy,
            Some(copy) => {
                let why = format!("node {} is given a copy now", copy.to);
                *giving = Some(copy);
                return Err(Error::Exhausted(why));
            }
            None => {
                let given = Arc::new(replica.give_copy()?);
                let id = xxh3_64(&replica.next_version().to_bytes());
                tracing::info!(%to, files = given.files().len(), "gives a copy of what lies here");
                Copy { id, to, epoch, given, read_at: Instant::now() }
            }
        };
        let file =
            |CopiedFile { name, bytes }: &CopiedFile| proto::CopiedFile { name: name.clone(), bytes: *bytes };
        let files = copy.given.files().iter().map(file).collect();
        let reply = CopyReply { copy: copy.id, files, ..CopyReply::default() };
        *giving = Some(Copy { read_at: Instant::now(), ..copy });
        Ok(reply)
    }

    /// Reads a piece of it.
    ///
    /// # Errors
    /// If it is not given any more, or cannot be read.
    pub(crate) fn read(&self, ReadCopy { copy, file, offset, bytes }: &ReadCopy) -> Result<CopyReply> {
        let given = {
            let mut giving = self.0.lock();
            let is_given = giving.as_mut().filter(|giving| giving.id == *copy);
            let giving =
                is_given.ok_or_else(|| Error::Unavailable("the copy is not given any more".to_owned()))?;
            giving.read_at = Instant::now();
            Arc::clone(&giving.given)
        };
        let bytes = (*bytes).min(PIECE_BYTES) as usize;
        let content = given.read(usize::try_from(*file).unwrap_or(usize::MAX), *offset, bytes)?;
        let checksum = xxh3_64(&content);
        Ok(CopyReply { content: content.into(), checksum, ..CopyReply::default() })
    }

    /// Ends a copy, or whichever there is.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(crate) fn end(&self, replica: &Replica, copy: Option<u64>) -> Result<()> {
        let mut giving = self.0.lock();
        match giving.take_if(|giving| copy.is_none_or(|copy| giving.id == copy)) {
            Some(_) => replica.end_copy(),
            None => Ok(()),
        }
    }

    /// Whether it is not to be kept: nobody has read it for so long, or it takes space that is needed.
    pub(crate) fn is_to_end(&self, replica: &Replica) -> bool {
        // While one is being made nobody has left it.
        let Some(giving) = self.0.try_lock() else { return false };
        let is_left = |giving: &Copy| giving.read_at.elapsed() >= KEPT;
        giving.as_ref().is_some_and(|giving| is_left(giving) || !replica.may_give_copies())
    }
}
