//! Writes on conditions, which come one after the other: CASPaxos, with an acceptor for each entity at each of its replicas (Rystsov,
//! "CASPaxos: Replicated State Machines without logs", 2018; ADR 0028).
//!
//! Whoever takes such a write has a quorum promise to accept nothing older, judges the condition by what they hold together, has a quorum
//! accept the write, and then has it made as any other. If something was accepted before of which it is not known whether it was made, that is
//! made first.

use std::{sync::Arc, time::Duration};

use allidb_index::{
    Deadline, EntityKey, EntityState, Error, Extent, Mutation, Promise, Result, Version, model::Written,
};
use bytes::Bytes;
use tokio::{
    sync::{Mutex, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Inner, Ring, choose::Asked, counts::count, quorum::Quorum, read::too_few, write::Writing, wrong::Wrong,
};
use crate::{
    asker::OnBehalf,
    coordinator::{Consistency, WriteOptions},
    layout::NodeId,
    peer::{
        Client, Served, outcome,
        proto::{self, DecideReply, DecideRequest, decide_request::Step, outcome::Kind},
    },
};

/// How long whoever was outbid waits at first, and at most; the time doubles.
const PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// Whose turn it is to decide about entities of the same hash.
const TURNS: usize = 1_024;

/// Has those that decide about one entity do so one after the other.
pub(super) struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self(std::iter::repeat_with(Mutex::default).take(TURNS).collect())
    }
}

impl Turns {
    fn of(&self, mutation: &Mutation) -> &Mutex<()> {
        let token = mutation.entities().next().map_or(0, EntityKey::token);
        let at = usize::try_from(token % self.0.len() as u64).unwrap_or_default();
        // There are as many.
        self.0.get(at).unwrap_or(&NO_TURN)
    }
}

static NO_TURN: Mutex<()> = Mutex::const_new(());

/// What a quorum promised.
struct Prepared {
    /// What they hold together.
    state: EntityState,
    /// What one of them accepted, and none knows to have been made.
    in_progress: Option<Mutation>,
    /// The newest ballot that one of them committed.
    committed: Version,
    /// The versions of writes that were made: of those above `made_since` all.
    made: Vec<Version>,
    made_since: Version,
}

impl Ring {
    /// Makes a write if its precondition is met by what a quorum holds: after all such writes of the entity that were answered before.
    ///
    /// # Errors
    /// [`Error::Exists`] or [`Error::VersionMismatch`] if it is not. What is answered with [`Error::Unavailable`] or [`Error::DeadlineExceeded`] may
    /// have been made, or may be later.
    pub(super) async fn decide(&self, mutation: Mutation, options: WriteOptions) -> Result<Written> {
        let writing = Writing::begin(&self.0);
        // It goes on when the caller goes away: what was accepted is to be made.
        let ring = self.now();
        let deciding = async move {
            // Of those that this node makes at a time one would only outbid the other.
            let turn = writing.0.turns.of(&mutation);
            let turn = timeout(options.deadline.remaining(), turn.lock()).await;
            let _turn = turn.map_err(|_| Error::DeadlineExceeded)?;
            let (mut ring, mut mutation, mut tried) = (ring, mutation, Vec::new());
            loop {
                let decided = ring.0.decide(&mut mutation, &mut tried, options).await;
                let is_of_older = matches!(decided, Err(Error::Unavailable(_))) && ring.is_outdated();
                if !is_of_older || options.deadline.has_passed() {
                    return decided;
                }
                ring = ring.now();
                mutation = ring.replica().planned_anew(mutation);
            }
        };
        let decided = tokio::spawn(deciding.in_current_call());
        decided.await.unwrap_or_else(|_| Err(Error::Internal("a write ended without an answer".to_owned())))
    }
}

impl Inner {
    /// `tried` are the versions as which some may have accepted it, and whether the entity was there then.
    async fn decide(
        self: &Arc<Self>,
        mutation: &mut Mutation,
        tried: &mut Vec<(Version, bool)>,
        options: WriteOptions,
    ) -> Result<Written> {
        let deadline = options.deadline;
        let Some(entity) = mutation.entities().next().cloned() else {
            return Err(Error::Internal("a write on a condition names no entity".to_owned()));
        };
        let mut pause = PAUSE;
        loop {
            let ballot = mutation.version();
            match self.try_once(&entity, mutation, tried, options).await {
                Ok(Asked::Done(written)) => {
                    count(&self.served.counters.writes_decided);
                    return Ok(written);
                }
                Ok(Asked::Outbid(newest)) => {
                    self.served.check_ahead(newest)?;
                    self.served.replica.observe_version(newest);
                }
                // Somebody may have made it, and others have come after it.
                Err(error) if !tried.is_empty() && is_refusal(&error) => {
                    return Err(Error::Unavailable(format!(
                        "nobody knows whether the write was made; {error}"
                    )));
                }
                Err(error) => return Err(error),
            }
            count(&self.served.counters.ballots_lost);
            deadline.check()?;
            // At random, so that those who outbid each other do not go on doing so.
            let jitter = pause.mul_f64((ballot.millis() ^ self.served.node.0) as u8 as f64 / 256.0);
            sleep((pause / 2 + jitter).min(deadline.remaining())).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            *mutation = self.served.replica.planned_anew(mutation.clone());
        }
    }

    async fn try_once(
        self: &Arc<Self>,
        entity: &EntityKey,
        mutation: &Mutation,
        tried: &mut Vec<(Version, bool)>,
        options: WriteOptions,
    ) -> Result<Asked<Written>> {
        let ballot = mutation.version();
        let prepared = match self.prepare(entity, ballot, options.deadline).await? {
            Asked::Done(prepared) => prepared,
            Asked::Outbid(newest) => return Ok(Asked::Outbid(newest)),
        };
        let Prepared { state, in_progress, committed, made: known, made_since } = prepared;
        let made = |version: Version, existed: bool| Written { version, existed, overtaken_by: None };
        if let Some(accepted) = in_progress {
            if let Asked::Outbid(newest) =
                self.have_accepted(entity, ballot, (&accepted, known.as_slice()), options.deadline).await?
            {
                return Ok(Asked::Outbid(newest));
            }
            let version = accepted.version();
            self.have_made(entity, ballot, accepted, options).await?;
            // As it was asked for, at as many as were.
            return Ok(match tried.iter().find(|(tried, _)| *tried == version) {
                Some((_, existed)) => Asked::Done(made(version, *existed)),
                None => Asked::Outbid(ballot),
            });
        }
        if let Some((version, existed)) = tried.iter().find(|(tried, _)| known.contains(tried)) {
            // Whoever made it for this one may have been content with fewer.
            if options.consistency > Consistency::Quorum {
                self.read_all(entity, options.deadline).await?;
            }
            return Ok(Asked::Done(made(*version, *existed)));
        }
        // It may have been made, and what it made be gone since then: it must not be made again.
        if tried.first().is_some_and(|(oldest, _)| *oldest <= made_since) {
            let why = "nobody knows whether the write was made: many have come after it";
            return Err(Error::Unavailable(why.to_owned()));
        }
        // It was not made; nor will it be, if a newer one was.
        tried.retain(|(version, _)| *version >= committed);
        // Whoever wrote that without a condition is newer.
        if state.highest_version() >= ballot {
            return Ok(Asked::Outbid(state.highest_version()));
        }
        let replica = &self.served.replica;
        replica.check_precondition(mutation, &state)?;
        let is_live = replica.is_live(&state);
        if mutation.needs_entity() && !is_live {
            let subject = mutation.subject();
            return Err(Error::NotFound { collection: subject.collection.clone(), id: subject.id.clone() });
        }
        let settled = match replica.has_expired(&state) {
            true => replica.settled_over_expired(mutation, state.highest_version(), ballot, None),
            false => mutation.clone().settled(),
        };
        let accepted =
            self.have_accepted(entity, ballot, (&settled, known.as_slice()), options.deadline).await;
        if !matches!(accepted, Ok(Asked::Done(()))) {
            tried.push((ballot, is_live));
        }
        match accepted? {
            Asked::Outbid(newest) => Ok(Asked::Outbid(newest)),
            Asked::Done(()) => {
                let done = self.have_made(entity, ballot, settled, options).await;
                done.inspect_err(|_| tried.push((ballot, is_live)))?;
                Ok(Asked::Done(made(ballot, is_live)))
            }
        }
    }

    /// Has all replicas hold what they hold together of an entity.
    async fn read_all(self: &Arc<Self>, entity: &EntityKey, deadline: Deadline) -> Result<EntityState> {
        let extent = Extent { contents: true, edges: false };
        let read = self.states(vec![entity.clone()], extent, Consistency::All, deadline).await.pop();
        read.unwrap_or_else(|| Err(Error::Internal("an entity was given no answer".to_owned())))
    }

    /// Has a quorum promise to accept nothing older than a ballot.
    async fn prepare(
        self: &Arc<Self>,
        entity: &EntityKey,
        ballot: Version,
        deadline: Deadline,
    ) -> Result<Asked<Prepared>> {
        let step = Step::Prepare(proto::Prepare {});
        let replies = match self.ask_acceptors(entity, ballot, step, deadline).await? {
            Asked::Outbid(newest) => return Ok(Asked::Outbid(newest)),
            Asked::Done(replies) => replies,
        };
        let promises = replies.into_iter().map(|(node, reply)| Ok((node, promise(reply)?)));
        let (nodes, promises): (Vec<NodeId>, Vec<Promise>) =
            promises.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let committed = promises.iter().map(|promise| promise.committed).max().unwrap_or_default();
        let accepted = promises.iter().filter_map(|promise| promise.accepted.as_ref());
        let newest = accepted.filter(|(ballot, _)| *ballot > committed).max_by_key(|(ballot, _)| *ballot);
        let in_progress = newest.map(|(_, mutation)| Mutation::decode(mutation)).transpose();
        let garbled = |error| Error::Unavailable(format!("what was accepted before cannot be read: {error}"));
        let in_progress = in_progress.map_err(garbled)?;
        let mut made: Vec<Version> =
            promises.iter().flat_map(|promise| promise.made.iter().copied()).collect();
        made.sort_unstable();
        made.dedup();
        let made_since = promises.iter().map(|promise| promise.made_since).max().unwrap_or_default();
        let mut states = promises.into_iter().map(|promise| promise.state);
        let mut state = states.next().unwrap_or_default();
        if states.any(|other| other != state) {
            // What follows from what one of them holds must not be forgotten if that one is.
            let needed = nodes.len();
            let asked = vec![(entity.clone(), Quorum::of_nodes(nodes, needed))];
            let read = self.read_from(asked, Extent { contents: true, edges: false }, deadline).await.pop();
            let missing = || Error::Internal("an entity was given no answer".to_owned());
            (state, _) = read.unwrap_or_else(|| Err(missing()))?;
        }
        Ok(Asked::Done(Prepared { state, in_progress, committed, made, made_since }))
    }

    /// Has a quorum accept a mutation under a ballot.
    async fn have_accepted(
        self: &Arc<Self>,
        entity: &EntityKey,
        ballot: Version,
        (mutation, made): (&Mutation, &[Version]),
        deadline: Deadline,
    ) -> Result<Asked<()>> {
        // What one of those that promised knows to be made must not be forgotten if that one is.
        let made = made.iter().map(|version| Bytes::copy_from_slice(&version.to_bytes())).collect();
        let step = Step::Accept(proto::Accept { mutation: encoded(mutation)?.into(), made });
        Ok(match self.ask_acceptors(entity, ballot, step, deadline).await? {
            Asked::Done(_) => Asked::Done(()),
            Asked::Outbid(_) if self.is_wrong(Wrong::OutbidIsAccepted) => Asked::Done(()),
            Asked::Outbid(newest) => Asked::Outbid(newest),
        })
    }

    /// Asks all acceptors, until a quorum has done what it was asked for.
    async fn ask_acceptors(
        self: &Arc<Self>,
        entity: &EntityKey,
        ballot: Version,
        step: Step,
        deadline: Deadline,
    ) -> Result<Asked<Vec<(NodeId, DecideReply)>>> {
        let quorum = self.deciders(entity.partition(), Consistency::Quorum);
        let asked = quorum.ask(|node| {
            let (inner, entity, step) = (Arc::clone(self), entity.clone(), step.clone());
            async move {
                let reply = inner.ask_acceptor(node, (entity, ballot), step, deadline).await?;
                Ok(match reply.is_done {
                    true => Asked::Done(reply),
                    false => Asked::Outbid(Version::from_bytes(&reply.promised).unwrap_or_default()),
                })
            }
        });
        asked.await
    }

    /// Has a mutation be made that was accepted, by as many as the consistency needs, but a quorum at least. Who does not is sent it later.
    async fn have_made(
        self: &Arc<Self>,
        entity: &EntityKey,
        ballot: Version,
        mutation: Mutation,
        options: WriteOptions,
    ) -> Result<()> {
        let quorum = self.deciders(entity.partition(), options.consistency.max(Consistency::Quorum));
        let replicas = quorum.nodes();
        let mutation = encoded(&mutation)?;
        let durability = proto::Durability::from(options.durability).into();
        let step = Step::Commit(proto::Commit { mutation: mutation.clone().into(), durability });
        let mut asked = JoinSet::new();
        for node in replicas.iter().copied() {
            let (inner, entity, step) = (Arc::clone(self), entity.clone(), step.clone());
            let ask = async move {
                (node, inner.ask_acceptor(node, (entity, ballot), step, options.deadline).await)
            };
            asked.spawn(ask.in_current_call());
        }
        let (answer, answered) = oneshot::channel();
        let writing = Writing::begin(self);
        tokio::spawn(async move {
            let (mut answer, mut why) = (Some(answer), None);
            let (mut missed, mut who) = (replicas, Vec::new());
            while let Some(made) = asked.join_next().await {
                match made {
                    Ok((node, Ok(_))) => {
                        missed.retain(|missed| *missed != node);
                        who.push(node);
                    }
                    Ok((_, Err(error))) => why = Some(error),
                    Err(error) => why = Some(Error::Internal(format!("a write broke off: {error}"))),
                }
                if quorum.is_met(&who) {
                    // The caller may have gone.
                    answer.take().and_then(|answer| answer.send(Ok(())).ok());
                }
            }
            let error = too_few(who.len(), quorum.needed(), why);
            answer.take().and_then(|answer| answer.send(Err(error)).ok());
            for node in missed {
                writing.0.keep_hints(node, vec![mutation.clone()]).await;
            }
        });
        answered.await.unwrap_or_else(|_| Err(Error::Internal("a write ended without an answer".to_owned())))
    }

    async fn ask_acceptor(
        &self,
        node: NodeId,
        (entity, ballot): (EntityKey, Version),
        step: Step,
        deadline: Deadline,
    ) -> Result<DecideReply> {
        let reply = if node == self.served.node {
            self.here_as_of(move |served| served.decide_step(&entity, ballot, step)).await?
        } else {
            self.record_clock().await?;
            let (entity, ballot) = (entity.encode().into(), Bytes::copy_from_slice(&ballot.to_bytes()));
            let request = DecideRequest { fence: None, entity, ballot, step: Some(step) };
            let ask = |mut peer: Client, fence| {
                let request = DecideRequest { fence, ..request.clone() };
                async move { peer.decide(request).await }
            };
            self.served.call(node, deadline, ask).await?
        };
        match reply.outcome.as_ref().and_then(|outcome| outcome.kind.as_ref()) {
            Some(Kind::Refusal(refusal)) => {
                Err(Error::Unavailable(format!("node {node} refused: {}", refusal.message)))
            }
            _ => Ok(reply),
        }
    }
}

impl Served {
    /// Does what an acceptor is asked for.
    pub(crate) fn decide_step(&self, entity: &EntityKey, ballot: Version, step: Step) -> Result<DecideReply> {
        self.check_sound(std::iter::once(entity.partition()))?;
        let sent = |version: Version| Bytes::copy_from_slice(&version.to_bytes());
        let garbled = |error| Error::invalid("a mutation", format!("cannot be read: {error}"));
        Ok(match step {
            Step::Prepare(_) => {
                let Promise { promised, is_given, accepted, committed, made, made_since, state } =
                    self.replica.promise(entity, ballot)?;
                let (accepted_ballot, accepted) = accepted.unwrap_or_default();
                DecideReply {
                    promised: sent(promised),
                    is_done: is_given,
                    accepted_ballot: sent(accepted_ballot),
                    accepted: accepted.into(),
                    committed: sent(committed),
                    state: state.encode().into(),
                    made: made.into_iter().map(sent).collect(),
                    made_since: sent(made_since),
                    outcome: None,
                }
            }
            Step::Accept(proto::Accept { mutation, made }) => {
                Mutation::decode(&mutation).map_err(garbled)?;
                let made =
                    made.iter().map(|version| Version::from_bytes(version)).collect::<Option<Vec<_>>>();
                let made = made.ok_or_else(|| Error::invalid("a version", "is none"))?;
                let outbid = self.replica.accept(entity, ballot, mutation.into(), &made)?;
                let (is_done, promised) = (outbid.is_none(), sent(outbid.unwrap_or(ballot)));
                DecideReply { promised, is_done, ..DecideReply::default() }
            }
            Step::Commit(commit) => {
                let durability = commit.durability().into();
                let mutation = Mutation::decode(&commit.mutation).map_err(garbled)?;
                let written = self.replica.commit(entity, ballot, mutation, durability);
                let (promised, is_done) = (sent(ballot), written.is_ok());
                DecideReply { promised, is_done, outcome: Some(outcome(written)), ..DecideReply::default() }
            }
        })
    }
}

fn encoded(mutation: &Mutation) -> Result<Vec<u8>> {
    let nothing = || Error::Internal("a write on a condition says nothing".to_owned());
    mutation.encode(|_| true)?.ok_or_else(nothing)
}

fn promise(reply: DecideReply) -> Result<Promise> {
    let garbled = |what: &str| Error::Unavailable(format!("an acceptor answered {what} that cannot be read"));
    let version = |bytes: &Bytes| Version::from_bytes(bytes).ok_or_else(|| garbled("a version"));
    let accepted = (version(&reply.accepted_ballot)?, reply.accepted.to_vec());
    Ok(Promise {
        promised: version(&reply.promised)?,
        is_given: reply.is_done,
        accepted: Some(accepted).filter(|(ballot, _)| *ballot > Version::ZERO),
        committed: version(&reply.committed)?,
        made: reply.made.iter().map(version).collect::<Result<_>>()?,
        made_since: version(&reply.made_since)?,
        state: EntityState::decode(&reply.state).map_err(|_| garbled("a state"))?,
    })
}

/// Whether this is what the entity says, not the replicas.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Exists { .. } | Error::VersionMismatch { .. } | Error::NotFound { .. })
}
