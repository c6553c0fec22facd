//! Taking over what another layout says is to be held here (ADR 0029).
//!
//! Of each partition a node compares what it holds with so many replicas by the present layout that one of them has heard of whatever was
//! acknowledged, or told, before this phase began: they answer only under its topology, and take nothing under an older one any more. Whoever holds
//! the partition already is one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allidb_index::{
    AcceptorsRequest, Deadline, EntityKey, EntityState, Error, HoldingsRequest, Replica, Result, TreeAnswer,
    TreeRequest, Version, model::TenantId,
};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Inner, Repaired, Ring, Terms,
    anti_entropy::{Compared, PATIENCE, Pair},
    copy::Copying,
    wrong::Wrong,
};
use crate::{
    coordinator::Consistency,
    layout::NodeId,
    peer::{Served, proto::TakenOverReply},
};

/// Partitions that are compared with one node at a time.
const PARTITIONS_AT_A_TIME: usize = 16;
/// A partition is fetched as a whole if so many of the 64 branches of its tree differ: naming what does would cost more than telling all.
const FETCHED_BRANCHES: usize = 16;
/// Partitions that are fetched at a time: while one node reads, the other one writes.
const FETCHED_AT_A_TIME: usize = 4;

/// How far a node is with taking over what it is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakeoverCounts {
    /// Whether it has taken over everything.
    pub is_done: bool,
    /// Partitions that it is to hold.
    pub partitions: u32,
    /// Those of which it has taken over everything.
    pub done: u32,
    /// Entities that it was told, or told others.
    pub entities: u64,
    /// Bytes of another node's disk that it has copied, to begin with.
    pub copied_bytes: u64,
    /// How many there are; 0 if it copies none.
    pub copy_bytes: u64,
    /// Why it does not get on, if it does not.
    pub failure: String,
}

impl From<TakenOverReply> for TakeoverCounts {
    fn from(reply: TakenOverReply) -> Self {
        let TakenOverReply {
            is_done,
            partitions,
            done,
            entities,
            failure,
            copied_bytes,
            copy_bytes,
            leftovers: _,
        } = reply;
        Self { is_done, partitions, done, entities, copied_bytes, copy_bytes, failure }
    }
}

/// How far this node is with it.
#[derive(Default)]
pub(crate) struct TakingOver(Mutex<State>);

#[derive(Default)]
struct State {
    epoch: u64,
    partitions: BTreeSet<u16>,
    done: BTreeSet<u16>,
    entities: u64,
    copying: Copying,
    failure: String,
}

/// Some of what another node holds.
struct Page {
    states: Vec<(EntityKey, Vec<u8>)>,
    /// What was known to be purged before it was read.
    read_at: Version,
}

impl State {
    fn is_done(&self) -> bool {
        self.partitions.is_subset(&self.done)
    }
}

impl TakingOver {
    /// What is left of these in an epoch.
    fn begin(&self, epoch: u64, partitions: Vec<u16>) -> Vec<u16> {
        let mut state = self.0.lock();
        if state.epoch != epoch {
            let partitions = partitions.into_iter().collect();
            *state = State { epoch, partitions, ..State::default() };
        }
        state.partitions.difference(&state.done).copied().collect()
    }

    fn note(&self, epoch: u64, note: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        if state.epoch == epoch {
            note(&mut state);
        }
    }

    /// How far it is with a copy in an epoch, if that is the one it goes by.
    pub(super) fn copying<T>(&self, epoch: u64, of: impl FnOnce(&mut Copying) -> T) -> Option<T> {
        let mut state = self.0.lock();
        (state.epoch == epoch).then(|| of(&mut state.copying))
    }

    pub(crate) fn reply(&self, epoch: u64) -> TakenOverReply {
        let state = self.0.lock();
        if state.epoch != epoch {
            return TakenOverReply::default();
        }
        let count = |partitions: &BTreeSet<u16>| u32::try_from(partitions.len()).unwrap_or(u32::MAX);
        TakenOverReply {
            is_done: state.is_done(),
            partitions: count(&state.partitions),
            done: count(&state.done),
            entities: state.entities,
            failure: state.failure.clone(),
            leftovers: Vec::new(),
            copied_bytes: state.copying.copied_bytes,
            copy_bytes: state.copying.bytes,
        }
    }
}

impl Served {
    /// How far this node is with taking over what it is to hold, and what it has to let go of.
    pub(crate) fn taken_over(&self) -> TakenOverReply {
        let leftovers = self.replica.leftovers().into_iter().map(u32::from).collect();
        let reply = self.taking_over.reply(self.topology.epoch());
        // What it had taken over may have been damaged.
        let is_done = reply.is_done && self.replica.healing().is_empty();
        TakenOverReply { leftovers, is_done, ..reply }
    }
}

impl Ring {
    /// How far this node is with taking over what it is to hold.
    pub fn takeover(&self) -> TakeoverCounts {
        self.0.served.taking_over.reply(self.topology().epoch()).into()
    }

    /// Takes over what this node is to hold by the layout to come, as far as it has not in this phase.
    ///
    /// # Errors
    /// If too few of those that hold it answer. What was taken over until then need not be again.
    pub(super) async fn take_over(&self, deadline: Deadline) -> Result<()> {
        let (inner, epoch) = (&self.0, self.topology().epoch());
        let taking_over = &inner.served.taking_over;
        let left = taking_over.begin(epoch, self.topology().to_take_over(self.node()));
        if left.is_empty() {
            return Ok(());
        }
        let taken = match inner.begin_with_copy(deadline).await {
            Ok(()) => inner.take_over(left, deadline).await,
            Err(error) => Err(error),
        };
        let failure = taken.as_ref().err().map(ToString::to_string).unwrap_or_default();
        taking_over.note(epoch, |state| state.failure = failure);
        taken
    }
}

impl Ring {
    /// Removes what this node holds no more.
    ///
    /// # Errors
    /// If it cannot be removed; what was until then is gone.
    pub(super) async fn let_go(&self) -> Result<()> {
        for partition in self.replica().leftovers() {
            // Another topology may have this node hold it again.
            let alone = Arc::clone(&self.0.served.letting_go).lock_owned().await;
            let is_left = !self.now().topology().holds(self.node(), partition);
            if is_left {
                let let_go = move |replica: &Replica| {
                    let _alone = alone;
                    replica.let_go_of(partition)
                };
                let removed = self.tend(let_go).await?;
                tracing::info!(partition, removed, "removed what others hold now");
            }
        }
        Ok(())
    }
}

/// With whom partitions were compared, and who could not be.
#[derive(Default)]
struct Asked {
    compared: BTreeMap<u16, BTreeSet<NodeId>>,
    failed: BTreeMap<NodeId, Error>,
}

impl Inner {
    /// Whom to compare a partition with besides: those that are soon to answer first. So many that all of them together are enough.
    ///
    /// # Errors
    /// If there are too few of whom it is not known that they cannot be.
    fn sources(&self, partition: u16, asked: &Asked) -> Result<Vec<NodeId>> {
        let replicas = self.served.topology.layout().replicas(partition);
        let holds = usize::from(replicas.contains(&self.served.node));
        let compared = asked.compared.get(&partition);
        let done = compared.map_or(0, BTreeSet::len);
        let needed = (Consistency::Quorum.needed(replicas.len()) - holds).saturating_sub(done);
        let is_left = |node: &NodeId| {
            *node != self.served.node
                && !compared.is_some_and(|compared| compared.contains(node))
                && !asked.failed.contains_key(node)
        };
        let mut order = self.order(replicas);
        order.retain(is_left);
        order.reverse();
        order.truncate(needed);
        if order.len() == needed {
            return Ok(order);
        }
        let why = replicas.iter().find_map(|node| asked.failed.get(node)).map(ToString::to_string);
        Err(Error::Unavailable(format!(
            "too few replicas of partition {partition} can be compared with: {}",
            why.unwrap_or_else(|| "there are too few".to_owned())
        )))
    }

    async fn take_over(self: &Arc<Self>, left: Vec<u16>, deadline: Deadline) -> Result<()> {
        let (served, epoch) = (&self.served, self.served.topology.epoch());
        let (mut left, mut asked) = (BTreeSet::from_iter(left), Asked::default());
        // Where one does not do as it is asked, there may be another one.
        loop {
            let mut by_source: BTreeMap<NodeId, Vec<u16>> = BTreeMap::new();
            let (mut done, mut why) = (Vec::new(), None);
            for partition in &left {
                match self.sources(*partition, &asked) {
                    Ok(sources) if sources.is_empty() => done.push(*partition),
                    Ok(sources) => sources
                        .into_iter()
                        .for_each(|source| by_source.entry(source).or_default().push(*partition)),
                    // What can be is taken over all the same.
                    Err(error) => why = Some(error),
                }
            }
            left.retain(|partition| !done.contains(partition));
            served.taking_over.note(epoch, |state| state.done.extend(done));
            if by_source.is_empty() {
                return why.map_or(Ok(()), Err);
            }
            for (source, partitions) in by_source {
                for partitions in partitions.chunks(PARTITIONS_AT_A_TIME) {
                    if let Err(error) = self.take_over_from(source, partitions, deadline).await {
                        served.check_current()?;
                        deadline.check()?;
                        tracing::debug!(%source, %error, "partitions are not taken over from a node; another one is asked");
                        asked.failed.insert(source, error);
                        break;
                    }
                    for partition in partitions {
                        let compared = asked.compared.entry(*partition).or_default();
                        compared.insert(source);
                    }
                    let is_done = |partition: &&u16| {
                        self.sources(**partition, &asked).is_ok_and(|sources| sources.is_empty())
                    };
                    let done: Vec<u16> = partitions.iter().filter(is_done).copied().collect();
                    served.taking_over.note(epoch, |state| state.done.extend(done));
                }
            }
        }
    }

    pub(super) async fn take_over_from(
        self: &Arc<Self>,
        source: NodeId,
        partitions: &[u16],
        deadline: Deadline,
    ) -> Result<()> {
        let nodes = [self.served.node, source];
        let is_empty = self.is_to_join() && !self.began_with_copy()?;
        self.follow_watermarks(source, is_empty, deadline).await?;
        self.fetch(nodes, partitions, deadline).await?;
        // Also what says that something is gone, be it that one of both has forgotten that: it does so again.
        let (mut before, epoch) = (0, self.served.topology.epoch());
        let progress = |done: &Repaired| {
            let more = done.repaired - std::mem::replace(&mut before, done.repaired);
            self.served.taking_over.note(epoch, |state| state.entities += more);
        };
        let what = (partitions.to_vec(), Compared::Everything);
        let Repaired { failed, .. } = self.make_alike(nodes, what, deadline, progress).await?;
        if failed > 0 {
            let why = format!("{failed} entities of node {source} cannot be taken over");
            return Err(Error::Unavailable(why));
        }
        if self.is_wrong(Wrong::NoAcceptors) {
            return Ok(());
        }
        self.take_over_acceptors(source, partitions, deadline).await
    }

    /// Takes over all that another node holds of partitions of which most is something else here. Whether it was everything, and what is missing
    /// of the others, trees tell.
    async fn fetch(
        self: &Arc<Self>,
        nodes: [NodeId; 2],
        partitions: &[u16],
        deadline: Deadline,
    ) -> Result<()> {
        let [_, source] = nodes;
        let pair = Pair { nodes, compared: Compared::Everything, deadline };
        let differing = self.differing(pair, &TreeRequest::Roots(partitions.to_vec())).await?;
        let mut fetched = Vec::new();
        for partition in differing.into_iter().filter_map(|at| partitions.get(at)) {
            if self.differing(pair, &TreeRequest::Branches(*partition)).await?.len() >= FETCHED_BRANCHES {
                fetched.push(*partition);
            }
        }
        let fetches = !fetched.is_empty();
        let mut left = fetched.into_iter();
        let mut fetching = JoinSet::new();
        loop {
            while fetching.len() < FETCHED_AT_A_TIME
                && let Some(partition) = left.next()
            {
                let inner = Arc::clone(self);
                fetching.spawn(async move { inner.fetch_one(source, partition, deadline).await });
            }
            match fetching.join_next().await {
                Some(Ok(fetched)) => fetched?,
                Some(Err(error)) => return Err(Error::Internal(format!("a takeover broke off: {error}"))),
                None => break,
            }
        }
        match fetches {
            true => self.here(|served| served.replica.sync()).await,
            false => Ok(()),
        }
    }

    async fn fetch_one(self: Arc<Self>, source: NodeId, partition: u16, deadline: Deadline) -> Result<()> {
        let epoch = self.served.topology.epoch();
        let mut page = self.held_at(source, partition, None, deadline).await?;
        while let Some((last, _)) = page.states.last() {
            let after = Some(last.clone());
            let Page { states, read_at } = page;
            let (count, bytes) = (states.len() as u64, states.iter().map(|(_, state)| state.len()).sum());
            let absorb = move |served: &Served| {
                let garbled = |error| Error::Unavailable(format!("a state cannot be read: {error}"));
                let state = |(entity, state): (EntityKey, Vec<u8>)| {
                    Ok((entity, EntityState::decode(&state).map_err(garbled)?))
                };
                let states = states.into_iter().map(state).collect::<Result<Vec<_>>>()?;
                let highest = states.iter().map(|(_, state)| state.highest_version()).max();
                served.check_ahead(highest.unwrap_or_default())?;
                served.absorb_for_now(states, read_at)
            };
            // While this node writes a page, the other one reads the next.
            let next = async {
                sleep(self.moving.delay(bytes, Instant::now().into_std()).min(deadline.remaining())).await;
                self.held_at(source, partition, after, deadline).await
            };
            let (absorbed, next) = tokio::join!(self.here_as_of(absorb), next);
            absorbed?;
            self.served.taking_over.note(epoch, |state| state.entities += count);
            page = next?;
        }
        Ok(())
    }

    /// What comes after an entity of what another node holds of a partition.
    async fn held_at(
        self: &Arc<Self>,
        source: NodeId,
        partition: u16,
        after: Option<EntityKey>,
        deadline: Deadline,
    ) -> Result<Page> {
        let read_at = self.served.replica.purged();
        let request = HoldingsRequest { partition, after, leaves: None };
        let states = Arc::clone(self).answer_within(PATIENCE, source, request, terms(deadline)).await?;
        Ok(Page { states, read_at })
    }

    /// Takes nothing any more that another node takes no more. Who holds nothing yet has nothing that would have to be forgotten, as that node did.
    async fn follow_watermarks(
        self: &Arc<Self>,
        source: NodeId,
        is_empty: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let terms = terms(deadline);
        let told = Arc::clone(self).answer_within(PATIENCE, source, TreeRequest::Swept, terms).await?;
        let TreeAnswer::Swept { upto, closed, .. } = told else { return Ok(()) };
        let follow = move |served: &Served| {
            served.replica.close_up_to(closed)?;
            if !is_empty {
                return Ok(());
            }
            served.replica.purge_up_to(upto, None)?;
            served.replica.begin_empty()
        };
        self.here_as_of(follow).await
    }

    /// Takes over what another node's acceptors of some partitions have promised and accepted.
    async fn take_over_acceptors(
        self: &Arc<Self>,
        source: NodeId,
        partitions: &[u16],
        deadline: Deadline,
    ) -> Result<()> {
        let terms = terms(deadline);
        let mut after = None;
        loop {
            let request = AcceptorsRequest { partitions: partitions.to_vec(), after };
            let told = Arc::clone(self).answer_within(PATIENCE, source, request, terms).await?;
            let Some((last, _)) = told.last() else { return Ok(()) };
            after = Some(last.clone());
            self.here_as_of(move |served| served.replica.absorb_acceptors(&told)).await?;
        }
    }
}

fn terms(deadline: Deadline) -> Terms {
    Terms { tenant: TenantId::DEFAULT, consistency: Consistency::One, deadline, may_be_partial: false }
}
