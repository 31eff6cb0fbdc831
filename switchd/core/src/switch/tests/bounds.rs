//! Tables, queues and rates stay within their bounds, and age.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::fixture::*;
use crate::ids::{Mac, PeerId};
use crate::switch::*;

fn small() -> SwitchConfig {
    let limits = Limits { max_macs: 8, max_ips: 8, max_asks: 8, ..Limits::default() };
    SwitchConfig { limits, ..config(Mode::Rewrite) }
}

#[test]
fn full_tables_evict_count_and_go_on_forwarding() {
    let mut sw = with(small());
    for n in 1..=20 {
        assert_eq!(local(&mut sw, &gratuitous(Family::V4, n), at(u64::from(n))).0, Verdict::Flood);
    }
    assert_eq!(sw.table_sizes(), (8, 8));
    assert_eq!(sw.counters().mac_table_full, 12);
    let known: Vec<_> = (1..=20).filter(|n| sw.macs(at(20)).any(|m| m.key == station(*n))).collect();
    assert_eq!(known, (13..=20).collect::<Vec<_>>(), "the least recently seen made room");
    assert_eq!(events(&mut sw).iter().filter(|e| **e == Event::TableFull).count(), 1);
    // What has aged makes room.
    assert_eq!(local(&mut sw, &gratuitous(Family::V4, 30), at(1_201_100)).0, Verdict::Flood);
    assert_eq!(sw.table_sizes(), (1, 1));
    // A controller's binding takes a learned one's place.
    for n in 1..=20 {
        local(&mut sw, &gratuitous(Family::V4, n), at(1_203_000));
    }
    for n in 40..44 {
        assert_eq!(sw.set_binding(binding(n, Place::Peer(P1), 1), at(1_203_000)), Ok(BindingChange::Added));
    }
    assert_eq!(sw.set_binding(binding(44, Place::Peer(P1), 1), at(1_203_000)), Err(BindingError::TableFull));
    let (macs, ips) = sw.table_sizes();
    assert!(macs <= 8 && ips <= 8, "{macs} {ips}");
}

#[test]
fn a_full_ip_table_evicts_too() {
    let limits = Limits { max_ips: 8, ..Limits::default() };
    let mut sw = with(SwitchConfig { limits, ..config(Mode::Rewrite) });
    for n in 1..=20 {
        local(&mut sw, &gratuitous(Family::V4, n), at(u64::from(n)));
    }
    assert_eq!((sw.table_sizes(), sw.counters().ip_table_full), ((20, 8), 12));
    let known: Vec<_> = (1..=20).filter(|n| sw.bindings(at(20)).any(|b| b.key == station(*n))).collect();
    assert_eq!(known, (13..=20).collect::<Vec<_>>());
    // A controller's binding finds the one learned IP wherever it is.
    let mut sw = with(SwitchConfig { limits: Limits { max_ips: 41, ..limits }, ..config(Mode::Rewrite) });
    local(&mut sw, &gratuitous(Family::V4, 100), at(0));
    for n in 1..=20 {
        sw.set_binding(binding(n, Place::Peer(P1), 1), at(0)).unwrap();
    }
    let one = Binding { ips: vec![v4(30).into()], ..binding(30, Place::Peer(P1), 1) };
    assert_eq!(sw.set_binding(one, at(0)), Ok(BindingChange::Added));
    assert_eq!(sw.set_binding(binding(31, Place::Peer(P1), 1), at(0)), Err(BindingError::TableFull));
}

#[test]
fn a_guest_that_fills_the_tables_displaces_neither_the_bound_nor_the_talking() {
    let limits = Limits { max_macs: 100, max_ips: 200, max_ips_per_mac: 64, ..Limits::default() };
    let mut sw = with(SwitchConfig { limits, ..config(Mode::Rewrite) });
    sw.set_binding(binding(1, Place::Local, 1), at(0)).unwrap();
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    for n in 0..20_000u32 {
        let now = at(1000 + u64::from(n));
        let [_, a, b, c] = n.to_be_bytes();
        let (mac, ip) = (Mac([2, 9, 0, a, b, c]), Ipv4Addr::new(10, 1, b, c));
        let claim = crate::frame::arp::Arp { op: 1, sha: mac, spa: ip, tha: Mac::ZERO, tpa: ip };
        if n % 2 == 0 {
            local(&mut sw, &arp_frame(Mac::BROADCAST, mac, &claim), now);
        } else {
            // A MAC without an IP; and one that claims all.
            local(&mut sw, &other(Mac::BROADCAST, mac, 0x88b5), now);
            let hoard = crate::frame::arp::Arp { sha: Mac([2, 8, 0, 0, 0, 0]), ..claim };
            local(&mut sw, &arp_frame(Mac::BROADCAST, hoard.sha, &hoard), now);
        }
        if n % 50 == 0 {
            remote(&mut sw, &data(Family::V4, 2, 1, super::fixture::mac(1)), P1, now);
        }
        drain(&mut sw);
    }
    let end = at(21_000);
    let knows = |sw: &Switch, n: u8| sw.bindings(end).any(|b| b.key == station(n) && b.ips.len() == 2);
    assert!(knows(&sw, 1) && knows(&sw, 2));
    hello(&mut sw, 3, Place::Peer(P2), end);
    assert!(knows(&sw, 3), "a newcomer is learned");
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 3, ENDPOINT), end).0, Verdict::Peer(P2));
    assert_eq!(sw.table_sizes().0, 100);
}

#[test]
fn one_station_cannot_take_the_whole_ip_table() {
    let mut sw = with(SwitchConfig {
        limits: Limits { max_ips_per_mac: 4, ..Limits::default() },
        ..config(Mode::Rewrite)
    });
    for n in 1..=20 {
        let mut f = gratuitous(Family::V4, 1);
        f[28..32].copy_from_slice(&v4(n).octets());
        f[38..42].copy_from_slice(&v4(n).octets());
        local(&mut sw, &f, at(0));
    }
    assert_eq!(sw.table_sizes(), (1, 4));
    assert_eq!(sw.counters().ip_table_full, 16);
}

#[test]
fn stations_and_ips_age_from_their_last_sighting() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    local(&mut sw, &data(Family::V4, 1, 9, mac(9)), at(0));
    let mut now = 0;
    while let Some(_next) = sw.poll_timeout().filter(|_| now < 2_000_000) {
        now += 1000;
        sw.handle_timeout(at(now));
        match now {
            299_000 => assert_eq!(sw.macs(at(now)).count(), 2),
            301_000 => assert_eq!(sw.macs(at(now)).count(), 1, "without an IP: 5 minutes"),
            1_199_000 => assert_eq!(sw.bindings(at(now)).count(), 1),
            1_201_000 => assert_eq!(sw.bindings(at(now)).count(), 0, "with an IP: 20 minutes"),
            _ => {}
        }
    }
    assert_eq!(sw.table_sizes(), (0, 0));
    assert_eq!(sw.poll_timeout(), None, "nothing to do: no more timeouts");
    assert!(events(&mut sw).contains(&Event::BindingExpired { key: station(2) }));
    // Expired but not swept is as good as gone.
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    assert_eq!(local(&mut sw, &request(Family::V4, 1, 2), at(1_300_000)).0, Verdict::Flood);
}

#[test]
fn a_large_table_is_swept_in_parts_but_wholly() {
    let mut sw = switch(Mode::Rewrite);
    for n in 0..5000u32 {
        let [_, _, a, b] = n.to_be_bytes();
        let f = other(Mac::BROADCAST, Mac([2, 0, 0, 1, a, b]), 0x88b5);
        local(&mut sw, &f, at(0));
    }
    let mut calls = 0;
    while sw.table_sizes().0 > 0 {
        calls += 1;
        sw.handle_timeout(at(400_000 + calls * 1000));
        assert!(calls < 40);
    }
    assert!(calls > 10);
}

#[test]
fn asks_are_bounded() {
    let mut sw = with(small());
    let verdicts: Vec<_> = (100..120).map(|t| local(&mut sw, &request(Family::V4, 1, t), at(0)).0).collect();
    assert!(verdicts[..8].iter().all(|v| *v == Verdict::Flood));
    assert!(verdicts[8..].iter().all(|v| *v == Verdict::Drop(DropReason::AskTableFull)));
    assert_eq!(local(&mut sw, &request(Family::V4, 1, 119), at(5000)).0, Verdict::Flood);
    // Many remote askers of one target do not grow the table either.
    for n in 1..=200 {
        remote(&mut sw, &request(Family::V4, n, 250), P1, at(5000));
    }
    assert_eq!(local(&mut sw, &reply(Family::V4, 250, 200, ENDPOINT), at(5001)).0, Verdict::Peer(P1));
}

#[test]
fn broadcast_is_limited_and_arp_keeps_its_share() {
    let mut c = config(Mode::Rewrite);
    c.policy.broadcast_rate = 10;
    c.policy.broadcast_burst = 80;
    let mut sw = with(c);
    let f = other(Mac::BROADCAST, mac(1), 0x88b5);
    let passed = (0..200).filter(|_| local(&mut sw, &f, at(0)).0 == Verdict::Flood).count();
    assert_eq!(passed, 70);
    assert_eq!(sw.counters().drops(DropReason::FloodLimited), 130);
    assert_eq!(local(&mut sw, &request(Family::V4, 1, 2), at(0)).0, Verdict::Flood);
    // Unknown unicast counts, known unicast does not.
    assert_eq!(
        local(&mut sw, &other(mac(9), mac(1), 0x88b5), at(0)).0,
        Verdict::Drop(DropReason::FloodLimited)
    );
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    assert!((0..500).all(|_| local(&mut sw, &other(mac(2), mac(1), 0x88b5), at(0)).0 == Verdict::Peer(P1)));
    // Reloaded.
    sw.set_policy(Policy { broadcast_rate: 1000, broadcast_burst: 1000, ..Policy::default() });
    assert_eq!(local(&mut sw, &f, at(1000)).0, Verdict::Flood);
}

#[test]
fn links_decide_where_floods_go() {
    let mut sw = Switch::new(config(Mode::Rewrite));
    let f = other(Mac::BROADCAST, mac(1), 0x88b5);
    assert_eq!(local(&mut sw, &f, at(0)).0, Verdict::Drop(DropReason::NoPeers));
    sw.handle_link(PeerId(7), true, at(0));
    sw.handle_link(PeerId(3), true, at(0));
    sw.handle_link(PeerId(3), true, at(0));
    assert_eq!(sw.flood_peers(), [PeerId(3), PeerId(7)]);
    assert_eq!(local(&mut sw, &f, at(0)).0, Verdict::Flood);
    sw.handle_link(PeerId(7), false, at(0));
    assert_eq!(sw.flood_peers(), [PeerId(3)]);
}

#[test]
fn events_are_bounded_and_the_lost_counted() {
    let mut sw = switch(Mode::Rewrite);
    for n in 0..2000u16 {
        let [a, b] = n.to_be_bytes();
        local(&mut sw, &other(Mac::BROADCAST, Mac([2, 0, 0, 1, a, b]), 0x88b5), at(0));
    }
    let (changes, others): (Vec<_>, Vec<_>) =
        events(&mut sw).into_iter().partition(|e| matches!(e, Event::LocalChanged { .. }));
    assert_eq!((changes.len(), others.len()), (1024, 1024));
    assert_eq!(sw.counters().events_lost, 2000 - 1024);
    assert!(sw.take_local_overflow(), "the shell must look at all of them");
    assert!(!sw.take_local_overflow());
    assert_eq!(sw.local_stations(at(0)).count(), 2000);
}

#[test]
fn frames_that_no_bridge_forwards() {
    let mut sw = switch(Mode::Rewrite);
    let stp = Mac([1, 0x80, 0xc2, 0, 0, 0]);
    let cases = [
        (vec![0; 13], DropReason::BadFrame),
        (other(mac(2), Mac::BROADCAST, 0x88b5), DropReason::BadSource),
        (other(mac(2), Mac::ZERO, 0x88b5), DropReason::BadSource),
        (other(Mac::ZERO, mac(1), 0x88b5), DropReason::BadDestination),
        (other(stp, mac(1), 38), DropReason::LinkLocalGroup),
        (other(Mac([1, 0x80, 0xc2, 0, 0, 15]), mac(1), 0x88cc), DropReason::LinkLocalGroup),
        (request(Family::V4, 1, 2)[..30].to_vec(), DropReason::BadArp),
        (request(Family::V6, 1, 2)[..70].to_vec(), DropReason::BadNd),
    ];
    for (f, reason) in cases {
        assert_eq!(local(&mut sw, &f, at(0)).0, Verdict::Drop(reason));
        assert_eq!(remote(&mut sw, &f, P1, at(0)).0, Verdict::Drop(reason));
        assert_eq!(sw.counters().drops(reason) % 2, 0);
    }
    assert_eq!(sw.table_sizes(), (0, 0), "nothing is learned from what is dropped");
    let mut other_group = other(Mac([1, 0x80, 0xc2, 0, 0, 16]), mac(1), 0x88b5);
    assert_eq!(sw.handle_local(&mut other_group, &VNET, at(0)), Verdict::Flood);
    for endpoint_bound in [other(ENDPOINT, mac(1), 0x88b5), other(ENDPOINT, mac(1), 0x8035)] {
        let want = Verdict::Drop(DropReason::NotForEndpoint);
        assert_eq!(local(&mut sw, &endpoint_bound, at(0)).0, want);
        assert_eq!(remote(&mut sw, &endpoint_bound, P1, at(0)).0, want);
    }
}

#[test]
fn nothing_is_learned_from_data_packets_ips() {
    let mut sw = switch(Mode::Rewrite);
    let foreign: IpAddr = Ipv4Addr::new(8, 8, 8, 8).into();
    remote(&mut sw, &udp(mac(1), mac(2), foreign, v4(1).into(), (53, 1000)), P1, at(0));
    assert_eq!(sw.table_sizes(), (1, 0));
}

#[test]
fn limits_have_sane_defaults() {
    let l = Limits::default();
    assert_eq!((l.mac_age, l.ip_age), (Duration::from_secs(300), Duration::from_secs(1200)));
    let labels: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
    assert_eq!(labels.len(), DropReason::ALL.len());
    for (i, r) in DropReason::ALL.iter().enumerate() {
        assert_eq!(r.index(), i);
        assert!(r.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        assert!(r.help().ends_with('.'));
    }
}
