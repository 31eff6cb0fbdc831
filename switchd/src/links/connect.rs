//! One dial: from a path to a connection.

use std::time::Duration;

use nat_traversal::PathTable;
use quinn::{Connection, ConnectionError};
use switch_core::ids::PeerId;
use tokio::sync::oneshot;

use super::peer::slot;
use super::session::SessionError;
use super::{Shared, dial};
use crate::key::PublicKey;

/// A handshake to be made on the peer's present path.
pub(super) struct Dial {
    pub(super) peer: PeerId,
    /// Any other key fails it.
    pub(super) key: PublicKey,
    /// Without any answer it ends after this.
    pub(super) patience: Duration,
    /// Something better was found meanwhile.
    pub(super) cancelled: Option<oneshot::Receiver<()>>,
}

impl Dial {
    pub(super) async fn connect(self, shared: &Shared) -> Result<Connection, DialError> {
        let config = shared.client_config(self.key).map_err(DialError::Setup)?;
        let address = PathTable::virtual_address(slot(self.peer));
        let mut connecting =
            shared.endpoint.connect_with(config, address, SERVER_NAME).map_err(DialError::Connect)?;
        // Its error comes out of the connection too.
        let answered = tokio::time::timeout(self.patience, connecting.handshake_data());
        let cancelled = async {
            match self.cancelled {
                // The peer's task is gone, and with it this dial.
                Some(cancelled) => drop(cancelled.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answered = answered => drop(answered.map_err(|_| DialError::NoAnswer(self.patience))?),
            () = cancelled => return Err(DialError::Superseded),
        }
        match tokio::time::timeout(TIMEOUT, connecting).await {
            Ok(result) => result.map_err(DialError::Handshake),
            Err(_) => Err(DialError::NoAnswer(TIMEOUT)),
        }
    }
}

/// Why a dial did not become a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("this node's TLS configuration: {0}")]
    Setup(rustls::Error),
    #[error("cannot dial: {0}")]
    Connect(quinn::ConnectError),
    #[error("handshake: {}", super::explain(.0))]
    Handshake(ConnectionError),
    #[error("no answer within {} s: check the peer's address, that it runs, and firewalls for UDP", .0.as_secs_f64())]
    NoAnswer(Duration),
    #[error("another way was found meanwhile")]
    Superseded,
    #[error("{0}")]
    Session(SessionError),
}

/// Peers are told apart by key; TLS wants a name all the same.
const SERVER_NAME: &str = "switchd";
/// A dial that has the path to itself.
pub(super) const TIMEOUT: Duration = dial::LAST;
