use std::net::UdpSocket;

use turn_client_proto::api::TurnEvent;

use super::client::{Client, Over};
use super::*;

fn peer(is_v4: bool) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(if is_v4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn take(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 1 << 16];
    let (count, from) = socket.recv_from(&mut bytes).unwrap();
    (bytes[..count].to_vec(), from)
}

#[test]
fn data_crosses_both_ways_over_each_transport_and_in_each_family() {
    let lab = Lab::new(|_| {});
    for over in [Over::Udp, Over::Tcp, Over::Tls] {
        for (server_v4, relayed_v4) in [(true, true), (true, false), (false, true), (false, false)] {
            let (socket, address) = peer(relayed_v4);
            let credentials = lab.credentials(1, 3600);
            let mut client =
                Client::begin(&lab, over, lab.at(server_v4), relayed_v4, &credentials).allocated();
            let relayed = client.relayed().unwrap();
            assert_eq!(relayed.ip(), address.ip(), "{over:?}");

            client.permit(address);
            client.send(address, b"by indication");
            assert_eq!(take(&socket), (b"by indication".to_vec(), relayed));
            socket.send_to(b"and back", relayed).unwrap();
            assert_eq!(client.hear(), (address, b"and back".to_vec()));

            client.bind(address);
            for length in [1, 2, 3, 4, 1200, 1432] {
                let payload = vec![9; length];
                client.send(address, &payload);
                assert_eq!(take(&socket), (payload.clone(), relayed), "{over:?} {length}");
                socket.send_to(&payload, relayed).unwrap();
                assert_eq!(client.hear(), (address, payload), "{over:?} {length}");
            }
        }
    }
    let counters = lab.relay.counters();
    assert_eq!((counters.to_peers.datagrams.get(), counters.to_nodes.datagrams.get()), (84, 84));
    wait_for("streams to be gone", || counters.allocations.get() == 4 && counters.connections.get() == 0);
}

/// What is sent with segmentation offload comes out whole and in order, both ways.
#[test]
fn bursts_keep_their_order() {
    let lab = Lab::new(|_| {});
    let (socket, address) = peer(true);
    let mut client =
        Client::begin(&lab, Over::Udp, lab.at(true), true, &lab.credentials(1, 3600)).allocated();
    client.bind(address);
    let relayed = client.relayed().unwrap();
    let payload = |i: u8| [&[i], &[7; 1199][..]].concat();
    for i in 0..100 {
        client.send(address, &payload(i));
    }
    for i in 0..100 {
        assert_eq!(take(&socket).0, payload(i));
    }
    let state = quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
    let contents: Vec<u8> = (0..20).flat_map(payload).collect();
    let transmit = quinn_udp::Transmit {
        destination: relayed,
        ecn: None,
        contents: &contents,
        segment_size: Some(1200),
        src_ip: None,
    };
    state.try_send((&socket).into(), &transmit).unwrap();
    for i in 0..20 {
        assert_eq!(client.hear(), (address, payload(i)));
    }
}

#[test]
fn two_nodes_that_only_reach_the_relay_reach_each_other() {
    let lab = Lab::new(|_| {});
    let credentials = [lab.credentials(1, 3600), lab.credentials(2, 3600)];
    let mut one = Client::begin(&lab, Over::Tcp, lab.at(true), true, &credentials[0]).allocated();
    let mut two = Client::begin(&lab, Over::Udp, lab.at(false), true, &credentials[1]).allocated();
    let (at_one, at_two) = (one.relayed().unwrap(), two.relayed().unwrap());
    one.bind(at_two);
    two.bind(at_one);
    one.send(at_two, b"hello");
    assert_eq!(two.hear(), (at_one, b"hello".to_vec()));
    two.send(at_one, b"good day");
    assert_eq!(one.hear(), (at_two, b"good day".to_vec()));
}

#[test]
fn wrong_and_expired_credentials_get_nothing() {
    let lab = Lab::new(|_| {});
    let mut forged = lab.credentials(1, 3600);
    forged.password = lab.credentials(2, 3600).password;
    for (what, credentials) in
        [("forged", forged), ("expired", lab.credentials(1, -1)), ("no node's", lab.credentials(99, 3600))]
    {
        for over in [Over::Udp, Over::Tcp] {
            let mut client = Client::begin(&lab, over, lab.at(true), true, &credentials);
            let counters = lab.relay.counters();
            let before = counters.refused(Refused::Credentials);
            // The client itself asks again until it gives up.
            client.until(what, |_| counters.refused(Refused::Credentials) > before);
            client.turn();
            assert_eq!(client.relayed(), None);
        }
    }
    assert_eq!(lab.relay.counters().allocated.get(), 0);
}

#[test]
fn a_removed_nodes_allocation_ends() {
    let lab = Lab::new(|_| {});
    let (socket, address) = peer(true);
    let mut client =
        Client::begin(&lab, Over::Udp, lab.at(true), true, &lab.credentials(1, 3600)).allocated();
    client.bind(address);
    client.send(address, b"before");
    take(&socket);
    lab.nodes.lock().unwrap().remove(&NodeId(1));
    let counters = lab.relay.counters();
    wait_for("the allocation to end", || counters.allocations.get() == 0);
    client.send(address, b"after");
    wait_for("the drop to be counted", || counters.refused(Refused::Permission) > 0);
    assert_eq!(counters.to_peers.datagrams.get(), 1);
}

#[test]
fn a_node_has_so_many_allocations() {
    let lab = Lab::new(|config| config.allocations_per_node = 2);
    let begin = |node| Client::begin(&lab, Over::Udp, lab.at(true), true, &lab.credentials(node, 3600));
    let _own = [begin(1).allocated(), begin(1).allocated()];
    let mut third = begin(1);
    let failed = |event: &TurnEvent| matches!(event, TurnEvent::AllocationCreateFailed(_));
    third.until("a refusal", |client| client.events.iter().any(failed));
    begin(2).allocated();
    assert_eq!(lab.relay.counters().refused(Refused::Capacity), 1);
}

/// Whatever the kernel says to a datagram: the next one to somebody else leaves.
#[test]
fn a_send_that_fails_ends_nothing() {
    let lab = Lab::new(|_| {});
    let (socket, address) = peer(true);
    let mut client =
        Client::begin(&lab, Over::Udp, lab.at(true), true, &lab.credentials(1, 3600)).allocated();
    client.bind(address);
    // From a socket of the loopback's address there is no way to anywhere else.
    let nowhere: SocketAddr = "203.0.113.77:9".parse().unwrap();
    client.bind(nowhere);
    for _ in 0..3 {
        client.send(nowhere, b"lost");
    }
    client.send(address, b"not lost");
    assert_eq!(take(&socket).0, b"not lost");
    assert_eq!(lab.relay.counters().allocations.get(), 1);
}
