//! Forgetting what was deleted, once no node can bring it back (ADR 0027).
//!
//! All members are needed, since any of them may keep something for the others. One of them leads through the steps; if it breaks off anywhere,
//! what was done stays right, and it is begun again.

use std::{sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Outgoing, Result, Version};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::sleep};

use super::{Inner, Repaired, Ring, anti_entropy::Compared, upkeep::OVERDUE, wrong::Wrong};
use crate::{
    layout::{NodeId, Phase},
    peer::{
        Client, Served,
        proto::{PurgeReply, PurgeRequest, PurgeStep},
    },
};

/// How often a node is asked whether it has delivered what it was to.
const LOOKS_EVERY: Duration = Duration::from_millis(200);
/// How long a node may take for a step: to close, it waits for writes that are under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// When what was deleted is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeTerms {
    /// How often.
    pub every: Duration,
    /// How old at least it is then: writes that old are not under way any more.
    pub behind: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Up to where deletions are forgotten, or being removed still.
    pub upto: Version,
    /// What replicas had to be told of each other before.
    pub repaired: u64,
}

/// What a purge is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PurgeStage {
    /// Nodes say what they keep for each other.
    #[default]
    Preparing,
    /// Nodes promise to take nothing any more that was planned before.
    Closing,
    /// Each two nodes compare what they hold.
    Comparing,
    /// What follows from deletions is delivered.
    Delivering,
    /// Each two nodes compare once more.
    ComparingAgain,
    /// Nodes forget.
    Forgetting,
}

impl PurgeStage {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Closing => "closing",
            Self::Comparing => "comparing",
            Self::Delivering => "delivering",
            Self::ComparingAgain => "comparing again",
            Self::Forgetting => "forgetting",
        }
    }
}

/// What was in this node's outbox when it was asked for the first time, and in which round.
#[derive(Default)]
pub(crate) struct Deliveries(Mutex<Option<(Version, Outgoing)>>);

impl Deliveries {
    /// Lets go of what was asked about in a round that began so long before: whoever led through it is gone.
    fn forget_before(&self, begun: Version) {
        drop(self.0.lock().take_if(|(round, _)| *round < begun));
    }
}

impl Ring {
    /// Has all nodes forget what was deleted until a while ago; gives `None` if that was done already, or something older is kept for a node.
    /// `progress` is told what it is at, and of how many entities replicas had to be told.
    ///
    /// # Errors
    /// If not all members answer, or not all that they hold can be made the same. Nothing is forgotten then; it may be tried again.
    pub async fn purge(
        &self,
        deadline: Deadline,
        mut progress: impl FnMut(PurgeStage, u64),
    ) -> Result<Option<Purged>> {
        let inner = &self.0;
        let behind = u64::try_from(inner.purge.behind.as_millis()).unwrap_or(u64::MAX);
        let now = self.replica().wall().now_ms();
        if self.topology().phase() != Phase::Settled {
            let why = "nothing is forgotten while the ring changes its shape";
            return Err(Error::Unavailable(why.to_owned()));
        }
        // No other node gives this one, nor does this one twice.
        let round = self.replica().next_version();
        let mut upto = Version::new(now.saturating_sub(behind), 0, self.node().0);
        if inner.is_wrong(Wrong::PurgeByTime) {
            inner.all_step(PurgeStep::Mark, (round, upto), deadline).await?;
            inner.all_step(PurgeStep::Forget, (round, upto), deadline).await?;
            return Ok(Some(Purged { upto, repaired: 0 }));
        }
        let is_closed = !inner.is_wrong(Wrong::PurgeWithoutClosing);
        if is_closed {
            let prepared = loop {
                let prepared = inner.all_step(PurgeStep::Prepare, (round, upto), deadline).await?;
                if !prepared.iter().any(|reply| reply.is_forgetting) {
                    break prepared;
                }
                deadline.check()?;
                sleep(LOOKS_EVERY).await;
            };
            let oldest = prepared.iter().filter_map(|reply| Version::from_bytes(&reply.oldest)).min();
            upto = oldest.map_or(upto, |oldest| upto.min(oldest.just_below()));
            let swept = |reply: &PurgeReply| Version::from_bytes(&reply.swept).unwrap_or_default();
            if upto <= prepared.iter().map(swept).min().unwrap_or_default() {
                return Ok(None);
            }
            progress(PurgeStage::Closing, 0);
            inner.all_step(PurgeStep::Close, (round, upto), deadline).await?;
        }
        progress(PurgeStage::Comparing, 0);
        // What deletions did not reach everybody is known then, and what follows from them is on its way.
        let mut repaired = self.make_all_alike(deadline).await?;
        progress(PurgeStage::Delivering, repaired);
        loop {
            let replies = inner.all_step(PurgeStep::Deliver, (round, upto), deadline).await?;
            if replies.iter().all(|reply| reply.is_delivered) {
                break;
            }
            deadline.check()?;
            sleep(LOOKS_EVERY).await;
        }
        inner.all_step(PurgeStep::Mark, (round, upto), deadline).await?;
        progress(PurgeStage::ComparingAgain, repaired);
        repaired += self.make_all_alike(deadline).await?;
        progress(PurgeStage::Forgetting, repaired);
        inner.all_step(PurgeStep::Forget, (round, upto), deadline).await?;
        Ok(Some(Purged { upto, repaired }))
    }

    /// Has each two nodes hold what they hold together, with all that says that something is gone. Says how many entities were not the same.
    async fn make_all_alike(&self, deadline: Deadline) -> Result<u64> {
        let members: Vec<NodeId> = self.layout().members().iter().map(|member| member.node).collect();
        let mut all = 0;
        for (nth, a) in members.iter().enumerate() {
            for b in members.iter().skip(nth + 1) {
                let what = (self.0.held_by_both([*a, *b]), Compared::Everything);
                let Repaired { repaired, failed, .. } =
                    self.0.make_alike([*a, *b], what, deadline, |_| {}).await?;
                if failed > 0 {
                    let why =
                        format!("nodes {a} and {b} cannot be made to hold the same of {failed} entities");
                    return Err(Error::Unavailable(why));
                }
                all += repaired;
            }
        }
        Ok(all)
    }

    /// Lets go of what is kept of rounds that broke off.
    pub(super) fn let_go_of_rounds(&self, age: Duration) {
        self.replica().unmark_after(age);
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let begun = Version::new(self.replica().wall().now_ms().saturating_sub(age), 0, 0);
        self.0.served.deliveries.forget_before(begun);
    }

    /// Whether it is time to forget what was deleted, and this node that which leads.
    pub(super) fn is_purge_due(&self) -> bool {
        let first = self.layout().members().first().map(|member| member.node);
        !self.is_alone() && first == Some(self.node()) && self.has_kept_for(self.0.purge.every)
    }

    /// Whether it has been for long.
    pub(super) fn is_purge_overdue(&self) -> bool {
        let is_later = self.replica().purged() != Version::ZERO;
        is_later && self.has_kept_for(self.0.purge.every.saturating_mul(OVERDUE))
    }

    /// Whether nothing has been forgotten for so long.
    fn has_kept_for(&self, every: Duration) -> bool {
        let now = self.replica().wall().now_ms();
        let since = Duration::from_millis(now.saturating_sub(self.replica().purged().millis()));
        since >= every.saturating_add(self.0.purge.behind)
    }
}

impl Inner {
    /// Has all members take a step.
    async fn all_step(
        self: &Arc<Self>,
        step: PurgeStep,
        (round, upto): (Version, Version),
        deadline: Deadline,
    ) -> Result<Vec<PurgeReply>> {
        let mut asked = JoinSet::new();
        for member in self.served.topology.layout().members() {
            let (inner, node) = (Arc::clone(self), member.node);
            asked.spawn(async move { inner.step(node, step, (round, upto), deadline).await });
        }
        let mut replies = Vec::new();
        while let Some(done) = asked.join_next().await {
            let broke_off = |error| Error::Internal(format!("a step of a purge broke off: {error}"));
            replies.push(done.map_err(broke_off)??);
        }
        Ok(replies)
    }

    async fn step(
        &self,
        node: NodeId,
        step: PurgeStep,
        (round, upto): (Version, Version),
        deadline: Deadline,
    ) -> Result<PurgeReply> {
        if node == self.served.node {
            return self.here_as_of(move |served| served.purge_step(step, (round, upto))).await;
        }
        let [round, upto] = [round, upto].map(|version| version.to_bytes().to_vec().into());
        let request = PurgeRequest { fence: None, step: step.into(), round, upto };
        let ask = |mut peer: Client, fence| {
            let request = PurgeRequest { fence, ..request.clone() };
            async move { peer.purge(request).await }
        };
        self.served.call_within(PATIENCE, node, deadline, ask).await
    }
}

impl Served {
    /// Takes a step towards forgetting what was deleted.
    pub(crate) fn purge_step(
        &self,
        step: PurgeStep,
        (round, upto): (Version, Version),
    ) -> Result<PurgeReply> {
        // What it heals, it would forget that it is gone.
        self.check_all_sound()?;
        let mut reply = PurgeReply::default();
        let replica = &self.replica;
        match step {
            PurgeStep::Unspecified => return Err(Error::invalid("step", "is none that this release knows")),
            PurgeStep::Prepare => {
                let oldest = replica.prepare_to_close(upto)?;
                reply.oldest = oldest.map(|oldest| oldest.to_bytes().to_vec()).unwrap_or_default().into();
                reply.swept = replica.swept().to_bytes().to_vec().into();
                reply.is_forgetting = replica.is_forgetting();
            }
            PurgeStep::Close => replica.close_up_to(upto)?,
            PurgeStep::Deliver => {
                let mut deliveries = self.deliveries.0.lock();
                let known = deliveries.take_if(|(of, _)| *of == round);
                let (_, mut outgoing) = known.unwrap_or_else(|| (round, replica.outgoing()));
                reply.is_delivered = replica.is_delivered(&mut outgoing)?;
                *deliveries = Some((round, outgoing)).filter(|_| !reply.is_delivered);
            }
            PurgeStep::Mark => replica.mark(round),
            PurgeStep::Forget => replica.purge_up_to(upto, Some(round))?,
        }
        Ok(reply)
    }
}
