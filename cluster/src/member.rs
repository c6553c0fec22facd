//! Being a member of a ring: listening to the others, gossip, founding, and all that goes on in the background.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use allidb_index::{Error, Replica, Result};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::sleep};
use tonic::transport::Server;

use crate::{
    founding::{self, Founding},
    layout::{DamagedLayout, Layout, NodeId, Topology},
    membership::{self, GossipCounts, Membership, MembershipOptions, NodeView},
    peer::{PeerService, PeerTls, connector, incoming},
    ring::{HintLimits, PurgeTerms, Ring, RingOptions},
    trace,
};

/// How long a node that starts waits for its clock to pass what it may have given before.
const CATCH_UP: Duration = Duration::from_millis(1_500);

/// How a node is a member of a ring.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// The ring's name.
    pub ring: String,
    /// Where other nodes reach this one: `host:port`.
    pub address: String,
    /// The members that found the ring, this one among them, each by its address. Later they are the nodes that are asked first who is there.
    pub founders: Vec<String>,
    /// How many nodes hold each partition, if the ring is to be founded.
    pub replication: usize,
    /// What may fail together with this node.
    pub zone: String,
    /// How much it is to hold, compared with others.
    pub capacity: u32,
    /// What nodes show each other; `None`: nothing, and anybody who reaches them can do anything.
    pub tls: Option<PeerTls>,
    /// Threads for what other nodes ask, and for this node's own part of what it asks them.
    pub threads: usize,
    /// Pieces of work that may wait for a thread.
    pub queue: usize,
    /// How long a replica may take before it counts as one that does not answer.
    pub call_timeout: Duration,
    /// When another replica is asked beside one that has not answered yet, at the latest.
    pub hedge_after: Duration,
    /// What is kept for nodes that have not acknowledged it.
    pub hints: HintLimits,
    /// How often what lies here is compared with what each other node holds of the same.
    pub repair_every: Duration,
    /// When what was deleted is forgotten.
    pub purge: PurgeTerms,
    /// Bytes a second that this node takes over while the ring changes its shape; 0: as many as it can.
    pub move_bytes_per_second: u64,
    /// How much must lie at another node for this one to begin with a copy of that; 0: it never does.
    pub copy_from_bytes: u64,
}

/// A member's life among others. It ends when this is dropped.
pub(crate) struct Life {
    membership: Arc<Membership>,
    tasks: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
}

impl Life {
    /// All nodes that are heard of.
    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        self.membership.seen()
    }

    /// What became of messages of gossip.
    pub(crate) fn gossip_counts(&self) -> GossipCounts {
        self.membership.gossip_counts()
    }

    /// Asks and answers no more.
    pub(crate) fn end(&self) {
        self.stop.send_replace(true);
        self.tasks.lock().abort_all();
    }
}

/// Joins the ring that the node is a member of, or founds it with the others; that waits until all of them are there.
///
/// # Errors
/// If this node cannot be a member, or the layout cannot be kept.
pub(crate) async fn join(
    replica: Arc<Replica>,
    listener: TcpListener,
    options: MemberOptions,
) -> Result<(Ring, Life)> {
    let node = NodeId(replica.node());
    let kept = kept_topology(&replica)?;
    let topology = match kept {
        // A node that was alone until now may found a ring, unless it holds anything that the others would have to hold, too.
        Some(topology) if topology.nodes() == [node] && topology.epoch() == 1 => {
            // A catalogue of its own would take the place of the ring's, or be lost in it.
            if replica.had_collections() || replica.catalogue_version() > 0 {
                return Err(Error::FailedPrecondition(
                    "this node holds collections or keys of its own already: a ring is founded, and joined, by empty nodes"
                        .to_owned(),
                ));
            }
            None
        }
        kept => kept,
    };
    let connector = connector(options.tls.as_ref());
    let (gossip, inbox) = membership::gossip();
    let served = Arc::new(OnceLock::new());
    let (stop, stopped) = watch::channel(false);
    let incoming = incoming(listener, options.tls)
        .map_err(|error| Error::FailedPrecondition(format!("other nodes cannot be listened to: {error}")))?;
    let routes = Server::builder().trace_fn(trace::answering).add_service(gossip);
    let routes = routes.add_service(PeerService::server(Arc::clone(&served)));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut stopped = stopped;
        // An error says that whoever would have told is gone: stop as well.
        let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
        if let Err(error) = routes.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "this node does not listen to others any more");
        }
    });
    let membership = MembershipOptions {
        node,
        ring: options.ring,
        address: options.address.clone(),
        zone: options.zone,
        capacity: options.capacity,
        seeds: options.founders.clone(),
    };
    let membership = Arc::new(Membership::start(membership, Arc::clone(&connector), inbox).await?);
    let topology = match topology {
        Some(topology) => topology,
        None => {
            tracing::info!(%node, founders = ?options.founders, "founding a ring, or joining one");
            let (founders, replication) = (&options.founders[..], options.replication);
            let founding =
                Founding { address: &options.address, founders, replication, connector: &connector };
            founding::found(&membership, founding).await?
        }
    };
    let ring = Ring::open(RingOptions {
        topology,
        addresses: known_addresses(&replica)?,
        replica,
        connector,
        threads: options.threads,
        queue: options.queue,
        call_timeout: options.call_timeout,
        hedge_after: options.hedge_after,
        hints: options.hints,
        repair_every: options.repair_every,
        purge: options.purge,
        move_bytes_per_second: options.move_bytes_per_second,
        copy_from_bytes: options.copy_from_bytes,
        #[cfg(feature = "wrong")]
        wrong: None,
    })?;
    // Nobody else sets it.
    served.set(ring.served()).ok();
    ring.find_members(&membership).await;
    // It would give versions from ahead of all others' clocks; and again from further ahead with each start.
    sleep(ring.replica().lags_for().min(CATCH_UP)).await;
    let mut keeping = ring.keep_up(Arc::clone(&membership));
    tasks.spawn(async move { while keeping.join_next().await.is_some() {} });
    Ok((ring, Life { membership, tasks: Mutex::new(tasks), stop }))
}

/// Where other nodes were when this one was there last.
fn known_addresses(replica: &Replica) -> Result<BTreeMap<NodeId, String>> {
    let Some(kept) = replica.addresses()? else { return Ok(BTreeMap::new()) };
    let damaged = |error: postcard::Error| Error::CorruptRow {
        keyspace: "local",
        key: "addresses".into(),
        what: error.to_string(),
    };
    let kept: BTreeMap<u64, String> = postcard::from_bytes(&kept).map_err(damaged)?;
    Ok(kept.into_iter().map(|(node, address)| (NodeId(node), address)).collect())
}

/// The topology that a node keeps, if it keeps one.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn kept_topology(replica: &Replica) -> Result<Option<Topology>> {
    let damaged = |key: &str, error: DamagedLayout| Error::CorruptRow {
        keyspace: "cluster",
        key: key.into(),
        what: error.to_string(),
    };
    if let Some(kept) = replica.topology()? {
        return Topology::decode(&kept).map(Some).map_err(|error| damaged("topology", error));
    }
    // Where an earlier release kept it.
    let Some(kept) = replica.layout()? else { return Ok(None) };
    let layout = Layout::decode(&kept).map_err(|error| damaged("layout", error))?;
    Ok(Some(Topology::founded(layout)))
}
