//! Who is there: gossip among nodes, by chitchat, over the same connections as everything else they ask each other.
//!
//! Gossip tells where nodes are, whether they are alive, and what they say of themselves. It never tells what they hold: that is the layout's.

mod transport;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use allidb_index::{Error, Result};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, spawn_chitchat,
};
use parking_lot::Mutex;

use crate::{layout::NodeId, peer::Connector};

use transport::Counters;
pub use transport::GossipCounts;
pub(crate) use transport::gossip;

/// How often a node tells others what it knows.
const INTERVAL: Duration = Duration::from_millis(500);
/// Suspicion from which a node counts as dead: that so much silence is chance has a probability of ten to the minus so much.
const PHI: f64 = 8.0;
/// How long what a dead node said of itself is remembered.
const REMEMBERED: Duration = Duration::from_hours(24);

/// What a node says of itself.
mod key {
    pub(super) const ADDRESS: &str = "address";
    pub(super) const ZONE: &str = "zone";
    pub(super) const CAPACITY: &str = "capacity";
    pub(super) const FOUNDING: &str = "founding";
    pub(super) const EPOCH: &str = "epoch";
    pub(super) const TOPOLOGY: &str = "topology";
    pub(super) const CATALOGUE: &str = "catalogue";
    pub(super) const RELEASE: &str = "release";
    pub(super) const BYTES: &str = "bytes";
    pub(super) const WAITING: &str = "waiting";
}

/// How a node takes part in gossip.
pub(crate) struct MembershipOptions {
    pub(crate) node: NodeId,
    /// The ring's name: nodes of others are not listened to.
    pub(crate) ring: String,
    /// Where others reach this node: `host:port`.
    pub(crate) address: String,
    pub(crate) zone: String,
    pub(crate) capacity: u32,
    /// Nodes that are asked first, each `host:port`.
    pub(crate) seeds: Vec<String>,
}

/// A node as gossip tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// Its capacity.
    pub capacity: u32,
    /// Whether it is heard from.
    pub is_alive: bool,
    /// The layout it would found a ring with, as long as it has none: its digest.
    pub founding: Option<u64>,
    /// The topology it goes by: its epoch, 0 if there is none yet, and its digest.
    pub epoch: u64,
    /// See `epoch`.
    pub topology: Option<u64>,
    /// How new its catalogue is.
    pub catalogue: u64,
    /// Its release.
    pub release: String,
    /// What it bears.
    pub load: Load,
}

/// What a node bears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes on its disk: tables, blob files and the log.
    pub bytes: u64,
    /// What others ask of it that waits for a thread.
    pub waiting: u64,
}

/// This node's part in gossip. It ends when this is dropped.
pub(crate) struct Membership {
    node: NodeId,
    chitchat: ChitchatHandle,
    counters: Arc<Counters>,
    /// What was heard of nodes when it was last asked for.
    seen: Mutex<Vec<NodeView>>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.chitchat.abort();
    }
}

impl Membership {
    /// Takes part in gossip from now on.
    ///
    /// # Errors
    /// If the address cannot be resolved.
    pub(crate) async fn start(
        options: MembershipOptions,
        connector: Connector,
        inbox: transport::Inbox,
    ) -> Result<Self> {
        let MembershipOptions { node, ring, address, zone, capacity, seeds } = options;
        let advertised = resolve(&address).await?;
        // Of two lives of a node the later one counts.
        let generation = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let generation = u64::try_from(generation).unwrap_or(u64::MAX);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(node.to_string(), generation, advertised),
            cluster_id: ring,
            gossip_interval: INTERVAL,
            listen_addr: advertised,
            seed_nodes: seeds.into_iter().filter(|seed| *seed != address).collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                initial_interval: INTERVAL,
                max_interval: INTERVAL * 10,
                dead_node_grace_period: REMEMBERED,
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: REMEMBERED,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let said = [
            (key::ADDRESS, address),
            (key::ZONE, zone),
            (key::CAPACITY, capacity.to_string()),
            (key::RELEASE, env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let said = said.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let counters = Arc::new(Counters::default());
        let transport = transport::PeerTransport::new(advertised, connector, inbox, Arc::clone(&counters));
        let chitchat = spawn_chitchat(config, said, &transport).await;
        let chitchat =
            chitchat.map_err(|error| Error::FailedPrecondition(format!("gossip does not start: {error}")))?;
        Ok(Self { node, chitchat, counters, seen: Mutex::default() })
    }

    /// All nodes that were heard of, as of when that was last looked at.
    pub(crate) fn seen(&self) -> Vec<NodeView> {
        self.seen.lock().clone()
    }

    /// To whom a message was lost last, and why.
    pub(crate) fn last_lost(&self) -> Option<String> {
        self.counters.last_lost()
    }

    /// What became of messages.
    pub(crate) fn gossip_counts(&self) -> GossipCounts {
        self.counters.counts()
    }

    /// All nodes that were heard of within a day, this one among them.
    pub(crate) async fn nodes(&self) -> Vec<NodeView> {
        let own = self.chitchat.chitchat_id().clone();
        let view = |chitchat: &mut chitchat::Chitchat| {
            let alive: Vec<ChitchatId> = chitchat.live_nodes().cloned().collect();
            let mut newest: BTreeMap<NodeId, (u64, NodeView)> = BTreeMap::new();
            for (id, state) in chitchat.node_states() {
                let is_alive = *id == own || alive.contains(id);
                let Some(view) = view_of(id, state, is_alive) else { continue };
                let known = newest.get(&view.node).map_or(0, |(generation, _)| *generation);
                if id.generation_id >= known {
                    newest.insert(view.node, (id.generation_id, view));
                }
            }
            newest.into_values().map(|(_, view)| view).collect()
        };
        let nodes: Vec<NodeView> = self.chitchat.with_chitchat(view).await;
        self.seen.lock().clone_from(&nodes);
        nodes
    }

    /// Says what this node bears.
    pub(crate) async fn bears(&self, load: Load) {
        self.say(key::BYTES, load.bytes.to_string()).await;
        self.say(key::WAITING, load.waiting.to_string()).await;
    }

    /// Says which layout this node would found a ring with.
    pub(crate) async fn propose(&self, digest: u64) {
        self.say(key::FOUNDING, format!("{digest:016x}")).await;
    }

    /// Says what this node goes by.
    pub(crate) async fn goes_by(&self, (epoch, topology): (u64, u64), catalogue: u64) {
        self.say(key::EPOCH, epoch.to_string()).await;
        self.say(key::TOPOLOGY, format!("{topology:016x}")).await;
        self.say(key::CATALOGUE, catalogue.to_string()).await;
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    async fn say(&self, key: &str, value: String) {
        let say = |chitchat: &mut chitchat::Chitchat| {
            let state = chitchat.self_node_state();
            // What is said already costs others nothing.
            if state.get(key) != Some(value.as_str()) {
                state.set(key, &value);
            }
        };
        self.chitchat.with_chitchat(say).await;
    }
}

/// Another node may say anything.
fn view_of(id: &ChitchatId, state: &NodeState, is_alive: bool) -> Option<NodeView> {
    let number = |key| state.get(key).and_then(|text| text.parse().ok()).unwrap_or_default();
    let digest = |key| state.get(key).and_then(|text| u64::from_str_radix(text, 16).ok());
    Some(NodeView {
        node: NodeId(u64::from_str_radix(&id.node_id, 16).ok()?),
        address: state.get(key::ADDRESS)?.to_owned(),
        zone: state.get(key::ZONE)?.to_owned(),
        capacity: state.get(key::CAPACITY)?.parse().ok()?,
        is_alive,
        founding: digest(key::FOUNDING),
        epoch: number(key::EPOCH),
        topology: digest(key::TOPOLOGY),
        catalogue: number(key::CATALOGUE),
        load: Load { bytes: number(key::BYTES), waiting: number(key::WAITING) },
        release: state.get(key::RELEASE).unwrap_or_default().to_owned(),
    })
}

async fn resolve(address: &str) -> Result<SocketAddr> {
    let invalid = |why: String| Error::invalid("ring.address", format!("is {address:?}: {why}"));
    let mut found = tokio::net::lookup_host(address).await.map_err(|error| invalid(error.to_string()))?;
    found.next().ok_or_else(|| invalid("nobody knows where that is".to_owned()))
}
