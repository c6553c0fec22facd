//! Gossip over the connections between nodes.

use std::{
    collections::HashMap,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::{
    ChitchatMessage, Deserializable, Serializable,
    transport::{Socket, Transport},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tonic::{Request, Response, Status, transport::Channel};

use crate::peer::{
    Connector,
    proto::{
        GossipReply, GossipRequest,
        gossip_client::GossipClient,
        gossip_server::{Gossip as GossipService, GossipServer},
    },
    with_causes,
};

/// Messages that came and are not looked at yet. What comes beyond is lost, as gossip may be.
const INBOX: usize = 256;
/// Messages on their way, each for so long at most.
const UNDER_WAY: usize = 64;
const PATIENCE: Duration = Duration::from_secs(2);
/// Nodes to which connections are kept.
const CONNECTIONS: usize = 256;

/// Messages that others sent.
pub(crate) type Inbox = mpsc::Receiver<(SocketAddr, Bytes)>;

/// What became of messages of gossip, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GossipCounts {
    /// Messages that others took.
    pub sent: u64,
    /// Messages that did not arrive, could not be read, or were not sent as too many were under way.
    pub lost: u64,
    /// Messages that came.
    pub received: u64,
}

/// The same, being counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    sent: AtomicU64,
    lost: AtomicU64,
    received: AtomicU64,
    /// To whom a message was lost last, and why.
    last_lost: Mutex<Option<String>>,
}

impl Counters {
    fn note_lost(&self, to: SocketAddr, why: &str) {
        tracing::debug!(%to, why, "gossip was lost");
        self.lost.fetch_add(1, Ordering::Relaxed);
        *self.last_lost.lock() = Some(format!("{to}: {why}"));
    }

    pub(super) fn last_lost(&self) -> Option<String> {
        self.last_lost.lock().clone()
    }

    pub(super) fn counts(&self) -> GossipCounts {
        GossipCounts {
            sent: self.sent.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

/// Takes messages from others.
#[derive(Clone)]
pub(crate) struct Gossip(mpsc::Sender<(SocketAddr, Bytes)>);

/// What takes messages, and where they come out.
pub(crate) fn gossip() -> (GossipServer<Gossip>, Inbox) {
    let (sender, inbox) = mpsc::channel(INBOX);
    (GossipServer::new(Gossip(sender)), inbox)
}

#[tonic::async_trait]
impl GossipService for Gossip {
    async fn tell(&self, request: Request<GossipRequest>) -> Result<Response<GossipReply>, Status> {
        let GossipRequest { from, message } = request.into_inner();
        let from = from.parse().map_err(|_| Status::invalid_argument("the sender's address is none"))?;
        self.0.try_send((from, message)).map_err(|_| Status::resource_exhausted("too much gossip"))?;
        Ok(Response::new(GossipReply {}))
    }
}

/// The way of gossip to other nodes, and from them.
pub(super) struct PeerTransport {
    address: SocketAddr,
    connector: Connector,
    /// Taken when it is opened.
    inbox: Mutex<Option<Inbox>>,
    counters: Arc<Counters>,
}

impl PeerTransport {
    pub(super) fn new(
        address: SocketAddr,
        connector: Connector,
        inbox: Inbox,
        counters: Arc<Counters>,
    ) -> Self {
        Self { address, connector, inbox: Mutex::new(Some(inbox)), counters }
    }
}

#[async_trait]
impl Transport for PeerTransport {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let inbox = self.inbox.lock().take();
        Ok(Box::new(PeerSocket {
            address: self.address,
            connector: Arc::clone(&self.connector),
            inbox: inbox.ok_or_else(|| anyhow::anyhow!("gossip was opened twice"))?,
            clients: HashMap::new(),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            counters: Arc::clone(&self.counters),
        }))
    }
}

struct PeerSocket {
    address: SocketAddr,
    connector: Connector,
    inbox: Inbox,
    clients: HashMap<SocketAddr, GossipClient<Channel>>,
    under_way: Arc<Semaphore>,
    counters: Arc<Counters>,
}

#[async_trait]
impl Socket for PeerSocket {
    /// Does not wait for it to arrive: a node that does not answer must not keep gossip with others waiting.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let Ok(permit) = Arc::clone(&self.under_way).try_acquire_owned() else {
            self.counters.note_lost(to, "too much is under way");
            return Ok(());
        };
        if self.clients.len() >= CONNECTIONS {
            self.clients.clear();
        }
        let mut client = match self.clients.get(&to) {
            Some(client) => client.clone(),
            None => {
                let client = GossipClient::new((self.connector)(&to.to_string())?);
                self.clients.insert(to, client.clone());
                client
            }
        };
        let request =
            GossipRequest { from: self.address.to_string(), message: message.serialize_to_vec().into() };
        let counters = Arc::clone(&self.counters);
        tokio::spawn(async move {
            let lost = match timeout(PATIENCE, client.tell(request)).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(with_causes(&error)),
                Err(_) => Some(format!("it was not taken within {PATIENCE:?}")),
            };
            match lost {
                None => drop(counters.sent.fetch_add(1, Ordering::Relaxed)),
                Some(why) => counters.note_lost(to, &why),
            }
            drop(permit);
        });
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            // Nothing comes any more when the node does not listen: it is going down, which is no failure.
            let Some((from, bytes)) = self.inbox.recv().await else { return pending().await };
            match ChitchatMessage::deserialize(&mut &bytes[..]) {
                Ok(message) => {
                    self.counters.received.fetch_add(1, Ordering::Relaxed);
                    return Ok((from, message));
                }
                // Whoever sends such sends more of it.
                Err(error) => self.counters.note_lost(from, &format!("what came cannot be read: {error}")),
            }
        }
    }
}
