use super::*;
use crate::desired::LocalStation;
use switch_core::frame::Tags;
use switch_core::ids::Mac;

fn vni() -> Vni {
    Vni::new(100).unwrap()
}

fn key() -> BindingKey {
    BindingKey { tags: Tags::NONE, mac: Mac([2, 0, 0, 0, 0, 1]) }
}

fn station(seen: u64) -> StationReport {
    let ips = vec!["10.0.0.1".parse().unwrap()];
    let source = Source::Learned;
    let present = vec![LocalStation { key: key(), ips, seen_generation: Generation(seen), source }];
    StationReport { vni: vni(), full: false, present, gone: vec![] }
}

fn gone() -> StationReport {
    StationReport { vni: vni(), full: false, present: vec![], gone: vec![key()] }
}

/// A node whose controller has the network, and this binding of the station, if any: (node, generation).
struct Node {
    claims: Claims,
    mirror: Mirror,
}

impl Node {
    fn new() -> Node {
        let mut node = Node { claims: Claims::default(), mirror: Mirror::new("own".into()) };
        let network = wire::Network { vni: 100, name: "blue".into(), ..wire::Network::default() };
        node.take(wire::StateUpdate { networks: vec![network], ..wire::StateUpdate::default() });
        node
    }

    fn take(&mut self, update: wire::StateUpdate) {
        let update = self.mirror.take(update).unwrap().unwrap();
        self.claims.update(&update);
    }

    fn bind(&mut self, node: &str, generation: u64) {
        let binding = wire::Binding {
            key: Some(convert::key_to_wire(vni(), key())),
            ips: vec!["10.0.0.1".into()],
            node_id: node.into(),
            generation,
            source: wire::BindingSource::Learned.into(),
            state: wire::BindingState::Active.into(),
        };
        self.take(wire::StateUpdate { bindings: vec![binding], ..wire::StateUpdate::default() });
    }

    fn unbind(&mut self) {
        let removed_bindings = vec![convert::key_to_wire(vni(), key())];
        self.take(wire::StateUpdate { removed_bindings, ..wire::StateUpdate::default() });
    }

    fn refuse(&mut self) {
        self.refuse_by(None);
    }

    fn refuse_by(&mut self, generation: Option<u64>) {
        let current = generation.map(|generation| wire::Binding { generation, ..Default::default() });
        let key = Some(convert::key_to_wire(vni(), key()));
        let refusal = wire::BindingRefusal { key, current, ..Default::default() };
        self.claims.refused(&wire::BindingAnswer { refusals: vec![refusal] });
    }

    /// Generations of claims and of withdrawals.
    fn changes(&mut self) -> (Vec<u64>, Vec<u64>) {
        let report = self.claims.changes(&self.mirror).unwrap_or_default();
        let claims = report.claims.iter().map(|claim| claim.seen_generation).collect();
        (claims, report.withdrawals.iter().map(|w| w.generation).collect())
    }
}

#[test]
fn a_station_is_claimed_once_and_withdrawn_with_its_generation() {
    let mut node = Node::new();
    node.claims.stations(station(0));
    assert_eq!(node.changes(), (vec![0], vec![]));
    assert_eq!(node.changes(), (vec![], vec![]));
    node.bind("own", 5);
    node.claims.stations(station(0));
    assert_eq!(node.changes(), (vec![], vec![]));
    assert_eq!(node.claims.full(&node.mirror).claims[0].seen_generation, 5);
    node.claims.stations(gone());
    assert_eq!(node.changes(), (vec![], vec![5]));
}

#[test]
fn a_station_that_went_before_its_claim_was_accepted_is_withdrawn_then() {
    let mut node = Node::new();
    node.claims.stations(station(0));
    node.changes();
    node.claims.stations(gone());
    assert_eq!(node.changes(), (vec![], vec![]));
    node.bind("own", 5);
    assert_eq!(node.changes(), (vec![], vec![5]));
}

#[test]
fn a_refused_claim_waits_for_the_station_or_for_the_binding_that_refused_it() {
    let mut node = Node::new();
    node.bind("node-2", 7);
    node.claims.stations(station(3));
    assert_eq!(node.changes(), (vec![3], vec![]));
    node.refuse();
    node.claims.stations(station(3));
    assert_eq!((node.changes(), node.claims.refusals()), ((vec![], vec![]), 1));
    node.claims.stations(station(7));
    assert_eq!(node.changes(), (vec![7], vec![]));
    node.refuse();
    node.unbind();
    assert_eq!(node.changes(), (vec![7], vec![]));
}

#[test]
fn stored_stations_are_claimed_until_they_are_known_to_be_gone() {
    let mut node = Node::new();
    node.bind("own", 5);
    node.claims = Claims::default();
    node.claims.restore(&node.mirror);
    assert_eq!(node.claims.full(&node.mirror).claims.len(), 1);
    // The first full report of a switch that has seen nothing yet.
    node.claims.stations(StationReport { vni: vni(), full: true, present: vec![], gone: vec![] });
    assert_eq!(node.changes(), (vec![], vec![]));
    node.claims.expire();
    assert_eq!(node.changes(), (vec![], vec![5]));
    let mut node = Node::new();
    node.bind("own", 5);
    node.claims = Claims::default();
    node.claims.restore(&node.mirror);
    node.claims.stations(station(5));
    node.claims.expire();
    assert_eq!(node.changes(), (vec![], vec![]));
}

#[test]
fn a_restarted_switch_that_is_told_of_its_silent_stations_does_not_withdraw_them() {
    let restarted = || {
        let mut node = Node::new();
        node.bind("own", 5);
        node.claims = Claims::default();
        node.claims.restore(&node.mirror);
        node.claims.stations(gone());
        assert_eq!(node.changes(), (vec![], vec![]));
        node
    };
    let mut node = restarted();
    node.claims.expire();
    assert_eq!(node.changes(), (vec![], vec![5]));
    // Another node sees it in the meantime: its business from now on.
    let mut node = restarted();
    node.bind("node-2", 6);
    node.unbind();
    node.claims.expire();
    assert_eq!(node.changes(), (vec![], vec![]));
    assert!(node.claims.full(&node.mirror).claims.is_empty());
    // The controller lets go of it.
    let mut node = restarted();
    node.unbind();
    assert_eq!(node.changes(), (vec![], vec![]));
    assert!(node.claims.full(&node.mirror).claims.is_empty());
}

#[test]
fn a_station_that_changes_while_its_claim_is_under_way_is_claimed_anew_with_the_answer() {
    // The refusal of the second claim, made before the first was answered, may come before the binding, after it,
    // and after the third claim.
    for refused in 0..3 {
        let mut node = Node::new();
        node.claims.stations(station(0));
        assert_eq!(node.changes(), (vec![0], vec![]));
        let mut more = station(0);
        more.present[0].ips.push("10.0.0.2".parse().unwrap());
        node.claims.stations(more);
        assert_eq!(node.changes(), (vec![0], vec![]));
        if refused == 0 {
            node.refuse_by(Some(5));
        }
        node.bind("own", 5);
        if refused == 1 {
            node.refuse_by(Some(5));
        }
        assert_eq!(node.changes(), (vec![5], vec![]), "{refused}");
        if refused == 2 {
            node.refuse_by(Some(5));
        }
        assert_eq!(node.changes(), (vec![], vec![]));
    }
}

#[test]
fn stations_of_other_networks_are_nobodys_business() {
    let mut node = Node::new();
    node.claims.stations(station(0));
    node.take(wire::StateUpdate { removed_vnis: vec![100], ..wire::StateUpdate::default() });
    node.claims.stations(station(0));
    assert_eq!(node.changes(), (vec![], vec![]));
    assert!(node.claims.full(&node.mirror).claims.is_empty());
    let network = wire::Network { vni: 100, name: "blue".into(), ..wire::Network::default() };
    node.take(wire::StateUpdate { networks: vec![network], ..wire::StateUpdate::default() });
    assert_eq!(node.changes(), (vec![0], vec![]));
}
