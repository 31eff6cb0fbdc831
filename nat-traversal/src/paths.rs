//! Which address a peer is reached at, hidden from QUIC behind an address that never changes.
//!
//! A QUIC client drops packets whose source address changed, so QUIC is given one virtual address per peer, and
//! the socket maps it to the path of the moment. Packets from any other address keep that address: they are
//! handshakes of peers that moved, or strangers'.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// A peer's number, as the daemon counts peers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// How a peer is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// What kind of address that is.
    pub kind: PathKind,
    /// Where datagrams go.
    pub remote: SocketAddr,
}

/// The candidate types of ICE (RFC 8445, 5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathKind {
    /// An address the peer has itself.
    Host,
    /// Learned from the peer's own authenticated datagrams.
    PeerReflexive,
}

impl PathKind {
    /// The name for people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            PathKind::Host => "host",
            PathKind::PeerReflexive => "peer-reflexive",
        }
    }
}

/// Every peer's path, and whose a source address is.
#[derive(Debug, Default)]
pub struct PathTable {
    peers: HashMap<Slot, Path>,
    by_remote: HashMap<SocketAddr, Slot>,
}

impl PathTable {
    /// The address that QUIC knows the peer by: in the discard prefix of RFC 6666, never on a wire.
    pub fn virtual_address(peer: Slot) -> SocketAddr {
        let [a, b] = [(peer.0 >> 16) as u16, peer.0 as u16];
        SocketAddr::new(Ipv6Addr::new(0x100, 0, 0, 0, 0x7377, 0, a, b).into(), VIRTUAL_PORT)
    }

    /// Sends to the peer along `path` from now on.
    pub fn select(&mut self, peer: Slot, path: Path) {
        let path = Path { remote: canonical(path.remote), ..path };
        self.forget(peer);
        self.peers.insert(peer, path);
        self.by_remote.insert(path.remote, peer);
    }

    /// Forgets a peer that is no longer one.
    pub fn forget(&mut self, peer: Slot) {
        if let Some(path) = self.peers.remove(&peer)
            && self.by_remote.get(&path.remote) == Some(&peer)
        {
            self.by_remote.remove(&path.remote);
        }
    }

    /// The peer's path.
    pub fn path(&self, peer: Slot) -> Option<Path> {
        self.peers.get(&peer).copied()
    }

    /// Where a datagram that QUIC addressed to `destination` goes; `None` for a virtual address without a path.
    pub fn to_wire(&self, destination: SocketAddr) -> Option<SocketAddr> {
        match virtual_slot(destination) {
            Some(peer) => self.path(peer).map(|path| path.remote),
            None => Some(destination),
        }
    }

    /// The source that QUIC is shown for a datagram from `source`.
    pub fn from_wire(&self, source: SocketAddr) -> SocketAddr {
        let source = canonical(source);
        self.by_remote.get(&source).map_or(source, |peer| PathTable::virtual_address(*peer))
    }
}

fn virtual_slot(address: SocketAddr) -> Option<Slot> {
    match address.ip() {
        IpAddr::V6(ip) if address.port() == VIRTUAL_PORT => match ip.segments() {
            [0x100, 0, 0, 0, 0x7377, 0, a, b] => Some(Slot(u32::from(a) << 16 | u32::from(b))),
            _ => None,
        },
        _ => None,
    }
}

/// The one form of an address: a dual-stack socket reports IPv4 sources as ::ffff:a.b.c.d. The scope of a link-local
/// IPv6 address stays.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
    }
}

/// Whether a datagram can have come from this address: not from port 0, to which nothing can be sent back, and not
/// from an address that stands for a peer.
pub fn is_real_source(source: SocketAddr) -> bool {
    source.port() != 0 && virtual_slot(source).is_none()
}

const VIRTUAL_PORT: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: &str) -> Path {
        Path { kind: PathKind::Host, remote: s.parse().unwrap() }
    }

    #[test]
    fn a_peer_keeps_its_virtual_address_when_it_moves() {
        let mut table = PathTable::default();
        let peer = Slot(70_000);
        let seen = PathTable::virtual_address(peer);
        assert_eq!(table.to_wire(seen), None);
        table.select(peer, at("192.0.2.1:4840"));
        assert_eq!(table.from_wire("[::ffff:192.0.2.1]:4840".parse().unwrap()), seen);
        table.select(peer, at("[2001:db8::1]:7"));
        assert_eq!(table.to_wire(seen), Some("[2001:db8::1]:7".parse().unwrap()));
        assert_eq!(table.from_wire("[2001:db8::1]:7".parse().unwrap()), seen);
    }

    #[test]
    fn strangers_and_former_addresses_are_shown_as_they_are() {
        let mut table = PathTable::default();
        let stranger = "198.51.100.9:9".parse().unwrap();
        assert_eq!(table.from_wire(stranger), stranger);
        table.select(Slot(1), at("192.0.2.1:1"));
        table.select(Slot(1), at("192.0.2.1:2"));
        let former = "192.0.2.1:1".parse().unwrap();
        assert_eq!(table.from_wire(former), former);
    }

    #[test]
    fn sources_that_cannot_be() {
        assert!(is_real_source("192.0.2.1:1".parse().unwrap()));
        assert!(!is_real_source("192.0.2.1:0".parse().unwrap()));
        assert!(!is_real_source(PathTable::virtual_address(Slot(3))));
        let link_local = "[fe80::1%3]:5".parse().unwrap();
        assert_eq!(canonical(link_local), link_local);
    }

    #[test]
    fn an_address_that_another_peer_took_over_is_that_peers() {
        let mut table = PathTable::default();
        table.select(Slot(1), at("192.0.2.1:1"));
        table.select(Slot(2), at("192.0.2.1:1"));
        table.forget(Slot(1));
        assert_eq!(table.from_wire("192.0.2.1:1".parse().unwrap()), PathTable::virtual_address(Slot(2)));
    }
}
