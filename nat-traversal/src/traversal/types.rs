//! What a traversal is made of, what it is told and what it tells.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::route::{CandidateKind, CandidatePair, RelayId, Route};

/// What a [`Traversal`](crate::Traversal) is made of.
#[derive(Clone)]
pub struct TraversalConfig {
    /// Whether this side nominates. Both sides should agree; if they do not, the agents settle it.
    pub controlling: bool,
    /// This node's ICE user name fragment towards this peer, 4 to 60 of `[A-Za-z0-9+/]`, unguessable, no other
    /// peer's, and new with each start of the node: 8 will do.
    pub ufrag: String,
    /// The key of the peer's checks, 22 to 256 such characters, unguessable: 24 will do.
    pub password: String,
    /// Grows with each start of the node: milliseconds since 1970.
    pub generation: u64,
    /// Random: the tie-breaker of ICE, and so that not all peers check at the same time.
    pub seed: u64,
    /// How fast and how often.
    pub timing: TraversalTiming,
}

/// How fast and how often to check and to signal.
#[derive(Clone, Debug)]
pub struct TraversalTiming {
    /// Between two checks with one peer (Ta of RFC 8445). Default 10 ms.
    pub pace: Duration,
    /// Before a check is repeated; doubled each time. Default 100 ms.
    pub first_retry: Duration,
    /// The most between two checks of one pair. Default 1 s.
    pub slowest_retry: Duration,
    /// How long all pairs are checked after a beginning. Default 10 s.
    pub checking: Duration,
    /// How long a direct path must be in use for checks to end. Default 5 s.
    pub stable: Duration,
    /// On a relay: when direct paths are first tried again; doubled each time. Default 3 s.
    pub first_upgrade: Duration,
    /// The most between two such tries. Default 60 s.
    pub slowest_upgrade: Duration,
    /// Before a signal is repeated to a peer that has not answered; doubled each time. Default 250 ms.
    pub first_signal_retry: Duration,
    /// The most between two such signals. Default 30 s.
    pub slowest_signal_retry: Duration,
}

impl Default for TraversalTiming {
    fn default() -> TraversalTiming {
        TraversalTiming {
            pace: Duration::from_millis(10),
            first_retry: Duration::from_millis(100),
            slowest_retry: Duration::from_secs(1),
            checking: Duration::from_secs(10),
            stable: Duration::from_secs(5),
            first_upgrade: Duration::from_secs(3),
            slowest_upgrade: Duration::from_secs(60),
            first_signal_retry: Duration::from_millis(250),
            slowest_signal_retry: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for TraversalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraversalConfig")
            .field("controlling", &self.controlling)
            .field("ufrag", &self.ufrag)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A STUN datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// By which way.
    pub route: Route,
    /// The datagram, without the framing of a relay.
    pub payload: Vec<u8>,
}

/// What a [`Traversal`](crate::Traversal) has found out, or needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraversalEvent {
    /// A check by this route was answered: it is a path. Told once for each route, and again after it was reported
    /// dead or gone, or when its far end turns out to be on a relay.
    Found {
        /// The way of the path.
        route: Route,
        /// What its ends are.
        pair: CandidatePair,
    },
    /// This route cannot be a path any more: its relay is lost, the peer no longer has its address, or the peer has
    /// begun anew.
    Gone {
        /// The way of the path.
        route: Route,
    },
    /// The relay must let these addresses of the peer through. Each list is the whole of the present one.
    NeedsRelay {
        /// The allocation.
        relay: RelayId,
        /// Addresses of its family; public ones only if its own is public.
        peers: Vec<SocketAddr>,
    },
}

/// What the data path says of the peer's paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathNews {
    /// Frames go by this path now, of this kind as far as the data path knows ([`CandidatePair::kind`]).
    Selected(Route, CandidateKind),
    /// A path no longer answers.
    Dead(Route),
    /// No path answers.
    AllDead,
    /// No frames flow: there is no hurry to find better paths.
    Idle,
}
