//! Words that all of this crate's parts share: candidates, relays, and by which way a datagram travels.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One allocation of this node on a relay. A new allocation has a new number, also on the same server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RelayId(pub u32);

/// The way of a datagram between this node and a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Route {
    /// Straight from this node's UDP socket to this address, and back. It may be an address on the *peer's* relay.
    Direct(SocketAddr),
    /// By way of this node's own allocation on a relay, to and from this address beyond it.
    Relayed(RelayId, SocketAddr),
}

impl Route {
    /// The address at the other end.
    pub fn remote(self) -> SocketAddr {
        match self {
            Route::Direct(remote) | Route::Relayed(_, remote) => remote,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Direct(remote) => write!(f, "{remote}"),
            Route::Relayed(relay, remote) => write!(f, "relay {} to {remote}", relay.0),
        }
    }
}

/// The candidate types of ICE (RFC 8445, 5.1.1). The order is that of preference, best first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum CandidateKind {
    /// An address that the node has itself.
    Host,
    /// Learned from authentic datagrams, or from a check.
    PeerReflexive,
    /// What a STUN server saw, or what a router was asked to map.
    ServerReflexive,
    /// An allocation on a relay.
    Relayed,
}

impl CandidateKind {
    /// The name for people, metrics and the wire.
    pub fn name(self) -> &'static str {
        match self {
            CandidateKind::Host => "host",
            CandidateKind::PeerReflexive => "peer-reflexive",
            CandidateKind::ServerReflexive => "server-reflexive",
            CandidateKind::Relayed => "relayed",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<CandidateKind> {
        let all = [Self::Host, Self::PeerReflexive, Self::ServerReflexive, Self::Relayed];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// An address at which a node may be reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Candidate {
    /// What kind of address that is.
    pub kind: CandidateKind,
    /// Where peers send to.
    pub address: SocketAddr,
    /// The host's own address from which datagrams of this candidate leave (RFC 8445, 5.1.1.2): the address itself
    /// of a host candidate; of a relayed one, that which talks with the relay.
    pub base: SocketAddr,
    /// The allocation, of a relayed candidate of this node's own; peers' have none.
    pub relay: Option<RelayId>,
}

/// The two candidates of a path, for tables and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CandidatePair {
    /// This node's.
    pub local: CandidateKind,
    /// This node's address of it, where known.
    pub local_address: Option<SocketAddr>,
    /// The peer's.
    pub remote: CandidateKind,
}

impl CandidatePair {
    /// The kind of a path: relayed if either end is, else that of the peer's candidate.
    pub fn kind(&self) -> CandidateKind {
        if self.local == CandidateKind::Relayed { CandidateKind::Relayed } else { self.remote }
    }
}

/// Whether packets to this address cross the public internet: a public relay is never asked for others.
pub fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || ip.is_multicast()
                || shared)
        }
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(v4) => is_global(v4.into()),
            None => {
                !(ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_multicast()
                    || ip.is_unicast_link_local()
                    || ip.is_unique_local())
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_not_global() {
        for ip in
            ["10.1.2.3", "192.168.0.1", "100.64.0.1", "127.0.0.1", "169.254.1.1", "::1", "fe80::1", "fd00::1"]
        {
            assert!(!is_global(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["203.0.113.10", "100.128.0.1", "2001:db8::1", "::ffff:203.0.113.1"] {
            assert!(is_global(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for kind in [
            CandidateKind::Host,
            CandidateKind::PeerReflexive,
            CandidateKind::ServerReflexive,
            CandidateKind::Relayed,
        ] {
            assert_eq!(CandidateKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(CandidateKind::from_name("other"), None);
    }
}
