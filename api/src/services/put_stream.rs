//! `PutStream`: items in, a status for each out, as fast as the log can take them.
//!
//! ```text
//! client ─► reader ─► channel ─► sorter ─► groups in flight ─► answers ─► client
//! ```
//!
//! What waits in the channel becomes one group and one call of the coordinator, which answers after its
//! fsync; several groups are under way at once, so that reading, writing and syncing overlap. A slow disk
//! makes groups grow, a fast one keeps them small. An item whose entity or edge has a write under way waits,
//! and everything behind it waits with it: so writes of one target keep their order.
//!
//! Everything is bounded: bytes that were read and not answered, groups in flight, answers not yet taken.
//! A client that does not read its answers is not read from. Once it is gone nothing more is begun; what is
//! under way is finished, and what it was told is done is done.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_cluster::OnBehalf;
use allidb_cluster::{Deadline, WriteOptions};
use allidb_index::{
    Result as IndexResult,
    model::{CollectionSet, TenantId, Write, Written},
};
use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    Caller, Services,
    backlog::{Backlog, GROUP_ITEMS, Group, Item, Target, Ticket},
    drained,
    entities::put_from_proto,
    graph::put_edge_from_proto,
    item_failed, item_result, names, unanswered, write_options,
};
use crate::{
    codec,
    embedding::Texts,
    status, v1,
    weight::{self, Held},
};

/// Groups under way at once.
const GROUPS: usize = 4;
/// Bytes of items that were read and not answered, by one stream.
const UNANSWERED_BYTES: usize = 32 << 20;
/// Texts of items that wait behind each other for vectors and are sent off together, about.
const EMBEDDED_TOGETHER: usize = 256;
/// How long a caller that was refused may go on sending.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);
/// Answers that the client has not taken yet.
const ANSWERS: usize = 2 * GROUP_ITEMS;

type Answer = Result<v1::PutStreamResponse, Status>;

/// What the reader passes on.
enum Arrival {
    /// The first message said how to write.
    Options(WriteOptions),
    Item(Box<Item>),
    /// The stream cannot go on.
    Broken(Status),
}

/// A group that came back from the coordinator.
struct Landed {
    items: Vec<(u64, Ticket)>,
    targets: Vec<Target>,
    results: Vec<IndexResult<Written>>,
}

/// Starts to carry out the stream and returns its answers.
pub(super) fn begin(
    services: Services,
    (tenant, seen): (TenantId, CollectionSet),
    (timeout, held): (Option<Duration>, Option<Arc<Held>>),
    incoming: Streaming<v1::PutStreamRequest>,
) -> ReceiverStream<Answer> {
    let (answers, answered) = mpsc::channel(ANSWERS);
    let (arrivals, arrived) = mpsc::channel(GROUP_ITEMS);
    let until = timeout.map(|timeout| Instant::now() + timeout);
    let sorter = Sorter {
        services: services.clone(),
        tenant,
        until,
        options: None,
        backlog: Backlog::default(),
        groups: JoinSet::new(),
        answers,
    };
    let reading = read(services, (tenant, seen), incoming, arrivals);
    let reading = async move {
        match held {
            Some(held) => codec::weighed(held, reading).await,
            None => reading.await,
        }
    };
    tokio::spawn(reading.in_current_call());
    tokio::spawn(sorter.run(arrived).in_current_call());
    ReceiverStream::new(answered)
}

/// Reads until the client has said everything, is gone, or the server shuts down.
async fn read(
    services: Services,
    whose: (TenantId, CollectionSet),
    mut incoming: Streaming<v1::PutStreamRequest>,
    arrivals: mpsc::Sender<Arrival>,
) {
    forward(services, whose, &mut incoming, arrivals).await;
    linger(incoming).await;
}

/// Passes on what comes in, as long as anybody takes it.
async fn forward(
    services: Services,
    (tenant, seen): (TenantId, CollectionSet),
    incoming: &mut Streaming<v1::PutStreamRequest>,
    arrivals: mpsc::Sender<Arrival>,
) {
    let room = Arc::new(Semaphore::new(UNANSWERED_BYTES));
    let mut draining = services.draining.clone();
    let mut first = true;
    let mut ahead = None;
    loop {
        let message = match ahead.take() {
            Some(message) => message,
            None => tokio::select! {
                message = incoming.message() => message.map(|message| message.map(Come::new)),
                () = drained(&mut draining) => Err(status::shutting_down()),
                () = arrivals.closed() => return,
            },
        };
        match message {
            Ok(None) => return,
            Ok(Some(Come { message, bytes, weight })) => {
                if std::mem::take(&mut first) {
                    let caller = Caller { tenant, deadline: Deadline(Instant::now()), trace: None };
                    let options = write_options(caller, message.durability, message.consistency);
                    if pass_on(&arrivals, options.map_or_else(Arrival::Broken, Arrival::Options))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                let Some(permit) = makeroom(&room, bytes, &arrivals).await else { return };
                let mut taken = vec![Taken::new(message, &seen, bytes, Ticket::of(permit, weight))];
                // The texts of those behind it that are there already are embedded with its own.
                let mut texts = taken[0].texts;
                while (1..EMBEDDED_TOGETHER).contains(&texts) && ahead.is_none() {
                    let Some(next) = at_hand(incoming).await else { break };
                    let bytes = next.as_ref().ok().and_then(Option::as_ref).map_or(0, |come| come.bytes);
                    match (next, room.clone().try_acquire_many_owned(permits(bytes))) {
                        (Ok(Some(Come { message, weight, .. })), Ok(permit)) => {
                            let next = Taken::new(message, &seen, bytes, Ticket::of(permit, weight));
                            texts += next.texts;
                            taken.push(next);
                        }
                        (next, _) => ahead = Some(next),
                    }
                }
                let embedded = embed(&services, tenant, &mut taken).await;
                for (Taken { message, may, bytes, ticket, .. }, embedded) in taken.into_iter().zip(embedded) {
                    let sequence = message.sequence;
                    let write = may.and(embedded).and_then(|()| write_from_proto(message));
                    let item = Arrival::Item(Box::new(Item { sequence, write, bytes, ticket }));
                    if pass_on(&arrivals, item).await.is_err() {
                        return;
                    }
                }
            }
            Err(status) => {
                pass_on(&arrivals, Arrival::Broken(status)).await.ok();
                return;
            }
        }
    }
}

/// An item that was read, and the room that it takes.
struct Taken {
    message: v1::PutStreamRequest,
    /// Whether its caller may write it.
    may: Result<(), Status>,
    /// Texts in it that stand for vectors.
    texts: usize,
    bytes: usize,
    ticket: Ticket,
}

/// A message as it came.
struct Come {
    message: v1::PutStreamRequest,
    /// What it takes in memory, about, and at least what it took on the way.
    bytes: usize,
    weight: Option<weight::Taken>,
}

impl Come {
    fn new(message: v1::PutStreamRequest) -> Self {
        let weight = codec::taken();
        let unpacked = weight.as_ref().map_or(0, weight::Taken::bytes);
        Self { bytes: message.encoded_len().max(unpacked), message, weight }
    }
}

impl Taken {
    fn new(mut message: v1::PutStreamRequest, seen: &CollectionSet, bytes: usize, ticket: Ticket) -> Self {
        let may = names::check(&message, seen);
        if may.is_err() {
            // What is refused is embedded for nobody.
            message.item = None;
        }
        let mut texts = Texts::default();
        texts_of(&mut message, &mut texts);
        Self { texts: texts.len(), message, may, bytes, ticket }
    }
}

/// The next message, if it need not be waited for.
async fn at_hand(incoming: &mut Streaming<v1::PutStreamRequest>) -> Option<Result<Option<Come>, Status>> {
    tokio::select! {
        biased;
        message = incoming.message() => Some(message.map(|message| message.map(Come::new))),
        () = std::future::ready(()) => None,
    }
}

/// Reads on and forgets it, for a while: a stream dropped under a caller that still sends is reset, and the
/// reset can overtake the answers and the status that are on their way.
async fn linger(mut incoming: Streaming<v1::PutStreamRequest>) {
    let rest = async { while let Ok(Some(_)) = incoming.message().await {} };
    // Whoever goes on for longer does not listen.
    tokio::time::timeout(LINGER, rest).await.ok();
}

/// Whether to go on reading: not after what cannot be mended, nor for nobody.
async fn pass_on(arrivals: &mpsc::Sender<Arrival>, arrival: Arrival) -> Result<(), ()> {
    let last = matches!(arrival, Arrival::Broken(_));
    arrivals.send(arrival).await.map_err(|_| ())?;
    if last { Err(()) } else { Ok(()) }
}

/// Waits until so many bytes were answered; `None` once nobody wants the item any more.
async fn makeroom(
    room: &Arc<Semaphore>,
    bytes: usize,
    arrivals: &mpsc::Sender<Arrival>,
) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        room = room.clone().acquire_many_owned(permits(bytes)) => room.ok(),
        () = arrivals.closed() => None,
    }
}

/// Never more than there is in all, or a single large item would wait for ever.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.min(UNANSWERED_BYTES)).unwrap_or(u32::MAX)
}

/// Puts vectors in the places of texts: the stream waits for them, so that its items keep their order. An item that is wrong fails
/// alone; without the service, all that have texts do.
async fn embed(services: &Services, tenant: TenantId, taken: &mut [Taken]) -> Vec<Result<(), Status>> {
    let deadline = Deadline::after(services.limits().deadline);
    let mut texts = Texts::default();
    taken.iter_mut().for_each(|taken| texts_of(&mut taken.message, &mut texts));
    let Err(status) = services.embed(tenant, texts, deadline).await else { return vec![Ok(()); taken.len()] };
    if taken.len() == 1 || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
        let failed = |taken: &Taken| if taken.texts > 0 { Err(status.clone()) } else { Ok(()) };
        return taken.iter().map(failed).collect();
    }
    let mut results = Vec::with_capacity(taken.len());
    for taken in taken {
        let mut texts = Texts::default();
        texts_of(&mut taken.message, &mut texts);
        results.push(services.embed(tenant, texts, deadline).await);
    }
    results
}

fn texts_of<'a>(message: &'a mut v1::PutStreamRequest, texts: &mut Texts<'a>) {
    if let Some(v1::put_stream_request::Item::Entity(entity)) = &mut message.item {
        texts.of_entity("entity", entity);
    }
}

fn write_from_proto(message: v1::PutStreamRequest) -> Result<Write, Status> {
    use v1::put_stream_request::Item;
    match message.item {
        Some(Item::Entity(entity)) => put_from_proto(entity),
        Some(Item::Edge(edge)) => put_edge_from_proto(edge),
        None => Err(status::invalid("item", "must be an entity or an edge")),
    }
}

/// Sorts items into groups, sends them off and answers them.
struct Sorter {
    services: Services,
    tenant: TenantId,
    /// When the client stops waiting for the whole stream.
    until: Option<Instant>,
    options: Option<WriteOptions>,
    backlog: Backlog,
    groups: JoinSet<Landed>,
    answers: mpsc::Sender<Answer>,
}

impl Sorter {
    async fn run(mut self, mut arrived: mpsc::Receiver<Arrival>) {
        let mut fresh = Vec::with_capacity(GROUP_ITEMS);
        let mut open = true;
        let mut broken = None;
        // Without a client the rest of the backlog is not begun; groups under way still land.
        let mut wanted = true;
        while open || !self.groups.is_empty() {
            tokio::select! {
                count = arrived.recv_many(&mut fresh, GROUP_ITEMS), if open && !self.backlog.is_full() => {
                    open = count > 0;
                    for arrival in fresh.drain(..) {
                        match arrival {
                            Arrival::Options(options) => self.options = Some(options),
                            Arrival::Item(item) => self.backlog.push(item),
                            Arrival::Broken(status) => broken = Some(status),
                        }
                    }
                }
                Some(landed) = self.groups.join_next(), if !self.groups.is_empty() => {
                    wanted &= self.answer(landed).await;
                }
                () = self.answers.closed(), if wanted => wanted = false,
            }
            if !wanted {
                self.backlog.clear();
                arrived.close();
            }
            wanted &= self.send_off().await;
        }
        if let Some(status) = broken {
            // The client may be gone, which is then why the stream broke.
            self.answers.send(Err(status)).await.ok();
        }
    }

    /// Sends off as many groups as may fly. `false` once the client is gone.
    async fn send_off(&mut self) -> bool {
        while self.groups.len() < GROUPS {
            let mut group = self.backlog.next_group();
            if group.is_empty() {
                break;
            }
            let refused = std::mem::take(&mut group.refused);
            if !group.writes.is_empty() {
                self.depart(group);
            }
            for (sequence, status) in refused {
                if self.reply(sequence, item_failed(&status)).await.is_err() {
                    return false;
                }
            }
        }
        true
    }

    fn depart(&mut self, group: Group) {
        // The reader passes the options on before the first item.
        let Some(options) = self.options else { return };
        let longest = Instant::now() + self.services.limits().deadline;
        let deadline = Deadline(self.until.map_or(longest, |until| until.min(longest)));
        let (coordinator, tenant) = (self.services.coordinator.clone(), self.tenant);
        let Group { writes, items, targets, .. } = group;
        let write = async move {
            let results = coordinator.write(tenant, writes, WriteOptions { deadline, ..options }).await;
            Landed { items, targets, results }
        };
        self.groups.spawn(write.in_current_call());
    }

    /// `false` once the client is gone.
    async fn answer(&mut self, landed: Result<Landed, tokio::task::JoinError>) -> bool {
        let landed = match landed {
            Ok(landed) => landed,
            Err(error) => {
                // A panic below: what became of the group is unknown, so the stream ends without answers.
                let status = status::broke_off(&error);
                self.answers.send(Err(status)).await.ok();
                return false;
            }
        };
        self.backlog.land(&landed.targets);
        let mut results = landed.results.into_iter();
        for (sequence, ticket) in landed.items {
            let result = item_result(results.next().unwrap_or_else(unanswered));
            if self.reply(sequence, result).await.is_err() {
                return false;
            }
            drop(ticket);
        }
        true
    }

    async fn reply(&self, sequence: u64, result: v1::ItemResult) -> Result<(), ()> {
        let response = v1::PutStreamResponse { sequence, result: Some(result) };
        self.answers.send(Ok(response)).await.map_err(|_| ())
    }
}
