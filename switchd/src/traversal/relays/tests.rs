//! Allocations on a real server's state machine, by sockets on loopback.

use std::net::UdpSocket;

use turn_server_proto::api::{Transmit, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::types::{Instant as TurnInstant, TransportType};

use super::*;
use crate::config::Secret;

struct World {
    began: Instant,
    relays: Relays,
    socket: UdpSocket,
    server: TurnServer,
    next_port: u16,
    /// What the server was sent, and answered.
    asked: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
    // The other end of it must not be gone.
    _streams: mpsc::Receiver<(RelayId, StreamEvent)>,
}

impl World {
    fn new() -> World {
        let underlay = Arc::new(Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let mut server = TurnServer::new(TransportType::Udp, socket.local_addr().unwrap(), "realm".into());
        server.add_user("u1".into(), "p1".into());
        let (streams_to, streams) = mpsc::channel(1);
        World {
            began: Instant::now(),
            relays: Relays::new(underlay, streams_to),
            socket,
            server,
            next_port: 50_000,
            asked: Vec::new(),
            answered: Vec::new(),
            _streams: streams,
        }
    }

    fn server_name(&self, name: &str, password: &str) -> (RelayServer, Vec<SocketAddr>) {
        let server = RelayServer {
            address: format!("{name}:3478"),
            transport: config::RelayTransport::Udp,
            username: "u1".into(),
            password: Secret(password.into()),
            certificate: Vec::new(),
        };
        (server, vec![self.socket.local_addr().unwrap()])
    }

    fn serving(password: &str) -> World {
        let mut world = World::new();
        let server = world.server_name("one", password);
        world.relays.set_servers(vec![server], Instant::now());
        world.until("an allocation", |world| !world.relays.relayed().is_empty());
        world
    }

    /// Everything that waits, in both sockets.
    fn step(&mut self) {
        let now = Instant::now();
        self.relays.drive(now);
        let mut buf = [0; 2048];
        while let Ok((len, from)) = self.socket.recv_from(&mut buf) {
            self.asked.push(buf[..len].to_vec());
            let at = self.server_time();
            let to = self.socket.local_addr().unwrap();
            let transmit = Transmit::new(buf[..len].to_vec(), TransportType::Udp, from, to);
            if let Some(reply) = self.server.recv(transmit, at) {
                let reply = reply.build();
                self.reply(reply.to, &reply.data);
            }
            self.run_server();
        }
        self.run_server();
        let underlay = self.relays.underlay.clone();
        while let Ok((len, from)) = underlay.socket().recv_from(&mut buf) {
            self.relays.handle(from, &buf[..len], Instant::now());
        }
    }

    fn run_server(&mut self) {
        loop {
            let now = self.server_time();
            if let Some(transmit) = self.server.poll_transmit(now) {
                self.reply(transmit.to, &transmit.data);
                continue;
            }
            let TurnServerPollRet::AllocateSocket {
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
            } = self.server.poll(now)
            else {
                return;
            };
            self.next_port += 1;
            let socket = SocketAddr::new([127, 0, 0, 1].into(), self.next_port);
            let socket = Ok(socket);
            self.server.allocated_socket(
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
                socket,
                now,
            );
        }
    }

    fn reply(&mut self, to: SocketAddr, data: &[u8]) {
        self.answered.push(data.to_vec());
        self.socket.send_to(data, to).unwrap();
    }

    fn server_time(&self) -> TurnInstant {
        TurnInstant::ZERO + self.began.elapsed()
    }

    fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", self.relays.rows());
            self.step();
        }
    }

    fn refreshed(&self) -> usize {
        self.answered.iter().filter(|answer| answer.starts_with(&[0x01, 0x04])).count()
    }

    fn id(&self) -> RelayId {
        *self.relays.relayed().keys().next().unwrap()
    }
}

#[test]
fn two_names_of_one_relay_are_one_allocation() {
    let mut world = World::new();
    let names = vec![world.server_name("one", "p1"), world.server_name("two", "p1")];
    world.relays.set_servers(names, Instant::now());
    world.until("an allocation", |world| !world.relays.relayed().is_empty());
    world.step();
    assert_eq!(world.relays.allocations().count(), 1, "a second one would end the first");
    let states: Vec<RelayState> = world.relays.rows().iter().map(|row| row.state).collect();
    assert_eq!(states, [RelayState::Serving, RelayState::Waiting]);
}

#[test]
fn an_allocation_lives_on_with_newer_credentials() {
    let mut world = World::serving("p1");
    let (id, before) = (world.id(), world.relays.relayed());
    // From here on the server takes the newer ones only.
    world.server.add_user("u1".into(), "p2".into());
    let server = world.server_name("one", "p2");
    world.relays.set_servers(vec![server], Instant::now());
    world.until("the newer credentials to be taken", |world| world.refreshed() > 0);
    let refreshed = world.refreshed();
    world.relays.check(Instant::now());
    world.until("another check", |world| world.refreshed() > refreshed);
    assert_eq!(world.relays.relayed(), before);
    assert!(world.relays.underlay.relays().load().get(id).is_some());
}

#[test]
fn what_stops_gives_its_allocation_back() {
    let mut world = World::serving("p1");
    let (id, refreshed) = (world.id(), world.refreshed());
    world.relays.close(Instant::now());
    assert!(world.relays.relayed().is_empty());
    assert!(world.relays.underlay.relays().load().get(id).is_none());
    // The relay hears of it, though nothing is driven any more.
    let before = world.asked.len();
    world.until("the last request", |world| world.asked.len() > before);
    let lifetime_of_zero = [0x00, 0x0d, 0x00, 0x04, 0, 0, 0, 0];
    let last = &world.asked[before];
    assert!(last.starts_with(&[0x00, 0x04]), "a Refresh: {last:?}");
    assert!(last.windows(8).any(|attribute| attribute == lifetime_of_zero));
    assert_eq!(world.refreshed(), refreshed + 1, "the server took it");
}

#[test]
fn a_relay_that_refuses_is_not_hurried() {
    let mut world = World::new();
    let server = world.server_name("one", "wrong");
    world.relays.set_servers(vec![server], Instant::now());
    world.until("the third refusal", |world| world.relays.wanted[0].failures == 3);
    let retry_at = world.relays.wanted[0].retry_at;
    world.relays.check(Instant::now());
    assert_eq!(world.relays.wanted[0].retry_at, retry_at);
    // Newer credentials are tried at once.
    let server = world.server_name("one", "p1");
    world.relays.set_servers(vec![server], Instant::now());
    world.until("an allocation", |world| !world.relays.relayed().is_empty());
}

#[test]
fn a_relay_without_room_for_more_peers_says_so() {
    let mut world = World::serving("p1");
    let id = world.id();
    let peer = |port: u16| SocketAddr::new([127, 0, 0, 1].into(), port);
    for port in 1..=1024 {
        world.relays.bind(id, peer(port), Instant::now());
    }
    assert_eq!(world.relays.rows()[0].last_error, None);
    world.relays.bind(id, peer(2000), Instant::now());
    let error = world.relays.rows()[0].last_error.clone().unwrap();
    assert!(error.contains("serves 1024 peers"), "{error}");
}
