//! ICE (RFC 8445) with one peer, by str0m's agent: the only module that names it.
//!
//! The socket is bound to the wildcard and the kernel chooses each source address, so a check from any of the host's
//! addresses of a family goes out the same way. The agent is therefore shown one base per family, and one per relay,
//! under labels of its own; server-reflexive candidates have the same base and add no checks. Peers are told all of
//! the real candidates, in signals.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket};
use is::{Candidate as IsCandidate, CandidateKind as IsKind, IceAgent, IceAgentEvent, IceCreds, Protocol};

use crate::route::{CandidateKind, RelayId, Route};

mod checks;

use checks::Checks;
pub(crate) use checks::{Check, CheckState, MessageClass, TransactionId, message_class, transaction_id};

/// From where this node can send to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bases {
    /// The host has a usable IPv4 address.
    pub(crate) v4: bool,
    /// The host has a usable IPv6 address.
    pub(crate) v6: bool,
    /// Allocations on relays; `v6`: of an IPv6 address.
    pub(crate) relays: Vec<RelayBase>,
}

/// An allocation, as a base of checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RelayBase {
    pub(crate) id: RelayId,
    pub(crate) v6: bool,
    /// The allocated address is on the public internet: checks go to such addresses only.
    pub(crate) global: bool,
}

/// What is known of the peer.
#[derive(Clone, Default)]
pub(crate) struct Peer {
    pub(crate) ufrag: String,
    pub(crate) password: String,
    /// In order of preference within a kind; each address once.
    pub(crate) candidates: Vec<(SocketAddr, CandidateKind)>,
}

impl Peer {
    fn credentials(&self) -> IceCreds {
        IceCreds { ufrag: self.ufrag.clone(), pass: self.password.clone() }
    }
}

/// What came of a datagram or of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AgentEvent {
    /// A check by this route was answered: the route works both ways. `mapped`: where the peer saw it come from.
    Succeeded { route: Route, mapped: SocketAddr },
    /// The agents agreed on this pair.
    Nominated { route: Route },
    /// The peer sent a valid check by this route.
    Checked { route: Route },
}

/// An ICE agent for one peer. Each call is followed by draining `poll_transmit` and `poll_event`.
pub(crate) trait Agent: Send {
    /// From where to check. Takes effect at once for what is new; what is gone is forgotten by the next `restart`,
    /// which the caller makes.
    fn set_bases(&mut self, bases: &Bases);
    /// The peer's credentials and candidates, as with `set_bases`.
    fn set_peer(&mut self, peer: &Peer);
    /// Forgets what was found, and checks all pairs anew: from the next `handle_timeout` on, which is due at once.
    fn restart(&mut self);
    /// Whether the peer's credentials are known: without them nothing is sent.
    fn knows_peer(&self) -> bool;
    /// A STUN datagram; `false`: not for this agent, or not authentic.
    fn handle_stun(&mut self, route: Route, datagram: &[u8], now: Instant) -> bool;
    /// Sends the next check that is due, if `allow` lets it out; those kept back are tried again in their turn.
    fn handle_timeout(&mut self, now: Instant, allow: &mut dyn FnMut(Route) -> bool);
    /// When `handle_timeout` has something to do.
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// The next datagram to send.
    fn poll_transmit(&mut self) -> Option<(Route, Vec<u8>)>;
    /// The next event.
    fn poll_event(&mut self) -> Option<AgentEvent>;
    /// How the checks of each route went since the last restart.
    fn checks(&self) -> Vec<Check>;
    /// Whether this side nominates; a conflict of roles may have turned it.
    fn controlling(&self) -> bool;
}

/// How fast an agent checks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) between: Duration,
    pub(crate) first_retry: Duration,
    pub(crate) slowest_retry: Duration,
}

/// str0m's agent.
pub(crate) struct IsAgent {
    agent: IceAgent,
    own: IceCreds,
    tie_breaker: u64,
    pace: Pace,
    bases: Bases,
    peer: Option<Peer>,
    /// Addresses of the peer that only its checks have shown.
    reflexive: VecDeque<SocketAddr>,
    /// Transactions of requests taken lately, against replays from elsewhere.
    taken: VecDeque<TransactionId>,
    checks: Checks,
    transmits: VecDeque<(Route, Vec<u8>)>,
    events: VecDeque<AgentEvent>,
}

impl IsAgent {
    /// An agent that as yet knows no candidates. `tie_breaker` decides when both sides claim one role.
    pub(crate) fn new(
        ufrag: String,
        password: String,
        controlling: bool,
        tie_breaker: u64,
        pace: Pace,
    ) -> IsAgent {
        let own = IceCreds { ufrag, pass: password };
        IsAgent {
            agent: build(&own, controlling, tie_breaker, pace),
            own,
            tie_breaker,
            pace,
            bases: Bases::default(),
            peer: None,
            reflexive: VecDeque::new(),
            taken: VecDeque::new(),
            checks: Checks::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes out what the agent has to send, of which `allow` may keep checks back. Says whether it kept back any.
    fn drain(&mut self, allow: &mut dyn FnMut(Route) -> bool) -> bool {
        let mut kept_back = false;
        while let Some(transmit) = self.agent.poll_transmit() {
            let Some(route) = self.route_of(transmit.source, transmit.destination) else { continue };
            let payload = Vec::from(transmit.contents);
            if message_class(&payload) == Some(MessageClass::Request) {
                if !self.may_send(route) || !allow(route) {
                    kept_back = true;
                    continue;
                }
                if let Some(id) = transaction_id(&payload) {
                    self.checks.sent(route, id);
                }
            }
            if self.transmits.len() < MAX_TRANSMITS {
                self.transmits.push_back((route, payload));
            }
        }
        while let Some(event) = self.agent.poll_event() {
            if let IceAgentEvent::NominatedSend { source, destination, .. } = event
                && let Some(route) = self.route_of(source, destination)
            {
                self.checks.nominated(route);
                self.events.push_back(AgentEvent::Nominated { route });
            }
        }
        kept_back
    }

    /// A relay on the internet is not asked for private addresses: some servers end the whole allocation for it.
    fn may_send(&self, route: Route) -> bool {
        match route {
            Route::Direct(_) => true,
            Route::Relayed(id, remote) => self
                .bases
                .relays
                .iter()
                .any(|relay| relay.id == id && (!relay.global || crate::is_global(remote.ip()))),
        }
    }

    fn route_of(&self, source: SocketAddr, destination: SocketAddr) -> Option<Route> {
        match source.port() {
            HOST_LABEL => Some(Route::Direct(destination)),
            port => {
                let relay = self.bases.relays.iter().find(|relay| relay_label(relay.id) == port)?;
                Some(Route::Relayed(relay.id, destination))
            }
        }
    }

    fn label_of(&self, route: Route) -> Option<SocketAddr> {
        match route {
            Route::Direct(remote) => {
                let known = if remote.is_ipv6() { self.bases.v6 } else { self.bases.v4 };
                known.then(|| label(remote.is_ipv6(), HOST_LABEL))
            }
            Route::Relayed(id, _) => {
                let relay = self.bases.relays.iter().find(|relay| relay.id == id)?;
                Some(label(relay.v6, relay_label(id)))
            }
        }
    }

    fn is_known(&self, remote: SocketAddr) -> bool {
        self.reflexive.contains(&remote)
            || self
                .peer
                .as_ref()
                .is_some_and(|peer| peer.candidates.iter().any(|(known, _)| *known == remote))
    }

    /// Requests that the agent would answer, and no others: replayed elsewhere, they would make it check addresses
    /// that the peer never had, and there is no limit to those.
    fn take_request(&mut self, route: Route, message: &StunMessage<'_>, id: TransactionId) -> bool {
        if self.taken.contains(&id) || !self.agent.accepts_message(message) {
            return false;
        }
        let remote = route.remote();
        if !self.is_known(remote) {
            if self.reflexive.len() >= MAX_REFLEXIVE {
                return false;
            }
            self.reflexive.push_back(remote);
        }
        if self.taken.len() >= MAX_TAKEN {
            self.taken.pop_front();
        }
        self.taken.push_back(id);
        true
    }
}

impl Agent for IsAgent {
    fn set_bases(&mut self, bases: &Bases) {
        let mut bases = bases.clone();
        bases.relays.truncate(MAX_RELAYS);
        let old: Vec<_> = base_candidates(&self.bases).map(|candidate| candidate.addr()).collect();
        for candidate in base_candidates(&bases).filter(|candidate| !old.contains(&candidate.addr())) {
            self.agent.add_local_candidate(candidate);
        }
        self.bases = bases;
    }

    fn set_peer(&mut self, peer: &Peer) {
        let known =
            self.peer.as_ref().filter(|known| known.ufrag == peer.ufrag && known.password == peer.password);
        if self.peer.is_none() || known.is_some() {
            self.agent.set_remote_credentials(peer.credentials());
            let old = known.map(|known| known.candidates.clone()).unwrap_or_default();
            for (preference, (address, kind)) in peer.candidates.iter().enumerate() {
                if !old.iter().any(|(known, _)| known == address) {
                    self.agent.add_remote_candidate(remote_candidate(*address, *kind, preference));
                    self.reflexive.retain(|known| known != address);
                }
            }
        }
        self.peer = Some(peer.clone());
        if self.agent.remote_candidates().count() > MAX_REMOTE {
            self.restart();
        }
    }

    fn restart(&mut self) {
        // A new agent, not the old one's `recreate_candidate_pairs`: its lists of candidates only ever grow, and an
        // address once withdrawn would be refused as peer-reflexive for good.
        self.agent = build(&self.own, self.agent.controlling(), self.tie_breaker, self.pace);
        let answered = self.checks.restart();
        self.reflexive.retain(|remote| answered.contains(remote));
        self.reflexive.truncate(MAX_REFLEXIVE / 2);
        for candidate in base_candidates(&self.bases) {
            self.agent.add_local_candidate(candidate);
        }
        if let Some(peer) = &self.peer {
            self.agent.set_remote_credentials(peer.credentials());
            for (preference, (address, kind)) in peer.candidates.iter().enumerate() {
                self.agent.add_remote_candidate(remote_candidate(*address, *kind, preference));
            }
            for (preference, address) in self.reflexive.iter().enumerate() {
                self.agent.add_remote_candidate(remote_candidate(
                    *address,
                    CandidateKind::PeerReflexive,
                    preference,
                ));
            }
        }
    }

    fn knows_peer(&self) -> bool {
        self.peer.is_some()
    }

    fn handle_stun(&mut self, route: Route, datagram: &[u8], now: Instant) -> bool {
        let Some(destination) = self.label_of(route) else { return false };
        let Some(id) = transaction_id(datagram) else { return false };
        let class = message_class(datagram);
        if class == Some(MessageClass::Response) && self.checks.route_of(id) != Some(route) {
            return false;
        }
        // Before the parser, which warns of oddities at the expense of the log.
        if class == Some(MessageClass::Request) && crate::stun_username(datagram) != Some(&self.own.ufrag) {
            return false;
        }
        let Ok(message) = StunMessage::parse(datagram) else { return false };
        if class == Some(MessageClass::Request) && !self.take_request(route, &message, id) {
            return false;
        }
        let mapped = message.mapped_address().filter(|_| message.is_successful_binding_response());
        let packet = StunPacket { proto: Protocol::Udp, source: route.remote(), destination, message };
        if !self.agent.handle_packet(now, packet) {
            return false;
        }
        match class {
            Some(MessageClass::Request) => self.events.push_back(AgentEvent::Checked { route }),
            _ => {
                self.checks.answered(id, mapped.is_some());
                if let Some(mapped) = mapped {
                    self.events.push_back(AgentEvent::Succeeded { route, mapped });
                }
            }
        }
        self.drain(&mut |_| true);
        if mapped.is_some() && self.agent.local_candidates().count() > MAX_LOCAL {
            self.restart();
        }
        true
    }

    fn handle_timeout(&mut self, now: Instant, allow: &mut dyn FnMut(Route) -> bool) {
        // A check that is kept back leaves its turn to the next.
        for _ in 0..MAX_PAIRS {
            self.agent.handle_timeout(now);
            if !self.drain(allow) {
                break;
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.peer.as_ref()?;
        self.agent.poll_timeout()
    }

    fn poll_transmit(&mut self) -> Option<(Route, Vec<u8>)> {
        self.transmits.pop_front()
    }

    fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    fn checks(&self) -> Vec<Check> {
        self.checks.list()
    }

    fn controlling(&self) -> bool {
        self.agent.controlling()
    }
}

fn build(own: &IceCreds, controlling: bool, tie_breaker: u64, pace: Pace) -> IceAgent {
    let mut agent = IceAgent::new(own.clone());
    agent.set_controlling(controlling);
    agent.set_control_tie_breaker(tie_breaker);
    agent.set_timing_advance(pace.between);
    agent.set_initial_stun_rto(pace.first_retry);
    agent.set_max_stun_rto(pace.slowest_retry);
    agent.set_max_candidate_pairs(MAX_PAIRS);
    // Past its first state, in which it would log an event with the password.
    agent.recreate_candidate_pairs();
    agent
}

fn base_candidates(bases: &Bases) -> impl Iterator<Item = IsCandidate> {
    let hosts = [(bases.v4, false), (bases.v6, true)].into_iter().filter(|(present, _)| *present);
    let hosts = hosts.map(|(_, v6)| IsCandidate::host(label(v6, HOST_LABEL), Protocol::Udp));
    let relays = bases.relays.iter().map(|relay| {
        let (address, base) = (label(relay.v6, relay_label(relay.id)), label(relay.v6, HOST_LABEL));
        IsCandidate::relayed(address, base, Protocol::Udp)
    });
    hosts.chain(relays).filter_map(Result::ok)
}

fn remote_candidate(address: SocketAddr, kind: CandidateKind, preference: usize) -> IsCandidate {
    let (kind, type_preference) = match kind {
        CandidateKind::Host => (IsKind::Host, 126),
        CandidateKind::PeerReflexive => (IsKind::PeerReflexive, 110),
        CandidateKind::ServerReflexive => (IsKind::ServerReflexive, 100),
        CandidateKind::Relayed => (IsKind::Relayed, 2),
    };
    let local_preference = 0xffffu32.saturating_sub(preference as u32);
    let priority = type_preference << 24 | local_preference << 8 | 255;
    // From its parts: the named constructors refuse link-local addresses.
    IsCandidate::from_parts("1".into(), 1, Protocol::Udp, priority, address, kind, None, None, None)
}

/// The address by which the agent knows a base. It is never sent to anyone.
fn label(v6: bool, port: u16) -> SocketAddr {
    match v6 {
        false => SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), port),
        true => SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), port),
    }
}

/// Different for the few relays that a node has at a time.
fn relay_label(id: RelayId) -> u16 {
    FIRST_RELAY_LABEL + (id.0 % 60_000) as u16
}

const HOST_LABEL: u16 = 1;
const FIRST_RELAY_LABEL: u16 = 2;
const MAX_RELAYS: usize = 6;
const MAX_REFLEXIVE: usize = 16;
const MAX_TAKEN: usize = 128;
/// The agent adds a local candidate for each mapped address that the peer reports.
const MAX_LOCAL: usize = 64;
/// It keeps each that the peer ever had until it is restarted.
const MAX_REMOTE: usize = 128;
/// 32 candidates of the peer from two host bases and some relays; 100 by default, of which the relays' fall off first.
const MAX_PAIRS: usize = 200;
const MAX_TRANSMITS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_always_has_other_addresses_fills_no_memory() {
        let ms = Duration::from_millis;
        let pace = Pace { between: ms(10), first_retry: ms(100), slowest_retry: ms(1000) };
        let mut agent = IsAgent::new("ufrag".into(), "a".repeat(24), true, 1, pace);
        agent.set_bases(&Bases { v4: true, ..Bases::default() });
        for n in 1..1000u16 {
            let at = |i: u16| (SocketAddr::new([192, 0, 2, 1].into(), n * 32 + i), CandidateKind::Host);
            let candidates = (0..32).map(at).collect();
            agent.set_peer(&Peer { ufrag: "peer".into(), password: "b".repeat(24), candidates });
            assert!(agent.agent.remote_candidates().count() <= MAX_REMOTE);
        }
    }
}
