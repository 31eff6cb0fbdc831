//! What kind of NAT this node is behind (RFC 5780).

mod observe;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::paths::canonical;
use crate::stun::binding::{self, Answer, AnswerFrom};
use crate::stun::exchange::{Exchange, Schedule, new_id};
use observe::{Heard, Observed};
pub use report::{FamilyReport, Filtering, Mapping, NatReport, ServerReport};

/// What a [`NetCheck`] is to find out with.
#[derive(Clone, Debug, Default)]
pub struct NetCheckConfig {
    /// The STUN servers, and the TURN servers too: they answer Binding requests without credentials. Two of one
    /// family, or one with another address (RFC 5780), are needed to tell the mapping behaviour.
    pub servers: Vec<SocketAddr>,
    /// This host's own addresses: a server that sees one of them sees no NAT.
    pub own: Vec<IpAddr>,
    /// The UDP port that the requests leave from.
    pub local_port: u16,
    /// Addresses that the socket has sent to lately: what comes from them says nothing about the filtering. Those
    /// of an earlier check by the same socket belong here, see [`NetCheck::contacted`].
    pub contacted: Vec<SocketAddr>,
}

/// Finds out, in a second or so and at most about 8 s, what the network does with this node's UDP.
///
/// In: [`handle`](Self::handle). Out: [`poll_transmit`](Self::poll_transmit) until it gives nothing (also whenever
/// [`poll_timeout`](Self::poll_timeout) has passed), until [`is_done`](Self::is_done); then
/// [`report`](Self::report).
#[derive(Debug)]
pub struct NetCheck {
    config: NetCheckConfig,
    servers: Vec<ServerReport>,
    families: [Family; 2],
    probes: Vec<Probe>,
    stage: Stage,
}

/// What is asked one after the other. The filtering comes before anything is sent to a server's other address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Servers,
    OtherAddress,
    OtherPort,
    Mapping,
    Done,
}

#[derive(Debug, Default)]
struct Family {
    observed: Observed,
    /// A server that has another address, or another port of its address; and that.
    discoverer: Option<(SocketAddr, SocketAddr)>,
}

#[derive(Debug)]
struct Probe {
    to: SocketAddr,
    purpose: Purpose,
    exchange: Exchange,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Server(usize),
    Filtering(AnswerFrom),
    Elsewhere,
    Hairpin,
}

impl NetCheck {
    /// A check that begins at once.
    pub fn new(mut config: NetCheckConfig, now: Instant) -> NetCheck {
        config
            .servers
            .iter_mut()
            .chain(&mut config.contacted)
            .for_each(|address| *address = canonical(*address));
        config.own.iter_mut().for_each(|ip| *ip = ip.to_canonical());
        let servers: Vec<_> = config
            .servers
            .iter()
            .map(|server| ServerReport { server: *server, mapped: None, rtt: None, other: None })
            .collect();
        let mut check = NetCheck {
            config,
            servers,
            families: Default::default(),
            probes: Vec::new(),
            stage: Stage::Servers,
        };
        for server in 0..check.config.servers.len() {
            let to = check.config.servers[server];
            check.ask(to, Purpose::Server(server), SERVER_SCHEDULE, now);
        }
        check
    }

    /// Takes in a datagram; `false` if it is none of the check's. Binding *requests* must be shown too: the
    /// check's own that came back tells of hairpinning.
    pub fn handle(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let from = canonical(from);
        let Some((place, answer)) = self
            .probes
            .iter()
            .enumerate()
            .find_map(|(place, probe)| Some((place, probe.hears(from, datagram)?)))
        else {
            return false;
        };
        let probe = self.probes.swap_remove(place);
        let family = &mut self.families[index(probe.to)];
        match probe.purpose {
            Purpose::Server(server) => {
                if let Some(mapped) = answer.mapped {
                    family.observed.saw(probe.to, mapped);
                    let report = &mut self.servers[server];
                    report.mapped = Some(mapped);
                    report.rtt = probe.exchange.round_trip(now);
                    report.other = answer.other;
                }
            }
            Purpose::Filtering(asked) => {
                let heard =
                    if probe.honoured(asked, from, &answer) { Heard::Answered } else { Heard::NotTried };
                match asked {
                    AnswerFrom::OtherAddress => family.observed.from_other_address = heard,
                    AnswerFrom::OtherPort | AnswerFrom::Same => family.observed.from_other_port = heard,
                }
            }
            Purpose::Elsewhere => {
                if let Some(mapped) = answer.mapped {
                    family.observed.saw(probe.to, mapped);
                    let other_port = family.discoverer.map(|(server, other)| other_port(server, other));
                    family.observed.other_port_answers |= other_port == Some(probe.to);
                }
            }
            Purpose::Hairpin => family.observed.hairpin = Some(true),
        }
        true
    }

    /// What is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        while self.stage != Stage::Done {
            if let Some(transmit) = self.probes.iter_mut().find_map(|probe| probe.exchange.poll_transmit(now))
            {
                return Some(transmit);
            }
            self.give_up(now);
            if !self.probes.is_empty() {
                return None;
            }
            self.next_stage(now);
        }
        None
    }

    /// When [`poll_transmit`](Self::poll_transmit) is to be called at the latest; `None` once the check is done.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.probes.iter().map(|probe| probe.exchange.poll_timeout()).min()
    }

    /// Every address that the check sends to. For some minutes, what comes from them says nothing about the
    /// filtering.
    pub fn contacted(&self) -> Vec<SocketAddr> {
        let discoverers = self.families.iter().filter_map(|family| family.discoverer);
        self.config.servers.iter().copied().chain(discoverers.flat_map(elsewhere)).collect()
    }

    /// Whether nothing more can be found out.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// What was found out so far.
    pub fn report(&self) -> NatReport {
        let family = |family: &Family| family.observed.report(&self.config.own, self.config.local_port);
        let [ipv4, ipv6] = &self.families;
        NatReport {
            udp_blocked: !self.servers.is_empty()
                && self.servers.iter().all(|server| server.mapped.is_none()),
            ipv4: family(ipv4),
            ipv6: family(ipv6),
            servers: self.servers.clone(),
        }
    }

    fn ask(&mut self, to: SocketAddr, purpose: Purpose, schedule: Schedule, now: Instant) {
        let id = new_id();
        let from = match purpose {
            Purpose::Filtering(from) => from,
            _ => AnswerFrom::Same,
        };
        let exchange = Exchange::new(to, id, binding::request(&id, from), schedule, now);
        self.probes.push(Probe { to, purpose, exchange });
    }

    fn give_up(&mut self, now: Instant) {
        for probe in self.probes.extract_if(.., |probe| probe.exchange.given_up(now)) {
            let observed = &mut self.families[index(probe.to)].observed;
            match probe.purpose {
                Purpose::Filtering(AnswerFrom::OtherAddress) => observed.from_other_address = Heard::Silent,
                Purpose::Filtering(_) => observed.from_other_port = Heard::Silent,
                Purpose::Hairpin => observed.hairpin = Some(false),
                Purpose::Server(_) | Purpose::Elsewhere => {}
            }
        }
    }

    fn next_stage(&mut self, now: Instant) {
        self.stage = match self.stage {
            Stage::Servers => {
                self.choose_discoverers();
                self.ask_discoverers(AnswerFrom::OtherAddress, now);
                Stage::OtherAddress
            }
            Stage::OtherAddress => {
                self.ask_discoverers(AnswerFrom::OtherPort, now);
                Stage::OtherPort
            }
            Stage::OtherPort => {
                self.ask_elsewhere(now);
                Stage::Mapping
            }
            Stage::Mapping | Stage::Done => Stage::Done,
        };
    }

    fn choose_discoverers(&mut self) {
        for (family, slot) in self.families.iter_mut().enumerate() {
            let candidates = self.servers.iter().filter_map(|report| Some((report.server, report.other?)));
            slot.discoverer = candidates
                .filter(|(server, other)| index(*server) == family && index(*other) == family)
                .filter(|(server, other)| server.port() != other.port())
                .max_by_key(|(server, other)| server.ip() != other.ip());
        }
    }

    /// Has the servers answer from elsewhere, where nothing was sent to yet.
    fn ask_discoverers(&mut self, from: AnswerFrom, now: Instant) {
        for family in 0..self.families.len() {
            let Family { observed, discoverer: Some((server, other)) } = &self.families[family] else {
                continue;
            };
            let (server, other) = (*server, *other);
            let mut contacted = self.config.servers.iter().chain(&self.config.contacted);
            let untouched = match from {
                AnswerFrom::OtherAddress => {
                    other.ip() != server.ip() && contacted.all(|address| address.ip() != other.ip())
                }
                AnswerFrom::OtherPort | AnswerFrom::Same => {
                    observed.from_other_address != Heard::Answered
                        && contacted.all(|address| *address != other_port(server, other))
                }
            };
            if untouched {
                self.ask(server, Purpose::Filtering(from), SCHEDULE, now);
            }
        }
    }

    fn ask_elsewhere(&mut self, now: Instant) {
        for family in 0..self.families.len() {
            let Family { observed, discoverer } = &self.families[family];
            let hairpin = observed.first_mapped().filter(|_| !observed.no_nat(&self.config.own));
            for to in discoverer.map(elsewhere).unwrap_or_default() {
                self.ask(to, Purpose::Elsewhere, SCHEDULE, now);
            }
            if let Some(mapped) = hairpin {
                self.ask(mapped, Purpose::Hairpin, SCHEDULE, now);
            }
        }
    }
}

impl Probe {
    /// The answer, if this datagram is it. Answers come from where they were asked for; only a request for an
    /// answer from elsewhere can be answered from anywhere.
    fn hears(&self, from: SocketAddr, datagram: &[u8]) -> Option<Answer> {
        match self.purpose {
            Purpose::Hairpin => binding::is_request_of(datagram, &self.exchange.id).then(Answer::default),
            Purpose::Server(_) | Purpose::Elsewhere if from != self.to => None,
            _ => binding::answer(datagram, &self.exchange.id),
        }
    }

    /// Whether the server answered from where it was asked to.
    fn honoured(&self, asked: AnswerFrom, from: SocketAddr, answer: &Answer) -> bool {
        let elsewhere = match asked {
            AnswerFrom::OtherAddress => from.ip() != self.to.ip(),
            AnswerFrom::OtherPort | AnswerFrom::Same => {
                from.ip() == self.to.ip() && from.port() != self.to.port()
            }
        };
        answer.error.is_none() && elsewhere
    }
}

/// What a server answers from when it is asked for another port.
fn other_port(server: SocketAddr, other: SocketAddr) -> SocketAddr {
    SocketAddr::new(server.ip(), other.port())
}

/// The other places of a server.
fn elsewhere((server, other): (SocketAddr, SocketAddr)) -> Vec<SocketAddr> {
    let mut places = vec![SocketAddr::new(other.ip(), server.port()), other, other_port(server, other)];
    places.retain(|place| *place != server);
    places.dedup();
    places
}

fn index(address: SocketAddr) -> usize {
    usize::from(address.is_ipv6())
}

/// 0, 0.25, 0.75 and 1.75 s; given up after 2.75 s.
const SERVER_SCHEDULE: Schedule = Schedule {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(1),
    tries: 4,
    last_wait: Duration::from_secs(1),
};

/// 0, 0.25 and 0.75 s; given up after 1.75 s.
const SCHEDULE: Schedule = Schedule { tries: 3, ..SERVER_SCHEDULE };

#[cfg(test)]
mod tests;
