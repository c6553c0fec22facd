//! Asking several nodes about much of what they hold: all who are needed at once, and others where one fails or lets wait.

use std::{collections::BTreeSet, sync::Arc};

use allidb_index::{Error, PARTITIONS, Result};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Inner, Terms, counts::count};
use crate::{
    coordinator::Consistency,
    layout::NodeId,
    peer::{
        Client,
        proto::{self, AnswerRequest},
        question::{Ask, encode},
    },
};

/// Things to be asked about, each of several nodes.
pub(super) struct Asked {
    /// Who can tell of each, in the order in which they are asked.
    pub(super) tellers: Vec<Vec<NodeId>>,
    pub(super) consistency: Consistency,
    /// Whoever is asked tells of everything that it can tell of, not only of what it is asked about.
    pub(super) tells_all: bool,
}

/// What was told.
pub(super) struct Told<A> {
    /// By whom, and about which things.
    pub(super) answers: Vec<(NodeId, Vec<usize>, A)>,
    /// Things of which too few told, and why.
    pub(super) missing: Vec<usize>,
    pub(super) why: Option<Error>,
}

/// How the asking stands with one thing.
#[derive(Clone, Default)]
struct Standing {
    /// So many of its tellers were asked.
    asked: usize,
    /// And have not answered.
    pending: usize,
    told: usize,
}

impl Asked {
    /// About every partition.
    pub(super) fn partitions(inner: &Inner, consistency: Consistency) -> Self {
        let tellers = (0..PARTITIONS).map(|partition| inner.tellers(partition)).collect();
        Self { tellers, consistency, tells_all: true }
    }

    fn needed(&self, thing: usize) -> usize {
        self.tellers.get(thing).map_or(0, |tellers| self.consistency.needed(tellers.len()))
    }

    /// Asks until enough have told of everything, or nobody is left to be asked.
    ///
    /// # Errors
    /// If the question is wrong.
    pub(super) async fn ask<A, F>(
        &self,
        inner: &Arc<Inner>,
        ask: impl Fn(NodeId, Vec<usize>) -> F,
    ) -> Result<Told<A>>
    where
        A: Send + 'static,
        F: Future<Output = Result<A>> + Send + 'static,
    {
        let mut standings = vec![Standing::default(); self.tellers.len()];
        let mut told = Told { answers: Vec::new(), missing: Vec::new(), why: None };
        let mut running = JoinSet::new();
        let mut nodes = BTreeSet::new();
        let mut go_on = |standings: &mut Vec<Standing>, running: &mut JoinSet<_>, in_a_hurry: bool| {
            for (node, things) in self.next(standings, &mut nodes, in_a_hurry) {
                if in_a_hurry {
                    count(&inner.served.counters.questions_hedged);
                }
                let (begun, answer) = (Instant::now(), ask(node, things.clone()));
                running.spawn(async move { (node, things, begun, answer.await) });
            }
        };
        go_on(&mut standings, &mut running, false);
        let is_met = |standings: &[Standing]| {
            standings.iter().enumerate().all(|(thing, standing)| standing.told >= self.needed(thing))
        };
        while !is_met(&standings) {
            let hedge_after = inner.searching.p95(inner.hedge_after);
            tokio::select! {
                biased;
                done = running.join_next() => match done {
                    Some(Ok((node, things, begun, answer))) => {
                        for thing in &things {
                            let Some(standing) = standings.get_mut(*thing) else { continue };
                            standing.pending = standing.pending.saturating_sub(1);
                            standing.told += usize::from(answer.is_ok());
                        }
                        match answer {
                            Ok(answer) => {
                                inner.searching.record(begun.elapsed());
                                told.answers.push((node, things, answer));
                            }
                            Err(error) if is_askers_fault(&error) => return Err(error),
                            Err(error) => {
                                told.why = Some(error);
                                go_on(&mut standings, &mut running, false);
                            }
                        }
                    }
                    Some(Err(error)) => return Err(Error::Internal(format!("a question ended: {error}"))),
                    None => break,
                },
                () = sleep(hedge_after) => go_on(&mut standings, &mut running, true),
            }
        }
        let of = standings.iter().enumerate();
        let missing = of.filter(|(thing, standing)| standing.told < self.needed(*thing));
        told.missing = missing.map(|(thing, _)| thing).collect();
        Ok(told)
    }

    /// Who is to be asked next, and about what. In a hurry those who are still pending do not count.
    fn next(
        &self,
        standings: &mut [Standing],
        asked: &mut BTreeSet<NodeId>,
        in_a_hurry: bool,
    ) -> Vec<(NodeId, Vec<usize>)> {
        let mut batches: Vec<(NodeId, Vec<usize>)> = Vec::new();
        for thing in 0..self.tellers.len() {
            let (Some(tellers), needed) = (self.tellers.get(thing), self.needed(thing)) else { continue };
            let mut hurries = in_a_hurry;
            while let Some(standing) = standings.get_mut(thing) {
                let is_enough = standing.told + standing.pending >= needed && !hurries;
                if standing.told >= needed || is_enough {
                    break;
                }
                let Some(node) = tellers.get(standing.asked).copied() else { break };
                standing.asked += 1;
                hurries = false;
                if self.tells_all {
                    if asked.insert(node) {
                        let things = self.of(node);
                        for thing in &things {
                            if let Some(standing) = standings.get_mut(*thing) {
                                standing.pending += 1;
                            }
                        }
                        batches.push((node, things));
                    }
                    continue;
                }
                standing.pending += 1;
                match batches.iter_mut().find(|(of, _)| *of == node) {
                    Some((_, things)) => things.push(thing),
                    None => batches.push((node, vec![thing])),
                }
            }
        }
        batches
    }

    /// All that a node can tell of.
    fn of(&self, node: NodeId) -> Vec<usize> {
        let things = self.tellers.iter().enumerate();
        things.filter(|(_, tellers)| tellers.contains(&node)).map(|(thing, _)| thing).collect()
    }
}

impl<A> Told<A> {
    /// The answers, if enough told of everything, or of something where the answer may be a part.
    ///
    /// # Errors
    /// If not.
    pub(super) fn answers(self, what: &str, terms: Terms) -> Result<Vec<(NodeId, Vec<usize>, A)>> {
        match self.missing.len() {
            0 => Ok(self.answers),
            _ if terms.may_be_partial && !self.answers.is_empty() => Ok(self.answers),
            missing => {
                if let Some(error @ (Error::Exhausted(_) | Error::DeadlineExceeded)) = self.why {
                    return Err(error);
                }
                let why = self.why.map_or_else(String::new, |error| format!("; {error}"));
                Err(Error::Unavailable(format!("too few replicas of {missing} {what} answered{why}")))
            }
        }
    }
}

/// Whether another node would say the same.
fn is_askers_fault(error: &Error) -> bool {
    matches!(error, Error::Invalid { .. } | Error::DeadlineExceeded)
}

impl Inner {
    /// The replicas of a partition in the order in which this node asks them.
    pub(super) fn tellers(&self, partition: u16) -> Vec<NodeId> {
        let mut tellers = self.order(self.served.layout.replicas(partition));
        tellers.reverse();
        tellers
    }

    /// The same, of each of some entities.
    pub(super) fn tellers_of<'e>(
        &self,
        entities: impl Iterator<Item = &'e allidb_index::EntityKey>,
    ) -> Vec<Vec<NodeId>> {
        entities.map(|entity| self.tellers(entity.partition())).collect()
    }

    /// What a node knows.
    ///
    /// # Errors
    /// If it does not answer, or not what it was asked.
    pub(super) async fn answer<Q: Ask>(
        self: Arc<Self>,
        node: NodeId,
        question: Q,
        Terms { tenant, deadline, may_be_partial, .. }: Terms,
    ) -> Result<Q::Answer> {
        if node == self.served.node {
            return self.search(move |replica| question.answer(replica, tenant, deadline)).await;
        }
        if may_be_partial && self.served.peers.is_paused(node) {
            return Err(Error::Unavailable(format!("node {node} is not heard from")));
        }
        let question = encode(&question.into())?.into();
        // Who takes a part has time left to do something with it.
        let within = if may_be_partial { deadline.remaining() / 2 } else { deadline.remaining() };
        let request = AnswerRequest {
            fence: None,
            tenant: tenant.0,
            question,
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        };
        let ask = |mut peer: Client, fence| {
            let request = AnswerRequest { fence, ..request.clone() };
            async move { peer.answer(request).await }
        };
        let reply = self.served.call_within(within, node, deadline, ask).await?;
        let wrong = |why: String| Error::Unavailable(format!("node {node} answered {why}"));
        match reply.kind {
            Some(proto::answer_reply::Kind::Answer(answer)) => {
                let decode = move || postcard::from_bytes(&answer);
                let decoded = self.search(move |_| Ok(decode())).await?;
                decoded.map_err(|error| wrong(format!("what cannot be read: {error}")))
            }
            Some(proto::answer_reply::Kind::Wrong(proto::Wrong { place, why })) => {
                Err(Error::invalid(place, why))
            }
            None => Err(wrong("nothing".to_owned())),
        }
    }

    /// Does work of a search at this node's own replica.
    pub(super) async fn search<T: Send + 'static>(
        &self,
        work: impl FnOnce(&allidb_index::Replica) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let served = Arc::clone(&self.served);
        self.served.searches.run(move || work(&served.replica)).await.flatten()
    }
}
