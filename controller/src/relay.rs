//! The embedded STUN and TURN server (RFC 8489, RFC 8656, RFC 6156, and of RFC 5780 the alternate port), and what nodes
//! are told of it and of other ones. It carries sealed datagrams between nodes that cannot reach each other.

mod announce;
mod counters;
mod engine;
mod io;
mod limits;
mod nonce;
mod rules;
mod secret;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use controller_registry::NodeId;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

pub use announce::{Announcer, Embedded};
pub use counters::{Flow, Number, Refused, RelayCounters};
pub use secret::{Credentials, Secret, SecretError, parse_username};

use crate::config::RelayConfig;

/// What the embedded relay needs beside its configuration.
pub struct RelaySetup {
    /// What credentials are made with.
    pub secret: Secret,
    /// What nodes know it by: the literal ones of the announced addresses.
    pub announced: Vec<IpAddr>,
    /// For connections that begin with a TLS handshake.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether a node is one still.
    pub is_node: Box<dyn Fn(NodeId) -> bool + Send>,
    /// Lets it relay to this host's loopback: only for tests that have no other network.
    pub allow_loopback: bool,
}

/// The relay while it runs, on a thread of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    counters: Arc<RelayCounters>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<std::io::Result<()>>,
}

impl Relay {
    /// Binds its sockets and begins to serve.
    pub fn start(config: &RelayConfig, setup: RelaySetup) -> Result<Relay, RelayError> {
        let busy = |source| RelayError::Bind { listen: config.listen, source };
        // TCP first: where the port is left to the kernel, UDP takes the same.
        let tcp = std::net::TcpListener::bind(config.listen).map_err(busy)?;
        tcp.set_nonblocking(true).map_err(busy)?;
        let address = tcp.local_addr().map_err(busy)?;
        let udp = io::bind(address, SOCKET_BUFFER).map_err(busy)?;
        let alternate = alternate(address);
        let alternate_port =
            alternate.as_ref().and_then(|socket| socket.local_addr().ok()).map(|at| at.port());
        let is_private = |address: &IpAddr| rules::is_private(*address);
        let all_private = !setup.announced.is_empty() && setup.announced.iter().all(is_private);
        let sockets = io::Sockets {
            udp,
            alternate,
            tcp,
            tls: setup.tls.map(TlsAcceptor::from),
            ports: config.ports.clone(),
            connections: config.connections,
        };
        let setup = engine::Setup {
            secret: setup.secret,
            is_node: setup.is_node,
            announced: setup.announced,
            alternate_port,
            allow_private: config.allow_private.unwrap_or(all_private),
            allow_loopback: setup.allow_loopback,
            limits: engine::Limits {
                allocations: config.allocations,
                allocations_per_node: config.allocations_per_node,
                packets_per_second: config.packets_per_second,
            },
        };
        let counters = Arc::new(RelayCounters::default());
        let (stop, on_stop) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let counted = counters.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(RelayError::Thread)?;
        let run = move || {
            let stop = async move { drop(on_stop.await) };
            let serving = io::serve(sockets, setup, counted, stop);
            let result = tokio::task::LocalSet::new().block_on(&runtime, serving);
            // Nobody asks any more, if the receiver is gone.
            let _ = end.send(result);
        };
        std::thread::Builder::new().name("relay".to_owned()).spawn(run).map_err(RelayError::Thread)?;
        Ok(Relay { counters, address, stop, ended })
    }

    /// Where it listens, UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<RelayCounters> {
        &self.counters
    }

    /// Lets it run until `stop` completes; an end before that is an error.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), RelayError> {
        let Relay { stop: end, mut ended, .. } = self;
        tokio::select! {
            () = stop => {}
            result = &mut ended => return Err(RelayError::Ended(result.ok().and_then(Result::err))),
        }
        drop(end);
        match ended.await {
            Ok(Ok(())) => Ok(()),
            other => Err(RelayError::Ended(other.ok().and_then(Result::err))),
        }
    }
}

/// The next port, for the mapping tests of RFC 5780. Without it they see less; nothing else is lost.
fn alternate(main: SocketAddr) -> Option<std::net::UdpSocket> {
    let port = main.port().checked_add(1)?;
    let address = SocketAddr::new(main.ip(), port);
    io::bind(address, ALTERNATE_BUFFER)
        .inspect_err(|error| {
            tracing::warn!("the relay has no alternate port for STUN, UDP {address}: {error}");
        })
        .ok()
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Its port cannot be had.
    #[error(
        "listening for the relay on {listen}, UDP and TCP: if another TURN server runs here, set relay.listen to \
         another port, or relay.enabled to false"
    )]
    Bind {
        /// From the configuration.
        listen: SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The thread cannot be started.
    #[error("starting the relay's thread")]
    Thread(#[source] std::io::Error),
    /// It ended by itself.
    #[error("the relay ended")]
    Ended(#[source] Option<std::io::Error>),
}

/// The sealed datagrams of all nodes come in here.
const SOCKET_BUFFER: usize = 8 << 20;
const ALTERNATE_BUFFER: usize = 64 << 10;

/// The realm of credentials.
const REALM: &str = "switchd";
