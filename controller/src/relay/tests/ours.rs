//! The relay and the nodes' own client of it.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use nat_traversal::{RelayClient, RelayConfig, RelayEvent, RelayFamily, RelayId, RelayTransport, frame};

use super::*;

enum Wire {
    Udp(UdpSocket),
    Stream(TcpStream),
}

struct Node {
    client: RelayClient,
    wire: Wire,
}

impl Node {
    fn new(lab: &Lab, node: u64, transport: RelayTransport, is_v4: bool) -> Node {
        let server = lab.at(true);
        let Credentials { username, password, .. } = lab.credentials(node, 3600);
        let family = if is_v4 { RelayFamily::V4 } else { RelayFamily::V6 };
        let config = RelayConfig { id: RelayId(1), server, transport, family, username, password };
        let wire = match transport {
            RelayTransport::Udp => {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(server).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                Wire::Udp(socket)
            }
            RelayTransport::Stream => {
                let stream = TcpStream::connect(server).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                Wire::Stream(stream)
            }
        };
        Node { client: RelayClient::new(config, Instant::now()), wire }
    }

    /// The first event that is wanted.
    fn until<T>(&mut self, mut wanted: impl FnMut(RelayEvent) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < SOON, "the relay did not do it");
            self.client.handle_timeout(Instant::now());
            while let Some(bytes) = self.client.poll_transmit(Instant::now()) {
                self.write(&bytes);
            }
            let mut bytes = [0; 4096];
            let count = match &mut self.wire {
                Wire::Udp(socket) => socket.recv(&mut bytes),
                Wire::Stream(stream) => stream.read(&mut bytes),
            };
            let now = Instant::now();
            match (count, &self.wire) {
                (Ok(count), Wire::Udp(_)) => {
                    self.client.handle_datagram(&bytes[..count], now);
                }
                (Ok(count), Wire::Stream(_)) => self.client.handle_stream_bytes(&bytes[..count], now),
                (Err(_), _) => {}
            }
            while let Some(event) = self.client.poll_event() {
                assert!(!matches!(event, RelayEvent::Lost { .. }), "{event:?}");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.wire {
            Wire::Udp(socket) => drop(socket.send(bytes).unwrap()),
            Wire::Stream(stream) => stream.write_all(bytes).unwrap(),
        }
    }
}

#[test]
fn nodes_allocate_bind_and_are_heard() {
    let lab = Lab::new(|_| {});
    for transport in [RelayTransport::Udp, RelayTransport::Stream] {
        let (mut one, mut two) =
            (Node::new(&lab, 1, transport, true), Node::new(&lab, 2, RelayTransport::Udp, true));
        let allocated = |event| match event {
            RelayEvent::Allocated { relayed, .. } => Some(relayed),
            _ => None,
        };
        let (at_one, at_two) = (one.until(allocated), two.until(allocated));
        let bound = |event| match event {
            RelayEvent::Bound { channel, .. } => Some(channel),
            _ => None,
        };
        one.client.bind(at_two, Instant::now()).unwrap();
        two.client.bind(at_one, Instant::now()).unwrap();
        let (channel, _) = (one.until(bound), two.until(bound));
        let payload = *b"sealed12";
        let header = frame::channel_header(channel, u16::try_from(payload.len()).unwrap());
        one.write(&[&header[..], &payload].concat());
        let heard = two.until(|event| match event {
            RelayEvent::PeerData { peer, payload } => Some((peer, payload)),
            _ => None,
        });
        assert_eq!(heard, (at_one, payload.to_vec()));
    }
    Node::new(&lab, 3, RelayTransport::Udp, false).until(|event| match event {
        RelayEvent::Allocated { relayed, .. } => relayed.is_ipv6().then_some(()),
        _ => None,
    });
}
