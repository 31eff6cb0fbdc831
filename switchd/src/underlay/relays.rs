//! The relays that carry this node's datagrams, and by which channels: written by the link plane, read by all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use nat_traversal::{RelayId, canonical};
use tokio::sync::mpsc;

/// How a relay is reached.
#[derive(Clone, Debug)]
pub enum Carrier {
    /// By datagrams to this address from the node's socket.
    Udp(SocketAddr),
    /// By a TCP or TLS connection, whose task writes what this channel has: whole messages, padded as on a stream.
    Stream(mpsc::Sender<Bytes>),
}

/// All of them.
#[derive(Debug, Default)]
pub struct Relays(ArcSwap<RelayTable>);

/// The relays at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayTable {
    relays: HashMap<RelayId, Arc<Relay>>,
    by_server: HashMap<SocketAddr, RelayId>,
}

/// One allocation.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    pub(crate) carrier: Carrier,
    channels: HashMap<SocketAddr, u16>,
    peers: HashMap<u16, SocketAddr>,
}

impl Relays {
    /// Adds an allocation, or changes how it is reached; `None`: it is gone. A UDP server's address belongs to the
    /// allocation that was added last.
    #[expect(clippy::needless_pass_by_value, reason = "the table keeps it; only its retries need copies")]
    pub fn set_relay(&self, id: RelayId, carrier: Option<Carrier>) {
        self.0.rcu(|table| {
            let mut table = RelayTable::clone(table);
            table.by_server.retain(|_, of| *of != id);
            let Some(carrier) = carrier.clone() else {
                table.relays.remove(&id);
                return table;
            };
            if let Carrier::Udp(server) = carrier {
                table.by_server.insert(canonical(server), id);
            }
            let relay = match table.relays.get(&id) {
                Some(relay) => Relay { carrier, ..Relay::clone(relay) },
                None => Relay { carrier, channels: HashMap::new(), peers: HashMap::new() },
            };
            table.relays.insert(id, Arc::new(relay));
            table
        });
    }

    /// A channel to `peer` is bound, or no longer. Without one, datagrams to the peer go in Send indications.
    pub fn set_channel(&self, id: RelayId, peer: SocketAddr, channel: Option<u16>) {
        let peer = canonical(peer);
        self.0.rcu(|table| {
            let mut table = RelayTable::clone(table);
            if let Some(relay) = table.relays.get_mut(&id) {
                let mut changed = Relay::clone(relay);
                if let Some(former) = changed.channels.remove(&peer) {
                    changed.peers.remove(&former);
                }
                if let Some(channel) = channel {
                    changed.channels.insert(peer, channel);
                    changed.peers.insert(channel, peer);
                }
                *relay = Arc::new(changed);
            }
            table
        });
    }

    pub(crate) fn load(&self) -> Guard<Arc<RelayTable>> {
        self.0.load()
    }
}

impl RelayTable {
    pub(crate) fn get(&self, id: RelayId) -> Option<&Relay> {
        self.relays.get(&id).map(|relay| &**relay)
    }

    /// The allocation on the server at this address.
    pub(crate) fn at(&self, server: SocketAddr) -> Option<(RelayId, &Relay)> {
        if self.by_server.is_empty() {
            return None;
        }
        let id = *self.by_server.get(&server)?;
        Some((id, self.get(id)?))
    }
}

impl Relay {
    pub(crate) fn channel(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.get(&peer).copied()
    }

    pub(crate) fn peer(&self, channel: u16) -> Option<SocketAddr> {
        self.peers.get(&channel).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_follow_what_is_bound() {
        let relays = Relays::default();
        let (one, server, peer) =
            (RelayId(1), "203.0.113.1:3478".parse().unwrap(), "198.51.100.1:9".parse().unwrap());
        relays.set_channel(one, peer, Some(0x4000));
        assert!(relays.load().get(one).is_none(), "no such relay");
        relays.set_relay(one, Some(Carrier::Udp(server)));
        relays.set_channel(one, peer, Some(0x4000));
        relays.set_channel(one, peer, Some(0x4001));
        let table = relays.load();
        let (id, relay) = table.at(server).unwrap();
        assert_eq!(
            (id, relay.channel(peer), relay.peer(0x4001), relay.peer(0x4000)),
            (one, Some(0x4001), Some(peer), None)
        );
        relays.set_channel(one, peer, None);
        assert_eq!(relays.load().get(one).unwrap().channel(peer), None);
    }

    #[test]
    fn a_servers_address_is_its_newest_allocations() {
        let relays = Relays::default();
        let server = "203.0.113.1:3478".parse().unwrap();
        relays.set_relay(RelayId(1), Some(Carrier::Udp(server)));
        relays.set_relay(RelayId(2), Some(Carrier::Udp(server)));
        relays.set_relay(RelayId(1), None);
        assert_eq!(relays.load().at(server).map(|(id, _)| id), Some(RelayId(2)));
        relays.set_relay(RelayId(2), None);
        assert!(relays.load().at(server).is_none());
    }
}
