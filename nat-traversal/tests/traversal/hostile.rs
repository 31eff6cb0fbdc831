//! Peers and strangers that mean no good.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use nat_traversal::{
    CandidateKind, Route, Signal, SignalCandidate, SignalError, Slot, StunRouter, Traversal, TraversalConfig,
    TraversalTiming,
};
use proptest::prelude::*;

use crate::net::{Filter, ms};
use crate::world::{STRANGER, Site, World};

const PORT: Site = Site::Behind(Filter::Port);

/// A world in which all that arrived was recorded.
fn recorded() -> (World, Vec<(usize, Route, Vec<u8>)>) {
    let mut world = World::new(PORT, PORT);
    world.record = Some(Vec::new());
    world.begin();
    assert!(world.run(ms(500), |world| world.hops() == Some(0)));
    let record = world.record.take().unwrap();
    // What was under way has arrived.
    world.run_for(ms(50));
    (world, record.into_iter().filter(|(_, _, payload)| payload[0] < 4).collect())
}

fn stranger(n: u16) -> Route {
    Route::Direct(SocketAddr::new(STRANGER, 1000 + n))
}

#[test]
fn replayed_checks_from_elsewhere_have_no_effect() {
    let (mut world, record) = recorded();
    for round in 0..50 {
        for (n, (host, _, payload)) in record.iter().enumerate() {
            world.inject(*host, stranger(round * 100 + n as u16), payload);
        }
    }
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.strangers, 0);
    assert_eq!(world.hops(), Some(0));
    assert!(world.nodes.iter().all(|node| node.paths.len() <= 5));
}

#[test]
fn checks_that_never_arrived_and_come_from_elsewhere_cause_little_work() {
    // On the way: it holds back the real ones and sends them from many addresses.
    let mut world = World::new(Site::Open, Site::Open);
    world.record = Some(Vec::new());
    world.begin();
    world.run(ms(60), |_| false);
    world.swallow = true;
    world.run_for(Duration::from_secs(8));
    let record = world.record.take().unwrap();
    let checks: Vec<_> =
        record.into_iter().filter(|(host, _, payload)| *host == 0 && payload.starts_with(&[0, 1])).collect();
    assert!(checks.len() > 30, "{}", checks.len());
    for (n, (host, _, payload)) in checks.into_iter().enumerate() {
        world.inject(host, stranger(n as u16), &payload);
    }
    // At most 16 addresses are looked into, each with a few checks.
    world.run_for(Duration::from_secs(60));
    assert!((1..500).contains(&world.strangers), "{}", world.strangers);
}

#[test]
fn answers_count_only_from_where_they_are_awaited_and_once() {
    let mut world = World::new(PORT, PORT);
    world.record = Some(Vec::new());
    world.net.cut = true;
    world.begin();
    assert!(world.run(ms(500), |world| world.hops() == Some(1)));
    let answers = world.record.take().unwrap().into_iter().filter(|(_, _, payload)| payload[0] == 1);
    let before: Vec<BTreeSet<Route>> =
        world.nodes.iter().map(|node| node.paths.keys().copied().collect()).collect();
    for (n, (host, _, payload)) in answers.enumerate() {
        world.inject(host, stranger(n as u16), &payload);
    }
    let after: Vec<BTreeSet<Route>> =
        world.nodes.iter().map(|node| node.paths.keys().copied().collect()).collect();
    assert_eq!(before, after);
}

#[test]
fn changed_messages_are_refused() {
    let (mut world, record) = recorded();
    let now = world.instant();
    for (host, route, payload) in &record {
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 0x10;
            let node = &mut world.nodes[*host];
            // What follows the integrity is the fingerprint, which is not needed, and what was answered is over.
            let fingerprint = at >= payload.len() - 8;
            let taken = node.traversal.handle_stun(*route, route.remote(), &changed, now);
            assert!(!taken || fingerprint, "byte {at} of {payload:02x?}");
        }
    }
}

#[test]
fn a_peer_that_floods_signals_is_held_back() {
    let (mut world, _) = recorded();
    world.run_for(Duration::from_secs(10));
    let signals = world.nodes[0].signals;
    let checks = world.nodes[0].checks;
    let mut signal = world.nodes[1].last_signal.clone().unwrap();
    let mut refused = 0;
    for n in 0..10_000u64 {
        signal.sequence += 1;
        signal.check += 1;
        signal.answer = true;
        let address = SocketAddr::new("203.0.113.99".parse().unwrap(), 1000 + n as u16 % 5000);
        signal.candidates = vec![SignalCandidate { kind: CandidateKind::Host, address }];
        let now = world.instant();
        let taken = world.nodes[0].traversal.handle_signal(&signal, now);
        refused += usize::from(taken == Err(SignalError::TooMany));
        world.run_for(ms(1));
    }
    assert!(refused > 9_900, "{refused}");
    assert!(world.nodes[0].signals - signals < 100, "{}", world.nodes[0].signals - signals);
    assert!(world.nodes[0].checks - checks < 1_200, "{}", world.nodes[0].checks - checks);
}

#[test]
fn a_peer_that_starts_anew_all_the_time_costs_little() {
    let (mut world, _) = recorded();
    let checks = world.nodes[0].checks;
    let mut signal = world.nodes[1].last_signal.clone().unwrap();
    for n in 0..5_000u64 {
        signal.generation += 1;
        signal.ufrag = format!("new{n}");
        world.signal(0, &signal);
        world.run_for(ms(2));
    }
    assert!(world.nodes[0].checks - checks < 1_200, "{}", world.nodes[0].checks - checks);
    assert!(world.nodes[0].gone.len() < 100);
}

#[test]
fn signals_out_of_bounds_are_refused() {
    let (mut world, _) = recorded();
    let good = world.nodes[1].last_signal.clone().unwrap();
    let now = world.instant();
    let mut refuse = |change: &dyn Fn(&mut Signal), error: SignalError| {
        let mut bad = good.clone();
        bad.sequence += 1;
        change(&mut bad);
        assert_eq!(world.nodes[0].traversal.handle_signal(&bad, now), Err(error));
    };
    refuse(&|signal| signal.version = 2, SignalError::Version(2));
    refuse(&|signal| signal.version = 0, SignalError::Version(0));
    refuse(&|signal| signal.ufrag = "ufrag0".into(), SignalError::Own);
    refuse(&|signal| signal.ufrag = "x".repeat(61), SignalError::Malformed("ufrag"));
    refuse(&|signal| signal.ufrag = "with:colon".into(), SignalError::Malformed("ufrag"));
    refuse(&|signal| signal.password = "short".into(), SignalError::Malformed("password"));
    let many = vec![good.candidates[0]; 33];
    refuse(&|signal| signal.candidates = many.clone(), SignalError::Malformed("number of candidates"));
}

#[test]
fn candidates_that_are_no_places_to_send_to_get_no_checks() {
    let (mut world, _) = recorded();
    let mut signal = world.nodes[1].last_signal.clone().unwrap();
    signal.sequence += 1;
    let bad =
        ["127.0.0.1:53", "0.0.0.0:1", "255.255.255.255:9", "224.0.0.1:5353", "203.0.113.50:0", "[fe80::1]:1"];
    let candidates =
        bad.map(|address| SignalCandidate { kind: CandidateKind::Host, address: address.parse().unwrap() });
    signal.candidates = candidates.to_vec();
    let now = world.instant();
    world.nodes[0].traversal.handle_signal(&signal, now).unwrap();
    while let Some(transmit) = world.nodes[0].traversal.poll_transmit() {
        assert!(!bad.contains(&&*transmit.route.remote().to_string()));
    }
    world.run_for(Duration::from_secs(2));
    let tried = world.nodes[0].traversal.report(world.instant()).pairs;
    assert!(!tried.iter().any(|pair| bad.contains(&&*pair.route.remote().to_string())), "{tried:?}");
}

proptest! {
    #[test]
    fn garbage_is_nobodys(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), class in 0..4u8) {
        let now = std::time::Instant::now();
        let config = TraversalConfig {
            controlling: true,
            ufrag: "mine".into(),
            password: "a password that is long".replace(' ', ""),
            generation: 1,
            seed: 1,
            timing: TraversalTiming::default(),
        };
        let mut traversal = Traversal::new(config, now);
        let mut router = StunRouter::default();
        router.insert("mine", Slot(1));
        if bytes.len() >= 40 {
            let length = ((bytes.len() - 20) / 4 * 4) as u16;
            bytes.truncate(20 + usize::from(length));
            bytes[..8].copy_from_slice(&[class & 1, 1 + 16 * (class >> 1), 0, 0, 0x21, 0x12, 0xa4, 0x42]);
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[20..36].copy_from_slice(b"\0\x06\0\x09mine:them\0\0\0");
        }
        let route = Route::Direct("192.0.2.7:7".parse().unwrap());
        prop_assert!(!traversal.handle_stun(route, "0.0.0.0:0".parse().unwrap(), &bytes, now));
        router.route(&bytes);
    }
}
