//! Who may be a node: whoever has a certificate of the ring's authority. Both sides of a connection show theirs.

use allidb_index::Error;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::peer::{Connector, plaintext, secure_endpoint};

/// What nodes show each other.
#[derive(Clone)]
pub struct PeerTls {
    /// The node's certificate and those that lead to the authority's, as PEM.
    pub certificate: Vec<u8>,
    /// Its key, as PEM.
    pub key: Vec<u8>,
    /// The certificate of the authority, as PEM: only what it has signed is a node.
    pub authority: Vec<u8>,
    /// The name that certificates of nodes are for: wherever a node runs, it is the same.
    pub name: String,
}

/// The key is nobody's business.
impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PeerTls {
    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    fn authority(&self) -> Certificate {
        Certificate::from_pem(&self.authority)
    }

    /// How connections are taken.
    pub(crate) fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity()).client_ca_root(self.authority())
    }

    fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity())
            .ca_certificate(self.authority())
            .domain_name(self.name.clone())
    }
}

/// An error and what lies behind it: the first says little of why a connection fails.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !told.ends_with(&why) {
            told = format!("{told}: {why}");
        }
        cause = error.source();
    }
    told
}

/// How nodes are reached: with TLS, or as it is where there is none.
pub(crate) fn connector(tls: Option<&PeerTls>) -> Connector {
    let Some(tls) = tls else { return plaintext() };
    let client = tls.client();
    std::sync::Arc::new(move |address| {
        let endpoint = secure_endpoint(address)?.tls_config(client.clone());
        let endpoint = endpoint.map_err(|error| {
            let why = with_causes(&error);
            Error::FailedPrecondition(format!("the certificates between nodes cannot be used: {why}"))
        })?;
        Ok(endpoint.connect_lazy())
    })
}
