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
    for len in 42..whole.len() {
        let mut sw = switch(Mode::Rewrite);
        remote(&mut sw, &whole[..len], P1, at(0));
        local(&mut sw, &off_link(Family::V4, 1), at(1));
    }
}
