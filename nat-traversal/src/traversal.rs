//! One peer: from candidates to paths that work.
//!
//! ```text
//!            wake, or the peer's signal
//!   asleep ───────────────────────────────► checking ◄─────────────────────┐
//!                                              │                           │
//!                     a direct path in use for 5 s, or time is over        │ a path died, candidates changed,
//!                                              ▼                           │ the peer asked or checks
//!                                            quiet ────────────────────────┘
//!                                              └─ on a relay, or with no path: a burst of checks after 3 s, then
//!                                                 less and less often
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ice::{Agent, AgentEvent, Bases, IsAgent, Pace, Peer, RelayBase};
use crate::paths::{canonical, is_real_source};
use crate::route::{Candidate, CandidateKind, CandidatePair, RelayId, Route, is_global};
use crate::signal::{Signal, SignalCandidate, SignalError};

mod found;
mod report;
mod router;
mod schedule;
mod signalling;

use found::{Found, hops};
pub use report::{PairReport, PairState, TraversalReport, TraversalState};
pub use router::{StunRouter, stun_username};
use schedule::Schedule;
use signalling::Signalling;

/// What a [`Traversal`] is made of.
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

/// What a [`Traversal`] has found out, or needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraversalEvent {
    /// A check by this route was answered: it is a path. Told once for each route, and again after it was reported
    /// dead or gone.
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
    /// Frames go by a path of this kind now ([`CandidatePair::kind`]).
    Selected(CandidateKind),
    /// A path no longer answers.
    Dead(Route),
    /// No path answers.
    AllDead,
    /// No frames flow: there is no hurry to find better paths.
    Idle,
}

/// Finds ways to one peer and keeps finding them. Pure: time is an argument.
///
/// Every call of a `set_`, `handle_` or `wake` method is followed by `poll_transmit`, `poll_signal` and `poll_event`
/// until each gives `None`, and then `poll_timeout` says when `handle_timeout` is due.
pub struct Traversal {
    agent: Box<dyn Agent>,
    timing: TraversalTiming,
    local: Vec<Candidate>,
    signalling: Signalling,
    schedule: Schedule,
    found: Found,
    selected: Option<CandidateKind>,
    awake: bool,
    /// What each relay was last asked to let through.
    permitted: BTreeMap<RelayId, Vec<SocketAddr>>,
    /// The addresses by which the host got answers, per family, for reports.
    local_address: [Option<SocketAddr>; 2],
    /// Signs that a NAT maps each destination to a port of its own: this side's, the peer's.
    remaps: [bool; 2],
    /// The last time that was told.
    advanced: Instant,
    signals: VecDeque<Signal>,
    events: VecDeque<TraversalEvent>,
}

impl Traversal {
    /// A traversal that sleeps until it is woken or the peer signals.
    pub fn new(config: TraversalConfig, now: Instant) -> Traversal {
        let TraversalConfig { controlling, ufrag, password, generation, seed, timing } = config;
        let own = Signal {
            version: Signal::VERSION,
            generation,
            sequence: 1,
            ufrag: ufrag.clone(),
            password: password.clone(),
            candidates: Vec::new(),
            heard: None,
            check: 0,
            answer: true,
        };
        let pace = Pace {
            between: timing.pace,
            first_retry: timing.first_retry,
            slowest_retry: timing.slowest_retry,
        };
        Traversal {
            agent: Box::new(IsAgent::new(ufrag, password, controlling, seed, pace)),
            signalling: Signalling::new(own, timing.first_signal_retry, timing.slowest_signal_retry, now),
            schedule: Schedule::new(&timing, seed),
            timing,
            local: Vec::new(),
            found: Found::default(),
            selected: None,
            awake: false,
            permitted: BTreeMap::new(),
            local_address: [None; 2],
            remaps: [false; 2],
            advanced: now,
            signals: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A link to the peer is wanted: begins, or begins again where it stands still. For when that becomes so, not for
    /// each frame.
    pub fn wake(&mut self, now: Instant) {
        let first = !std::mem::replace(&mut self.awake, true);
        self.signalling.announce(now);
        match self.found.best() {
            None if first || !self.schedule.is_active() => {
                self.schedule.check_all(self.timing.checking, false, now);
            }
            _ => self.schedule.hurry(now),
        }
        self.advance(now);
    }

    /// The candidates that this node has now. Peers are told all but peer-reflexive ones.
    pub fn set_local_candidates(&mut self, candidates: &[Candidate], now: Instant) {
        let lost: Vec<Candidate> =
            self.local.iter().filter(|known| !candidates.contains(known)).copied().collect();
        let new: Vec<Candidate> =
            candidates.iter().filter(|candidate| !self.local.contains(candidate)).copied().collect();
        if lost.is_empty() && new.is_empty() {
            return;
        }
        self.local = candidates.to_vec();
        self.agent.set_bases(&bases(candidates));
        for relay in lost.iter().filter_map(|candidate| candidate.relay) {
            if !self.local.iter().any(|candidate| candidate.relay == Some(relay)) {
                self.permitted.remove(&relay);
                let gone = self.found.relay_lost(relay);
                self.gone(gone);
            }
        }
        if self.signalling.set_candidates(told(candidates)) && self.awake {
            self.signalling.announce(now);
        }
        let moved = lost.iter().chain(&new).any(|candidate| match candidate.kind {
            CandidateKind::Host => true,
            CandidateKind::ServerReflexive => !lost.is_empty() && !self.is_settled_nearby(),
            _ => false,
        });
        if self.awake && (moved || !self.is_settled()) {
            self.schedule.check_more(moved && !lost.is_empty(), now);
        }
        self.advance(now);
    }

    /// The peer's signal. An error says why it was not used; nothing needs to be done about it.
    pub fn handle_signal(&mut self, signal: &Signal, now: Instant) -> Result<(), SignalError> {
        let before = self.signalling.peer().map(|peer| peer.candidates.clone()).unwrap_or_default();
        let news = self.signalling.handle(signal, now)?;
        if !self.awake {
            self.awake = true;
            self.signalling.announce(now);
        }
        if news.instance || news.candidates {
            let remote = self.remote_candidates();
            let Some(known) = self.signalling.peer() else { return Ok(()) };
            let peer =
                Peer { ufrag: known.ufrag.clone(), password: known.password.clone(), candidates: remote };
            let withdrawn = before.iter().any(|old| !known.candidates.contains(old));
            let first = !self.agent.knows_peer();
            self.agent.set_peer(&peer);
            let names = |route: &Route| peer.candidates.iter().any(|(address, _)| *address == route.remote());
            let gone = match news.instance {
                true => self.found.clear(),
                false => self.found.withdraw(names, now + PATIENCE),
            };
            let lost_some = !gone.is_empty();
            self.gone(gone);
            if news.instance {
                self.selected = None;
                self.remaps[1] = false;
                self.schedule.begin(self.timing.checking, !first, now);
            } else if lost_some || !self.is_settled() || withdrawn && !self.is_settled_nearby() {
                self.schedule.check_more(withdrawn, now);
            }
        }
        if news.check {
            self.schedule.peer_asks(self.found.best().is_some(), now);
        }
        self.advance(now);
        Ok(())
    }

    /// A STUN datagram that came by `route` to the host's address `local`, unspecified where it is not known.
    /// `false`: not for this peer, or not authentic.
    pub fn handle_stun(&mut self, route: Route, local: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let route = canonical_route(route);
        if !is_real_source(route.remote()) || !self.agent.handle_stun(route, datagram, now) {
            return false;
        }
        if matches!(route, Route::Direct(_)) && !local.ip().is_unspecified() {
            self.local_address[family(local)] = Some(canonical(local));
        }
        self.advance(now);
        true
    }

    /// The data path's word on the peer's paths.
    pub fn handle_path(&mut self, news: PathNews, now: Instant) {
        match news {
            PathNews::Selected(kind) => {
                let before = self.selected.replace(kind);
                match kind {
                    CandidateKind::Relayed if before == Some(CandidateKind::Relayed) => {}
                    CandidateKind::Relayed => self.schedule.relayed(now),
                    _ if before.is_some_and(|kind| kind != CandidateKind::Relayed) => {}
                    _ => self.schedule.direct(now),
                }
            }
            PathNews::Dead(route) => {
                let route = canonical_route(route);
                let standby = self.is_settled() && self.found.hops_of(route) != Some(0);
                self.found.dead(route);
                if !standby {
                    self.schedule.path_died(now);
                }
            }
            PathNews::AllDead => {
                self.found.all_dead();
                self.selected = None;
                self.schedule.check_all(self.timing.checking, true, now);
            }
            PathNews::Idle => self.schedule.unhurried(now),
        }
        self.advance(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if !self.awake {
            return None;
        }
        let checks = match self.schedule.is_active() && self.agent.knows_peer() {
            true => self.agent.poll_timeout(),
            false => None,
        };
        let schedule = if self.agent.knows_peer() { self.schedule.due() } else { None };
        [checks, schedule, self.signalling.due(), self.found.next_expiry(self.advanced)]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let (route, payload) = self.agent.poll_transmit()?;
        self.schedule.sent(payload.len());
        Some(Transmit { route, payload })
    }

    /// The next signal to send to the peer.
    pub fn poll_signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<TraversalEvent> {
        self.events.pop_front()
    }

    fn advance(&mut self, now: Instant) {
        self.advanced = now;
        self.take_agent_events(now);
        let gone = self.found.expire(now);
        self.gone(gone);
        if !self.awake {
            return;
        }
        if let Some(signal) = self.signalling.poll(now) {
            self.signals.push_back(signal);
        }
        if !self.agent.knows_peer() {
            return;
        }
        self.ask_relays();
        let (selected, best) = (self.selected, self.found.fewest_hops());
        let was_active = self.schedule.is_active();
        if let Some(restart) = self.schedule.advance(selected, best, now) {
            if restart.tell {
                self.signalling.ask_for_check(now);
            }
            self.agent.restart(now);
        }
        if was_active && !self.schedule.is_active() && self.is_settled() {
            let gone = self.found.prune();
            self.gone(gone);
        }
        if self.schedule.is_active() && self.agent.poll_timeout().is_none_or(|due| due <= now) {
            let remote = self.remote_candidates();
            let (schedule, found) = (&mut self.schedule, &self.found);
            self.agent.handle_timeout(now, &mut |route| {
                let local = local_kind(route);
                schedule.allows(route, hops(local, remote_kind(&remote, route)), found)
            });
            self.take_agent_events(now);
        }
    }

    fn take_agent_events(&mut self, now: Instant) {
        while let Some(event) = self.agent.poll_event() {
            match event {
                AgentEvent::Succeeded { route, mapped } => self.succeeded(route, mapped),
                AgentEvent::Nominated { route } => self.nominated(route),
                AgentEvent::Checked { route } => self.checked(route, now),
            }
        }
    }

    fn succeeded(&mut self, route: Route, mapped: SocketAddr) {
        let mapped = canonical(mapped);
        let own =
            self.local.iter().find(|candidate| candidate.relay.is_none() && candidate.address == mapped);
        let (local, local_address) = match route {
            Route::Relayed(id, _) => (CandidateKind::Relayed, self.relayed_address(id)),
            Route::Direct(remote) => {
                let reflexive = self.local.iter().filter(|own| own.kind == CandidateKind::ServerReflexive);
                let mut reflexive = reflexive.filter(|own| own.address.ip() == mapped.ip());
                self.remaps[0] |= own.is_none() && reflexive.next().is_some();
                let local = own.map_or(CandidateKind::PeerReflexive, |own| own.kind);
                (local, self.local_address[family(remote)])
            }
        };
        let remote = remote_kind(&self.remote_candidates(), route);
        let pair = CandidatePair { local, local_address, remote };
        if self.found.succeeded(route, pair, false) {
            self.events.push_back(TraversalEvent::Found { route, pair });
        }
    }

    /// The route was found by its own check before; it may not have been worth telling then.
    fn nominated(&mut self, route: Route) {
        let remote = remote_kind(&self.remote_candidates(), route);
        let (local, local_address) = match route {
            Route::Relayed(id, _) => (CandidateKind::Relayed, self.relayed_address(id)),
            Route::Direct(remote) => (CandidateKind::Host, self.local_address[family(remote)]),
        };
        let pair = CandidatePair { local, local_address, remote };
        if !self.found.is_alive(route) && self.found.succeeded(route, pair, true) {
            self.events.push_back(TraversalEvent::Found { route, pair });
        }
    }

    fn checked(&mut self, route: Route, now: Instant) {
        let remote = self.remote_candidates();
        if !remote.iter().any(|(address, _)| *address == route.remote()) {
            let mut reflexive = remote.iter().filter(|(_, kind)| *kind == CandidateKind::ServerReflexive);
            self.remaps[1] |= reflexive.any(|(address, _)| address.ip() == route.remote().ip());
        }
        if self.awake && self.agent.knows_peer() {
            self.schedule.peer_checks(route, now);
        }
    }

    /// Asks the relays for what checks will need.
    fn ask_relays(&mut self) {
        let remote = self.remote_candidates();
        for own in self.local.iter().filter(|own| own.kind == CandidateKind::Relayed) {
            let Some(relay) = own.relay else { continue };
            let reachable = |address: &SocketAddr| {
                address.is_ipv6() == own.address.is_ipv6()
                    && (is_global(address.ip()) || !is_global(own.address.ip()))
            };
            let peers: Vec<_> = remote.iter().map(|(address, _)| *address).filter(reachable).collect();
            if !peers.is_empty() && self.permitted.get(&relay) != Some(&peers) {
                self.permitted.insert(relay, peers.clone());
                self.events.push_back(TraversalEvent::NeedsRelay { relay, peers });
            }
        }
    }

    /// The peer's candidates that this node can use, each address once, best first.
    fn remote_candidates(&self) -> Vec<(SocketAddr, CandidateKind)> {
        let Some(peer) = self.signalling.peer() else { return Vec::new() };
        let on_loopback = self.local.iter().any(|own| own.address.ip().is_loopback());
        let mut usable: Vec<(SocketAddr, CandidateKind)> = Vec::new();
        let mut candidates = peer.candidates.clone();
        candidates.sort_by_key(|candidate| candidate.kind);
        for SignalCandidate { kind, address } in candidates {
            let address = canonical(address);
            let ours = self.local.iter().any(|own| own.relay.is_none() && own.address == address);
            if is_reachable(address, on_loopback)
                && !(ours && kind == CandidateKind::Host)
                && !usable.iter().any(|(known, _)| *known == address)
            {
                usable.push((address, kind));
            }
        }
        usable
    }

    fn relayed_address(&self, relay: RelayId) -> Option<SocketAddr> {
        self.local.iter().find(|own| own.relay == Some(relay)).map(|own| own.address)
    }

    /// A direct path is in use, and checks are over.
    fn is_settled(&self) -> bool {
        self.selected.is_some_and(|kind| kind != CandidateKind::Relayed)
    }

    /// So it is, and it crosses no NAT of which mapped addresses would tell.
    fn is_settled_nearby(&self) -> bool {
        self.is_settled() && self.found.best().is_some_and(|route| !is_global(route.remote().ip()))
    }

    fn gone(&mut self, routes: Vec<Route>) {
        self.events.extend(routes.into_iter().map(|route| TraversalEvent::Gone { route }));
    }
}

fn bases(candidates: &[Candidate]) -> Bases {
    let host = |v6: bool| {
        let mut own = candidates.iter().filter(|own| own.kind != CandidateKind::Relayed);
        own.any(|own| own.address.is_ipv6() == v6)
    };
    let relays = candidates.iter().filter(|own| own.kind == CandidateKind::Relayed).filter_map(|own| {
        let (v6, global) = (own.address.is_ipv6(), is_global(own.address.ip()));
        Some(RelayBase { id: own.relay?, v6, global })
    });
    Bases { v4: host(false), v6: host(true), relays: relays.collect() }
}

/// What a peer is told: relayed candidates first to be sure of them, at most as many as a signal holds.
fn told(candidates: &[Candidate]) -> Vec<SignalCandidate> {
    let mut told: Vec<SignalCandidate> = Vec::new();
    let relayed = candidates.iter().filter(|own| own.kind == CandidateKind::Relayed).take(MAX_RELAYS);
    let others = [CandidateKind::Host, CandidateKind::ServerReflexive];
    let others =
        others.iter().flat_map(|kind| candidates.iter().filter(|own| own.kind == *kind).take(MAX_ALIKE));
    for own in relayed.chain(others) {
        let candidate = SignalCandidate { kind: own.kind, address: canonical(own.address) };
        if is_reachable(candidate.address, true) && !told.iter().any(|told| told.address == candidate.address)
        {
            told.push(candidate);
        }
    }
    told.truncate(Signal::MAX_CANDIDATES);
    told
}

/// Link-local IPv6 addresses need a scope that the other side cannot know.
fn is_reachable(address: SocketAddr, on_loopback: bool) -> bool {
    let never = match address {
        SocketAddr::V4(v4) => v4.ip().is_unspecified() || v4.ip().is_multicast() || v4.ip().is_broadcast(),
        SocketAddr::V6(v6) => {
            v6.ip().is_unspecified() || v6.ip().is_multicast() || v6.ip().is_unicast_link_local()
        }
    };
    is_real_source(address) && !never && (on_loopback || !address.ip().is_loopback())
}

fn canonical_route(route: Route) -> Route {
    match route {
        Route::Direct(remote) => Route::Direct(canonical(remote)),
        Route::Relayed(relay, remote) => Route::Relayed(relay, canonical(remote)),
    }
}

fn local_kind(route: Route) -> CandidateKind {
    match route {
        Route::Direct(_) => CandidateKind::Host,
        Route::Relayed(..) => CandidateKind::Relayed,
    }
}

fn remote_kind(remote: &[(SocketAddr, CandidateKind)], route: Route) -> CandidateKind {
    let known = remote.iter().find(|(address, _)| *address == route.remote());
    known.map_or(CandidateKind::PeerReflexive, |(_, kind)| *kind)
}

fn family(address: SocketAddr) -> usize {
    usize::from(canonical(address).is_ipv6())
}

/// How long a path by a withdrawn server-reflexive candidate is kept.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_RELAYS: usize = 6;
const MAX_ALIKE: usize = 13;
