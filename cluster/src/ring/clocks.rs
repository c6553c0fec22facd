//! Whether this node's clock goes as those of the others do. Versions order writes as users made them only as far as clocks agree: a node whose
//! clock is wrong plans none.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{Deadline, Error, Result};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};

use super::{Inner, Ring};
use crate::{
    layout::NodeId,
    peer::{Client, MAX_DRIFT_MS, proto::ClockRequest},
};

/// How long what a node said of its clock is believed.
const BELIEVED: Duration = Duration::from_secs(10);

/// How far another node's clock is from this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// Whose.
    pub node: NodeId,
    /// Milliseconds that its clock is ahead of this node's.
    pub ahead_ms: i64,
    /// The same may be so much more, or less: nobody knows how long each way took.
    pub within_ms: u64,
}

impl ClockOffset {
    /// What a node's clock says when it is asked between two moments of this one's.
    fn new(node: NodeId, (asked, told, answered): (u64, u64, u64)) -> Self {
        let took = answered.saturating_sub(asked);
        let middle = asked + took / 2;
        Self { node, ahead_ms: told.wrapping_sub(middle).cast_signed(), within_ms: took.div_ceil(2) }
    }

    fn is_surely_ahead(&self) -> bool {
        self.ahead_ms.saturating_sub_unsigned(self.within_ms) > MAX_DRIFT_MS.cast_signed()
    }

    fn is_surely_behind(&self) -> bool {
        self.ahead_ms.saturating_add_unsigned(self.within_ms) < -MAX_DRIFT_MS.cast_signed()
    }
}

/// What others said of their clocks.
#[derive(Debug, Default)]
pub(super) struct Clocks(Mutex<BTreeMap<NodeId, (ClockOffset, Instant)>>);

impl Clocks {
    fn note(&self, offset: ClockOffset) {
        self.0.lock().insert(offset.node, (offset, Instant::now()));
    }

    fn offsets(&self) -> Vec<ClockOffset> {
        let known = self.0.lock();
        known.values().filter(|(_, at)| at.elapsed() < BELIEVED).map(|(offset, _)| *offset).collect()
    }
}

impl Inner {
    async fn compare_clock(&self, node: NodeId, deadline: Deadline) -> Result<()> {
        let wall = self.served.replica.wall();
        let asked = wall.now_ms();
        let request = ClockRequest { node: self.served.node.0, life: self.served.life };
        let ask = |mut peer: Client, _| async move { peer.clock(request).await };
        let told = self.served.call(node, deadline, ask).await?;
        self.clocks.note(ClockOffset::new(node, (asked, told.now_ms, wall.now_ms())));
        let known = self.served.newest.read().epoch();
        match told.epoch > known {
            true => self.exchange_topologies(node, deadline).await,
            false => Ok(()),
        }
    }
}

impl Ring {
    /// Asks the others what their clocks say. Those that do not answer are asked again the next time.
    pub async fn compare_clocks(&self, deadline: Deadline) {
        let mut asked = JoinSet::new();
        for node in self.topology().nodes().into_iter().filter(|node| *node != self.node()) {
            let inner = Arc::clone(&self.0);
            asked.spawn(async move {
                if let Err(error) = inner.compare_clock(node, deadline).await {
                    tracing::debug!(%node, %error, "a node does not say what its clock says");
                }
            });
        }
        while asked.join_next().await.is_some() {}
    }

    /// How far the clocks of others are from this node's, of those that said so lately.
    pub fn clocks(&self) -> Vec<ClockOffset> {
        self.0.clocks.offsets()
    }

    /// Whether versions may be planned here: unless most of the others, of those that say what their clocks say, are far ahead, or far behind.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if they are: another node does what this one does not.
    pub fn check_clock(&self) -> Result<()> {
        self.0.check_clock()
    }
}

impl Inner {
    /// See [`Ring::check_clock`].
    pub(super) fn check_clock(&self) -> Result<()> {
        let offsets = self.clocks.offsets();
        let sides = [
            ("behind", ClockOffset::is_surely_ahead as fn(&ClockOffset) -> bool),
            ("ahead of", ClockOffset::is_surely_behind),
        ];
        for (side, is_wrong) in sides {
            let mut away: Vec<u64> = offsets
                .iter()
                .filter(|offset| is_wrong(offset))
                .map(|offset| offset.ahead_ms.unsigned_abs())
                .collect();
            if away.len() * 2 > offsets.len() {
                away.sort_unstable();
                let least = away.first().copied().unwrap_or_default();
                let (node, wrong, all) = (self.served.node, away.len(), offsets.len());
                return Err(Error::Unavailable(format!(
                    "the clock of node {node} is {least} ms or more {side} those of {wrong} of {all} others: it plans no writes until it agrees"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_only_if_it_is_however_long_each_way_took() {
        let of = |times| ClockOffset::new(NodeId(1), times);
        assert_eq!(of((1_000, 1_500, 2_000)), ClockOffset { node: NodeId(1), ahead_ms: 0, within_ms: 500 });
        let slow = of((1_000, 2_400, 2_000));
        assert_eq!((slow.ahead_ms, slow.is_surely_ahead()), (900, false));
        assert!(of((1_000, 2_501, 2_000)).is_surely_ahead());
        assert!(!of((1_000, 500, 2_000)).is_surely_behind());
        assert!(of((1_000, 499, 2_000)).is_surely_behind());
        // A clock that was set back meanwhile.
        assert_eq!(of((2_000, 1_000, 1_000)).ahead_ms, -1_000);
    }
}
