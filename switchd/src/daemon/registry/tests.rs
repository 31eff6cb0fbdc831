use switch_core::frame::Tags;
use switch_core::ids::Mac;
use switch_core::switch::{Place, Source, State};

use super::*;
use crate::config::{AntiSpoof, Dhcp};
use crate::desired::{DesiredBinding, DesiredPeer, Revision};

const OWN: PublicKey = PublicKey([9; 32]);
const KEY_B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

#[test]
fn the_files_word_comes_out_at_once() {
    let text = format!(
        "{}[[network.binding]]\nmac = \"02:00:00:00:00:01\"\nnode = \"b\"\n[[network.binding]]\nmac = \"02:00:00:00:00:02\"\n\
         node = \"a\"\n",
        file()
    );
    let (registry, effects) = registry(&text);
    assert_eq!(show(&effects), ["peer 1 b [100]", "policy 100", "bind 100 :01 peer 1", "bind 100 :02 local"]);
    assert_eq!(registry.vnis(), [vni(100)]);
    assert!(registry.problems().is_empty());
}

#[test]
fn a_networks_policy_changes_live_and_the_rest_by_beginning_anew() {
    let (mut registry, _) = registry("");
    let blue = network(7, "blue");
    assert_eq!(step(&mut registry, vec![set(&blue)]), ["start 7"]);
    let place = Change::Binding(vni(7), key(1), binding(None, 1));
    assert_eq!(
        step(&mut registry, vec![set(&blue), place]),
        ["bind 7 :01 local"],
        "the same again is no change"
    );
    let strict = Network { anti_spoof: AntiSpoof::Strict, dhcp: Dhcp::LocalOnly, ..blue.clone() };
    assert_eq!(step(&mut registry, vec![set(&strict)]), ["policy 7"]);
    let jumbo = Network { mtu: 9000, ..strict };
    assert_eq!(step(&mut registry, vec![set(&jumbo)]), ["stop 7", "start 7", "bind 7 :01 local"]);
    assert_eq!(step(&mut registry, vec![Change::RemoveNetwork(vni(7))]), ["stop 7"]);
    assert_eq!(step(&mut registry, vec![Change::RemoveBinding(vni(7), key(1))]), [""; 0]);
}

#[test]
fn what_contradicts_the_file_is_a_problem_until_it_does_not() {
    let (mut registry, _) = registry(&file());
    let clash = |network: Network, registry: &mut Registry, says: &str| {
        let vni = network.vni;
        assert_eq!(step(registry, vec![set(&network)]), [""; 0]);
        let problems = registry.problems();
        assert!(problems.len() == 1 && problems[0].contains(says), "{problems:?}");
        step(registry, vec![Change::RemoveNetwork(vni)]);
        assert!(registry.problems().is_empty());
    };
    clash(
        network(100, "red"),
        &mut registry,
        "VNI 100 is that of network \"blue\" of the configuration file",
    );
    clash(network(7, "blue"), &mut registry, "the name \"blue\"");
    clash(Network { bridge: "br-blue".into(), ..network(7, "red") }, &mut registry, "the interface br-blue");
    clash(Network { endpoint: "sw100".into(), ..network(7, "red") }, &mut registry, "the interface sw100");
    clash(Network { mtu: 1, ..network(7, "red") }, &mut registry, "mtu: 1 is out of range");

    // The rest of the update is applied, and what stood in the way may go.
    let (first, second) = (network(7, "red"), Network { bridge: "swbr7".into(), ..network(8, "green") });
    assert_eq!(
        step(&mut registry, vec![set(&first), set(&second), set(&network(9, "grey"))]),
        ["start 7", "start 9"]
    );
    assert!(
        registry.problems()[0].contains("network \"red\" of the controller"),
        "{:?}",
        registry.problems()
    );
    assert_eq!(step(&mut registry, vec![Change::RemoveNetwork(vni(7))]), ["stop 7", "start 8"]);
    assert!(registry.problems().is_empty());
}

#[test]
fn a_node_is_the_same_peer_with_another_key_or_address() {
    let (mut registry, _) = registry("");
    assert_eq!(step(&mut registry, vec![node("node-1", 1, &[7])]), ["peer 1 node-1 [7]"]);
    assert_eq!(step(&mut registry, vec![node("node-1", 1, &[7])]), [""; 0]);
    assert_eq!(step(&mut registry, vec![node("node-1", 2, &[7, 8])]), ["peer 1 node-1 [7, 8]"]);
    assert_eq!(step(&mut registry, vec![Change::RemovePeer("node-1".into())]), ["no peer 1"]);
    assert_eq!(step(&mut registry, vec![node("node-1", 2, &[])]), ["peer 2 node-1 []"], "ids do not return");
}

#[test]
fn a_node_of_the_file_stays_and_keeps_the_files_networks_to_the_file() {
    let (mut registry, _) = registry(&file());
    assert_eq!(step(&mut registry, vec![node("node-1", 2, &[7, 100])]), ["peer 1 b [100, 7]"]);
    assert!(registry.problems()[0].contains("peer \"b\" is in the configuration file too"));
    let rows = registry.peer_rows();
    assert_eq!((rows.len(), rows[0].from, rows[0].node_id.as_deref()), (1, Origin::File, Some("node-1")));
    let bound = vec![set(&network(7, "red")), Change::Binding(vni(7), key(1), binding(Some("node-1"), 1))];
    assert_eq!(step(&mut registry, bound), ["start 7", "bind 7 :01 peer 1"]);

    // The file lets go of it: the controller's word stands alone.
    let without = config(&file().replace(KEY_B, "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="));
    let effects = show(&registry.set_config(Arc::new(without)));
    let wanted = ["no peer 1", "peer 2 b [100]", "peer 3 node-1 [7]", "bind 7 :01 peer 3", "policy 100"];
    assert_eq!(effects, wanted);
    assert_eq!(
        step(&mut registry, vec![Change::RemovePeer("node-1".into())]),
        ["unbind 7 :01 1", "no peer 3"]
    );
    assert!(registry.problems().is_empty());
}

#[test]
fn copies_of_a_key_are_refused() {
    let (mut registry, _) = registry("");
    assert_eq!(
        step(&mut registry, vec![node("node-1", 9, &[]), node("node-2", 1, &[])]),
        ["peer 1 node-2 []"]
    );
    assert_eq!(step(&mut registry, vec![node("node-3", 1, &[])]), [""; 0]);
    let problems = registry.problems();
    assert!(problems[0].contains("has this node's own key"), "{problems:?}");
    assert!(problems[1].contains("nodes node-2 and node-3 (node-3) have the same key"), "{problems:?}");
    assert_eq!(
        step(&mut registry, vec![Change::RemovePeer("node-2".into())]),
        ["no peer 1", "peer 2 node-3 []"]
    );
}

#[test]
fn bindings_wait_for_their_node_and_their_network() {
    let (mut registry, _) = registry("");
    let early = Change::Binding(vni(7), key(1), binding(Some("node-1"), 1));
    assert_eq!(step(&mut registry, vec![early]), [""; 0]);
    assert_eq!(step(&mut registry, vec![set(&network(7, "red"))]), ["start 7"]);
    assert_eq!(
        step(&mut registry, vec![node("node-1", 1, &[7])]),
        ["peer 1 node-1 [7]", "bind 7 :01 peer 1"]
    );
    assert_eq!(
        step(&mut registry, vec![Change::RemovePeer("node-1".into())]),
        ["unbind 7 :01 1", "no peer 1"]
    );
    let elsewhere = Change::Binding(vni(7), key(1), binding(None, 2));
    assert_eq!(step(&mut registry, vec![elsewhere]), ["bind 7 :01 local"]);
    assert_eq!(step(&mut registry, vec![node("node-1", 1, &[7])]), ["peer 2 node-1 [7]"], "it waits no more");
}

#[test]
fn a_binding_moves_and_goes_with_its_generation() {
    let (mut registry, _) = registry("");
    step(&mut registry, vec![set(&network(7, "red")), node("node-1", 1, &[7])]);
    let at = |node, generation| vec![Change::Binding(vni(7), key(1), binding(node, generation))];
    assert_eq!(step(&mut registry, at(None, 3)), ["bind 7 :01 local"]);
    assert_eq!(step(&mut registry, at(Some("node-1"), 4)), ["bind 7 :01 peer 1"]);
    // Nobody knows that node: what was believed before is wrong in any case.
    assert_eq!(step(&mut registry, at(Some("node-2"), 5)), ["unbind 7 :01 4"]);
    assert_eq!(step(&mut registry, at(None, 6)), ["bind 7 :01 local"]);
    assert_eq!(
        step(&mut registry, at(None, 2)),
        ["unbind 7 :01 6", "bind 7 :01 local"],
        "a restored controller"
    );
    assert_eq!(step(&mut registry, vec![Change::RemoveBinding(vni(7), key(1))]), ["unbind 7 :01 2"]);
}

#[test]
fn a_reset_does_what_differs_and_no_more() {
    let (mut registry, _) = registry("");
    let one = Change::Binding(vni(7), key(1), binding(Some("node-1"), 1));
    let two = Change::Binding(vni(7), key(2), binding(None, 1));
    let red = set(&network(7, "red"));
    step(
        &mut registry,
        vec![red.clone(), set(&network(8, "green")), node("node-1", 1, &[7]), one.clone(), two],
    );
    let reset = |changes| Update { reset: true, changes, revision: Revision::default() };
    let changes = vec![red, node("node-1", 1, &[7]), node("node-2", 2, &[]), one];
    assert_eq!(apply(&mut registry, reset(changes)), ["peer 2 node-2 []", "stop 8", "unbind 7 :02 1"]);
    // What takes the place of something unnamed gets it in the end.
    let heir = Network { bridge: "swbr7".into(), ..network(9, "red") };
    let effects = apply(&mut registry, reset(vec![set(&heir), node("node-3", 1, &[9])]));
    assert_eq!(effects, ["stop 7", "no peer 1", "no peer 2", "start 9", "peer 3 node-3 [9]"]);
    assert!(registry.problems().is_empty());
    let effects = apply(&mut registry, reset(Vec::new()));
    assert_eq!(effects, ["stop 9", "no peer 3"]);
    assert!(registry.vnis().is_empty() && registry.peer_rows().is_empty());
}

fn file() -> String {
    format!(
        "[node]\nname = \"a\"\n[[peer]]\nname = \"b\"\npublic_key = \"{KEY_B}\"\n[[network]]\nname = \"blue\"\n\
         vni = 100\nbridge = \"br-blue\"\n"
    )
}

fn config(text: &str) -> Config {
    Config::parse(text, "t").unwrap_or_else(|e| panic!("{e}"))
}

fn registry(text: &str) -> (Registry, Vec<Effect>) {
    Registry::new(OWN, Arc::new(config(text)))
}

fn step(registry: &mut Registry, changes: Vec<Change>) -> Vec<String> {
    apply(registry, Update { changes, ..Update::default() })
}

/// In steps of two, as they must not matter.
fn apply(registry: &mut Registry, update: Update) -> Vec<String> {
    registry.begin(update);
    let mut effects = Vec::new();
    while registry.is_busy() {
        effects.extend(registry.step(2));
    }
    show(&effects)
}

fn network(n: u32, name: &str) -> Network {
    Network::with_defaults(name.into(), vni(n))
}

fn set(network: &Network) -> Change {
    Change::Network(Box::new(network.clone()))
}

fn node(id: &str, key: u8, vnis: &[u32]) -> Change {
    let vnis = vnis.iter().map(|n| vni(*n)).collect();
    let peer = DesiredPeer { name: id.into(), public_key: PublicKey([key; 32]), addresses: Vec::new(), vnis };
    Change::Peer(id.into(), peer)
}

fn binding(node: Option<&str>, generation: u64) -> DesiredBinding {
    DesiredBinding {
        ips: Vec::new(),
        node: node.map(str::to_owned),
        generation: Generation(generation),
        source: Source::Controller,
        state: State::Active,
    }
}

fn key(n: u8) -> BindingKey {
    BindingKey { tags: Tags::NONE, mac: Mac([2, 0, 0, 0, 0, n]) }
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

/// One line an effect.
fn show(effects: &[Effect]) -> Vec<String> {
    let end = |mac: Mac| format!(":{:02x}", mac.0[5]);
    let line = |effect: &Effect| match effect {
        Effect::StartNetwork(network) => format!("start {}", network.vni),
        Effect::StopNetwork(vni) => format!("stop {vni}"),
        Effect::SetPolicy(vni, ..) => format!("policy {vni}"),
        Effect::SetPeer(peer, vnis) => {
            let vnis: Vec<u32> = vnis.iter().map(|vni| vni.get()).collect();
            format!("peer {} {} {vnis:?}", peer.id.0, peer.name)
        }
        Effect::RemovePeer(id) => format!("no peer {}", id.0),
        Effect::Bind(BindingChange::Set(vni, binding)) => {
            let at = match binding.at {
                Place::Local => "local".to_owned(),
                Place::Peer(id) => format!("peer {}", id.0),
            };
            format!("bind {vni} {} {at}", end(binding.mac))
        }
        Effect::Bind(BindingChange::Remove(vni, key, generation)) => {
            format!("unbind {vni} {} {}", end(key.mac), generation.0)
        }
    };
    effects.iter().map(line).collect()
}
