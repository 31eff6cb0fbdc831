use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use stun_types::attribute::XorMappedAddress;
use stun_types::message::{BINDING, Message, MessageWriteVec};
use stun_types::prelude::*;
use turn_types::message::ALLOCATE;

use super::client::{Client, Over};
use super::*;

/// Asks where it comes from, until it is answered.
fn binding(server: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
    let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
    let start = Instant::now();
    let mut bytes = [0; 1500];
    loop {
        assert!(start.elapsed() < SOON, "no answer");
        socket.send_to(&request, server).unwrap();
        if let Ok((count, from)) = socket.recv_from(&mut bytes) {
            assert_eq!(from, server);
            let message = Message::from_bytes(&bytes[..count]).unwrap();
            let mapped = message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id());
            assert_eq!(mapped, socket.local_addr().unwrap());
            return mapped;
        }
    }
}

#[test]
fn anybody_learns_where_it_comes_from() {
    let lab = Lab::new(|_| {});
    binding(lab.at(true));
    binding(lab.at(false));
    assert!(lab.relay.counters().bindings.get() >= 2);
}

#[test]
fn through_a_flood_of_garbage_and_of_empty_requests_nodes_are_served() {
    let lab = Lab::new(|_| {});
    let server = lab.at(true);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let address = peer.local_addr().unwrap();
    let mut client = Client::begin(&lab, Over::Udp, server, true, &lab.credentials(1, 3600)).allocated();
    client.bind(address);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let sockets: Vec<_> = (0..50).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            let request = Message::builder_request(ALLOCATE, MessageWriteVec::new()).finish();
            let garbage: [&[u8]; 4] = [&request, b"garbage", &[0x40, 1, 0, 2, 1, 2], &[0; 1200]];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (socket, bytes) in sockets.iter().zip(garbage.iter().cycle()) {
                    let _ = socket.send_to(bytes, server);
                }
            }
        }
    });
    let counters = lab.relay.counters();
    let is_flooded =
        || counters.refused(Refused::Malformed) > 1000 && counters.refused(Refused::RateLimited) > 0;
    let mut heard = 0;
    let start = Instant::now();
    // Some are lost, as the socket's buffer is full of the flood.
    while heard < 50 || !is_flooded() {
        assert!(start.elapsed() < SOON, "{heard} of 50");
        client.send(address, b"through");
        let mut bytes = [0; 100];
        heard += u32::from(peer.recv(&mut bytes).is_ok());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().unwrap();
    assert_eq!((counters.allocations.get(), counters.allocated.get()), (1, 1));
}

#[test]
fn a_stream_that_is_no_turn_is_closed() {
    let lab = Lab::new(|_| {});
    // Nothing of STUN, a broken handshake, a message that is too large.
    for bytes in [&b"\x99garbage"[..], b"\x16\x03\x01\x00\x05hello", b"\x40\x00\xff\xff"] {
        let mut stream = TcpStream::connect(lab.at(true)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(bytes).unwrap();
        // It may end with an alert of TLS, and with a reset.
        let mut rest = Vec::new();
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    let counters = lab.relay.counters();
    wait_for("three refusals", || counters.refused(Refused::Connection) == 3);
    wait_for("no connections", || counters.connections.get() == 0);
}

#[test]
fn so_many_connections_are_taken() {
    let lab = Lab::new(|config| config.connections = 3);
    let open: Vec<_> = (0..3).map(|_| TcpStream::connect(lab.at(true)).unwrap()).collect();
    let counters = lab.relay.counters();
    wait_for("three connections", || counters.connections.get() == 3);
    let mut fourth = TcpStream::connect(lab.at(true)).unwrap();
    fourth.set_read_timeout(Some(SOON)).unwrap();
    assert!(matches!(fourth.read(&mut [0]), Ok(0) | Err(_)));
    drop(open);
    wait_for("room", || counters.connections.get() == 0);
    Client::begin(&lab, Over::Tcp, lab.at(true), true, &lab.credentials(1, 3600)).allocated();
}

/// An answer goes to the address that was asked, also if it is not the host's first one.
#[test]
fn the_asked_address_answers() {
    let lab = Lab::new(|_| {});
    let other: SocketAddr = format!("127.0.0.7:{}", lab.relay.address().port()).parse().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let request = Message::builder_request(BINDING, MessageWriteVec::new()).finish();
    socket.send_to(&request, other).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 100]).unwrap().1, other);
}

#[tokio::test]
async fn it_stops_when_it_is_told_to() {
    let lab = Lab::new(|_| {});
    let at = lab.at(true);
    lab.relay.run_until(std::future::ready(())).await.unwrap();
    assert!(TcpStream::connect(at).is_err());
}
