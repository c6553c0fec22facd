//! Answering what other nodes ask.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use allidb_index::{
    Deadline, EntityKey, EntityState, Error, Extent, Mutation, Version,
    model::{TenantId, Written},
};
use allidb_storage::Durability;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::asker::{Asker, OnBehalf};
use crate::layout::NodeId;
use crate::peer::{
    Served,
    connections::MAX_MESSAGE_BYTES,
    fence,
    proto::{
        self, AbsorbReply, AbsorbRequest, AdoptCatalogueReply, AdoptCatalogueRequest, AnswerReply,
        AnswerRequest, ChooseReply, ChooseRequest, ClockReply, ClockRequest, CopyReply, CopyRequest,
        DecideReply, DecideRequest, Outcome, PurgeReply, PurgeRequest, ReadCatalogueReply,
        ReadCatalogueRequest, ReadReply, ReadRequest, Refusal, TakenOverReply, TakenOverRequest,
        TellKeyUsesReply, TellKeyUsesRequest, TopologyReply, TopologyRequest, WriteReply, WriteRequest,
        answer_reply, copy_request,
        outcome::Kind,
        peer_server::{Peer, PeerServer},
    },
    question::Question,
};
use crate::ring::count;

/// Of more states at once only the first are told.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Nobody works longer for another node.
const MOST_PATIENCE: Duration = Duration::from_secs(600);

/// The service. Until the node is a member of a ring there is nothing to serve.
#[derive(Clone)]
pub(crate) struct PeerService(Arc<OnceLock<Arc<Served>>>);

impl PeerService {
    pub(crate) fn server(served: Arc<OnceLock<Arc<Served>>>) -> PeerServer<Self> {
        let server = PeerServer::new(Self(served));
        server.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn served(&self) -> Result<Arc<Served>, Status> {
        let served = self.0.get().map(|served| served.now());
        served.ok_or_else(|| Status::failed_precondition("the node is no member of a ring yet"))
    }

    fn check(&self, fence: Option<&proto::Fence>) -> Result<Arc<Served>, Status> {
        let served = self.served()?;
        if served.checks_fence {
            let checked = served.fence().check(fence, served.replica.wall());
            checked.inspect_err(|_| count(&served.counters.calls_refused))?;
        }
        Ok(served)
    }

    /// What is about the catalogue itself is answered whatever catalogue it goes by.
    fn check_topology(&self, fence: Option<&proto::Fence>) -> Result<Arc<Served>, Status> {
        let served = self.served()?;
        let checked = served.fence().check_topology(fence, served.replica.wall());
        checked.inspect_err(|_| count(&served.counters.calls_refused))?;
        Ok(served)
    }
}

impl Served {
    /// Does work for a call, unless its caller has given up by then; this node goes by no other topology before that is done.
    async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        fence: Option<&proto::Fence>,
        work: impl FnOnce(&Self) -> allidb_index::Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        self.run(fence, |served| served.as_of(work)).await
    }

    /// The same, whatever this node goes by meanwhile.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        fence: Option<&proto::Fence>,
        work: impl FnOnce(&Self) -> allidb_index::Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let served = Arc::clone(self);
        let patience = Duration::from_millis(fence.map_or(0, |fence| fence.within_ms)).min(MOST_PATIENCE);
        let deadline = Deadline::after(patience);
        let work = move || {
            deadline.check()?;
            work(&served)
        };
        self.work.run(work).await.flatten().map_err(|error| self.status(&error))
    }

    /// What whoever asked can do about an error is in the code and the details; the rest is for the log.
    fn status(&self, error: &Error) -> Status {
        if let Err(moved) = self.check_current() {
            return fence::behind(moved.to_string());
        }
        status(error)
    }

    /// Nobody is sent what belongs to others.
    fn check_held<'a>(&self, mut entities: impl Iterator<Item = &'a EntityKey>) -> Result<(), Status> {
        match entities.find(|entity| !self.topology.holds(self.node, entity.partition())) {
            Some(entity) => Err(Status::failed_precondition(self.does_not_hold(entity.partition()))),
            None => Ok(()),
        }
    }

    fn check_versions(&self, versions: impl Iterator<Item = Version>) -> Result<(), Status> {
        let highest = versions.max().unwrap_or_default();
        self.check_ahead(highest).map_err(|error| Status::failed_precondition(error.to_string()))
    }

    /// Digests of what lies here of entities: one after the other, so that they are not in memory all at once.
    fn digests(&self, entities: &[EntityKey], extent: Extent) -> allidb_index::Result<Vec<Vec<u8>>> {
        let digest = |entity: &EntityKey| {
            let held = self.replica.held(std::slice::from_ref(entity), extent)?;
            Ok(held.first().map(EntityState::digest).unwrap_or_default().to_be_bytes().to_vec())
        };
        entities.iter().map(digest).collect()
    }
}

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

/// For whom something is that is about a tenant's entities: all that is sent together is of one, most of the time.
fn asker_of(tenant: Option<TenantId>) -> Asker {
    tenant.map_or(Asker::default(), |tenant| Asker(tenant.0))
}

/// A version that was sent.
fn version(sent: Option<&Bytes>) -> Result<Version, Status> {
    let version = sent.and_then(|bytes| Version::from_bytes(bytes));
    version.ok_or_else(|| Status::invalid_argument("a version is none"))
}

impl From<proto::Durability> for Durability {
    fn from(durability: proto::Durability) -> Self {
        match durability {
            proto::Durability::None => Self::None,
            proto::Durability::Flush => Self::Flush,
            proto::Durability::Sync => Self::Sync,
        }
    }
}

impl From<Durability> for proto::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::None => Self::None,
            Durability::Flush => Self::Flush,
            Durability::Sync => Self::Sync,
        }
    }
}

pub(crate) fn outcome(result: allidb_index::Result<Written>) -> Outcome {
    let refused = |refusal| Kind::Refusal(refusal);
    let mut overtaken_by = Bytes::new();
    let kind = match result {
        Ok(Written { existed, overtaken_by: newer, .. }) => {
            overtaken_by =
                newer.map(|version| Bytes::copy_from_slice(&version.to_bytes())).unwrap_or_default();
            Kind::Existed(existed)
        }
        Err(Error::NotFound { .. }) => refused(Refusal { not_found: true, ..Refusal::default() }),
        Err(Error::Expired { .. }) => refused(Refusal { expired: true, ..Refusal::default() }),
        Err(Error::Merged { into, .. }) => refused(Refusal { merged_into: into, ..Refusal::default() }),
        Err(Error::Late { closed, .. }) => {
            let closed = Bytes::copy_from_slice(&closed.to_bytes());
            refused(Refusal { closed, is_final: true, ..Refusal::default() })
        }
        Err(error) => {
            let is_final = matches!(error, Error::UnknownCollection(_) | Error::Invalid { .. });
            refused(Refusal { message: error.to_string(), is_final, ..Refusal::default() })
        }
    };
    Outcome { kind: Some(kind), overtaken_by }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteReply>, Status> {
        let request = request.into_inner();
        let served = self.check(request.fence.as_ref())?;
        let decode = |bytes: &Bytes| Mutation::decode(bytes).map_err(garbled("a mutation"));
        let mutations = request.mutations.iter().map(decode).collect::<Result<Vec<_>, Status>>()?;
        let asker = asker_of(mutations.first().and_then(Mutation::tenant));
        // What it does not know is the safest.
        let durability = proto::Durability::try_from(request.durability).map_or(Durability::Sync, Into::into);
        // One from far ahead refuses none but itself.
        let refused: Vec<Option<Error>> =
            mutations.iter().map(|mutation| served.check_ahead(mutation.highest_version()).err()).collect();
        let sound = mutations.into_iter().zip(&refused).filter(|(_, refused)| refused.is_none());
        let sound = sound.map(|(mutation, _)| mutation).collect();
        let write = move |served: &Served| Ok(served.write(sound, durability).into_iter());
        let mut results = served.work(request.fence.as_ref(), write).on_behalf_of(asker).await?;
        let missing = || Err(Error::Internal("there are fewer answers than writes".to_owned()));
        let result = |refused: Option<Error>| match refused {
            Some(error) => Err(error),
            None => results.next().unwrap_or_else(missing),
        };
        let outcomes = refused.into_iter().map(result).map(outcome).collect();
        Ok(Response::new(WriteReply { outcomes }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadReply>, Status> {
        let ReadRequest { fence, entities: named, contents, edges, digests } = request.into_inner();
        let served = self.check(fence.as_ref())?;
        let named = entities(&named)?;
        served.check_held(named.iter())?;
        let asker = asker_of(named.first().map(EntityKey::tenant));
        let extent = Extent { contents, edges };
        let purged = version(fence.as_ref().map(|fence| &fence.purged))?;
        let held = move |served: &Served| {
            served.check_sound(named.iter().map(EntityKey::partition))?;
            // Whoever takes over what is read here relies on it.
            served.replica.purge_up_to(purged, None)?;
            match digests {
                false => served.replica.held_encoded(&named, extent, MAX_ANSWER_BYTES),
                true => served.digests(&named, extent),
            }
        };
        let states = served.work(fence.as_ref(), held).on_behalf_of(asker).await?;
        Ok(Response::new(ReadReply { states: states.into_iter().map(Bytes::from).collect() }))
    }

    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<AnswerReply>, Status> {
        let AnswerRequest { fence, tenant, question, within_ms, form } = request.into_inner();
        let served = self.check(fence.as_ref())?;
        let deadline = Deadline::after(Duration::from_millis(within_ms).min(MOST_PATIENCE));
        let answer = {
            let served = Arc::clone(&served);
            move || {
                deadline.check()?;
                let question = Question::decode(form, &question)?;
                match question.partitions() {
                    Some(partitions) => served.check_sound(partitions.iter().copied())?,
                    None => served.check_all_sound()?,
                }
                let answer = question.answer(&served.replica, TenantId(tenant), deadline)?;
                // What was found after that may be by others what was told before.
                served.check_current().map(|()| answer)
            }
        };
        let kind = match served.searches.run(answer).on_behalf_of(Asker(tenant)).await.flatten() {
            Ok(answer) => answer_reply::Kind::Answer(answer.into()),
            Err(Error::Invalid { field, why }) => {
                answer_reply::Kind::Wrong(proto::Wrong { place: field, why })
            }
            Err(error) => return Err(served.status(&error)),
        };
        Ok(Response::new(AnswerReply { kind: Some(kind) }))
    }

    async fn absorb(&self, request: Request<AbsorbRequest>) -> Result<Response<AbsorbReply>, Status> {
        let AbsorbRequest { fence, entities: named, states, read_at } = request.into_inner();
        let served = self.check(fence.as_ref())?;
        let named = entities(&named)?;
        served.check_held(named.iter())?;
        if named.len() != states.len() {
            return Err(Status::invalid_argument("there are not as many states as entities"));
        }
        let decode = |bytes: &Bytes| EntityState::decode(bytes).map_err(garbled("a state"));
        let states = states.iter().map(decode).collect::<Result<Vec<_>, Status>>()?;
        served.check_versions(states.iter().map(EntityState::highest_version))?;
        let (states, read_at) = (named.into_iter().zip(states).collect(), version(Some(&read_at))?);
        let absorb = move |served: &Served| match served.absorb(states, read_at) {
            Err(Error::Purged(purged)) => Ok(purged.to_bytes().to_vec()),
            absorbed => absorbed.map(|()| Vec::new()),
        };
        let purged = served.work(fence.as_ref(), absorb).await?.into();
        Ok(Response::new(AbsorbReply { purged }))
    }

    async fn read_catalogue(
        &self,
        request: Request<ReadCatalogueRequest>,
    ) -> Result<Response<ReadCatalogueReply>, Status> {
        let ReadCatalogueRequest { fence } = request.into_inner();
        let served = self.check_topology(fence.as_ref())?;
        let read = |served: &Served| Ok(served.replica.encoded_catalogue());
        let catalogue = served.work(fence.as_ref(), read).await?.into();
        Ok(Response::new(ReadCatalogueReply { catalogue }))
    }

    async fn adopt_catalogue(
        &self,
        request: Request<AdoptCatalogueRequest>,
    ) -> Result<Response<AdoptCatalogueReply>, Status> {
        let AdoptCatalogueRequest { fence, catalogue } = request.into_inner();
        let served = self.check_topology(fence.as_ref())?;
        served.work(fence.as_ref(), move |served| served.replica.adopt_catalogue(&catalogue)).await?;
        Ok(Response::new(AdoptCatalogueReply {}))
    }

    async fn tell_key_uses(
        &self,
        request: Request<TellKeyUsesRequest>,
    ) -> Result<Response<TellKeyUsesReply>, Status> {
        let TellKeyUsesRequest { fence, uses } = request.into_inner();
        let served = self.check_topology(fence.as_ref())?;
        let hear = move |served: &Served| {
            served.replica.adopt_key_uses(&uses)?;
            Ok(served.replica.encoded_key_uses())
        };
        let uses = served.work(fence.as_ref(), hear).await?.into();
        Ok(Response::new(TellKeyUsesReply { uses }))
    }

    async fn decide(&self, request: Request<DecideRequest>) -> Result<Response<DecideReply>, Status> {
        let DecideRequest { fence, entity, ballot, step } = request.into_inner();
        let served = self.check(fence.as_ref())?;
        let entity = EntityKey::decode(&entity).map_err(garbled("the name of an entity"))?;
        served.check_held(std::iter::once(&entity))?;
        let ballot = version(Some(&ballot))?;
        served.check_versions(std::iter::once(ballot))?;
        let step = step.ok_or_else(|| Status::invalid_argument("a ballot has no step"))?;
        let reply = served.work(fence.as_ref(), move |served| served.decide_step(&entity, ballot, step));
        Ok(Response::new(reply.await?))
    }

    async fn purge(&self, request: Request<PurgeRequest>) -> Result<Response<PurgeReply>, Status> {
        let request = request.into_inner();
        let served = self.check(request.fence.as_ref())?;
        let (round, upto) = (version(Some(&request.round))?, version(Some(&request.upto))?);
        served.check_versions([round, upto].into_iter())?;
        let step = request.step();
        let reply = served.work(request.fence.as_ref(), move |served| served.purge_step(step, (round, upto)));
        Ok(Response::new(reply.await?))
    }

    async fn topology(&self, request: Request<TopologyRequest>) -> Result<Response<TopologyReply>, Status> {
        let (served, TopologyRequest { topology }) = (self.served()?, request.into_inner());
        if !topology.is_empty() {
            served.adopt(&topology).await.map_err(|error| status(&error))?;
        }
        let topology = served.newest.read().encode().into();
        Ok(Response::new(TopologyReply { topology }))
    }

    async fn choose(&self, request: Request<ChooseRequest>) -> Result<Response<ChooseReply>, Status> {
        let request = request.into_inner();
        let served = self.check_topology(request.fence.as_ref())?;
        let fence = request.fence;
        let request = ChooseRequest { fence: None, ..request };
        let reply = served.work(fence.as_ref(), move |served| served.choose_step(&request));
        Ok(Response::new(reply.await?))
    }

    async fn taken_over(
        &self,
        request: Request<TakenOverRequest>,
    ) -> Result<Response<TakenOverReply>, Status> {
        let served = self.check_topology(request.into_inner().fence.as_ref())?;
        Ok(Response::new(served.taken_over()))
    }

    async fn copy(&self, request: Request<CopyRequest>) -> Result<Response<CopyReply>, Status> {
        let CopyRequest { fence, node, step } = request.into_inner();
        let served = self.check_topology(fence.as_ref())?;
        let step = step.ok_or_else(|| Status::invalid_argument("a copy has no step"))?;
        // To make one takes long, and holds up nobody. It is of no use if the node goes by another topology then.
        let do_step = move |served: &Served| {
            let done = match &step {
                copy_request::Step::Begin(_) => {
                    match served.giving.begin(&served.replica, NodeId(node), served.topology.epoch()) {
                        Err(error @ Error::FailedPrecondition(_)) => {
                            Ok(CopyReply { refused: error.to_string(), ..CopyReply::default() })
                        }
                        begun => begun,
                    }
                }
                copy_request::Step::Read(piece) => served.giving.read(piece),
                copy_request::Step::End(end) => {
                    served.giving.end(&served.replica, Some(end.copy)).map(|()| CopyReply::default())
                }
            };
            served.check_current().and(done)
        };
        Ok(Response::new(served.run(fence.as_ref(), do_step).await?))
    }

    async fn clock(&self, request: Request<ClockRequest>) -> Result<Response<ClockReply>, Status> {
        let (served, ClockRequest { node, life }) = (self.served()?, request.into_inner());
        served.peers.is_there(NodeId(node), life);
        let now_ms = served.replica.wall().now_ms();
        Ok(Response::new(ClockReply { now_ms, epoch: served.topology.epoch() }))
    }
}
