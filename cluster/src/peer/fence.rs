//! Whose calls are answered: those of nodes that go by the same topology, and whose clocks are about right.

use std::cmp::Ordering;

use allidb_index::{Clock, Deadline, Version};
use tonic::{Code, Status};

use crate::{layout::Topology, peer::proto};

/// How far apart the clocks of two nodes may be. Beyond, versions would not order writes as users made them.
pub(crate) const MAX_DRIFT_MS: u64 = 500;

/// The details of a refusal: whoever calls goes by an older topology than whoever is called, or by a newer one.
const BEHIND: &[u8] = b"behind";
const AHEAD: &[u8] = b"ahead";
/// Whoever is called has not heard of the catalogue.
const UNHEARD: &[u8] = b"unheard";

/// The topology, and how new a catalogue, that calls are made under, and are to be made under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    epoch: u64,
    digest: u64,
    catalogue: u64,
    purged: Version,
}

impl Fence {
    pub(crate) fn of(topology: &Topology, catalogue: u64, purged: Version) -> Self {
        Self { epoch: topology.epoch(), digest: topology.digest(), catalogue, purged }
    }

    /// What is sent with a call.
    pub(crate) fn sent(self, clock: &dyn Clock, deadline: Deadline) -> Option<proto::Fence> {
        let Self { epoch, digest, catalogue, purged } = self;
        let within_ms = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
        Some(proto::Fence {
            epoch,
            topology_digest: digest,
            now_ms: clock.now_ms(),
            catalogue_version: catalogue,
            within_ms,
            purged: purged.to_bytes().to_vec().into(),
        })
    }

    /// Whether a call that came with this is to be answered.
    pub(crate) fn check(self, sent: Option<&proto::Fence>, clock: &dyn Clock) -> Result<(), Status> {
        self.check_topology(sent, clock)?;
        let theirs = sent.map_or(0, |sent| sent.catalogue_version);
        if theirs > self.catalogue {
            let why = format!(
                "the call goes by catalogue {theirs}, this node has not heard of more than {}",
                self.catalogue
            );
            return Err(Status::with_details(Code::FailedPrecondition, why, UNHEARD.into()));
        }
        if theirs < self.catalogue {
            // Not what it may do something about but by taking this one over.
            return Err(Status::aborted(format!(
                "the call goes by catalogue {theirs}, this node by {}",
                self.catalogue
            )));
        }
        Ok(())
    }

    /// The same, whatever catalogue it goes by.
    pub(crate) fn check_topology(self, sent: Option<&proto::Fence>, clock: &dyn Clock) -> Result<(), Status> {
        let sent = sent.ok_or_else(|| Status::invalid_argument("the call names no topology"))?;
        let theirs = Self { epoch: sent.epoch, digest: sent.topology_digest, ..self };
        if theirs != self {
            let why = format!(
                "the call goes by the topology of epoch {} ({:016x}), this node by {} ({:016x})",
                theirs.epoch, theirs.digest, self.epoch, self.digest
            );
            return Err(match theirs.epoch.cmp(&self.epoch) {
                Ordering::Less => behind(why),
                Ordering::Equal => Status::failed_precondition(why),
                Ordering::Greater => Status::with_details(Code::Aborted, why, AHEAD.into()),
            });
        }
        // A call takes its time, too: only a clock that is ahead is told for sure.
        let now = clock.now_ms();
        if sent.now_ms > now + MAX_DRIFT_MS {
            let ahead = sent.now_ms - now;
            return Err(Status::failed_precondition(format!(
                "the caller's clock is {ahead} ms ahead of this node's"
            )));
        }
        Ok(())
    }
}

/// Refuses a call of whoever goes by an older topology than this node.
pub(crate) fn behind(why: String) -> Status {
    Status::with_details(Code::Aborted, why, BEHIND.into())
}

/// Whether a call was refused because whoever called goes by an older topology.
pub(crate) fn says_behind(status: &Status) -> bool {
    status.code() == Code::Aborted && status.details() == BEHIND
}

/// Whether a call was refused because whoever called goes by a newer catalogue.
pub(crate) fn says_unheard(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.details() == UNHEARD
}

/// Whether a call was refused because whoever called goes by a newer topology.
pub(crate) fn says_ahead(status: &Status) -> bool {
    status.code() == Code::Aborted && status.details() == AHEAD
}
