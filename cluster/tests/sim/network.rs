//! gRPC over turmoil.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use allidb_cluster::{Connector, endpoint};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Uri, server::Connected};
use turmoil::net::{TcpListener, TcpStream};

/// Where every node listens.
pub(crate) const PORT: u16 = 7_000;

/// A connection that a node accepted.
pub(crate) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Connections that come to this host.
pub(crate) async fn accept() -> io::Result<ReceiverStream<io::Result<Accepted>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let (accepted, connections) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if accepted.send(Ok(Accepted(stream))).await.is_err() {
                break;
            }
        }
    });
    Ok(ReceiverStream::new(connections))
}

/// The way to a host of the simulation.
pub(crate) fn connector() -> Connector {
    Arc::new(|address| {
        let connect = tower::service_fn(|uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            Ok::<_, io::Error>(TokioIo::new(TcpStream::connect((host, PORT)).await?))
        });
        Ok(endpoint(address)?.connect_with_connector_lazy(connect))
    })
}
