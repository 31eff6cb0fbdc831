//! What changes while a link lasts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nat_traversal::{CandidateKind, PathNews, RelayId, Route, TraversalState};

use crate::net::{Filter, Host, Nat, ms};
use crate::world::{Site, World, hops};

const PORT: Site = Site::Behind(Filter::Port);
const SYMMETRIC: Site = Site::Behind(Filter::Symmetric);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn connect(a: Site, b: Site, hops: usize) -> World {
    let mut world = World::new(a, b);
    world.begin();
    assert!(world.run(ms(500), |world| world.hops() == Some(hops)), "{a:?} / {b:?}: {:?}", world.kinds());
    world
}

#[test]
fn a_cut_of_the_direct_path_is_bridged_by_a_relay_and_taken_back_when_it_heals() {
    for (a, b) in [(PORT, PORT), (Site::Open, Site::Open), (Site::Open, SYMMETRIC)] {
        let mut world = connect(a, b, 0);
        world.run_for(secs(20));
        world.net.cut = true;
        // The data path needs 400 ms to notice.
        assert!(world.run(ms(520), |world| world.hops() == Some(1)), "{a:?} / {b:?}: {:?}", world.kinds());
        world.run_for(secs(30));
        assert_eq!(world.hops(), Some(1));
        world.net.cut = false;
        // Tries come after 3, 6, 12, 24, 48 s.
        assert!(world.run(secs(30), |world| world.hops() == Some(0)), "{a:?} / {b:?}: {:?}", world.kinds());
        world.run_for(secs(10));
        assert_eq!(world.hops(), Some(0));
    }
}

#[test]
fn a_long_cut_that_heals_is_noticed_in_a_minute_or_so() {
    let mut world = connect(PORT, PORT, 0);
    world.net.cut = true;
    world.run_for(secs(600));
    assert_eq!(world.hops(), Some(1));
    world.net.cut = false;
    assert!(world.run(secs(75), |world| world.hops() == Some(0)), "{:?}", world.kinds());
}

#[test]
fn holes_are_punched_from_both_sides_though_nats_forget_soon() {
    let mut world = World::new(PORT, PORT);
    world.net.nats.iter_mut().for_each(|nat| nat.timeout = secs(5));
    world.net.cut = true;
    world.begin();
    assert!(world.run(ms(500), |world| world.hops() == Some(1)));
    world.run_for(secs(100));
    world.net.cut = false;
    // Each side tries when the other does.
    assert!(world.run(secs(75), |world| world.hops() == Some(0)), "{:?}", world.kinds());
}

#[test]
fn a_nat_that_forgets_its_mappings_is_passed_anew() {
    let mut world = connect(PORT, PORT, 0);
    world.run_for(secs(20));
    let before = world.nodes[0].candidates.clone();
    world.net.nats[0].rebind();
    world.run_for(ms(300));
    // The node's own STUN check finds the new address.
    world.gather(0);
    assert_ne!(before, world.nodes[0].candidates);
    assert!(world.run(ms(700), |world| world.hops() == Some(0) && world.nodes[1].history.len() > 1));
    world.run_for(secs(10));
    assert_eq!(world.hops(), Some(0));
    let old = before.iter().find(|own| own.kind == CandidateKind::ServerReflexive).unwrap().address;
    assert!(world.nodes[1].gone.contains(&Route::Direct(old)), "{:?}", world.nodes[1].gone);
}

#[test]
fn a_host_that_moves_is_found_at_its_new_address() {
    let mut world = connect(Site::Open, PORT, 0);
    world.run_for(secs(20));
    let old = SocketAddr::new(world.net.hosts[0].addresses[0], 4840);
    world.net.hosts[0].addresses = vec!["203.0.113.77".parse().unwrap()];
    world.gather(0);
    let moved = SocketAddr::new(world.net.hosts[0].addresses[0], 4840);
    assert!(world.run(ms(400), |world| world.nodes[1].selected == Some(Route::Direct(moved))));
    assert!(world.nodes[1].gone.contains(&Route::Direct(old)));
    world.run_for(secs(5));
    assert_eq!(world.hops(), Some(0));
}

#[test]
fn a_peer_that_starts_anew_is_found_again() {
    // The clock of the node may have been set back.
    for generation in [2, 1, 0] {
        let mut world = connect(PORT, PORT, 0);
        world.run_for(secs(20));
        world.restart(1, |config| {
            config.ufrag = "another".into();
            config.password = "another".repeat(4);
            config.generation = generation;
        });
        world.gather(1);
        world.wake(1);
        assert!(world.run(ms(700), |world| world.nodes[1].selected.is_some()), "{generation}");
        assert!(world.run(ms(700), |world| world.hops() == Some(0)), "{generation}: {:?}", world.kinds());
        assert!(!world.nodes[0].gone.is_empty());
        world.run_for(secs(10));
        assert_eq!(world.hops(), Some(0));
    }
}

#[test]
fn late_signals_of_an_instance_that_is_gone_change_nothing() {
    let mut world = connect(PORT, PORT, 0);
    let late = world.nodes[1].last_signal.clone().unwrap();
    world.restart(1, |config| {
        config.ufrag = "another".into();
        config.generation = 2;
    });
    world.gather(1);
    world.wake(1);
    assert!(world.run(secs(2), |world| world.hops() == Some(0)));
    world.run_for(secs(10));
    let gone = world.nodes[0].gone.len();
    for _ in 0..5 {
        world.signal(0, &late);
        world.run_for(secs(1));
    }
    assert_eq!(world.hops(), Some(0));
    assert_eq!(world.nodes[0].gone.len(), gone);
}

#[test]
fn both_may_claim_the_same_role() {
    for claimed in [true, false] {
        let mut world = World::new(PORT, Site::Behind(Filter::FullCone));
        for index in 0..2 {
            world.restart(index, |config| config.controlling = claimed);
        }
        world.begin();
        assert!(world.run(ms(500), |world| world.hops() == Some(0)), "{claimed}: {:?}", world.kinds());
        world.run_for(secs(3));
        let roles = world.nodes.iter().map(|node| node.traversal.report(world.instant()).controlling);
        assert_eq!(roles.filter(|controlling| *controlling).count(), 1);
    }
}

#[test]
fn crossing_signals_are_harmless() {
    let mut world = World::new(PORT, PORT);
    world.gather(0);
    world.gather(1);
    world.wake(0);
    world.wake(1);
    assert!(world.run(ms(300), |world| world.hops() == Some(0)));
    world.run_for(secs(1));
    assert!(world.nodes.iter().all(|node| node.signals <= 3), "{:?}", world.nodes[0].signals);
}

#[test]
fn signals_may_be_lost_doubled_and_late() {
    for bad in [10, 30, 50] {
        for seed in 0..20 {
            let mut world = World::new(PORT, SYMMETRIC);
            world.bad_signals = bad;
            world.begin();
            for _ in 0..seed {
                world.wake(0);
            }
            assert!(world.run(secs(20), |world| world.hops() == Some(1)), "{bad}: {:?}", world.kinds());
            world.run_for(secs(30));
            let now = world.instant();
            for node in &world.nodes {
                let report = node.traversal.report(now);
                assert!(report.told, "signals go on until they are known");
                assert!(node.signals < 40, "{}", node.signals);
            }
        }
    }
}

#[test]
fn candidates_may_come_one_by_one() {
    let mut world = World::new(PORT, PORT);
    world.wake(0);
    world.run_for(ms(40));
    world.gather(1);
    let [all, some] = {
        world.gather(0);
        let all = world.nodes[0].candidates.clone();
        [all.clone(), all[..1].to_vec()]
    };
    world.set_candidates(0, &some);
    world.run_for(ms(100));
    world.set_candidates(0, &all);
    assert!(world.run(ms(600), |world| world.hops() == Some(0)));
}

#[test]
fn a_relay_that_is_lost_is_replaced() {
    let mut world = connect(SYMMETRIC, SYMMETRIC, 1);
    world.run_for(secs(20));
    for own in &mut world.net.allocations {
        own.up = false;
    }
    for index in 0..2 {
        world.allocate(index, 2);
        world.gather(index);
    }
    let lost = |route: &Route| matches!(route, Route::Relayed(RelayId(1), _));
    assert!(world.run(ms(700), |world| world.hops() == Some(1)));
    assert!(!world.nodes.iter().any(|node| node.paths.keys().any(lost)));
    assert!(world.nodes.iter().any(|node| node.gone.iter().any(lost)));
}

#[test]
fn a_new_relay_becomes_the_standby_of_a_direct_path() {
    let mut world = connect(PORT, PORT, 0);
    world.run_for(secs(20));
    let standby = |world: &World| {
        world
            .nodes
            .iter()
            .all(|node| node.paths.values().any(|path| hops(&path.pair) == 1 && !path.told_dead))
    };
    assert!(standby(&world));
    world.net.allocations.iter_mut().for_each(|own| own.up = false);
    world.gather(0);
    world.gather(1);
    world.run_for(secs(10));
    assert!(world.nodes.iter().all(|node| node.paths.len() == 1));
    world.allocate(0, 2);
    world.gather(0);
    assert!(world.run(secs(2), standby));
    assert_eq!(world.hops(), Some(0));
}

#[test]
fn an_address_that_a_nat_has_mapped_anew_is_told_before_the_old_one_is_dead() {
    let mut world = connect(PORT, PORT, 0);
    world.run_for(secs(20));
    let old = world.nodes[1].selected;
    // The new one is known before the data path has missed an answer.
    world.net.nats[0].rebind();
    world.gather(0);
    assert!(world.run(ms(300), |world| world.nodes[1].selected.is_some_and(|now| Some(now) != old)
        || world.nodes[1].paths.len() > 2));
    world.run_for(secs(10));
    assert_eq!(world.hops(), Some(0));
    assert!(!world.nodes[1].paths.contains_key(&old.unwrap()));
}

#[test]
fn without_a_controller_a_cut_path_is_replaced_still() {
    let mut world = connect(PORT, PORT, 0);
    world.run_for(secs(20));
    world.signalling_down = true;
    world.net.cut = true;
    assert!(world.run(ms(520), |world| world.hops() == Some(1)), "{:?}", world.kinds());
    world.net.cut = false;
    assert!(world.run(secs(30), |world| world.hops() == Some(0)), "{:?}", world.kinds());
}

#[test]
fn hosts_with_several_addresses_answer_from_the_one_that_the_kernel_chooses() {
    let mut world = World::new(Site::Open, PORT);
    let more = ["198.18.0.1", "198.18.0.2", "10.1.0.5"].map(|ip| ip.parse::<IpAddr>().unwrap());
    world.net.hosts[0].addresses.extend(more);
    world.begin();
    assert!(world.run(ms(500), |world| world.hops() == Some(0)));
    world.run_for(secs(10));
    let path = world.nodes[1].selected.unwrap();
    assert_eq!(path, Route::Direct(SocketAddr::new(world.net.hosts[0].addresses[0], 4840)));
}

#[test]
fn hosts_of_one_site_use_their_own_addresses() {
    let mut world = World::new(PORT, PORT);
    world.net.nats = vec![Nat::new(Filter::Port, "203.0.113.1")];
    let host = |last: u8, port| Host {
        addresses: vec![format!("10.1.0.{last}").parse().unwrap()],
        port,
        site: 0,
        nats: vec![0],
        udp_blocked: false,
    };
    world.net.hosts = vec![host(2, 4840), host(3, 4840)];
    world.begin();
    assert!(world.run(ms(300), |world| world.hops() == Some(0)));
    world.run_for(secs(1));
    assert!(world.kinds().iter().all(|pair| pair.unwrap().remote == CandidateKind::Host));
}

#[test]
fn two_families_and_many_addresses_do_not_delay_the_first_path() {
    let mut world = World::new(PORT, SYMMETRIC);
    for index in 0..2u8 {
        let host = &mut world.net.hosts[usize::from(index)];
        for n in 0..5u8 {
            host.addresses.push(format!("172.16.{index}.{n}").parse().unwrap());
        }
    }
    world.begin();
    assert!(world.run(ms(400), |world| world.hops() == Some(1)), "{:?}", world.kinds());
    let first = world.nodes.iter().map(|node| node.first.unwrap()).max();
    assert!(first.unwrap() <= ms(300), "{first:?}");
}

#[test]
fn a_direct_path_that_lasts_costs_no_checks() {
    let mut world = connect(PORT, PORT, 0);
    world.run_for(secs(12));
    let before: Vec<_> = world.nodes.iter().map(|node| (node.checks, node.signals)).collect();
    world.run_for(secs(600));
    let after: Vec<_> = world.nodes.iter().map(|node| (node.checks, node.signals)).collect();
    assert_eq!(before, after);
    let now = world.instant();
    for node in &mut world.nodes {
        assert_eq!(node.traversal.poll_timeout(), None);
        assert_eq!(node.traversal.report(now).state, TraversalState::Quiet);
    }
}

#[test]
fn a_relayed_path_that_lasts_costs_little() {
    for (a, b) in
        [(SYMMETRIC, SYMMETRIC), (Site::Blocked, Site::Blocked), (Site::Blocked, PORT), (PORT, SYMMETRIC)]
    {
        let mut world = World::new(a, b);
        world.begin();
        assert!(world.run(ms(500), World::connected));
        world.run_for(secs(150));
        let before: Vec<_> = world.nodes.iter().map(|node| node.stun_bytes).collect();
        world.run_for(secs(1200));
        for (node, before) in world.nodes.iter().zip(before) {
            let bits = (node.stun_bytes - before) * 8 / 1200;
            println!("{a:?} / {b:?}: {bits} bit/s, {} signals", node.signals);
            assert!(bits < 200, "{a:?} / {b:?}: {bits} bit/s");
            assert!(node.signals < 10);
        }
    }
}

#[test]
fn a_peer_that_is_not_there_costs_few_signals() {
    let mut world = World::new(PORT, PORT);
    world.signalling_down = true;
    world.begin();
    world.run_for(secs(600));
    assert!(world.nodes[0].signals < 30, "{}", world.nodes[0].signals);
    assert_eq!(world.nodes[0].checks, 0, "no checks without the peer's consent");
    assert!(world.nodes[0].traversal.report(world.instant()).why_relayed()[0].contains("no signal"));
    world.signalling_down = false;
    assert!(world.run(secs(31), |world| world.hops() == Some(0)));
}

#[test]
fn who_is_put_to_sleep_is_silent_and_found_again_when_woken() {
    for (a, b, hops) in [(PORT, PORT, 0), (SYMMETRIC, PORT, 1)] {
        let mut world = connect(a, b, hops);
        world.run_for(secs(20));
        for node in &mut world.nodes {
            node.traversal.sleep();
            node.paths.clear();
            node.selected = None;
        }
        let before: Vec<_> = world.nodes.iter().map(|node| (node.checks, node.signals)).collect();
        world.run_for(secs(300));
        let after: Vec<_> = world.nodes.iter().map(|node| (node.checks, node.signals)).collect();
        assert_eq!(before, after);
        world.wake(0);
        assert!(world.run(ms(700), |world| world.hops() == Some(hops)), "{:?}", world.kinds());
    }
}

#[test]
fn paths_that_die_again_and_again_are_not_chased() {
    let mut world = connect(PORT, PORT, 0);
    let route = world.nodes[0].selected.unwrap();
    let before = world.nodes[0].checks;
    for _ in 0..600 {
        let now = world.instant();
        if let Some(path) = world.nodes[0].paths.get_mut(&route) {
            path.told_dead = true;
        }
        world.nodes[0].traversal.handle_path(PathNews::Dead(route), now);
        world.run_for(ms(100));
    }
    let checks = world.nodes[0].checks - before;
    assert!(checks < 1500, "{checks}");
}

#[test]
fn a_relayed_path_has_a_reason() {
    let reason = |a, b| {
        let mut world = World::new(a, b);
        world.begin();
        assert!(world.run(ms(500), World::connected));
        world.run_for(secs(20));
        let now = world.instant();
        world.nodes[0].traversal.report(now).why_relayed().join("; ")
    };
    assert!(reason(SYMMETRIC, SYMMETRIC).contains("both NATs map each destination anew"));
    assert!(reason(SYMMETRIC, PORT).contains("this node's NAT maps each destination anew"));
    assert!(reason(PORT, SYMMETRIC).contains("the peer's NAT maps each destination anew"));
    assert_eq!(reason(PORT, PORT), "");
    let mut world = World::new(PORT, PORT);
    world.net.cut = true;
    world.begin();
    assert!(world.run(ms(500), |world| world.hops() == Some(1)));
    world.run_for(secs(20));
    let report = world.nodes[0].traversal.report(world.instant());
    assert!(report.why_relayed()[0].contains("direct pairs were checked and none answered"), "{report:?}");
    assert!(report.pairs.iter().any(|pair| pair.sent > 0));
    assert!(world.kinds().iter().all(|pair| hops(&pair.unwrap()) == 1));
}

#[test]
fn without_relays_both_sides_try_at_the_same_time_and_ever_less_often() {
    let mut world = World::new(PORT, PORT);
    world.net.allocations.clear();
    world.net.nats.iter_mut().for_each(|nat| nat.timeout = secs(5));
    world.net.cut = true;
    world.begin();
    world.run_for(secs(600));
    let before: Vec<_> = world.nodes.iter().map(|node| (node.stun_bytes, node.signals)).collect();
    world.run_for(secs(600));
    for (node, (bytes, signals)) in world.nodes.iter().zip(before) {
        let bits = (node.stun_bytes - bytes) * 8 / 600;
        assert!(
            bits < 1000 && node.signals - signals < 60,
            "{bits} bit/s, {} signals",
            node.signals - signals
        );
    }
    world.net.cut = false;
    assert!(world.run(secs(75), |world| world.hops() == Some(0)));
}

#[test]
fn long_and_lossy_ways_only_take_longer() {
    for (delay, loss, within) in
        [(75, 0, 600), (150, 0, 1200), (10, 20, 2000), (75, 20, 3000), (75, 40, 6000)]
    {
        for (a, b) in [(PORT, PORT), (SYMMETRIC, PORT), (Site::Blocked, PORT), (Site::Open, SYMMETRIC)] {
            let mut world = World::new(a, b);
            world.net.delay = ms(delay);
            world.bad_packets = loss;
            world.patience = secs(3);
            world.begin();
            assert!(world.run(ms(within), World::connected), "{delay} ms, {loss} %: {a:?} / {b:?}");
            let direct = a != Site::Blocked && (a, b) != (SYMMETRIC, PORT);
            let hops = usize::from(!direct);
            assert!(
                world.run(secs(30), |world| world.hops() == Some(hops)),
                "{delay} ms, {loss} %: {a:?} / {b:?}"
            );
        }
    }
}
