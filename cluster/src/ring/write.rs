//! Writes at all replicas.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use allidb_index::{EntityKey, Error, Hint, Mutation, Result, Version, model::Written};
use bytes::Bytes;
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    Inner, Ring,
    counts::add,
    settle::{Doubt, Settled},
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
pub(super) struct Asked {
    pub(super) mutation: Arc<Mutation>,
    pub(super) pending: Pending,
    /// `None`: it is not decided yet.
    result: Option<Result<Written>>,
    /// Nodes that are to get it later.
    missed: Vec<NodeId>,
    /// Whether somebody finds out what a quorum knows of what it is for.
    is_settling: bool,
    /// Whether it says something else by now: then whoever made it before must make it again.
    is_other: bool,
    /// Who has done so.
    made_other: Vec<NodeId>,
    /// Whether it is to be made at another version if something newer hides it.
    pub(super) is_renewed: bool,
    /// What is asked for before it is made at this version, as was found while it was being settled.
    floor: Option<Version>,
    /// When it was found out last what a quorum holds of what it is for, what was before it was made at this version.
    asked_since: Option<Version>,
    /// What is to be made for sure: an edge that would otherwise be seen from one end alone.
    pub(super) posted: Vec<Hint>,
}

/// How writes are made.
#[derive(Clone, Copy, Debug)]
struct How {
    /// Whether they are made at another version if something newer hides them.
    is_renewed: bool,
    /// Whether those whose parts lie apart are posted before.
    is_posted: bool,
}

/// What whoever collects answers is told.
pub(super) enum Report {
    Share(NodeId, Vec<usize>, Vec<Told>),
    Settled(Box<Settled>),
    /// Everybody has answered who was to be convinced of a write of this version: those that made it after it was settled.
    Convinced(usize, Version, Vec<NodeId>),
}

impl Ring {
    /// Makes writes at all replicas of what they touch. Each is answered as soon as so many have acknowledged it as the consistency needs,
    /// at both its ends if it is an edge; those that do not are sent it later.
    ///
    /// What is answered with [`Error::Unavailable`] or [`Error::DeadlineExceeded`] may have been made, or may be later; so may what is answered with
    /// [`Error::Exhausted`], unless the outbox is full. What meets something newer, since clocks differ, is
    /// made once more at a version above that: at QUORUM a write comes after all that were acknowledged before it was asked for.
    pub async fn write(&self, mutations: Vec<Mutation>, options: WriteOptions) -> Vec<Result<Written>> {
        self.make(mutations, options, How { is_renewed: true, is_posted: true }).await
    }

    /// The same, at the versions that they have: what came later stays.
    pub(super) async fn write_as_planned(
        &self,
        mutations: Vec<Mutation>,
        options: WriteOptions,
    ) -> Vec<Result<Written>> {
        self.make(mutations, options, How { is_renewed: false, is_posted: true }).await
    }

    /// The same, of what is posted already.
    pub(super) async fn write_posted(
        &self,
        mutations: Vec<Mutation>,
        options: WriteOptions,
    ) -> Vec<Result<Written>> {
        self.make(mutations, options, How { is_renewed: false, is_posted: false }).await
    }

    async fn make(&self, mutations: Vec<Mutation>, options: WriteOptions, how: How) -> Vec<Result<Written>> {
        let count = mutations.len();
        let (answer, answered) = oneshot::channel();
        // It goes on when the caller goes away: every replica is to hear of what one has heard of.
        let writing = Writing::begin(&self.0);
        tokio::spawn(async move {
            let asked = |mutation| writing.0.asked(mutation, options.consistency, how.is_renewed);
            let mut writes: Vec<Asked> = mutations.into_iter().map(asked).collect();
            if how.is_posted {
                writing.0.post(&mut writes, options).await;
            }
            collect(Arc::clone(&writing.0), writes, options, answer).await;
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
    mut writes: Vec<Asked>,
    options: WriteOptions,
    answer: oneshot::Sender<Vec<Result<Written>>>,
) {
    let mut tasks: JoinSet<Report> = JoinSet::new();
    // Of whom nothing was heard yet, nor ever will be if its task breaks off.
    let mut silent: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for Share { node, places, encoded } in inner.shares(&mut writes) {
        silent.insert(node, places.clone());
        let inner = Arc::clone(&inner);
        tasks.spawn(async move {
            let told = inner.send(node, encoded, options.durability, options.deadline).await;
            Report::Share(node, places, told)
        });
    }
    let mut answer = Some(answer);
    loop {
        if writes.iter().all(|write| write.result.is_some())
            && let Some(answer) = answer.take()
        {
            // The caller may have gone.
            answer.send(writes.iter().filter_map(|write| write.result.clone()).collect()).ok();
        }
        let Some(heard) = tasks.join_next().await else { break };
        let mut doubts: VecDeque<(usize, Doubt)> = VecDeque::new();
        match heard {
            Ok(Report::Share(node, places, told)) => {
                silent.remove(&node);
                for (place, told) in places.into_iter().zip(told) {
                    let doubt = writes.get_mut(place).and_then(|write| write.hears(node, &told));
                    doubts.extend(doubt.map(|doubt| (place, doubt)));
                }
            }
            Ok(Report::Settled(settled)) => {
                let (place, made_at) = (settled.place, settled.made_at());
                let doubt = writes.get_mut(place).and_then(|write| write.settles(*settled, &mut tasks));
                doubts.extend(doubt.map(|doubt| (place, doubt)));
                doubts
                    .extend(made_at.into_iter().flat_map(|version| later(&mut writes, place, version, true)));
            }
            Ok(Report::Convinced(place, version, nodes)) => {
                let write = writes.get_mut(place).filter(|write| write.mutation.version() == version);
                write.into_iter().for_each(|write| write.is_made_by(&nodes));
            }
            // What it was about is not decided then.
            Err(error) => tracing::error!(%error, "a part of a write broke off"),
        }
        while let Some((place, doubt)) = doubts.pop_front() {
            let Some(write) = writes.get(place) else { continue };
            if let Some(version) = inner.settle_beside((place, write), doubt, options, &mut tasks) {
                doubts.extend(later(&mut writes, place, version, false));
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
    let unacknowledged = writes.iter().filter(|write| write.is_unacknowledged()).count();
    add(&inner.served.counters.writes_unacknowledged, unacknowledged);
    inner.take_back(&mut writes).await;
    inner.keep_missed(&writes).await;
}

/// What was asked for after a write stays after it when that is made at another version: of later writes of the same things, those that are
/// decided or will be must be made at another one, too. `is_made` says whether enough have made that one.
fn later(writes: &mut [Asked], place: usize, version: Version, is_made: bool) -> Vec<(usize, Doubt)> {
    let (until, later) = writes.split_at_mut((place + 1).min(writes.len()));
    let Some(mutation) = until.last().map(|write| Arc::clone(&write.mutation)) else { return Vec::new() };
    let about: Vec<&EntityKey> = mutation.entities().collect();
    let is_about = |write: &Asked| write.mutation.entities().any(|entity| about.contains(&entity));
    let later = later.iter_mut().enumerate().filter(|(_, write)| is_about(write));
    later.filter_map(|(at, write)| Some((place + 1 + at, write.comes_after(version, is_made)?))).collect()
}

impl Asked {
    /// Takes note of what a node says. Gives what must be resolved now.
    fn hears(&mut self, node: NodeId, told: &Told) -> Option<Doubt> {
        // Also those that know of no such entity: if others do, they will.
        if !matches!(told, Told::Made { .. }) || (self.is_other && !self.made_other.contains(&node)) {
            self.missed.push(node);
        }
        if self.is_other {
            return None;
        }
        self.pending.note(node, told);
        if self.result.is_some() || self.is_settling {
            return None;
        }
        let verdict = self.pending.verdict();
        if self.floor.is_some() && matches!(verdict, Verdict::Made { .. } | Verdict::Missing) {
            return Some(self.reopens());
        }
        let subject = self.mutation.subject();
        let (collection, id) = (|| subject.collection.clone(), || subject.id.clone());
        self.result = match verdict {
            Verdict::Open => None,
            Verdict::Made { existed } => match self.pending.overtaken_by.filter(|_| self.is_renewed) {
                None => Some(Ok(self.written(existed))),
                Some(newer) => {
                    self.is_settling = true;
                    return Some(Doubt::Overtaken(newer));
                }
            },
            Verdict::Missing => Some(Err(Error::NotFound { collection: collection(), id: id() })),
            Verdict::Merged(into) => Some(Err(Error::Merged { collection: collection(), id: id(), into })),
            Verdict::Failed(error) => Some(Err(error)),
            Verdict::Disputed => {
                self.is_settling = true;
                return Some(Doubt::Disputed);
            }
        };
        None
    }

    /// Takes note that what was asked for before it is made at this version now, and whether enough have made that. Gives what must be resolved, if
    /// it was decided already: nobody was told, as not all are.
    fn comes_after(&mut self, version: Version, is_made: bool) -> Option<Doubt> {
        if !self.is_renewed || self.mutation.version() >= version {
            return None;
        }
        let depends = self.mutation.needs_entity();
        if depends && !is_made {
            // Whether what it is for is there is found out then.
            return None;
        }
        if depends || self.is_settling {
            self.floor = self.floor.max(Some(version));
        }
        if self.is_settling {
            return None;
        }
        match &self.result {
            Some(Ok(_) | Err(Error::NotFound { .. })) if depends => Some(self.reopens()),
            Some(Ok(_)) => {
                (self.result, self.is_settling) = (None, true);
                Some(Doubt::Overtaken(version))
            }
            Some(Err(_)) => None,
            None => {
                self.pending.overtaken_by = self.pending.overtaken_by.max(Some(version));
                None
            }
        }
    }

    /// It is to be found out again what a quorum holds, by now.
    fn reopens(&mut self) -> Doubt {
        (self.result, self.is_settling, self.asked_since) = (None, true, self.floor);
        Doubt::Disputed
    }

    /// Whether it may have been made, and nobody was told so.
    fn is_unacknowledged(&self) -> bool {
        match &self.result {
            Some(Err(Error::Unavailable(_) | Error::DeadlineExceeded)) => true,
            Some(Err(Error::Exhausted(_))) => !self.pending.is_made_nowhere(),
            _ => false,
        }
    }

    /// Takes note that nodes have made what it is by now.
    fn is_made_by(&mut self, nodes: &[NodeId]) {
        self.missed.retain(|node| !nodes.contains(node));
        if self.is_other {
            self.made_other.extend(nodes);
            self.pending.convinced(&self.made_other, true);
        } else {
            self.pending.convinced(nodes, false);
        }
    }

    /// Takes note of how it is to be made. Gives what must be resolved before it is answered.
    fn settles(&mut self, settled: Settled, tasks: &mut JoinSet<Report>) -> Option<Doubt> {
        let Settled { place, outcome, convinced, mut rest, why, posted } = settled;
        self.is_settling = false;
        self.posted.extend(posted);
        let subject = self.mutation.subject();
        self.result = Some(match outcome {
            Err(error) => Err(error),
            Ok(None) => {
                Err(Error::NotFound { collection: subject.collection.clone(), id: subject.id.clone() })
            }
            Ok(Some((mutation, is_other))) => {
                if is_other {
                    self.made_other.clear();
                    let replicas = self.pending.sides.iter().flat_map(|side| side.replicas.iter().copied());
                    self.missed.extend(replicas);
                }
                (self.mutation, self.is_other) = (Arc::new(mutation), self.is_other || is_other);
                self.is_made_by(&convinced);
                let version = self.mutation.version();
                tasks.spawn(async move {
                    let mut late = Vec::new();
                    while let Some(done) = rest.join_next().await {
                        late.extend(done.ok().and_then(|(node, told)| told.is_made().then_some(node)));
                    }
                    Report::Convinced(place, version, late)
                });
                match self.pending.verdict() {
                    Verdict::Made { existed } => Ok(self.written(existed)),
                    Verdict::Failed(error) => Err(error),
                    _ => Err(why.unwrap_or_else(|| {
                        Error::Unavailable("replicas do not agree on what the write is for".to_owned())
                    })),
                }
            }
        });
        // Something before it was made at a newer version meanwhile.
        let floor = self.floor?;
        if self.mutation.needs_entity() && self.asked_since < Some(floor) {
            return Some(self.reopens());
        }
        self.floor = None;
        if !matches!(self.result, Some(Ok(_))) || self.mutation.version() >= floor {
            return None;
        }
        (self.result, self.is_settling) = (None, true);
        Some(Doubt::Overtaken(floor))
    }

    fn written(&self, existed: bool) -> Written {
        Written { version: self.mutation.version(), existed, overtaken_by: None }
    }

    /// Whether it was refused, and nobody made it.
    fn is_made_nowhere(&self) -> bool {
        matches!(self.result, Some(Err(Error::NotFound { .. } | Error::Merged { .. })))
            && self.pending.is_made_nowhere()
    }
}

impl Inner {
    fn asked(&self, mutation: Mutation, consistency: Consistency, is_renewed: bool) -> Asked {
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
            made_other: Vec::new(),
            floor: None,
            asked_since: None,
            is_renewed: is_renewed && !self.is_wrong(Wrong::NoRenewal),
            posted: Vec::new(),
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
        let (bytes, most) = (self.served.replica.outbox_bytes(), self.hints.limits.outbox_bytes);
        if bytes > most {
            let why = format!("{bytes} bytes of edges wait for nodes that do not answer, {most} may");
            let refused = |place: usize| (place, Err(Error::Exhausted(why.clone())));
            for (place, refusal) in apart.into_iter().map(refused) {
                if let Some(write) = writes.get_mut(place) {
                    write.result = Some(refusal);
                }
            }
            return;
        }
        let mutation = |place: &usize| writes.get(*place).map(|write| Mutation::clone(&write.mutation));
        let mutations: Vec<Mutation> = apart.iter().filter_map(mutation).collect();
        let posted = self.here(move |served| served.replica.post_all(&mutations, options.durability)).await;
        match posted {
            Ok(posted) => {
                for (place, hint) in apart.into_iter().zip(posted) {
                    if let Some(write) = writes.get_mut(place) {
                        write.posted.push(hint);
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
        let needless = writes.iter_mut().filter(is_needless).flat_map(|write| write.posted.drain(..));
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
    pub(super) fn encoded_for(&self, node: NodeId, mutation: &Mutation) -> Result<Option<Vec<u8>>> {
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
