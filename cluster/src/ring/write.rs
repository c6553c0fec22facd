//! Writes at all replicas.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use allidb_index::{
    Deadline, EntityKey, Error, Hint, Mutation, Result, Version, disordered, model::Written, waves,
};
use bytes::Bytes;
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    Inner, Ring,
    counts::add,
    settle::{Doubt, Settled},
    underway::Underway,
    verdict::{Side, Told},
    wrong::Wrong,
};
use crate::{
    asker::OnBehalf,
    coordinator::{Consistency, WriteOptions},
    layout::NodeId,
};
use tracing::{Span, field::Empty, instrument};

/// The part of a batch of writes that one node gets.
struct Share {
    node: NodeId,
    /// Which of the writes, by their places.
    places: Vec<usize>,
    /// Each as that node gets it.
    encoded: Vec<Bytes>,
}

/// What came of each of some writes, and as what it was made.
pub(super) type Made = Vec<(Result<Written>, Arc<Mutation>)>;

/// How writes are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
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
        let how = How { is_renewed: true, is_posted: true };
        if mutations.iter().all(|mutation| mutation.precondition().is_none()) {
            return self.make(mutations, options, how).await;
        }
        // Each after all that come before it.
        let mut results = Vec::with_capacity(mutations.len());
        let mut rest = mutations.into_iter().peekable();
        while let Some(mutation) = rest.next() {
            if mutation.precondition().is_some() {
                results.push(self.decide(mutation, options).await);
                continue;
            }
            let mut batch = vec![mutation];
            while let Some(next) = rest.next_if(|next| next.precondition().is_none()) {
                batch.push(next);
            }
            results.extend(self.make(batch, options, how).await);
        }
        results
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
        let (ring, count) = (self.now(), mutations.len());
        // It goes on when the caller goes away: every replica is to hear of what one has heard of.
        let made =
            tokio::spawn(async move { ring.make_as_of_now(mutations, options, how).await }.in_current_call());
        let made = made.await.unwrap_or_else(|_| vec![Err(ended()); count]);
        match how.is_posted {
            // Whoever asks again asks for a newer one.
            true => made.into_iter().map(|made| made.map_err(unavailable_if_late)).collect(),
            false => made,
        }
    }
}

pub(super) fn is_unavailable(made: &Result<Written>) -> bool {
    matches!(made, Err(Error::Unavailable(_)))
}

/// Makes writes so that each comes after those before it that are about the same.
pub(super) async fn make_in_waves(
    writing: Writing,
    mutations: Vec<Mutation>,
    options: WriteOptions,
    how: How,
) -> Made {
    let inner = &writing.0;
    let waves = match how.is_renewed {
        true => waves(&mutations),
        // Their versions were given when they were planned, and are kept.
        false => vec![(0..mutations.len()).collect()],
    };
    let has_more = waves.len() > 1;
    let mut results: Vec<Result<Written>> = vec![Err(ended()); mutations.len()];
    let mut batch: Vec<(Arc<Mutation>, Version)> = mutations
        .into_iter()
        .map(|mutation| (mutation.version(), mutation))
        .map(|(asked, of)| (Arc::new(of), asked))
        .collect();
    let mut made_as: Vec<Arc<Mutation>> = batch.iter().map(|(mutation, _)| Arc::clone(mutation)).collect();
    // At which versions everything was made that others come after.
    let mut newest: HashMap<EntityKey, Version> = HashMap::new();
    let mut has_begun = false;
    for wave in waves {
        // Of all of it, until everything is in order.
        let mut made_at: BTreeMap<usize, Version> = BTreeMap::new();
        let mut rest = wave;
        while !rest.is_empty() {
            let may_begin = if has_begun { inner.may_go_on(options.deadline) } else { Ok(()) };
            if let Err(error) = may_begin {
                for place in rest.drain(..) {
                    set(&mut results, place, Err(error.clone()));
                }
                break;
            }
            has_begun = true;
            let mut writes = Vec::with_capacity(rest.len());
            for place in &rest {
                let Some((mutation, asked)) = batch.get_mut(*place) else { continue };
                let before = mutation.entities().filter_map(|entity| newest.get(entity)).max();
                if before.is_some_and(|before| *before >= mutation.version()) {
                    *mutation = Arc::new(inner.served.replica.planned_anew(Mutation::clone(mutation)));
                }
                writes.push(inner.begin((mutation, *asked), options.consistency, how.is_renewed));
            }
            if how.is_posted {
                inner.post(&mut writes, options).await;
            }
            let (answer, answered) = oneshot::channel();
            tokio::spawn(collect(Writing::begin(inner), writes, options, answer).in_current_call());
            for (place, (result, made)) in rest.iter().zip(answered.await.unwrap_or_default()) {
                set(&mut results, *place, result);
                made_at.insert(*place, made.version());
                if let Some(slot) = made_as.get_mut(*place) {
                    *slot = made;
                }
            }
            let is_as_planned = |(place, version): (&usize, &Version)| {
                batch.get(*place).is_some_and(|(mutation, _)| mutation.version() == *version)
            };
            rest = match how.is_renewed && !made_at.iter().all(is_as_planned) {
                true => out_of_order(&batch, &made_at, &results),
                false => Vec::new(),
            };
            if has_more || !rest.is_empty() {
                for (place, version) in &made_at {
                    for entity in batch.get(*place).iter().flat_map(|(mutation, _)| mutation.entities()) {
                        let newest = newest.entry(entity.clone()).or_default();
                        *newest = (*version).max(*newest);
                    }
                }
            }
        }
    }
    results.into_iter().zip(made_as).collect()
}

pub(super) fn set(results: &mut [Result<Written>], place: usize, result: Result<Written>) {
    if let Some(slot) = results.get_mut(place) {
        *slot = result;
    }
}

/// What was made, but not above what it comes after.
fn out_of_order(
    batch: &[(Arc<Mutation>, Version)],
    made_at: &BTreeMap<usize, Version>,
    results: &[Result<Written>],
) -> Vec<usize> {
    let places: Vec<usize> = made_at.keys().copied().collect();
    let made = made_at.iter().filter_map(|(place, version)| Some((&*batch.get(*place)?.0, *version)));
    let places = disordered(made).into_iter().filter_map(|at| places.get(at).copied());
    places.filter(|place| results.get(*place).is_some_and(Result::is_ok)).collect()
}

fn unavailable_if_late(error: Error) -> Error {
    match error {
        Error::Late { .. } => Error::Unavailable(error.to_string()),
        other => other,
    }
}

fn ended() -> Error {
    Error::Internal("a write ended without an answer".to_owned())
}

/// A write whose hints are not kept yet.
pub(super) struct Writing(pub(super) Arc<Inner>);

impl Writing {
    pub(super) fn begin(inner: &Arc<Inner>) -> Self {
        inner.writing.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sends each node its share, answers when all writes are decided, with the versions at which they were made, and keeps hints for whoever has
/// not acknowledged.
#[instrument(name = "replicate", level = "debug", skip_all, fields(writes = writes.len(), nodes = Empty))]
async fn collect(
    writing: Writing,
    mut writes: Vec<Underway>,
    options: WriteOptions,
    answer: oneshot::Sender<Made>,
) {
    let inner = &writing.0;
    let mut tasks: JoinSet<Report> = JoinSet::new();
    // Of whom nothing was heard yet, nor ever will be if its task breaks off.
    let mut silent: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    let shares = inner.shares(&mut writes);
    Span::current().record("nodes", shares.len());
    for Share { node, places, encoded } in shares {
        silent.insert(node, places.clone());
        let inner = Arc::clone(inner);
        let send = async move {
            let told = inner.send(node, encoded, options.durability, options.deadline).await;
            Report::Share(node, places, told)
        };
        tasks.spawn(send.in_current_call());
    }
    let mut answer = Some(answer);
    loop {
        if answer.is_some() && writes.iter().all(|write| write.result.is_some()) {
            tell(&mut answer, &writes);
        }
        let Some(heard) = tasks.join_next().await else { break };
        let mut doubts: Vec<(usize, Doubt)> = Vec::new();
        match heard {
            Ok(Report::Share(node, places, told)) => {
                silent.remove(&node);
                for (place, told) in places.into_iter().zip(told) {
                    let doubt = writes.get_mut(place).and_then(|write| write.hears(node, &told));
                    doubts.extend(doubt.map(|doubt| (place, doubt)));
                }
            }
            Ok(Report::Settled(settled)) => {
                let place = settled.place;
                let doubt = writes.get_mut(place).and_then(|write| write.settles(*settled, &mut tasks));
                doubts.extend(doubt.map(|doubt| (place, doubt)));
            }
            Ok(Report::Convinced(place, version, nodes)) => {
                let write = writes.get_mut(place).filter(|write| write.mutation.version() == version);
                write.into_iter().for_each(|write| write.is_made_by(&nodes));
            }
            // What it was about is not decided then.
            Err(error) => tracing::error!(%error, "a part of a write broke off"),
        }
        for (place, doubt) in doubts {
            let Some(write) = writes.get(place) else { continue };
            inner.settle_beside((place, write), doubt, options, &mut tasks);
        }
    }
    for (node, places) in silent {
        for place in places {
            if let Some(write) = writes.get_mut(place) {
                write.hears(node, &Told::Failed(Error::Internal("a write broke off".to_owned())));
            }
        }
    }
    tell(&mut answer, &writes);
    let unacknowledged = writes.iter().filter(|write| write.is_unacknowledged()).count();
    add(&inner.served.counters.writes_unacknowledged, unacknowledged);
    inner.note_unheard(&writes);
    inner.take_back(&mut writes).await;
    inner.keep_missed(&writes).await;
}

/// Answers once.
fn tell(answer: &mut Option<oneshot::Sender<Made>>, writes: &[Underway]) {
    let Some(answer) = answer.take() else { return };
    let undecided = || Err(Error::Unavailable("nobody knows what became of the write".to_owned()));
    let result = |write: &Underway| write.result.clone().unwrap_or_else(undecided);
    // The caller may have gone.
    answer.send(writes.iter().map(|write| (result(write), Arc::clone(&write.mutation))).collect()).ok();
}

impl Inner {
    /// Whether more of a batch may be made.
    fn may_go_on(&self, deadline: Deadline) -> Result<()> {
        if self.is_closing.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("the node ends".to_owned()));
        }
        deadline.check()
    }

    fn begin(
        &self,
        (mutation, asked): (&Arc<Mutation>, Version),
        consistency: Consistency,
        is_renewed: bool,
    ) -> Underway {
        let mut partitions: Vec<u16> = mutation.partitions().collect();
        partitions.sort_unstable();
        partitions.dedup();
        let side = |(replicas, is_told): (&[NodeId], bool)| {
            let needed = match self.is_wrong(Wrong::EarlyAcknowledgement) {
                true => 1,
                false => consistency.needed(replicas.len()),
            };
            Side::new(replicas.to_vec(), needed, is_told)
        };
        let sides = partitions.into_iter().flat_map(|partition| self.writers(partition).map(side)).collect();
        Underway::new(Arc::clone(mutation), asked, sides, is_renewed && !self.is_wrong(Wrong::NoRenewal))
    }

    /// Posts writes whose parts lie apart before anybody hears of them: if this node dies, one part may be made, and the other not.
    async fn post(&self, writes: &mut [Underway], options: WriteOptions) {
        let lies_apart = |write: &Underway| {
            // By any layout: that some of the replicas are to be others is no reason.
            let replicas = |partition| self.writers(partition).map(|(replicas, _)| replicas);
            let mut partitions = write.mutation.partitions();
            let first = partitions.next();
            let mut others = partitions.filter(|partition| Some(*partition) != first);
            others.any(|other| first.is_some_and(|first| !replicas(first).eq(replicas(other))))
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
    async fn take_back(&self, writes: &mut [Underway]) {
        let is_needless = |write: &&mut Underway| write.pending.is_at_quorum() || write.is_made_nowhere();
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
        mutation.encode(|partition| self.served.topology.holds(node, partition))
    }

    /// Writes that cannot be sent are answered at once.
    fn shares(&self, writes: &mut [Underway]) -> Vec<Share> {
        let mut shares = Vec::new();
        for node in self.served.topology.nodes() {
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
    async fn keep_missed(&self, writes: &[Underway]) {
        let mut hints: BTreeMap<NodeId, Vec<Vec<u8>>> = BTreeMap::new();
        // What was made nowhere is not to be made there. What was refused by a quorum, and yet made by one that knew more, is (ADR 0020).
        // Also what is made again under another topology: whether it is was decided when it was answered, by what was known then.
        let missed = writes.iter().filter(|write| !write.missed.is_empty() && !write.is_made_nowhere());
        for write in missed {
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
