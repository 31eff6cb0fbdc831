//! A small internet in memory, with invented time: hosts, NATs, relays, and a controller that carries signals.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nat_traversal::{RelayId, Route};

pub(crate) type Time = Duration;

pub(crate) const fn ms(ms: u64) -> Time {
    Duration::from_millis(ms)
}

/// What a NAT maps and lets in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    /// One mapping for all destinations, open to anyone.
    FullCone,
    /// Open to the addresses that were sent to.
    Address,
    /// Open to the addresses and ports that were sent to.
    Port,
    /// Each destination its own mapping, open to it alone.
    Symmetric,
}

#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) filter: Filter,
    pub(crate) public: IpAddr,
    pub(crate) timeout: Time,
    next_port: u16,
    /// Inside address, and the destination where each has its own, to the mapped port.
    mappings: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    /// When each mapped port last sent to each destination.
    sent: BTreeMap<(u16, SocketAddr), Time>,
}

impl Nat {
    pub(crate) fn new(filter: Filter, public: &str) -> Nat {
        let (mappings, sent) = (BTreeMap::new(), BTreeMap::new());
        Nat {
            filter,
            public: public.parse().unwrap(),
            timeout: Duration::from_secs(60),
            next_port: 20_000,
            mappings,
            sent,
        }
    }

    /// Forgets all mappings, and gives other ports from now on.
    pub(crate) fn rebind(&mut self) {
        self.mappings.clear();
        self.sent.clear();
    }

    fn outbound(&mut self, source: SocketAddr, destination: SocketAddr, now: Time) -> SocketAddr {
        let key = (source, (self.filter == Filter::Symmetric).then_some(destination));
        let next = &mut self.next_port;
        let port = *self.mappings.entry(key).or_insert_with(|| {
            *next += 7;
            *next
        });
        self.sent.insert((port, destination), now);
        SocketAddr::new(self.public, port)
    }

    fn inbound(&self, source: SocketAddr, port: u16, now: Time) -> Option<SocketAddr> {
        let ((inside, _), _) = self.mappings.iter().find(|(_, mapped)| **mapped == port)?;
        let open = |to: &SocketAddr| match self.filter {
            Filter::FullCone => true,
            Filter::Address => to.ip() == source.ip(),
            Filter::Port | Filter::Symmetric => *to == source,
        };
        let mut sent = self.sent.iter().filter(|((from, _), at)| *from == port && **at + self.timeout > now);
        sent.any(|((_, to), _)| open(to)).then_some(*inside)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: u16,
    /// Hosts of one site reach each other's addresses.
    pub(crate) site: usize,
    /// From the host outward, for IPv4.
    pub(crate) nats: Vec<usize>,
    /// Only the relay is reached, by TCP.
    pub(crate) udp_blocked: bool,
}

impl Host {
    /// The kernel's choice.
    pub(crate) fn source(&self, destination: IpAddr) -> Option<SocketAddr> {
        let alike = |own: &&IpAddr| own.is_ipv6() == destination.is_ipv6();
        let near = |own: &&IpAddr| match (own, destination) {
            (IpAddr::V4(own), IpAddr::V4(to)) => own.octets()[..3] == to.octets()[..3],
            _ => false,
        };
        let mut own = self.addresses.iter().filter(alike);
        let chosen = self.addresses.iter().find(near).or_else(|| own.next())?;
        Some(SocketAddr::new(*chosen, self.port))
    }
}

/// An allocation of a host on a relay.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) id: RelayId,
    pub(crate) host: usize,
    pub(crate) relayed: SocketAddr,
    pub(crate) permitted: BTreeSet<IpAddr>,
    pub(crate) up: bool,
}

/// Where a packet arrives, and how it looks there.
pub(crate) struct Arrival {
    pub(crate) host: usize,
    pub(crate) route: Route,
    pub(crate) local: SocketAddr,
    pub(crate) delay: Time,
}

#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) hosts: Vec<Host>,
    pub(crate) nats: Vec<Nat>,
    pub(crate) allocations: Vec<Allocation>,
    /// No packet crosses between the hosts' networks but to and from relays.
    pub(crate) cut: bool,
    /// One way between hosts; a relay is half of it away from each.
    pub(crate) delay: Time,
    /// Packets that a relay was asked to send to where it must not.
    pub(crate) misuse: usize,
}

impl Net {
    /// What a STUN server sees a host at.
    pub(crate) fn mapped(&mut self, host: usize, now: Time) -> Option<SocketAddr> {
        let server: SocketAddr = "192.0.2.200:3478".parse().unwrap();
        if self.hosts[host].udp_blocked {
            return None;
        }
        let source = self.hosts[host].source(server.ip())?;
        Some(self.translate(host, source, server, now))
    }

    pub(crate) fn send(&mut self, from: usize, route: Route, now: Time) -> Option<Arrival> {
        match route {
            Route::Direct(to) => {
                let source = self.hosts[from].source(to.ip())?;
                if self.hosts[from].udp_blocked {
                    return None;
                }
                let near = self.hosts.iter().position(|host| {
                    host.site == self.hosts[from].site
                        && host.addresses.contains(&to.ip())
                        && host.port == to.port()
                });
                if let Some(host) = near {
                    return self.direct(host, source, to);
                }
                let seen = self.translate(from, source, to, now);
                self.arrive(seen, to, false, now)
            }
            Route::Relayed(id, to) => {
                let allocation =
                    self.allocations.iter().find(|own| own.host == from && own.id == id && own.up)?;
                if !allocation.permitted.contains(&to.ip()) {
                    return None;
                }
                let relayed = allocation.relayed;
                if !nat_traversal::is_global(to.ip()) {
                    self.misuse += 1;
                    return None;
                }
                let half = self.delay / 2;
                self.arrive(relayed, to, true, now).map(|a| Arrival { delay: a.delay + half, ..a })
            }
        }
    }

    fn translate(&mut self, host: usize, source: SocketAddr, to: SocketAddr, now: Time) -> SocketAddr {
        if source.is_ipv6() {
            return source;
        }
        let nats = self.hosts[host].nats.clone();
        nats.into_iter().fold(source, |source, nat| self.nats[nat].outbound(source, to, now))
    }

    fn arrive(&mut self, source: SocketAddr, to: SocketAddr, by_relay: bool, now: Time) -> Option<Arrival> {
        if let Some(own) = self.allocations.iter().find(|own| own.relayed == to && own.up) {
            let permitted = own.permitted.contains(&source.ip());
            let (host, route, local) = (own.host, Route::Relayed(own.id, source), to);
            return permitted.then_some(Arrival { host, route, local, delay: self.delay });
        }
        if self.cut && !by_relay {
            return None;
        }
        let mut inside = to;
        let mut outermost: Vec<usize> = Vec::new();
        let owner = self
            .hosts
            .iter()
            .position(|host| host.nats.last().is_some_and(|nat| self.nats[*nat].public == to.ip()));
        let host = match owner {
            Some(host) => {
                outermost.extend(self.hosts[host].nats.iter().rev());
                for nat in outermost {
                    inside = self.nats[nat].inbound(source, inside.port(), now)?;
                }
                // Behind one NAT there may be several.
                self.hosts.iter().position(|host| host.addresses.contains(&inside.ip()))?
            }
            None => self.hosts.iter().position(|host| {
                let open = host.nats.is_empty() || to.is_ipv6();
                open && host.addresses.contains(&to.ip()) && host.port == to.port()
            })?,
        };
        self.direct(host, source, inside)
    }

    fn direct(&self, host: usize, source: SocketAddr, local: SocketAddr) -> Option<Arrival> {
        let open = !self.hosts[host].udp_blocked;
        open.then_some(Arrival { host, route: Route::Direct(source), local, delay: self.delay })
    }
}
