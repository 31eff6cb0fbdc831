//! Off-link traffic of guests whose router is behind a peer.

use super::fixture::*;
use crate::frame::arp::Arp;
use crate::ids::Mac;
use crate::switch::*;

/// A DHCP offer of instance `n` that names `router` and a /24.
fn offer(n: u8, router: u8, dst: Mac) -> Vec<u8> {
    let mut payload = vec![0; 236];
    payload[0] = 2;
    payload.extend([99, 130, 83, 99, 53, 1, 2, 0, 1, 4, 255, 255, 255, 0, 3, 4]);
    payload.extend(v4(router).octets());
    payload.push(255);
    let mut f = Vec::new();
    etherparse::PacketBuilder::ethernet2(mac(n).0, dst.0)
        .ipv4(v4(n).octets(), [255; 4], 64)
        .udp(67, 68)
        .write(&mut f, &payload)
        .unwrap();
    f
}

fn off_link(family: Family, n: u8) -> Vec<u8> {
    let to = match family {
        Family::V4 => "192.0.2.1",
        Family::V6 => "2001:db8::1",
    };
    udp(ENDPOINT, mac(n), ip(family, n), to.parse().unwrap(), (1, 2))
}

#[test]
fn dhcp_names_the_ipv4_router() {
    for unicast in [false, true] {
        let mut sw = switch(Mode::Rewrite);
        hello(&mut sw, 1, Place::Local, at(0));
        hello(&mut sw, 7, Place::Peer(P1), at(0));
        hello(&mut sw, 8, Place::Peer(P2), at(0));
        let dst = if unicast { mac(1) } else { Mac::BROADCAST };
        assert_eq!(remote(&mut sw, &offer(8, 7, dst), P2, at(1)).0, Verdict::Bridge);
        let (verdict, sent) = local(&mut sw, &off_link(Family::V4, 1), at(2));
        assert_eq!((verdict, eth(&sent).dst), (Verdict::Peer(P1), mac(7)));
        // What is on-link by the offer's mask is asked for, not sent to the router.
        assert_eq!(local(&mut sw, &data(Family::V4, 1, 99, ENDPOINT), at(3)).0, Verdict::Held);
    }
}

#[test]
fn advertisements_name_the_ipv6_router() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 1, Place::Local, at(0));
    assert_eq!(local(&mut sw, &off_link(Family::V6, 1), at(1)).0, Verdict::Held);
    remote(&mut sw, &router_advert(7), P1, at(2));
    let (verdict, sent) = local(&mut sw, &off_link(Family::V6, 1), at(3));
    assert_eq!((verdict, eth(&sent).dst), (Verdict::Peer(P1), mac(7)));
    assert_eq!(local(&mut sw, &data(Family::V6, 1, 99, ENDPOINT), at(4)).0, Verdict::Held, "on-link");
}

#[test]
fn a_router_that_was_forgotten_is_asked_for_itself() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 7, Place::Peer(P1), at(0));
    remote(&mut sw, &offer(7, 7, Mac::BROADCAST), P1, at(1));
    let late = 1_300_000;
    assert_eq!(local(&mut sw, &off_link(Family::V4, 1), at(late)).0, Verdict::Held);
    let ask = drain(&mut sw).into_iter().find(|t| t.to == Destination::Flood).unwrap();
    assert_eq!(Arp::parse(&ask.frame, 14).unwrap().tpa, v4(7));
    remote(&mut sw, &reply(Family::V4, 7, 1, mac(1)), P2, at(late + 5));
    let t = one(drain(&mut sw));
    assert_eq!((t.to, eth(&t.frame).dst), (Destination::Peer(P2), mac(7)));
}

#[test]
fn a_router_that_moved_here_gets_the_frames_by_the_bridge() {
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 7, Place::Local, at(0));
    local(&mut sw, &offer(7, 7, Mac::BROADCAST), at(1));
    let (verdict, sent) = local(&mut sw, &off_link(Family::V4, 1), at(2));
    assert_eq!((verdict, eth(&sent).dst, eth(&sent).src), (Verdict::Bridge, mac(7), ENDPOINT));
    assert_eq!(told(&one(drain(&mut sw)).frame).ip, ip(Family::V4, 7), "and the sender is corrected");
}

#[test]
fn truncated_offers_teach_nothing_and_do_no_harm() {
    let whole = offer(7, 7, Mac::BROADCAST);
    let end = whole.len();
    for len in 42..=end {
        let mut sw = switch(Mode::Rewrite);
        hello(&mut sw, 1, Place::Local, at(0));
        hello(&mut sw, 7, Place::Peer(P1), at(0));
        assert_eq!(remote(&mut sw, &whole[..len], P1, at(1)).0, Verdict::Bridge, "{len}");
        let verdict = local(&mut sw, &off_link(Family::V4, 1), at(2)).0;
        // The router is the last option before the end mark.
        let told = len >= end - 1;
        assert_eq!(verdict, if told { Verdict::Peer(P1) } else { Verdict::Held }, "{len}");
        assert_eq!(sw.bindings(at(2)).any(|b| b.router), told, "{len}");
    }
}

/// How the switch is told that instance 7 is a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Config,
    Dhcp,
    Advert,
    /// A controller's binding for an IP of the configuration.
    Bound,
}

fn told_of_router(mode: Mode, family: Family, word: Word) -> Switch {
    let mut c = config(mode);
    if matches!(word, Word::Config | Word::Bound) {
        c.gateways = vec![v4(7).into(), v6(7).into()];
    }
    let mut sw = with(c);
    hello(&mut sw, 1, Place::Local, at(0));
    match word {
        Word::Bound => drop(sw.set_binding(binding(7, Place::Peer(P1), 1), at(0)).unwrap()),
        Word::Advert if family == Family::V6 => {
            let f = advert(
                7,
                crate::frame::nd::multicast_mac(crate::frame::nd::ALL_NODES),
                crate::frame::nd::ALL_NODES,
                0xa0,
            );
            remote(&mut sw, &f, P1, at(0));
        }
        _ => hello(&mut sw, 7, Place::Peer(P1), at(0)),
    }
    if word == Word::Dhcp {
        remote(&mut sw, &offer(8, 7, Mac::BROADCAST), P2, at(0));
    }
    drain(&mut sw);
    sw
}

#[test]
fn guests_are_shown_a_routers_own_mac() {
    use Word::{Advert, Bound, Config, Dhcp};
    for mode in MODES {
        for (family, word) in [
            (Family::V4, Config),
            (Family::V6, Config),
            (Family::V4, Dhcp),
            (Family::V6, Advert),
            (Family::V4, Bound),
            (Family::V6, Bound),
        ] {
            let what = format!("{mode:?} {family:?} {word:?}");
            let mut sw = told_of_router(mode, family, word);
            let own = Told { dst: mac(1), src: mac(7), ip: ip(family, 7), mac: mac(7) };
            // By the switch's answer, by the router's reply, and by what it sends itself.
            assert_eq!(local(&mut sw, &request(family, 1, 7), at(1)).0, Verdict::Answered, "{what}");
            assert_eq!(told(&one(drain(&mut sw)).frame), own, "{what}");
            let (verdict, seen) = remote(&mut sw, &reply(family, 7, 1, mac(1)), P1, at(2));
            assert_eq!((verdict, told(&seen)), (Verdict::Bridge, own), "{what}");
            let asks = remote(&mut sw, &request(family, 7, 99), P1, at(3)).1;
            assert_eq!((eth(&asks).src, sender_mac(&asks)), (mac(7), mac(7)), "{what}");
            let data_seen = remote(&mut sw, &data(family, 7, 1, mac(1)), P1, at(4)).1;
            assert_eq!(data_seen, data(family, 7, 1, mac(1)), "{what}");
            // What is for it goes there by its MAC, whatever the destination IP.
            let mut out = off_link(family, 1);
            out[..6].copy_from_slice(&mac(7).0);
            assert_eq!(local(&mut sw, &out, at(5)), (Verdict::Peer(P1), out), "{what}");
            // From here to a peer: the bridge learns that its MAC is behind the endpoint.
            let rarp = other(Mac::BROADCAST, mac(7), 0x8035);
            if word != Bound {
                local(&mut sw, &rarp, at(10));
                drain(&mut sw);
                remote(&mut sw, &rarp, P2, at(20));
                let told: Vec<_> = drain(&mut sw).iter().map(|t| told(&t.frame)).collect();
                assert!(
                    !told.is_empty() && told.iter().all(|t| (t.src, t.mac) == (mac(7), mac(7))),
                    "{what}"
                );
            }
            // Nobody else is shown.
            let asks = remote(&mut sw, &request(family, 9, 99), P1, at(30)).1;
            let hidden = if mode == Mode::Rewrite { ENDPOINT } else { mac(9) };
            assert_eq!((eth(&asks).src, sender_mac(&asks)), (hidden, hidden), "{what}");
        }
    }
}

#[test]
fn a_gateway_of_the_configuration_gets_what_still_comes_to_the_endpoint() {
    for family in FAMILIES {
        let mut sw = told_of_router(Mode::Rewrite, family, Word::Config);
        let (verdict, sent) = local(&mut sw, &off_link(family, 1), at(2));
        assert_eq!((verdict, eth(&sent).dst), (Verdict::Peer(P1), mac(7)));
        assert_eq!(local(&mut sw, &data(family, 1, 99, ENDPOINT), at(3)).0, Verdict::Held, "on-link");
    }
}
