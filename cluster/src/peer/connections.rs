//! The ways to the other nodes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use allidb_index::{Error, Result};
use parking_lot::{Mutex, RwLock};
use tokio::{sync::Semaphore, time::Instant};
use tonic::transport::{Channel, Endpoint};

use crate::{layout::NodeId, peer::Client, trace::Traced};

/// Largest message between nodes. Most are of some megabytes; that of an entity with millions of edges may be so large.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Bytes of an answer, and of all answers together, that may be on their way from a node before it waits: pieces of its disk, say.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How long a connection may be silent before it is asked for a sign of life, and how long that may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Failures in a row after which a node is left alone for a while.
const FAILURES: u32 = 3;
/// How long whoever tries a node may take before another one does.
const TRIAL: Duration = Duration::from_secs(2);
/// How long at first, and at most; it doubles each time.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(1_000);

/// Answers that are expected within so long are as good as any, and so many calls at a time make none slower.
const LITTLE_MICROS: u64 = 5_000;
const BUSY: u64 = 16;

/// Calls that may be under way to one node. More are refused: it does not keep up.
const MOST_UNDER_WAY: u64 = 4_096;

/// Kilobytes of writes that may be under way to one node.
const UNDER_WAY_KIB: usize = 64 << 10;

/// Makes the way to an address, `host:port`; it is gone only when it is first used, and again after it broke.
pub type Connector = Arc<dyn Fn(&str) -> Result<Channel> + Send + Sync>;

/// How an address is spoken to, whatever is beneath. A connection that does not answer is given up soon: the machine at its other end may
/// have lost power, and nobody would say so.
///
/// # Errors
/// If it is no address.
pub fn endpoint(address: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Error::invalid("peer address", format!("{address:?}: {error}")))?;
    let endpoint = endpoint.connect_timeout(PATIENCE).tcp_nodelay(true);
    let endpoint =
        endpoint.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    // Also while nothing is asked: the first question over a connection that broke meanwhile would wait for nothing.
    let endpoint = endpoint.keep_alive_while_idle(true);
    Ok(endpoint.http2_keep_alive_interval(PATIENCE).keep_alive_timeout(PATIENCE))
}

/// Over TCP as it is, which anybody can read: for machines of one's own.
pub fn plaintext() -> Connector {
    Arc::new(|address| Ok(endpoint(address)?.connect_lazy()))
}

/// The way to one node, which requests share.
pub(crate) struct Way {
    address: String,
    client: Client,
    /// Kilobytes that may still be sent.
    room: Arc<Semaphore>,
    health: Mutex<Health>,
    load: Load,
    /// Another one for each two nodes.
    seed: u64,
}

/// How long a node takes to answer lately, and how much it is asked.
#[derive(Debug, Default)]
struct Load {
    /// A decaying mean.
    micros: AtomicU64,
    under_way: AtomicU64,
}

/// How calls to a node stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCalls {
    /// Which node.
    pub node: NodeId,
    /// Calls that it has not answered yet.
    pub under_way: u64,
    /// Whether it did not answer lately, and is left alone but for one call that tries it now and then.
    pub is_failing: bool,
}

/// A call under way.
pub(crate) struct UnderWay(Arc<Way>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.load.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How calls to a node went lately: one that fails again and again is left alone for a while, so that nobody waits for it. Then one call tries
/// whether it answers again, before others are let through (a circuit breaker).
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    paused_until: Option<Instant>,
    /// When the call was let through that tries it.
    tried: Option<Instant>,
    /// Whether gossip does not hear from it.
    is_silent: bool,
    /// Since when it is there, as it said last.
    life: u64,
}

impl Way {
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Room for so many bytes of writes.
    pub(crate) fn room(&self, bytes: usize) -> (Arc<Semaphore>, u32) {
        let kib = (bytes >> 10).clamp(1, UNDER_WAY_KIB);
        (Arc::clone(&self.room), u32::try_from(kib).unwrap_or(u32::MAX))
    }

    /// Counts a call as long as it is kept; `None` if too many are under way.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<UnderWay> {
        let under_way = UnderWay(Arc::clone(self));
        let before = self.load.under_way.fetch_add(1, Ordering::Relaxed);
        (before < MOST_UNDER_WAY).then_some(under_way)
    }

    /// Takes note of how long an answer took.
    pub(crate) fn answered_after(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mean = self.load.micros.load(Ordering::Relaxed);
        let mean = if mean == 0 { took } else { mean - mean / 8 + took / 8 };
        self.load.micros.store(mean, Ordering::Relaxed);
    }

    /// How long an answer may take by now: 0 as long as that is little, one more for each doubling.
    fn slowness(&self) -> u32 {
        let under_way = self.load.under_way.load(Ordering::Relaxed) / BUSY;
        let expected = self.load.micros.load(Ordering::Relaxed).saturating_mul(1 + under_way);
        (expected / LITTLE_MICROS).checked_ilog2().map_or(0, |doublings| doublings + 1)
    }

    /// Whether it is left alone now: others are asked before it.
    pub(crate) fn is_paused(&self) -> bool {
        let health = self.health.lock();
        health.is_silent || health.paused_until.is_some()
    }

    /// Whether it is known not to answer calls.
    fn is_failing(&self) -> bool {
        self.health.lock().paused_until.is_some()
    }

    /// Whether it may be called now. Whoever may while it is left alone tries it, and says how that went.
    pub(crate) fn admits(&self) -> bool {
        let mut health = self.health.lock();
        let (now, Some(until)) = (Instant::now(), health.paused_until) else { return true };
        let is_tried = health.tried.is_some_and(|since| now.duration_since(since) < TRIAL);
        if now < until || is_tried {
            return false;
        }
        health.tried = Some(now);
        true
    }

    /// Takes note of whether gossip hears from it.
    pub(crate) fn is_heard(&self, is_heard: bool) {
        self.health.lock().is_silent = !is_heard;
    }

    pub(crate) fn succeeded(&self) {
        let mut health = self.health.lock();
        *health = Health { is_silent: health.is_silent, life: health.life, ..Health::default() };
    }

    /// Takes note that it is there since then.
    fn is_there(&self, life: u64) {
        let mut health = self.health.lock();
        if health.life != life {
            *health = Health { life, ..Health::default() };
        }
    }

    /// A call that tried it is over.
    pub(crate) fn is_untried(&self) {
        self.health.lock().tried = None;
    }

    /// Whether a call that is under way tries it.
    pub(crate) fn is_tried(&self) -> bool {
        self.health.lock().tried.is_some()
    }

    /// Adds up to half as much to a time, differently for each two nodes and each attempt: nodes that lost the same one do not all come back to it
    /// at once.
    pub(crate) fn jittered(&self, time: Duration, attempt: u32) -> Duration {
        let mixed = (self.seed ^ u64::from(attempt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        time + time.mul_f64((mixed >> 40) as f64 / f64::from(1 << 24) / 2.0)
    }

    pub(crate) fn failed(&self) {
        let mut health = self.health.lock();
        health.failures = health.failures.saturating_add(1);
        health.tried = None;
        let Some(beyond) = health.failures.checked_sub(FAILURES) else { return };
        let pause = PAUSE.saturating_mul(1 << beyond.min(8)).min(LONGEST_PAUSE);
        health.paused_until = Some(Instant::now() + self.jittered(pause, health.failures));
    }
}

/// The ways to the other nodes, as far as it is known where they are.
pub(crate) struct Connections {
    here: NodeId,
    connector: Connector,
    ways: RwLock<BTreeMap<NodeId, Arc<Way>>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    pub(crate) fn new(
        here: NodeId,
        addresses: &BTreeMap<NodeId, String>,
        connector: Connector,
    ) -> Result<Self> {
        let connections = Self { here, connector, ways: RwLock::default() };
        addresses.iter().try_for_each(|(node, address)| connections.is_at(*node, address).map(drop))?;
        Ok(connections)
    }

    /// Takes note of where a node is. Says whether that is something new.
    pub(crate) fn is_at(&self, node: NodeId, address: &str) -> Result<bool> {
        if self.ways.read().get(&node).is_some_and(|way| way.address == address) {
            return Ok(false);
        }
        let client = Client::new(Traced((self.connector)(address)?))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let room = Arc::new(Semaphore::new(UNDER_WAY_KIB));
        let seed = self.here.0.rotate_left(32) ^ node.0;
        let (address, health, load) = (address.to_owned(), Mutex::default(), Load::default());
        let way = Way { address, client, room, health, load, seed };
        self.ways.write().insert(node, Arc::new(way));
        Ok(true)
    }

    /// Where nodes are, as far as that is known.
    pub(crate) fn addresses(&self) -> BTreeMap<NodeId, String> {
        self.ways.read().iter().map(|(node, way)| (*node, way.address.clone())).collect()
    }

    /// The way to a node, if there is one.
    pub(crate) fn get(&self, node: NodeId) -> Result<Arc<Way>> {
        let unknown = || Error::Unavailable(format!("nobody knows where node {node} is"));
        self.ways.read().get(&node).cloned().ok_or_else(unknown)
    }

    /// Takes note that a node has asked something, and is there since then: how calls went before counts no more.
    pub(crate) fn is_there(&self, node: NodeId, life: u64) {
        if let Some(way) = self.ways.read().get(&node) {
            way.is_there(life);
        }
    }

    /// Takes note of whether gossip hears from a node.
    pub(crate) fn is_heard(&self, node: NodeId, is_heard: bool) {
        if let Some(way) = self.ways.read().get(&node) {
            way.is_heard(is_heard);
        }
    }

    /// How slow a node is by what it is asked now: 0 if it answers soon, one more for each doubling.
    pub(crate) fn slowness(&self, node: NodeId) -> u32 {
        self.ways.read().get(&node).map_or(0, |way| way.slowness())
    }

    /// Whether a node did not answer calls lately, and has not answered since.
    pub(crate) fn is_failing(&self, node: NodeId) -> bool {
        self.ways.read().get(&node).is_some_and(|way| way.is_failing())
    }

    /// How calls to each node stand.
    pub(crate) fn calls(&self) -> Vec<NodeCalls> {
        let calls = |(node, way): (&NodeId, &Arc<Way>)| NodeCalls {
            node: *node,
            under_way: way.load.under_way.load(Ordering::Relaxed),
            is_failing: way.is_failing(),
        };
        self.ways.read().iter().map(calls).collect()
    }

    /// Whether a node did not answer lately, is not heard from, or nobody knows where it is: others are asked before it.
    pub(crate) fn is_paused(&self, node: NodeId) -> bool {
        node != self.here && self.ways.read().get(&node).is_none_or(|way| way.is_paused())
    }
}
