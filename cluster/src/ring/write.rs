//! Writes at all replicas.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use allidb_index::{EntityKey, Error, Extent, Hint, Mutation, Result, model::Written};
use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    Inner, Ring,
    counts::{add, count},
    verdict::{Pending, Side, Told, Verdict},
    wrong::Wrong,
};
use crate::{
    coordinator::{Consistency, WriteOptions},
    layout::NodeId,
};

/// The part of a batch of writes that one node gets.
struct Share {
    node: NodeId,
    /// Which of the writes, by their places.
    places: Vec<usize>,
    /// Each as that node gets it.
    encoded: Vec<Bytes>,
}

/// A write, and what it comes to.
struct Asked {
    mutation: Arc<Mutation>,
    pending: Pending,
    /// `None`: it is not decided yet.
    result: Option<Result<Written>>,
    /// Nodes that are to get it later.
    missed: Vec<NodeId>,
    /// Whether somebody finds out what a quorum knows of what it is for.
    is_settling: bool,
    /// Whether it is to clear what has expired: then whoever made it before must make it again.
    is_other: bool,
    /// What is to be made for sure: an edge that would otherwise be seen from one end alone.
    posted: Option<Hint>,
}

/// What a quorum knows of what a write is for, and who made the write since.
struct Settled {
    place: usize,
    /// How it is to be made everywhere, unless there is nothing that it could be for.
    outcome: Result<Option<(Mutation, bool)>>,
    convinced: Vec<NodeId>,
    refused: Vec<NodeId>,
}

enum Report {
    Share(NodeId, Vec<usize>, Vec<Told>),
    Settled(Settled),
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
        let writing = Writing::begin(&self.0);
        tokio::spawn(async move {
            collect(Arc::clone(&writing.0), mutations, options, answer).await;
            drop(writing);
        });
        let lost = |_| vec![Err(Error::Internal("a write ended without an answer".to_owned())); count];
        answered.await.unwrap_or_else(lost)
    }
}

/// A write whose hints are not kept yet.
struct Writing(Arc<Inner>);

impl Writing {
    fn begin(inner: &Arc<Inner>) -> Self {
        inner.writing.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sends each node its share, answers when all writes are decided, and keeps hints for whoever has not acknowledged.
async fn collect(
    inner: Arc<Inner>,
    mutations: Vec<Mutation>,
    options: WriteOptions,
    answer: oneshot::Sender<Vec<Result<Written>>>,
) {
    let mut writes: Vec<Asked> =
        mutations.into_iter().map(|mutation| inner.asked(mutation, options.consistency)).collect();
    inner.post(&mut writes, options).await;
    let shares = inner.shares(&mut writes);
    let (report, mut reports) = mpsc::channel(shares.len().max(1));
    // Of whom nothing was heard yet, nor ever will be if its task breaks off.
    let mut silent: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for Share { node, places, encoded } in shares {
        silent.insert(node, places.clone());
        let (inner, report) = (Arc::clone(&inner), report.clone());
        tokio::spawn(async move {
            let told = inner.send(node, encoded, options.durability, options.deadline).await;
            // Whoever listens, listens until the end.
            report.send(Report::Share(node, places, told)).await.ok();
        });
    }
    let mut answer = Some(answer);
    let mut report = Some(report);
    let mut settling = 0;
    loop {
        if writes.iter().all(|write| write.result.is_some())
            && let Some(answer) = answer.take()
        {
            // The caller may have gone.
            answer.send(writes.iter().filter_map(|write| write.result.clone()).collect()).ok();
        }
        if silent.is_empty() && settling == 0 {
            report = None;
        }
        let Some(heard) = reports.recv().await else { break };
        match heard {
            Report::Share(node, places, told) => {
                silent.remove(&node);
                for (place, told) in places.into_iter().zip(told) {
                    let Some(write) = writes.get_mut(place) else { continue };
                    if write.hears(node, &told)
                        && let Some(report) = &report
                    {
                        settling += 1;
                        count(&inner.served.counters.writes_settled);
                        inner.settle_beside(place, write, options, report.clone());
                    }
                }
            }
            Report::Settled(settled) => {
                settling -= 1;
                if let Some(write) = writes.get_mut(settled.place) {
                    write.settles(settled);
                }
            }
        }
    }
    for (node, places) in silent {
        for place in places {
            if let Some(write) = writes.get_mut(place) {
                write.hears(node, &Told::Failed(Error::Internal("a write broke off".to_owned())));
            }
        }
    }
    if let Some(answer) = answer.take() {
        let undecided = || Err(Error::Unavailable("nobody knows what became of the write".to_owned()));
        let results = writes.iter().map(|write| write.result.clone().unwrap_or_else(undecided));
        answer.send(results.collect()).ok();
    }
    let is_unacknowledged = |write: &&Asked| matches!(write.result, Some(Err(Error::Unavailable(_))));
    let unacknowledged = writes.iter().filter(is_unacknowledged).count();
    add(&inner.served.counters.writes_unacknowledged, unacknowledged);
    inner.take_back(&mut writes).await;
    inner.keep_missed(&writes).await;
}

impl Asked {
    /// Takes note of what a node says. True if it must be found out now what a quorum knows.
    fn hears(&mut self, node: NodeId, told: &Told) -> bool {
        // Also those that know of no such entity: if others do, they will.
        if !matches!(told, Told::Made { .. }) || self.is_other {
            self.missed.push(node);
        }
        self.pending.note(node, told);
        if self.result.is_some() || self.is_settling {
            return false;
        }
        let subject = self.mutation.subject();
        let (collection, id) = (|| subject.collection.clone(), || subject.id.clone());
        self.result = match self.pending.verdict() {
            Verdict::Open => None,
            Verdict::Made { existed } => Some(Ok(self.written(existed))),
            Verdict::Missing => Some(Err(Error::NotFound { collection: collection(), id: id() })),
            Verdict::Merged(into) => Some(Err(Error::Merged { collection: collection(), id: id(), into })),
            Verdict::Failed(error) => Some(Err(error)),
            Verdict::Disputed => {
                self.is_settling = true;
                return true;
            }
        };
        false
    }

    /// Takes note of what a quorum knows.
    fn settles(&mut self, Settled { outcome, convinced, refused, .. }: Settled) {
        self.missed.retain(|node| !convinced.contains(node));
        self.missed.extend(refused);
        let subject = self.mutation.subject();
        self.result = Some(match outcome {
            Err(error) => Err(error),
            Ok(None) => {
                Err(Error::NotFound { collection: subject.collection.clone(), id: subject.id.clone() })
            }
            Ok(Some((mutation, is_other))) => {
                (self.mutation, self.is_other) = (Arc::new(mutation), is_other);
                self.pending.convinced(&convinced, is_other);
                match self.pending.verdict() {
                    Verdict::Made { existed } => Ok(self.written(existed)),
                    Verdict::Failed(error) => Err(error),
                    _ => Err(Error::Unavailable("replicas do not agree on what the write is for".to_owned())),
                }
            }
        });
    }

    fn written(&self, existed: bool) -> Written {
        Written { version: self.mutation.version(), existed }
    }

    /// Whether it was refused, and nobody made it.
    fn is_made_nowhere(&self) -> bool {
        matches!(self.result, Some(Err(Error::NotFound { .. } | Error::Merged { .. })))
            && self.pending.is_made_nowhere()
    }
}

impl Inner {
    fn asked(&self, mutation: Mutation, consistency: Consistency) -> Asked {
        let mut partitions: Vec<u16> = mutation.partitions().collect();
        partitions.sort_unstable();
        partitions.dedup();
        let side = |partition: u16| {
            let replicas = self.served.layout.replicas(partition).to_vec();
            let needed = match self.is_wrong(Wrong::EarlyAcknowledgement) {
                true => 1,
                false => consistency.needed(replicas.len()),
            };
            Side::new(replicas, needed)
        };
        Asked {
            pending: Pending::new(partitions.into_iter().map(side).collect()),
            mutation: Arc::new(mutation),
            result: None,
            missed: Vec::new(),
            is_settling: false,
            is_other: false,
            posted: None,
        }
    }

    /// Posts writes whose parts lie apart before anybody hears of them: if this node dies, one part may be made, and the other not.
    async fn post(&self, writes: &mut [Asked], options: WriteOptions) {
        let lies_apart = |write: &Asked| {
            let mut sides = write.pending.sides.iter().map(|side| &side.replicas);
            let first = sides.next();
            sides.any(|replicas| Some(replicas) != first)
        };
        let apart: Vec<usize> = writes
            .iter()
            .enumerate()
            .filter(|(_, write)| lies_apart(write))
            .map(|(place, _)| place)
            .collect();
        if apart.is_empty() {
            return;
        }
        let mutation = |place: &usize| writes.get(*place).map(|write| Mutation::clone(&write.mutation));
        let mutations: Vec<Mutation> = apart.iter().filter_map(mutation).collect();
        let posted = self.here(move |served| served.replica.post_all(&mutations, options.durability)).await;
        match posted {
            Ok(posted) => {
                for (place, hint) in apart.into_iter().zip(posted) {
                    if let Some(write) = writes.get_mut(place) {
                        write.posted = Some(hint);
                    }
                }
            }
            Err(error) => {
                for place in apart {
                    if let Some(write) = writes.get_mut(place) {
                        write.result = Some(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Forgets what was posted needlessly: a quorum of each part's replicas has made it, or nobody will.
    async fn take_back(&self, writes: &mut [Asked]) {
        let is_needless = |write: &&mut Asked| write.pending.is_at_quorum() || write.is_made_nowhere();
        let needless = writes.iter_mut().filter(is_needless).filter_map(|write| write.posted.take());
        let needless: Vec<Hint> = needless.collect();
        if needless.is_empty() {
            return;
        }
        // What stays is delivered once more.
        if let Err(error) = self.here(move |served| served.replica.forget_hints(&needless)).await {
            tracing::debug!(%error, "edges that were made are made again");
        }
    }

    /// A mutation as a node gets it; `None` if nothing of it lies there.
    fn encoded_for(&self, node: NodeId, mutation: &Mutation) -> Result<Option<Vec<u8>>> {
        mutation.encode(|partition| self.served.layout.replicas(partition).contains(&node))
    }

    /// Writes that cannot be sent are answered at once.
    fn shares(&self, writes: &mut [Asked]) -> Vec<Share> {
        let mut shares = Vec::new();
        for member in self.served.layout.members() {
            let node = member.node;
            let mut share = Share { node, places: Vec::new(), encoded: Vec::new() };
            for (place, write) in writes.iter_mut().enumerate().filter(|(_, write)| write.result.is_none()) {
                match self.encoded_for(node, &write.mutation) {
                    Ok(None) => {}
                    Ok(Some(encoded)) => {
                        share.places.push(place);
                        share.encoded.push(encoded.into());
                    }
                    Err(error) => write.result = Some(Err(error)),
                }
            }
            if !share.places.is_empty() {
                shares.push(share);
            }
        }
        shares
    }

    /// Finds out what a quorum knows of what a write is for, and reports it.
    fn settle_beside(
        self: &Arc<Self>,
        place: usize,
        write: &Asked,
        options: WriteOptions,
        report: mpsc::Sender<Report>,
    ) {
        let (inner, mutation) = (Arc::clone(self), Arc::clone(&write.mutation));
        let (unmet, sides) = (write.pending.unmet(), &write.pending.sides);
        let all: Vec<NodeId> = sides.iter().flat_map(|side| side.replicas.iter().copied()).collect();
        tokio::spawn(async move {
            let (mut convinced, mut refused) = (Vec::new(), Vec::new());
            let outcome = inner.settle(&mutation, options).await;
            if let Ok(Some((mutation, is_other))) = &outcome {
                let to = if *is_other { all } else { unmet };
                (convinced, refused) = inner.convince(to, mutation, options).await;
            }
            report.send(Report::Settled(Settled { place, outcome, convinced, refused })).await.ok();
        });
    }

    /// How a write is to be made whatever replicas know, by what a quorum knows, and whether that says more than what some may have made;
    /// `None` if what it is for is not there.
    async fn settle(
        self: &Arc<Self>,
        mutation: &Mutation,
        options: WriteOptions,
    ) -> Result<Option<(Mutation, bool)>> {
        let entities: Vec<EntityKey> = mutation.entities().cloned().collect();
        let extent = Extent { contents: false, edges: false };
        let states = self.states(entities, extent, Consistency::Quorum, options.deadline).await;
        let states = states.into_iter().collect::<Result<Vec<_>>>()?;
        let replica = &self.served.replica;
        let is_live = states.iter().all(|state| replica.is_live(state));
        if mutation.needs_entity() && !is_live {
            return Ok(None);
        }
        let has_expired = states.iter().any(|state| replica.has_expired(state));
        let mutation = mutation.clone();
        Ok(Some(match has_expired {
            true => (mutation.settled_over_expired(), true),
            false => (mutation.settled(), false),
        }))
    }

    /// Has nodes make a write that was settled. Gives those that did, and those that did not.
    async fn convince(
        self: &Arc<Self>,
        nodes: Vec<NodeId>,
        mutation: &Mutation,
        options: WriteOptions,
    ) -> (Vec<NodeId>, Vec<NodeId>) {
        let mut sent = JoinSet::new();
        let (mut made, mut not) = (Vec::new(), nodes.clone());
        for node in nodes {
            let Ok(Some(encoded)) = self.encoded_for(node, mutation) else { continue };
            let inner = Arc::clone(self);
            sent.spawn(async move {
                let told = inner.send(node, vec![encoded.into()], options.durability, options.deadline).await;
                (node, matches!(told.first(), Some(Told::Made { .. })))
            });
        }
        while let Some(done) = sent.join_next().await {
            if let Ok((node, true)) = done {
                not.retain(|other| *other != node);
                made.push(node);
            }
        }
        (made, not)
    }

    /// Keeps for every node what it has not acknowledged, to be made whatever it knows then.
    async fn keep_missed(&self, writes: &[Asked]) {
        let mut hints: BTreeMap<NodeId, Vec<Vec<u8>>> = BTreeMap::new();
        // What was made nowhere is not to be made there. What was refused by a quorum, and yet made by one that knew more, is (ADR 0020).
        for write in writes.iter().filter(|write| !write.missed.is_empty() && !write.is_made_nowhere()) {
            let settled = (*write.mutation).clone().settled();
            let mut nodes = write.missed.clone();
            nodes.sort_unstable();
            nodes.dedup();
            for node in nodes {
                match self.encoded_for(node, &settled) {
                    Ok(encoded) => hints.entry(node).or_default().extend(encoded),
                    Err(error) => tracing::error!(%node, %error, "a write cannot be kept for a node"),
                }
            }
        }
        for (node, hints) in hints {
            self.keep_hints(node, hints).await;
        }
    }
}
