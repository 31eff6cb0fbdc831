//! A client of `turn-client-proto` over blocking sockets. That crate pads no ChannelData in streams, so messages are cut
//! and padded here.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stun_types::{AddressFamily, TransportType};
use turn_client_proto::api::{Transmit, TurnClientApi, TurnConfig, TurnEvent, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::TurnCredentials;
use turn_client_proto::udp::TurnClientUdp;

use super::{Credentials, Lab, SOON};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    Udp,
    Tcp,
    Tls,
}

pub(super) struct Client {
    turn: TurnClient,
    wire: Wire,
    began: Instant,
    pub(super) events: Vec<TurnEvent>,
    pub(super) data: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) ended: bool,
}

enum Wire {
    Udp(UdpSocket),
    Stream(Box<dyn ReadWrite>, Vec<u8>),
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

impl Client {
    /// Asks for an allocation; `server` is the relay's address, `is_v4` the family of the relayed one.
    pub(super) fn begin(
        lab: &Lab,
        over: Over,
        server: SocketAddr,
        is_v4: bool,
        credentials: &Credentials,
    ) -> Client {
        let credentials = TurnCredentials::new(&credentials.username, &credentials.password);
        let mut config = TurnConfig::new(credentials);
        config.set_address_family(if is_v4 { AddressFamily::IPV4 } else { AddressFamily::IPV6 });
        let (turn, wire) = match over {
            Over::Udp => {
                let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).unwrap();
                socket.connect(server).unwrap();
                socket.set_read_timeout(Some(TURN)).unwrap();
                let local = socket.local_addr().unwrap();
                (TurnClientUdp::allocate(local, server, config).into(), Wire::Udp(socket))
            }
            Over::Tcp | Over::Tls => {
                let stream = TcpStream::connect(server).unwrap();
                stream.set_read_timeout(Some(TURN)).unwrap();
                stream.set_nodelay(true).unwrap();
                let local = stream.local_addr().unwrap();
                let stream: Box<dyn ReadWrite> = match over {
                    Over::Tls => Box::new(tls(lab, stream)),
                    _ => Box::new(stream),
                };
                (TurnClientTcp::allocate(local, server, config).into(), Wire::Stream(stream, Vec::new()))
            }
        };
        Client { turn, wire, began: Instant::now(), events: Vec::new(), data: VecDeque::new(), ended: false }
    }

    pub(super) fn allocated(mut self) -> Client {
        self.until("an allocation", |client| client.relayed().is_some());
        self
    }

    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        self.turn.relayed_addresses().next().map(|(_, address)| address)
    }

    pub(super) fn permit(&mut self, peer: SocketAddr) {
        let now = self.now();
        self.turn.create_permission(TransportType::Udp, peer.ip(), now).unwrap();
        let made =
            |event: &TurnEvent| matches!(event, TurnEvent::PermissionCreated(_, ip) if *ip == peer.ip());
        self.until("a permission", |client| client.events.iter().any(made));
    }

    pub(super) fn bind(&mut self, peer: SocketAddr) {
        let now = self.now();
        self.turn.bind_channel(TransportType::Udp, peer, now).unwrap();
        let made = |event: &TurnEvent| matches!(event, TurnEvent::ChannelCreated(_, at) if *at == peer);
        self.until("a channel", |client| client.events.iter().any(made));
    }

    pub(super) fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        let now = self.now();
        let transmit = self.turn.send_to(TransportType::Udp, peer, payload, now).unwrap();
        let bytes = transmit.expect("UDP is always ready").build().data;
        self.wire.write(&bytes);
    }

    /// Its socket, and what it would send to a peer, to be sent by other means.
    pub(super) fn raw(&mut self, peer: SocketAddr, payload: &[u8]) -> (&UdpSocket, Vec<u8>) {
        let now = self.now();
        let transmit = self.turn.send_to(TransportType::Udp, peer, payload, now).unwrap();
        let bytes = transmit.expect("UDP is always ready").build().data;
        match &self.wire {
            Wire::Udp(socket) => (socket, bytes),
            Wire::Stream(..) => panic!("it is a stream"),
        }
    }

    /// The next datagram of a peer.
    pub(super) fn hear(&mut self) -> (SocketAddr, Vec<u8>) {
        self.until("data of a peer", |client| !client.data.is_empty());
        self.data.pop_front().unwrap()
    }

    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&Client) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < SOON, "no {what}: {:?}", self.events);
            self.turn();
        }
    }

    /// Sends what is due and takes what is there.
    pub(super) fn turn(&mut self) {
        let now = self.now();
        self.turn.poll(now);
        while let Some(transmit) = self.turn.poll_transmit(now) {
            self.wire.write(transmit.data.as_ref());
        }
        for message in self.wire.read(&mut self.ended) {
            let now = self.now();
            let transmit = Transmit::new(
                message,
                self.turn.transport(),
                self.turn.remote_addr(),
                self.turn.local_addr(),
            );
            if let TurnRecvRet::PeerData(data) = self.turn.recv(transmit, now) {
                self.data.push_back((data.peer, data.data().to_vec()));
            }
        }
        while let Some(event) = self.turn.poll_event() {
            self.events.push(event);
        }
    }

    fn now(&self) -> stun_proto::Instant {
        stun_proto::Instant::from_nanos(i64::try_from(self.began.elapsed().as_nanos()).unwrap())
    }
}

impl Wire {
    fn write(&mut self, message: &[u8]) {
        match self {
            // The relay may be gone, as in some tests it is.
            Wire::Udp(socket) => drop(socket.send(message)),
            Wire::Stream(stream, _) => {
                let padding = message.len().next_multiple_of(4) - message.len();
                let _ = stream.write_all(&[message, &[0; 3][..padding]].concat());
                let _ = stream.flush();
            }
        }
    }

    fn read(&mut self, ended: &mut bool) -> Vec<Vec<u8>> {
        let mut bytes = vec![0; 1 << 16];
        match self {
            Wire::Udp(socket) => match socket.recv(&mut bytes) {
                Ok(count) => vec![bytes[..count].to_vec()],
                Err(_) => Vec::new(),
            },
            Wire::Stream(stream, buffer) => {
                match stream.read(&mut bytes) {
                    Ok(0) => *ended = true,
                    Ok(count) => buffer.extend(&bytes[..count]),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => *ended = true,
                }
                std::iter::from_fn(|| cut(buffer)).collect()
            }
        }
    }
}

fn cut(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*buffer.get(2)?, *buffer.get(3)?]));
    let (whole, length) =
        if buffer[0] < 4 { (length + 20, length + 20) } else { (length.next_multiple_of(4) + 4, length + 4) };
    (buffer.len() >= whole).then(|| buffer.drain(..whole).take(length).collect())
}

fn tls(lab: &Lab, stream: TcpStream) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(lab.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection =
        rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    rustls::StreamOwned::new(connection, stream)
}

const TURN: Duration = Duration::from_millis(5);
