//! Nodes that announce what they learn to a controller, which decides by compare-and-set and passes it on. Claims
//! and withdrawals arrive late and in any order; what it passes on arrives late, and in order at each node.

use std::collections::BTreeMap;

use super::*;
use crate::ids::Generation;

/// What the controller has of a station.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Record {
    node: usize,
    ips: Vec<IpAddr>,
    generation: Generation,
}

/// From a node to the controller.
#[derive(Clone, Debug)]
enum Up {
    Claim { from: usize, key: BindingKey, ips: Vec<IpAddr>, seen: Generation },
    Withdraw { from: usize, key: BindingKey, generation: Generation },
}

/// From the controller to a node.
#[derive(Clone, Debug)]
enum Down {
    Bound(BindingKey, Record),
    Removed(BindingKey, Generation),
    Refused(BindingKey, Option<Record>),
}

#[derive(Default)]
struct Controller {
    records: BTreeMap<BindingKey, Record>,
    last: u64,
}

/// The fabric of [`Fabric`], with a shell at each node that announces what lives there.
struct Cluster {
    fabric: Fabric,
    controller: Controller,
    up: Vec<Up>,
    down: Vec<VecDeque<Down>>,
    /// What each node was told.
    told: Vec<BTreeMap<BindingKey, Record>>,
}

impl Cluster {
    fn new(mode: Mode, placed: &[&[u8]]) -> Cluster {
        let nodes = placed.len();
        Cluster {
            fabric: Fabric { announced: true, ..Fabric::new(mode, placed) },
            controller: Controller::default(),
            up: Vec::new(),
            down: vec![VecDeque::new(); nodes],
            told: vec![BTreeMap::new(); nodes],
        }
    }

    /// Instance `n` shows itself where it is.
    fn hello(&mut self, n: u8) {
        for family in FAMILIES {
            self.fabric.emit(n, gratuitous(family, n));
        }
        self.watch();
    }

    fn migrate(&mut self, n: u8, to: usize, told: bool) {
        self.fabric.migrate(n, to, told);
        self.watch();
    }

    fn send(&mut self, family: Family, n: u8, to: u8) -> bool {
        let arrived = self.fabric.send(family, n, to);
        self.watch();
        arrived
    }

    fn pass(&mut self, ms: u64) {
        self.fabric.pass(ms);
        self.watch();
    }

    /// Each shell looks at what its switch says has changed.
    fn watch(&mut self) {
        for node in 0..self.down.len() {
            while let Some(event) = self.fabric.nodes[node].switch.poll_event() {
                if let Event::LocalChanged { key } = event {
                    self.reconcile(node, key);
                }
            }
            assert!(!self.fabric.nodes[node].switch.take_local_overflow());
        }
    }

    /// Announces what the controller does not have as it is.
    fn reconcile(&mut self, from: usize, key: BindingKey) {
        let told = self.told[from].get(&key);
        match self.fabric.nodes[from].switch.local_station(key, self.fabric.now) {
            Some(station) => {
                let mut ips = station.ips;
                ips.sort_unstable();
                let seen = station.seen_generation;
                if told != Some(&Record { node: from, ips: ips.clone(), generation: seen }) {
                    self.up.push(Up::Claim { from, key, ips, seen });
                }
            }
            None => {
                if let Some(own) = told.filter(|r| r.node == from) {
                    self.up.push(Up::Withdraw { from, key, generation: own.generation });
                }
            }
        }
    }

    /// A message arrives at the controller, any of those under way.
    fn deliver_up(&mut self, which: usize) {
        if self.up.is_empty() {
            return;
        }
        let message = self.up.remove(which % self.up.len());
        let controller = &mut self.controller;
        match message {
            Up::Claim { from, key, ips, seen } => {
                let current = controller.records.get(&key);
                let same = current.is_some_and(|r| r.node == from && r.ips == ips);
                if same || current.is_some_and(|r| r.generation != seen) {
                    self.down[from].push_back(Down::Refused(key, current.cloned()));
                    return;
                }
                controller.last += 1;
                let record = Record { node: from, ips, generation: Generation(controller.last) };
                controller.records.insert(key, record.clone());
                self.down.iter_mut().for_each(|d| d.push_back(Down::Bound(key, record.clone())));
            }
            Up::Withdraw { from, key, generation } => {
                let current = controller.records.get(&key);
                if current.is_some_and(|r| (r.node, r.generation) == (from, generation)) {
                    controller.records.remove(&key);
                    self.down.iter_mut().for_each(|d| d.push_back(Down::Removed(key, generation)));
                } else {
                    self.down[from].push_back(Down::Refused(key, current.cloned()));
                }
            }
        }
    }

    /// The next message for a node arrives there.
    fn deliver_down(&mut self, node: usize) {
        let Some(message) = self.down[node].pop_front() else { return };
        match message {
            Down::Bound(key, record) | Down::Refused(key, Some(record)) => self.apply(node, key, record),
            Down::Refused(key, None) => drop(self.told[node].remove(&key)),
            Down::Removed(key, generation) => {
                let now = self.fabric.now;
                self.told[node].remove(&key);
                let _ = self.fabric.nodes[node].switch.remove_binding(key, generation, now);
                self.after(node, key);
            }
        }
    }

    fn apply(&mut self, node: usize, key: BindingKey, record: Record) {
        let at = if record.node == node { Place::Local } else { Place::Peer(PeerId(record.node as u32)) };
        let binding = Binding {
            tags: key.tags,
            mac: key.mac,
            ips: record.ips.clone(),
            at,
            generation: record.generation,
            source: Source::Learned,
            state: State::Active,
        };
        self.told[node].insert(key, record);
        let now = self.fabric.now;
        // Stale, if the answer to a claim was overtaken.
        let _ = self.fabric.nodes[node].switch.set_binding(binding, now);
        self.after(node, key);
    }

    fn after(&mut self, node: usize, key: BindingKey) {
        self.fabric.drain(node);
        self.fabric.run();
        self.reconcile(node, key);
        self.watch();
    }

    /// Everything under way arrives.
    fn settle(&mut self) {
        for _ in 0..200 {
            while !self.up.is_empty() {
                self.deliver_up(0);
            }
            for node in 0..self.down.len() {
                while !self.down[node].is_empty() {
                    self.deliver_down(node);
                }
            }
            if self.up.is_empty() {
                return;
            }
        }
        panic!("they never agree: {:?}", self.up);
    }

    /// Whether the controller and every switch have instance `n` where it is, with one generation.
    fn agree(&mut self, n: u8) -> Result<(), String> {
        let place = self.fabric.find(n).0;
        let record = self.controller.records.get(&station(n)).ok_or("the controller has none")?;
        if record.node != place {
            return Err(format!("on node {place}, the controller has {record:?}"));
        }
        for (i, node) in self.fabric.nodes.iter().enumerate() {
            let at = if i == place { Place::Local } else { Place::Peer(PeerId(place as u32)) };
            let b = node
                .switch
                .bindings(self.fabric.now)
                .find(|b| b.key == station(n))
                .ok_or("a node has none")?;
            if (b.at, b.generation, b.source) != (at, record.generation, Source::Announced)
                || b.ips.len() != 2
            {
                return Err(format!("on node {place} as {record:?}, node {i} has {b:?}"));
            }
        }
        Ok(())
    }

    /// After all is told and everybody has spoken, all know the truth, and no request crosses.
    fn check_the_end(&mut self, family: Family) -> Result<(), String> {
        self.settle();
        // Until nobody is held for flapping.
        self.pass(45_000);
        for n in 1..=6 {
            self.hello(n);
            self.settle();
        }
        for n in 1..=6 {
            self.agree(n)?;
        }
        self.fabric.crossed();
        for (n, to) in (1..=6).flat_map(|n| (1..=6).map(move |to| (n, to))).filter(|(n, to)| n != to) {
            if !self.send(family, n, to) {
                return Err(format!("{n} does not reach {to}"));
            }
        }
        match self.fabric.crossed().iter().find(|(_, x)| is_request(x)) {
            Some((to, _)) => Err(format!("a request went to node {to}")),
            None => Ok(()),
        }
    }
}

#[test]
fn with_bindings_announced_no_request_ever_crosses() {
    for mode in MODES {
        for family in FAMILIES {
            let mut c = Cluster::new(mode, THREE);
            // Heard of by nobody else.
            c.fabric.lost = (0..3).flat_map(|a| (0..3).map(move |b| (a, b))).collect();
            (1..=6).for_each(|n| c.hello(n));
            c.fabric.lost.clear();
            c.settle();
            for n in 1..=6 {
                c.agree(n).unwrap();
            }
            c.fabric.crossed();
            for (n, to) in [(1, 3), (3, 1), (5, 2), (6, 4), (4, 6)] {
                assert!(c.send(family, n, to));
            }
            assert!(!c.fabric.crossed().iter().any(|(_, x)| is_request(x)));
        }
    }
}

#[test]
fn of_two_hops_the_later_one_wins_in_whatever_order_their_claims_come() {
    for mode in MODES {
        for order in [[0, 0], [1, 0]] {
            for silent in [false, true] {
                let mut c = Cluster::new(mode, THREE);
                c.hello(1);
                c.settle();
                c.agree(1).unwrap();
                for to in [1, 2] {
                    c.pass(3_000);
                    if silent {
                        // The node that it leaves, and the third one, hear nothing of it.
                        c.fabric.lost = (0..3).filter(|n| *n != to).map(|n| (to, n)).collect();
                    }
                    c.migrate(1, to, true);
                    c.fabric.lost.clear();
                }
                assert!(c.up.len() >= 2, "{:?}", c.up);
                order.iter().for_each(|which| c.deliver_up(*which));
                c.settle();
                c.hello(1);
                c.settle();
                c.agree(1).unwrap_or_else(|e| panic!("{mode:?} {order:?} {silent}: {e}"));
            }
        }
    }
}

#[test]
fn a_claim_under_way_is_not_undone_by_the_binding_that_it_replaces() {
    let mut c = Cluster::new(Mode::Rewrite, THREE);
    c.hello(1);
    c.settle();
    let old = c.controller.records[&station(1)].clone();
    c.migrate(1, 2, true);
    // The snapshot of a new session, from before the claim.
    c.apply(2, station(1), old);
    let here = c.fabric.nodes[2].switch.local_station(station(1), c.fabric.now);
    assert_eq!(here.map(|s| s.seen_generation), Some(Generation(1)));
    c.settle();
    c.agree(1).unwrap();
}

#[test]
fn a_late_withdrawal_of_the_old_place_is_refused() {
    let mut c = Cluster::new(Mode::Rewrite, THREE);
    c.hello(1);
    c.settle();
    c.migrate(1, 1, true);
    // Both the new place's claim and the old one's withdrawal are under way.
    let claim = c.up.iter().position(|m| matches!(m, Up::Claim { from: 1, .. })).unwrap();
    assert!(c.up.iter().any(|m| matches!(m, Up::Withdraw { from: 0, .. })), "{:?}", c.up);
    c.deliver_up(claim);
    c.settle();
    c.agree(1).unwrap();
}

#[test]
fn what_falls_silent_is_withdrawn_everywhere() {
    let mut c = Cluster::new(Mode::Rewrite, THREE);
    (1..=6).for_each(|n| c.hello(n));
    c.settle();
    c.pass(1_300_000);
    c.settle();
    assert!(c.controller.records.is_empty());
    assert!(c.fabric.nodes.iter().all(|n| n.switch.table_sizes() == (0, 0)));
    c.check_the_end(Family::V4).unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Hop(u8, usize, bool),
    Hello(u8),
    Send(u8, u8),
    Up(usize),
    Down(usize),
    Pass(u64),
    /// From one node to another nothing arrives, until the next hop.
    Lose(usize, usize),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        // Mostly one instance.
        3 => (0..3usize, any::<bool>()).prop_map(|(to, told)| Act::Hop(1, to, told)),
        1 => (1..7u8, 0..3usize, any::<bool>()).prop_map(|(n, to, told)| Act::Hop(n, to, told)),
        2 => (1..7u8).prop_map(Act::Hello),
        2 => (1..7u8, 1..7u8).prop_map(|(n, to)| Act::Send(n, to)),
        8 => any::<usize>().prop_map(Act::Up),
        12 => (0..3usize).prop_map(Act::Down),
        1 => prop::sample::select(vec![1_000, 400_000, 1_300_000]).prop_map(Act::Pass),
        1 => (0..3usize, 0..3usize).prop_map(|(a, b)| Act::Lose(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn however_they_hop_and_whatever_comes_late_in_the_end_all_agree(
        rewrite: bool, v6: bool, acts in prop::collection::vec(acts(), 1..80),
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut c = Cluster::new(if rewrite { Mode::Rewrite } else { Mode::Preserve }, THREE);
        for act in acts {
            match act {
                Act::Hop(n, to, told) => {
                    c.fabric.lost.clear();
                    c.pass(1_000);
                    c.migrate(n, to, told);
                }
                Act::Hello(n) => c.hello(n),
                Act::Send(n, to) => {
                    if n != to {
                        c.send(family, n, to);
                    }
                }
                Act::Up(which) => c.deliver_up(which),
                Act::Down(node) => c.deliver_down(node),
                Act::Pass(ms) => c.pass(ms),
                Act::Lose(a, b) => c.fabric.lost.push((a, b)),
            }
        }
        c.fabric.lost.clear();
        prop_assert_eq!(c.check_the_end(family), Ok(()));
    }
}
