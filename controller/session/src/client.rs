//! The node's end: a dial to the controller, as a channel for gRPC.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::key::{PrivateKey, PublicKey};
use crate::tls;

/// Dials each of `addresses` (`host:port`) in turn until one answers with `controller`'s key.
///
/// The channel is that one connection: when it breaks, calls fail and the caller dials again. A peer that is silent
/// for five seconds, HTTP/2 pings included, is taken for dead.
pub async fn connect(
    addresses: &[String],
    key: &PrivateKey,
    controller: PublicKey,
) -> Result<Channel, ConnectError> {
    let config = tls::client_config(key, controller).map_err(ConnectError::Key)?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut failure = ConnectError::NoAddress;
    for address in addresses {
        match dial(address, &connector).await {
            Ok(stream) => return channel(stream, address).await,
            // A controller with another key says more than one that does not answer.
            Err(error) if !matches!(failure, ConnectError::OtherKey { .. }) => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The library refused the own key.
    #[error("this node's key cannot be used for TLS; make a new one: switchd keygen --force")]
    Key(#[source] rustls::Error),
    /// The list is empty.
    #[error("no address of a controller is known; join again: switchd join TOKEN")]
    NoAddress,
    /// A name that does not resolve, a closed port.
    #[error("controller {address} cannot be reached; is it running, is the port open?")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// TCP or TLS was too slow.
    #[error("controller {address} did not answer within {} s; is a firewall in between?", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// What was dialled.
        address: String,
    },
    /// Another key was shown: another controller, a new one at the same address, or somebody in between.
    #[error(
        "{address} is not the controller that this node knows: its key is another; if the controller was made anew, \
         join again with a new token, else somebody is in between"
    )]
    OtherKey {
        /// What was dialled.
        address: String,
    },
    /// Not TLS, not HTTP/2, or it hung up.
    #[error("{address} does not speak as a controller does; is it the port for nodes?")]
    Handshake {
        /// What was dialled.
        address: String,
        /// Why.
        source: io::Error,
    },
}

async fn dial(address: &str, connector: &TlsConnector) -> Result<TlsStream<TcpStream>, ConnectError> {
    let attempt = async {
        let tcp = TcpStream::connect(address)
            .await
            .map_err(|source| ConnectError::Unreachable { address: address.to_owned(), source })?;
        // Best effort: it only delays small messages.
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(SERVER_NAME).expect("a constant DNS name");
        connector.connect(name, tcp).await.map_err(|source| match is_other_key(&source) {
            true => ConnectError::OtherKey { address: address.to_owned() },
            false => ConnectError::Handshake { address: address.to_owned(), source },
        })
    };
    let timeout = || ConnectError::Timeout { address: address.to_owned() };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(timeout()))
}

async fn channel(stream: TlsStream<TcpStream>, address: &str) -> Result<Channel, ConnectError> {
    let stream = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    // Called once for the connection; a second call is tonic's attempt to dial by itself after it broke.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_static(ORIGIN)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| ConnectError::Handshake {
            address: address.to_owned(),
            source: io::Error::other(error),
        })
}

fn is_other_key(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// TCP and TLS to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Both together are how long a dead peer goes unnoticed.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Not checked by anybody: keys say who is who.
const SERVER_NAME: &str = "controller";
const ORIGIN: &str = "https://controller";
