//! What a path set is told, and tells.

use std::time::Duration;

use crate::route::{CandidatePair, Route};

/// A path of one peer. Numbers from [`PathId::OWN`] on are the path set's own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PathId(pub u32);

impl PathId {
    /// The first number that the path set gives itself, to ways that it learned from authentic datagrams.
    pub const OWN: u32 = 1 << 31;
}

/// A way to the peer that may work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Its number, below [`PathId::OWN`].
    pub id: PathId,
    /// The way.
    pub route: Route,
    /// What it is between.
    pub pair: CandidatePair,
    /// A handshake has just been made by it, both ways and with packets of [`FULL`](crate::FULL) bytes.
    pub proven: bool,
}

/// What became of the paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathEvent {
    /// Frames take this path from now on.
    Selected {
        /// Its number.
        id: PathId,
        /// The way.
        route: Route,
        /// What it is between.
        pair: CandidatePair,
    },
    /// A way that was known only as the source of datagrams has answered: the peer is there, and may send by it,
    /// whether or not frames take it from here.
    Learned {
        /// The way.
        route: Route,
    },
    /// This path does not answer any more.
    Dead {
        /// Its number.
        id: PathId,
        /// The way.
        route: Route,
    },
    /// The last path has died; frames are still sent by it.
    AllDead,
    /// After [`AllDead`](PathEvent::AllDead): a path answers.
    Alive,
    /// No path has answered for `dead_after`: the peer is gone. Reported once for each time.
    Lost,
}

/// Timing and limits of a path set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathConfig {
    /// Between probes of a path in use while no frames flow.
    pub keepalive: Duration,
    /// Without an answer by any path for this long, the peer is [`Lost`](PathEvent::Lost).
    pub dead_after: Duration,
    /// The largest IP packet to try, bytes.
    pub underlay_mtu: u16,
}

/// A probe to be sealed and sent; or one that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathProbe {
    /// The way to send it, or by which it came.
    pub route: Route,
    /// A request; else the answer to one.
    pub answer_wanted: bool,
    /// Of the request.
    pub sequence: u32,
    /// How long ago the sender had heard the receiver on this path; `None`: never.
    pub heard: Option<Duration>,
    /// Bytes of UDP payload of the whole sealed request: its own length to a request, which is to be padded to it (0:
    /// as short as it gets); what arrived to an answer.
    pub len: u16,
}

/// A path as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathView {
    /// Its number.
    pub id: PathId,
    /// The way.
    pub route: Route,
    /// What it is between.
    pub pair: CandidatePair,
    /// Whether it answers.
    pub state: PathState,
    /// It carries frames.
    pub selected: bool,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// Probes without an answer, in millionths.
    pub loss_ppm: u32,
    /// The largest UDP payload that it is known to carry, bytes; 0: not even [`FULL`](crate::FULL) is known yet.
    pub mtu: u16,
}

/// Whether a path answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathState {
    /// Not asked often enough yet.
    Untried,
    /// It answers.
    Alive,
    /// It does not any more, or never did.
    Dead,
}

impl PathState {
    /// The name for people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            PathState::Untried => "untried",
            PathState::Alive => "alive",
            PathState::Dead => "dead",
        }
    }
}
