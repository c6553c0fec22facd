//! When keys of callers were used last: each node tells the others what it has heard.

use std::sync::Arc;

use allidb_index::Deadline;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::Ring;
use crate::peer::{Client, proto::TellKeyUsesRequest};

impl Ring {
    /// Tells the other members, and hears what they know. Those that do not answer are told the next time.
    pub(crate) async fn exchange_key_uses(&self, deadline: Deadline) {
        let served = &self.0.served;
        let uses: Bytes = served.replica.encoded_key_uses().into();
        let mut told = JoinSet::new();
        for node in served.topology.nodes().into_iter().filter(|node| *node != served.node) {
            let (served, uses) = (Arc::clone(served), uses.clone());
            told.spawn(async move {
                let tell = |mut peer: Client, fence| {
                    let request = TellKeyUsesRequest { fence, uses: uses.clone() };
                    async move { peer.tell_key_uses(request).await }
                };
                let heard = served.call(node, deadline, tell).await;
                if let Err(error) = heard.and_then(|reply| served.replica.adopt_key_uses(&reply.uses)) {
                    tracing::debug!(%error, %node, "does not tell when keys were used");
                }
            });
        }
        while told.join_next().await.is_some() {}
    }
}
