//! What a relay's client is made of, and what it tells.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::why::{LostReason, PeerRefusal};
use crate::route::RelayId;

/// How the relay is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RelayTransport {
    /// By datagrams of the node's UDP socket.
    Udp,
    /// By a TCP connection, or TLS over one, that carries nothing else.
    Stream,
}

/// The address family of an allocation, and so of all peers that it reaches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RelayFamily {
    /// IPv4.
    V4,
    /// IPv6. A server gives it to a client that reaches it by IPv4, too; but one client address has one
    /// allocation.
    V6,
}

/// What a [`RelayClient`](super::RelayClient) is made of. Its `Debug` form leaves the credentials out.
#[derive(Clone)]
pub struct RelayConfig {
    /// The number of this allocation.
    pub id: RelayId,
    /// The relay.
    pub server: SocketAddr,
    /// How it is reached.
    pub transport: RelayTransport,
    /// The allocation's family.
    pub family: RelayFamily,
    /// Long-term credentials (RFC 8489, 9.2). Newer ones do not ask for a new client, which the relay would refuse
    /// while this one's allocation lives: see [`set_credentials`](super::RelayClient::set_credentials).
    pub username: String,
    /// The password of them.
    pub password: String,
}

/// What happened to an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RelayEvent {
    /// The relay forwards what arrives at `relayed` from permitted peers.
    Allocated {
        /// This node's address on the relay.
        relayed: SocketAddr,
        /// The address that the relay sees this node at.
        mapped: Option<SocketAddr>,
    },
    /// The relay forwards to and from this address, whatever the port.
    Permitted(IpAddr),
    /// It does not, or no longer: [`RelayClient::permit`](super::RelayClient::permit) may be tried again later.
    PermitFailed {
        /// The peers' address.
        peer: IpAddr,
        /// Why.
        why: PeerRefusal,
    },
    /// Data to and from the peer may go as ChannelData.
    Bound {
        /// The peer.
        peer: SocketAddr,
        /// The number of the channel.
        channel: u16,
    },
    /// The peer has no channel (any longer): data goes by indications.
    BindFailed {
        /// The peer.
        peer: SocketAddr,
        /// Why.
        why: PeerRefusal,
    },
    /// A peer's datagram.
    PeerData {
        /// The peer.
        peer: SocketAddr,
        /// What it sent.
        payload: Vec<u8>,
    },
    /// The allocation is gone, or was not made: build a new client. Said once; it is the last event.
    Lost {
        /// Why.
        why: LostReason,
    },
}

impl fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RelayConfig { id, server, transport, family, .. } = self;
        write!(f, "RelayConfig({id:?}, {server}, {transport:?}, {family:?})")
    }
}
