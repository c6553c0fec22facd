//! Read repair: who reads after a read reads nothing older.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{Deadline, EntityKey, EntityState, Error, Extent, Result, Version};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Inner,
    counts::add,
    read::{GroupRead, Told, too_few},
    wrong::Wrong,
};
use crate::{
    asker::OnBehalf,
    layout::NodeId,
    peer::{Client, Served, proto::AbsorbRequest},
};

/// How long a replica that did not take a repair is asked after others.
const AVOIDED: Duration = Duration::from_secs(5);

/// Bytes of states that are sent at once, unless one alone is larger.
const BATCH_BYTES: usize = 4 << 20;

/// Replicas that did not take a repair lately, as their disk may be full: what they tell is behind, so others are asked before them.
#[derive(Debug, Default)]
pub(super) struct Unrepaired(Mutex<BTreeMap<NodeId, Instant>>);

impl Unrepaired {
    /// Whether a node is one of them.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.0.lock().get(&node).is_some_and(|since| since.elapsed() < AVOIDED)
    }

    fn note(&self, node: NodeId, is_repaired: bool) {
        let mut since = self.0.lock();
        match is_repaired {
            true => drop(since.remove(&node)),
            false => drop(since.insert(node, Instant::now())),
        }
    }
}

impl GroupRead {
    /// Merges what replicas hold of the entities on which they differ, and has as many hold it as are needed, before anybody is told. Those
    /// that were asked beyond them are told, too, without waiting for it.
    pub(super) async fn repair(
        &self,
        merged: &mut [EntityState],
        disputed: &[bool],
        told: Vec<(NodeId, Told)>,
    ) -> Result<()> {
        let named = self.entities.iter().zip(disputed).filter(|(_, is_disputed)| **is_disputed);
        let named: Arc<[EntityKey]> = named.map(|(entity, _)| entity.clone()).collect();
        let held = self.whole(&named, disputed, told).await?;
        let places = disputed.iter().enumerate().filter(|(_, is_disputed)| **is_disputed);
        let mut agreed: Vec<(EntityKey, EntityState)> = Vec::with_capacity(named.len());
        for ((nth, entity), (place, _)) in named.iter().enumerate().zip(places) {
            let states = held.iter().filter_map(|(_, states)| states.get(nth).cloned());
            let state = states.reduce(EntityState::merge).unwrap_or_default();
            if let Some(slot) = merged.get_mut(place) {
                *slot = state.clone();
            }
            agreed.push((entity.clone(), state));
        }
        let lacks = |states: &[EntityState]| -> Vec<(EntityKey, EntityState)> {
            let agreed = agreed.iter().zip(states).filter(|((_, agreed), state)| agreed != *state);
            agreed.map(|(agreed, _)| agreed.clone()).collect()
        };
        if self.inner.is_wrong(Wrong::NoReadRepair) {
            return Ok(());
        }
        let (mut alike, mut repairs): (Vec<NodeId>, _) = (Vec::new(), JoinSet::new());
        let tell = |repairs: &mut JoinSet<_>, node: NodeId, lacks: Vec<_>| {
            add(&self.inner.served.counters.reads_repaired, lacks.len());
            let read = self.clone();
            let telling = async move { read.tell(node, lacks).await.map(|()| node) };
            repairs.spawn(telling.in_current_call());
        };
        for (node, states) in &held {
            let lacks = lacks(states);
            if lacks.is_empty() {
                alike.push(*node);
            } else {
                tell(&mut repairs, *node, lacks);
            }
        }
        let mut others = self.order();
        others.retain(|node| held.iter().all(|(heard, _)| heard != node));
        let mut why = None;
        while !self.quorum.is_met(&alike) {
            match repairs.join_next().await {
                Some(Ok(Ok(node))) => alike.push(node),
                Some(failed) => {
                    why = Some(failed.map_or_else(broke_off, |told| told.err().unwrap_or_else(unexplained)));
                    if let Some(node) = others.pop() {
                        tell(&mut repairs, node, agreed.clone());
                    }
                }
                None => return Err(too_few(alike.len(), self.quorum.needed(), why)),
            }
        }
        repairs.detach_all();
        Ok(())
    }

    /// What replicas hold of entities, with chunks and vectors: a row without them would hide those that are there, and bring none. As many
    /// replicas as are needed; of those that told it already it is not asked again.
    async fn whole(
        &self,
        named: &Arc<[EntityKey]>,
        disputed: &[bool],
        told: Vec<(NodeId, Told)>,
    ) -> Result<Vec<(NodeId, Vec<EntityState>)>> {
        let mut held: Vec<(NodeId, Vec<EntityState>)> = Vec::new();
        let mut asked = JoinSet::new();
        let whole = Self { extent: Extent { contents: true, ..self.extent }, ..self.clone() };
        let ask = |asked: &mut JoinSet<_>, node: NodeId| {
            let (read, named) = (whole.clone(), Arc::clone(named));
            let one = async move { (node, read.one(node, named, false).await) };
            asked.spawn(one.in_current_call());
        };
        let mut others = self.order();
        for (node, told) in told {
            others.retain(|other| *other != node);
            match told {
                Told::States(states) if self.extent.contents => {
                    let states = states.into_iter().zip(disputed).filter(|(_, is_disputed)| **is_disputed);
                    held.push((node, states.map(|(state, _)| state).collect()));
                }
                _ => ask(&mut asked, node),
            }
        }
        let mut why = None;
        loop {
            let who: Vec<NodeId> = held.iter().map(|(node, _)| *node).collect();
            if self.quorum.is_met(&who) {
                return Ok(held);
            }
            tokio::select! {
                biased;
                done = asked.join_next() => match done {
                    Some(Ok((node, Ok(Told::States(states))))) => held.push((node, states)),
                    Some(failed) => {
                        let told = |(_, told): (NodeId, Result<Told>)| told.err().unwrap_or_else(unexplained);
                        why = Some(failed.map_or_else(broke_off, told));
                        others.pop().into_iter().for_each(|node| ask(&mut asked, node));
                    }
                    None => return Err(too_few(held.len(), self.quorum.needed(), why)),
                },
                () = sleep(self.inner.hedge_after()) => {
                    others.pop().into_iter().for_each(|node| ask(&mut asked, node));
                }
            }
        }
    }

    /// Has a replica merge states.
    async fn tell(&self, node: NodeId, states: Vec<(EntityKey, EntityState)>) -> Result<()> {
        let told = self.have_absorbed(node, states).await;
        // That the caller is in a hurry, or this node has too much to do, tells nothing of it.
        if !matches!(told, Err(Error::DeadlineExceeded | Error::Exhausted(_))) {
            self.inner.unrepaired.note(node, told.is_ok());
        }
        told
    }

    async fn have_absorbed(&self, node: NodeId, states: Vec<(EntityKey, EntityState)>) -> Result<()> {
        let terms = (self.read_at, self.patience(), self.deadline);
        self.inner.have_absorbed(node, states, terms).await
    }
}

impl Inner {
    /// Has a replica merge states that were read when so much was purged; with each message it may take so long.
    pub(super) async fn have_absorbed(
        &self,
        node: NodeId,
        states: Vec<(EntityKey, EntityState)>,
        (read_at, patience, deadline): (Version, Duration, Deadline),
    ) -> Result<()> {
        if node == self.served.node {
            return self.here_as_of(move |served| served.absorb(states, read_at)).await;
        }
        let mut states = states.into_iter().peekable();
        while states.peek().is_some() {
            let read_at = read_at.to_bytes().to_vec().into();
            let mut request = AbsorbRequest { read_at, ..AbsorbRequest::default() };
            let mut bytes = 0;
            while bytes < BATCH_BYTES
                && let Some((entity, state)) = states.next()
            {
                let state = state.encode();
                bytes += state.len();
                request.entities.push(entity.encode().into());
                request.states.push(state.into());
            }
            let ask = |mut peer: Client, fence| {
                let request = AbsorbRequest { fence, ..request.clone() };
                async move { peer.absorb(request).await }
            };
            let reply = self.served.call_within(patience, node, deadline, ask).await?;
            if let Some(purged) = Version::from_bytes(&reply.purged) {
                let learn = move |served: &Served| served.replica.purge_up_to(purged, None);
                self.here(learn).await?;
                return Err(Error::Purged(purged));
            }
        }
        Ok(())
    }
}

fn broke_off(error: tokio::task::JoinError) -> Error {
    Error::Internal(format!("a repair broke off: {error}"))
}

fn unexplained() -> Error {
    Error::Internal("digests were told for states".to_owned())
}
