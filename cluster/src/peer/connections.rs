//! The ways to the other nodes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allidb_index::{Error, Result};
use tonic::transport::{Channel, Endpoint};

use crate::{layout::NodeId, peer::proto::peer_client::PeerClient};

/// Largest message between nodes: a batch of writes or the state of an entity, with room to spare.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How long a connection may be silent before it is asked for a sign of life, and how long that may take.
const PATIENCE: Duration = Duration::from_secs(1);

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
    Ok(endpoint.http2_keep_alive_interval(PATIENCE).keep_alive_timeout(PATIENCE))
}

/// Over TCP as it is, which anybody can read: for tests.
pub fn plaintext() -> Connector {
    Arc::new(|address| Ok(endpoint(address)?.connect_lazy()))
}

/// One for each node; requests share it.
#[derive(Debug)]
pub(crate) struct Connections(BTreeMap<NodeId, PeerClient<Channel>>);

impl Connections {
    pub(crate) fn to(addresses: &BTreeMap<NodeId, String>, connector: &Connector) -> Result<Self> {
        let client = |(node, address): (&NodeId, &String)| {
            let client = PeerClient::new(connector(address)?);
            let client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
            Ok((*node, client.max_encoding_message_size(MAX_MESSAGE_BYTES)))
        };
        addresses.iter().map(client).collect::<Result<_>>().map(Self)
    }

    /// The way to a node, if there is one.
    pub(crate) fn get(&self, node: NodeId) -> Result<PeerClient<Channel>> {
        let unknown = || Error::Unavailable(format!("nobody knows where node {node} is"));
        self.0.get(&node).cloned().ok_or_else(unknown)
    }
}
