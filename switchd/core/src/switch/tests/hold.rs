//! Frames to the endpoint whose IP nobody is known to have.

use super::fixture::*;
use std::net::Ipv6Addr;

use crate::frame::{arp, arp::Arp};
use crate::switch::*;

/// The one request that goes to the peers.
fn asked(sw: &mut Switch) -> Transmit {
    one(drain(sw).into_iter().filter(|t| t.to != Destination::Bridge).collect())
}

#[test]
fn held_asked_for_and_released() {
    for family in FAMILIES {
        let mut sw = switch(Mode::Rewrite);
        hello(&mut sw, 1, Place::Local, at(0));
        let f = data(family, 1, 2, ENDPOINT);
        assert_eq!(local(&mut sw, &f, at(10)).0, Verdict::Held);
        let ask = asked(&mut sw);
        assert_eq!(ask.to, Destination::Flood);
        assert_eq!((eth(&ask.frame).src, sender_mac(&ask.frame)), (mac(1), mac(1)));
        assert_eq!(ask.frame, {
            let mut own = request(family, 1, 2);
            own.truncate(ask.frame.len());
            own
        });
        assert_eq!(local(&mut sw, &f, at(20)).0, Verdict::Held);
        assert!(drain(&mut sw).is_empty(), "asked once");
        assert_eq!(sw.held(), (2, 2 * f.len()));
        sw.handle_timeout(at(1100));
        assert_eq!(asked(&mut sw).to, Destination::Flood, "and again after a second");
        assert_eq!(remote(&mut sw, &reply(family, 2, 1, mac(1)), P2, at(1110)).0, Verdict::Bridge);
        let released = drain(&mut sw);
        assert_eq!(released.len(), 2);
        for t in released {
            assert_eq!((t.to, eth(&t.frame).dst, eth(&t.frame).src), (Destination::Peer(P2), mac(2), mac(1)));
            assert_eq!(t.frame[14..], f[14..]);
        }
        assert_eq!((sw.held(), sw.counters().released), ((0, 0), 2));
    }
}

#[test]
fn a_super_frame_is_released_with_its_header() {
    let mut sw = switch(Mode::Rewrite);
    let vnet = crate::vnet::VnetHdr {
        gso: crate::vnet::Gso::TcpV4 { ecn: false },
        gso_size: 1448,
        csum: Some(crate::vnet::PartialCsum { start: 34, offset: 16 }),
        ..VNET
    };
    let mut f = data(Family::V4, 1, 2, ENDPOINT);
    f.resize(60_000, 7);
    assert_eq!(sw.handle_local(&mut f, &vnet, at(0)), Verdict::Held);
    drain(&mut sw);
    sw.set_binding(binding(2, Place::Peer(P1), 1), at(1)).unwrap();
    let t = asked(&mut sw);
    assert_eq!((t.vnet, t.frame.len()), (vnet, 60_000));
}

#[test]
fn released_to_the_bridge_if_the_owner_turns_out_local() {
    let mut sw = switch(Mode::Rewrite);
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(0)).0, Verdict::Held);
    drain(&mut sw);
    local(&mut sw, &gratuitous(Family::V4, 2), at(1));
    let t = one(drain(&mut sw));
    assert_eq!((t.to, eth(&t.frame).dst, eth(&t.frame).src), (Destination::Bridge, mac(2), ENDPOINT));
}

#[test]
fn the_bridge_is_asked_too() {
    for family in FAMILIES {
        let mut sw = switch(Mode::Rewrite);
        hello(&mut sw, 1, Place::Local, at(0));
        assert_eq!(local(&mut sw, &data(family, 1, 2, ENDPOINT), at(1)).0, Verdict::Held);
        let ask = drain(&mut sw).into_iter().find(|t| t.to == Destination::Bridge).unwrap();
        assert_eq!((eth(&ask.frame).src, sender_mac(&ask.frame)), (ENDPOINT, ENDPOINT));
        // In IPv4 nobody may learn the endpoint as the asker; in IPv6 the owner only reads it.
        let answer = match family {
            Family::V4 => {
                assert!(Arp::parse(&ask.frame, 14).unwrap().spa.is_unspecified());
                let spa = v4(2);
                let tpa = std::net::Ipv4Addr::UNSPECIFIED;
                let m = Arp { op: arp::REPLY, sha: mac(2), spa, tha: ENDPOINT, tpa };
                arp_frame(ENDPOINT, mac(2), &m)
            }
            Family::V6 => reply(family, 2, 1, ENDPOINT),
        };
        let (verdict, sent) = local(&mut sw, &answer, at(2));
        match family {
            Family::V4 => assert_eq!(verdict, Verdict::Answered),
            Family::V6 => assert_eq!((verdict, eth(&sent).dst), (Verdict::Bridge, mac(1))),
        }
        let (bridge, news): (Vec<_>, Vec<_>) =
            drain(&mut sw).into_iter().partition(|t| t.to == Destination::Bridge);
        let t = one(bridge);
        assert_eq!((eth(&t.frame).dst, eth(&t.frame).src), (mac(2), ENDPOINT));
        assert_eq!(told(&one(news).frame).ip, ip(family, 2));
    }
}

#[test]
fn bounds_and_expiry() {
    let limits = Limits { hold_per_target: 2, hold_frames: 5, hold_bytes: 10_000, ..Limits::default() };
    let mut sw = with(SwitchConfig { limits, ..config(Mode::Rewrite) });
    let full = Verdict::Drop(DropReason::HoldFull);
    let send = |sw: &mut Switch, to: u8, len: usize, ms: u64| {
        let mut f = data(Family::V4, 1, to, ENDPOINT);
        f.resize(len.max(f.len()), 0);
        local(sw, &f, at(ms)).0
    };
    assert_eq!(send(&mut sw, 2, 0, 0), Verdict::Held);
    assert_eq!(send(&mut sw, 2, 0, 0), Verdict::Held);
    assert_eq!(send(&mut sw, 2, 0, 0), full, "per target");
    assert_eq!(send(&mut sw, 3, 10_000, 0), full, "bytes");
    for to in 3..=5 {
        assert_eq!(send(&mut sw, to, 0, 0), Verdict::Held);
    }
    assert_eq!(send(&mut sw, 6, 0, 0), full, "frames");
    drain(&mut sw);
    sw.handle_timeout(at(1000));
    let again = drain(&mut sw).iter().filter(|t| t.to == Destination::Flood).count();
    assert_eq!(again, 4, "asks again for each");
    sw.handle_timeout(at(3001));
    assert_eq!(sw.held(), (0, 0));
    assert_eq!(sw.counters().drops(DropReason::HoldExpired), 5);
    assert_eq!(send(&mut sw, 2, 0, 3002), Verdict::Held);
}

#[test]
fn what_finds_no_room_is_asked_for_all_the_same() {
    let limits = Limits { hold_frames: 1, ..Limits::default() };
    let mut sw = with(SwitchConfig { limits, ..config(Mode::Rewrite) });
    hello(&mut sw, 1, Place::Local, at(0));
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(0)).0, Verdict::Held);
    drain(&mut sw);
    for _ in 0..3 {
        let refused = local(&mut sw, &data(Family::V4, 1, 3, ENDPOINT), at(1)).0;
        assert_eq!(refused, Verdict::Drop(DropReason::HoldFull));
    }
    let asks = drain(&mut sw);
    assert_eq!(asks.len(), 2, "once, of the bridge and of the peers");
    assert!(asks.iter().all(|t| Arp::parse(&t.frame, 14).unwrap().tpa == v4(3)));
    remote(&mut sw, &reply(Family::V4, 3, 1, mac(1)), P1, at(2));
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 3, ENDPOINT), at(3)).0, Verdict::Peer(P1));
}

#[test]
fn one_target_or_one_sender_cannot_take_all_the_room() {
    let limits = Limits { hold_per_sender: 3, ..Limits::default() };
    let mut sw = with(SwitchConfig { limits, ..config(Mode::Rewrite) });
    let full = Verdict::Drop(DropReason::HoldFull);
    let send = |sw: &mut Switch, n: u8, to: u8, len: usize, ms: u64| {
        let mut f = data(Family::V4, n, to, ENDPOINT);
        f.resize(len.max(f.len()), 0);
        local(sw, &f, at(ms)).0
    };
    assert_eq!(send(&mut sw, 1, 100, 65_000, 0), Verdict::Held);
    assert_eq!(send(&mut sw, 2, 100, 65_000, 0), Verdict::Held, "64 KiB and a frame");
    assert_eq!(send(&mut sw, 3, 100, 60, 0), full, "the target's bytes");
    assert_eq!(send(&mut sw, 1, 101, 60, 0), Verdict::Held);
    assert_eq!(send(&mut sw, 1, 102, 60, 0), Verdict::Held);
    assert_eq!(send(&mut sw, 1, 103, 60, 0), full, "the sender's frames");
    assert_eq!(send(&mut sw, 2, 103, 60, 0), Verdict::Held, "not another's");
    // What expires or is released makes room.
    local(&mut sw, &gratuitous(Family::V4, 101), at(1));
    assert_eq!(send(&mut sw, 1, 103, 60, 2), Verdict::Held);
    assert_eq!(send(&mut sw, 1, 104, 60, 2), full);
    sw.handle_timeout(at(3001));
    assert_eq!(sw.held().0, 1);
    assert_eq!(send(&mut sw, 1, 100, 65_000, 3002), Verdict::Held);
    assert_eq!(send(&mut sw, 1, 101, 60, 3002), Verdict::Bridge, "resolved");
    assert_eq!(send(&mut sw, 1, 104, 60, 3002), Verdict::Held);
    assert_eq!(send(&mut sw, 1, 105, 60, 3002), full);
}

#[test]
fn nothing_is_said_in_the_name_of_a_sender_that_moved_away() {
    let rarp = |n| other(crate::ids::Mac::BROADCAST, mac(n), 0x8035);
    let world = || {
        let mut sw = switch(Mode::Rewrite);
        hello(&mut sw, 1, Place::Local, at(0));
        hello(&mut sw, 4, Place::Local, at(0));
        assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(1)).0, Verdict::Held);
        assert_eq!(local(&mut sw, &data(Family::V4, 4, 2, ENDPOINT), at(2)).0, Verdict::Held);
        assert_eq!(local(&mut sw, &data(Family::V4, 1, 3, ENDPOINT), at(2)).0, Verdict::Held);
        remote(&mut sw, &rarp(1), P1, at(3));
        drain(&mut sw);
        sw
    };
    let mut sw = world();
    sw.handle_timeout(at(1100));
    let ask = asked(&mut sw);
    assert_eq!((eth(&ask.frame).src, sender_mac(&ask.frame)), (mac(4), mac(4)));
    assert_eq!(Arp::parse(&ask.frame, 14).unwrap().tpa, v4(2), "and no longer for what it alone wanted");
    assert_eq!((sw.held().0, sw.counters().drops(DropReason::HoldExpired)), (1, 2));
    let mut sw = world();
    remote(&mut sw, &gratuitous(Family::V4, 2), P2, at(4));
    let t = one(drain(&mut sw));
    assert_eq!((t.to, eth(&t.frame).src), (Destination::Peer(P2), mac(4)));
    assert_eq!((sw.held(), sw.counters().drops(DropReason::HoldExpired)), ((0, 0), 2));
}

#[test]
fn asks_with_an_own_address_of_the_sender_or_probes() {
    // A router's frames carry foreign sources: it asks with its own address.
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 1, Place::Local, at(0));
    let foreign = udp(ENDPOINT, mac(1), "8.8.8.8".parse().unwrap(), v4(2).into(), (53, 1));
    assert_eq!(local(&mut sw, &foreign, at(1)).0, Verdict::Held);
    let a = Arp::parse(&asked(&mut sw).frame, 14).unwrap();
    assert_eq!((a.op, a.spa, a.tpa, a.sha), (arp::REQUEST, v4(1), v4(2), mac(1)));
    // Nothing is known of the sender: a probe.
    let mut sw = switch(Mode::Rewrite);
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(0)).0, Verdict::Held);
    assert!(Arp::parse(&asked(&mut sw).frame, 14).unwrap().spa.is_unspecified());
    assert_eq!(local(&mut sw, &data(Family::V6, 1, 2, ENDPOINT), at(0)).0, Verdict::Held);
    assert_eq!(nd(&asked(&mut sw).frame).src, v6(1), "of the target's prefix");
    let foreign = udp(ENDPOINT, mac(3), "2001:db8::1".parse().unwrap(), v6(9).into(), (1, 2));
    assert_eq!(local(&mut sw, &foreign, at(1001)).0, Verdict::Held);
    assert!(drain(&mut sw).is_empty(), "not as duplicate address detection");
    hello(&mut sw, 3, Place::Local, at(1002));
    sw.handle_timeout(at(3000));
    assert!(drain(&mut sw).iter().all(|t| nd(&t.frame).src != Ipv6Addr::UNSPECIFIED));
}

#[test]
fn a_long_flow_refreshes_what_it_goes_to() {
    for family in FAMILIES {
        let mut sw = switch(Mode::Rewrite);
        hello(&mut sw, 1, Place::Local, at(0));
        hello(&mut sw, 2, Place::Peer(P1), at(0));
        let f = data(family, 1, 2, ENDPOINT);
        let sends = |sw: &mut Switch, s: u64| {
            assert_eq!(local(sw, &f, at(s * 1000)).0, Verdict::Peer(P1), "{s}");
            drain(sw)
        };
        assert!(sends(&mut sw, 1079).is_empty());
        let poll = one(sends(&mut sw, 1081));
        assert_eq!(
            (poll.to, eth(&poll.frame).dst, sender_mac(&poll.frame)),
            (Destination::Peer(P1), mac(2), mac(1))
        );
        assert!(sends(&mut sw, 1081).is_empty(), "once a second");
        assert_eq!(sends(&mut sw, 1082).len(), 1);
        // At the owner's node it reaches the owner, whose answer comes back.
        let mut theirs = switch(Mode::Rewrite);
        hello(&mut theirs, 2, Place::Local, at(0));
        assert_eq!(remote(&mut theirs, &poll.frame, P2, at(1_082_000)).0, Verdict::Bridge);
        let (verdict, answer) = local(&mut theirs, &reply(family, 2, 1, ENDPOINT), at(1_082_001));
        assert_eq!(verdict, Verdict::Peer(P2));
        remote(&mut sw, &answer, P1, at(1_083_000));
        for s in [1084, 1190, 1300, 2000] {
            assert!(sends(&mut sw, s).is_empty());
        }
    }
}

#[test]
fn not_held() {
    let mut sw = switch(Mode::Rewrite);
    let refused = Verdict::Drop(DropReason::NotForEndpoint);
    for to in ["255.255.255.255", "224.0.0.5", "127.0.0.1"] {
        let f = udp(ENDPOINT, mac(1), v4(1).into(), to.parse().unwrap(), (1, 2));
        assert_eq!(local(&mut sw, &f, at(0)).0, refused, "{to}");
    }
    let mut preserve = switch(Mode::Preserve);
    assert_eq!(local(&mut preserve, &data(Family::V4, 1, 2, ENDPOINT), at(0)).0, refused);
    sw.handle_link(P1, false, at(0));
    sw.handle_link(P2, false, at(0));
    let alone = local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(0)).0;
    assert_eq!(alone, Verdict::Held, "its owner may be on the bridge");
    drain(&mut sw);
    hello(&mut sw, 2, Place::Peer(P1), at(0));
    let cut = local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(0)).0;
    assert_eq!(cut, Verdict::Drop(DropReason::LinkDown));
}

/// Both peers' links are down, and instance 1 is known here.
fn alone() -> Switch {
    let mut sw = switch(Mode::Rewrite);
    sw.handle_link(P1, false, at(0));
    sw.handle_link(P2, false, at(0));
    hello(&mut sw, 1, Place::Local, at(0));
    sw
}

#[test]
fn a_peer_whose_link_comes_up_is_asked_for_what_is_held() {
    for family in FAMILIES {
        let mut sw = alone();
        assert_eq!(local(&mut sw, &data(family, 1, 2, ENDPOINT), at(1)).0, Verdict::Held);
        assert!(drain(&mut sw).iter().all(|t| t.to == Destination::Bridge), "there is nobody to ask");
        sw.handle_link(P1, true, at(500));
        let ask = one(drain(&mut sw));
        assert_eq!((ask.to, eth(&ask.frame).src), (Destination::Peer(P1), mac(1)));
        sw.handle_link(P1, true, at(510));
        assert!(drain(&mut sw).is_empty(), "it was up");
        sw.handle_link(P2, true, at(550));
        assert_eq!(one(drain(&mut sw)).to, Destination::Peer(P2), "whoever was asked before");
        assert_eq!(sw.poll_timeout(), Some(at(600)));
        sw.handle_timeout(at(600));
        assert_eq!(one(drain(&mut sw)).to, Destination::Peer(P1), "and once more soon");
        remote(&mut sw, &reply(family, 2, 1, mac(1)), P1, at(610));
        assert_eq!(one(drain(&mut sw)).to, Destination::Peer(P1), "released");
        sw.handle_timeout(at(650));
        assert!(drain(&mut sw).is_empty(), "it is known by now");
    }
}

#[test]
fn a_peer_whose_link_comes_up_is_asked_for_what_was_asked_for_lately() {
    for (mode, family) in MODES.into_iter().flat_map(|m| FAMILIES.into_iter().map(move |f| (m, f))) {
        let mut sw = switch(mode);
        hello(&mut sw, 1, Place::Local, at(0));
        sw.handle_link(P1, false, at(0));
        assert_eq!(local(&mut sw, &request(family, 1, 2), at(1)).0, Verdict::Flood, "P2 does not know");
        local(&mut sw, &probe(family, 1, 3), at(2));
        drain(&mut sw);
        sw.handle_link(P1, true, at(500));
        let ask = one(drain(&mut sw));
        assert_eq!((ask.to, eth(&ask.frame).src), (Destination::Peer(P1), mac(1)));
        // Its first answer makes the second asking needless.
        remote(&mut sw, &reply(family, 2, 1, mac(1)), P1, at(510));
        sw.handle_timeout(at(600));
        assert!(drain(&mut sw).is_empty());
        // What was wanted long ago is wanted no more.
        local(&mut sw, &request(family, 1, 4), at(1000));
        drain(&mut sw);
        sw.handle_link(P2, false, at(4001));
        sw.handle_link(P2, true, at(4001));
        assert!(drain(&mut sw).is_empty());
    }
}

#[test]
fn what_is_held_for_a_binding_behind_a_link_that_is_down_goes_when_it_comes_up() {
    let mut sw = alone();
    let f = data(Family::V4, 1, 2, ENDPOINT);
    assert_eq!(local(&mut sw, &f, at(1)).0, Verdict::Held);
    sw.set_binding(announced(2, Place::Peer(P1), 1), at(2)).unwrap();
    drain(&mut sw);
    assert_eq!(sw.held().0, 1);
    sw.handle_link(P2, true, at(3));
    assert!(drain(&mut sw).is_empty(), "P2 has nothing to do with it");
    sw.handle_link(P1, true, at(4));
    let t = one(drain(&mut sw));
    assert_eq!((t.to, eth(&t.frame).dst, sw.held().0), (Destination::Peer(P1), mac(2), 0));
}

#[test]
fn no_peer_is_asked_for_an_instance_that_left_or_beyond_the_rate() {
    let mut sw = alone();
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(1)).0, Verdict::Held);
    remote(&mut sw, &gratuitous(Family::V4, 1), P2, at(2));
    drain(&mut sw);
    sw.handle_link(P1, true, at(3));
    assert!(drain(&mut sw).is_empty());
    let policy = Policy { broadcast_rate: 1, broadcast_burst: 3, ..Policy::default() };
    let mut sw = with(SwitchConfig { policy, ..config(Mode::Rewrite) });
    sw.handle_link(P1, false, at(0));
    sw.handle_link(P2, false, at(0));
    for n in 10..20 {
        local(&mut sw, &data(Family::V4, 1, n, ENDPOINT), at(0));
    }
    drain(&mut sw);
    sw.handle_link(P1, true, at(0));
    assert_eq!(drain(&mut sw).len(), 3);
}
