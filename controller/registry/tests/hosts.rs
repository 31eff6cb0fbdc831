//! Networks of the nodes themselves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, also outside of the test functions")]

mod world;

use std::net::IpAddr;

use controller_registry::*;
use world::{SECOND, World, key, station};

fn mgmt(v4: &str) -> NewNetwork {
    NewNetwork {
        name: "mgmt".into(),
        vni: Some(Vni(90)),
        host: true,
        subnet_v4: Some(v4.parse().unwrap()),
        subnet_v6: Some("fd00:80::/64".parse().unwrap()),
        ..NewNetwork::default()
    }
}

fn with_mgmt(nodes: usize, v4: &str) -> (World, Vec<NodeId>) {
    let (mut world, nodes) = World::with_nodes(nodes);
    world.command(Command::CreateNetwork(mgmt(v4))).unwrap();
    (world, nodes)
}

fn addresses(world: &World, node: NodeId) -> Vec<String> {
    world.registry.host_addresses(node).map(|ip| ip.to_string()).collect()
}

fn remove(world: &mut World, node: NodeId) {
    let node = node.to_string();
    world.command(Command::RemoveComputeNode { node, force: false, now: true }).unwrap();
}

#[test]
fn every_node_has_an_address_of_its_own_which_goes_with_it() {
    let (mut world, nodes) = with_mgmt(2, "100.80.0.0/24");
    assert_eq!(addresses(&world, nodes[0]), ["100.80.0.1", "fd00:80::1"]);
    assert_eq!(addresses(&world, nodes[1]), ["100.80.0.2", "fd00:80::2"]);
    let third = world.add_node();
    let station = world.registry.host_station(third, Vni(90)).unwrap();
    let expected: [(IpAddr, u8); 2] =
        [("100.80.0.3".parse().unwrap(), 24), ("fd00:80::3".parse().unwrap(), 64)];
    assert_eq!(station.addresses, expected);
    assert_eq!(world.registry.snapshot_for(third).hosts[&Vni(90)], station);
    assert!(world.registry.host_station(third, Vni(100)).is_none(), "the instances' network has none");

    world.sync_switch(third);
    remove(&mut world, nodes[0]);
    world.sync_switch(third);
    assert!(world.views[&third].bindings.iter().all(|b| b.node != nodes[0]));
    assert!(addresses(&world, nodes[0]).is_empty());
    let fourth = world.add_node();
    assert_eq!(addresses(&world, fourth), ["100.80.0.1", "fd00:80::1"], "the lowest free one");
    assert_eq!(addresses(&world, nodes[1]), ["100.80.0.2", "fd00:80::2"]);
    let macs: std::collections::BTreeSet<Mac> =
        [nodes[1], third, fourth].map(|n| world.registry.host_station(n, Vni(90)).unwrap().mac).into();
    assert_eq!(macs.len(), 3);

    world.crash();
    assert_eq!(addresses(&world, third), ["100.80.0.3", "fd00:80::3"], "as before a restart");
    world.command(Command::DeleteNetwork { network: "mgmt".into() }).unwrap();
    assert!(addresses(&world, third).is_empty());
    assert_eq!(world.registry.bindings_of(Vni(90)).count(), 0);
}

#[test]
fn a_node_without_an_address_takes_the_next_that_is_free() {
    let (mut world, nodes) = with_mgmt(2, "100.80.0.0/30");
    let third = world.add_node();
    assert!(addresses(&world, third).is_empty());
    let told = |e: &&Event| e.kind == EventKind::Warning && e.message.contains("used up");
    assert_eq!(world.events.iter().filter(told).count(), 1);
    world.sync_switch(third);
    assert!(world.views[&third].hosts.is_empty() && world.views[&third].networks.len() == 2);
    remove(&mut world, nodes[0]);
    world.sync_switch(third);
    assert_eq!(addresses(&world, third), ["100.80.0.1", "fd00:80::1"]);
    assert!(world.views[&third].hosts.contains_key(&Vni(90)));
}

#[test]
fn nobody_else_gets_in() {
    let (mut world, nodes) = with_mgmt(2, "100.80.0.0/24");
    let instance = |networks: &[&str]| {
        let networks = networks.iter().map(|n| (*n).to_owned()).collect();
        Command::Allocate(NewInstance { instance_type: "small".into(), networks, ..NewInstance::default() })
    };
    for networks in [&["mgmt"][..], &["default", "90"]] {
        let refusal = world.command(instance(networks)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Invalid { field: "networks" });
        assert!(refusal.message.contains("for the nodes themselves"), "{refusal}");
    }
    // The only other network is meant without being named.
    world.command(instance(&[])).unwrap();

    let own = world.registry.bindings_of(Vni(90)).next().unwrap().clone();
    let set = |key: &BindingKey| Command::SetBinding {
        key: key.clone(),
        ips: Vec::new(),
        node: nodes[1].to_string(),
        state: BindingState::Active,
        expected: None,
    };
    let by_hand = [
        set(&own.key),
        set(&station(90, 1)),
        Command::RemoveBinding { key: own.key.clone(), expected: None },
    ];
    for command in by_hand {
        let refusal = world.command(command).unwrap_err();
        assert!(refusal.message.contains("come and go with them"), "{refusal}");
    }
    let mut claim = |node: NodeId, key: &BindingKey| {
        let session = world.registry.switch_session(node).unwrap().session;
        let claim = BindingClaim { key: key.clone(), ips: Vec::new(), seen_generation: Generation(0) };
        let input =
            SwitchInput::Bindings { session, full: true, claims: vec![claim], withdrawals: Vec::new() };
        match world.input(Input::Switch(node, input)) {
            Ok(Outcome::Claims(refusals)) => refusals.first().map(|r| r.reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(claim(nodes[0], &own.key), None, "its own");
    assert_eq!(claim(nodes[1], &own.key), Some(ClaimRefusalReason::BoundElsewhere));
    assert_eq!(claim(nodes[1], &station(90, 1)), Some(ClaimRefusalReason::Address));
    assert_eq!(world.registry.bindings_of(Vni(90)).count(), 2);
}

#[test]
fn what_such_a_network_cannot_be_is_refused() {
    let (mut world, nodes) = World::with_nodes(3);
    let good = || mgmt("100.80.0.0/24");
    let table = [
        (NewNetwork { subnet_v4: None, subnet_v6: None, ..good() }, "name a subnet"),
        (NewNetwork { gateways: vec!["100.80.0.1".parse().unwrap()], ..good() }, "has none"),
        (NewNetwork { nodes: Some(vec![nodes[0].to_string()]), ..good() }, "every node"),
        (mgmt("100.80.0.0/30"), "fewer addresses than the cluster's 3 nodes"),
    ];
    for (new, words) in table {
        let refusal = world.command(Command::CreateNetwork(new)).unwrap_err();
        assert!(refusal.message.contains(words), "{refusal}");
    }
    world.command(Command::CreateNetwork(good())).unwrap();
    let update = |update| Command::UpdateNetwork { network: "mgmt".into(), update };
    let few = Some(Some(vec![nodes[0].to_string()]));
    assert!(world.command(update(NetworkUpdate { nodes: few, ..NetworkUpdate::default() })).is_err());
    world.command(update(NetworkUpdate { mtu: Some(1400), ..NetworkUpdate::default() })).unwrap();

    let kept = Settings { kept_network: Some(Vni(90)), ..Settings::default() };
    world.registry = std::mem::take(&mut world.registry).with_settings(kept);
    let refusal = world.command(Command::DeleteNetwork { network: "mgmt".into() }).unwrap_err();
    assert!(refusal.message.contains("mgmt.enabled"), "{refusal}");
}

#[test]
fn what_carries_such_a_network_does_not_go_by_it() {
    let (mut world, nodes) = with_mgmt(2, "100.80.0.0/24");
    let session = world.registry.switch_session(nodes[0]).unwrap().session;
    let texts = ["192.0.2.1:4840", "100.80.0.1:4840", "[::ffff:100.80.0.9]:4840", "[fd00:80::1]:4840"];
    let addresses = texts.map(|text| text.parse().unwrap()).to_vec();
    world.input(Input::Switch(nodes[0], SwitchInput::Addresses { session, addresses })).unwrap();
    assert_eq!(world.registry.nodes()[&nodes[0]].addresses, ["192.0.2.1:4840".parse().unwrap()]);
}

#[test]
fn a_machine_that_is_made_anew_keeps_its_station() {
    let (mut world, _) = with_mgmt(1, "100.80.0.0/24");
    let mut secret = || {
        let secret_hash = world.secret();
        (secret_hash, NewNode { provider: "cloud".into(), secret_hash, ttl_ms: SECOND, ..NewNode::default() })
    };
    let (secret_hash, new) = secret();
    let Outcome::NodeAdded { node, .. } = world.command(Command::AddComputeNode(new)).unwrap() else {
        panic!("not a node");
    };
    assert!(addresses(&world, node).is_empty(), "it has not come yet");
    let enrol = |secret_hash, n| Input::Enrol { secret_hash, public_key: key(n), name_hint: String::new() };
    world.input(enrol(secret_hash, 70)).unwrap();
    let before = addresses(&world, node);
    let secret_hash = world.secret();
    let renew = Command::RenewToken { node: node.to_string(), secret_hash, ttl_ms: SECOND };
    world.command(renew).unwrap();
    world.input(enrol(secret_hash, 71)).unwrap();
    assert_eq!((before.len(), addresses(&world, node)), (2, before));
}
