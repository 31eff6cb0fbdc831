//! Why a peer is reached as it is.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Traversal, local_kind, remote_kind};
use crate::ice::CheckState;
use crate::route::{CandidateKind, Route, is_global};
use crate::signal::SignalCandidate;

/// What a [`Traversal`] knows, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraversalReport {
    /// What it does now.
    pub state: TraversalState,
    /// Whether this side nominates.
    pub controlling: bool,
    /// What frames go by.
    pub selected: Option<CandidateKind>,
    /// Where the peer was told that this node is.
    pub local: Vec<SignalCandidate>,
    /// Where the peer says it is.
    pub remote: Vec<SignalCandidate>,
    /// The pairs that were tried since checks last began.
    pub pairs: Vec<PairReport>,
    /// How long ago the peer's last signal came.
    pub heard: Option<Duration>,
    /// Whether the peer has shown to know this node's present candidates.
    pub told: bool,
    /// This node's NAT gives each destination a port of its own.
    pub local_remaps: bool,
    /// The peer's NAT does.
    pub remote_remaps: bool,
}

/// What a [`Traversal`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraversalState {
    /// Nobody has wanted a link.
    Asleep,
    /// No signal of the peer has come.
    Signalling,
    /// Pairs are checked.
    Checking,
    /// No checks are sent.
    Quiet,
}

/// One pair that was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairReport {
    /// The way of its checks.
    pub route: Route,
    /// This node's candidate.
    pub local: CandidateKind,
    /// The peer's.
    pub remote: CandidateKind,
    /// How it went.
    pub state: PairState,
    /// How many checks were sent.
    pub sent: u32,
}

/// How the checks of a pair went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PairState {
    /// None was answered so far.
    Unanswered,
    /// One was answered.
    Succeeded,
    /// And the agents agreed on it.
    Nominated,
}

impl TraversalState {
    /// The name for people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            TraversalState::Asleep => "asleep",
            TraversalState::Signalling => "signalling",
            TraversalState::Checking => "checking",
            TraversalState::Quiet => "quiet",
        }
    }
}

impl PairState {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            PairState::Unanswered => "no answer",
            PairState::Succeeded => "answered",
            PairState::Nominated => "nominated",
        }
    }
}

impl Traversal {
    /// What is known now.
    pub fn report(&self, now: Instant) -> TraversalReport {
        let known = self.remote_candidates();
        let pairs = self.agent.checks().into_iter().map(|check| PairReport {
            route: check.route,
            local: local_kind(check.route),
            remote: remote_kind(&known, check.route),
            sent: check.sent,
            state: match (check.state, check.nominated) {
                (CheckState::Waiting, _) => PairState::Unanswered,
                (CheckState::Succeeded, false) => PairState::Succeeded,
                (CheckState::Succeeded, true) => PairState::Nominated,
            },
        });
        TraversalReport {
            state: match (self.awake, self.agent.knows_peer(), self.schedule.is_active()) {
                (false, ..) => TraversalState::Asleep,
                (true, false, _) => TraversalState::Signalling,
                (true, true, true) => TraversalState::Checking,
                (true, true, false) => TraversalState::Quiet,
            },
            controlling: self.agent.controlling(),
            selected: self.selected,
            local: self.signalling.own().candidates.clone(),
            remote: self.signalling.peer().map(|peer| peer.candidates.clone()).unwrap_or_default(),
            pairs: pairs.collect(),
            heard: self.signalling.heard_at().map(|at| now.saturating_duration_since(at)),
            told: self.signalling.is_known(),
            local_remaps: self.remaps[0] || maps_differ(&self.signalling.own().candidates),
            remote_remaps: self.remaps[1]
                || self.signalling.peer().is_some_and(|peer| maps_differ(&peer.candidates)),
        }
    }
}

impl TraversalReport {
    /// Why frames go by a relay, or not at all: a sentence for each reason. Empty if the path is direct.
    pub fn why_relayed(&self) -> Vec<String> {
        if self.selected.is_some_and(|kind| kind != CandidateKind::Relayed) {
            return Vec::new();
        }
        let early = match self.state {
            TraversalState::Asleep => Some("no link to this peer was wanted so far"),
            TraversalState::Signalling => {
                Some("no signal of the peer has come: it is not running, or the controller does not reach it")
            }
            _ if self.local.is_empty() => Some("this node has no address that a peer could use"),
            _ if self.remote.is_empty() => Some("the peer has no address that this node could use"),
            _ => None,
        };
        if let Some(early) = early {
            return vec![early.to_owned()];
        }
        let mut reasons = Vec::new();
        let sides = [("this node", &self.local), ("the peer", &self.remote)].map(|(who, candidates)| {
            let side = Side::of(candidates);
            reasons.extend(side.trouble(who));
            side
        });
        match (self.local_remaps, self.remote_remaps) {
            (true, true) => {
                reasons.push("both NATs map each destination anew: no hole can be punched".to_owned());
            }
            (true, false) => reasons.push(one_remaps("this node's", "the peer's")),
            (false, true) => reasons.push(one_remaps("the peer's", "this node's")),
            (false, false) => {}
        }
        let direct = |pair: &&PairReport| {
            pair.local != CandidateKind::Relayed && pair.remote != CandidateKind::Relayed
        };
        let families = |side: &Side| (side.direct_v4, side.direct_v6);
        match (families(&sides[0]), families(&sides[1])) {
            ((true, _), (true, _)) | ((_, true), (_, true)) => {}
            _ => reasons.push("the two have no address family in common".to_owned()),
        }
        if self.pairs.iter().filter(direct).any(|pair| pair.state != PairState::Unanswered) {
            reasons.push("a direct path answers checks, but the data path has not taken it: see its losses and its MTU".to_owned());
        } else if reasons.is_empty() {
            let tried = self.pairs.iter().filter(direct).count();
            reasons.push(match self.state {
                TraversalState::Checking => {
                    format!("{tried} direct pairs are being checked, none has answered yet")
                }
                _ => format!(
                    "{tried} direct pairs were checked and none answered: a firewall or NAT drops them"
                ),
            });
        }
        reasons
    }
}

/// What one side's candidates tell.
struct Side {
    direct_v4: bool,
    direct_v6: bool,
    public: bool,
    reflexive: bool,
    relayed: bool,
}

impl Side {
    fn of(candidates: &[SignalCandidate]) -> Side {
        let any = |wanted: &dyn Fn(&SignalCandidate) -> bool| candidates.iter().any(wanted);
        let direct =
            |v6| move |c: &SignalCandidate| c.kind != CandidateKind::Relayed && c.address.is_ipv6() == v6;
        Side {
            direct_v4: any(&direct(false)),
            direct_v6: any(&direct(true)),
            public: any(&|c| c.kind == CandidateKind::Host && is_global(c.address.ip())),
            reflexive: any(&|c| c.kind == CandidateKind::ServerReflexive),
            relayed: any(&|c| c.kind == CandidateKind::Relayed),
        }
    }

    fn trouble(&self, who: &str) -> Option<String> {
        if self.public || self.reflexive {
            return None;
        }
        Some(match self.relayed {
            true => format!(
                "{who} has no server-reflexive candidate but a relay: its network blocks UDP and the relay is \
                 reached by TCP, or no STUN server has answered it"
            ),
            false => format!("{who} has no server-reflexive candidate: no STUN server has answered it"),
        })
    }
}

fn one_remaps(whose: &str, other: &str) -> String {
    format!(
        "{whose} NAT maps each destination anew, and {other} NAT or firewall lets in only the very ports it has \
         sent to"
    )
}

/// Whether servers saw one host behind one address at several ports. The port of the host itself is no sight of a
/// server's: it is what a router may have been told to forward.
fn maps_differ(candidates: &[SignalCandidate]) -> bool {
    let own_port =
        |port: u16| candidates.iter().any(|c| c.kind == CandidateKind::Host && c.address.port() == port);
    let seen = |c: &&SignalCandidate| c.kind == CandidateKind::ServerReflexive && !own_port(c.address.port());
    let reflexive = || candidates.iter().filter(seen).map(|c| c.address);
    let port_of = |ip: IpAddr| move |other: &SocketAddr| other.ip() == ip;
    reflexive().any(|one| reflexive().filter(port_of(one.ip())).any(|other| other.port() != one.port()))
}
