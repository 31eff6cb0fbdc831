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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::ice::{Agent, AgentEvent, IsAgent, Pace, Peer};
use crate::paths::{canonical, is_real_source};
use crate::route::{Candidate, CandidateKind, CandidatePair, RelayId, Route, is_global};
use crate::signal::{Signal, SignalCandidate, SignalError};

mod candidates;
mod found;
mod report;
mod router;
mod schedule;
mod signalling;
mod types;

use candidates::{bases, canonical_route, family, local_kind, remote_kind, told, usable};
use found::{Found, hops};
pub use report::{PairReport, PairState, TraversalReport, TraversalState};
pub use router::{StunRouter, stun_username};
use schedule::Schedule;
use signalling::{News, Signalling};
pub use types::{PathNews, Transmit, TraversalConfig, TraversalEvent, TraversalTiming};

/// Finds ways to one peer and keeps finding them. Pure: time is an argument.
///
/// Every call of a `set_`, `handle_` or `wake` method is followed by `poll_transmit`, `poll_signal` and `poll_event`
/// until each gives `None`, and then `poll_timeout` says when `handle_timeout` is due.
pub struct Traversal {
    agent: Box<dyn Agent>,
    timing: TraversalTiming,
    seed: u64,
    local: Vec<Candidate>,
    signalling: Signalling,
    schedule: Schedule,
    found: Found,
    selected: Option<CandidateKind>,
    selected_route: Option<Route>,
    awake: bool,
    permitted: BTreeMap<RelayId, Permitted>,
    /// The addresses by which the host got answers, per family, for reports.
    local_address: [Option<SocketAddr>; 2],
    /// Signs that a NAT maps each destination to a port of its own: this side's, the peer's.
    remaps: [bool; 2],
    /// Checks that may go to the peer's addresses: it names them, and they may be others'.
    checks_left: Budget,
    /// How often relays that come or go are a reason to check, though frames go by a direct path.
    relay_news: Budget,
    /// The last time that was told.
    advanced: Instant,
    signals: VecDeque<Signal>,
    events: VecDeque<TraversalEvent>,
}

/// What a relay was asked to let through.
struct Permitted {
    /// Last time.
    peers: Vec<SocketAddr>,
    /// Ever: a relay keeps each for as long as it serves, and has so many for all peers together.
    ips: BTreeSet<IpAddr>,
    since: Instant,
}

impl Permitted {
    /// Those of the peer's addresses that it may be asked for now.
    fn allow(&mut self, peers: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        let earned = now.saturating_duration_since(self.since).as_secs() / EARN.as_secs();
        let most = MAX_PERMITTED.saturating_add(usize::try_from(earned).unwrap_or(usize::MAX));
        let allowed = |peer: &SocketAddr| {
            let ip = peer.ip();
            self.ips.contains(&ip) || (self.ips.len() < most && self.ips.insert(ip))
        };
        peers.into_iter().filter(allowed).collect()
    }
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
            seed,
            local: Vec::new(),
            found: Found::default(),
            selected: None,
            selected_route: None,
            awake: false,
            permitted: BTreeMap::new(),
            local_address: [None; 2],
            remaps: [false; 2],
            relay_news: Budget::new(MAX_RELAY_NEWS, RELAY_NEWS, now),
            checks_left: Budget::new(MAX_CHECKS, EARN_CHECK, now),
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
                // Who is known may sleep.
                let tell = self.agent.knows_peer();
                self.schedule.check_all(self.timing.checking, tell, now);
            }
            _ => self.schedule.hurry(now),
        }
        self.advance(now);
    }

    /// No link to the peer is wanted any more: no checks and no signals but answers until it is woken, or the peer
    /// signals. The paths that were told are forgotten; what was found is told again then.
    pub fn sleep(&mut self) {
        self.awake = false;
        self.signalling.rest();
        (self.selected, self.selected_route) = (None, None);
        self.found.clear();
        self.schedule = Schedule::new(&self.timing, self.seed);
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
        // What can be used of the peer's depends on this node's own.
        if let Some(peer) = self.peer() {
            self.agent.set_peer(&peer);
        }
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
        self.remaps[0] &= !moved;
        // A relay that is new is a path to fall back to.
        let relay = new.iter().any(|candidate| candidate.kind == CandidateKind::Relayed);
        if self.awake && (moved || relay && self.may_check_relays(now) || !self.is_settled()) {
            self.schedule.check_more(moved && !lost.is_empty(), now);
        }
        self.advance(now);
    }

    /// The peer's signal. An error says why it was not used; nothing needs to be done about it.
    pub fn handle_signal(&mut self, signal: &Signal, now: Instant) -> Result<(), SignalError> {
        let before = self.signalling.peer().map(|peer| peer.candidates.clone()).unwrap_or_default();
        let news = self.signalling.handle(signal, now)?;
        if !self.awake && news != News::default() {
            self.awake = true;
            self.signalling.announce(now);
        }
        if news.instance || news.candidates {
            let Some(peer) = self.peer() else { return Ok(()) };
            let gone = || before.iter().filter(|old| !signal.candidates.contains(old));
            let withdrawn = gone().count() > 0;
            let moved = gone().any(|old| old.kind != CandidateKind::Relayed);
            let new = signal.candidates.iter().filter(|new| !before.contains(new));
            let relay = new.filter(|new| new.kind == CandidateKind::Relayed).count() > 0;
            let first = !self.agent.knows_peer();
            self.agent.set_peer(&peer);
            let names = |route: &Route| peer.candidates.iter().any(|(address, _)| *address == route.remote());
            let gone = match news.instance {
                true => self.found.clear(),
                false => self.found.withdraw(names, now + PATIENCE),
            };
            let lost_some = !gone.is_empty();
            let direct = |route: &Route| {
                let named = |old: &SignalCandidate| old.address == route.remote();
                before.iter().any(|old| named(old) && old.kind != CandidateKind::Relayed)
                    && matches!(route, Route::Direct(_))
            };
            let lost_direct = gone.iter().any(direct);
            self.gone(gone);
            self.remaps[1] &= !withdrawn;
            if news.instance {
                self.selected = None;
                self.remaps[1] = false;
                self.schedule.begin(self.timing.checking, !first, now);
            } else if lost_direct
                || !self.is_settled()
                || moved && !self.is_settled_nearby()
                || (lost_some || relay) && self.may_check_relays(now)
            {
                self.schedule.check_more(withdrawn, now);
            }
        }
        if self.selected != Some(CandidateKind::Relayed)
            && let Some(route) = self.selected_route.filter(|route| self.is_peers_relay(*route))
        {
            self.selected = Some(CandidateKind::Relayed);
            self.tell_relayed(route);
            self.schedule.relayed(now);
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
            PathNews::Selected(route, kind) => {
                let route = canonical_route(route);
                self.selected_route = Some(route);
                let kind = match kind {
                    CandidateKind::Relayed => kind,
                    _ if self.is_peers_relay(route) => {
                        self.tell_relayed(route);
                        CandidateKind::Relayed
                    }
                    _ => kind,
                };
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
                self.selected_route = None;
                self.schedule.all_died(now);
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
            return self.signalling.due();
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
        if let Some(signal) = self.signalling.poll(now) {
            self.signals.push_back(signal);
        }
        if !self.awake || !self.agent.knows_peer() {
            return;
        }
        self.ask_relays();
        let (selected, best) = (self.selected, self.found.fewest_hops());
        let was_active = self.schedule.is_active();
        if let Some(restart) = self.schedule.advance(selected, best, now) {
            if restart.tell {
                self.signalling.ask_for_check(now);
            }
            self.agent.restart();
        }
        if was_active && !self.schedule.is_active() && self.is_settled() {
            let gone = self.found.prune();
            self.gone(gone);
        }
        if self.schedule.is_active() && self.agent.poll_timeout().is_none_or(|due| due <= now) {
            let remote = self.remote_candidates();
            let (schedule, found, left) = (&mut self.schedule, &self.found, &mut self.checks_left);
            self.agent.handle_timeout(now, &mut |route| {
                let hops = hops(local_kind(route), remote_kind(&remote, route));
                schedule.allows(route, hops, found) && left.spend(now)
            });
            self.take_agent_events(now);
        }
    }

    fn take_agent_events(&mut self, now: Instant) {
        while let Some(event) = self.agent.poll_event() {
            match event {
                AgentEvent::Succeeded { route, mapped } => {
                    self.checks_left.regain();
                    self.succeeded(route, mapped);
                }
                // Found by its own check before; it may not have been worth telling then.
                AgentEvent::Nominated { route } if !self.found.is_alive(route) => {
                    self.found(route, CandidateKind::Host, true);
                }
                AgentEvent::Nominated { .. } => {}
                AgentEvent::Checked { route } => self.checked(route, now),
            }
        }
    }

    fn succeeded(&mut self, route: Route, mapped: SocketAddr) {
        let mapped = canonical(mapped);
        if matches!(route, Route::Direct(_)) && self.own_of(mapped).is_none() {
            let mut reflexive = self.local.iter().filter(|own| own.kind == CandidateKind::ServerReflexive);
            self.remaps[0] |= reflexive.any(|own| own.address.ip() == mapped.ip());
        }
        self.found(route, self.own_of(mapped).unwrap_or(CandidateKind::PeerReflexive), false);
    }

    /// A check by this route was answered: worth telling, or not.
    fn found(&mut self, route: Route, own: CandidateKind, nominated: bool) {
        let (local, local_address) = match route {
            Route::Relayed(id, _) => (CandidateKind::Relayed, self.relayed_address(id)),
            Route::Direct(remote) => (own, self.local_address[family(remote)]),
        };
        let pair =
            CandidatePair { local, local_address, remote: remote_kind(&self.remote_candidates(), route) };
        if self.found.hops_of(route).is_none() {
            let gone = self.found.make_room();
            self.gone(gone);
        }
        if self.found.succeeded(route, pair, nominated) {
            self.events.push_back(TraversalEvent::Found { route, pair });
        }
    }

    /// Which of the host's own candidates has this address.
    fn own_of(&self, address: SocketAddr) -> Option<CandidateKind> {
        let own = self.local.iter().find(|own| own.relay.is_none() && own.address == address);
        own.map(|own| own.kind)
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
            let (ips, since) = (BTreeSet::new(), self.advanced);
            let known =
                self.permitted.entry(relay).or_insert_with(|| Permitted { peers: Vec::new(), ips, since });
            let peers = known.allow(peers, self.advanced);
            if !peers.is_empty() && known.peers != peers {
                known.peers.clone_from(&peers);
                self.events.push_back(TraversalEvent::NeedsRelay { relay, peers });
            }
        }
    }

    fn peer(&self) -> Option<Peer> {
        let known = self.signalling.peer()?;
        let candidates = usable(&known.candidates, &self.local);
        Some(Peer { ufrag: known.ufrag.clone(), password: known.password.clone(), candidates })
    }

    /// The peer's candidates that this node can use, each address once, best first.
    fn remote_candidates(&self) -> Vec<(SocketAddr, CandidateKind)> {
        self.signalling.peer().map(|peer| usable(&peer.candidates, &self.local)).unwrap_or_default()
    }

    fn relayed_address(&self, relay: RelayId) -> Option<SocketAddr> {
        self.local.iter().find(|own| own.relay == Some(relay)).map(|own| own.address)
    }

    /// The peer's address of this way is one of its allocations, whatever it looked like when it was first seen.
    fn is_peers_relay(&self, route: Route) -> bool {
        let remote = route.remote();
        let relayed = |(address, kind): &(SocketAddr, CandidateKind)| {
            *address == remote && *kind == CandidateKind::Relayed
        };
        self.remote_candidates().iter().any(relayed)
    }

    /// The data path took the way in use for a direct one.
    fn tell_relayed(&mut self, route: Route) {
        let pair =
            CandidatePair { local: CandidateKind::Host, local_address: None, remote: CandidateKind::Relayed };
        self.events.push_back(TraversalEvent::Found { route, pair });
    }

    /// Frames go by a direct path: there is nothing better to be found.
    fn is_settled(&self) -> bool {
        self.selected.is_some_and(|kind| kind != CandidateKind::Relayed)
    }

    /// Whether relays that came or went are a reason to check. A relay that flaps, since it is overloaded, would have
    /// every pair of nodes check all the time, and be kept so.
    fn may_check_relays(&mut self, now: Instant) -> bool {
        !self.is_settled() || self.relay_news.spend(now)
    }

    /// So it is, and it crosses no NAT of which mapped addresses would tell.
    fn is_settled_nearby(&self) -> bool {
        self.is_settled() && self.found.best().is_some_and(|route| !is_global(route.remote().ip()))
    }

    fn gone(&mut self, routes: impl IntoIterator<Item = Route>) {
        self.events.extend(routes.into_iter().map(|route| TraversalEvent::Gone { route }));
    }
}

/// Addresses of one peer that a relay is asked for, and how long until it may be one more.
const MAX_PERMITTED: usize = 64;
const EARN: Duration = Duration::from_secs(300);
/// Checks with one peer that are not answered: a search takes some 150, and one follows each change of a network. All
/// that a peer can have this node send to an address that it names is then about 8 kbit/s in the long run.
const MAX_CHECKS: u32 = 1500;
const EARN_CHECK: Duration = Duration::from_millis(100);
const MAX_RELAY_NEWS: u32 = 4;
const RELAY_NEWS: Duration = Duration::from_secs(60);
/// How long a path by a withdrawn server-reflexive candidate is kept.
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_does_not_use_up_a_relays_permissions() {
        let start = Instant::now();
        let mut permitted = Permitted { peers: Vec::new(), ips: BTreeSet::new(), since: start };
        let at =
            |n: u16| SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0808_0000 + u32::from(n)).into(), n);
        let told: usize = (0..1000).map(|n| permitted.allow(vec![at(n)], start).len()).sum();
        assert_eq!(told, MAX_PERMITTED);
        assert_eq!(permitted.allow(vec![at(3), at(999)], start), [at(3)], "what is let through stays so");
        assert_eq!(permitted.allow(vec![at(998), at(999)], start + EARN), [at(998)]);
    }
}
