//! Having one node make writes.

use allidb_index::{Deadline, Error, Mutation, Result, Version, model::Written};
use allidb_storage::Durability;
use bytes::Bytes;
use tokio::time::timeout;

use super::{Inner, verdict::Told};
use crate::{
    layout::NodeId,
    peer::{
        Client,
        proto::{self, Refusal, WriteReply, WriteRequest, outcome::Kind},
    },
};

impl Inner {
    /// What a node says to writes, one by one.
    pub(super) async fn send(
        &self,
        node: NodeId,
        encoded: Vec<Bytes>,
        durability: Durability,
        deadline: Deadline,
    ) -> Vec<Told> {
        let count = encoded.len();
        let told = match node == self.served.node {
            true => self.write_here(encoded, durability).await,
            false => match self.record_clock().await {
                Ok(()) => self.write_there(node, encoded, durability, deadline).await,
                Err(error) => Err(error),
            },
        };
        told.unwrap_or_else(|error| vec![Told::Failed(error); count])
    }

    /// Before others hear of a version: after the next start this node gives none that is older.
    pub(super) async fn record_clock(&self) -> Result<()> {
        match self.served.replica.is_clock_recorded() {
            true => Ok(()),
            false => self.here(|served| served.replica.record_clock()).await,
        }
    }

    async fn write_here(&self, encoded: Vec<Bytes>, durability: Durability) -> Result<Vec<Told>> {
        let told = |result| match result {
            Ok(Written { existed, overtaken_by, .. }) => Told::Made { existed, overtaken_by },
            Err(Error::NotFound { .. }) => Told::Missing,
            Err(Error::Expired { .. }) => Told::Expired,
            Err(Error::Merged { into, .. }) => Told::Merged(into),
            Err(error) => Told::Failed(error),
        };
        let ours = |error| Error::Internal(format!("our own mutation cannot be read: {error}"));
        let write = move |served: &crate::peer::Served| {
            let mutations = encoded.iter().map(|bytes| Mutation::decode(bytes).map_err(ours));
            let mutations = mutations.collect::<Result<Vec<_>>>()?;
            Ok(served.write(mutations, durability).into_iter().map(told).collect())
        };
        self.here_as_of(write).await
    }

    /// Asks a node to write once there is room for that on the way.
    async fn write_request(
        &self,
        node: NodeId,
        request: WriteRequest,
        deadline: Deadline,
    ) -> Result<WriteReply> {
        let bytes = request.mutations.iter().map(Bytes::len).sum();
        let (room, kib) = self.served.peers.get(node)?.room(bytes);
        let within = self.served.call_timeout.min(deadline.remaining());
        let busy = || Error::Exhausted(format!("too much is under way to node {node}"));
        let _room = match timeout(within, room.acquire_many(kib)).await {
            Ok(Ok(room)) => room,
            // It is never closed.
            Ok(Err(_)) | Err(_) => return Err(busy()),
        };
        self.served
            .call(node, deadline, |mut peer: Client, fence| {
                let request = WriteRequest { fence, ..request.clone() };
                async move { peer.write(request).await }
            })
            .await
    }

    async fn write_there(
        &self,
        node: NodeId,
        mutations: Vec<Bytes>,
        durability: Durability,
        deadline: Deadline,
    ) -> Result<Vec<Told>> {
        let durability = proto::Durability::from(durability);
        let count = mutations.len();
        let versions: Vec<Version> =
            mutations.iter().map(|mutation| Mutation::version_of(mutation).unwrap_or_default()).collect();
        let request = WriteRequest { fence: None, mutations, durability: durability.into() };
        let reply = self.write_request(node, request, deadline).await?;
        if reply.outcomes.len() != count {
            return Err(miscounted(node));
        }
        let told = |(outcome, version): (proto::Outcome, Version)| match outcome.kind {
            Some(Kind::Existed(existed)) => {
                Told::Made { existed, overtaken_by: Version::from_bytes(&outcome.overtaken_by) }
            }
            Some(Kind::Refusal(Refusal { not_found: true, .. })) => Told::Missing,
            Some(Kind::Refusal(Refusal { expired: true, .. })) => Told::Expired,
            Some(Kind::Refusal(Refusal { closed, .. })) if !closed.is_empty() => {
                let closed = Version::from_bytes(&closed).unwrap_or_default();
                Told::Failed(Error::Late { version, closed })
            }
            Some(Kind::Refusal(Refusal { merged_into, .. })) if !merged_into.is_empty() => {
                Told::Merged(merged_into)
            }
            Some(Kind::Refusal(Refusal { message, .. })) => {
                Told::Failed(Error::Unavailable(format!("node {node} refused: {message}")))
            }
            None => Told::Failed(miscounted(node)),
        };
        Ok(reply.outcomes.into_iter().zip(versions).map(told).collect())
    }
}

impl Inner {
    /// Which of the writes that were kept for it a node takes, or will never take; the others it may later.
    pub(super) async fn taken(
        &self,
        node: NodeId,
        mutations: Vec<Bytes>,
        deadline: Deadline,
    ) -> Result<Vec<Taken>> {
        if node == self.served.node {
            // It had too much to do when they were made.
            let taken = |told: Told| match told {
                Told::Made { .. } => Taken::Yes,
                Told::Failed(Error::UnknownCollection(_) | Error::Invalid { .. } | Error::Late { .. }) => {
                    Taken::Never
                }
                _ => Taken::NotYet,
            };
            let told = self.write_here(mutations, Durability::Sync).await?;
            return Ok(told.into_iter().map(taken).collect());
        }
        let count = mutations.len();
        let durability = proto::Durability::Sync.into();
        let request = WriteRequest { fence: None, mutations, durability };
        let reply = self.write_request(node, request, deadline).await?;
        if reply.outcomes.len() != count {
            return Err(miscounted(node));
        }
        let taken = |outcome: &proto::Outcome| match &outcome.kind {
            Some(Kind::Existed(_)) => Taken::Yes,
            Some(Kind::Refusal(Refusal { is_final: true, message, .. })) => {
                tracing::warn!(%node, message, "a write that was kept for a node is refused for good");
                Taken::Never
            }
            Some(Kind::Refusal(_)) | None => Taken::NotYet,
        };
        Ok(reply.outcomes.iter().map(taken).collect())
    }
}

fn miscounted(node: NodeId) -> Error {
    Error::Unavailable(format!("node {node} answered something else than it was asked"))
}

/// What a node did with a write that was kept for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    NotYet,
    Never,
}
