//! Reads of entities from several replicas.

use std::{collections::BTreeMap, sync::Arc};

use allidb_index::{
    Deadline, EntityKey, EntityState, Error, Extent, Result,
    model::{Entity, EntityRef, ReadMask, TenantId},
};
use bytes::Bytes;
use tokio::{task::JoinSet, time::sleep};

use super::{Inner, Ring, wrong::Wrong};
use crate::{
    coordinator::Consistency,
    layout::NodeId,
    peer::proto::{AbsorbRequest, ReadRequest},
};

/// What one replica says of some entities.
enum Told {
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
        let named: Vec<EntityKey> = keys.iter().flatten().cloned().collect();
        let states = match self.0.states(named, Extent::of(mask), consistency, deadline).await {
            Ok(states) => states,
            Err(error) => {
                return keys.into_iter().map(|key| Err(key.err().unwrap_or_else(|| error.clone()))).collect();
            }
        };
        let mut states = states.iter();
        let missing = || Error::Internal("fewer entities were read than were asked for".to_owned());
        let entity = |key: Result<EntityKey>| {
            let key = key?;
            replica.entity_of(&key, states.next().ok_or_else(missing)?, mask)
        };
        keys.into_iter().map(entity).collect()
    }
}

impl Inner {
    /// What replicas hold of entities, merged; what one of those that were asked lacked it has then.
    pub(super) async fn states(
        self: &Arc<Self>,
        entities: Vec<EntityKey>,
        extent: Extent,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Vec<EntityState>> {
        let mut groups: BTreeMap<&[NodeId], Vec<(usize, EntityKey)>> = BTreeMap::new();
        for (place, entity) in entities.into_iter().enumerate() {
            let replicas = self.served.layout.replicas(entity.partition());
            groups.entry(replicas).or_default().push((place, entity));
        }
        let mut reads = JoinSet::new();
        for (replicas, group) in groups {
            let (places, named): (Vec<usize>, Vec<EntityKey>) = group.into_iter().unzip();
            let (inner, replicas) = (Arc::clone(self), replicas.to_vec());
            reads.spawn(async move {
                let read = GroupRead { inner, replicas, entities: named.into(), extent, deadline };
                (places, read.run(consistency).await)
            });
        }
        let mut states: BTreeMap<usize, EntityState> = BTreeMap::new();
        while let Some(done) = reads.join_next().await {
            let (places, found) = done.map_err(|error| Error::Internal(format!("a read ended: {error}")))?;
            states.extend(places.into_iter().zip(found?));
        }
        Ok(states.into_values().collect())
    }
}

/// A read of entities that have the same replicas.
#[derive(Clone)]
struct GroupRead {
    inner: Arc<Inner>,
    replicas: Vec<NodeId>,
    entities: Arc<[EntityKey]>,
    extent: Extent,
    deadline: Deadline,
}

impl GroupRead {
    async fn run(self, consistency: Consistency) -> Result<Vec<EntityState>> {
        let needed = consistency.needed(self.replicas.len());
        let told = self.ask(needed).await?;
        let full = told.iter().find_map(|(_, told)| match told {
            Told::States(states) => Some(states.clone()),
            Told::Digests(_) => None,
        });
        let mut merged = full.ok_or_else(|| Error::Internal("nobody was asked for states".to_owned()))?;
        merged.iter().for_each(|state| self.inner.served.replica.observe(state));
        let digests: Vec<u128> = merged.iter().map(EntityState::digest).collect();
        let differs = |at: usize| {
            told.iter().any(|(_, told)| match told {
                Told::States(states) => states.get(at).map(EntityState::digest) != digests.get(at).copied(),
                Told::Digests(theirs) => theirs.get(at) != digests.get(at),
            })
        };
        let disputed: Vec<bool> = (0..self.entities.len()).map(differs).collect();
        if disputed.contains(&true) {
            self.repair(&mut merged, &disputed, told).await?;
        }
        Ok(merged)
    }

    /// Asks as many replicas as must answer, this node first if it is one: the first for states, the others for digests. Whenever one fails,
    /// or lets wait, another is asked, too.
    async fn ask(&self, needed: usize) -> Result<Vec<(NodeId, Told)>> {
        let here = self.inner.served.node;
        let mut left: Vec<NodeId> = self.replicas.clone();
        // From the end: this node, then those that follow it, so that nodes do not all ask the same.
        left.sort_by_key(|node| std::cmp::Reverse((node.0.wrapping_sub(here.0), *node)));
        let mut asked = JoinSet::new();
        let mut ask = |asked: &mut JoinSet<_>, digests: bool| {
            let Some(node) = left.pop() else { return false };
            let read = self.clone();
            asked.spawn(async move { (node, read.one(node, read.entities.clone(), digests).await) });
            true
        };
        for nth in 0..needed {
            ask(&mut asked, nth > 0);
        }
        let mut told: Vec<(NodeId, Told)> = Vec::new();
        let mut last_error = None;
        loop {
            let has_states = told.iter().any(|(_, told)| matches!(told, Told::States(_)));
            if told.len() >= needed && has_states {
                return Ok(told);
            }
            tokio::select! {
                biased;
                done = asked.join_next() => match done {
                    Some(Ok((node, Ok(answer)))) => told.push((node, answer)),
                    Some(Ok((_, Err(error)))) => {
                        last_error = Some(error);
                        ask(&mut asked, false);
                    }
                    Some(Err(error)) => return Err(Error::Internal(format!("a read ended: {error}"))),
                    None => {
                        // Who told its digests alone tells the rest.
                        let (true, Some((node, _))) = (told.len() >= needed, told.first()) else {
                            let why = last_error.map_or_else(String::new, |error: Error| format!("; {error}"));
                            let why = format!("{} of {needed} replicas answered{why}", told.len());
                            return Err(Error::Unavailable(why));
                        };
                        let (node, read) = (*node, self.clone());
                        told.retain(|(other, _)| *other != node);
                        asked.spawn(async move { (node, read.one(node, read.entities.clone(), false).await) });
                    }
                },
                () = sleep(self.inner.hedge_after) => {
                    ask(&mut asked, false);
                }
            }
        }
    }

    /// What one replica says.
    async fn one(&self, node: NodeId, entities: Arc<[EntityKey]>, digests: bool) -> Result<Told> {
        let Extent { contents, edges } = self.extent;
        if node == self.inner.served.node {
            let extent = self.extent;
            let states = self.inner.here(move |served| served.replica.held(&entities, extent)).await?;
            return Ok(Told::States(states));
        }
        let named = entities.iter().map(|entity| entity.encode().into()).collect();
        let request =
            ReadRequest { fence: self.inner.sent_fence(), entities: named, contents, edges, digests };
        let mut peer = self.inner.peers.get(node)?;
        let reply = self.inner.call(node, self.deadline, peer.read(request)).await?;
        let wrong = |why: &str| Error::Unavailable(format!("node {node} answered {why}"));
        if reply.states.len() != entities.len() {
            return Err(wrong("something else than it was asked"));
        }
        if digests {
            let digest = |bytes: &Bytes| bytes[..].try_into().map(u128::from_be_bytes);
            let digests: Result<_, _> = reply.states.iter().map(digest).collect();
            return digests.map(Told::Digests).map_err(|_| wrong("a digest that is none"));
        }
        let states: Result<_, _> = reply.states.iter().map(|state| EntityState::decode(state)).collect();
        states.map(Told::States).map_err(|error| wrong(&format!("a state that cannot be read: {error}")))
    }

    /// Merges what replicas hold of the entities on which they differ, and has those that were asked hold it, before anybody is told: who
    /// reads later reads nothing older.
    async fn repair(
        &self,
        merged: &mut [EntityState],
        disputed: &[bool],
        told: Vec<(NodeId, Told)>,
    ) -> Result<()> {
        let entities = self.entities.iter().zip(merged).zip(disputed);
        let mut merged: Vec<(&EntityKey, &mut EntityState)> =
            entities.filter(|(_, is_disputed)| **is_disputed).map(|(entity, _)| entity).collect();
        let named: Arc<[EntityKey]> = merged.iter().map(|(entity, _)| (*entity).clone()).collect();
        let whole = Self { extent: Extent { contents: true, ..self.extent }, ..self.clone() };
        let mut held: Vec<(NodeId, Vec<EntityState>)> = Vec::new();
        for (node, told) in told {
            let states = match (told, self.extent.contents) {
                (Told::States(states), true) => {
                    let states = states.into_iter().zip(disputed);
                    states.filter(|(_, is_disputed)| **is_disputed).map(|(state, _)| state).collect()
                }
                // A row without its chunks and vectors would hide those that are there, and bring none.
                _ => match whole.one(node, Arc::clone(&named), false).await? {
                    Told::States(states) => states,
                    Told::Digests(_) => return Err(Error::Internal("digests for states".to_owned())),
                },
            };
            for ((_, merged), state) in merged.iter_mut().zip(&states) {
                **merged = std::mem::take(*merged).merge(state.clone());
            }
            held.push((node, states));
        }
        let mut repairs = JoinSet::new();
        for (node, states) in held {
            let lacks = merged.iter().zip(states).filter(|((_, merged), state)| **merged != *state);
            let lacks: Vec<(EntityKey, EntityState)> =
                lacks.map(|((entity, merged), _)| ((*entity).clone(), (**merged).clone())).collect();
            if !lacks.is_empty() && !self.inner.is_wrong(Wrong::NoReadRepair) {
                let read = self.clone();
                repairs.spawn(async move { read.tell(node, lacks).await });
            }
        }
        while let Some(done) = repairs.join_next().await {
            done.map_err(|error| Error::Internal(format!("a repair ended: {error}")))??;
        }
        Ok(())
    }

    /// Has a replica merge states.
    async fn tell(&self, node: NodeId, states: Vec<(EntityKey, EntityState)>) -> Result<()> {
        if node == self.inner.served.node {
            return self.inner.here(move |served| served.absorb(states)).await;
        }
        let (entities, states) =
            states.iter().map(|(entity, state)| (entity.encode().into(), state.encode().into())).unzip();
        let request = AbsorbRequest { fence: self.inner.sent_fence(), entities, states };
        let mut peer = self.inner.peers.get(node)?;
        self.inner.call(node, self.deadline, peer.absorb(request)).await.map(|_| ())
    }
}
