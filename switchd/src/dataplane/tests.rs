//! Two workers on loopback, a relay between them where a test wants one.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nat_traversal::frame::{
    channel_header, data_indication, parse_channel, parse_send_indication, stream_padding,
};
use nat_traversal::{CandidateKind, CandidatePair, Offer, PathEvent, PathId, PathState, RelayId, Route};
use switch_core::frame::ecn::Ecn;
use switch_core::ids::{Mac, PeerId, ReceiverIndex, Vni};
use switch_core::seal::{Cipher, KEY_MATERIAL_LEN, KeyMaterial, Opener, Role, Sealer};
use switch_core::switch::{DropReason, Limits, Policy, SwitchConfig};
use switch_core::vnet::VnetHdr;
use switch_core::wire::{Lane, Message};
use tokio::sync::mpsc;

use super::capture::Captures;
use super::carriage::CarriageOut;
use super::core::Core;
use super::drops::DropLog;
use super::outbound::Outbound;
use super::paths::PathWork;
use super::peers::Peers;
use super::snapshot::DropCounts;
use super::transmitter::Transmitter;
use super::{Command, DataPlane, NetworkConfig, PeerSnapshot, Report};
use crate::config::Carriage;
use crate::underlay::{Carrier, StreamMessage, Underlay, ecn_of};

mod carried;

const PEER: PeerId = PeerId(1);
const OUTBOUND: Outbound =
    Outbound { vni: Vni::MAX, mss_clamp: true, carriage: Carriage::Sealed, lane: Lane::Bulk, spare: true };
const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    plane: DataPlane,
    underlay: Arc<Underlay>,
}

impl Node {
    fn start() -> Node {
        let underlay = Arc::new(Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let plane = super::start(underlay.clone(), "node".into(), [1; 4]).unwrap();
        Node { plane, underlay }
    }

    fn address(&self) -> SocketAddr {
        self.underlay.socket().local_addr().unwrap()
    }

    fn send(&self, command: Command) {
        assert!(self.plane.handle.send(command));
    }

    /// A session with the other node, which has the other role.
    fn session(&self, role: Role) {
        let (own, other) = match role {
            Role::Initiator => (ReceiverIndex(10), ReceiverIndex(20)),
            Role::Responder => (ReceiverIndex(20), ReceiverIndex(10)),
        };
        self.send(Command::AddPeer(PEER, "other".into(), Vec::new()));
        self.send(Command::AddSession(own, PEER, Box::new(opener(role))));
        self.send(Command::ArmSession(own, Box::new(sealer(role, other))));
        self.send(Command::UseSession(PEER, Some(own)));
    }

    fn offer(&self, id: u32, route: Route, remote: CandidateKind, proven: bool) {
        let pair = CandidatePair { local: CandidateKind::Host, local_address: None, remote };
        self.send(Command::OfferPath(PEER, Offer { id: PathId(id), route, pair, proven }));
    }

    async fn selected(&mut self, id: u32) {
        let wait = async {
            while let Some(report) = self.plane.reports.recv().await {
                if matches!(report, Report::Path(PEER, PathEvent::Selected { id: now, .. }) if now == PathId(id))
                {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the path is selected in time");
    }

    async fn snapshot(&self, what: &str, mut wanted: impl FnMut(&PeerSnapshot) -> bool) {
        let began = Instant::now();
        loop {
            let snapshot = self.plane.snapshot.load();
            let peer = snapshot.peers.get(&PEER);
            if peer.is_some_and(&mut wanted) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {peer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.plane.handle.send(Command::Stop);
    }
}

/// `host`: the host's own addresses in it.
fn network(vni: Vni, host: Vec<std::net::IpAddr>) -> Box<NetworkConfig> {
    Box::new(NetworkConfig {
        name: "blue".into(),
        switch: SwitchConfig {
            vni,
            mode: switch_core::switch::Mode::default(),
            endpoint_mac: Mac([2, 0, 0, 0, 0, 1]),
            policy: Policy::default(),
            limits: Limits::default(),
            gateways: Vec::new(),
            hash_seed: [1; 4],
        },
        mss_clamp: true,
        carriage: Carriage::Sealed,
        host,
    })
}

fn material() -> KeyMaterial {
    KeyMaterial::new([7; KEY_MATERIAL_LEN])
}

fn opener(role: Role) -> Opener {
    Opener::new(Cipher::ChaCha20Poly1305, &material(), role)
}

fn sealer(role: Role, receiver: ReceiverIndex) -> Sealer {
    Sealer::new(Cipher::ChaCha20Poly1305, &material(), role, receiver, 1, u64::MAX)
}

fn pair() -> (Node, Node) {
    let (a, b) = (Node::start(), Node::start());
    a.session(Role::Initiator);
    b.session(Role::Responder);
    (a, b)
}

#[tokio::test]
async fn a_proven_path_is_selected_measured_and_searched() {
    let (mut a, mut b) = pair();
    a.offer(1, Route::Direct(b.address()), CandidateKind::Host, true);
    b.offer(1, Route::Direct(a.address()), CandidateKind::Host, true);
    a.selected(1).await;
    b.selected(1).await;
    for node in [&a, &b] {
        node.snapshot("RTT and MTU", |peer| {
            let path = peer.paths.first();
            path.is_some_and(|path| path.selected && path.rtt.is_some() && path.mtu == 1472)
                && peer.datagram_max == 1472
        })
        .await;
    }
}

/// One end alone knows the way: the other learns it, and answers by it.
#[tokio::test]
async fn a_way_is_learned_from_authentic_datagrams() {
    let (mut a, b) = pair();
    a.offer(1, Route::Direct(b.address()), CandidateKind::Host, false);
    a.selected(1).await;
    let a_at = Route::Direct(a.address());
    b.snapshot("a learned path", |peer| {
        let path = peer.paths.first();
        path.is_some_and(|path| path.route == a_at && path.selected && path.id.0 >= PathId::OWN)
    })
    .await;
}

/// A relay for one client: what it binds to `channel` goes to the peer, and back.
struct Relay {
    server: UdpSocket,
    relayed: UdpSocket,
    stop: Arc<AtomicBool>,
}

const RELAY: RelayId = RelayId(3);
const CHANNEL: u16 = 0x4001;

impl Relay {
    fn new() -> Relay {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket
        };
        Relay { server: socket(), relayed: socket(), stop: Arc::default() }
    }

    fn at(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }

    fn relayed(&self) -> SocketAddr {
        self.relayed.local_addr().unwrap()
    }

    /// `bound`: the peer's answers are channel data, else Data indications.
    fn run(&self, client: SocketAddr, peer: SocketAddr, bound: bool) {
        let (server, relayed) = (self.server.try_clone().unwrap(), self.relayed.try_clone().unwrap());
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok(len) = server.recv(&mut buf) else { continue };
                let channel = parse_channel(&buf[..len]).filter(|(channel, _)| *channel == CHANNEL);
                let indication = parse_send_indication(&buf[..len]).filter(|(to, _)| *to == peer);
                let payload = channel.map(|(_, payload)| payload).or(indication.map(|(_, at)| &buf[at]));
                relayed.send_to(payload.expect("of this client's peer"), peer).unwrap();
            }
        });
        let (server, relayed) = (self.server.try_clone().unwrap(), self.relayed.try_clone().unwrap());
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok(len) = relayed.recv(&mut buf) else { continue };
                server.send_to(&wrap(peer, &buf[..len], bound), client).unwrap();
            }
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn wrap(peer: SocketAddr, payload: &[u8], bound: bool) -> Vec<u8> {
    if bound {
        return [&channel_header(CHANNEL, payload.len() as u16), payload].concat();
    }
    let head = data_indication(peer, payload.len(), [9; 12]).unwrap();
    [head.as_slice(), payload, &[0; 3][..stream_padding(payload.len())]].concat()
}

#[tokio::test]
async fn paths_by_a_relay_work_with_and_without_a_channel_and_give_way_to_a_direct_one() {
    for bound in [true, false] {
        let (mut a, mut b) = pair();
        let relay = Relay::new();
        relay.run(a.address(), b.address(), bound);
        a.underlay.relays().set_relay(RELAY, Some(Carrier::Udp(relay.at())));
        if bound {
            a.underlay.relays().set_channel(RELAY, b.address(), Some(CHANNEL));
        }
        a.offer(1, Route::Relayed(RELAY, b.address()), CandidateKind::Relayed, false);
        b.offer(1, Route::Direct(relay.relayed()), CandidateKind::Relayed, false);
        a.selected(1).await;
        b.selected(1).await;
        a.snapshot("the relayed path's MTU", |peer| peer.datagram_max >= 1432).await;

        a.offer(2, Route::Direct(b.address()), CandidateKind::Host, false);
        b.offer(2, Route::Direct(a.address()), CandidateKind::Host, false);
        a.selected(2).await;
        b.selected(2).await;
        a.send(Command::WithdrawPath(PEER, PathId(2)));
        a.selected(1).await;
    }
}

#[tokio::test]
async fn a_relays_stream_carries_a_path_too() {
    let (mut a, mut b) = pair();
    let relayed = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let beyond = relayed.local_addr().unwrap();
    let (to, mut written) = mpsc::channel::<Bytes>(64);
    a.underlay.relays().set_relay(RELAY, Some(Carrier::Stream(to)));
    a.underlay.relays().set_channel(RELAY, b.address(), Some(CHANNEL));
    a.offer(1, Route::Relayed(RELAY, b.address()), CandidateKind::Relayed, false);
    b.offer(1, Route::Direct(beyond), CandidateKind::Relayed, false);
    let (peer, handle) = (b.address(), a.plane.handle.clone());
    let relay = tokio::spawn(async move {
        let mut buf = [0; 2048];
        loop {
            tokio::select! {
                message = written.recv() => {
                    let message = message.expect("the relay is in use");
                    assert_eq!(message.len() % 4, 0);
                    let (_, payload) = parse_channel(&message).expect("channel data");
                    relayed.send_to(payload, peer).await.unwrap();
                }
                received = relayed.recv(&mut buf) => {
                    let message = wrap(peer, &buf[..received.unwrap()], true).into();
                    if !handle.stream_message(StreamMessage { relay: RELAY, message }).await {
                        return;
                    }
                }
            }
        }
    });
    a.selected(1).await;
    b.selected(1).await;
    relay.abort();
}

fn stun(class: u8) -> Vec<u8> {
    let mut message = vec![class, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.extend([5; 12]);
    message
}

#[tokio::test]
async fn stun_goes_to_the_link_plane_with_where_it_came_and_arrived() {
    let mut node = Node::start();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&stun(0), node.address()).unwrap();
    let seen = tokio::time::timeout(PATIENCE, node.plane.stun.recv()).await.unwrap().unwrap();
    assert_eq!(seen.route, Route::Direct(stranger.local_addr().unwrap()));
    assert_eq!(seen.local, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(seen.payload, stun(0));

    // From beyond a relay: its word as its own, what it passes on by the relay's route.
    let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer: SocketAddr = "198.51.100.9:9".parse().unwrap();
    node.underlay.relays().set_relay(RELAY, Some(Carrier::Udp(relay.local_addr().unwrap())));
    node.underlay.relays().set_channel(RELAY, peer, Some(CHANNEL));
    for (message, route) in [
        (stun(1), Route::Direct(relay.local_addr().unwrap())),
        (wrap(peer, &stun(0), true), Route::Relayed(RELAY, peer)),
        (wrap(peer, &stun(0), false), Route::Relayed(RELAY, peer)),
    ] {
        relay.send_to(&message, node.address()).unwrap();
        let seen = tokio::time::timeout(PATIENCE, node.plane.stun.recv()).await.unwrap().unwrap();
        assert_eq!(seen.route, route);
    }
}

/// A peer that is reached inside a network is reached by its own link: a link by that would carry itself.
#[tokio::test]
async fn what_comes_to_the_host_inside_a_network_is_no_links() {
    let mut node = Node::start();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ask = async |node: &Node| {
        let (to, answer) = tokio::sync::oneshot::channel();
        node.send(Command::Ping(to));
        tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
    };
    let vni = Vni::new(7).unwrap();
    node.send(Command::AddNetwork(network(vni, vec!["127.0.0.1".parse().unwrap()])));
    ask(&node).await;
    stranger.send_to(&stun(0), node.address()).unwrap();
    let dropped = |node: &Node| {
        node.plane.snapshot.load().stats.datagram_drops.iter().map(|(_, count)| *count).sum::<u64>()
    };
    let end = Instant::now() + PATIENCE;
    while dropped(&node) == 0 {
        assert!(Instant::now() < end, "it is counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.send(Command::RemoveNetwork(vni));
    ask(&node).await;
    stranger.send_to(&stun(1), node.address()).unwrap();
    let seen = tokio::time::timeout(PATIENCE, node.plane.stun.recv()).await.unwrap().unwrap();
    assert_eq!(seen.payload, stun(1));
}

/// Nobody reads the queue: strangers fill half of it, and a relay's word still gets through.
#[tokio::test]
async fn a_flood_of_stun_leaves_room_for_relays_and_the_worker_turns() {
    let mut node = Node::start();
    let (stranger, relay) =
        (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let relay_at = relay.local_addr().unwrap();
    node.underlay.relays().set_relay(RELAY, Some(Carrier::Udp(relay_at)));
    for _ in 0..5000 {
        stranger.send_to(&stun(0), node.address()).unwrap();
    }
    relay.send_to(&stun(1), node.address()).unwrap();
    let (to, answer) = tokio::sync::oneshot::channel();
    node.send(Command::Ping(to));
    tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
    let mut strangers = 0;
    let relays_word = async {
        loop {
            match node.plane.stun.recv().await.unwrap().route {
                Route::Direct(from) if from == relay_at => return,
                _ => strangers += 1,
            }
        }
    };
    tokio::time::timeout(PATIENCE, relays_word).await.unwrap();
    assert!(strangers < 5000, "{strangers}");
}

/// A core without a worker, a peer without a session, and where its datagrams would arrive.
fn core() -> (Core, mpsc::UnboundedReceiver<Report>, UdpSocket) {
    let (reports, reported) = mpsc::unbounded_channel();
    let underlay = Arc::new(Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap());
    let mut core = Core {
        start: Instant::now(),
        peers: Peers::new([0; 4]),
        transmitter: Transmitter::new(underlay),
        carriage: CarriageOut::new(Arc::default()),
        captures: Captures::default(),
        drop_log: DropLog::default(),
        datagram_drops: DropCounts::default(),
        reports,
        rekey_datagrams: u64::MAX,
        lanes: switch_core::lanes::Lanes::new([5, 6, 7, 8]),
        bulk: false,
        paths: PathWork::default(),
        unheld: Vec::new(),
        removed: Vec::new(),
        scratch: Vec::new(),
    };
    let vni = Vni::new(1).unwrap();
    core.peers.add(PEER, "other".into(), vec![vni]);
    core.peers.get_mut(PEER).unwrap().member = vec![vni];
    let at = UdpSocket::bind("127.0.0.1:0").unwrap();
    at.set_read_timeout(Some(PATIENCE)).unwrap();
    (core, reported, at)
}

fn send(core: &mut Core, vni: u32, mark: u8) -> Result<(), DropReason> {
    let outbound = Outbound { vni: Vni::new(vni).unwrap(), ..OUTBOUND };
    core.send_frame(outbound, PEER, &VnetHdr::default(), &mut [mark; 60])
}

#[test]
fn frames_wait_for_a_link_and_leave_in_order() {
    let (mut core, mut reported, at) = core();
    for mark in 0..40 {
        let kept = send(&mut core, 1, mark).is_ok();
        assert_eq!(kept, mark < 32, "{mark}");
    }
    assert_eq!(reported.try_recv(), Ok(Report::Wanted(PEER)));
    assert!(reported.try_recv().is_err(), "once in a while");

    let index = ReceiverIndex(10);
    core.peers.add_session(index, PEER, Box::new(opener(Role::Initiator)));
    core.peers.arm_session(index, Box::new(sealer(Role::Initiator, ReceiverIndex(20))));
    let now = Instant::now();
    let peer = core.peers.get_mut(PEER).unwrap();
    peer.active = Some(index);
    peer.paths.set_usable(true, now);
    let pair = CandidatePair { local: CandidateKind::Host, local_address: None, remote: CandidateKind::Host };
    let route = Route::Direct(at.local_addr().unwrap());
    peer.paths.offer(Offer { id: PathId(1), route, pair, proven: true }, now);
    assert_eq!(peer.paths.paths().next().map(|path| path.state), Some(PathState::Alive));
    assert_eq!(send(&mut core, 1, 99), Ok(()), "after those that waited");
    core.stir(PEER);
    core.mind_paths(now);
    core.transmitter.flush();

    let (mut opener, mut buf) = (opener(Role::Responder), [0; 2048]);
    let mut marks = Vec::new();
    while marks.len() < 33 {
        let len = at.recv(&mut buf).unwrap();
        let header = switch_core::wire::Header::parse(&buf[..len]).unwrap();
        let (message, _) = opener.open(&header, &mut buf[..len]).unwrap();
        if let Ok(Message::Frame(_, frame)) = Message::parse(message) {
            marks.push(frame[0]);
        }
    }
    assert_eq!(marks, (0..32).chain([99]).collect::<Vec<u8>>());
    assert!(core.unheld.is_empty());
}

#[test]
fn the_outer_header_has_no_ecn_until_the_peer_said_that_it_minds_it() {
    let (mut core, _reported, _at) = core();
    let peer = Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let index = ReceiverIndex(10);
    core.peers.add_session(index, PEER, Box::new(opener(Role::Initiator)));
    core.peers.arm_session(index, Box::new(sealer(Role::Initiator, ReceiverIndex(20))));
    let sending = core.peers.get_mut(PEER).unwrap();
    sending.active = Some(index);
    sending.paths.set_usable(true, Instant::now());
    let pair = CandidatePair { local: CandidateKind::Host, local_address: None, remote: CandidateKind::Host };
    let route = Route::Direct(peer.socket().local_addr().unwrap());
    sending.paths.offer(Offer { id: PathId(1), route, pair, proven: true }, Instant::now());

    let mut frame = vec![2; 60];
    frame[12..16].copy_from_slice(&[8, 0, 0x45, Ecn::Ect0 as u8]);
    let outbound = Outbound { lane: Lane::Prompt, ..OUTBOUND };
    for expected in [Ecn::NotEct, Ecn::Ect0] {
        core.send_frame(outbound, PEER, &VnetHdr::default(), &mut frame.clone()).unwrap();
        core.transmitter.flush();
        let (mut buf, mut meta) = ([0; 2048], [quinn_udp::RecvMeta::default()]);
        let began = Instant::now();
        while peer.recv(&mut [IoSliceMut::new(&mut buf)], &mut meta).is_err() {
            assert!(began.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        assert_eq!(ecn_of(&meta[0]), expected);
        core.peers.carry_ecn(index);
    }
}

#[test]
fn frames_that_wait_in_vain_are_given_up() {
    let (mut core, _reported, _at) = core();
    assert_eq!(send(&mut core, 1, 1), Ok(()));
    let late = core.path_timeout().expect("a time limit");
    assert!(late > Instant::now() + Duration::from_secs(1));
    core.mind_paths(late);
    let reasons: Vec<_> =
        core.unheld.iter().map(|(peer, reason, held)| (*peer, *reason, held.frame[0])).collect();
    assert_eq!(reasons, [(PEER, DropReason::LinkDown, 1)]);
}
