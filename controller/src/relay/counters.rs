//! What is counted of the relay.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of the embedded relay. All but the gauges only rise.
#[derive(Debug, Default)]
pub struct RelayCounters {
    /// Allocations that stand: a gauge.
    pub allocations: Number,
    /// Permissions that stand: a gauge.
    pub permissions: Number,
    /// Channels that stand: a gauge.
    pub channels: Number,
    /// Connections over TCP and TLS that stand: a gauge.
    pub connections: Number,
    /// Allocations made.
    pub allocated: Number,
    /// Binding requests answered.
    pub bindings: Number,
    /// From nodes to their peers: datagrams and their bytes, without headers of TURN.
    pub to_peers: Flow,
    /// From peers to nodes.
    pub to_nodes: Flow,
    refused: [Number; Refused::ALL.len()],
}

/// Datagrams and bytes.
#[derive(Debug, Default)]
pub struct Flow {
    /// Datagrams.
    pub datagrams: Number,
    /// Bytes of what is relayed.
    pub bytes: Number,
}

impl Flow {
    pub(super) fn add(&self, datagrams: usize, bytes: usize) {
        self.datagrams.add(datagrams as u64);
        self.bytes.add(bytes as u64);
    }
}

/// Why something was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Neither STUN nor ChannelData, or broken.
    Malformed,
    /// Not answered: too many of its source, or of all, that proved nothing.
    RateLimited,
    /// Wrong or expired credentials, or no node's.
    Credentials,
    /// The node, or everybody together, has too many allocations; or no port is left.
    Capacity,
    /// A peer that the relay does not send to.
    Peer,
    /// From or to a peer without a permission, or a channel that is not bound.
    Permission,
    /// More datagrams than one node may have.
    PacketRate,
    /// The kernel did not take it: no route, or no room.
    Send,
    /// A TCP connection that was one too many, too slow, or broke the protocol.
    Connection,
    /// A request that makes no sense.
    Request,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Refused; 10] = [
        Refused::Malformed,
        Refused::RateLimited,
        Refused::Credentials,
        Refused::Capacity,
        Refused::Peer,
        Refused::Permission,
        Refused::PacketRate,
        Refused::Send,
        Refused::Connection,
        Refused::Request,
    ];

    /// As metrics have it.
    pub fn word(self) -> &'static str {
        match self {
            Refused::Malformed => "malformed",
            Refused::RateLimited => "rate-limited",
            Refused::Credentials => "credentials",
            Refused::Capacity => "capacity",
            Refused::Peer => "peer",
            Refused::Permission => "permission",
            Refused::PacketRate => "packet-rate",
            Refused::Send => "send",
            Refused::Connection => "connection",
            Refused::Request => "request",
        }
    }
}

impl RelayCounters {
    /// How often for this reason.
    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused[reason as usize].get()
    }

    pub(super) fn refuse(&self, reason: Refused) {
        self.refused[reason as usize].add(1);
    }
}

/// A number that others may read at any time.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// How much it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn set(&self, to: usize) {
        self.0.store(to as u64, Ordering::Relaxed);
    }
}
