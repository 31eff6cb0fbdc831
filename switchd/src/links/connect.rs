//! One dial: from a path to a connection.

use std::time::{Duration, Instant};

use nat_traversal::PathTable;
use quinn::{Connection, ConnectionError};
use switch_core::ids::PeerId;
use tokio::sync::{Semaphore, oneshot};

use super::peer::slot;
use super::session::SessionError;
use super::{Shared, dial};
use crate::key::PublicKey;

/// How many dials are under way at a time. Where many links come up at once, a handshake that is begun and given up for
/// want of time is work for both ends: on busy hosts there would be nothing else.
#[derive(Debug)]
pub(super) struct Dials {
    fresh: Semaphore,
    /// Of peers that did not answer the last dial: they keep nobody waiting but each other.
    again: Semaphore,
}

impl Default for Dials {
    fn default() -> Dials {
        Dials { fresh: Semaphore::new(MAX_FRESH), again: Semaphore::new(MAX_AGAIN) }
    }
}

/// A handshake to be made on the peer's present path.
pub(super) struct Dial {
    pub(super) peer: PeerId,
    /// Any other key fails it.
    pub(super) key: PublicKey,
    /// Without any answer it ends after this.
    pub(super) patience: Duration,
    /// The last dial failed.
    pub(super) again: bool,
    /// Something better was found meanwhile.
    pub(super) cancelled: Option<oneshot::Receiver<()>>,
}

impl Dial {
    pub(super) async fn connect(self, shared: &Shared) -> Result<Connection, DialError> {
        let Dial { peer, key, patience, again, cancelled } = self;
        let cancelled = async {
            match cancelled {
                // The peer's task is gone, and with it this dial.
                Some(cancelled) => drop(cancelled.await),
                None => std::future::pending().await,
            }
        };
        let dial = async {
            let dials = if again { &shared.dials.again } else { &shared.dials.fresh };
            // It is never closed.
            let _permit = dials.acquire().await;
            shared.dial(peer, key, patience).await
        };
        tokio::select! {
            connection = dial => connection,
            () = cancelled => Err(DialError::Superseded),
        }
    }
}

impl Shared {
    async fn dial(&self, peer: PeerId, key: PublicKey, patience: Duration) -> Result<Connection, DialError> {
        let config = self.client_config(key).map_err(DialError::Setup)?;
        let address = PathTable::virtual_address(slot(peer));
        let mut connecting =
            self.endpoint.connect_with(config, address, SERVER_NAME).map_err(DialError::Connect)?;
        // Its error comes out of the connection too.
        if !first_answer(connecting.handshake_data(), patience).await {
            return Err(DialError::NoAnswer(patience));
        }
        match tokio::time::timeout(TIMEOUT, connecting).await {
            Ok(result) => result.map_err(DialError::Handshake),
            Err(_) => Err(DialError::NoAnswer(TIMEOUT)),
        }
    }
}

/// Whether anything comes in time.
async fn first_answer(answer: impl Future, patience: Duration) -> bool {
    let mut answer = std::pin::pin!(answer);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        if tokio::time::timeout(patience, &mut answer).await.is_ok() {
            return true;
        }
        // A host that is late itself has not seen yet what came.
        if began.elapsed() < patience + LATE {
            return false;
        }
    }
    false
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
/// Under way at a time.
const MAX_FRESH: usize = 8;
const MAX_AGAIN: usize = 4;
/// A timer that is later than this is a busy host's.
const LATE: Duration = Duration::from_millis(50);
/// How often such a host waits again at most.
const ROUNDS: u32 = 4;
/// A dial that has the path to itself.
pub(super) const TIMEOUT: Duration = dial::LAST;
