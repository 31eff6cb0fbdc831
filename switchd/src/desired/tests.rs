use switch_core::frame::Tags;
use switch_core::ids::Mac;

use super::*;
use crate::config::Config;

fn network(vni: u32, mtu: u16) -> Network {
    let text = format!("[[network]]\nname = \"n{vni}\"\nvni = {vni}\nbridge = \"br{vni}\"\nmtu = {mtu}\n");
    Config::parse(&text, "test").unwrap().networks.remove(0)
}

fn peer(name: &str) -> DesiredPeer {
    let public_key = PublicKey([name.len() as u8; 32]);
    DesiredPeer { name: name.into(), public_key, addresses: Vec::new(), vnis: vec![vni(1)] }
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

fn key(n: u8) -> BindingKey {
    BindingKey { tags: Tags::NONE, mac: Mac([2, 0, 0, 0, 0, n]) }
}

fn binding(generation: u64) -> DesiredBinding {
    DesiredBinding {
        ips: vec!["10.0.0.1".parse().unwrap()],
        node: None,
        generation: Generation(generation),
        source: Source::Controller,
        state: State::Active,
    }
}

fn state(networks: &[(u32, u16)], peers: &[&str], bindings: &[(u8, u64)]) -> Desired {
    Desired {
        networks: networks.iter().map(|(n, mtu)| (vni(*n), network(*n, *mtu))).collect(),
        peers: peers.iter().map(|name| (format!("node-{name}"), peer(name))).collect(),
        bindings: bindings.iter().map(|(n, g)| ((vni(1), key(*n)), binding(*g))).collect(),
    }
}

fn update(reset: bool, changes: Vec<Change>) -> Update {
    Update { reset, changes, ..Update::default() }
}

#[test]
fn a_difference_names_what_differs_and_leads_there() {
    let old = state(&[(1, 1500), (2, 1500)], &["a", "bb"], &[(1, 1), (2, 1), (3, 1)]);
    let new = state(&[(1, 1500), (2, 9000), (3, 1500)], &["a", "ccc"], &[(1, 1), (2, 5), (4, 1)]);
    let changes = old.difference(&new);
    assert_eq!(changes.len(), 2 + 2 + 3, "{changes:?}");
    assert!(changes.contains(&Change::RemovePeer("node-bb".into())));
    assert!(changes.contains(&Change::RemoveBinding(vni(1), key(3))));
    assert!(changes.contains(&Change::Binding(vni(1), key(2), binding(5))));
    let mut there = old.clone();
    there.apply(update(false, changes));
    assert_eq!(there, new);
    assert!(new.difference(&new).is_empty());
}

#[test]
fn a_reset_removes_what_it_does_not_name() {
    let mut now = state(&[(1, 1500)], &["a"], &[(1, 1)]);
    let new = state(&[(2, 1500)], &["bb"], &[]);
    now.apply(update(true, new.clone().into_changes()));
    assert_eq!(now, new);
    now.apply(update(true, Vec::new()));
    assert_eq!(now, Desired::default());
}

#[test]
fn the_last_change_of_a_key_counts() {
    let mut now = Desired::default();
    let set = |g| Change::Binding(vni(1), key(1), binding(g));
    now.apply(update(false, vec![set(1), Change::RemoveBinding(vni(1), key(1)), set(2)]));
    assert_eq!(now.bindings[&(vni(1), key(1))], binding(2));
}
