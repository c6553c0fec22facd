//! Answering what other nodes ask.

use std::sync::Arc;

use allidb_index::{EntityKey, EntityState, Error, Extent, Mutation, Replica, Version, model::Written};
use allidb_storage::Durability;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::{
    layout::{Layout, NodeId},
    peer::{
        Fence,
        connections::MAX_MESSAGE_BYTES,
        proto::{
            self, AbsorbReply, AbsorbRequest, Outcome, ReadReply, ReadRequest, Refusal, WriteReply,
            WriteRequest,
            outcome::Kind,
            peer_server::{Peer, PeerServer},
        },
    },
    pool::Pool,
};

/// How far ahead of this node's clock versions may be: clocks differ, and one that was restarted begins a second ahead.
const MAX_AHEAD_MS: u64 = 2_000;
/// Of more states at once only the first are told.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// What a node serves others with.
pub(crate) struct Served {
    pub(crate) node: NodeId,
    pub(crate) layout: Layout,
    pub(crate) replica: Arc<Replica>,
    pub(crate) work: Pool,
    /// Unless it is wrong on purpose.
    pub(crate) checks_fence: bool,
}

/// The service.
#[derive(Clone)]
pub(crate) struct PeerService(Arc<Served>);

impl PeerService {
    pub(crate) fn server(served: Arc<Served>) -> PeerServer<Self> {
        let server = PeerServer::new(Self(served));
        server.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn check(&self, fence: Option<&proto::Fence>) -> Result<(), Status> {
        if self.0.checks_fence {
            Fence::of(&self.0.layout).check(fence, self.0.replica.wall())
        } else {
            Ok(())
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served) -> allidb_index::Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let served = Arc::clone(&self.0);
        self.0.work.run(move || work(&served)).await.flatten().map_err(|error| status(&error))
    }
}

impl Served {
    /// Nobody is sent what belongs to others.
    fn check_held<'a>(&self, mut entities: impl Iterator<Item = &'a EntityKey>) -> Result<(), Status> {
        let is_held = |entity: &&EntityKey| self.layout.replicas(entity.partition()).contains(&self.node);
        match entities.find(|entity| !is_held(entity)) {
            Some(entity) => Err(Status::failed_precondition(format!(
                "node {} does not hold partition {}",
                self.node,
                entity.partition()
            ))),
            None => Ok(()),
        }
    }

    /// One version from far ahead would lift the clocks of all nodes.
    fn check_versions(&self, versions: impl Iterator<Item = Version>) -> Result<(), Status> {
        let now = self.replica.wall().now_ms();
        match versions.max() {
            Some(highest) if highest.millis() > now + MAX_AHEAD_MS => Err(Status::failed_precondition(
                format!("version {highest:?} is {} ms ahead of this node's clock", highest.millis() - now),
            )),
            _ => Ok(()),
        }
    }

    /// Digests of what lies here of entities: one after the other, so that they are not in memory all at once.
    fn digests(&self, entities: &[EntityKey], extent: Extent) -> allidb_index::Result<Vec<Vec<u8>>> {
        let digest = |entity: &EntityKey| {
            let held = self.replica.held(std::slice::from_ref(entity), extent)?;
            Ok(held.first().map(EntityState::digest).unwrap_or_default().to_be_bytes().to_vec())
        };
        entities.iter().map(digest).collect()
    }

    /// Merges mutations into what lies here.
    pub(crate) fn write(
        &self,
        mutations: Vec<Mutation>,
        durability: Durability,
    ) -> Vec<allidb_index::Result<Written>> {
        self.replica.receive(mutations, durability)
    }

    /// Merges states into what lies here, for good.
    pub(crate) fn absorb(&self, states: Vec<(EntityKey, EntityState)>) -> allidb_index::Result<()> {
        self.replica.absorb(states, Durability::Sync)
    }
}

/// What whoever asked can do about it is in the code alone; the rest is for the log.
fn status(error: &Error) -> Status {
    match error {
        Error::Exhausted(_) => Status::resource_exhausted(error.to_string()),
        Error::DeadlineExceeded => Status::deadline_exceeded(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}

fn garbled(what: &str) -> impl Fn(allidb_index::DecodeError) -> Status {
    move |error| Status::invalid_argument(format!("{what} cannot be read: {error}"))
}

fn entities(encoded: &[Bytes]) -> Result<Vec<EntityKey>, Status> {
    encoded.iter().map(|entity| EntityKey::decode(entity).map_err(garbled("the name of an entity"))).collect()
}

/// As [`proto::Durability`] says; what it does not know is the safest.
fn durability(named: i32) -> Durability {
    match proto::Durability::try_from(named) {
        Ok(proto::Durability::None) => Durability::None,
        Ok(proto::Durability::Flush) => Durability::Flush,
        Ok(proto::Durability::Sync) | Err(_) => Durability::Sync,
    }
}

fn outcome(result: allidb_index::Result<Written>) -> Outcome {
    let refused = |refusal| Kind::Refusal(refusal);
    let kind = match result {
        Ok(written) => Kind::Existed(written.existed),
        Err(Error::NotFound { .. }) => refused(Refusal { not_found: true, ..Refusal::default() }),
        Err(Error::Expired { .. }) => refused(Refusal { expired: true, ..Refusal::default() }),
        Err(Error::Merged { into, .. }) => refused(Refusal { merged_into: into, ..Refusal::default() }),
        Err(error) => {
            let is_final = matches!(error, Error::UnknownCollection(_) | Error::Invalid { .. });
            refused(Refusal { message: error.to_string(), is_final, ..Refusal::default() })
        }
    };
    Outcome { kind: Some(kind) }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteReply>, Status> {
        let request = request.into_inner();
        self.check(request.fence.as_ref())?;
        let decode = |bytes: &Bytes| Mutation::decode(bytes).map_err(garbled("a mutation"));
        let mutations = request.mutations.iter().map(decode).collect::<Result<Vec<_>, Status>>()?;
        self.0.check_held(mutations.iter().flat_map(Mutation::entities))?;
        self.0.check_versions(mutations.iter().map(Mutation::highest_version))?;
        let durability = durability(request.durability);
        let results = self.work(move |served| Ok(served.write(mutations, durability))).await?;
        Ok(Response::new(WriteReply { outcomes: results.into_iter().map(outcome).collect() }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadReply>, Status> {
        let ReadRequest { fence, entities: named, contents, edges, digests } = request.into_inner();
        self.check(fence.as_ref())?;
        let named = entities(&named)?;
        self.0.check_held(named.iter())?;
        let extent = Extent { contents, edges };
        let held = move |served: &Served| match digests {
            false => served.replica.held_encoded(&named, extent, MAX_ANSWER_BYTES),
            true => served.digests(&named, extent),
        };
        let states = self.work(held).await?;
        Ok(Response::new(ReadReply { states: states.into_iter().map(Bytes::from).collect() }))
    }

    async fn absorb(&self, request: Request<AbsorbRequest>) -> Result<Response<AbsorbReply>, Status> {
        let AbsorbRequest { fence, entities: named, states } = request.into_inner();
        self.check(fence.as_ref())?;
        let named = entities(&named)?;
        self.0.check_held(named.iter())?;
        if named.len() != states.len() {
            return Err(Status::invalid_argument("there are not as many states as entities"));
        }
        let decode = |bytes: &Bytes| EntityState::decode(bytes).map_err(garbled("a state"));
        let states = states.iter().map(decode).collect::<Result<Vec<_>, Status>>()?;
        self.0.check_versions(states.iter().map(EntityState::highest_version))?;
        let states = named.into_iter().zip(states).collect();
        self.work(move |served| served.absorb(states)).await?;
        Ok(Response::new(AbsorbReply {}))
    }
}
