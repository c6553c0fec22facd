//! Writes at all replicas.

use std::{collections::BTreeMap, sync::Arc};

use allidb_index::{Deadline, EntityKey, Error, Extent, Mutation, Result, model::Written};
use allidb_storage::Durability;
use tokio::sync::{mpsc, oneshot};

use super::{Inner, Ring, wrong::Wrong};
use crate::{
    coordinator::{Consistency, WriteOptions},
    layout::NodeId,
    peer::proto::{self, Refusal, WriteReply, WriteRequest, outcome::Kind},
};

/// The part of a batch of writes that one node gets.
struct Share {
    node: NodeId,
    /// Which of the writes, by their places.
    places: Vec<usize>,
    /// Each as that node gets it.
    encoded: Vec<Vec<u8>>,
}

/// How a write stands at the replicas of one partition.
struct Side {
    replicas: Vec<NodeId>,
    needed: usize,
    acknowledged: usize,
    /// Nodes where its condition is not met.
    unmet: Vec<NodeId>,
    failed: usize,
}

/// What is known of a write until it is answered.
struct Pending {
    /// One for each partition that it touches.
    sides: Vec<Side>,
    existed: bool,
    /// What went wrong last.
    error: Option<Error>,
}

/// A write, and what it comes to.
struct Asked {
    mutation: Mutation,
    pending: Pending,
    /// `None`: it is not decided yet.
    result: Option<Result<Written>>,
}

impl Asked {
    /// Whether it was refused, and nobody made it.
    fn is_made_nowhere(&self) -> bool {
        matches!(self.result, Some(Err(Error::NotFound { .. } | Error::Merged { .. })))
            && self.pending.sides.iter().all(|side| side.acknowledged == 0)
    }
}

/// What became of a write.
enum Verdict {
    Made,
    /// It is not known yet.
    Open,
    /// Of those that answered some have what it is for, and some have not.
    Disputed,
    NotMade(Error),
}

impl Pending {
    fn note(&mut self, node: NodeId, result: Result<Written>) {
        for side in self.sides.iter_mut().filter(|side| side.replicas.contains(&node)) {
            match &result {
                Ok(_) => side.acknowledged += 1,
                Err(Error::NotFound { .. }) => side.unmet.push(node),
                Err(_) => side.failed += 1,
            }
        }
        match result {
            Ok(written) => self.existed |= written.existed,
            Err(error) => self.error = Some(error),
        }
    }

    fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::Made;
        for side in &self.sides {
            if side.acknowledged >= side.needed {
                continue;
            }
            if side.acknowledged + side.unmet.len() >= side.needed {
                match (&self.error, side.acknowledged) {
                    (Some(error), 0) => return Verdict::NotMade(error.clone()),
                    _ => return Verdict::Disputed,
                }
            }
            if side.failed > side.replicas.len() - side.needed {
                let why = self.error.as_ref().map_or_else(String::new, |error| format!("; {error}"));
                let why = format!(
                    "{} of {} replicas acknowledged the write, {} must{why}",
                    side.acknowledged,
                    side.replicas.len(),
                    side.needed
                );
                return Verdict::NotMade(Error::Unavailable(why));
            }
            verdict = Verdict::Open;
        }
        verdict
    }
}

impl Ring {
    /// Makes writes at all replicas of what they touch. Each is answered as soon as so many have acknowledged it as the consistency needs,
    /// at both its ends if it is an edge; those that do not are sent it later.
    ///
    /// What is answered with [`Error::Unavailable`] may have been made, or may be later.
    pub async fn write(&self, mutations: Vec<Mutation>, options: WriteOptions) -> Vec<Result<Written>> {
        let count = mutations.len();
        let (answer, answered) = oneshot::channel();
        // It goes on when the caller goes away: every replica is to hear of what one has heard of.
        tokio::spawn(collect(Arc::clone(&self.0), mutations, options, answer));
        let lost = |_| vec![Err(Error::Internal("a write ended without an answer".to_owned())); count];
        answered.await.unwrap_or_else(lost)
    }
}

/// Sends each node its share, answers when all writes are decided, and keeps hints for whoever has not acknowledged.
async fn collect(
    inner: Arc<Inner>,
    mutations: Vec<Mutation>,
    options: WriteOptions,
    answer: oneshot::Sender<Vec<Result<Written>>>,
) {
    let shares = match inner.shares(&mutations) {
        Ok(shares) => shares,
        Err(error) => {
            drop(answer.send(vec![Err(error); mutations.len()]));
            return;
        }
    };
    let begin = |mutation: Mutation| {
        let pending = inner.pending(&mutation, options.consistency);
        Asked { mutation, pending, result: None }
    };
    let mut writes: Vec<Asked> = mutations.into_iter().map(begin).collect();
    let (report, mut reports) = mpsc::channel(shares.len().max(1));
    for share in shares {
        let (inner, report) = (Arc::clone(&inner), report.clone());
        tokio::spawn(async move {
            let told = inner.send(&share, options).await;
            drop(report.send((share, told)).await);
        });
    }
    drop(report);
    let mut answer = Some(answer);
    // Also those that know of no such entity: if others do, they will.
    let mut missed: Vec<(NodeId, usize, Vec<u8>)> = Vec::new();
    while let Some((share, told)) = reports.recv().await {
        for ((place, encoded), result) in share.places.into_iter().zip(share.encoded).zip(told) {
            if result.is_err() && share.node != inner.served.node {
                missed.push((share.node, place, encoded));
            }
            let Some(Asked { mutation, pending, result: verdict }) = writes.get_mut(place) else { continue };
            pending.note(share.node, result);
            if verdict.is_some() {
                continue;
            }
            let made = |existed| Ok(Written { version: mutation.version(), existed });
            *verdict = match pending.verdict() {
                Verdict::Open => None,
                Verdict::Made => Some(made(pending.existed)),
                Verdict::NotMade(error) => Some(Err(error)),
                Verdict::Disputed => Some(inner.settle(mutation, pending, options).await),
            };
        }
        if writes.iter().all(|write| write.result.is_some())
            && let Some(answer) = answer.take()
        {
            drop(answer.send(writes.iter().filter_map(|write| write.result.clone()).collect()));
        }
    }
    let mut hints: BTreeMap<NodeId, Vec<Vec<u8>>> = BTreeMap::new();
    for (node, place, encoded) in missed {
        // What was made nowhere is not to be made there. What was refused by a quorum, and yet made by one that knew more, is (ADR 0020).
        if writes.get(place).is_some_and(Asked::is_made_nowhere) {
            continue;
        }
        hints.entry(node).or_default().extend(settled(&encoded));
    }
    for (node, hints) in hints {
        inner.keep_hints(node, hints).await;
    }
}

/// The same mutation, without its condition. It was ours, so that it can be read.
fn settled(encoded: &[u8]) -> Option<Vec<u8>> {
    Mutation::decode(encoded).ok()?.settled().encode(|_| true).ok()?
}

impl Inner {
    fn pending(&self, mutation: &Mutation, consistency: Consistency) -> Pending {
        let mut partitions: Vec<u16> = mutation.partitions().collect();
        partitions.sort_unstable();
        partitions.dedup();
        let side = |partition: u16| {
            let replicas = self.served.layout.replicas(partition).to_vec();
            let needed = match self.is_wrong(Wrong::EarlyAcknowledgement) {
                true => 1,
                false => consistency.needed(replicas.len()),
            };
            Side { replicas, needed, acknowledged: 0, unmet: Vec::new(), failed: 0 }
        };
        Pending { sides: partitions.into_iter().map(side).collect(), existed: false, error: None }
    }

    fn shares(&self, mutations: &[Mutation]) -> Result<Vec<Share>> {
        let mut shares = Vec::new();
        for member in self.served.layout.members() {
            let node = member.node;
            let mut share = Share { node, places: Vec::new(), encoded: Vec::new() };
            for (place, mutation) in mutations.iter().enumerate() {
                let holds = |partition| self.served.layout.replicas(partition).contains(&node);
                if let Some(encoded) = mutation.encode(holds)? {
                    share.places.push(place);
                    share.encoded.push(encoded);
                }
            }
            if !share.places.is_empty() {
                shares.push(share);
            }
        }
        Ok(shares)
    }

    /// What a node says to its share, write by write.
    async fn send(&self, share: &Share, options: WriteOptions) -> Vec<Result<Written>> {
        let Share { node, encoded, .. } = share;
        match self.sent(*node, encoded, options.durability, options.deadline).await {
            Ok(results) => results,
            Err(error) => vec![Err(error); encoded.len()],
        }
    }

    async fn sent(
        &self,
        node: NodeId,
        encoded: &[Vec<u8>],
        durability: Durability,
        deadline: Deadline,
    ) -> Result<Vec<Result<Written>>> {
        let decode = |bytes: &Vec<u8>| {
            Mutation::decode(bytes).map_err(|error| Error::Internal(format!("our own mutation: {error}")))
        };
        let mutations = encoded.iter().map(decode).collect::<Result<Vec<Mutation>>>()?;
        if node == self.served.node {
            return self.here(move |served| Ok(served.write(mutations, durability))).await;
        }
        let named = match durability {
            Durability::None => proto::Durability::None,
            Durability::Flush => proto::Durability::Flush,
            Durability::Sync => proto::Durability::Sync,
        };
        let request = WriteRequest {
            fence: self.sent_fence(),
            mutations: encoded.iter().map(|bytes| bytes.clone().into()).collect(),
            durability: named.into(),
        };
        let mut peer = self.peers.get(node)?;
        let reply = self.call(node, deadline, peer.write(request)).await?;
        if reply.outcomes.len() != mutations.len() {
            return Err(miscounted(node));
        }
        let result = |(mutation, outcome): (&Mutation, proto::Outcome)| {
            let (version, subject) = (mutation.version(), mutation.subject().clone());
            match outcome.kind {
                Some(Kind::Existed(existed)) => Ok(Written { version, existed }),
                Some(Kind::Refusal(Refusal { not_found: true, .. })) => {
                    Err(Error::NotFound { collection: subject.collection, id: subject.id })
                }
                Some(Kind::Refusal(Refusal { merged_into, .. })) if !merged_into.is_empty() => {
                    Err(Error::Merged { collection: subject.collection, id: subject.id, into: merged_into })
                }
                Some(Kind::Refusal(Refusal { message, .. })) => {
                    Err(Error::Unavailable(format!("node {node} refused: {message}")))
                }
                None => Err(miscounted(node)),
            }
        };
        Ok(mutations.iter().zip(reply.outcomes).map(result).collect())
    }

    /// Finds out whether the entity of an update is there, where replicas do not agree: by what a quorum holds together. If it is, they get
    /// the update whatever they know.
    async fn settle(
        self: &Arc<Self>,
        mutation: &Mutation,
        pending: &mut Pending,
        options: WriteOptions,
    ) -> Result<Written> {
        let entities: Vec<EntityKey> = mutation.entities().cloned().collect();
        let extent = Extent { contents: false, edges: false };
        let states = self.states(entities, extent, Consistency::Quorum, options.deadline).await?;
        if !states.iter().all(|state| self.served.replica.is_live(state)) {
            let subject = mutation.subject().clone();
            return Err(Error::NotFound { collection: subject.collection, id: subject.id });
        }
        let nodes: Vec<NodeId> = pending.sides.iter().flat_map(|side| side.unmet.iter().copied()).collect();
        for node in nodes {
            let holds = |partition| self.served.layout.replicas(partition).contains(&node);
            let Some(encoded) = mutation.encode(holds)?.and_then(|encoded| settled(&encoded)) else {
                continue;
            };
            let told = self.sent(node, &[encoded], options.durability, options.deadline).await;
            if let Ok([Ok(_)]) = told.as_deref() {
                for side in pending.sides.iter_mut().filter(|side| side.unmet.contains(&node)) {
                    side.unmet.retain(|unmet| *unmet != node);
                    side.acknowledged += 1;
                }
            }
        }
        match pending.verdict() {
            Verdict::Made => Ok(Written { version: mutation.version(), existed: true }),
            _ => Err(Error::Unavailable("replicas do not agree whether the entity is there".to_owned())),
        }
    }
}

fn miscounted(node: NodeId) -> Error {
    Error::Unavailable(format!("node {node} answered something else than it was asked"))
}

/// Which of so many writes a node took, or will never take; the others it may later.
pub(super) fn taken(node: NodeId, reply: &WriteReply, count: usize) -> Result<Vec<Taken>> {
    if reply.outcomes.len() != count {
        return Err(miscounted(node));
    }
    let taken = |outcome: &proto::Outcome| match &outcome.kind {
        Some(Kind::Existed(_)) => Taken::Yes,
        Some(Kind::Refusal(Refusal { is_final: true, message, .. })) => {
            tracing::warn!(%node, message, "a write that was kept for a node is refused for good");
            Taken::Never
        }
        Some(Kind::Refusal(_)) | None => Taken::NotYet,
    };
    Ok(reply.outcomes.iter().map(taken).collect())
}

/// What a node did with a write that was kept for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    NotYet,
    Never,
}
