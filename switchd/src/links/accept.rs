//! Inbound connections: at most so many handshakes at a time, whoever asks for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nat_traversal::{PathTable, Route};
use quinn::ConnectionError;
use tokio::sync::Semaphore;

use super::peer::Message;
use super::{Links, explain, identity, session};

/// Takes inbound connections until the endpoint closes. Strangers cost one bounded handshake each, and must show
/// that they own their address (RFC 9000, 8.1.2) while many are under way.
pub(super) async fn accept(links: Arc<Links>) {
    let of_peers = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let of_strangers = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let by_source = Arc::new(Mutex::new(HashMap::<IpAddr, usize>::new()));
    while let Some(incoming) = links.shared.endpoint.accept().await {
        let seen = incoming.remote_address();
        let stranger = !PathTable::is_peer(seen);
        let handshakes = if stranger { &of_strangers } else { &of_peers };
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        let crowded = handshakes.available_permits() < MAX_HANDSHAKES - CROWD;
        // Each source beyond a relay has a virtual address of its own: it is the real one that counts.
        let real = links.shared.paths().to_wire(seen).filter(|_| stranger);
        let source = Source::enter(&by_source, real.map_or(seen.ip(), |route| route.remote().ip()));
        if stranger && source.others >= MAX_FROM_ONE_SOURCE {
            incoming.ignore();
            continue;
        }
        if crowded && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        let links = links.clone();
        tokio::spawn(async move {
            handshake(&links, incoming).await;
            drop((permit, source));
        });
    }
}

/// Counts the handshakes under way from one address.
struct Source {
    all: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
    others: usize,
}

impl Source {
    fn enter(all: &Arc<Mutex<HashMap<IpAddr, usize>>>, ip: IpAddr) -> Source {
        let mut counts = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        *count += 1;
        Source { all: all.clone(), ip, others: *count - 1 }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut counts = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

async fn handshake(links: &Links, incoming: quinn::Incoming) {
    let shared = &links.shared;
    let seen = incoming.remote_address();
    let from = shared.paths().to_wire(seen).unwrap_or(Route::Direct(seen));
    let accepted = match shared.server_config() {
        Ok(config) => incoming.accept_with(Arc::new(config)),
        Err(e) => {
            tracing::error!(error = %e, "this node's TLS configuration");
            return incoming.ignore();
        }
    };
    let connection = match accepted {
        Ok(connecting) => tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await,
        Err(e) => return tracing::debug!(%from, error = %e, "inbound handshake refused"),
    };
    let connection = match connection {
        Ok(Ok(connection)) => connection,
        Ok(Err(e)) => return links.refused(from, &e),
        Err(_) => return tracing::debug!(%from, "inbound handshake took too long"),
    };
    let peer = identity::proven_key(&connection).and_then(|key| shared.allowed.load().get(&key).copied());
    let task = peer.and_then(|id| links.lock_peers().get(&id).map(|(task, _)| task.clone()));
    match task {
        Some(task) => {
            let _ = task.messages.send(Message::Inbound(connection, from)).await;
        }
        None => connection.close(session::CLOSE_REFUSED.into(), b"not a peer"),
    }
}

impl Links {
    /// A failed inbound handshake. Strangers can cause as many as they like, so only one a minute is a warning.
    fn refused(&self, from: Route, error: &ConnectionError) {
        let now = Instant::now();
        let mut last = self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let unproven =
            matches!(error, ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_));
        if unproven && last.is_none_or(|last| now.duration_since(last) >= REFUSALS_LOGGED_EVERY) {
            *last = Some(now);
            tracing::warn!(%from, error = explain(error), "inbound handshake failed");
        } else {
            tracing::debug!(%from, %error, "inbound handshake failed");
        }
    }
}

/// Handshakes under way, of known addresses and of strangers each.
const MAX_HANDSHAKES: usize = 256;
const MAX_FROM_ONE_SOURCE: usize = 8;
/// Handshakes under way beyond which strangers' addresses are validated first.
const CROWD: usize = 32;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(60);
