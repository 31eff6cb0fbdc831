use super::super::data::Wrapping;
use super::*;

fn to_node(node: &Node, wrapping: Wrapping) -> ToNode {
    ToNode { client: node.client, wrapping }
}

#[test]
fn data_crosses_both_ways_by_permission_and_by_channel() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    lab.allocate(&node);
    let (id, peer) = (AllocationId(1), PEER.parse::<SocketAddr>().unwrap());
    let indication = send_indication(PEER, b"hello");

    assert_eq!(lab.handle(node.client, &indication), Action::Nothing);
    assert_eq!(lab.engine.handle_peer(id, peer, 5, lab.now.at), None);
    assert_eq!(lab.permit(&node, PEER), None);
    let Action::ToPeer { from, peer: to, payload } = lab.handle(node.client, &indication) else {
        panic!("it is not relayed")
    };
    assert_eq!((from, to, &indication[payload]), (id, peer, &b"hello"[..]));
    let wrapped = Wrapping::Indication(peer);
    assert_eq!(lab.engine.handle_peer(id, peer, 5, lab.now.at), Some(to_node(&node, wrapped)));
    // Permissions are for addresses, channels for ports.
    let other_port = SocketAddr::new(peer.ip(), 1);
    let wrapped = Wrapping::Indication(other_port);
    assert_eq!(lab.engine.handle_peer(id, other_port, 5, lab.now.at), Some(to_node(&node, wrapped)));

    let data = channel_data(0x4001, b"hello");
    assert_eq!(lab.handle(node.client, &data), Action::Nothing);
    assert_eq!(lab.bind(&node, 0x4001, PEER), None);
    assert_eq!(lab.handle(node.client, &data), Action::ToPeer { from: id, peer, payload: 4..9 });
    let wrapped = Wrapping::Channel(0x4001);
    assert_eq!(lab.engine.handle_peer(id, peer, 5, lab.now.at), Some(to_node(&node, wrapped)));
    assert_eq!((lab.counters.to_peers.bytes.get(), lab.counters.to_nodes.datagrams.get()), (10, 3));
    assert_eq!(lab.counters.refused(Refused::Permission), 3);
}

#[test]
fn permissions_and_channels_run_out() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    lab.allocate(&node);
    assert_eq!(lab.bind(&node, 0x4001, PEER), None);
    lab.ask(&node, REFRESH, &[&Lifetime::new(1800)]);
    let data = channel_data(0x4001, b"x");
    let crosses = |lab: &mut Lab| lab.handle(node.client, &data) != Action::Nothing;
    lab.pass(299);
    assert!(crosses(&mut lab));
    lab.pass(2);
    assert!(!crosses(&mut lab));
    assert_eq!(lab.permit(&node, PEER), None);
    assert!(crosses(&mut lab));
    lab.pass(290);
    assert_eq!(lab.permit(&node, PEER), None);
    lab.pass(10);
    assert!(!crosses(&mut lab));
    lab.engine.sweep(lab.now.at, &mut lab.ports);
    assert_eq!((lab.counters.permissions.get(), lab.counters.channels.get()), (1, 0));
}

#[test]
fn a_channel_is_one_peers_and_a_peer_has_one() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    lab.allocate(&node);
    let bad = Some(ErrorCode::BAD_REQUEST);
    assert_eq!(lab.bind(&node, 0x4001, PEER), None);
    assert_eq!(lab.bind(&node, 0x4001, PEER), None);
    assert_eq!(lab.bind(&node, 0x4002, PEER), bad);
    assert_eq!(lab.bind(&node, 0x4001, "198.51.100.8:4000"), bad);
    assert_eq!(lab.bind(&node, 0x4002, "198.51.100.8:4000"), None);
    for number in [0, 0x3fff, 0x7fff, 0x8000, 0xffff] {
        assert_eq!(lab.bind(&node, number, "198.51.100.9:4000"), bad, "{number:x}");
    }
}

#[test]
fn nobody_is_reached_behind_the_relay() {
    let mut lab = Lab::new();
    let node = lab.node(1);
    lab.allocate(&node);
    for peer in ["127.0.0.1:22", "10.0.0.1:22", "169.254.169.254:80", "224.0.0.1:5353", "0.0.0.0:22"] {
        assert_eq!(lab.permit(&node, peer), Some(ErrorCode::FORBIDDEN), "{peer}");
        assert_eq!(lab.bind(&node, 0x4001, peer), Some(ErrorCode::FORBIDDEN), "{peer}");
    }
    // All or none.
    let mut message = Message::builder_request(CREATE_PERMISSION, MessageWriteVec::new());
    for peer in [PEER, "10.0.0.1:1"] {
        let peer = XorPeerAddress::new(peer.parse().unwrap(), message.transaction_id());
        message.push_attribute_unchecked(&peer);
    }
    let request = node.sign(message, &[]);
    assert_eq!(Answer::of(lab.handle(node.client, &request)).code, Some(ErrorCode::FORBIDDEN));
    assert_eq!(lab.handle(node.client, &send_indication(PEER, b"x")), Action::Nothing);
    // The relay's own address may be permitted, for the relayed addresses there; nothing else of it is reached.
    assert_eq!(lab.permit(&node, "203.0.113.10:22"), None);
    assert_eq!(lab.handle(node.client, &send_indication("203.0.113.10:22", b"x")), Action::Nothing);
    assert_eq!(lab.counters.refused(Refused::Peer), 12);
}

#[test]
fn two_allocations_reach_each_other_without_the_network() {
    let mut lab = Lab::new();
    let (one, two) = (lab.node(1), lab.node(2));
    let (at_one, at_two) = (lab.allocate(&one).to_string(), lab.allocate(&two).to_string());
    assert_eq!(lab.bind(&one, 0x4001, &at_two), None);
    let data = channel_data(0x4001, b"hello");
    assert_eq!(lab.handle(one.client, &data), Action::Nothing, "the other one has not permitted it");
    assert_eq!(lab.bind(&two, 0x4005, &at_one), None);
    let to = to_node(&two, Wrapping::Channel(0x4005));
    assert_eq!(lab.handle(one.client, &data), Action::ToNode { to, payload: 4..9 });
}

#[test]
fn a_node_has_so_many_datagrams_each_way_by_all_its_allocations() {
    let limits = Limits { allocations: 3, allocations_per_node: 2, packets_per_second: 100 };
    let mut lab = Lab::with(limits);
    let node = lab.node(1);
    lab.allocate(&node);
    assert_eq!(lab.bind(&node, 0x4001, PEER), None);
    let (data, peer, at) = (channel_data(0x4001, b"x"), PEER.parse().unwrap(), lab.now.at);
    assert_eq!((0..100).filter(|_| lab.handle(node.client, &data) != Action::Nothing).count(), 20);
    let mut again = lab.node(1);
    again.client.source.set_port(7001);
    again.nonce = lab.engine.nonces.make(again.client.source, lab.now.unix);
    lab.allocate(&again);
    assert_eq!(lab.bind(&again, 0x4001, PEER), None);
    assert_eq!(lab.handle(again.client, &data), Action::Nothing);
    let other = lab.node(2);
    lab.allocate(&other);
    assert_eq!(lab.bind(&other, 0x4001, PEER), None);
    assert_ne!(lab.handle(other.client, &data), Action::Nothing);
    let from_peer = (0..100).filter(|_| lab.engine.handle_peer(AllocationId(1), peer, 1, at).is_some());
    assert_eq!(from_peer.count(), 20);
    lab.now.at += Duration::from_millis(100);
    assert_eq!((0..100).filter(|_| lab.handle(node.client, &data) != Action::Nothing).count(), 10);
}

#[test]
fn what_goes_to_a_node_is_framed_as_its_transport_wants_it() {
    let mut out = Vec::new();
    Wrapping::Channel(0x4001).write(b"hello", false, &mut out);
    assert_eq!(out, channel_data(0x4001, b"hello"));
    Wrapping::Channel(0x4001).write(b"", true, &mut out);
    assert_eq!(out[9..], [0x40, 1, 0, 0]);
    out.clear();
    Wrapping::Channel(0x4001).write(b"hello", true, &mut out);
    assert_eq!(out.len(), 12);
    out.clear();
    Wrapping::Indication(PEER.parse().unwrap()).write(b"hello", true, &mut out);
    let message = Message::from_bytes(&out).unwrap();
    assert_eq!(message.attribute::<Data<'_>>().unwrap().data(), b"hello");
    let peer = message.attribute::<XorPeerAddress>().unwrap().addr(message.transaction_id());
    assert_eq!(peer, PEER.parse().unwrap());
    out.clear();
    Wrapping::Indication(PEER.parse().unwrap()).write(&[0; 65_507], false, &mut out);
    assert!(out.is_empty());
}
