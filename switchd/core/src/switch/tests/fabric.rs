//! Nodes joined in memory: a switch and a learning bridge each, with instances that ARP, solicit and cache as
//! Linux does. Time is invented.

mod claims;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use proptest::prelude::*;

use super::fixture::*;
use crate::frame::arp::{self, Arp};
use crate::frame::nd::{self, Nd, NdKind};
use crate::frame::{Tags, build, ethertype};
use crate::ids::{Mac, PeerId};
use crate::switch::*;
use crate::time::Time;

/// A bridge's port: an instance by number, or the endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Port {
    Instance(u8),
    Endpoint,
}

struct Node {
    switch: Switch,
    fdb: HashMap<Mac, Port, ahash::RandomState>,
    instances: Vec<Instance>,
}

/// Instance `n`: MAC `mac(n)`, IPs `v4(n)` and `v6(n)`.
struct Instance {
    n: u8,
    cache: HashMap<IpAddr, Mac, ahash::RandomState>,
    waiting: Vec<(IpAddr, Vec<u8>)>,
    received: Vec<Vec<u8>>,
}

enum Step {
    /// A frame enters the bridge of a node from a port.
    Bridge(usize, Port, Vec<u8>),
    /// A frame crosses the overlay.
    Wire { from: usize, to: usize, frame: Vec<u8> },
}

struct Fabric {
    nodes: Vec<Node>,
    queue: VecDeque<Step>,
    now: Time,
    /// Every frame that crossed, with its receiver.
    wire: Vec<(usize, Vec<u8>)>,
    /// From and to which nodes nothing arrives.
    lost: Vec<(usize, usize)>,
    /// What the controller says may take an instance away for a moment, and the bridge is told so in its name.
    announced: bool,
}

fn hash<K, V>() -> HashMap<K, V, ahash::RandomState> {
    HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4))
}

impl Fabric {
    /// One node per list, with the instances of these numbers.
    fn new(mode: Mode, placed: &[&[u8]]) -> Fabric {
        let mut nodes: Vec<Node> = placed
            .iter()
            .map(|list| Node {
                switch: Switch::new(config(mode)),
                fdb: hash(),
                instances: list.iter().map(|n| Instance::new(*n)).collect(),
            })
            .collect();
        for a in 0..nodes.len() {
            for b in (0..nodes.len()).filter(|b| *b != a) {
                nodes[a].switch.handle_link(PeerId(b as u32), true, at(1000));
            }
            nodes[a].switch.handle_timeout(at(1100));
            // As the daemon does: the endpoint's second address stands behind its port.
            nodes[a].fdb.insert(ENDPOINT, Port::Endpoint);
        }
        Fabric {
            nodes,
            queue: VecDeque::new(),
            now: at(1000),
            wire: Vec::new(),
            lost: Vec::new(),
            announced: false,
        }
    }

    fn find(&mut self, n: u8) -> (usize, &mut Instance) {
        for (i, node) in self.nodes.iter_mut().enumerate() {
            if let Some(instance) = node.instances.iter_mut().find(|x| x.n == n) {
                return (i, instance);
            }
        }
        panic!("no instance {n}")
    }

    /// Instance `n` sends a datagram; `true` if it arrives at instance `to`, once and nowhere else.
    fn send(&mut self, family: Family, n: u8, to: u8) -> bool {
        let before = self.find(to).1.received.len();
        let dst = ip(family, to);
        let (node, instance) = self.find(n);
        let frame = match instance.cache.get(&dst) {
            Some(mac) => udp(*mac, super::fixture::mac(n), ip(family, n), dst, (1, 2)),
            None => {
                let f = udp(Mac::ZERO, super::fixture::mac(n), ip(family, n), dst, (1, 2));
                instance.waiting.push((dst, f));
                request(family, n, to)
            }
        };
        self.queue.push_back(Step::Bridge(node, Port::Instance(n), frame));
        self.run();
        self.find(to).1.received.len() == before + 1
    }

    fn emit(&mut self, n: u8, frame: Vec<u8>) {
        let node = self.find(n).0;
        self.queue.push_back(Step::Bridge(node, Port::Instance(n), frame));
        self.run();
    }

    /// The instance goes on on another node; its hypervisor announces it by RARP if `told`.
    fn migrate(&mut self, n: u8, to: usize, told: bool) {
        let from = self.find(n).0;
        let at = self.nodes[from].instances.iter().position(|x| x.n == n).unwrap();
        let instance = self.nodes[from].instances.remove(at);
        self.nodes[from].fdb.retain(|_, port| *port != Port::Instance(n));
        self.nodes[to].instances.push(instance);
        if told {
            self.emit(n, other(Mac::BROADCAST, mac(n), ethertype::RARP));
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 1000 {
            self.now = self.now + std::time::Duration::from_secs(1);
            for i in 0..self.nodes.len() {
                let now = self.now;
                self.nodes[i].switch.handle_timeout(now);
                self.drain(i);
            }
            self.run();
        }
    }

    fn run(&mut self) {
        let mut steps = 0;
        while let Some(step) = self.queue.pop_front() {
            steps += 1;
            assert!(steps < 2000, "frames circle");
            match step {
                Step::Bridge(node, port, frame) => self.bridge(node, port, &frame),
                Step::Wire { from, to, frame } => self.cross(from, to, frame),
            }
        }
    }

    fn bridge(&mut self, i: usize, from: Port, frame: &[u8]) {
        let e = eth(frame);
        let node = &mut self.nodes[i];
        if e.src != ENDPOINT {
            node.fdb.insert(e.src, from);
        }
        let port = if e.dst.is_group() { None } else { node.fdb.get(&e.dst).copied() };
        let reaches = |p: Port| p != from && port.is_none_or(|only| only == p);
        let numbers: Vec<u8> = node.instances.iter().map(|x| x.n).collect();
        for n in numbers.into_iter().filter(|n| reaches(Port::Instance(*n))) {
            if self.announced && e.src == mac(n) {
                continue;
            }
            let instance = self.nodes[i].instances.iter_mut().find(|x| x.n == n).unwrap();
            for answer in instance.receive(frame) {
                self.queue.push_back(Step::Bridge(i, Port::Instance(n), answer));
            }
        }
        if reaches(Port::Endpoint) {
            let mut f = frame.to_vec();
            let verdict = self.nodes[i].switch.handle_local(&mut f, &VNET, self.now);
            self.carry_out(i, verdict, f);
        }
    }

    fn cross(&mut self, from: usize, to: usize, mut frame: Vec<u8>) {
        if self.lost.contains(&(from, to)) {
            return;
        }
        assert_ne!(eth(&frame).src, ENDPOINT, "the overlay carries real MACs");
        assert_ne!(eth(&frame).dst, ENDPOINT, "the overlay carries real MACs");
        self.wire.push((to, frame.clone()));
        let verdict = self.nodes[to].switch.handle_remote(&mut frame, &VNET, PeerId(from as u32), self.now);
        assert!(!matches!(verdict, Verdict::Peer(_) | Verdict::Flood), "split horizon");
        self.carry_out(to, verdict, frame);
    }

    fn carry_out(&mut self, i: usize, verdict: Verdict, frame: Vec<u8>) {
        match verdict {
            Verdict::Bridge => self.put(i, Destination::Bridge, frame),
            Verdict::Peer(p) => self.put(i, Destination::Peer(p), frame),
            Verdict::Flood => self.put(i, Destination::Flood, frame),
            Verdict::Answered | Verdict::Held | Verdict::Drop(_) => {}
        }
        self.drain(i);
    }

    fn drain(&mut self, i: usize) {
        while let Some(t) = self.nodes[i].switch.poll_transmit() {
            self.put(i, t.to, t.frame);
        }
    }

    fn put(&mut self, i: usize, to: Destination, frame: Vec<u8>) {
        match to {
            Destination::Bridge => self.queue.push_back(Step::Bridge(i, Port::Endpoint, frame)),
            Destination::Peer(p) => self.queue.push_back(Step::Wire { from: i, to: p.0 as usize, frame }),
            Destination::Flood => {
                for p in self.nodes[i].switch.flood_peers() {
                    let frame = frame.clone();
                    self.queue.push_back(Step::Wire { from: i, to: p.0 as usize, frame });
                }
            }
        }
    }

    fn crossed(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.wire)
    }
}

impl Instance {
    fn new(n: u8) -> Instance {
        Instance { n, cache: hash(), waiting: Vec::new(), received: Vec::new() }
    }

    fn receive(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let e = eth(frame);
        if !e.dst.is_group() && e.dst != mac(self.n) {
            return Vec::new();
        }
        assert_ne!(e.src, mac(self.n), "its own MAC came back to instance {}", self.n);
        if e.ethertype == ethertype::RARP {
            return Vec::new();
        }
        if e.ethertype == ethertype::ARP {
            return self.receive_arp(&Arp::parse(frame, e.l3).unwrap());
        }
        if e.ethertype == ethertype::IPV6 {
            check_frame(frame);
            if let Some(nd) = Nd::parse(frame, &e, false).unwrap() {
                return self.receive_nd(&nd, e.src);
            }
        }
        self.received.push(frame.to_vec());
        Vec::new()
    }

    fn receive_arp(&mut self, a: &Arp) -> Vec<Vec<u8>> {
        let me = a.tpa == v4(self.n);
        let mut out = Vec::new();
        if !a.spa.is_unspecified() {
            out = self.learn(a.spa.into(), a.sha, me);
        }
        if me && a.op == arp::REQUEST && a.spa != a.tpa {
            out.push({
                let m = Arp { op: arp::REPLY, sha: mac(self.n), spa: v4(self.n), tha: a.sha, tpa: a.spa };
                arp_frame(a.sha, mac(self.n), &m)
            });
        }
        out
    }

    fn receive_nd(&mut self, m: &Nd, src: Mac) -> Vec<Vec<u8>> {
        match m.kind {
            NdKind::Solicit { target } if target == v6(self.n) => {
                let (to, dst, flag) = if m.src.is_unspecified() {
                    (nd::multicast_mac(nd::ALL_NODES), nd::ALL_NODES, 0)
                } else {
                    (m.slla.map_or(src, |a| a.mac), m.src, nd::FLAG_SOLICITED)
                };
                let mut out = match m.slla {
                    Some(a) => self.learn(m.src.into(), a.mac, true),
                    None => Vec::new(),
                };
                let mut f = build::header(to, mac(self.n), Tags::NONE, ethertype::IPV6);
                nd::append_advert(&mut f, target, dst, target, flag | nd::FLAG_OVERRIDE, mac(self.n));
                out.push(f);
                out
            }
            NdKind::Advert { target, .. } => self.learn(target.into(), m.tlla.unwrap().mac, false),
            _ => Vec::new(),
        }
    }

    /// As Linux: an entry that exists or is waited for is updated, a new one only for a request to us.
    fn learn(&mut self, ip: IpAddr, mac: Mac, create: bool) -> Vec<Vec<u8>> {
        let waited = self.waiting.iter().any(|(w, _)| *w == ip);
        if create || waited || self.cache.contains_key(&ip) {
            self.cache.insert(ip, mac);
        }
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(w, _)| *w == ip);
        self.waiting = waiting;
        let ready: Vec<(IpAddr, Vec<u8>)> = ready;
        ready
            .into_iter()
            .map(|(_, mut f)| {
                f[..6].copy_from_slice(&mac.0);
                f
            })
            .collect()
    }
}

fn check_frame(frame: &[u8]) {
    etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    if frame[20] == 58 {
        check_icmp(frame);
    }
}

/// A request to everybody, which an announcement is not.
fn is_request(frame: &[u8]) -> bool {
    let e = eth(frame);
    let asks = if e.ethertype == ethertype::ARP {
        let a = Arp::parse(frame, e.l3).unwrap();
        a.op == arp::REQUEST && a.spa != a.tpa
    } else {
        let message =
            (e.ethertype == ethertype::IPV6).then(|| Nd::parse(frame, &e, false).unwrap()).flatten();
        message.is_some_and(|m| matches!(m.kind, NdKind::Solicit { .. }))
    };
    asks && e.dst.is_group()
}

const THREE: &[&[u8]] = &[&[1, 2], &[3, 4], &[5, 6]];

#[test]
fn everybody_reaches_everybody() {
    for mode in MODES {
        for family in FAMILIES {
            let mut f = Fabric::new(mode, THREE);
            for n in 1..=6 {
                for to in (1..=6).filter(|to| *to != n) {
                    assert!(f.send(family, n, to), "{mode:?} {family:?} {n} to {to}");
                    assert!(f.send(family, n, to), "again");
                }
            }
            for n in 1..=6 {
                let (_, instance) = f.find(n);
                assert_eq!(instance.received.len(), 10, "nothing twice, nothing astray");
                assert!(instance.waiting.is_empty());
            }
        }
    }
}

#[test]
fn guests_see_the_endpoint_in_rewrite_mode_and_real_macs_in_preserve_mode() {
    for mode in MODES {
        for family in FAMILIES {
            let mut f = Fabric::new(mode, THREE);
            assert!(f.send(family, 1, 3) && f.send(family, 1, 2) && f.send(family, 3, 1));
            let cache = &f.find(1).1.cache;
            let remote = if mode == Mode::Rewrite { ENDPOINT } else { mac(3) };
            assert_eq!(cache.get(&ip(family, 3)), Some(&remote));
            assert_eq!(cache.get(&ip(family, 2)), Some(&mac(2)));
        }
    }
}

#[test]
fn no_request_for_a_known_binding_crosses() {
    for mode in MODES {
        for family in FAMILIES {
            let mut f = Fabric::new(mode, THREE);
            assert!(f.send(family, 1, 3));
            let asked = f.crossed();
            let requests = asked.iter().filter(|(_, x)| is_request(x)).count();
            assert_eq!(requests, 2, "asked of each peer once");
            assert!(
                asked.iter().all(|(to, x)| eth(x).dst.is_group() || *to != 2),
                "the reply to the asker only"
            );
            assert!(f.send(family, 2, 3), "another instance of the same bridge");
            assert!(!f.crossed().iter().any(|(_, x)| is_request(x)));
            assert!(f.send(family, 5, 1), "the asker is known too, by its request");
            assert!(!f.crossed().iter().any(|(_, x)| is_request(x)));
            // Nor does anything between neighbours.
            assert!(f.send(family, 1, 2));
            f.crossed();
            assert!(f.send(family, 2, 1) && f.send(family, 1, 2));
            assert!(f.crossed().is_empty());
        }
    }
}

#[test]
fn traffic_follows_an_announced_move() {
    for mode in MODES {
        for family in FAMILIES {
            let mut f = Fabric::new(mode, THREE);
            for n in [1, 2, 4, 5] {
                assert!(f.send(family, n, 3) && f.send(family, 3, n));
            }
            for to in [0, 2, 1] {
                f.migrate(3, to, true);
                for n in [1, 2, 4, 5] {
                    assert!(f.send(family, n, 3), "{mode:?} {family:?} {n} to 3 on node {to}");
                    assert!(f.send(family, 3, n), "{mode:?} {family:?} 3 on node {to} to {n}");
                }
            }
        }
    }
}

#[test]
fn neighbours_on_one_bridge_stop_using_the_endpoint_after_a_move() {
    for family in FAMILIES {
        let mut f = Fabric::new(Mode::Rewrite, THREE);
        assert!(f.send(family, 1, 3) && f.send(family, 3, 1));
        f.migrate(3, 0, true);
        // The newcomer still has the endpoint in its own cache: its first frame is hairpinned and corrected.
        assert!(f.send(family, 3, 1));
        assert_eq!(f.find(1).1.cache[&ip(family, 3)], mac(3));
        assert_eq!(f.find(3).1.cache[&ip(family, 1)], mac(1));
        let frames = f.nodes[0].switch.counters().local_frames;
        assert!(f.send(family, 1, 3) && f.send(family, 3, 1));
        assert_eq!(f.nodes[0].switch.counters().local_frames, frames, "the bridge carries them itself");
    }
}

#[test]
fn an_unannounced_move_heals_with_the_instances_first_frame() {
    for mode in MODES {
        for family in FAMILIES {
            let mut f = Fabric::new(mode, THREE);
            for n in [1, 2, 4, 5] {
                assert!(f.send(family, n, 3) && f.send(family, 3, n));
            }
            f.migrate(3, 2, false);
            assert!(f.send(family, 3, 1), "{mode:?} {family:?}");
            // Its old neighbours and its new ones too.
            for n in [1, 2, 4, 5, 6] {
                assert!(f.send(family, n, 3) && f.send(family, 3, n), "{mode:?} {family:?} {n}");
            }
        }
    }
}

/// As [`Fabric::migrate`], but nothing gets from the new node to node `deaf` meanwhile: lost, or the link is down.
fn migrate_unheard(f: &mut Fabric, n: u8, to: usize, deaf: usize, link_down: bool) {
    let links = |f: &mut Fabric, up| {
        f.nodes[to].switch.handle_link(PeerId(deaf as u32), up, f.now);
        f.nodes[deaf].switch.handle_link(PeerId(to as u32), up, f.now);
    };
    if link_down {
        links(f, false);
    } else {
        f.lost.push((to, deaf));
    }
    f.migrate(n, to, true);
    f.lost.clear();
    links(f, true);
}

#[test]
fn a_move_that_was_not_heard_of_heals_when_the_owner_leaves_polls_unanswered() {
    for (mode, family, link_down) in
        MODES.into_iter().flat_map(|m| FAMILIES.into_iter().flat_map(move |f| [(m, f, false), (m, f, true)]))
    {
        // The old node hears of the move, or does not either and still believes that the instance is there.
        for both in [false, true] {
            let what = format!("{mode:?} {family:?} link down {link_down} both {both}");
            let mut f = Fabric::new(mode, THREE);
            assert!(f.send(family, 5, 3) && f.send(family, 3, 5));
            if both {
                f.lost.push((0, 1));
            }
            migrate_unheard(&mut f, 3, 0, 2, link_down);
            assert!(!f.send(family, 5, 3), "{what}: to the old node, which cannot send it on");
            let stale = f.find(5).1.cache[&ip(family, 3)];
            for _ in 0..3 {
                f.emit(5, poll(family, 5, 3, stale));
                f.pass(1000);
            }
            f.find(5).1.cache.clear();
            assert!(f.send(family, 5, 3), "{what}");
            assert!(f.send(family, 5, 3) && f.send(family, 3, 5), "{what}");
            f.crossed();
            assert!(f.send(family, 6, 3), "{what}");
            assert!(!f.crossed().iter().any(|(_, x)| is_request(x)), "answered for again: {what}");
        }
    }
}

#[test]
fn an_ip_that_returns_with_another_instance_is_told_to_the_peers_though_its_request_is_answered_here() {
    for mode in MODES {
        for family in FAMILIES {
            // Instance 5 speaks to instance 3 on node 1; node 0 knows 5 but not 3.
            let mut f = Fabric::new(mode, THREE);
            f.lost.push((1, 0));
            assert!(f.send(family, 5, 3) && f.send(family, 3, 5));
            f.lost.clear();
            f.emit(5, gratuitous(family, 5));
            // Gone, and its IP given to instance 1 on node 0.
            f.nodes[1].instances.clear();
            f.crossed();
            let ask = {
                let mut ask = request(family, 1, 5);
                match family {
                    Family::V4 => ask[28..32].copy_from_slice(&v4(3).octets()),
                    Family::V6 => {
                        ask.truncate(14);
                        nd::append_solicit(&mut ask, v6(3), nd::solicited_node(v6(5)), v6(5), Some(mac(1)));
                    }
                }
                ask
            };
            f.emit(1, ask);
            assert_eq!(f.nodes[0].switch.counters().answered, 1);
            let mut owner = f.nodes[2].switch.bindings(f.now).filter(|b| b.ips.contains(&ip(family, 3)));
            assert!(owner.next().is_some_and(|b| b.key == station(1) && b.at == Place::Peer(PeerId(0))));
            drop(owner);
            f.emit(5, data(family, 5, 3, if mode == Mode::Rewrite { ENDPOINT } else { mac(1) }));
            assert!(f.crossed().iter().any(|(to, x)| *to == 0 && eth(x).dst == mac(1)));
        }
    }
}

#[test]
fn a_neighbour_that_left_unheard_is_asked_of_the_peers_at_the_second_request() {
    for mode in MODES {
        for family in FAMILIES {
            let mut f = Fabric::new(mode, THREE);
            assert!(f.send(family, 4, 3) && f.send(family, 3, 5));
            migrate_unheard(&mut f, 3, 0, 1, false);
            f.find(4).1.cache.clear();
            assert!(!f.send(family, 4, 3), "it is believed to be on the bridge");
            f.pass(1000);
            f.emit(4, request(family, 4, 3));
            assert!(f.find(4).1.waiting.is_empty(), "{mode:?} {family:?}");
            assert!(f.send(family, 4, 3), "{mode:?} {family:?}");
        }
    }
}

#[test]
fn forgotten_bindings_are_found_again() {
    for family in FAMILIES {
        let mut f = Fabric::new(Mode::Rewrite, THREE);
        assert!(f.send(family, 1, 3));
        f.pass(1_300_000);
        assert_eq!(f.nodes[0].switch.table_sizes(), (0, 0));
        assert!(f.send(family, 1, 3), "held, asked for, released");
        assert_eq!(f.nodes[0].switch.counters().released, 1);
    }
}

#[test]
fn probes_find_conflicts_everywhere_and_nothing_else() {
    for mode in MODES {
        for family in FAMILIES {
            let mut f = Fabric::new(mode, THREE);
            let answers = |f: &mut Fabric, target: u8| {
                f.emit(1, probe(family, 1, target));
                let node = &f.nodes[0].switch;
                node.counters().bridged + node.counters().answered
            };
            assert_eq!(answers(&mut f, 99), 0, "free");
            f.emit(3, gratuitous(family, 3));
            assert_eq!(answers(&mut f, 3), 2, "its announcement, and an answer");
            assert_eq!(answers(&mut f, 3), 3);
        }
    }
}

#[test]
fn a_second_way_between_two_bridges_does_not_circle() {
    // What node 1's bridge floods appears on node 0's bridge too, as if cabled.
    for mode in MODES {
        let mut sw = switch(mode);
        let mut passed = 0;
        for round in 0..100 {
            let f = gratuitous(Family::V4, 2);
            let (_, seen) = remote(&mut sw, &f, P1, at(round));
            passed += u32::from(local(&mut sw, &seen, at(round)).0 == Verdict::Flood);
        }
        assert!(passed <= 5, "{mode:?}: {passed}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Send(u8, u8),
    /// To a node; the hypervisor announces it by RARP, or the instance itself in one family.
    Migrate(u8, usize, bool),
    Pass(u64),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_before_every_datagram_arrives(
        rewrite: bool, v6: bool,
        acts in prop::collection::vec(
            prop_oneof![
                6 => (1..7u8, 1..7u8).prop_map(|(n, to)| Act::Send(n, to)),
                2 => (1..7u8, 0..3usize, any::<bool>()).prop_map(|(n, to, told)| Act::Migrate(n, to, told)),
                1 => prop::sample::select(vec![3_000, 400_000, 1_300_000]).prop_map(Act::Pass),
            ],
            1..60,
        ),
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut f = Fabric::new(if rewrite { Mode::Rewrite } else { Mode::Preserve }, THREE);
        for act in acts {
            match act {
                Act::Send(n, to) if n != to => prop_assert!(f.send(family, n, to), "{} to {}", n, to),
                Act::Send(..) => {}
                Act::Migrate(n, to, told) => {
                    // Not so often that it would count as flapping.
                    f.pass(3_000);
                    f.migrate(n, to, told);
                    if !told {
                        f.emit(n, gratuitous(family, n));
                    }
                }
                Act::Pass(ms) => f.pass(ms),
            }
        }
    }
}
