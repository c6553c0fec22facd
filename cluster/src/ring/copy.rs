//! Beginning with a copy of what lies at another node, where that is most of what this one is to hold (ADR 0047).
//!
//! What was written to this node since the ring began to fill it is not in the copy, and gone when that takes its place. Nobody counts on it: whatever
//! was acknowledged meanwhile lies at a quorum of the present layout, too, and this node compares what it holds with as many of these before
//! anybody asks it. The copy saves telling row by row, and making indexes anew.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use allidb_index::{CopiedFile, Deadline, Error, Result, Taken};
use bytes::Bytes;
use tokio::{
    task::{JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use xxhash_rust::xxh3::xxh3_64;

use super::Inner;
use crate::{
    layout::{NodeId, Phase},
    peer::{
        Client, PIECE_BYTES,
        proto::{self, BeginCopy, CopyReply, CopyRequest, EndCopy, ReadCopy, copy_request::Step},
    },
    ring::anti_entropy::PATIENCE,
};

/// Files that arrive at a time.
const FILES_AT_A_TIME: usize = 4;
/// Pieces of each that are asked for ahead.
const PIECES_AHEAD: usize = 2;
/// How often a node is asked again for a piece that has too much to do, and when.
const PIECE_TRIES: u32 = 20;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
/// How often in an epoch a copy may break off without getting further before what is to be held is told row by row.
const TRIES: u32 = 3;
/// How long it may take until files are linked, and what is in memory flushed before.
const BEGINS_WITHIN: std::time::Duration = std::time::Duration::from_secs(120);

/// A copy that is being taken.
#[derive(Debug, Default)]
pub(super) struct Copying {
    /// Bytes that are here, and how many there are.
    pub(super) copied_bytes: u64,
    pub(super) bytes: u64,
    /// How often it broke off without getting further than before, and how far that was.
    failures: u32,
    furthest: u64,
}

impl Copying {
    fn breaks_off(&mut self) {
        match self.copied_bytes > self.furthest {
            true => self.furthest = self.copied_bytes,
            false => self.failures += 1,
        }
    }
}

/// What came of asking a node for a copy.
enum Copied {
    /// It takes the place of what lies here.
    Whole,
    /// The node gives none, or it is not worth while.
    Not,
    /// Another node is given one now.
    Later(Error),
}

/// A piece of a file.
struct Piece {
    file: u32,
    offset: u64,
    bytes: u32,
}

impl Inner {
    /// Begins with a copy of another node, if this one is to hold much of what lies there, and has not tried to already.
    ///
    /// # Errors
    /// As long as a copy takes its place, or is given to somebody else; if it breaks off, for the first few times.
    pub(super) async fn begin_with_copy(self: &Arc<Self>, deadline: Deadline) -> Result<()> {
        let (replica, epoch) = (&self.served.replica, self.served.topology.epoch());
        let takes_its_place = || {
            Err(Error::Unavailable(
                "a copy of another node takes its place when this node is opened again".to_owned(),
            ))
        };
        if replica.has_copy() {
            return takes_its_place();
        }
        let is_filling = self.served.topology.phase() == Phase::Filling;
        let was_tried = replica.copy_note()?.is_some_and(|note| note.epoch == epoch);
        if !is_filling || self.copy_from_bytes == 0 || !self.is_to_join() {
            return Ok(());
        }
        if was_tried {
            return self.here(|served| served.replica.forget_copy()).await;
        }
        let mut is_busy = None;
        for source in self.worth_copying() {
            if self.served.taking_over.copying(epoch, |copying| copying.failures >= TRIES).unwrap_or(true) {
                break;
            }
            match self.copy(source, deadline).await {
                Ok(Copied::Whole) => return takes_its_place(),
                Ok(Copied::Not) => {}
                Ok(Copied::Later(busy)) => is_busy = Some(busy),
                Err(error) => {
                    self.served.taking_over.copying(epoch, Copying::breaks_off);
                    return Err(error);
                }
            }
        }
        match is_busy {
            Some(busy) => Err(busy),
            // What has arrived of one takes space that rows need now.
            None => self.here(|served| served.replica.forget_copy()).await,
        }
    }

    /// Whether this node holds nothing by the present layout.
    pub(super) fn is_to_join(&self) -> bool {
        !self.served.topology.layout().members().iter().any(|member| member.node == self.served.node)
    }

    /// Whether what lies here began as a copy since the ring has been moving to the layout to come.
    pub(super) fn began_with_copy(&self) -> Result<bool> {
        let epoch = self.served.topology.epoch();
        let note = self.served.replica.copy_note()?;
        // It fills in one epoch and hands over in the next.
        Ok(note.is_some_and(|note| note.is_here && (note.epoch..=note.epoch + 1).contains(&epoch)))
    }

    /// Nodes of which at least half of what they hold is to be held here, and that hold at least half of that: those with most of it first.
    fn worth_copying(&self) -> Vec<NodeId> {
        let topology = &self.served.topology;
        let to_hold = topology.to_take_over(self.served.node);
        let (mut held, mut shared) = (BTreeMap::<NodeId, usize>::new(), BTreeMap::<NodeId, usize>::new());
        for partition in 0..allidb_index::PARTITIONS {
            for node in topology.layout().replicas(partition) {
                *held.entry(*node).or_default() += 1;
                *shared.entry(*node).or_default() += usize::from(to_hold.contains(&partition));
            }
        }
        let is_worth = |node: &NodeId| {
            let (held, shared) = (held.get(node).copied(), shared.get(node).copied().unwrap_or(0));
            held.is_some_and(|held| 2 * shared >= held) && 2 * shared >= to_hold.len()
        };
        let mut nodes: Vec<NodeId> = held.keys().copied().filter(is_worth).collect();
        let peers = &self.served.peers;
        nodes.retain(|node| !peers.is_paused(*node));
        // In an order that stays: what broke off goes on at the same node.
        nodes.sort_by_key(|node| (std::cmp::Reverse(shared.get(node).copied()), *node));
        nodes
    }

    /// Copies what lies at a node.
    async fn copy(self: &Arc<Self>, source: NodeId, deadline: Deadline) -> Result<Copied> {
        let begun = match self.ask_for_copy(source, Step::Begin(BeginCopy {}), deadline).await {
            Err(busy @ Error::Exhausted(_)) => return Ok(Copied::Later(busy)),
            begun => begun?,
        };
        let CopyReply { copy, files, refused, .. } = begun;
        if !refused.is_empty() {
            tracing::info!(%source, refused, "no copy is given");
            return Ok(Copied::Not);
        }
        let file = |proto::CopiedFile { name, bytes }| CopiedFile { name, bytes };
        let files: Vec<CopiedFile> = files.into_iter().map(file).collect();
        let bytes = files.iter().fold(0, |bytes: u64, file| bytes.saturating_add(file.bytes));
        let is_worth = bytes >= self.copy_from_bytes;
        if is_worth {
            let started = Instant::now();
            self.take(source, copy, files, deadline).await?;
            let took = started.elapsed();
            tracing::info!(%source, bytes, ?took, "a copy of another node is whole: it takes its place when the store is opened again");
        }
        if let Err(error) = self.ask_for_copy(source, Step::End(EndCopy { copy }), deadline).await {
            // It is, once the ring has moved.
            tracing::debug!(%source, %error, "a copy is not ended where it was given");
        }
        Ok(if is_worth { Copied::Whole } else { Copied::Not })
    }

    async fn take(
        self: &Arc<Self>,
        source: NodeId,
        copy: u64,
        files: Vec<CopiedFile>,
        deadline: Deadline,
    ) -> Result<()> {
        let epoch = self.served.topology.epoch();
        let bytes = files.iter().fold(0, |bytes: u64, file| bytes.saturating_add(file.bytes));
        let begin = {
            let files = files.clone();
            move |served: &crate::peer::Served| -> Result<(Taken, Vec<usize>)> {
                let taken = served.replica.take_copy(copy, files.clone())?;
                let mut missing = Vec::new();
                for (at, file) in files.iter().enumerate() {
                    if !taken.has(file)? {
                        missing.push(at);
                    }
                }
                Ok((taken, missing))
            }
        };
        let (taken, missing) = self.here_as_of(begin).await?;
        let taken = Arc::new(taken);
        let to_come = missing.iter().filter_map(|at| files.get(*at));
        let to_come = to_come.fold(0, |bytes: u64, file| bytes.saturating_add(file.bytes));
        self.served.taking_over.copying(epoch, |copying| {
            (copying.copied_bytes, copying.bytes) = (bytes - to_come, bytes);
        });
        let mut missing = missing.into_iter();
        let mut arriving = JoinSet::new();
        loop {
            while arriving.len() < FILES_AT_A_TIME
                && let Some(at) = missing.next()
            {
                let (inner, taken, file) = (Arc::clone(self), Arc::clone(&taken), files.get(at).cloned());
                arriving.spawn(async move {
                    match file {
                        Some(file) => inner.take_file(source, (copy, at), (&taken, file), deadline).await,
                        None => Ok(()),
                    }
                });
            }
            match arriving.join_next().await {
                Some(arrived) => arrived.map_err(broke_off)??,
                None => break,
            }
        }
        self.here_as_of(move |served| served.replica.conclude_copy(&taken, epoch)).await
    }

    async fn take_file(
        self: &Arc<Self>,
        source: NodeId,
        (copy, at): (u64, usize),
        (taken, file): (&Arc<Taken>, CopiedFile),
        deadline: Deadline,
    ) -> Result<()> {
        let epoch = self.served.topology.epoch();
        let mut wanted = pieces(at, file.bytes);
        let mut arriving = {
            let taken = Arc::clone(taken);
            self.here(move |_| taken.begin(&file)).await?
        };
        let mut ahead: VecDeque<JoinHandle<Result<CopyReply>>> = VecDeque::new();
        loop {
            while ahead.len() < PIECES_AHEAD
                && let Some(Piece { file, offset, bytes }) = wanted.next()
            {
                let delay = self.moving.delay(bytes as usize, Instant::now().into_std());
                sleep(delay.min(deadline.remaining())).await;
                let inner = Arc::clone(self);
                let read = Step::Read(ReadCopy { copy, file, offset, bytes });
                ahead.push_back(tokio::spawn(async move { inner.read_piece(source, read, deadline).await }));
            }
            let Some(next) = ahead.pop_front() else { break };
            let content = checked(source, next.await.map_err(broke_off)??)?;
            let more = content.len() as u64;
            arriving = self.here(move |_| arriving.append(&content).map(|()| arriving)).await?;
            self.served.taking_over.copying(epoch, |copying| copying.copied_bytes += more);
        }
        self.here(move |_| arriving.finish()).await
    }

    /// A piece; once more after a while if the node has too much to do.
    async fn read_piece(&self, source: NodeId, read: Step, deadline: Deadline) -> Result<CopyReply> {
        for _ in 0..PIECE_TRIES {
            match self.ask_for_copy(source, read, deadline).await {
                Err(Error::Exhausted(_)) => sleep(BUSY_PAUSE.min(deadline.remaining())).await,
                told => return told,
            }
        }
        self.ask_for_copy(source, read, deadline).await
    }

    async fn ask_for_copy(&self, source: NodeId, step: Step, deadline: Deadline) -> Result<CopyReply> {
        let patience = if matches!(step, Step::Begin(_)) { BEGINS_WITHIN } else { PATIENCE };
        let request = CopyRequest { fence: None, node: self.served.node.0, step: Some(step) };
        let ask = |mut peer: Client, fence| {
            let request = CopyRequest { fence, ..request.clone() };
            async move { peer.copy(request).await }
        };
        self.served.call_within(patience, source, deadline, ask).await
    }
}

fn broke_off(error: JoinError) -> Error {
    Error::Internal(format!("a copy broke off: {error}"))
}

/// What was told of a file, if it is what was sent.
fn checked(source: NodeId, CopyReply { content, checksum, .. }: CopyReply) -> Result<Bytes> {
    match xxh3_64(&content) == checksum {
        true => Ok(content),
        false => Err(Error::Unavailable(format!("a piece of a copy of node {source} is not what was sent"))),
    }
}

fn pieces(file: usize, bytes: u64) -> impl Iterator<Item = Piece> {
    let file = u32::try_from(file).unwrap_or(u32::MAX);
    (0..bytes).step_by(PIECE_BYTES as usize).map(move |offset| {
        let bytes = u32::try_from(bytes - offset).unwrap_or(u32::MAX).min(PIECE_BYTES);
        Piece { file, offset, bytes }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_asked_for_in_pieces() {
        let lens =
            |bytes| pieces(3, bytes).map(|piece| (piece.file, piece.offset, piece.bytes)).collect::<Vec<_>>();
        let whole = PIECE_BYTES;
        assert_eq!(lens(0), vec![]);
        assert_eq!(lens(1), vec![(3, 0, 1)]);
        assert_eq!(lens(u64::from(whole)), vec![(3, 0, whole)]);
        assert_eq!(lens(u64::from(whole) + 2), vec![(3, 0, whole), (3, u64::from(whole), 2)]);
    }

    #[test]
    fn a_piece_that_is_not_what_was_sent_is_refused() {
        let content = Bytes::from_static(b"abc");
        let reply =
            CopyReply { checksum: xxh3_64(&content), content: content.clone(), ..CopyReply::default() };
        assert_eq!(checked(NodeId(1), reply.clone()).unwrap(), content);
        let garbled = CopyReply { content: Bytes::from_static(b"abd"), ..reply };
        assert!(checked(NodeId(1), garbled).is_err());
    }
}
