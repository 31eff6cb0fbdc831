//! The clients against a real TURN server: coturn, on loopback. Skipped, with a message, where `turnserver` (Debian
//! package `coturn`) is not installed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which clippy does not see as tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nat_traversal::{
    Filtering, LostReason, Mapping, NetCheck, NetCheckConfig, PeerRefusal, RelayClient, RelayConfig,
    RelayEvent, RelayFamily, RelayId, RelayTransport, StunClient, frame,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Coturn {
    child: Child,
    port: u16,
    directory: PathBuf,
    extra: Vec<String>,
}

impl Coturn {
    /// `None`, with a message, where it is not installed.
    fn start(extra: &[&str]) -> Option<Coturn> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let port = free_ports();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("coturn-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let extra: Vec<_> = extra.iter().map(ToString::to_string).collect();
        let child = match Coturn::command(port, &directory, &extra).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("skipped: turnserver is not installed (apt-get install coturn)");
                return None;
            }
            Err(error) => panic!("turnserver: {error}"),
        };
        let mut coturn = Coturn { child, port, directory, extra };
        coturn.wait();
        Some(coturn)
    }

    fn command(port: u16, directory: &std::path::Path, extra: &[String]) -> Command {
        let mut command = Command::new("turnserver");
        command
            .args([
                "-n",
                "--no-cli",
                "--no-tls",
                "--no-dtls",
                "--no-software-attribute",
                "--allow-loopback-peers",
            ])
            .args(["--listening-ip=127.0.0.1", "--listening-ip=127.0.0.2"])
            .args(["--relay-ip=127.0.0.1", "--relay-ip=::1", "--denied-peer-ip=127.0.0.9"])
            .args(["--lt-cred-mech", "--user=u1:p1", "--realm=test", "--log-file=stdout", "--simple-log"])
            .arg(format!("--listening-port={port}"))
            .arg(format!("--alt-listening-port={}", port + 1))
            .arg(format!("--userdb={}", directory.join("db").display()))
            .arg(format!("--pidfile={}", directory.join("pid").display()))
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Coturn::command(self.port, &self.directory, &self.extra).spawn().unwrap();
        self.wait();
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new([127, 0, 0, 1].into(), self.port)
    }

    /// Until it answers a Binding request and accepts a connection.
    fn wait(&mut self) {
        let socket = socket();
        let mut stun = StunClient::new(self.address(), Duration::from_secs(1), Instant::now());
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        while !stun.answers() || TcpStream::connect(self.address()).is_err() {
            assert!(Instant::now() < end, "turnserver does not answer");
            assert_eq!(self.child.try_wait().unwrap(), None, "turnserver ended");
            while let Some((to, request)) = stun.poll_transmit(Instant::now()) {
                // Refused while nobody listens yet.
                let _ = socket.send_to(&request, to);
            }
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                stun.handle(from, &buffer[..length], Instant::now());
            }
        }
        assert_eq!(stun.mapped().unwrap().port(), socket.local_addr().unwrap().port());
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port that is free, with the next one, for TCP and UDP.
fn free_ports() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let free = |port: u16| UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if port < u16::MAX
            && free(port)
            && free(port + 1)
            && TcpListener::bind(("127.0.0.1", port + 1)).is_ok()
        {
            return port;
        }
    }
    panic!("no two free ports in a row");
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// The way to the server.
enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

struct Node {
    wire: Wire,
    server: SocketAddr,
    client: RelayClient,
    /// How far the client's clock is ahead.
    ahead: Duration,
    events: Vec<RelayEvent>,
}

impl Node {
    fn udp(coturn: &Coturn) -> Node {
        Node::new(Wire::Udp(socket()), coturn.address(), RelayFamily::V4, "p1")
    }

    fn new(wire: Wire, server: SocketAddr, family: RelayFamily, password: &str) -> Node {
        let client = Node::client(&wire, server, family, password);
        Node { wire, server, client, ahead: Duration::ZERO, events: Vec::new() }
    }

    fn client(wire: &Wire, server: SocketAddr, family: RelayFamily, password: &str) -> RelayClient {
        let transport = match wire {
            Wire::Udp(_) => RelayTransport::Udp,
            Wire::Tcp(_) => RelayTransport::Stream,
        };
        let (username, password) = ("u1".to_owned(), password.to_owned());
        let config = RelayConfig { id: RelayId(1), server, transport, family, username, password };
        RelayClient::new(config, Instant::now())
    }

    /// As after a restart: the same socket, nothing remembered.
    fn begin_anew(&mut self) {
        self.client = Node::client(&self.wire, self.server, RelayFamily::V4, "p1");
        self.ahead = Duration::ZERO;
        self.events.clear();
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn send(&mut self, message: &[u8]) {
        match &mut self.wire {
            Wire::Udp(socket) => {
                // The error of a server that is being restarted.
                let _ = socket.send_to(message, self.server);
            }
            Wire::Tcp(stream) => stream.write_all(message).unwrap(),
        }
    }

    /// Sends what is due, and waits a moment for one datagram. Whether anything happened.
    fn step(&mut self) -> bool {
        let mut busy = false;
        while let Some(message) = self.client.poll_transmit(self.now()) {
            self.send(&message);
            busy = true;
        }
        let mut buffer = [0; 4096];
        let now = self.now();
        match &mut self.wire {
            Wire::Udp(socket) => {
                if let Ok((length, _)) = socket.recv_from(&mut buffer) {
                    self.client.handle_datagram(&buffer[..length], now);
                    busy = true;
                }
            }
            Wire::Tcp(stream) => match stream.read(&mut buffer) {
                Ok(0) => self.client.stream_closed(),
                Ok(length) => {
                    self.client.handle_stream_bytes(&buffer[..length], now);
                    busy = true;
                }
                Err(_) => {}
            },
        }
        if self.client.poll_timeout().is_some_and(|at| at <= self.now()) {
            self.client.handle_timeout(self.now());
        }
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
        busy
    }

    fn until(&mut self, what: &str, done: impl Fn(&Node) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "{what}: {:?}", self.events);
            self.step();
        }
    }

    fn allocate(&mut self) -> SocketAddr {
        self.until("allocated", |node| node.client.relayed().is_some());
        self.client.relayed().unwrap()
    }

    /// Builds one client after the other, each as long after the last as its loss says, but 2 s at most.
    fn allocate_in_the_end(&mut self) {
        let end = Instant::now() + PATIENCE;
        let mut again = None;
        while self.client.relayed().is_none() {
            assert!(Instant::now() < end, "not allocated: {:?}", self.events);
            self.step();
            if let Some(why) = self.lost() {
                let wait = why.retry_after().min(Duration::from_secs(2));
                if Instant::now() >= *again.get_or_insert(Instant::now() + wait) {
                    again = None;
                    self.begin_anew();
                }
            }
        }
    }

    fn lost(&self) -> Option<LostReason> {
        self.events.iter().find_map(|event| match event {
            RelayEvent::Lost { why } => Some(*why),
            _ => None,
        })
    }

    fn until_lost(&mut self) -> LostReason {
        self.until("lost", |node| node.lost().is_some());
        self.lost().unwrap()
    }

    fn bind(&mut self, peer: SocketAddr) -> u16 {
        self.client.bind(peer, self.now()).unwrap();
        self.until("bound", |node| node.client.channel(peer).is_some());
        self.client.channel(peer).unwrap()
    }

    fn send_by_channel(&mut self, channel: u16, payload: &[u8]) {
        let mut message = frame::channel_header(channel, payload.len() as u16).to_vec();
        message.extend_from_slice(payload);
        if matches!(self.wire, Wire::Tcp(_)) {
            message.resize(message.len() + frame::stream_padding(payload.len()), 0);
        }
        self.send(&message);
    }

    fn until_data(&mut self, peer: SocketAddr, payload: &[u8]) {
        let wanted = RelayEvent::PeerData { peer, payload: payload.to_vec() };
        self.until("data", |node| node.events.contains(&wanted));
    }
}

fn receive(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    loop {
        if let Ok((length, from)) = peer.recv_from(&mut buffer) {
            return (buffer[..length].to_vec(), from);
        }
        assert!(Instant::now() < end, "nothing arrived at the peer");
    }
}

#[test]
fn data_goes_both_ways_over_udp() {
    let Some(coturn) = Coturn::start(&[]) else { return };
    let mut node = Node::udp(&coturn);
    let relayed = node.allocate();
    let Wire::Udp(own) = &node.wire else { unreachable!() };
    let mapped = Some(own.local_addr().unwrap());
    assert_eq!(node.events, [RelayEvent::Allocated { relayed, mapped }]);

    let peer = socket();
    let at = peer.local_addr().unwrap();
    node.client.permit(at.ip(), node.now()).unwrap();
    node.until("permitted", |node| node.client.is_permitted(at.ip()));
    let head = frame::send_indication(at, 5, [7; 12]).unwrap();
    node.send(&[head.as_slice(), b"first\0\0\0"].concat());
    assert_eq!(receive(&peer), (b"first".to_vec(), relayed));
    peer.send_to(b"second", relayed).unwrap();
    node.until_data(at, b"second");

    let channel = node.bind(at);
    node.send_by_channel(channel, b"third");
    assert_eq!(receive(&peer), (b"third".to_vec(), relayed));
    peer.send_to(b"fourth", relayed).unwrap();
    node.until_data(at, b"fourth");

    let denied: IpAddr = [127, 0, 0, 9].into();
    node.client.permit(denied, node.now()).unwrap();
    let refused = RelayEvent::PermitFailed { peer: denied, why: PeerRefusal::Forbidden };
    node.until("refused", |node| node.events.contains(&refused));
    assert_eq!(node.lost(), None);
}

#[test]
fn everything_is_kept_fresh_in_forty_minutes_of_invented_time() {
    let Some(coturn) = Coturn::start(&[]) else { return };
    let mut node = Node::udp(&coturn);
    let relayed = node.allocate();
    let peer = socket();
    let at = peer.local_addr().unwrap();
    let channel = node.bind(at);
    node.events.clear();
    let end = node.now() + Duration::from_secs(2480);
    while node.now() < end {
        if !node.step() {
            let next = node.client.poll_timeout().unwrap();
            node.ahead += next.saturating_duration_since(node.now());
        }
    }
    assert_eq!(node.events, []);
    node.send_by_channel(channel, b"still here");
    assert_eq!(receive(&peer), (b"still here".to_vec(), relayed));
    peer.send_to(b"and back", relayed).unwrap();
    node.until_data(at, b"and back");
}

#[test]
fn lost_allocations_and_refusals_are_told_for_what_they_are() {
    let Some(mut coturn) = Coturn::start(&["--user-quota=2"]) else { return };
    let mut wrong = Node::new(Wire::Udp(socket()), coturn.address(), RelayFamily::V4, "wrong");
    assert_eq!(wrong.until_lost(), LostReason::Credentials);

    let mut node = Node::udp(&coturn);
    node.allocate();
    node.begin_anew();
    assert_eq!(node.until_lost(), LostReason::Leftover);
    node.allocate_in_the_end();

    let mut second = Node::udp(&coturn);
    second.allocate();
    let mut third = Node::udp(&coturn);
    assert_eq!(third.until_lost(), LostReason::Quota);
    second.client.close(second.now());
    second.step();
    third.allocate_in_the_end();

    coturn.restart();
    node.client.check_now(node.now());
    assert_eq!(node.until_lost(), LostReason::Forgotten);
    node.begin_anew();
    node.allocate();
    drop(coturn);
    node.client.check_now(node.now());
    let asked = Instant::now();
    assert_eq!(node.until_lost(), LostReason::Silent);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn data_goes_both_ways_over_tcp() {
    let Some(coturn) = Coturn::start(&[]) else { return };
    let stream = TcpStream::connect(coturn.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut node = Node::new(Wire::Tcp(stream), coturn.address(), RelayFamily::V4, "p1");
    let relayed = node.allocate();
    let peer = socket();
    let at = peer.local_addr().unwrap();
    let channel = node.bind(at);
    for length in [1, 2, 3, 4, 10, 333, 1200] {
        let payload = vec![length as u8; length];
        node.send_by_channel(channel, &payload);
        assert_eq!(receive(&peer), (payload.clone(), relayed));
        peer.send_to(&payload, relayed).unwrap();
        node.until_data(at, &payload);
    }
    drop(coturn);
    assert_eq!(node.until_lost(), LostReason::Stream);
}

#[test]
fn an_ipv6_allocation_is_made_over_ipv4() {
    let Some(coturn) = Coturn::start(&[]) else { return };
    let mut node = Node::new(Wire::Udp(socket()), coturn.address(), RelayFamily::V6, "p1");
    let relayed = node.allocate();
    assert!(relayed.is_ipv6());
    let peer = UdpSocket::bind("[::1]:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let at = peer.local_addr().unwrap();
    let channel = node.bind(at);
    node.send_by_channel(channel, b"six");
    assert_eq!(receive(&peer), (b"six".to_vec(), relayed));
    let head = frame::send_indication(at, 4, [7; 12]).unwrap();
    node.send(&[head.as_slice(), b"head"].concat());
    assert_eq!(receive(&peer).0, b"head");
}

#[test]
fn coturn_tells_that_loopback_has_no_nat_and_no_filter() {
    let Some(coturn) = Coturn::start(&[]) else { return };
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let config = NetCheckConfig {
        servers: vec![coturn.address()],
        own: vec![[127, 0, 0, 1].into(), [127, 0, 0, 2].into()],
        local_port: socket.local_addr().unwrap().port(),
        contacted: Vec::new(),
    };
    let mut check = NetCheck::new(config, Instant::now());
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while !check.is_done() {
        while let Some((to, request)) = check.poll_transmit(Instant::now()) {
            socket.send_to(&request, to).unwrap();
        }
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            check.handle(from, &buffer[..length], Instant::now());
        }
    }
    let report = check.report();
    let family = report.ipv4.expect("an answer");
    assert_eq!((family.mapping, family.filtering), (Mapping::NoNat, Filtering::EndpointIndependent));
    assert!(family.port_kept && report.servers[0].rtt.is_some());
}
