//! A port: connections are handed on once they are what they must be. Who says nothing, or nonsense, holds up nobody.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{ServerConfig, pki_types::ServerName, server::ParsedCertificate};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::Stream;

use crate::pace::Pace;

use super::{
    CertificateError, Connection,
    certificates::{Certificates, Material, Shown},
    open::{Places, Socket},
};

/// How long whoever connects may take to show what it is asked for.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that nobody has taken over yet.
const WAITING: usize = 64;
/// How often at most it is noted that one is refused.
const TELLS_EVERY: Duration = Duration::from_millis(100);
/// How long to wait when none can be accepted: this process has all the files open that it may, say.
const PAUSE: Duration = Duration::from_millis(100);

/// What is spoken over a port's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As TLS calls it.
    pub(crate) fn name(self) -> Vec<u8> {
        match self {
            Self::Http1 => b"http/1.1".to_vec(),
            Self::Http2 => b"h2".to_vec(),
        }
    }
}

/// How a port's connections are secured.
#[derive(Clone, Debug)]
pub struct Security {
    /// What is shown.
    pub certificates: Certificates,
    /// Whether others have to show certificates, too.
    pub shown: Shown,
    /// The name that theirs must be for, if any.
    pub name: Option<ServerName<'static>>,
    /// What is spoken.
    pub protocol: Protocol,
}

/// The connections of a port. Nobody listens there any more once it is dropped.
pub struct Incoming {
    accepted: mpsc::Receiver<Connection>,
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Incoming {
    /// Takes connections as they are, `most` at a time. Beyond that the one is closed over which nothing was said for longest, of the address that
    /// has most.
    ///
    /// # Errors
    /// If the port's address cannot be told.
    pub fn plain(listener: TcpListener, most: usize) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self::accept(listener, address, most, None))
    }

    /// The same, of connections that are secured.
    ///
    /// # Errors
    /// If its certificates cannot be used so, or the port's address cannot be told.
    pub fn secure(listener: TcpListener, most: usize, security: Security) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let port = Port::new(security).map_err(io::Error::other)?;
        Ok(Self::accept(listener, address, most, Some(port)))
    }

    fn accept(listener: TcpListener, address: SocketAddr, most: usize, port: Option<Port>) -> Self {
        let (sender, accepted) = mpsc::channel(WAITING);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::new(Places::new(most)), port, sender));
        Self { accepted, address, _accepting: accepting }
    }

    /// The next connection; `None` if there are no more.
    pub async fn next(&mut self) -> Option<Connection> {
        self.accepted.recv().await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(context).map(|connection| connection.map(Ok))
    }
}

/// How handshakes are made at a port.
struct Port {
    security: Security,
    material: Arc<Material>,
    config: Arc<ServerConfig>,
}

impl Port {
    fn new(security: Security) -> Result<Self, CertificateError> {
        let material = security.certificates.now();
        let config = config(&material, &security)?;
        Ok(Self { security, material, config })
    }

    /// With what the files held last.
    fn acceptor(&mut self) -> TlsAcceptor {
        let now = self.security.certificates.now();
        if !Arc::ptr_eq(&now, &self.material) {
            match config(&now, &self.security) {
                Ok(config) => self.config = config,
                Err(error) => tracing::error!(%error, "changed certificates cannot be used"),
            }
            self.material = now;
        }
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn config(material: &Material, security: &Security) -> Result<Arc<ServerConfig>, CertificateError> {
    let mut config = material.server(security.shown)?;
    config.alpn_protocols = vec![security.protocol.name()];
    Ok(Arc::new(config))
}

async fn accept(
    listener: TcpListener,
    places: Arc<Places>,
    mut port: Option<Port>,
    accepted: mpsc::Sender<Connection>,
) {
    let telling = Arc::new(Pace::of(TELLS_EVERY));
    let mut handshakes = JoinSet::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(connected) => connected,
            Err(error) => {
                // Whoever connected may be gone again already, which is its own affair.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(%error, "a connection cannot be taken");
                    sleep(PAUSE).await;
                }
                continue;
            }
        };
        while handshakes.try_join_next().is_some() {}
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%from, %error, "a connection broke at once");
            continue;
        }
        let Some(stream) = places.take(stream, from) else {
            if telling.is_due() {
                tracing::warn!(%from, "a connection is refused: there are too many, and all are in use");
            }
            continue;
        };
        let Some(port) = &mut port else {
            if accepted.send(Connection::plain(stream, from)).await.is_err() {
                return;
            }
            continue;
        };
        let (acceptor, accepted) = (port.acceptor(), accepted.clone());
        let (name, telling) = (port.security.name.clone(), Arc::clone(&telling));
        handshakes.spawn(async move {
            match timeout(HANDSHAKE, shake_hands(acceptor, stream, name)).await {
                Ok(Ok(stream)) => {
                    // If nobody takes it any more, the port is closed.
                    drop(accepted.send(Connection::secure(stream, from)).await);
                }
                Ok(Err(error)) if telling.is_due() => {
                    tracing::info!(%from, %error, "a connection is refused")
                }
                Err(_) if telling.is_due() => {
                    tracing::info!(%from, "a connection is refused: it did not begin in time");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        });
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: Socket,
    name: Option<ServerName<'static>>,
) -> io::Result<TlsStream<Socket>> {
    let stream = acceptor.accept(stream).await?;
    if let Some(name) = name {
        let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
        let shown = shown.ok_or_else(|| io::Error::other("it has shown no certificate"))?;
        let shown = ParsedCertificate::try_from(shown).map_err(io::Error::other)?;
        rustls::client::verify_server_name(&shown, &name).map_err(io::Error::other)?;
    }
    Ok(stream)
}
