//! Whose calls are answered: those of nodes that go by the same layout, and whose clocks are about right.

use allidb_index::{Clock, Deadline, Version};
use tonic::Status;

use crate::{layout::Layout, peer::proto};

/// How far apart the clocks of two nodes may be. Beyond, versions would not order writes as users made them.
pub(crate) const MAX_DRIFT_MS: u64 = 500;

/// The layout, and how new a catalogue, that calls are made under, and are to be made under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    version: u64,
    digest: u64,
    catalogue: u64,
    purged: Version,
}

impl Fence {
    pub(crate) fn of(layout: &Layout, catalogue: u64, purged: Version) -> Self {
        Self { version: layout.version(), digest: layout.digest(), catalogue, purged }
    }

    /// What is sent with a call.
    pub(crate) fn sent(self, clock: &dyn Clock, deadline: Deadline) -> Option<proto::Fence> {
        let Self { version, digest, catalogue, purged } = self;
        let within_ms = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
        Some(proto::Fence {
            layout_version: version,
            layout_digest: digest,
            now_ms: clock.now_ms(),
            catalogue_version: catalogue,
            within_ms,
            purged: purged.to_bytes().to_vec().into(),
        })
    }

    /// Whether a call that came with this is to be answered.
    pub(crate) fn check(self, sent: Option<&proto::Fence>, clock: &dyn Clock) -> Result<(), Status> {
        self.check_layout(sent, clock)?;
        let theirs = sent.map_or(0, |sent| sent.catalogue_version);
        if theirs > self.catalogue {
            return Err(Status::failed_precondition(format!(
                "the call goes by catalogue {theirs}, this node has not heard of more than {}",
                self.catalogue
            )));
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
    pub(crate) fn check_layout(self, sent: Option<&proto::Fence>, clock: &dyn Clock) -> Result<(), Status> {
        let sent = sent.ok_or_else(|| Status::invalid_argument("the call names no layout"))?;
        let theirs = Self { version: sent.layout_version, digest: sent.layout_digest, ..self };
        if theirs != self {
            return Err(Status::failed_precondition(format!(
                "the call goes by layout {} ({:016x}), this node by {} ({:016x})",
                theirs.version, theirs.digest, self.version, self.digest
            )));
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
