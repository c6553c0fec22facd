//! Choosing what comes next: the topology of the next epoch, or the catalogue of the next version. Each is one instance of Paxos (Lamport,
//! "Paxos Made Simple", 2001) with members as acceptors, and is known by the one that it comes after.
//!
//! Whoever has a topology or a catalogue knows that it was chosen. An acceptor that has what comes after tells it instead of promising or
//! accepting anything.
//!
//! A topology is chosen by the members of the present layout. So is a catalogue, and while the ring changes its shape by those of the layout to
//! come besides: acceptors answer only under one epoch, any quorum of an epoch shares a member with any of the one before, and before the last
//! step what a quorum of the older layout alone accepted is settled ([`Ring::settle_catalogue`]).

use std::{cmp::Ordering, sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Replica, Result, Version};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::sleep};

use super::{Inner, quorum::Quorum, read::too_few};
use crate::{
    asker::OnBehalf,
    layout::{NodeId, Topology},
    peer::{
        Client, Served,
        proto::{ChooseReply, ChooseRequest, Subject},
    },
};

/// How long whoever was outbid waits at first, and at most; the time doubles.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What became of something that acceptors were asked for.
pub(super) enum Asked<T> {
    Done(T),
    /// They know of a newer ballot.
    Outbid(Version),
}

/// What an acceptor keeps of what is to come.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ballot {
    /// After which epoch or version it comes.
    after: u64,
    /// Nothing below is accepted; zeros if nothing was promised.
    promised: [u8; 16],
    /// Zeros and nothing if nothing was accepted.
    accepted_under: [u8; 16],
    accepted: Vec<u8>,
}

impl Quorum {
    /// Asks all acceptors, until a quorum has done what it was asked for; the others may as well.
    ///
    /// # Errors
    /// If too few do, and none knows of a newer ballot.
    pub(super) async fn ask<T: Send + 'static, F>(
        &self,
        ask: impl Fn(NodeId) -> F,
    ) -> Result<Asked<Vec<(NodeId, T)>>>
    where
        F: Future<Output = Result<Asked<T>>> + Send + 'static,
    {
        let mut asked = JoinSet::new();
        for node in self.nodes() {
            let answer = ask(node);
            asked.spawn(async move { (node, answer.await) }.in_current_call());
        }
        let (mut done, mut who, mut newest, mut why) = (Vec::new(), Vec::new(), None, None);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((node, Ok(Asked::Done(reply)))) => {
                    who.push(node);
                    done.push((node, reply));
                }
                Ok((_, Ok(Asked::Outbid(version)))) => newest = newest.max(Some(version)),
                Ok((_, Err(error))) => why = Some(error),
                Err(error) => why = Some(Error::Internal(format!("a ballot broke off: {error}"))),
            }
            if self.is_met(&who) {
                asked.detach_all();
                return Ok(Asked::Done(done));
            }
        }
        match newest {
            Some(newest) => Ok(Asked::Outbid(newest)),
            None => Err(too_few(done.len(), self.needed(), why)),
        }
    }
}

/// What is to be chosen, and by whom.
pub(super) struct Choice {
    pub(super) subject: Subject,
    /// After which epoch or version it comes.
    pub(super) after: u64,
    pub(super) quorum: Quorum,
    /// How long an acceptor may take.
    pub(super) patience: Duration,
}

impl Inner {
    /// Has something be chosen: what is proposed, or what may have been chosen before. Without a proposal, only that; nothing if it was none. What is
    /// given may be later than what was to come next. `was_proposed` is set once acceptors are asked to accept what is proposed: it may have been chosen
    /// then, too.
    ///
    /// # Errors
    /// If too few acceptors answer, or the node goes by another topology by now: it may be chosen then, or may be later.
    pub(super) async fn choose(
        self: &Arc<Self>,
        choice: &Choice,
        (proposed, was_proposed): (Option<Bytes>, &mut bool),
        deadline: Deadline,
    ) -> Result<Option<Bytes>> {
        let mut pause = PAUSE;
        loop {
            self.served.check_current()?;
            let ballot = self.served.replica.next_version();
            match self.choose_once(choice, ballot, (proposed.clone(), &mut *was_proposed), deadline).await? {
                Asked::Done(chosen) => return Ok(chosen),
                Asked::Outbid(newest) => {
                    self.served.check_ahead(newest)?;
                    self.served.replica.observe_version(newest);
                }
            }
            deadline.check()?;
            // At random, so that those who outbid each other do not go on doing so.
            let jitter = pause.mul_f64((ballot.millis() ^ self.served.node.0) as u8 as f64 / 256.0);
            sleep((pause / 2 + jitter).min(deadline.remaining())).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn choose_once(
        self: &Arc<Self>,
        choice: &Choice,
        ballot: Version,
        (proposed, was_proposed): (Option<Bytes>, &mut bool),
        deadline: Deadline,
    ) -> Result<Asked<Option<Bytes>>> {
        let promises = match self.ask_to_choose(choice, ballot, Bytes::new(), deadline).await? {
            Asked::Done(promises) => promises,
            Asked::Outbid(newest) => return Ok(Asked::Outbid(newest)),
        };
        if let Some(chosen) = newest_chosen(&promises) {
            return Ok(Asked::Done(Some(chosen)));
        }
        let accepted = promises.into_iter().filter(|promise| !promise.accepted.is_empty());
        let newest = accepted.max_by_key(|promise| Version::from_bytes(&promise.accepted_ballot));
        let Some(value) = newest.map(|promise| promise.accepted).or(proposed.clone()) else {
            return Ok(Asked::Done(None));
        };
        *was_proposed |= proposed.as_ref() == Some(&value);
        Ok(match self.ask_to_choose(choice, ballot, value.clone(), deadline).await? {
            Asked::Done(replies) => Asked::Done(Some(newest_chosen(&replies).unwrap_or(value))),
            Asked::Outbid(newest) => Asked::Outbid(newest),
        })
    }

    /// Has acceptors promise, or accept a value.
    async fn ask_to_choose(
        self: &Arc<Self>,
        Choice { subject, after, quorum, patience }: &Choice,
        ballot: Version,
        value: Bytes,
        deadline: Deadline,
    ) -> Result<Asked<Vec<ChooseReply>>> {
        let request = ChooseRequest {
            fence: None,
            subject: (*subject).into(),
            after: *after,
            ballot: Bytes::copy_from_slice(&ballot.to_bytes()),
            value,
        };
        let asked = quorum.ask(|node| {
            let (inner, request, patience) = (Arc::clone(self), request.clone(), *patience);
            async move {
                let reply = inner.ask_to_choose_one(node, request, patience, deadline).await?;
                Ok(match reply.is_done {
                    true => Asked::Done(reply),
                    false => Asked::Outbid(Version::from_bytes(&reply.promised).unwrap_or_default()),
                })
            }
        });
        Ok(match asked.await? {
            Asked::Done(replies) => Asked::Done(replies.into_iter().map(|(_, reply)| reply).collect()),
            Asked::Outbid(newest) => Asked::Outbid(newest),
        })
    }

    async fn ask_to_choose_one(
        &self,
        node: NodeId,
        request: ChooseRequest,
        patience: Duration,
        deadline: Deadline,
    ) -> Result<ChooseReply> {
        if node == self.served.node {
            return self.here_as_of(move |served| served.choose_step(&request)).await;
        }
        self.record_clock().await?;
        let ask = |mut peer: Client, fence| {
            let request = ChooseRequest { fence, ..request.clone() };
            async move { peer.choose(request).await }
        };
        self.served.call_within(patience, node, deadline, ask).await
    }
}

/// What those that were asked know to be chosen.
fn newest_chosen(replies: &[ChooseReply]) -> Option<Bytes> {
    let chosen = replies.iter().filter(|reply| !reply.chosen.is_empty());
    chosen.max_by_key(|reply| reply.place).map(|reply| reply.chosen.clone())
}

impl Served {
    /// Promises to accept nothing of an older ballot, or accepts something, durably; unless it has promised more.
    ///
    /// # Errors
    /// If it makes no sense, or cannot be kept.
    pub(crate) fn choose_step(&self, request: &ChooseRequest) -> Result<ChooseReply> {
        let _alone = self.choosing.lock();
        let ChooseRequest { after, value, .. } = request;
        let ballot = Version::from_bytes(&request.ballot)
            .ok_or_else(|| Error::invalid("a ballot", "is no version"))?;
        self.check_ahead(ballot)?;
        let subject = request.subject();
        let (name, place, chosen) = match subject {
            Subject::Topology => ("topology", self.topology.epoch(), self.topology.encode()),
            Subject::Catalogue => {
                let encoded = self.replica.encoded_catalogue();
                ("catalogue", Replica::version_of_catalogue(&encoded)?, encoded)
            }
            Subject::Unspecified => return Err(Error::invalid("subject", "is none")),
        };
        if *after < place {
            return Ok(ChooseReply { place, chosen: chosen.into(), is_done: true, ..ChooseReply::default() });
        }
        let corrupt = |error: postcard::Error| Error::CorruptRow {
            keyspace: "cluster",
            key: format!("ballot of the {name}"),
            what: error.to_string(),
        };
        let kept = self.replica.ballot(name)?.map(|kept| postcard::from_bytes::<Ballot>(&kept));
        let kept = kept.transpose().map_err(corrupt)?.unwrap_or_default();
        let mut kept = match kept.after.cmp(after) {
            Ordering::Equal => kept,
            Ordering::Less => Ballot { after: *after, ..Ballot::default() },
            // That was chosen, and this node has not heard what.
            Ordering::Greater => {
                return Err(Error::Unavailable(format!("the {name} after {} was chosen", kept.after - 1)));
            }
        };
        let ballot = ballot.to_bytes();
        if ballot < kept.promised {
            let promised = Bytes::copy_from_slice(&kept.promised);
            return Ok(ChooseReply { promised, ..ChooseReply::default() });
        }
        kept.promised = ballot;
        let mut reply = ChooseReply { is_done: true, ..ChooseReply::default() };
        if value.is_empty() {
            reply.accepted_ballot = Bytes::copy_from_slice(&kept.accepted_under);
            reply.accepted = kept.accepted.clone().into();
        } else {
            let (follows, comes_after) = match subject {
                Subject::Topology => {
                    let topology = Topology::decode(value)
                        .map_err(|error| Error::invalid(name, format!("cannot be read: {error}")))?;
                    (topology.may_follow(*after), topology.epoch())
                }
                _ => {
                    let version = Replica::version_of_catalogue(value)?;
                    (version.checked_sub(1) == Some(*after), version)
                }
            };
            if !follows {
                return Err(Error::invalid(name, format!("{comes_after} does not come after {after}")));
            }
            (kept.accepted_under, kept.accepted) = (ballot, value.to_vec());
        }
        let encoded = postcard::to_allocvec(&kept)
            .map_err(|error| Error::Internal(format!("a ballot cannot be encoded: {error}")))?;
        self.replica.keep_ballot(name, encoded)?;
        reply.promised = Bytes::copy_from_slice(&ballot);
        Ok(reply)
    }
}
