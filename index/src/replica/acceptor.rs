//! An acceptor of CASPaxos (Rystsov, "CASPaxos: Replicated State Machines without logs", 2018), one for each entity that was ever written on a
//! condition: what replicas promise, accept and commit, so that such writes to an entity come one after the other.
//!
//! A ballot is a version, and a write's own: so what is committed later is newer. What is chosen is a mutation; its effect is that of
//! any other write.

use std::ops::Bound;

use allidb_storage::{Direction, Durability, Snapshot, WriteBatch};
use serde::{Deserialize, Serialize};

use crate::{
    codec::{DecodeError, Decoder, put_bytes, put_varint},
    deadline::Deadline,
    error::{Error, Result},
    merge::EntityState,
    model::{TenantId, Written},
    mutation::Mutation,
    replica::{Extent, Replica},
    row::{EntityKey, key::decode_entity},
    version::Version,
};

const FORMAT: u8 = 1;
/// Writes that were made that an acceptor remembers.
const MOST_MADE: usize = 64;

/// Bytes of acceptors that are told at a time.
const MOST_BYTES: usize = 1 << 20;

/// Asks what the acceptors of some partitions keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AcceptorsRequest {
    /// Which partitions, ascending.
    pub partitions: Vec<u16>,
    /// Of entities after this one.
    pub after: Option<EntityKey>,
}

/// What an acceptor keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Acceptor {
    /// Nothing below is accepted.
    pub(super) promised: Version,
    /// The newest ballot that was accepted, and what; [`Version::ZERO`] and nothing if it was committed, or none was.
    accepted: (Version, Vec<u8>),
    /// The newest ballot that was committed.
    committed: Version,
    /// The versions of the newest writes that were made, ascending: whoever was outbid finds out whether its own is among them.
    made: Vec<Version>,
}

/// What an acceptor answers.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// The newest ballot that it knows of.
    pub promised: Version,
    /// Whether it promised.
    pub is_given: bool,
    /// The newest ballot that it accepted and knows of no commitment of, and what that was, as [`Mutation::encode`] gave it.
    pub accepted: Option<(Version, Vec<u8>)>,
    /// The newest ballot that it committed.
    pub committed: Version,
    /// The versions of writes that were made, ascending: of those above `made_since` all that it knows of.
    pub made: Vec<Version>,
    /// Up to where it may have forgotten some.
    pub made_since: Version,
    /// The entity's own row, as it was when it promised.
    pub state: EntityState,
}

impl Acceptor {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        for version in [self.promised, self.committed, self.accepted.0] {
            out.extend_from_slice(&version.to_bytes());
        }
        put_bytes(&mut out, &self.accepted.1);
        put_varint(&mut out, self.made.len() as u64);
        self.made.iter().for_each(|version| out.extend_from_slice(&version.to_bytes()));
        out
    }

    /// Takes note of writes that were made.
    fn note_made(&mut self, versions: &[Version]) {
        self.made.extend(versions);
        self.made.sort_unstable();
        self.made.dedup();
        let beyond = self.made.len().saturating_sub(MOST_MADE);
        self.made.drain(..beyond);
    }

    /// Takes over what another one keeps.
    fn absorb(&mut self, other: Self) {
        self.promised = self.promised.max(other.promised);
        self.committed = self.committed.max(other.committed);
        if other.accepted.0 > self.accepted.0 {
            self.accepted = other.accepted;
        }
        if self.accepted.0 <= self.committed {
            self.accepted = Default::default();
        }
        self.note_made(&other.made);
    }

    /// Up to where it may have forgotten some of them.
    fn made_since(&self) -> Version {
        let is_full = self.made.len() == MOST_MADE;
        self.made.first().filter(|_| is_full).map_or(Version::ZERO, |oldest| oldest.just_below())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes);
        match from.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Tag(other)),
        }
        let (promised, committed, ballot) = (from.version()?, from.version()?, from.version()?);
        let accepted = (ballot, from.bytes()?.to_vec());
        let made = (0..from.count(Version::BYTES)?).map(|_| from.version()).collect::<Result<_, _>>()?;
        from.finish()?;
        Ok(Self { promised, accepted, committed, made })
    }
}

impl Replica {
    /// Promises to accept nothing below a ballot, durably, and tells what it knows; unless it has promised more, or takes nothing any more that is
    /// so old.
    ///
    /// # Errors
    /// If what it knows cannot be read, or the promise not be written.
    pub fn promise(&self, entity: &EntityKey, ballot: Version) -> Result<Promise> {
        let closed = self.watermarks.closed();
        let _latched = self.acceptors.acquire(std::iter::once(entity));
        let mut acceptor = self.acceptor(entity)?;
        // Whoever asks again, as the answer was lost, gets the same.
        if ballot < acceptor.promised || ballot <= *closed {
            let promised = acceptor.promised.max(*closed);
            return Ok(Promise { promised, is_given: false, ..Promise::default() });
        }
        acceptor.promised = ballot;
        self.keep_acceptor(entity, &acceptor, Durability::Sync)?;
        // After: what others make from now on, they make knowing of the promise.
        let state = self.held(std::slice::from_ref(entity), Extent::NOTHING)?.pop().unwrap_or_default();
        let made_since = acceptor.made_since().max(self.purged());
        let Acceptor { accepted: (ballot_of, mutation), committed, made, .. } = acceptor;
        // Such old ones that were made anywhere are everywhere by now, and others cannot be any more.
        let is_settled = || Mutation::version_of(&mutation).unwrap_or_default() <= self.purged();
        let is_open = ballot_of > committed && !is_settled();
        let accepted = is_open.then_some((ballot_of, mutation));
        Ok(Promise { promised: ballot, is_given: true, accepted, committed, made, made_since, state })
    }

    /// Accepts a mutation under a ballot, and that writes of these versions were made, durably; unless it has promised more, or takes nothing any more that is so old. Gives the newest ballot
    /// that it knows of if it does not.
    ///
    /// # Errors
    /// If what it knows cannot be read, or that not be written.
    pub fn accept(
        &self,
        entity: &EntityKey,
        ballot: Version,
        mutation: Vec<u8>,
        made: &[Version],
    ) -> Result<Option<Version>> {
        let closed = self.watermarks.closed();
        let _latched = self.acceptors.acquire(std::iter::once(entity));
        let mut acceptor = self.acceptor(entity)?;
        if ballot < acceptor.promised || ballot <= *closed {
            return Ok(Some(acceptor.promised.max(*closed)));
        }
        acceptor.promised = ballot;
        acceptor.accepted = (ballot, mutation);
        acceptor.note_made(made);
        self.keep_acceptor(entity, &acceptor, Durability::Sync)?;
        Ok(None)
    }

    /// Makes a mutation that a quorum has accepted under a ballot.
    ///
    /// # Errors
    /// As for any write, and if what it knows cannot be read or written.
    pub fn commit(
        &self,
        entity: &EntityKey,
        ballot: Version,
        mutation: Mutation,
        durability: Durability,
    ) -> Result<Written> {
        let missing = || Error::Internal("a write was given no answer".to_owned());
        let version = mutation.version();
        let written = self.receive(vec![mutation], durability).pop().unwrap_or_else(|| Err(missing()))?;
        let _latched = self.acceptors.acquire(std::iter::once(entity));
        let mut acceptor = self.acceptor(entity)?;
        acceptor.note_made(&[version]);
        if ballot > acceptor.committed {
            acceptor.committed = ballot;
            acceptor.promised = acceptor.promised.max(ballot);
            if acceptor.accepted.0 <= ballot {
                acceptor.accepted = Default::default();
            }
        }
        // If it forgets this, the write is made once more.
        self.keep_acceptor(entity, &acceptor, Durability::None)?;
        Ok(written)
    }

    /// What the acceptors of some entities keep, partition by partition in the order of their names; none if there are no more.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn acceptors(
        &self,
        _: TenantId,
        request: &AcceptorsRequest,
        deadline: Deadline,
    ) -> Result<Vec<(EntityKey, Vec<u8>)>> {
        let after = request.after.as_ref();
        let begins_at = after.map_or(0, EntityKey::partition);
        let snapshot = self.engine.snapshot();
        let (mut found, mut bytes) = (Vec::new(), 0);
        for partition in request.partitions.iter().filter(|partition| **partition >= begins_at) {
            let prefix = partition.to_be_bytes();
            let after = after.filter(|after| after.partition() == *partition).map(EntityKey::prefix);
            let lower = after.as_deref().map_or(Bound::Included(&prefix[..]), Bound::Excluded);
            for row in snapshot.scan(self.keyspaces.paxos, lower, Bound::Unbounded, Direction::Forward)? {
                deadline.check()?;
                let (key, value) = row?;
                if !key.starts_with(&prefix) {
                    break;
                }
                if bytes > MOST_BYTES {
                    return Ok(found);
                }
                let corrupt = |error| Error::corrupt("paxos", &key, error);
                bytes += key.len() + value.len();
                found.push((decode_entity(&mut Decoder::new(&key)).map_err(corrupt)?, value.to_vec()));
            }
        }
        Ok(found)
    }

    /// Takes over what acceptors of other replicas keep: from now on it is as if these here had promised and accepted that, too.
    ///
    /// # Errors
    /// If it cannot be read, or not be written.
    pub fn absorb_acceptors(&self, told: &[(EntityKey, Vec<u8>)]) -> Result<()> {
        for (entity, bytes) in told {
            let garbled = |error| Error::invalid("acceptor", format!("cannot be read: {error}"));
            let other = Acceptor::decode(bytes).map_err(garbled)?;
            let _latched = self.acceptors.acquire(std::iter::once(entity));
            let mut acceptor = self.acceptor(entity)?;
            acceptor.absorb(other);
            match self.keep_acceptor(entity, &acceptor, Durability::None) {
                // With its collection all of it has gone.
                Err(Error::UnknownCollection(_)) => {}
                kept => kept?,
            }
        }
        Ok(self.engine.sync()?)
    }

    /// Removes acceptors that know of nothing newer than a version up to which nothing is taken any more, ballots neither. Gives how many.
    pub(super) fn forget_acceptors(&self, snapshot: &Snapshot, prefix: &[u8], upto: Version) -> Result<u64> {
        let mut count = 0;
        for row in snapshot.prefix(self.keyspaces.paxos, prefix, Direction::Forward)? {
            self.check_open()?;
            let (key, bytes) = row?;
            let corrupt = |error| Error::corrupt("paxos", &key, error);
            if Acceptor::decode(&bytes).map_err(corrupt)?.promised > upto {
                continue;
            }
            let entity = decode_entity(&mut Decoder::new(&key)).map_err(corrupt)?;
            let _latched = self.acceptors.acquire(std::iter::once(&entity));
            if self.acceptor(&entity)?.promised <= upto {
                let mut batch = WriteBatch::new();
                batch.delete(self.keyspaces.paxos, key.to_vec());
                batch.use_reserve();
                self.engine.write(batch, Durability::None)?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn acceptor(&self, entity: &EntityKey) -> Result<Acceptor> {
        let key = entity.prefix();
        match self.engine.get(self.keyspaces.paxos, &key)? {
            None => Ok(Acceptor::default()),
            Some(bytes) => Acceptor::decode(&bytes).map_err(|error| Error::corrupt("paxos", &key, error)),
        }
    }

    fn keep_acceptor(&self, entity: &EntityKey, acceptor: &Acceptor, durability: Durability) -> Result<()> {
        // Held until it is visible, so that no collection is dropped under it.
        let _gate = self.catalogue_gate.read();
        if self.is_dropped(entity) {
            return Err(Error::UnknownCollection(entity.collection.0.to_string()));
        }
        let mut batch = WriteBatch::new();
        batch.put(self.keyspaces.paxos, entity.prefix(), acceptor.encode());
        self.engine.write(batch, durability)?;
        Ok(())
    }
}
