//! The four cases, exhaustively: family x mode x what is known of the target x kind of message.

use super::fixture::*;
use crate::frame::{arp, arp::Arp, nd, nd::NdKind};
use crate::ids::Mac;
use crate::switch::*;

/// What the switch knows of instance 2, who is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Nothing,
    Local,
    Remote,
    /// Behind a peer whose link is down.
    Cut,
    Prepared,
}

const KNOWN: [Known; 5] = [Known::Nothing, Known::Local, Known::Remote, Known::Cut, Known::Prepared];

fn world(mode: Mode, known: Known) -> Switch {
    let mut sw = switch(mode);
    match known {
        Known::Nothing => {}
        Known::Local => hello(&mut sw, 2, Place::Local, at(0)),
        Known::Remote => hello(&mut sw, 2, Place::Peer(P1), at(0)),
        Known::Cut => {
            hello(&mut sw, 2, Place::Peer(P1), at(0));
            sw.handle_link(P1, false, at(0));
        }
        Known::Prepared => {
            let b = Binding { state: State::Prepared, ..binding(2, Place::Peer(P1), 3) };
            sw.set_binding(b, at(0)).unwrap();
        }
    }
    sw
}

fn every() -> impl Iterator<Item = (Family, Mode, Known)> {
    FAMILIES
        .into_iter()
        .flat_map(|f| MODES.into_iter().flat_map(move |m| KNOWN.into_iter().map(move |k| (f, m, k))))
}

fn shown(mode: Mode, n: u8) -> Mac {
    if mode == Mode::Rewrite { ENDPOINT } else { mac(n) }
}

#[test]
fn case_1_local_request_and_probe() {
    for (family, mode, known) in every() {
        for ask in [request(family, 1, 2), probe(family, 1, 2)] {
            let mut sw = world(mode, known);
            hello(&mut sw, 1, Place::Local, at(0));
            let (verdict, sent) = local(&mut sw, &ask, at(10));
            let what = format!("{family:?} {mode:?} {known:?}");
            match known {
                Known::Remote if ask == probe(family, 1, 2) => {
                    assert_eq!((verdict, sent), (Verdict::Peer(P1), ask), "the owner defends itself: {what}");
                }
                Known::Remote => {
                    assert_eq!(verdict, Verdict::Answered, "{what}");
                    let t = one(drain(&mut sw));
                    assert_eq!(t.to, Destination::Bridge);
                    let s = shown(mode, 2);
                    let answer = Told { dst: mac(1), src: s, ip: ip(family, 2), mac: s };
                    assert_eq!(told(&t.frame), answer, "{what}");
                }
                Known::Local => assert_eq!(verdict, Verdict::Drop(DropReason::SameBridge), "{what}"),
                Known::Nothing | Known::Cut | Known::Prepared => {
                    assert_eq!(verdict, Verdict::Flood, "{what}");
                    assert_eq!(sent, ask, "a request crosses unchanged");
                    let again = local(&mut sw, &ask, at(500)).0;
                    assert_eq!(again, Verdict::Drop(DropReason::AskLimited), "{what}");
                    assert_eq!(local(&mut sw, &ask, at(1010)).0, Verdict::Flood, "{what}");
                }
            }
            assert!(drain(&mut sw).is_empty());
        }
    }
}

#[test]
fn case_1_unicast_poll_goes_to_the_owner() {
    for (family, mode, known) in every() {
        let mut sw = world(mode, known);
        hello(&mut sw, 1, Place::Local, at(0));
        let to = shown(mode, 2);
        let ask = poll(family, 1, 2, to);
        let (verdict, sent) = local(&mut sw, &ask, at(10));
        let what = format!("{family:?} {mode:?} {known:?}");
        match (known, mode) {
            (Known::Remote, _) => {
                assert_eq!(verdict, Verdict::Peer(P1), "{what}");
                assert_eq!((eth(&sent).dst, eth(&sent).src, sender_mac(&sent)), (mac(2), mac(1), mac(1)));
            }
            (Known::Cut, _) => assert_eq!(verdict, Verdict::Drop(DropReason::LinkDown), "{what}"),
            (Known::Local, Mode::Rewrite) => {
                assert_eq!(verdict, Verdict::Bridge, "{what}");
                assert_eq!((eth(&sent).dst, eth(&sent).src, sender_mac(&sent)), (mac(2), ENDPOINT, mac(1)));
                let t = one(drain(&mut sw));
                let told = told(&t.frame);
                assert_eq!((t.to, told.dst, told.src), (Destination::Bridge, mac(1), ENDPOINT));
                assert_eq!((told.ip, told.mac), (ip(family, 2), mac(2)), "{what}");
            }
            (Known::Local, Mode::Preserve) => {
                assert_eq!(verdict, Verdict::Drop(DropReason::SameBridge), "{what}");
            }
            (Known::Nothing | Known::Prepared, _) => {
                assert_eq!(verdict, Verdict::Flood, "{what}");
                assert_eq!(eth(&sent).dst.is_group(), mode == Mode::Rewrite);
            }
        }
        let told = drain(&mut sw).iter().any(|t| eth(&t.frame).dst == mac(1));
        assert!(!told, "a poll is never answered by the switch: {what}");
    }
}

#[test]
fn case_2_local_reply_returns_to_its_asker_only() {
    for family in FAMILIES {
        for mode in MODES {
            // The asker is known by its request alone, which came to the bridge.
            let mut sw = switch(mode);
            let (verdict, _) = remote(&mut sw, &request(family, 2, 1), P2, at(0));
            assert_eq!(verdict, Verdict::Bridge);
            let to = shown(mode, 2);
            let (verdict, sent) = local(&mut sw, &reply(family, 1, 2, to), at(5));
            assert_eq!(verdict, Verdict::Peer(P2), "{family:?} {mode:?}");
            assert_eq!(sent, reply(family, 1, 2, mac(2)), "as if sent to the asker itself");
            assert_eq!(told(&one(drain(&mut sw)).frame).ip, ip(family, 1), "and its IP, being new, to all");
            // Learned: the next request is answered at once.
            let (verdict, _) = remote(&mut sw, &request(family, 3, 1), P1, at(10));
            assert_eq!(verdict, Verdict::Answered);
            assert_eq!(one(drain(&mut sw)).to, Destination::Peer(P1));
            // A reply for nobody.
            let stray = reply(family, 1, 9, if mode == Mode::Rewrite { ENDPOINT } else { mac(9) });
            assert_eq!(local(&mut sw, &stray, at(20)).0, Verdict::Drop(DropReason::NoAsker));
        }
    }
}

#[test]
fn case_2_gratuitous_is_flooded_and_learned() {
    for family in FAMILIES {
        for mode in MODES {
            let mut sw = switch(mode);
            let g = gratuitous(family, 1);
            assert_eq!(local(&mut sw, &g, at(0)), (Verdict::Flood, g.clone()));
            assert!(sw.bindings(at(1)).any(|b| b.key == station(1) && b.ips == [ip(family, 1)]));
        }
    }
    // An instance may tell the endpoint alone; the overlay does not carry its MAC.
    let mut sw = switch(Mode::Rewrite);
    let mut f = gratuitous(Family::V4, 1);
    f[..6].copy_from_slice(&ENDPOINT.0);
    assert_eq!(local(&mut sw, &f, at(0)), (Verdict::Flood, gratuitous(Family::V4, 1)));
}

#[test]
fn case_3_remote_request_and_probe() {
    for (family, mode, known) in every() {
        for is_probe in [false, true] {
            let ask = if is_probe { probe(family, 1, 2) } else { request(family, 1, 2) };
            let mut sw = world(mode, known);
            let (verdict, sent) = remote(&mut sw, &ask, P2, at(10));
            let what = format!("{family:?} {mode:?} {known:?} probe {is_probe}");
            if known == Known::Local && !is_probe {
                assert_eq!(verdict, Verdict::Answered, "{what}");
                let t = one(drain(&mut sw));
                assert_eq!(t.to, Destination::Peer(P2));
                let real = Told { dst: mac(1), src: mac(2), ip: ip(family, 2), mac: mac(2) };
                assert_eq!(told(&t.frame), real, "{what}");
                continue;
            }
            assert_eq!(verdict, Verdict::Bridge, "{what}");
            let s = shown(mode, 1);
            assert_eq!(eth(&sent).src, s, "{what}");
            let kept = is_probe && family == Family::V4;
            if !(is_probe && family == Family::V6) {
                assert_eq!(sender_mac(&sent), if kept { mac(1) } else { s }, "{what}");
            }
        }
    }
}

#[test]
fn case_3_remote_poll_reaches_the_instance() {
    for family in FAMILIES {
        for mode in MODES {
            let mut sw = world(mode, Known::Local);
            let (verdict, sent) = remote(&mut sw, &poll(family, 1, 2, mac(2)), P2, at(10));
            assert_eq!(verdict, Verdict::Bridge);
            let s = shown(mode, 1);
            assert_eq!((eth(&sent).dst, eth(&sent).src, sender_mac(&sent)), (mac(2), s, s));
            let (verdict, sent) = local(&mut sw, &reply(family, 2, 1, s), at(11));
            assert_eq!((verdict, sent), (Verdict::Peer(P2), reply(family, 2, 1, mac(1))));
        }
    }
}

#[test]
fn case_4_remote_reply_shows_the_endpoint() {
    for family in FAMILIES {
        for mode in MODES {
            let mut sw = switch(mode);
            local(&mut sw, &request(family, 1, 2), at(0));
            let (verdict, sent) = remote(&mut sw, &reply(family, 2, 1, mac(1)), P1, at(5));
            assert_eq!(verdict, Verdict::Bridge);
            let s = shown(mode, 2);
            assert_eq!(told(&sent), Told { dst: mac(1), src: s, ip: ip(family, 2), mac: s });
            let g = remote(&mut sw, &gratuitous(family, 2), P1, at(6)).1;
            assert_eq!((eth(&g).src, sender_mac(&g)), (s, s));
            // Known now: answered here, nothing crosses.
            assert_eq!(local(&mut sw, &request(family, 3, 2), at(7)).0, Verdict::Answered);
        }
    }
}

#[test]
fn a_probe_of_the_bound_instance_itself_is_a_move_not_a_conflict() {
    for family in FAMILIES {
        for mode in MODES {
            // Here before, now probing from a peer.
            let mut sw = world(mode, Known::Local);
            let (verdict, _) = remote(&mut sw, &probe(family, 2, 2), P2, at(10));
            assert_eq!(verdict, Verdict::Bridge);
            assert!(drain(&mut sw).iter().all(|t| t.to == Destination::Bridge), "no answer");
            assert!(sw.macs(at(10)).any(|m| m.key == station(2) && m.at == Place::Peer(P2)));
            // There before, now probing from here: the peers must hear of it.
            let mut sw = world(mode, Known::Remote);
            assert_eq!(local(&mut sw, &probe(family, 2, 2), at(10)).0, Verdict::Flood);
            let v6_told = drain(&mut sw).iter().any(|t| eth(&t.frame).ethertype == 0x86dd);
            assert!(!v6_told, "an address under detection must not be announced");
        }
    }
}

#[test]
fn flags_of_adverts() {
    for mode in MODES {
        let mut sw = switch(mode);
        hello(&mut sw, 1, Place::Local, at(0));
        remote(
            &mut sw,
            &advert(2, nd::multicast_mac(nd::ALL_NODES), nd::ALL_NODES, nd::FLAG_ROUTER),
            P1,
            at(0),
        );
        local(&mut sw, &request(Family::V6, 1, 2), at(1));
        let t = one(drain(&mut sw));
        let NdKind::Advert { router, solicited, override_, .. } = nd(&t.frame).kind else { panic!() };
        assert!(router && solicited && override_);
        assert_eq!(nd(&t.frame).dst, v6(1));
        sw.set_binding(binding(2, Place::Peer(P1), 1), at(1)).unwrap();
        local(&mut sw, &probe(Family::V6, 1, 2), at(2));
        let t = one(drain(&mut sw));
        let NdKind::Advert { router, solicited, override_, .. } = nd(&t.frame).kind else { panic!() };
        assert!(router && !solicited && override_);
        assert_eq!(nd(&t.frame).dst, nd::ALL_NODES);
    }
}

#[test]
fn answers_to_arp_probes_name_the_unspecified_asker() {
    let mut sw = world(Mode::Rewrite, Known::Remote);
    sw.set_binding(binding(2, Place::Peer(P1), 1), at(0)).unwrap();
    local(&mut sw, &probe(Family::V4, 1, 2), at(1));
    let t = one(drain(&mut sw));
    let a = Arp::parse(&t.frame, 14).unwrap();
    assert_eq!((a.op, a.tpa.is_unspecified(), a.tha), (arp::REPLY, true, mac(1)));
}

#[test]
fn a_partial_checksum_stays_the_pseudo_headers_sum() {
    let mut sw = switch(Mode::Rewrite);
    let mut f = gratuitous(Family::V6, 2);
    let field = [f[56], f[57]];
    let vnet = crate::vnet::VnetHdr { csum: Some(crate::vnet::PartialCsum { start: 54, offset: 2 }), ..VNET };
    assert_eq!(sw.handle_remote(&mut f, &vnet, P1, at(0)), Verdict::Bridge);
    assert_eq!([f[56], f[57]], field);
    assert_eq!(f[f.len() - 6..], ENDPOINT.0);
}

#[test]
fn router_adverts_show_the_routers_own_mac_and_mark_it() {
    let mut sw = switch(Mode::Rewrite);
    let (verdict, sent) = remote(&mut sw, &router_advert(7), P1, at(0));
    assert_eq!(verdict, Verdict::Bridge);
    assert_eq!((eth(&sent).src, sender_mac(&sent)), (mac(7), mac(7)));
    assert!(sw.bindings(at(0)).any(|b| b.key == station(7) && b.router));
}

#[test]
fn answers_keep_the_tags_of_the_question() {
    use crate::frame::{Tags, build};
    let tagged = |n: u8, spa: u8, tpa: u8, vid: u16| {
        let mut f = build::header(Mac::BROADCAST, mac(n), Tags::from_vids(&[vid]).unwrap(), 0x0806);
        f[14] = 0x60; // priority 3
        Arp { op: arp::REQUEST, sha: mac(n), spa: v4(spa), tha: Mac::ZERO, tpa: v4(tpa) }.append(&mut f);
        f
    };
    let mut sw = switch(Mode::Rewrite);
    remote(&mut sw, &tagged(2, 2, 2, 5), P1, at(0));
    assert_eq!(local(&mut sw, &tagged(1, 1, 2, 6), at(1)).0, Verdict::Flood, "another VLAN, another station");
    assert_eq!(local(&mut sw, &tagged(1, 1, 2, 5), at(1)).0, Verdict::Answered);
    let t = drain(&mut sw).remove(0);
    assert_eq!(t.to, Destination::Bridge);
    assert_eq!(t.frame[12..16], [0x81, 0, 0x60, 5]);
}
