//! The controller's end: TLS connections for `tonic`'s `serve_with_incoming`, each with the key that it proved.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::client::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use crate::key::PublicKey;
use crate::tls;

/// Who is at the other end of a request's connection: in the request's extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectInfo {
    /// Where it dialled from.
    pub remote: SocketAddr,
    /// The key that it proved.
    pub key: PublicKey,
}

/// How much is accepted at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Handshakes; further dials wait in the listener's queue.
    pub handshakes: usize,
    /// Connections of keys that are not `known`: further ones are closed.
    pub unknown: usize,
    /// Connections in all: further ones are closed.
    pub connections: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How long a connection of an unknown key may last: enough to enrol.
    pub unknown_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshakes: 64,
            unknown: 64,
            connections: 16_384,
            handshake_timeout: Duration::from_secs(5),
            unknown_lifetime: Duration::from_secs(30),
        }
    }
}

/// A server with the HTTP/2 keepalive that notices dead nodes within five seconds.
pub fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Accepts on `listener` until the stream is dropped. `known` says whether a key is a node's, asked once a
/// connection, after its handshake.
pub fn incoming(
    listener: TcpListener,
    config: ServerConfig,
    limits: Limits,
    known: impl Fn(&PublicKey) -> bool + Send + Sync + 'static,
) -> Incoming {
    // Connections wait here for the server's task only.
    let (to_server, connections) = mpsc::channel(limits.handshakes.max(1));
    let gate = Arc::new(Gate {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        known,
        unknown: Arc::new(Semaphore::new(limits.unknown)),
        connections: Arc::new(Semaphore::new(limits.connections)),
        limits,
    });
    Incoming { connections, accepting: tokio::spawn(accept(listener, gate, to_server)) }
}

/// The stream of connections. It never yields an error: a handshake that fails is that dial's own trouble.
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    accepting: JoinHandle<()>,
}

impl Stream for Incoming {
    type Item = Result<Connection, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One node's connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectInfo,
    _connections: OwnedSemaphorePermit,
    unknown: Option<Unknown>,
}

struct Unknown {
    expires: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(unknown) = &mut self.unknown
            && unknown.expires.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Gate<F> {
    acceptor: TlsAcceptor,
    known: F,
    unknown: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    limits: Limits,
}

async fn accept<F>(listener: TcpListener, gate: Arc<Gate<F>>, to_server: mpsc::Sender<Connection>)
where
    F: Fn(&PublicKey) -> bool + Send + Sync + 'static,
{
    let handshakes = Arc::new(Semaphore::new(gate.limits.handshakes.max(1)));
    loop {
        let permit = handshakes.clone().acquire_owned().await.expect("nobody closes this semaphore");
        let (tcp, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, say: others' sessions go on, and some will end.
                tracing::warn!(%error, "could not accept a node's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (gate, to_server) = (gate.clone(), to_server.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(gate.limits.handshake_timeout, gate.admit(tcp, remote)).await;
            drop(permit);
            match shaken {
                Err(_) => tracing::debug!(%remote, "TLS handshake took too long"),
                Ok(Err(error)) => tracing::debug!(%remote, %error, "connection refused"),
                // It fails when the server has stopped.
                Ok(Ok(connection)) => drop(to_server.send(connection).await),
            }
        });
    }
}

impl<F: Fn(&PublicKey) -> bool> Gate<F> {
    async fn admit(&self, tcp: TcpStream, remote: SocketAddr) -> Result<Connection, Refused> {
        let connections =
            self.connections.clone().try_acquire_owned().map_err(|_| Refused::TooManyConnections)?;
        // Best effort: it only delays small messages.
        let _ = tcp.set_nodelay(true);
        let stream = self.acceptor.accept(tcp).await.map_err(Refused::Handshake)?;
        let chain = stream.get_ref().1.peer_certificates();
        let key = chain.and_then(tls::proven_key).ok_or(Refused::NoKey)?;
        let unknown = match (self.known)(&key) {
            true => None,
            false => Some(Unknown {
                _permit: self.unknown.clone().try_acquire_owned().map_err(|_| Refused::TooManyUnknown)?,
                expires: Box::pin(tokio::time::sleep(self.limits.unknown_lifetime)),
            }),
        };
        Ok(Connection { stream, info: ConnectInfo { remote, key }, _connections: connections, unknown })
    }
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("too many connections")]
    TooManyConnections,
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
    #[error("no Ed25519 key was shown")]
    NoKey,
    #[error("too many connections of unknown keys")]
    TooManyUnknown,
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
