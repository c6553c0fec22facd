//! Asking several nodes about much of what they hold: all who are needed at once, and others where one fails or lets wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use allidb_index::{Error, PARTITIONS, Result};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::instrument;

use super::{Inner, Terms, counts::count, quorum::Quorum};
use crate::{
    asker::OnBehalf,
    coordinator::Consistency,
    layout::NodeId,
    peer::{
        Client,
        proto::{self, AnswerRequest},
        question::{Ask, FORM, encode},
    },
};

/// Who can tell of something, in the order in which they are asked, and how many of them must.
pub(super) struct Tellers {
    order: Vec<NodeId>,
    quorum: Quorum,
}

impl Tellers {
    /// One node alone, or nobody.
    pub(super) fn only(node: Option<NodeId>) -> Arc<Self> {
        let order: Vec<NodeId> = node.into_iter().collect();
        Arc::new(Self { quorum: Quorum::of_nodes(order.clone(), 1), order })
    }

    /// Those who are asked if all answer.
    pub(super) fn first(&self) -> Vec<NodeId> {
        let mut first = Vec::new();
        for node in &self.order {
            if self.quorum.is_helped(&first, *node) {
                first.push(*node);
            }
        }
        first
    }
}

/// Things to be asked about, each of several nodes.
pub(super) struct Asked {
    pub(super) tellers: Vec<Arc<Tellers>>,
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
    /// Those of its tellers that were asked.
    asked: Vec<NodeId>,
    /// Those of whom it is not known that they do not answer.
    hoped: Vec<NodeId>,
    told: Vec<NodeId>,
}

impl Standing {
    /// Whom to ask next, if one more is to be.
    fn next(&self, tellers: &Tellers) -> Option<NodeId> {
        let mut left = tellers.order.iter().filter(|node| !self.asked.contains(node));
        let helps = left.clone().find(|node| tellers.quorum.is_helped(&self.hoped, **node));
        helps.or_else(|| left.next()).copied()
    }
}

impl Asked {
    /// About every partition.
    pub(super) fn partitions(inner: &Inner, consistency: Consistency) -> Self {
        let tellers = (0..PARTITIONS).map(|partition| inner.tellers(partition, consistency)).collect();
        Self { tellers, tells_all: true }
    }

    fn is_told(&self, (thing, standing): (usize, &Standing)) -> bool {
        self.tellers.get(thing).is_none_or(|tellers| tellers.quorum.is_met(&standing.told))
    }

    /// Asks until enough have told of everything, or nobody is left to be asked.
    ///
    /// # Errors
    /// If the question is wrong.
    #[instrument(level = "debug", skip_all, fields(things = self.tellers.len()))]
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
                let asking = async move { (node, things, begun, answer.await) };
                running.spawn(asking.in_current_call());
            }
        };
        go_on(&mut standings, &mut running, false);
        let is_met =
            |standings: &[Standing]| standings.iter().enumerate().all(|standing| self.is_told(standing));
        while !is_met(&standings) {
            let hedge_after = inner.searching.p95(inner.hedge_after);
            tokio::select! {
                biased;
                done = running.join_next() => match done {
                    Some(Ok((node, things, begun, answer))) => {
                        for thing in &things {
                            let Some(standing) = standings.get_mut(*thing) else { continue };
                            match answer.is_ok() {
                                true => standing.told.push(node),
                                false => standing.hoped.retain(|hoped| *hoped != node),
                            }
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
        let missing = of.filter(|standing| !self.is_told(*standing));
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
            let Some(tellers) = self.tellers.get(thing) else { continue };
            let mut hurries = in_a_hurry;
            while let Some(standing) = standings.get_mut(thing) {
                let is_enough = tellers.quorum.is_met(&standing.hoped) && !hurries;
                if is_enough || tellers.quorum.is_met(&standing.told) {
                    break;
                }
                let Some(node) = standing.next(tellers) else { break };
                standing.asked.push(node);
                hurries = false;
                if self.tells_all {
                    if asked.insert(node) {
                        let things = self.of(node);
                        for thing in &things {
                            if let Some(standing) = standings.get_mut(*thing) {
                                standing.hoped.push(node);
                            }
                        }
                        batches.push((node, things));
                    }
                    continue;
                }
                standing.hoped.push(node);
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
        things.filter(|(_, tellers)| tellers.order.contains(&node)).map(|(thing, _)| thing).collect()
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
    pub(super) fn tellers(&self, partition: u16, consistency: Consistency) -> Arc<Tellers> {
        let quorum = self.readers(partition, consistency);
        let mut order = self.order(&quorum.nodes());
        order.reverse();
        Arc::new(Tellers { order, quorum })
    }

    /// The same, of each of some entities.
    pub(super) fn tellers_of<'e>(
        &self,
        entities: impl Iterator<Item = &'e allidb_index::EntityKey>,
        consistency: Consistency,
    ) -> Vec<Arc<Tellers>> {
        let mut known: BTreeMap<u16, Arc<Tellers>> = BTreeMap::new();
        let mut tellers = |partition: u16| {
            let known = known.entry(partition).or_insert_with(|| self.tellers(partition, consistency));
            Arc::clone(known)
        };
        entities.map(|entity| tellers(entity.partition())).collect()
    }

    /// What a node knows.
    ///
    /// # Errors
    /// If it does not answer, or not what it was asked.
    pub(super) async fn answer<Q: Ask>(
        self: Arc<Self>,
        node: NodeId,
        question: Q,
        terms: Terms,
    ) -> Result<Q::Answer> {
        let remaining = terms.deadline.remaining();
        // Who takes a part has time left to do something with it.
        let within = if terms.may_be_partial { remaining / 2 } else { remaining };
        if node == self.served.node {
            self.served.check_all_sound()?;
        }
        self.answer_within(within, node, question, terms).await
    }

    /// The same, if it answers so soon.
    pub(super) async fn answer_within<Q: Ask>(
        self: Arc<Self>,
        within: Duration,
        node: NodeId,
        question: Q,
        Terms { tenant, deadline, may_be_partial, .. }: Terms,
    ) -> Result<Q::Answer> {
        if node == self.served.node {
            let answer = self.search(move |replica| question.answer(replica, tenant, deadline)).await;
            // What was found after that may be by others what was told before.
            return self.served.check_current().and(answer);
        }
        if may_be_partial && self.served.peers.is_paused(node) {
            return Err(Error::Unavailable(format!("node {node} is not heard from")));
        }
        let question = encode(&question.into())?.into();
        let request = AnswerRequest {
            fence: None,
            tenant: tenant.0,
            question,
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            form: FORM,
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
