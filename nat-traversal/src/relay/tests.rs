use std::net::IpAddr;

use proptest::prelude::*;
use turn_client_proto::api::Transmit;
use turn_client_proto::types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};
use turn_client_proto::types::stun::message::{BINDING, Message, MessageWriteVec};
use turn_client_proto::types::stun::prelude::MessageWrite;
use turn_server_proto::api::TurnServerApi;

use super::*;
use rig::{Rig, addr, client, node, refusal, server_addr};

mod rig;

#[test]
fn an_allocation_takes_two_round_trips_and_tells_the_mapped_address() {
    let mut rig = Rig::new();
    rig.run_for(Duration::from_millis(60));
    let relayed = addr("203.0.113.10:50001");
    assert_eq!(rig.events, [RelayEvent::Allocated { relayed, mapped: Some(node()) }]);
    assert_eq!(rig.client.relayed(), Some(relayed));
    assert_eq!(rig.count(ALLOCATE), 2);
}

#[test]
fn a_peer_is_permitted_and_bound_once_however_often_it_is_asked_for() {
    let mut rig = Rig::allocated();
    let peer = addr("192.0.2.5:700");
    for _ in 0..3 {
        rig.client.permit(peer.ip(), rig.now).unwrap();
        rig.client.bind(peer, rig.now).unwrap();
    }
    rig.run_for(Duration::from_millis(300));
    rig.client.bind(addr("[::ffff:192.0.2.5]:700"), rig.now).unwrap();
    rig.client.permit(peer.ip(), rig.now).unwrap();
    rig.run_for(Duration::from_secs(5));
    assert_eq!(rig.events, [RelayEvent::Permitted(peer.ip()), RelayEvent::Bound { peer, channel: 0x4000 }]);
    assert_eq!((rig.count(CREATE_PERMISSION), rig.count(CHANNEL_BIND)), (1, 1));
    assert_eq!(rig.client.channel(peer), Some(0x4000));
}

#[test]
fn wants_of_before_the_allocation_are_carried_out_after_it() {
    let mut rig = Rig::new();
    let peer = addr("192.0.2.5:700");
    rig.client.bind(peer, rig.now).unwrap();
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.client.channel(peer), Some(0x4000));
}

#[test]
fn data_goes_both_ways_by_indications_and_by_channel() {
    let mut rig = Rig::allocated();
    let peer = addr("192.0.2.5:700");
    rig.client.permit(peer.ip(), rig.now).unwrap();
    rig.run_for(Duration::from_secs(1));
    rig.events.clear();

    let head = frame::send_indication(peer, 5, [9; 12]).unwrap();
    let mut datagram = head.as_slice().to_vec();
    datagram.extend_from_slice(b"hello\0\0\0");
    rig.server_gets(&datagram);
    rig.peer_sends(peer, b"back");
    assert_eq!(rig.to_peers, [(peer, b"hello".to_vec())]);
    assert_eq!(rig.events, [RelayEvent::PeerData { peer, payload: b"back".to_vec() }]);

    let channel = rig.bind("192.0.2.5:700");
    rig.events.clear();
    let mut datagram = frame::channel_header(channel, 3).to_vec();
    datagram.extend_from_slice(b"abc");
    rig.server_gets(&datagram);
    rig.peer_sends(peer, b"xyz");
    assert_eq!(rig.to_peers[1], (peer, b"abc".to_vec()));
    assert_eq!(rig.events, [RelayEvent::PeerData { peer, payload: b"xyz".to_vec() }]);
}

#[test]
fn many_peers_at_once_are_asked_for_without_repetitions() {
    let mut rig = Rig::allocated();
    let peers: Vec<_> = (1..=120).map(|n| addr(&format!("192.0.2.{n}:700"))).collect();
    for peer in &peers {
        rig.client.bind(*peer, rig.now).unwrap();
    }
    rig.run_for(Duration::from_secs(20));
    assert_eq!((rig.count(CREATE_PERMISSION), rig.count(CHANNEL_BIND)), (120, 120));
    let mut channels: Vec<_> = peers.iter().map(|peer| rig.client.channel(*peer).unwrap()).collect();
    channels.sort_unstable();
    channels.dedup();
    assert_eq!(channels.len(), 120);
}

#[test]
fn a_wanted_channel_goes_before_permissions_for_later() {
    let mut rig = Rig::allocated();
    for n in 1..=100 {
        rig.client.permit(addr(&format!("192.0.2.{n}:1")).ip(), rig.now).unwrap();
    }
    rig.client.bind(addr("192.0.2.100:700"), rig.now).unwrap();
    rig.run_for(Duration::from_millis(600));
    assert!(rig.client.channel(addr("192.0.2.100:700")).is_some());
}

#[test]
fn everything_is_kept_fresh_for_hours() {
    let mut rig = Rig::allocated();
    let channel = rig.bind("192.0.2.5:700");
    rig.client.permit(addr("192.0.2.6:1").ip(), rig.now).unwrap();
    rig.run_for(Duration::from_secs(1));
    rig.events.clear();
    for _ in 0..4 {
        rig.run_for(Duration::from_secs(2480));
        assert_eq!(rig.events, []);
        let mut datagram = frame::channel_header(channel, 1).to_vec();
        datagram.push(7);
        rig.server_gets(&datagram);
        assert_eq!(rig.to_peers.pop(), Some((addr("192.0.2.5:700"), vec![7])));
        rig.peer_sends(addr("192.0.2.6:99"), b"still");
        assert!(matches!(rig.events.pop(), Some(RelayEvent::PeerData { .. })));
    }
    let minutes = 4.0 * 2480.0 / 60.0;
    let checks = rig.count(REFRESH) as f64 / minutes;
    assert!((4.0..6.0).contains(&checks), "{checks} checks a minute");
}

#[test]
fn stale_nonces_are_replaced() {
    let mut rig = Rig::new();
    rig.server.as_mut().unwrap().set_nonce_expiry_duration(Duration::from_secs(45));
    rig.run_for(Duration::from_secs(1));
    rig.bind("192.0.2.5:700");
    rig.run_for(Duration::from_secs(3600));
    assert_eq!(rig.lost_reason(), None);
    assert!(rig.client.channel(addr("192.0.2.5:700")).is_some());
}

#[test]
fn lost_datagrams_are_made_good() {
    for dice in 0..20 {
        let mut rig = Rig::new();
        (rig.lose, rig.dice) = (50, dice);
        rig.run_for(Duration::from_secs(10));
        // This server refuses the repetition of an Allocate whose answer was lost.
        for _ in 0..5 {
            if rig.lost_reason() == Some(LostReason::Leftover) {
                rig.client = client(RelayTransport::Udp, "p1", rig.now);
                rig.events.clear();
                rig.start_server();
                rig.run_for(Duration::from_secs(10));
            }
        }
        let bound = rig.client.bind(addr("192.0.2.5:700"), rig.now);
        assert_eq!(bound, Ok(()), "{dice}: {:?} {:?}", rig.events, rig.requests);
        rig.run_for(Duration::from_secs(20));
        assert!(rig.client.channel(addr("192.0.2.5:700")).is_some(), "{dice}: {:?}", rig.events);
    }
}

#[test]
fn a_global_relay_is_not_asked_for_private_peers() {
    let mut rig = Rig::new();
    let private = addr("10.1.2.3:5");
    rig.client.permit(private.ip(), rig.now).unwrap();
    rig.client.bind(addr("127.0.0.1:5"), rig.now).unwrap();
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.client.permit(private.ip(), rig.now), Err(RelayError::NotAllowed(private.ip())));
    assert_eq!(rig.client.bind(private, rig.now), Err(RelayError::NotAllowed(private.ip())));
    assert_eq!(rig.count(CREATE_PERMISSION) + rig.count(CHANNEL_BIND), 0);
    let why = PeerRefusal::NotAllowed;
    assert!(rig.events.contains(&RelayEvent::PermitFailed { peer: private.ip(), why }));
    assert!(rig.events.contains(&RelayEvent::BindFailed { peer: addr("127.0.0.1:5"), why }));
}

#[test]
fn a_relay_on_a_private_address_is_asked_for_private_peers() {
    let mut rig = Rig::new();
    rig.relay_ip = addr("127.0.0.1:1").ip();
    rig.run_for(Duration::from_secs(1));
    rig.bind("127.0.0.1:5");
}

#[test]
fn what_cannot_be_a_peer_is_refused() {
    let mut rig = Rig::allocated();
    let six = addr("[2001:db8::1]:5");
    assert_eq!(rig.client.permit(six.ip(), rig.now), Err(RelayError::Family(six.ip())));
    assert_eq!(rig.client.bind(addr("192.0.2.1:0"), rig.now), Err(RelayError::NoPort(addr("192.0.2.1:0"))));
    for n in 0..MAX_PEERS {
        let ip = IpAddr::from([8, 8, (n >> 8) as u8, n as u8]);
        assert_eq!(rig.client.permit(ip, rig.now), Ok(()));
    }
    assert_eq!(rig.client.permit(addr("9.9.9.9:1").ip(), rig.now), Err(RelayError::Full(MAX_PEERS)));
}

#[test]
fn a_server_that_never_answers_is_given_up_within_five_seconds() {
    let mut rig = Rig::new();
    rig.server = None;
    rig.run_until(rig.start + Duration::from_secs(60), |_| true);
    assert_eq!(rig.lost_reason(), Some(LostReason::Silent));
    assert!(rig.now - rig.start <= Duration::from_secs(5), "{:?}", rig.now - rig.start);
    assert_eq!(rig.client.poll_timeout(), None);
    assert_eq!(rig.client.bind(addr("192.0.2.1:1"), rig.now), Err(RelayError::Lost));
}

#[test]
fn a_server_that_dies_is_missed() {
    for (hurried, limit) in [(false, 19_001), (true, 4_001)] {
        let mut rig = Rig::allocated();
        rig.server = None;
        let died = rig.now;
        if hurried {
            rig.client.check_now(rig.now);
        }
        rig.run_until(died + Duration::from_secs(60), |_| true);
        assert_eq!(rig.lost_reason(), Some(LostReason::Silent));
        assert!(rig.now - died <= Duration::from_millis(limit), "{:?}", rig.now - died);
    }
}

#[test]
fn a_server_that_was_started_anew_is_noticed() {
    for hurried in [false, true] {
        let mut rig = Rig::allocated();
        rig.start_server();
        let restarted = rig.now;
        if hurried {
            rig.client.check_now(rig.now);
        }
        rig.run_until(restarted + Duration::from_secs(60), |_| true);
        assert_eq!(rig.lost_reason(), Some(LostReason::Forgotten));
        let limit = if hurried { Duration::from_millis(1) } else { Duration::from_secs(15) };
        assert!(rig.now - restarted <= limit, "{:?}", rig.now - restarted);
    }
}

#[test]
fn wrong_credentials_are_said_at_once() {
    let mut rig = Rig::with(RelayTransport::Udp, "wrong");
    rig.run_until(rig.start + Duration::from_secs(60), |_| true);
    assert_eq!(rig.lost_reason(), Some(LostReason::Credentials));
    assert!(rig.now - rig.start < Duration::from_millis(100));
    assert!(LostReason::Credentials.needs_credentials());
}

#[test]
fn each_refusal_of_an_allocation_has_its_sentence() {
    for (code, reason, word) in [
        (401, LostReason::Credentials, "credentials"),
        (403, LostReason::Forbidden, "forbids"),
        (440, LostReason::Unsupported, "address family"),
        (441, LostReason::Credentials, "credentials"),
        (442, LostReason::Unsupported, "transport"),
        (486, LostReason::Quota, "as many allocations"),
        (508, LostReason::Full, "no address or port left"),
        (300, LostReason::Refused(300), "error 300"),
    ] {
        let mut rig = Rig::new();
        rig.refuse = Some((ALLOCATE, code));
        rig.run_until(rig.start + Duration::from_secs(60), |_| true);
        assert_eq!(rig.events, [RelayEvent::Lost { why: reason }], "{code}");
        assert!(reason.to_string().contains(word), "{reason}");
        assert!(rig.now - rig.start < Duration::from_millis(100), "{code}: said late");
    }
}

#[test]
fn each_refusal_of_a_peer_is_that_peers_alone() {
    for (method, code, why) in [
        (CREATE_PERMISSION, 403, PeerRefusal::Forbidden),
        (CREATE_PERMISSION, 508, PeerRefusal::Full),
        (CREATE_PERMISSION, 486, PeerRefusal::Full),
        (CREATE_PERMISSION, 443, PeerRefusal::Family),
        (CHANNEL_BIND, 403, PeerRefusal::Forbidden),
        (CHANNEL_BIND, 400, PeerRefusal::Refused(400)),
    ] {
        let mut rig = Rig::allocated();
        rig.refuse = Some((method, code));
        let peer = addr("192.0.2.5:700");
        rig.client.bind(peer, rig.now).unwrap();
        rig.run_for(Duration::from_secs(1));
        rig.refuse = None;
        assert!(rig.events.contains(&RelayEvent::BindFailed { peer, why }), "{code}: {:?}", rig.events);
        rig.bind("192.0.2.6:700");
        rig.run_for(Duration::from_secs(60));
        assert_eq!(rig.lost_reason(), None);
        let again = rig.client.bind(peer, rig.now);
        rig.run_for(Duration::from_secs(20));
        assert_eq!((again, rig.client.channel(peer).is_some()), (Ok(()), true), "{method:?} {code}");
    }
}

#[test]
fn mismatch_and_wrong_credentials_end_the_allocation_whatever_was_asked() {
    for method in [CREATE_PERMISSION, CHANNEL_BIND, REFRESH] {
        for (code, why) in [(437, LostReason::Forgotten), (441, LostReason::Credentials)] {
            let mut rig = Rig::allocated();
            rig.refuse = Some((method, code));
            rig.client.bind(addr("192.0.2.5:700"), rig.now).unwrap();
            rig.run_for(Duration::from_secs(16));
            assert_eq!(rig.lost_reason(), Some(why), "{method:?} {code}");
        }
    }
}

#[test]
fn an_allocation_of_before_that_cannot_be_removed_is_said() {
    let mut rig = Rig::new();
    rig.refuse = Some((ALLOCATE, 437));
    rig.run_until(rig.start + Duration::from_secs(60), |_| true);
    assert_eq!(rig.lost_reason(), Some(LostReason::Occupied));
    assert_eq!(rig.count(REFRESH), 1, "its removal was asked for");
}

#[test]
fn a_closed_allocation_is_gone_from_the_server() {
    let mut rig = Rig::allocated();
    rig.bind("192.0.2.5:700");
    let relayed = rig.client.relayed().unwrap();
    rig.events.clear();
    rig.client.close(rig.now);
    rig.run_for(Duration::from_secs(1));
    assert_eq!((rig.events.len(), rig.client.poll_timeout()), (0, None));
    let now = rig.server_time();
    let transmit = Transmit::new(vec![1], TransportType::Udp, addr("192.0.2.5:700"), relayed);
    assert!(rig.server.as_mut().unwrap().recv(transmit, now).is_none());
}

#[test]
fn a_stream_carries_the_same_with_padding() {
    let mut rig = Rig::with(RelayTransport::Stream, "p1");
    rig.run_for(Duration::from_secs(1));
    let channel = rig.bind("192.0.2.5:700");
    assert_eq!(channel, 0x4000);
    rig.events.clear();
    let mut stream = Vec::new();
    for payload in [&b"one"[..], b"four", b"seventh"] {
        stream.extend_from_slice(&frame::channel_header(channel, payload.len() as u16));
        stream.extend_from_slice(payload);
        stream.resize(stream.len() + frame::stream_padding(payload.len()), 0);
    }
    for chunk in stream.chunks(5) {
        rig.client.handle_stream_bytes(chunk, rig.now);
    }
    rig.drain_events();
    let peer = addr("192.0.2.5:700");
    let data = |payload: &[u8]| RelayEvent::PeerData { peer, payload: payload.to_vec() };
    assert_eq!(rig.events, [data(b"one"), data(b"four"), data(b"seventh")]);
    rig.run_for(Duration::from_secs(4000));
    assert_eq!(rig.lost_reason(), None);
    rig.client.handle_stream_bytes(b"SSH-2.0-what is this", rig.now);
    rig.drain_events();
    assert_eq!(rig.lost_reason(), Some(LostReason::Stream));
}

#[test]
fn newer_credentials_take_over_without_a_gap() {
    let mut rig = Rig::allocated();
    let channel = rig.bind("192.0.2.5:700");
    rig.events.clear();
    for password in ["p2", "p3"] {
        // From here on the server takes the newer ones only.
        let server = rig.server.as_mut().unwrap();
        server.add_user("u1".to_owned(), password.to_owned());
        server.set_nonce_expiry_duration(Duration::from_secs(45));
        rig.client.set_credentials("u1", password, rig.now);
        rig.run_for(Duration::from_secs(2480));
        assert_eq!(rig.events, []);
        rig.server_gets(&[&frame::channel_header(channel, 1)[..], &[7]].concat());
        assert_eq!(rig.to_peers.pop(), Some((addr("192.0.2.5:700"), vec![7])));
        rig.bind(&format!("192.0.2.6:{}", rig.next_port));
        rig.next_port += 1;
        rig.events.clear();
    }
    // Right after one of those that come by themselves, so that none is near.
    let mut asked = rig.count(REFRESH);
    while rig.count(REFRESH) == asked {
        rig.run_for(Duration::from_secs(1));
    }
    asked = rig.count(REFRESH);
    rig.client.set_credentials("u1", "p3", rig.now);
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.count(REFRESH), asked, "they are in use already");
    rig.client.close(rig.now);
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.count(REFRESH), asked + 1);
}

#[test]
fn newer_credentials_of_before_the_allocation_are_tried_after_it() {
    let mut rig = Rig::new();
    rig.client.set_credentials("u1", "p2", rig.now);
    rig.run_for(Duration::from_millis(200));
    assert_eq!(rig.events.len(), 1, "allocated with the first ones");
    rig.server.as_mut().unwrap().add_user("u1".to_owned(), "p2".to_owned());
    rig.client.set_credentials("u1", "p2", rig.now);
    rig.run_for(Duration::from_secs(1000));
    assert_eq!(rig.lost_reason(), None);
    assert!(rig.client.relayed().is_some());
}

#[test]
fn newer_credentials_that_the_relay_does_not_take_change_nothing() {
    // A wrong password (401), and another user's (441, as coturn answers).
    for (username, password) in [("u1", "wrong"), ("u2", "p2")] {
        let mut rig = Rig::allocated();
        rig.server.as_mut().unwrap().add_user("u2".to_owned(), "p2".to_owned());
        rig.client.set_credentials(username, password, rig.now);
        rig.run_for(Duration::from_secs(2480));
        assert_eq!(rig.events, [], "{username}");
        rig.bind("192.0.2.5:700");
    }
}

#[test]
fn nothing_but_answers_to_its_requests_moves_the_client() {
    let mut rig = Rig::new();
    let request = rig.client.poll_transmit(rig.now).unwrap();
    for (method, code) in [(ALLOCATE, 437), (ALLOCATE, 401), (REFRESH, 437), (BINDING, 400)] {
        let foreign = Message::builder_request(method, MessageWriteVec::new()).finish();
        let foreign = refusal(&Message::from_bytes(&foreign).unwrap(), code);
        assert!(!rig.client.handle_datagram(&foreign, rig.now));
    }
    assert!(!rig.client.handle_datagram(&[0x40, 0, 0, 1, 9], rig.now), "a channel that nobody has");
    let stranger = frame::data_indication(addr("192.0.2.5:1"), 0, [1; 12]).unwrap();
    assert!(!rig.client.handle_datagram(stranger.as_slice(), rig.now), "a peer without permission");
    rig.server_gets(&request);
    rig.run_for(Duration::from_secs(1));
    assert!(matches!(rig.events[..], [RelayEvent::Allocated { .. }]), "{:?}", rig.events);
}

#[test]
fn credentials_are_in_no_debug_form() {
    let rig = Rig::with(RelayTransport::Udp, "secret-password");
    let shown = format!("{:?} {:?}", rig.client, rig.client.config);
    assert!(!shown.contains("secret-password") && !shown.contains("u1"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_answers_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        victim in 0u32..6,
    ) {
        let mut rig = Rig::new();
        rig.client.bind(addr("192.0.2.5:700"), rig.now).unwrap();
        for step in 0..6 {
            rig.now += Duration::from_millis(60);
            while let Some(request) = rig.client.poll_transmit(rig.now) {
                let now = rig.server_time();
                let transmit = Transmit::new(request, TransportType::Udp, node(), server_addr());
                let Some(reply) = rig.server.as_mut().unwrap().recv(transmit, now) else { continue };
                let mut reply = reply.build().data;
                if step == victim {
                    for (at, bits) in &flips {
                        let at = at.index(reply.len());
                        reply[at] ^= bits;
                    }
                }
                rig.client.handle_datagram(&reply, rig.now);
            }
            rig.run_server();
        }
        rig.run_for(Duration::from_secs(100));
    }
}
