//! Connections that others open: with certificates, which are read again when their files change, or as they are.
//!
//! | module | what it holds |
//! |---|---|
//! | `calls` | what is under way over a connection |
//! | `certificates` | the files, read when the daemon starts and whenever they change |
//! | `incoming` | a port: whoever connects, once it has shown what it is asked for |
//! | `open` | how many may be open, and which one goes when there are too many |

mod calls;
mod certificates;
mod incoming;
mod open;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use open::Socket;

pub use calls::{Calls, UnderWay};

pub use certificates::{CertificateError, CertificateFiles, Certificates, Shown};
pub use incoming::{Incoming, Protocol, Security};
pub use open::network;

/// A connection that somebody opened.
pub struct Connection {
    stream: Stream,
    caller: Caller,
}

enum Stream {
    Plain(Socket),
    Secure(Box<TlsStream<Socket>>),
}

/// What is known of whoever opened a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where from.
    pub address: SocketAddr,
    /// Whether it has shown a certificate of the authority that is trusted here.
    pub has_certificate: bool,
    /// Its calls that are under way.
    pub calls: Calls,
}

impl Connection {
    fn plain(stream: Socket, address: SocketAddr) -> Self {
        let caller = Caller { address, has_certificate: false, calls: stream.calls() };
        Self { stream: Stream::Plain(stream), caller }
    }

    fn secure(stream: TlsStream<Socket>, address: SocketAddr) -> Self {
        // What is no certificate of the authority ends the handshake.
        let has_certificate = stream.get_ref().1.peer_certificates().is_some_and(|shown| !shown.is_empty());
        let caller = Caller { address, has_certificate, calls: stream.get_ref().0.calls() };
        Self { stream: Stream::Secure(Box::new(stream)), caller }
    }

    /// Who opened it.
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Secure(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Stream::Secure(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
