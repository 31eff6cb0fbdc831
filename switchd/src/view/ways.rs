//! How this node reaches the others: its network, its relays, and the ways to one peer.

use std::net::SocketAddr;
use std::time::Duration;

use nat_traversal::{NatReport, PathView, Route, SignalCandidate, TraversalReport};
use serde::{Deserialize, Serialize};

use super::{Link, LinkState, units};

/// What the network does with this node's datagrams.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Netcheck {
    /// NAT and servers.
    #[serde(flatten)]
    pub nat: NatReport,
    /// The relays that this node is to use, best first.
    pub relays: Vec<RelayRow>,
    /// The path MTU to each peer that has a path.
    pub path_mtus: Vec<PathMtuRow>,
}

/// A relay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelayRow {
    /// Its name or address.
    pub server: String,
    /// `udp`, `tcp` or `tls`.
    pub transport: String,
    /// Where the allocation stands.
    pub state: RelayState,
    /// This node's address on it.
    pub relayed: Option<SocketAddr>,
    /// Why it did not serve last.
    pub last_error: Option<String>,
}

/// Where an allocation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayState {
    /// It relays.
    Serving,
    /// It is being asked.
    Asking,
    /// It failed, and is asked again later.
    Waiting,
    /// It is not asked while another serves.
    Spare,
}

impl RelayState {
    /// The word that JSON and tables show.
    pub fn as_str(self) -> &'static str {
        match self {
            RelayState::Serving => "serving",
            RelayState::Asking => "asking",
            RelayState::Waiting => "waiting",
            RelayState::Spare => "spare",
        }
    }
}

/// What the path to a peer carries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PathMtuRow {
    /// The peer's name.
    pub peer: String,
    /// Kind of path.
    pub path: Option<String>,
    /// Largest IP packet, bytes.
    #[serde(rename = "path_mtu_bytes")]
    pub path_mtu: u16,
}

impl Netcheck {
    /// Puts together what the parts of the daemon know.
    pub fn new(nat: NatReport, relays: Vec<RelayRow>, links: Vec<Link>) -> Netcheck {
        let rows = links.into_iter().filter_map(|link| {
            Some(PathMtuRow { peer: link.peer, path: link.path, path_mtu: link.path_mtu? })
        });
        Netcheck { nat, relays, path_mtus: rows.collect() }
    }
}

/// The ways to one peer, and why frames do not go by a better one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WhyRelayed {
    /// The peer's name.
    pub peer: String,
    /// Where the link stands.
    pub state: LinkState,
    /// Kind of the path in use.
    pub path: Option<String>,
    /// Whether frames go by a relay.
    pub relayed: bool,
    /// One sentence for each reason; empty if the path is direct.
    pub reasons: Vec<String>,
    /// What checks do: `asleep`, `signalling`, `checking`, `quiet`; absent where there are none.
    pub checks: Option<String>,
    /// Since the peer's last signal.
    #[serde(rename = "last_signal_seconds", with = "units::opt_seconds")]
    pub last_signal: Option<Duration>,
    /// The peer has shown to know this node's candidates.
    pub peer_knows: bool,
    /// Ways that the data plane measures.
    pub paths: Vec<PathRow>,
    /// Where the peer was told that this node is.
    pub local: Vec<CandidateRow>,
    /// Where the peer says it is.
    pub remote: Vec<CandidateRow>,
    /// Pairs that were checked last.
    pub pairs: Vec<PairRow>,
}

/// A way that the data plane measures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PathRow {
    /// It carries frames.
    pub selected: bool,
    /// Kind of path.
    pub kind: String,
    /// The address at its other end.
    pub address: SocketAddr,
    /// By this node's allocation with this number; none for a path that leaves from its own socket.
    pub relay: Option<u32>,
    /// `untried`, `alive` or `dead`.
    pub state: String,
    /// Smoothed round-trip time.
    #[serde(rename = "rtt_seconds", with = "units::opt_seconds")]
    pub rtt: Option<Duration>,
    /// Probes without an answer, 0 to 1.
    #[serde(rename = "loss_ratio")]
    pub loss: f64,
    /// Largest UDP payload that it is known to carry, bytes; 0: not even what every path must carry.
    #[serde(rename = "datagram_max_bytes")]
    pub datagram_max: u16,
}

/// An address at which a node may be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CandidateRow {
    /// `host`, `peer-reflexive`, `server-reflexive` or `relayed`.
    pub kind: String,
    /// The address.
    pub address: SocketAddr,
}

/// A pair of candidates that was checked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PairRow {
    /// Kind of this node's candidate.
    pub local: String,
    /// Kind of the peer's.
    pub remote: String,
    /// The peer's address.
    pub address: SocketAddr,
    /// By this node's allocation with this number.
    pub relay: Option<u32>,
    /// How it went.
    pub state: String,
    /// Checks sent.
    pub checks_sent: u32,
}

impl WhyRelayed {
    /// Puts together what the parts of the daemon know. `report` is absent of a peer that no checks are made with.
    pub fn new(link: Link, report: Option<&TraversalReport>, paths: &[PathView]) -> WhyRelayed {
        let relayed = link.path.as_deref() == Some("relayed");
        let mut why = WhyRelayed {
            peer: link.peer,
            state: link.state,
            path: link.path,
            relayed,
            reasons: report.map(TraversalReport::why_relayed).unwrap_or_default(),
            checks: report.map(|report| report.state.name().to_owned()),
            last_signal: report.and_then(|report| report.heard),
            peer_knows: report.is_some_and(|report| report.told),
            paths: paths.iter().map(path_row).collect(),
            local: report.map(|report| candidates(&report.local)).unwrap_or_default(),
            remote: report.map(|report| candidates(&report.remote)).unwrap_or_default(),
            pairs: report.map(pairs).unwrap_or_default(),
        };
        if why.path.is_some() && !relayed {
            why.reasons.clear();
        } else if report.is_none() {
            why.reasons.push(NO_CHECKS.to_owned());
        }
        if why.state != LinkState::Up {
            why.reasons.extend(link.last_error);
        }
        why
    }
}

fn path_row(path: &PathView) -> PathRow {
    PathRow {
        selected: path.selected,
        kind: path.pair.kind().name().to_owned(),
        address: path.route.remote(),
        relay: relay_of(path.route),
        state: path.state.name().to_owned(),
        rtt: path.rtt,
        loss: f64::from(path.loss_ppm) / 1e6,
        datagram_max: path.mtu,
    }
}

fn candidates(of: &[SignalCandidate]) -> Vec<CandidateRow> {
    let row = |candidate: &SignalCandidate| CandidateRow {
        kind: candidate.kind.name().to_owned(),
        address: candidate.address,
    };
    of.iter().map(row).collect()
}

fn pairs(report: &TraversalReport) -> Vec<PairRow> {
    let rows = report.pairs.iter().map(|pair| PairRow {
        local: pair.local.name().to_owned(),
        remote: pair.remote.name().to_owned(),
        address: pair.route.remote(),
        relay: relay_of(pair.route),
        state: pair.state.name().to_owned(),
        checks_sent: pair.sent,
    });
    rows.collect()
}

fn relay_of(route: Route) -> Option<u32> {
    match route {
        Route::Direct(_) => None,
        Route::Relayed(relay, _) => Some(relay.0),
    }
}

const NO_CHECKS: &str = "no checks are made with this peer: it is of the configuration file, whose addresses are \
     dialled as they are, or nat.traversal is off";
