//! Writes about which replicas are of several minds: what a quorum holds decides (ADR 0020), and a newer version if something hides them (ADR
//! 0025).

use std::sync::Arc;

use allidb_index::{EntityKey, EntityState, Error, Extent, Hint, Mutation, Result, Version};
use tokio::{task::JoinSet, time::timeout};

use super::{
    Inner,
    counts::count,
    underway::Underway,
    verdict::{Pending, Told, Verdict},
    write::Report,
};
use crate::{
    asker::OnBehalf,
    coordinator::{Consistency, WriteOptions},
    layout::NodeId,
    peer::Served,
};

/// Why a write cannot be answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doubt {
    /// Replicas do not agree on what it is for.
    Disputed,
    /// Something newer hides it. Whoever made that may have had its answer before this was asked for.
    Overtaken(Version),
}

/// How a doubt was resolved.
pub(super) struct Settled {
    pub(super) place: usize,
    /// How it is to be made everywhere, and whether that says something else; `None` if there is nothing that it could be for.
    pub(super) outcome: Result<Option<(Mutation, bool)>>,
    /// Who has made it so.
    pub(super) convinced: Vec<NodeId>,
    /// Who else is asked to.
    pub(super) rest: JoinSet<(NodeId, Told)>,
    /// Why some of those who were asked have not made it.
    pub(super) why: Option<Error>,
    /// What of it is to be made for sure.
    pub(super) posted: Vec<Hint>,
}

impl Inner {
    /// Resolves a doubt about a write, and reports how.
    pub(super) fn settle_beside(
        self: &Arc<Self>,
        (place, write): (usize, &Underway),
        doubt: Doubt,
        options: WriteOptions,
        tasks: &mut JoinSet<Report>,
    ) {
        let (inner, mutation, is_renewed) = (Arc::clone(self), Arc::clone(&write.mutation), write.is_renewed);
        let (pending, is_posted, asked) = (write.pending.clone(), !write.posted.is_empty(), write.asked);
        count(match doubt {
            Doubt::Disputed => &self.served.counters.writes_settled,
            Doubt::Overtaken(_) => &self.served.counters.writes_renewed,
        });
        let settling = async move {
            // Of a large batch not all at once. It is never closed.
            let turn = timeout(options.deadline.remaining(), inner.settling.acquire()).await;
            let mut outcome = match (&turn, doubt) {
                (Err(_), _) => Err(Error::DeadlineExceeded),
                (_, Doubt::Disputed) => inner.settle((&mutation, asked), is_renewed, options).await,
                (_, Doubt::Overtaken(newer)) => {
                    inner.renewed(&mutation, newer).map(|mutation| Some((mutation, true)))
                }
            };
            let mut posted = Vec::new();
            if let Ok(Some((mutation, true))) = &outcome
                && is_posted
            {
                let mutation = [mutation.clone()];
                let post = move |served: &Served| served.replica.post_all(&mutation, options.durability);
                match inner.here(post).await {
                    Ok(hints) => posted = hints,
                    Err(error) => outcome = Err(error),
                }
            }
            let (convinced, rest, why) = match &outcome {
                Ok(Some((mutation, is_other))) => {
                    inner.convince(&pending, (mutation, *is_other), options).await
                }
                _ => (Vec::new(), JoinSet::new(), None),
            };
            Report::Settled(Box::new(Settled { place, outcome, convinced, rest, why, posted }))
        };
        tasks.spawn(settling.in_current_call());
    }

    /// A write as it is to be made at a version above what overtook it.
    fn renewed(&self, mutation: &Mutation, newer: Version) -> Result<Mutation> {
        // One from far ahead would lift this node's clock, and all others'.
        self.served.check_ahead(newer)?;
        Ok(self.served.replica.renewed(mutation, newer))
    }

    /// How a write is to be made whatever replicas know, by what a quorum knows, and whether that says more than what some may have made;
    /// `None` if what it is for is not there.
    async fn settle(
        self: &Arc<Self>,
        (mutation, asked): (&Mutation, Version),
        is_renewed: bool,
        options: WriteOptions,
    ) -> Result<Option<(Mutation, bool)>> {
        let entities: Vec<EntityKey> = mutation.entities().cloned().collect();
        let extent = Extent { contents: mutation.is_about_contents(), edges: false };
        let states = self.states(entities, extent, Consistency::Quorum, options.deadline).await;
        let states = states.into_iter().collect::<Result<Vec<_>>>()?;
        let replica = &self.served.replica;
        let is_live = states.iter().all(|state| replica.is_live(state));
        if mutation.needs_entity() && !is_live {
            return Ok(None);
        }
        let has_expired = states.iter().any(|state| replica.has_expired(state));
        let newer = mutation.overtaken_by(&states).filter(|_| is_renewed);
        if has_expired {
            let newest = states.iter().map(EntityState::highest_version).max().unwrap_or_default();
            self.served.check_ahead(newest.max(newer.unwrap_or_default()))?;
            return Ok(Some((replica.settled_over_expired(mutation, newest, asked, newer), true)));
        }
        Ok(Some(match newer {
            Some(newer) => (self.renewed(mutation, newer)?, true),
            None => (mutation.clone().settled(), false),
        }))
    }

    /// Has nodes make a write that was settled: those that have not made it or, if it says something else by now, all. Gives those that did once
    /// they are enough, what tells of the others, and why some have not.
    async fn convince(
        self: &Arc<Self>,
        pending: &Pending,
        (mutation, is_other): (&Mutation, bool),
        options: WriteOptions,
    ) -> (Vec<NodeId>, JoinSet<(NodeId, Told)>, Option<Error>) {
        let mut nodes = match is_other {
            true => pending.sides.iter().flat_map(|side| side.replicas.iter().copied()).collect(),
            false => pending.unmet(),
        };
        nodes.sort_unstable();
        nodes.dedup();
        let mut sent = JoinSet::new();
        for node in nodes {
            let Ok(Some(encoded)) = self.encoded_for(node, mutation) else { continue };
            let inner = Arc::clone(self);
            let send = async move {
                let told = inner.send(node, vec![encoded.into()], options.durability, options.deadline).await;
                let missing = || Told::Failed(Error::Internal("a write was given no answer".to_owned()));
                (node, told.into_iter().next().unwrap_or_else(missing))
            };
            sent.spawn(send.in_current_call());
        }
        let (mut made, mut why) = (Vec::new(), None);
        while let Some(done) = sent.join_next().await {
            match done {
                Ok((node, Told::Made { .. })) => made.push(node),
                Ok((_, Told::Failed(error))) => why = Some(error),
                Ok(_) | Err(_) => {}
            }
            let mut by_now = pending.clone();
            by_now.convinced(&made, is_other);
            if matches!(by_now.verdict(), Verdict::Made { .. }) {
                break;
            }
        }
        (made, sent, why)
    }
}
