//! Two nodes in the network: their traversals, and a data path that probes what they find.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nat_traversal::{
    Candidate, CandidateKind, CandidatePair, PathNews, RelayId, Route, Signal, Slot, StunRouter, Traversal,
    TraversalConfig, TraversalEvent, TraversalTiming,
};

use crate::net::{Allocation, Filter, Host, Nat, Net, Time, ms};

/// How a site is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Site {
    Open,
    Behind(Filter),
    /// A home router behind the carrier's.
    Double(Filter, Filter),
    Blocked,
    V6,
}

pub(crate) struct Path {
    pub(crate) pair: CandidatePair,
    alive: bool,
    /// The traversal was told that it died.
    pub(crate) told_dead: bool,
    answered: Time,
    probed: Time,
}

pub(crate) struct Node {
    pub(crate) traversal: Traversal,
    router: StunRouter,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) paths: BTreeMap<Route, Path>,
    pub(crate) selected: Option<Route>,
    /// Each path that carried frames, and since when.
    pub(crate) history: Vec<(Time, Option<Route>)>,
    pub(crate) first: Option<Time>,
    pub(crate) checks: usize,
    pub(crate) stun_bytes: usize,
    pub(crate) signals: usize,
    pub(crate) gone: Vec<Route>,
    pub(crate) last_signal: Option<Signal>,
    pub(crate) config: TraversalConfig,
}

enum What {
    Packet { host: usize, route: Route, local: SocketAddr, payload: Vec<u8> },
    Signal { host: usize, json: String },
    Permit { host: usize, relay: RelayId, ips: Vec<IpAddr> },
}

pub(crate) struct World {
    pub(crate) now: Time,
    start: Instant,
    pub(crate) net: Net,
    pub(crate) nodes: Vec<Node>,
    queue: BTreeMap<(Time, u64), What>,
    counter: u64,
    random: u64,
    /// Of 100 signals, so many are lost, and as many delivered twice; each may be late.
    pub(crate) bad_signals: u64,
    /// Of 100 packets, so many are lost.
    pub(crate) bad_packets: u64,
    /// How long the data path waits for an answer on the path in use.
    pub(crate) patience: Time,
    pub(crate) signalling_down: bool,
    /// What arrived, or was on its way.
    pub(crate) record: Option<Vec<(usize, Route, Vec<u8>)>>,
    /// An adversary keeps all packets to itself.
    pub(crate) swallow: bool,
    /// Packets that were sent to nobody's address.
    pub(crate) strangers: usize,
}

impl World {
    pub(crate) fn new(a: Site, b: Site) -> World {
        let mut world = World {
            now: Duration::ZERO,
            start: Instant::now(),
            net: Net { delay: ms(10), ..Net::default() },
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            counter: 0,
            random: 0x9e37_79b9,
            bad_signals: 0,
            bad_packets: 0,
            patience: ms(400),
            signalling_down: false,
            record: None,
            swallow: false,
            strangers: 0,
        };
        for (index, site) in [a, b].into_iter().enumerate() {
            world.add_site(index, site);
        }
        for index in 0..2 {
            world.add_node(index, index == 0);
        }
        world
    }

    fn add_site(&mut self, index: usize, site: Site) {
        let private: IpAddr = format!("10.{}.0.2", index + 1).parse().unwrap();
        let public: IpAddr = format!("203.0.113.{}", index + 1).parse().unwrap();
        let v6: IpAddr = format!("2001:db8:{}::2", index + 1).parse().unwrap();
        let (addresses, nats) = match site {
            Site::Open | Site::Blocked => (vec![public], vec![]),
            Site::V6 => (vec![v6], vec![]),
            Site::Behind(filter) => (vec![private], vec![Nat::new(filter, &public.to_string())]),
            Site::Double(home, carrier) => {
                let shared = format!("100.64.{index}.2");
                (vec![private], vec![Nat::new(home, &shared), Nat::new(carrier, &public.to_string())])
            }
        };
        let first = self.net.nats.len();
        self.net.nats.extend(nats);
        let nats = (first..self.net.nats.len()).collect();
        let udp_blocked = site == Site::Blocked;
        self.net.hosts.push(Host { addresses, port: 4840, site: index, nats, udp_blocked });
        self.allocate(index, 1);
    }

    pub(crate) fn allocate(&mut self, host: usize, id: u32) {
        let v6 = self.net.hosts[host].addresses.iter().all(IpAddr::is_ipv6);
        let ip = if v6 { "2001:db8:99::9" } else { "198.51.100.9" };
        let port = 50_000 + 100 * host as u16 + id as u16;
        let relayed = SocketAddr::new(ip.parse().unwrap(), port);
        let id = RelayId(id);
        self.net.allocations.push(Allocation { id, host, relayed, permitted: BTreeSet::new(), up: true });
    }

    fn add_node(&mut self, index: usize, controlling: bool) {
        let config = TraversalConfig {
            controlling,
            ufrag: format!("ufrag{index}"),
            password: format!("password{index}password{index}password"),
            generation: 1,
            seed: 7 + index as u64,
            timing: TraversalTiming::default(),
        };
        let node = self.node(config);
        self.nodes.push(node);
    }

    fn node(&self, config: TraversalConfig) -> Node {
        let mut router = StunRouter::default();
        router.insert(&config.ufrag, Slot(1));
        Node {
            traversal: Traversal::new(config.clone(), self.instant()),
            router,
            candidates: Vec::new(),
            paths: BTreeMap::new(),
            selected: None,
            history: Vec::new(),
            first: None,
            checks: 0,
            stun_bytes: 0,
            signals: 0,
            gone: Vec::new(),
            last_signal: None,
            config,
        }
    }

    /// The node starts anew, with what `change` makes of its configuration.
    pub(crate) fn restart(&mut self, index: usize, change: impl FnOnce(&mut TraversalConfig)) {
        let mut config = self.nodes[index].config.clone();
        change(&mut config);
        self.nodes[index] = self.node(config);
    }

    pub(crate) fn instant(&self) -> Instant {
        self.start + self.now
    }

    /// What the node gathers now, as its candidates.
    pub(crate) fn gather(&mut self, index: usize) {
        let host = &self.net.hosts[index];
        let port = host.port;
        let hosts: Vec<_> = host.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let host_candidate =
            |address| Candidate { kind: CandidateKind::Host, address, base: address, relay: None };
        let mut candidates: Vec<_> = hosts.iter().copied().map(host_candidate).collect();
        if let Some(mapped) = self.net.mapped(index, self.now)
            && !hosts.contains(&mapped)
        {
            let kind = CandidateKind::ServerReflexive;
            candidates.push(Candidate { kind, address: mapped, base: hosts[0], relay: None });
        }
        for own in self.net.allocations.iter().filter(|own| own.host == index && own.up) {
            let (kind, relay) = (CandidateKind::Relayed, Some(own.id));
            candidates.push(Candidate { kind, address: own.relayed, base: hosts[0], relay });
        }
        self.set_candidates(index, &candidates);
    }

    pub(crate) fn set_candidates(&mut self, index: usize, candidates: &[Candidate]) {
        let now = self.instant();
        self.nodes[index].candidates = candidates.to_vec();
        self.nodes[index].traversal.set_local_candidates(candidates, now);
        self.drain(index);
    }

    /// Both sides gather, and one wants a link.
    pub(crate) fn begin(&mut self) {
        self.gather(0);
        self.gather(1);
        self.wake(0);
    }

    pub(crate) fn wake(&mut self, index: usize) {
        let now = self.instant();
        self.nodes[index].traversal.wake(now);
        self.drain(index);
    }

    pub(crate) fn signal(&mut self, to: usize, signal: &Signal) {
        let now = self.instant();
        _ = self.nodes[to].traversal.handle_signal(signal, now);
        self.drain(to);
    }

    pub(crate) fn inject(&mut self, host: usize, route: Route, payload: &[u8]) {
        let local = SocketAddr::new(self.net.hosts[host].addresses[0], self.net.hosts[host].port);
        self.receive(host, route, local, payload);
    }

    /// Runs until the condition holds; `false`: it did not in that time.
    pub(crate) fn run(&mut self, time: Time, mut until: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + time;
        loop {
            if until(self) {
                return true;
            }
            let timers = (0..self.nodes.len()).filter_map(|index| self.nodes[index].traversal.poll_timeout());
            let timer = timers.min().map(|at| at.saturating_duration_since(self.start).max(self.now));
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let tick = Duration::from_millis((self.now.as_millis() as u64 / 20 + 1) * 20);
            let next = [timer, event, Some(tick)].into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return until(self);
            }
            self.now = next;
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let what = entry.remove();
                self.happen(what);
            }
            for index in 0..self.nodes.len() {
                let now = self.instant();
                if self.nodes[index].traversal.poll_timeout().is_some_and(|at| at <= now) {
                    self.nodes[index].traversal.handle_timeout(now);
                    self.drain(index);
                }
                if self.now == tick {
                    self.probe(index);
                }
            }
        }
    }

    pub(crate) fn run_for(&mut self, time: Time) {
        self.run(time, |_| false);
    }

    /// The path kinds that both nodes use now.
    pub(crate) fn kinds(&self) -> [Option<CandidatePair>; 2] {
        [0, 1].map(|index| {
            let node = &self.nodes[index];
            node.selected.map(|route| node.paths[&route].pair)
        })
    }

    pub(crate) fn connected(&self) -> bool {
        self.nodes.iter().all(|node| node.selected.is_some())
    }

    pub(crate) fn hops(&self) -> Option<usize> {
        let hops = self.kinds().map(|pair| pair.map(|pair| hops(&pair)));
        Some(hops[0]?.max(hops[1]?))
    }

    fn later(&mut self, delay: Time, what: What) {
        self.counter += 1;
        self.queue.insert((self.now + delay, self.counter), what);
    }

    fn chance(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Packet { host, route, local, payload } => self.receive(host, route, local, &payload),
            What::Signal { host, json } => {
                let signal: Signal = serde_json::from_str(&json).unwrap();
                self.signal(host, &signal);
            }
            What::Permit { host, relay, ips } => {
                let own = self.net.allocations.iter_mut().find(|own| own.host == host && own.id == relay);
                if let Some(own) = own {
                    own.permitted.extend(ips);
                }
            }
        }
    }

    fn receive(&mut self, host: usize, route: Route, local: SocketAddr, payload: &[u8]) {
        let now = self.instant();
        match payload.first() {
            Some(0x80) => self.send(host, route, vec![0x81]),
            Some(0x81) => {
                let at = self.now;
                if let Some(path) = self.nodes[host].paths.get_mut(&route) {
                    path.answered = at;
                    path.alive = true;
                }
            }
            _ => {
                let node = &mut self.nodes[host];
                if node.router.route(payload).is_some() {
                    node.traversal.handle_stun(route, local, payload, now);
                    self.drain(host);
                }
            }
        }
    }

    fn send(&mut self, from: usize, route: Route, payload: Vec<u8>) {
        if let Some(arrival) = self.net.send(from, route, self.now) {
            if let Some(record) = &mut self.record {
                record.push((arrival.host, arrival.route, payload.clone()));
            }
            let (host, route, local) = (arrival.host, arrival.route, arrival.local);
            if !self.swallow && (self.bad_packets == 0 || self.chance() >= self.bad_packets) {
                self.later(arrival.delay, What::Packet { host, route, local, payload });
            }
        } else {
            self.strangers += usize::from(route.remote().ip() == STRANGER);
        }
    }

    fn drain(&mut self, index: usize) {
        let now = self.instant();
        while let Some(transmit) = self.nodes[index].traversal.poll_transmit() {
            let node = &mut self.nodes[index];
            node.checks += usize::from(transmit.payload[0] == 0);
            node.stun_bytes += transmit.payload.len() + 28;
            node.router.sent(Slot(1), &transmit.payload, now);
            self.send(index, transmit.route, transmit.payload);
        }
        while let Some(signal) = self.nodes[index].traversal.poll_signal() {
            self.nodes[index].signals += 1;
            let json = serde_json::to_string(&signal).unwrap();
            self.nodes[index].last_signal = Some(signal);
            let copies = if self.chance() < self.bad_signals { 2 } else { 1 };
            for _ in 0..copies {
                let late = if self.bad_signals > 0 { ms(self.chance() * 5) } else { Duration::ZERO };
                if !self.signalling_down && self.chance() >= self.bad_signals {
                    self.later(ms(15) + late, What::Signal { host: 1 - index, json: json.clone() });
                }
            }
        }
        while let Some(event) = self.nodes[index].traversal.poll_event() {
            match event {
                TraversalEvent::Found { route, pair } => {
                    let at = self.now;
                    let node = &mut self.nodes[index];
                    let path = Path { pair, alive: true, told_dead: false, answered: at, probed: at };
                    let known = node.paths.insert(route, path);
                    let news = |known: Path| known.told_dead || known.pair != pair;
                    assert!(known.is_none_or(news), "{route} was told twice");
                    node.first = node.first.or(Some(at));
                    self.choose(index);
                }
                TraversalEvent::Gone { route } => {
                    self.nodes[index].gone.push(route);
                    self.nodes[index].paths.remove(&route);
                    self.choose(index);
                }
                TraversalEvent::NeedsRelay { relay, peers } => {
                    let ips = peers.iter().map(SocketAddr::ip).collect();
                    self.later(ms(50), What::Permit { host: index, relay, ips });
                }
            }
        }
    }

    fn probe(&mut self, index: usize) {
        let now = self.now;
        let selected = self.nodes[index].selected;
        let mut due = Vec::new();
        let mut dead = Vec::new();
        for (route, path) in &mut self.nodes[index].paths {
            let interval = if selected == Some(*route) { ms(100) } else { ms(1000) };
            let patience = if selected == Some(*route) { self.patience } else { ms(3500) };
            if now >= path.probed + interval {
                path.probed = now;
                due.push(*route);
            }
            if path.alive && now > path.answered + patience {
                path.alive = false;
                path.told_dead = true;
                dead.push(*route);
            }
        }
        for route in due {
            self.send(index, route, vec![0x80]);
        }
        for route in dead {
            let now = self.instant();
            self.nodes[index].traversal.handle_path(PathNews::Dead(route), now);
            self.drain(index);
        }
        self.choose(index);
    }

    fn choose(&mut self, index: usize) {
        let now = self.instant();
        let node = &mut self.nodes[index];
        let alive = node.paths.iter().filter(|(_, path)| path.alive);
        let best =
            alive.min_by_key(|(route, path)| (hops(&path.pair), Some(**route) != node.selected, **route));
        let best = best.map(|(route, path)| (*route, path.pair.kind()));
        let before = std::mem::replace(&mut node.selected, best.map(|(route, _)| route));
        if before == node.selected {
            return;
        }
        node.history.push((self.now, node.selected));
        match best {
            Some((route, kind)) => node.traversal.handle_path(PathNews::Selected(route, kind), now),
            None => {
                node.paths.values_mut().for_each(|path| path.told_dead = true);
                node.traversal.handle_path(PathNews::AllDead, now);
            }
        }
        self.drain(index);
    }
}

/// Where there is nobody.
pub(crate) const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66));

pub(crate) fn hops(pair: &CandidatePair) -> usize {
    usize::from(pair.local == CandidateKind::Relayed) + usize::from(pair.remote == CandidateKind::Relayed)
}
