use std::collections::{HashMap, HashSet};

use super::*;
use crate::stun::binding::MAGIC_COOKIE;

/// A node behind a NAT, and servers beyond it, with invented time and no delay.
struct World {
    mapping: Mapping,
    filtering: Filtering,
    hairpin: bool,
    blocked: bool,
    servers: Vec<Server>,
    mapped: HashMap<Option<SocketAddr>, SocketAddr>,
    sent_to: HashMap<SocketAddr, HashSet<SocketAddr>>,
}

#[derive(Clone, Copy)]
struct Server {
    address: SocketAddr,
    /// It has another address, and what it does when it is to answer from there.
    other: Option<(SocketAddr, Change)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Honoured,
    Ignored,
    Refused,
    /// The other address is announced, but nothing comes from or goes to it.
    Dead,
}

const OWN: &str = "10.1.0.2:4840";
const LEFT: &str = "203.0.113.10:3478";
const RIGHT: &str = "203.0.113.20:3478";
const OTHER: &str = "203.0.113.30:3479";

fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn plain(s: &str) -> Server {
    Server { address: addr(s), other: None }
}

fn discoverer(s: &str, change: Change) -> Server {
    Server { address: addr(s), other: Some((addr(OTHER), change)) }
}

impl World {
    fn new(mapping: Mapping, filtering: Filtering, hairpin: bool, servers: &[Server]) -> World {
        World {
            mapping,
            filtering,
            hairpin,
            blocked: false,
            servers: servers.to_vec(),
            mapped: HashMap::new(),
            sent_to: HashMap::new(),
        }
    }

    /// The source that a datagram to `destination` has beyond the NAT.
    fn out(&mut self, destination: SocketAddr) -> SocketAddr {
        let port = |port| SocketAddr::new(addr("198.51.100.1:0").ip(), port);
        let next = port(20_000 + self.mapped.len() as u16);
        let source = match self.mapping {
            Mapping::NoNat => addr(OWN),
            Mapping::EndpointIndependent | Mapping::Unknown => *self.mapped.entry(None).or_insert(next),
            Mapping::AddressDependent => {
                *self.mapped.entry(Some(SocketAddr::new(destination.ip(), 0))).or_insert(next)
            }
            Mapping::AddressAndPortDependent => *self.mapped.entry(Some(destination)).or_insert(next),
        };
        self.sent_to.entry(source).or_default().insert(destination);
        source
    }

    fn lets_in(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let Some(sent_to) = self.sent_to.get(&to) else { return false };
        match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent | Filtering::Unknown => {
                sent_to.iter().any(|sent| sent.ip() == from.ip())
            }
            Filtering::AddressAndPortDependent => sent_to.contains(&from),
        }
    }

    /// What comes back to the node for a datagram that it sent.
    fn carry(&mut self, to: SocketAddr, request: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        if self.blocked {
            return None;
        }
        let source = self.out(to);
        if self.sent_to.contains_key(&to) {
            return (self.hairpin && self.mapping != Mapping::NoNat).then(|| (source, request.to_vec()));
        }
        let (from, reply) = self.servers.iter().find_map(|server| server.answer(source, to, request))?;
        self.lets_in(from, source).then_some((from, reply))
    }

    fn check(&mut self, config: NetCheckConfig) -> (NatReport, Duration) {
        let start = Instant::now();
        let mut check = NetCheck::new(config, start);
        let took = self.run(&mut check, start);
        (check.report(), took)
    }

    fn run(&mut self, check: &mut NetCheck, start: Instant) -> Duration {
        let mut now = start;
        loop {
            while let Some((to, request)) = check.poll_transmit(now) {
                if let Some((from, datagram)) = self.carry(to, &request) {
                    assert!(check.handle(from, &datagram, now));
                }
            }
            match check.poll_timeout() {
                Some(next) => now = next.max(now),
                None => {
                    assert!(check.is_done());
                    return now - start;
                }
            }
        }
    }

    fn report(&mut self) -> NatReport {
        let servers = self.servers.iter().map(|server| server.address).collect();
        let (report, took) = self.check(config(servers));
        assert!(took <= Duration::from_secs(8), "{took:?}");
        report
    }
}

fn config(servers: Vec<SocketAddr>) -> NetCheckConfig {
    NetCheckConfig { servers, own: vec![addr(OWN).ip()], local_port: addr(OWN).port(), contacted: Vec::new() }
}

impl Server {
    fn answer(&self, source: SocketAddr, to: SocketAddr, request: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let addresses: Vec<_> = match self.other {
            Some((other, change)) if change != Change::Dead => vec![
                self.address,
                other,
                SocketAddr::new(self.address.ip(), other.port()),
                SocketAddr::new(other.ip(), self.address.port()),
            ],
            _ => vec![self.address],
        };
        if !addresses.contains(&to) {
            return None;
        }
        let flags = request.get(27).copied().unwrap_or(0);
        let from = match (flags, self.other) {
            (0, _) | (_, None | Some((_, Change::Ignored))) => to,
            (_, Some((_, Change::Refused))) => {
                let mut reply = vec![1, 0x11, 0, 8];
                reply.extend_from_slice(&request[4..20]);
                reply.extend_from_slice(&[0, 9, 0, 4, 0, 0, 4, 20]);
                return Some((to, reply));
            }
            (_, Some((_, Change::Dead))) => return None,
            (6, Some((other, Change::Honoured))) => other,
            (_, Some((other, Change::Honoured))) => SocketAddr::new(to.ip(), other.port()),
        };
        Some((from, success(request, source, self.other.map(|(other, _)| other))))
    }
}

fn success(request: &[u8], source: SocketAddr, other: Option<SocketAddr>) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |kind: u16, address: SocketAddr, key: &[u8]| {
        let mut port = address.port().to_be_bytes();
        let mut ip = match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        port.iter_mut().zip(key).for_each(|(a, b)| *a ^= b);
        ip.iter_mut().zip(key).for_each(|(a, b)| *a ^= b);
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&(4 + ip.len() as u16).to_be_bytes());
        body.extend_from_slice(&[0, if address.is_ipv4() { 1 } else { 2 }]);
        body.extend_from_slice(&port);
        body.extend_from_slice(&ip);
    };
    let key: Vec<u8> = MAGIC_COOKIE.iter().chain(&request[8..20]).copied().collect();
    put(0x0020, source, &key);
    if let Some(other) = other {
        put(0x802c, other, &[0; 16]);
    }
    let mut reply = vec![1, 1, 0, body.len() as u8];
    reply.extend_from_slice(&request[4..20]);
    reply.extend_from_slice(&body);
    reply
}

const MAPPINGS: [Mapping; 4] = [
    Mapping::NoNat,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
];
const FILTERINGS: [Filtering; 3] =
    [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];

/// Every kind of NAT.
fn each(mut test: impl FnMut(Mapping, Filtering, bool)) {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for hairpin in [true, false] {
                test(mapping, filtering, hairpin);
            }
        }
    }
}

#[test]
fn a_server_with_two_addresses_tells_everything() {
    each(|mapping, filtering, hairpin| {
        let servers = [discoverer(LEFT, Change::Honoured)];
        let report = World::new(mapping, filtering, hairpin, &servers).report();
        let family = report.ipv4.clone().unwrap();
        assert_eq!((family.mapping, family.filtering), (mapping, filtering));
        assert_eq!(family.hairpin, (mapping != Mapping::NoNat).then_some(hairpin));
        assert_eq!(family.port_kept, mapping == Mapping::NoNat);
        assert_eq!(family.mapped.len() > 1, family.is_symmetric());
        assert_eq!((report.udp_blocked, report.ipv6), (false, None));
    });
}

#[test]
fn two_plain_servers_tell_the_mapping() {
    each(|mapping, filtering, hairpin| {
        let report = World::new(mapping, filtering, hairpin, &[plain(LEFT), plain(RIGHT)]).report();
        let family = report.ipv4.unwrap();
        let told = match mapping {
            Mapping::AddressDependent => Mapping::AddressAndPortDependent,
            other => other,
        };
        assert_eq!((family.mapping, family.filtering), (told, Filtering::Unknown));
        assert_eq!(family.hairpin, (mapping != Mapping::NoNat).then_some(hairpin));
    });
}

#[test]
fn one_plain_server_tells_only_whether_there_is_a_nat() {
    each(|mapping, filtering, hairpin| {
        let report = World::new(mapping, filtering, hairpin, &[plain(LEFT)]).report();
        let told = if mapping == Mapping::NoNat { Mapping::NoNat } else { Mapping::Unknown };
        assert_eq!(report.ipv4.unwrap().mapping, told);
    });
}

#[test]
fn two_ports_of_one_server_tell_only_of_ports() {
    each(|mapping, filtering, hairpin| {
        let servers = [plain(LEFT), plain("203.0.113.10:3479")];
        let family = World::new(mapping, filtering, hairpin, &servers).report().ipv4.unwrap();
        let told = match mapping {
            Mapping::EndpointIndependent | Mapping::AddressDependent => Mapping::Unknown,
            other => other,
        };
        assert_eq!(family.mapping, told);
    });
}

/// What is told where only another port can be tried.
fn told_by_port(filtering: Filtering) -> Filtering {
    if filtering == Filtering::EndpointIndependent { Filtering::AddressDependent } else { filtering }
}

#[test]
fn an_address_that_was_sent_to_says_nothing_about_the_filtering() {
    each(|mapping, filtering, hairpin| {
        let check = |contacted: &[&str]| {
            let mut world = World::new(mapping, filtering, hairpin, &[discoverer(LEFT, Change::Honoured)]);
            let contacted = contacted.iter().map(|address| addr(address)).collect();
            let (report, _) = world.check(NetCheckConfig { contacted, ..config(vec![addr(LEFT)]) });
            let family = report.ipv4.unwrap();
            assert_eq!(family.mapping, mapping);
            family.filtering
        };
        assert_eq!(check(&["203.0.113.30:9"]), told_by_port(filtering));
        assert_eq!(check(&["203.0.113.30:9", "203.0.113.10:3479"]), Filtering::Unknown);
        let servers = [discoverer(LEFT, Change::Honoured), plain("203.0.113.30:3478")];
        let family = World::new(mapping, filtering, hairpin, &servers).report().ipv4.unwrap();
        assert_eq!(
            family.filtering,
            told_by_port(filtering),
            "another server of the list is at that address"
        );
    });
}

#[test]
fn a_server_with_two_ports_tells_part_of_it() {
    each(|mapping, filtering, hairpin| {
        let other = Some((addr("203.0.113.10:3479"), Change::Honoured));
        let server = Server { address: addr(LEFT), other };
        let family = World::new(mapping, filtering, hairpin, &[server]).report().ipv4.unwrap();
        let told = match mapping {
            Mapping::EndpointIndependent | Mapping::AddressDependent => Mapping::Unknown,
            other => other,
        };
        assert_eq!((family.mapping, family.filtering), (told, told_by_port(filtering)));
        let family = World::new(mapping, filtering, hairpin, &[server, plain(RIGHT)]).report().ipv4.unwrap();
        assert_eq!((family.mapping, family.filtering), (mapping, told_by_port(filtering)));
    });
}

#[test]
fn a_second_check_keeps_what_the_first_one_told() {
    each(|mapping, filtering, hairpin| {
        let mut world = World::new(mapping, filtering, hairpin, &[discoverer(LEFT, Change::Honoured)]);
        let first = world.report();
        let start = Instant::now();
        let mut check = NetCheck::new(config(vec![addr(LEFT)]), start);
        world.run(&mut check, start);
        let contacted = check.contacted();
        assert!(contacted.contains(&addr(LEFT)) && contacted.contains(&addr(OTHER)) && contacted.len() == 4);
        let (mut second, _) = world.check(NetCheckConfig { contacted, ..config(vec![addr(LEFT)]) });
        assert_eq!(second.ipv4.as_ref().unwrap().filtering, Filtering::Unknown);
        second.inherit_filtering(&first);
        assert_eq!(second.ipv4.as_ref().unwrap().filtering, filtering);
        let mut moved = second.clone();
        moved.ipv4.as_mut().unwrap().filtering = Filtering::Unknown;
        moved.ipv4.as_mut().unwrap().mapped = vec![addr("192.0.2.77:1")];
        moved.inherit_filtering(&first);
        assert_eq!(moved.ipv4.unwrap().filtering, Filtering::Unknown, "another NAT");
    });
}

#[test]
fn a_server_that_does_not_answer_from_elsewhere_tells_no_filtering() {
    for change in [Change::Ignored, Change::Refused, Change::Dead] {
        each(|mapping, filtering, hairpin| {
            let servers = [discoverer(LEFT, change), plain(RIGHT)];
            let family = World::new(mapping, filtering, hairpin, &servers).report().ipv4.unwrap();
            assert_eq!(family.filtering, Filtering::Unknown);
        });
    }
}

#[test]
fn blocked_udp_is_told_from_a_silent_server() {
    let mut world = World::new(
        Mapping::EndpointIndependent,
        Filtering::AddressDependent,
        false,
        &[plain(LEFT), plain(RIGHT)],
    );
    world.blocked = true;
    let report = world.report();
    assert!(report.udp_blocked && report.ipv4.is_none());
    assert!(report.summary().contains("UDP is blocked"), "{}", report.summary());

    world.blocked = false;
    world.servers.pop();
    let (report, _) = world.check(config(vec![addr(LEFT), addr(RIGHT)]));
    assert!(!report.udp_blocked);
    assert_eq!(report.servers[0].rtt, Some(Duration::ZERO));
    assert_eq!((report.servers[1].mapped, report.servers[1].rtt), (None, None));
    assert!(report.summary().contains("Without an answer: 203.0.113.20:3478."), "{}", report.summary());
}

#[test]
fn no_server_is_not_blocked_udp() {
    let (report, took) =
        World::new(Mapping::NoNat, Filtering::EndpointIndependent, false, &[]).check(config(Vec::new()));
    assert!(!report.udp_blocked && took == Duration::ZERO);
    assert!(report.summary().contains("No STUN or TURN server is known"));
}

#[test]
fn the_families_are_told_apart() {
    let mut world = World::new(
        Mapping::EndpointIndependent,
        Filtering::AddressDependent,
        false,
        &[plain(LEFT), plain(RIGHT), plain("[2001:db8::10]:3478")],
    );
    let report = world.report();
    assert_eq!(report.ipv4.as_ref().unwrap().mapping, Mapping::EndpointIndependent);
    assert!(report.ipv6.is_some());
    let (report, _) = World::new(Mapping::NoNat, Filtering::EndpointIndependent, false, &[plain(LEFT)])
        .check(config(vec![addr(LEFT), addr("[2001:db8::10]:3478")]));
    assert!(report.summary().contains("IPv6: no server answers."), "{}", report.summary());
}

#[test]
fn answers_from_elsewhere_are_refused() {
    let now = Instant::now();
    let mut check = NetCheck::new(config(vec![addr(LEFT)]), now);
    let (_, request) = check.poll_transmit(now).unwrap();
    let spoofed = success(&request, addr("198.51.100.66:1"), None);
    assert!(!check.handle(addr(RIGHT), &spoofed, now));
    assert!(!check.handle(addr(LEFT), &request, now), "the request itself");
    assert!(check.handle(addr("[::ffff:203.0.113.10]:3478"), &spoofed, now));
}

#[test]
fn reports_are_read_as_they_were_written() {
    each(|mapping, filtering, hairpin| {
        let servers = [discoverer(LEFT, Change::Honoured), plain(RIGHT)];
        let report = World::new(mapping, filtering, hairpin, &servers).report();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<NatReport>(&json).unwrap(), report);
        assert!(json.contains(&format!("\"mapping\":\"{}\"", mapping.name())), "{json}");
        assert!(json.contains("\"rtt_seconds\":0.0"), "{json}");
        assert!(report.summary().lines().all(|line| line.ends_with('.')), "{}", report.summary());
    });
}

#[test]
fn the_sentences_for_people() {
    let servers = [discoverer(LEFT, Change::Honoured)];
    let report =
        World::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, false, &servers)
            .report();
    assert_eq!(
        report.summary(),
        "IPv4: behind a NAT that gives one address for all destinations (the port is changed): 198.51.100.1:20000. \
         Direct links can be made.\n\
         IPv4: datagrams are let in only from addresses and ports that were sent to.\n\
         IPv4: datagrams to the own mapped address do not come back (no hairpin): two nodes behind this NAT need \
         each other's own addresses."
    );
}
