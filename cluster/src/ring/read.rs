//! Reads of entities from several replicas.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{
    Deadline, EntityKey, EntityState, Error, Extent, Replica, Result, Version,
    model::{Entity, EntityRef, ReadMask, TenantId},
};
use bytes::Bytes;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::instrument;

use super::{
    Inner, Ring,
    counts::{add, count},
    quorum::Quorum,
};
use crate::{
    asker::OnBehalf,
    coordinator::Consistency,
    layout::NodeId,
    peer::{Client, Served, proto::ReadRequest},
};

/// Entities that have the same replicas, with their places among all.
type Group = Vec<(usize, EntityKey)>;

/// Entities that are asked for at once; so many before it is known how large they are, and then as many as are about of so many bytes.
const BATCH: usize = 1_000;
const FIRST: usize = 32;
const BATCH_BYTES: usize = 16 << 20;

/// How long a replica may take that tells all edges of an entity, or takes them over.
const LONG: Duration = Duration::from_secs(30);

/// Bytes that are decoded where they arrive; more are by the threads that work.
const SMALL_BYTES: usize = 64 << 10;

/// What one replica says of some entities.
pub(super) enum Told {
    States(Vec<EntityState>),
    Digests(Vec<u128>),
}

impl Ring {
    /// The entity of each reference, as so many replicas hold it together as the consistency needs, or why not.
    pub async fn get(
        &self,
        tenant: TenantId,
        refs: &[EntityRef],
        mask: &ReadMask,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Vec<Result<Entity>> {
        let replica = self.replica();
        let keys: Vec<Result<EntityKey>> =
            refs.iter().map(|entity| replica.entity_key(tenant, entity)).collect();
        let mut named: Vec<EntityKey> = keys.iter().flatten().cloned().collect();
        let (mut pace, mut bytes) = (Pace::default(), 0);
        let mut found: Vec<Result<Entity>> = Vec::with_capacity(named.len());
        while !named.is_empty() && bytes <= replica.limits().answer_bytes {
            let some = pace.take(&mut named);
            let states = self.states_anew(&some, Extent::of(mask), consistency, deadline).await;
            pace.note(states.iter().flatten());
            let entities = self.0.entities(some, states, mask).await;
            bytes += entities.iter().flatten().map(Entity::bytes).sum::<usize>();
            found.extend(entities);
        }
        let mut found = found.into_iter();
        let rest = || {
            replica.check_answer(bytes)?;
            Err(Error::Internal("fewer entities were read than were asked for".to_owned()))
        };
        keys.into_iter().map(|key| key.and_then(|_| found.next().unwrap_or_else(rest))).collect()
    }
}

impl Ring {
    /// An entity as so many replicas hold it together as the consistency needs; as more of them do if that is older than a version that the
    /// caller has seen.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no replica that answers has that version.
    pub async fn get_since(
        &self,
        tenant: TenantId,
        entity: &EntityRef,
        mask: &ReadMask,
        (consistency, version): (Consistency, Version),
        deadline: Deadline,
    ) -> Result<Entity> {
        let key = self.replica().entity_key(tenant, entity)?;
        let levels = [Consistency::One, Consistency::Quorum, Consistency::All];
        for level in levels.into_iter().filter(|level| *level >= consistency) {
            let read =
                self.states_anew(std::slice::from_ref(&key), Extent::of(mask), level, deadline).await.pop();
            let missing = || Error::Internal("an entity was given no answer".to_owned());
            let state = read.unwrap_or_else(|| Err(missing()))?;
            if state.highest_version() >= version {
                // What this node plans from now on is newer.
                self.0.served.check_ahead(state.highest_version())?;
                self.replica().observe(&state);
                return self.replica().entity_of(&key, &state, mask);
            }
        }
        Err(Error::Unavailable(format!(
            "no replica has version {version:?} of {:?}, or a newer one",
            entity.id
        )))
    }
}

impl Ring {
    /// What replicas hold of entities, merged; read again, if too few answered, when the ring goes by another topology meanwhile.
    async fn states_anew(
        &self,
        entities: &[EntityKey],
        extent: Extent,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Vec<Result<EntityState>> {
        let mut ring = self.now();
        loop {
            let states = ring.0.states(entities.to_vec(), extent, consistency, deadline).await;
            let is_missing = states.iter().any(|state| matches!(state, Err(Error::Unavailable(_))));
            if !is_missing || !ring.is_outdated() || deadline.has_passed() {
                return states;
            }
            ring = ring.now();
        }
    }
}

/// How many entities are read at a time: as many as are of some megabytes together, going by those that were read before.
#[derive(Debug, Default)]
pub(super) struct Pace {
    entities: usize,
    bytes: usize,
}

impl Pace {
    /// The next ones.
    pub(super) fn take(&self, of: &mut Vec<EntityKey>) -> Vec<EntityKey> {
        let most = match self.entities {
            0 => FIRST,
            entities => (BATCH_BYTES / (self.bytes / entities).max(1)).clamp(1, BATCH),
        };
        let rest = of.split_off(most.min(of.len()));
        std::mem::replace(of, rest)
    }

    /// Takes note of what was read.
    pub(super) fn note<'s>(&mut self, states: impl Iterator<Item = &'s EntityState>) {
        for state in states {
            self.entities += 1;
            self.bytes += state.bytes();
        }
    }
}

impl Inner {
    /// The entities that states are of, or why they could not be read.
    async fn entities(
        &self,
        keys: Vec<EntityKey>,
        states: Vec<Result<EntityState>>,
        mask: &ReadMask,
    ) -> Vec<Result<Entity>> {
        let count = keys.len();
        let bytes: usize = states.iter().flatten().map(EntityState::bytes).sum();
        let entities = {
            let mask = mask.clone();
            move |replica: &Replica| {
                let entity =
                    |(key, state): (EntityKey, Result<EntityState>)| replica.entity_of(&key, &state?, &mask);
                keys.into_iter().zip(states).map(entity).collect::<Vec<_>>()
            }
        };
        if bytes <= SMALL_BYTES {
            return entities(&self.served.replica);
        }
        let entities = self.here(move |served| Ok(entities(&served.replica))).await;
        entities.unwrap_or_else(|error| vec![Err(error); count])
    }
}

impl Inner {
    /// What replicas hold of entities, merged.
    pub(super) async fn states(
        self: &Arc<Self>,
        entities: Vec<EntityKey>,
        extent: Extent,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Vec<Result<EntityState>> {
        let read = self.read(entities, extent, consistency, deadline).await.into_iter();
        read.map(|read| read.map(|(state, _)| state)).collect()
    }

    /// The same, with whether replicas did not agree; what so many as the consistency needs have then. Each is answered by itself, but those whose
    /// replicas are the same stand and fall together.
    pub(super) async fn read(
        self: &Arc<Self>,
        entities: Vec<EntityKey>,
        extent: Extent,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Vec<Result<(EntityState, bool)>> {
        let of = |entity: EntityKey| {
            let quorum = self.readers(entity.partition(), consistency);
            (entity, quorum)
        };
        self.read_from(entities.into_iter().map(of).collect(), extent, deadline).await
    }

    /// The same, of each from so many of some nodes.
    pub(super) async fn read_from(
        self: &Arc<Self>,
        entities: Vec<(EntityKey, Quorum)>,
        extent: Extent,
        deadline: Deadline,
    ) -> Vec<Result<(EntityState, bool)>> {
        self.read_as(entities, extent, false, deadline).await
    }

    /// The same, where this node is one of them though it has no say: so it comes to hold what the others do.
    pub(super) async fn read_to_hold(
        self: &Arc<Self>,
        entities: Vec<(EntityKey, Quorum)>,
        extent: Extent,
        deadline: Deadline,
    ) -> Vec<Result<(EntityState, bool)>> {
        self.read_as(entities, extent, true, deadline).await
    }

    async fn read_as(
        self: &Arc<Self>,
        entities: Vec<(EntityKey, Quorum)>,
        extent: Extent,
        heals: bool,
        deadline: Deadline,
    ) -> Vec<Result<(EntityState, bool)>> {
        let count = entities.len();
        if deadline.check().is_err() {
            return vec![Err(Error::DeadlineExceeded); count];
        }
        let mut groups: BTreeMap<Quorum, Group> = BTreeMap::new();
        for (place, (entity, quorum)) in entities.into_iter().enumerate() {
            groups.entry(quorum).or_default().push((place, entity));
        }
        let mut reads = JoinSet::new();
        let some = |(of, mut group): (Quorum, Group)| {
            let mut batches = Vec::new();
            while !group.is_empty() {
                batches.push((of.clone(), group.drain(..group.len().min(BATCH)).collect::<Group>()));
            }
            batches
        };
        for (quorum, group) in groups.into_iter().flat_map(some) {
            let (places, named): (Vec<usize>, Vec<EntityKey>) = group.into_iter().unzip();
            let inner = Arc::clone(self);
            let read = async move {
                let read_at = inner.served.replica.purged();
                let entities = named.into();
                let read = GroupRead { inner, quorum, entities, extent, deadline, read_at, heals };
                (places, read.run().await)
            };
            reads.spawn(read.in_current_call());
        }
        let ended = || Err(Error::Internal("a read broke off".to_owned()));
        let mut states: Vec<Result<(EntityState, bool)>> =
            std::iter::repeat_with(ended).take(count).collect();
        while let Some(done) = reads.join_next().await {
            // Its entities are told that it broke off.
            let Ok((places, found)) = done else { continue };
            let found = match found {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); places.len()],
            };
            for (place, state) in places.into_iter().zip(found) {
                if let Some(slot) = states.get_mut(place) {
                    *slot = state;
                }
            }
        }
        states
    }
}

impl Inner {
    /// In which order nodes are asked that hold the same, from the end: those that are soon to answer first, this one before others, and each node
    /// in an order of its own.
    pub(super) fn order(&self, replicas: &[NodeId]) -> Vec<NodeId> {
        let (here, peers) = (self.served.node, &self.served.peers);
        let is_last = |node: &NodeId| peers.is_paused(*node) || self.unrepaired.has(*node);
        let mut order = replicas.to_vec();
        let slowness = |node: &NodeId| peers.slowness(*node);
        order.sort_by_cached_key(|node| {
            Reverse((is_last(node), slowness(node), node.0.wrapping_sub(here.0), *node))
        });
        order
    }
}

/// A read of entities that have the same replicas.
#[derive(Clone)]
pub(super) struct GroupRead {
    pub(super) inner: Arc<Inner>,
    pub(super) quorum: Quorum,
    pub(super) entities: Arc<[EntityKey]>,
    pub(super) extent: Extent,
    pub(super) deadline: Deadline,
    /// What was known to be purged when it began.
    pub(super) read_at: Version,
    /// Whether this node is asked whether or not it has a say.
    pub(super) heals: bool,
}

impl GroupRead {
    #[instrument(
        name = "read",
        level = "debug",
        skip_all,
        fields(entities = self.entities.len(), needed = self.quorum.needed())
    )]
    async fn run(mut self) -> Result<Vec<(EntityState, bool)>> {
        loop {
            let read = self.read_once().await;
            let purged = self.inner.served.replica.purged();
            // What others lack is not taken from before deletions were forgotten. That is seldom.
            if read.is_ok() || purged == self.read_at {
                return read;
            }
            self.read_at = purged;
        }
    }

    async fn read_once(&self) -> Result<Vec<(EntityState, bool)>> {
        let told = self.ask().await?;
        let full = told.iter().find_map(|(_, told)| match told {
            Told::States(states) => Some(states.clone()),
            Told::Digests(_) => None,
        });
        let mut merged = full.ok_or_else(|| Error::Internal("nobody was asked for states".to_owned()))?;
        // What lies here itself may be from when this node's clock was wrong.
        let served = &self.inner.served;
        let is_sound = |state: &&EntityState| served.check_ahead(state.highest_version()).is_ok();
        merged.iter().filter(is_sound).for_each(|state| served.replica.observe(state));
        let digests: Vec<u128> = merged.iter().map(EntityState::digest).collect();
        let differs = |at: usize| {
            told.iter().any(|(_, told)| match told {
                Told::States(states) => states.get(at).map(EntityState::digest) != digests.get(at).copied(),
                Told::Digests(theirs) => theirs.get(at) != digests.get(at),
            })
        };
        let disputed: Vec<bool> = (0..self.entities.len()).map(differs).collect();
        if disputed.contains(&true) {
            let count = disputed.iter().filter(|is_disputed| **is_disputed).count();
            add(&served.counters.reads_disputed, count);
            self.repair(&mut merged, &disputed, told).await?;
        }
        Ok(merged.into_iter().zip(disputed).collect())
    }

    /// The replicas, this node first if it is one, then those that follow it, so that nodes do not all ask the same; last those that do not
    /// answer lately. From the end.
    pub(super) fn order(&self) -> Vec<NodeId> {
        self.inner.order(&self.quorum.nodes())
    }

    /// Asks as many replicas as must answer: the first for states, the others for digests. Whenever one fails, or lets wait, another is asked,
    /// too.
    async fn ask(&self) -> Result<Vec<(NodeId, Told)>> {
        let (mut left, needed) = (self.order(), self.quorum.needed());
        let mut asked = JoinSet::new();
        // Of whom it is not known yet that they do not answer.
        let mut hoped: Vec<NodeId> = Vec::new();
        let mut ask = |asked: &mut JoinSet<_>, hoped: &mut Vec<NodeId>, digests: bool| {
            // Who helps; to be in a hurry, anybody.
            let helps = left.iter().rposition(|node| self.quorum.is_helped(hoped, *node));
            let Some(at) = helps.or(left.len().checked_sub(1)) else { return false };
            let node = left.remove(at);
            hoped.push(node);
            let read = self.clone();
            let one = async move {
                let start = Instant::now();
                let told = read.one(node, read.entities.clone(), digests).await;
                if told.is_ok() {
                    read.inner.latency.record(start.elapsed());
                }
                (node, told)
            };
            asked.spawn(one.in_current_call());
            true
        };
        let mut is_first = true;
        while !self.quorum.is_met(&hoped) && ask(&mut asked, &mut hoped, !is_first) {
            is_first = false;
        }
        let mut told: Vec<(NodeId, Told)> = Vec::new();
        let mut last_error = None;
        loop {
            let has_states = told.iter().any(|(_, told)| matches!(told, Told::States(_)));
            let answered: Vec<NodeId> = told.iter().map(|(node, _)| *node).collect();
            let is_enough = self.quorum.is_met(&answered);
            if is_enough && has_states {
                return Ok(told);
            }
            tokio::select! {
                biased;
                done = asked.join_next() => match done {
                    Some(Ok((node, Ok(answer)))) => told.push((node, answer)),
                    Some(Ok((node, Err(error)))) => {
                        last_error = Some(error);
                        hoped.retain(|hoped| *hoped != node);
                        ask(&mut asked, &mut hoped, false);
                    }
                    Some(Err(error)) => return Err(Error::Internal(format!("a read ended: {error}"))),
                    None => {
                        // Who told its digests alone tells the rest.
                        let (true, Some((node, _))) = (is_enough, told.first()) else {
                            return Err(too_few(told.len(), needed, last_error));
                        };
                        let (node, read) = (*node, self.clone());
                        told.retain(|(other, _)| *other != node);
                        let one = async move { (node, read.one(node, read.entities.clone(), false).await) };
                        asked.spawn(one.in_current_call());
                    }
                },
                () = sleep(self.inner.hedge_after()) => {
                    if ask(&mut asked, &mut hoped, false) {
                        count(&self.inner.served.counters.reads_hedged);
                    }
                }
            }
        }
    }

    /// How long a replica may take. With edges it may have much to do.
    pub(super) fn patience(&self) -> Duration {
        let usual = self.inner.served.call_timeout;
        if self.extent.edges { usual.max(LONG) } else { usual }
    }

    /// What one replica says.
    pub(super) async fn one(&self, node: NodeId, entities: Arc<[EntityKey]>, digests: bool) -> Result<Told> {
        if node == self.inner.served.node {
            let (extent, heals) = (self.extent, self.heals);
            let held = move |served: &Served| {
                if !heals {
                    served.check_sound(entities.iter().map(EntityKey::partition))?;
                }
                served.replica.held(&entities, extent)
            };
            let states = self.inner.here_as_of(held).await?;
            return Ok(Told::States(states));
        }
        let wrong = |why: &str| Error::Unavailable(format!("node {node} answered {why}"));
        let mut told: Vec<Bytes> = Vec::with_capacity(entities.len());
        // It tells as many as fit.
        while let Some(rest) = entities.get(told.len()..).filter(|rest| !rest.is_empty()) {
            let named = rest.iter().map(|entity| entity.encode().into()).collect();
            let Extent { contents, edges } = self.extent;
            let request = ReadRequest { fence: None, entities: named, contents, edges, digests };
            let ask = |mut peer: Client, fence| {
                let request = ReadRequest { fence, ..request.clone() };
                async move { peer.read(request).await }
            };
            let reply = self.inner.served.call_within(self.patience(), node, self.deadline, ask).await?;
            if reply.states.is_empty() || reply.states.len() > rest.len() {
                return Err(wrong("something else than it was asked"));
            }
            told.extend(reply.states);
        }
        if digests {
            let digest = |bytes: &Bytes| bytes[..].try_into().map(u128::from_be_bytes);
            let digests: Result<_, _> = told.iter().map(digest).collect();
            return digests.map(Told::Digests).map_err(|_| wrong("a digest that is none"));
        }
        let is_small = told.iter().map(Bytes::len).sum::<usize>() <= SMALL_BYTES;
        let decode = move || told.iter().map(|state| EntityState::decode(state)).collect::<Result<_, _>>();
        let states: Result<Vec<EntityState>, _> = match is_small {
            true => decode(),
            false => self.inner.here(move |_| Ok(decode())).await?,
        };
        let states = states.map_err(|error| wrong(&format!("a state that cannot be read: {error}")))?;
        let highest = states.iter().map(EntityState::highest_version).max().unwrap_or_default();
        self.inner.served.check_ahead(highest)?;
        Ok(Told::States(states))
    }
}

/// Not as many replicas as must be.
pub(super) fn too_few(answered: usize, needed: usize, why: Option<Error>) -> Error {
    match why {
        // What the caller can do about it is another thing than if they were away.
        Some(error @ (Error::DeadlineExceeded | Error::Exhausted(_))) => error,
        Some(error) => Error::Unavailable(format!("{answered} of {needed} replicas answered; {error}")),
        None => Error::Unavailable(format!("{answered} of {needed} replicas answered")),
    }
}
