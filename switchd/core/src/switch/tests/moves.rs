//! Instances that change their place, in truth or by a loop.

use super::fixture::*;
use crate::frame::arp::{self, Arp};
use crate::frame::{Tags, nd};
use crate::ids::Generation;
use crate::switch::*;

fn place(sw: &Switch, n: u8, ms: u64) -> Option<Place> {
    sw.macs(at(ms)).find(|m| m.key == station(n)).map(|m| m.at)
}

fn corrections(sw: &mut Switch) -> Vec<Told> {
    drain(sw).iter().filter(|t| t.to == Destination::Bridge).map(|t| told(&t.frame)).collect()
}

#[test]
fn rarp_moves_and_corrects_both_families() {
    for mode in MODES {
        let mut sw = switch(mode);
        hello(&mut sw, 2, Place::Peer(P1), at(0));
        let rarp = other(crate::ids::Mac::BROADCAST, mac(2), 0x8035);
        assert_eq!(local(&mut sw, &rarp, at(10)), (Verdict::Flood, rarp.clone()));
        assert_eq!(place(&sw, 2, 10), Some(Place::Local));
        let moved = Event::BindingMoved {
            key: station(2),
            from: Place::Peer(P1),
            to: Place::Local,
            generation: Generation(0),
        };
        assert!(events(&mut sw).contains(&moved));
        let told = corrections(&mut sw);
        let want = if mode == Mode::Rewrite { 2 } else { 0 };
        assert_eq!(told.len(), want);
        assert!(told.iter().all(|t| t.src == ENDPOINT && t.mac == mac(2)), "the body has the real MAC");
        // And back to another peer: the bridge's caches turn to the endpoint.
        let (verdict, sent) = remote(&mut sw, &rarp, P2, at(20));
        assert_eq!((verdict, sent), (Verdict::Bridge, rarp), "not IP: the real source");
        let told = corrections(&mut sw);
        assert_eq!(told.len(), 2);
        let m = if mode == Mode::Rewrite { ENDPOINT } else { mac(2) };
        assert!(told.iter().all(|t| t.src == m && t.mac == m));
        assert_eq!(place(&sw, 2, 20), Some(Place::Peer(P2)));
        assert_eq!(sw.counters().moves, 2);
    }
}

#[test]
fn a_move_from_peer_to_peer_is_silent_on_the_bridge() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    let rarp = other(crate::ids::Mac::BROADCAST, mac(2), 0x8035);
    remote(&mut sw, &rarp, P2, at(10));
    assert!(drain(&mut sw).is_empty());
    let (verdict, sent) = local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(20));
    assert_eq!((verdict, eth(&sent).dst), (Verdict::Peer(P2), mac(2)));
}

#[test]
fn a_plain_frame_moves_too_and_announces_only_addresses_in_use() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    local(&mut sw, &data(Family::V4, 2, 9, mac(9)), at(10));
    assert_eq!(corrections(&mut sw).iter().map(|t| t.ip).collect::<Vec<_>>(), [ip(Family::V4, 2)]);
    hello(&mut sw, 3, Place::Peer(P1), at(0));
    local(&mut sw, &data(Family::V6, 3, 9, mac(9)), at(10));
    let told = corrections(&mut sw);
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].dst.is_group(), told[1].dst.is_group());
}

#[test]
fn a_move_that_is_not_flooded_is_told_to_the_peers() {
    for mode in MODES {
        let mut sw = switch(mode);
        hello(&mut sw, 2, Place::Peer(P1), at(0));
        hello(&mut sw, 3, Place::Peer(P1), at(0));
        assert_eq!(local(&mut sw, &other(mac(3), mac(2), 0x88b5), at(10)).0, Verdict::Peer(P1));
        let t = drain(&mut sw).into_iter().find(|t| t.to == Destination::Flood).unwrap();
        assert_eq!((eth(&t.frame).src, eth(&t.frame).ethertype), (mac(2), 0x8035));
        // So is an IP that a new MAC took over.
        let mut ask = request(Family::V4, 4, 3);
        ask[28..32].copy_from_slice(&v4(2).octets());
        assert_eq!(local(&mut sw, &ask, at(20)).0, Verdict::Answered);
        let t = drain(&mut sw).into_iter().find(|t| t.to == Destination::Flood).unwrap();
        let taken = told(&t.frame);
        assert_eq!((taken.src, taken.ip, taken.mac), (mac(4), ip(Family::V4, 2), mac(4)));
    }
}

#[test]
fn a_learned_owner_defends_its_address_itself() {
    for family in FAMILIES {
        for mode in MODES {
            let mut sw = switch(mode);
            hello(&mut sw, 2, Place::Peer(P1), at(0));
            hello(&mut sw, 3, Place::Local, at(0));
            let ask = probe(family, 1, 2);
            assert_eq!(local(&mut sw, &ask, at(1)), (Verdict::Peer(P1), ask.clone()));
            // A request is answered all the same.
            assert_eq!(local(&mut sw, &request(family, 1, 2), at(2)).0, Verdict::Answered);
            assert_eq!(remote(&mut sw, &probe(family, 9, 3), P2, at(3)).0, Verdict::Bridge);
            drain(&mut sw);
            // The live owner's answer finds the prober by its real MAC.
            let answer = match family {
                Family::V4 => {
                    let tpa = std::net::Ipv4Addr::UNSPECIFIED;
                    let m = Arp { op: arp::REPLY, sha: mac(3), spa: v4(3), tha: mac(9), tpa };
                    arp_frame(mac(9), mac(3), &m)
                }
                Family::V6 => advert(3, nd::multicast_mac(nd::ALL_NODES), nd::ALL_NODES, nd::FLAG_OVERRIDE),
            };
            let to = if family == Family::V4 { Verdict::Peer(P2) } else { Verdict::Flood };
            assert_eq!(local(&mut sw, &answer, at(4)), (to, answer));
            // The switch answers for a controller's binding.
            sw.set_binding(binding(2, Place::Peer(P1), 1), at(5)).unwrap();
            sw.set_binding(binding(3, Place::Local, 1), at(5)).unwrap();
            assert_eq!(local(&mut sw, &ask, at(6)).0, Verdict::Answered);
            assert_eq!(remote(&mut sw, &probe(family, 9, 3), P2, at(6)).0, Verdict::Answered);
        }
    }
}

#[test]
fn senders_with_a_stale_cache_are_hairpinned_and_corrected_once_a_second() {
    for family in FAMILIES {
        let mut sw = switch(Mode::Rewrite);
        hello(&mut sw, 1, Place::Local, at(0));
        hello(&mut sw, 2, Place::Local, at(0));
        let f = data(family, 1, 2, ENDPOINT);
        let (verdict, sent) = local(&mut sw, &f, at(10));
        assert_eq!(verdict, Verdict::Bridge);
        assert_eq!((eth(&sent).dst, eth(&sent).src), (mac(2), ENDPOINT));
        let t = one(drain(&mut sw));
        let real = Told { dst: mac(1), src: ENDPOINT, ip: ip(family, 2), mac: mac(2) };
        assert_eq!((t.to, told(&t.frame)), (Destination::Bridge, real));
        local(&mut sw, &f, at(500));
        assert!(drain(&mut sw).is_empty());
        local(&mut sw, &f, at(1100));
        assert_eq!(drain(&mut sw).len(), 1);
        assert_eq!(sw.counters().hairpinned, 3);
    }
}

#[test]
fn own_frames_that_come_back_are_a_loop() {
    for mode in MODES {
        let mut sw = switch(mode);
        let f = data(Family::V4, 1, 2, mac(9));
        let looped = {
            let mut f = f.clone();
            f[6..12].copy_from_slice(&ENDPOINT.0);
            f
        };
        assert_eq!(local(&mut sw, &looped, at(0)).0, Verdict::Drop(DropReason::Loop));
        assert_eq!(local(&mut sw, &looped, at(1)).0, Verdict::Drop(DropReason::Loop));
        assert_eq!(events(&mut sw).len(), 1, "one event a second");
        assert_eq!(remote(&mut sw, &looped, P1, at(2)).0, Verdict::Drop(DropReason::Loop));
        assert_eq!(sw.macs(at(2)).count(), 0);
        // A guest that claims the endpoint's MAC in ARP.
        let mut g = gratuitous(Family::V4, 1);
        g[22..28].copy_from_slice(&ENDPOINT.0);
        assert_eq!(local(&mut sw, &g, at(3)).0, Verdict::Drop(DropReason::Loop));
    }
}

#[test]
fn a_station_that_flaps_is_held_at_the_peer() {
    let mut sw = switch(Mode::Preserve);
    let f = other(crate::ids::Mac::BROADCAST, mac(2), 0x88b5);
    let mut dropped = None;
    for round in 0..10 {
        assert_eq!(remote(&mut sw, &f, P1, at(round * 10)).0, Verdict::Bridge);
        if local(&mut sw, &f, at(round * 10 + 1)).0 == Verdict::Drop(DropReason::Flapping) {
            dropped.get_or_insert(round);
        }
    }
    assert_eq!(dropped, Some(5));
    assert_eq!(place(&sw, 2, 100), Some(Place::Peer(P1)));
    assert!(events(&mut sw).contains(&Event::Flapping { key: station(2), at: Place::Peer(P1) }));
    // Later it may move again.
    assert_eq!(local(&mut sw, &f, at(40_000)).0, Verdict::Flood);
    // Slow moves never count as flapping.
    let mut sw = switch(Mode::Preserve);
    for round in 0..30 {
        remote(&mut sw, &f, P1, at(round * 5000));
        assert_eq!(local(&mut sw, &f, at(round * 5000 + 1)).0, Verdict::Flood);
    }
}

#[test]
fn the_instances_own_node_never_holds_it_elsewhere() {
    // A peer reflects every broadcast; it stops after its fifth, as the test above shows.
    let mut sw = switch(Mode::Preserve);
    let f = other(crate::ids::Mac::BROADCAST, mac(2), 0x88b5);
    for round in 0..6 {
        assert_eq!(local(&mut sw, &f, at(round * 10)).0, Verdict::Flood);
        if round < 5 {
            remote(&mut sw, &f, P1, at(round * 10 + 1));
        }
    }
    assert_eq!(place(&sw, 2, 100), Some(Place::Local));
}

#[test]
fn an_ip_that_changes_its_mac_follows_the_newest_claim() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 1, Place::Local, at(0));
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    let takeover = {
        let mut f = gratuitous(Family::V4, 3);
        f[28..32].copy_from_slice(&v4(2).octets());
        f[38..42].copy_from_slice(&v4(2).octets());
        f
    };
    remote(&mut sw, &takeover, P2, at(10));
    assert!(events(&mut sw).contains(&Event::IpMoved {
        ip: ip(Family::V4, 2),
        from: station(2),
        to: station(3)
    }));
    let (verdict, sent) = local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(20));
    assert_eq!((verdict, eth(&sent).dst), (Verdict::Peer(P2), mac(3)));
}

#[test]
fn generations_decide_between_controllers() {
    let mut sw = switch(Mode::Rewrite);
    assert_eq!(sw.set_binding(binding(2, Place::Peer(P1), 5), at(0)), Ok(BindingChange::Added));
    assert_eq!(sw.set_binding(binding(2, Place::Peer(P1), 5), at(0)), Ok(BindingChange::Unchanged));
    let stale = sw.set_binding(binding(2, Place::Peer(P2), 4), at(0));
    assert!(matches!(stale, Err(BindingError::Stale { current: Generation(5), .. })), "{stale:?}");
    let moved = sw.set_binding(binding(2, Place::Peer(P2), 6), at(0));
    assert_eq!(moved, Ok(BindingChange::Moved { from: Place::Peer(P1) }));
    let fewer = Binding { ips: vec![v4(2).into()], ..binding(2, Place::Peer(P2), 6) };
    assert_eq!(sw.set_binding(fewer, at(0)), Ok(BindingChange::Updated));
    assert_eq!(local(&mut sw, &request(Family::V6, 1, 2), at(1)).0, Verdict::Flood, "its IP is gone");
    // A late withdrawal does not kill the newer binding.
    assert!(sw.remove_binding(station(2), Generation(5), at(1)).is_err());
    assert_eq!(sw.remove_binding(station(2), Generation(6), at(1)), Ok(true));
    assert_eq!(sw.remove_binding(station(2), Generation(6), at(1)), Ok(false));
    assert!(sw.bindings(at(1)).all(|b| b.key != station(2)));
}

#[test]
fn a_controller_beats_what_was_learned_and_never_ages() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    let change = sw.set_binding(binding(2, Place::Peer(P2), 0), at(1));
    assert_eq!(change, Ok(BindingChange::Moved { from: Place::Peer(P1) }));
    assert_eq!(remote(&mut sw, &gratuitous(Family::V4, 2), P1, at(2)).0, Verdict::Bridge, "not heard yet");
    assert_eq!(place(&sw, 2, 2), Some(Place::Peer(P2)), "but it moves nothing");
    let year = 365 * 86_400_000;
    sw.handle_timeout(at(year));
    assert_eq!(place(&sw, 2, year), Some(Place::Peer(P2)));
    // From this bridge it is refused, and said so.
    let elsewhere = Verdict::Drop(DropReason::BoundElsewhere);
    assert_eq!(local(&mut sw, &gratuitous(Family::V4, 2), at(year)).0, elsewhere);
    let event = Event::BoundElsewhere { key: station(2), from: Place::Local, bound: Place::Peer(P2) };
    assert!(events(&mut sw).contains(&event));
    // Its IP cannot be claimed by another.
    let mut claim = gratuitous(Family::V4, 3);
    claim[28..32].copy_from_slice(&v4(2).octets());
    claim[38..42].copy_from_slice(&v4(2).octets());
    assert_eq!(local(&mut sw, &claim, at(year)).0, Verdict::Drop(DropReason::Spoof));
    assert_eq!(remote(&mut sw, &claim, P1, at(year)).0, Verdict::Drop(DropReason::Spoof));
    claim[22..28].copy_from_slice(&mac(9).0);
    assert_eq!(local(&mut sw, &claim, at(year)).0, Verdict::Drop(DropReason::Spoof), "nor for a third");
}

#[test]
fn a_prepared_binding_attracts_nothing_until_the_instance_speaks() {
    for activate_by_frame in [false, true] {
        let mut sw = switch(Mode::Rewrite);
        sw.set_binding(binding(2, Place::Peer(P1), 5), at(0)).unwrap();
        let next = Binding { state: State::Prepared, ..binding(2, Place::Local, 6) };
        assert_eq!(sw.set_binding(next.clone(), at(1)), Ok(BindingChange::Prepared));
        assert_eq!(sw.set_binding(next.clone(), at(1)), Ok(BindingChange::Unchanged));
        assert_eq!(sw.bindings(at(1)).count(), 2);
        assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(2)).0, Verdict::Peer(P1));
        assert_eq!(remote(&mut sw, &request(Family::V4, 3, 2), P2, at(2)).0, Verdict::Bridge, "not answered");
        drain(&mut sw);
        if activate_by_frame {
            let rarp = other(crate::ids::Mac::BROADCAST, mac(2), 0x8035);
            assert_eq!(local(&mut sw, &rarp, at(3)).0, Verdict::Flood);
        } else {
            let now = Binding { state: State::Active, ..next };
            assert_eq!(sw.set_binding(now, at(3)), Ok(BindingChange::Moved { from: Place::Peer(P1) }));
        }
        assert_eq!(place(&sw, 2, 3), Some(Place::Local));
        let b = sw.bindings(at(3)).find(|b| b.key == station(2)).unwrap();
        assert_eq!((b.generation, b.source, b.state), (Generation(6), Source::Controller, State::Active));
        assert!(!corrections(&mut sw).is_empty());
        assert_eq!(remote(&mut sw, &request(Family::V4, 3, 2), P2, at(4)).0, Verdict::Answered);
        // The old place's late word loses.
        let late = sw.set_binding(binding(2, Place::Peer(P1), 5), at(5));
        assert!(matches!(late, Err(BindingError::Stale { .. })));
    }
}

#[test]
fn addresses_that_no_instance_has_are_refused() {
    let mut sw = switch(Mode::Rewrite);
    for ip in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "::", "::1", "ff02::1"] {
        let b = Binding { ips: vec![ip.parse().unwrap()], ..binding(2, Place::Peer(P1), 1) };
        assert!(matches!(sw.set_binding(b, at(0)), Err(BindingError::Address(_))), "{ip}");
    }
    let group = Binding { mac: crate::ids::Mac::BROADCAST, tags: Tags::NONE, ..binding(2, Place::Local, 1) };
    assert!(sw.set_binding(group, at(0)).is_err());
    // Nor are they learned.
    let mut f = gratuitous(Family::V4, 1);
    for bad in [[224, 0, 0, 1], [127, 0, 0, 1], [255; 4]] {
        f[28..32].copy_from_slice(&bad);
        f[38..42].copy_from_slice(&bad);
        local(&mut sw, &f, at(1));
    }
    let loopback = std::net::Ipv6Addr::LOCALHOST;
    let mut f = crate::frame::build::header(nd::multicast_mac(nd::ALL_NODES), mac(1), Tags::NONE, 0x86dd);
    nd::append_advert(&mut f, loopback, nd::ALL_NODES, loopback, nd::FLAG_OVERRIDE, mac(1));
    local(&mut sw, &f, at(1));
    assert_eq!(sw.table_sizes(), (1, 0));
}
