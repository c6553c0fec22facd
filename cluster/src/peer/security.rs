//! Who may be a node: whoever has a certificate of the ring's authority. Both sides of a connection show theirs.

use std::{io, sync::Arc};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::service_fn;

use crate::{
    connection::{CertificateError, CertificateFiles, Certificates, Incoming, Protocol, Security, Shown},
    peer::{Connector, endpoint, plaintext},
};

/// What nodes show each other.
#[derive(Clone, Debug)]
pub struct PeerTls {
    /// The node's certificate, and the authority of the ring: only what it has signed is a node.
    pub certificates: Certificates,
    /// The name that certificates of nodes are for: wherever a node runs, it is the same. Whoever has one for another name is no node, be it
    /// of the same authority.
    pub name: ServerName<'static>,
}

impl PeerTls {
    /// Reads the files of a node, whose certificate must be for the name.
    ///
    /// # Errors
    /// As [`Certificates::read`].
    pub fn read(files: CertificateFiles, name: ServerName<'static>) -> Result<Self, CertificateError> {
        let certificates = Certificates::read(files, Some(name.clone()))?;
        Ok(Self { certificates, name })
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

/// Connections that other nodes may have open here in all.
const CONNECTIONS: usize = 1_024;

/// Where other nodes are listened to.
///
/// # Errors
/// If the port cannot be listened to, or certificates not be used.
pub(crate) fn incoming(listener: TcpListener, tls: Option<PeerTls>) -> io::Result<Incoming> {
    let Some(PeerTls { certificates, name }) = tls else { return Incoming::plain(listener, CONNECTIONS) };
    let (shown, protocol) = (Shown::Must, Protocol::Http2);
    Incoming::secure(listener, CONNECTIONS, Security { certificates, shown, name: Some(name), protocol })
}

/// How nodes are reached: with TLS, or as it is where there is none.
pub(crate) fn connector(tls: Option<&PeerTls>) -> Connector {
    let Some(tls) = tls.cloned() else { return plaintext() };
    Arc::new(move |address| {
        let tls = tls.clone();
        // Each time with what the files held last.
        let reach = service_fn(move |uri| {
            let tls = tls.clone();
            async move { reach(tls, uri).await.map(TokioIo::new) }
        });
        Ok(endpoint(address)?.connect_with_connector_lazy(reach))
    })
}

async fn reach(PeerTls { certificates, name }: PeerTls, uri: Uri) -> io::Result<TlsStream<TcpStream>> {
    let address = uri.authority().ok_or_else(|| io::Error::other("an address without a host"))?;
    let mut config = certificates.now().client().map_err(io::Error::other)?;
    config.alpn_protocols = vec![Protocol::Http2.name()];
    let stream = TcpStream::connect(address.as_str()).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
