//! What the STUN servers see this node at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nat_traversal::{Route, StunClient, StunEvent};

use crate::underlay::Underlay;

/// A client for each address of each server.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    clients: BTreeMap<SocketAddr, StunClient>,
}

impl Mapped {
    /// Asks these servers from now on, and no others.
    pub(super) fn set_servers(&mut self, servers: &[SocketAddr], now: Instant) {
        self.clients.retain(|server, _| servers.contains(server));
        for server in servers {
            self.clients.entry(*server).or_insert_with(|| StunClient::new(*server, REFRESH, now));
        }
    }

    /// The servers that are asked.
    pub(super) fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.clients.keys().copied()
    }

    /// What each server saw last.
    pub(super) fn addresses(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        self.clients.iter().filter_map(|(server, client)| Some((*server, client.mapped()?))).collect()
    }

    /// A datagram that may be a server's answer. True if it was one.
    pub(super) fn handle(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        self.clients.get_mut(&from).is_some_and(|client| client.handle(from, datagram, now))
    }

    /// Asks all of them now: the address may be another.
    pub(super) fn refresh(&mut self, now: Instant) {
        for client in self.clients.values_mut() {
            client.refresh_now(now);
        }
    }

    /// Sends what is due. True if an address changed.
    pub(super) fn drive(&mut self, underlay: &Underlay, now: Instant) -> bool {
        let mut changed = false;
        for (server, client) in &mut self.clients {
            while let Some((to, datagram)) = client.poll_transmit(now) {
                // A network that is down is what the server's silence tells.
                let _ = underlay.send_by(Route::Direct(to), &datagram);
            }
            while let Some(event) = client.poll_event() {
                match event {
                    StunEvent::Mapped(address) => {
                        tracing::info!(%server, %address, "a STUN server sees this node");
                        changed = true;
                    }
                    StunEvent::Silent => {
                        tracing::info!(%server, "a STUN server does not answer");
                        changed = true;
                    }
                }
            }
        }
        changed
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.clients.values().filter_map(StunClient::poll_timeout).min()
    }
}

/// Often enough for NATs that forget a mapping after half a minute.
const REFRESH: Duration = Duration::from_secs(12);
