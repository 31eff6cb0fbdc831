//! The worker allocates nothing for a frame in the steady state. Two nodes on loopback, and behind each one's TAP the
//! kernel of a namespace in the part of an instance. Alone in its process, so that every allocation is counted, on
//! whichever thread.

#![expect(clippy::unwrap_used, reason = "a test's setup, and what it asks of the kernel")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_micro::frames::{ENDPOINT, FROM, FROM_IP, TO, TO_IP};
use bench_micro::{Counting, allocations_of_all, binding};
use nat_traversal::{CandidateKind, CandidatePair, Offer, PathId, Route};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use switch_core::ids::{Mac, PeerId, ReceiverIndex, Vni};
use switch_core::seal::{Cipher, KEY_MATERIAL_LEN, KeyMaterial, Opener, Role, Sealer};
use switch_core::switch::{Limits, Mode, Place, Policy, SwitchConfig};
use switchd::dataplane::{self, BindingChange, Bite, Command, DataPlane, NetworkConfig, Snapshot};
use switchd::netlink::Netlink;
use switchd::tap::Tap;
use switchd::underlay::Underlay;

#[global_allocator]
static COUNTING: Counting = Counting;

const PEER: PeerId = PeerId(1);
const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 5001;
/// Rounds before those that count: tables, queues and buffers grow to what they need.
const WARM_UP: usize = 300;
const ROUNDS: usize = 1000;

#[test]
fn the_worker_allocates_nothing_for_a_frame() {
    for offloads in [true, false] {
        let from = Instance::start(FROM, FROM_IP, offloads);
        let to = Instance::start(TO, TO_IP, offloads);
        if let (Some(from), Some(to)) = (from, to) {
            carry(from, to, offloads);
        }
    }
}

fn carry(from: Instance, to: Instance, offloads: bool) {
    let with = if offloads { "with" } else { "without" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (a, b) = runtime.block_on(nodes(from.tap, to.tap));

    // Two that fit a datagram, and one that is cut in two.
    for payload in [22, 1400 - 28, 1500 - 28] {
        let (sent, mut received) = ([0x5a; 1500], [0; 1500]);
        let clean = rounds(|| {
            from.udp.send_to(&sent[..payload], (TO_IP, PORT)).unwrap();
            assert_eq!(to.udp.recv(&mut received).expect("it arrives"), payload);
        });
        assert_steady(&format!("UDP of {payload} bytes, {with} offloads"), clean);
    }

    to.tcp.bind(&SocketAddr::from((TO_IP, PORT)).into()).unwrap();
    to.tcp.listen(1).unwrap();
    from.tcp.connect(&SocketAddr::from((TO_IP, PORT)).into()).unwrap();
    let (mut sending, (mut receiving, _)) = (from.tcp, to.tcp.accept().unwrap());
    receiving.set_read_timeout(Some(PATIENCE)).unwrap();
    let super_frames = |node: &Node| {
        let networks = &node.snapshot().stats.networks;
        networks[0].local.super_frames + networks[0].remote.super_frames
    };
    let before = [super_frames(&a), super_frames(&b)];
    let (sent, mut received) = (vec![0x5a; 32_000], vec![0; 32_000]);
    let clean = rounds(|| {
        sending.write_all(&sent).unwrap();
        receiving.read_exact(&mut received).unwrap();
    });
    assert_steady(&format!("TCP {with} offloads"), clean);
    if offloads {
        runtime.block_on(async {
            for (node, before) in [&a, &b].into_iter().zip(before) {
                let enough = |_: &Snapshot| super_frames(node) - before > ROUNDS as u64;
                node.until("super-frames, at least one a round", enough).await;
            }
        });
    }
}

/// How many of the rounds went by without an allocation on any thread. What is allocated by time, such as a snapshot
/// of the counters four times a second, falls into few of them; what is allocated for each frame into all.
fn rounds(mut round: impl FnMut()) -> usize {
    (0..WARM_UP).for_each(|_| round());
    let mut before = allocations_of_all();
    let mut clean = 0;
    for _ in 0..ROUNDS {
        round();
        let now = allocations_of_all();
        clean += usize::from(now == before);
        before = now;
    }
    clean
}

fn assert_steady(what: &str, clean: usize) {
    println!("{what}: {clean} of {ROUNDS} rounds without an allocation");
    assert!(clean * 10 >= ROUNDS * 8, "{what}: only {clean} of {ROUNDS} rounds without an allocation");
}

/// A namespace whose kernel sends and receives by a TAP.
struct Instance {
    tap: Tap,
    udp: UdpSocket,
    tcp: Socket,
}

impl Instance {
    /// `None`, saying so, where namespaces are not permitted. The namespace lives as long as its sockets.
    fn start(mac: Mac, ip: Ipv4Addr, offloads: bool) -> Option<Instance> {
        let started = std::thread::spawn(move || {
            if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: a network namespace takes root ({e})");
                return None;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tap = runtime.block_on(async {
                let netlink = Netlink::open().unwrap();
                let tap = Tap::open("t0", offloads).unwrap();
                netlink.no_ipv6_autoconf(tap.index()).await.unwrap();
                netlink.set_mac(tap.index(), mac).await.unwrap();
                netlink.add_address(tap.index(), IpAddr::V4(ip), 24).await.unwrap();
                netlink.set_up(tap.index(), true).await.unwrap();
                tap
            });
            let udp = UdpSocket::bind((ip, PORT)).unwrap();
            udp.set_read_timeout(Some(PATIENCE)).unwrap();
            Some(Instance { tap, udp, tcp: Socket::new(Domain::IPV4, Type::STREAM, None).unwrap() })
        });
        started.join().unwrap()
    }
}

struct Node {
    plane: DataPlane,
    underlay: Arc<Underlay>,
}

/// The nodes of the two instances, by the one path there is.
async fn nodes(from: Tap, to: Tap) -> (Node, Node) {
    let (a, b) = (Node::start(), Node::start());
    for (node, other, role, tap, [from, to]) in [
        (&a, &b, Role::Initiator, from, [Place::Local, Place::Peer(PEER)]),
        (&b, &a, Role::Responder, to, [Place::Peer(PEER), Place::Local]),
    ] {
        node.serve(tap);
        node.link(role, other.underlay.socket().local_addr().unwrap());
        let room = node.plane.handle.bite_room().await.expect("the worker runs");
        let bindings = [(FROM, FROM_IP, from), (TO, TO_IP, to)];
        let set = |(mac, ip, at)| BindingChange::Set(vni(), Box::new(binding(mac, ip, at)));
        node.plane.handle.bite(room, Bite::Bindings(bindings.into_iter().map(set).collect()));
    }
    for node in [&a, &b] {
        node.until("the path's MTU", |snapshot| {
            snapshot.peers.get(&PEER).is_some_and(|peer| peer.datagram_max == 1472)
        })
        .await;
    }
    (a, b)
}

impl Node {
    fn start() -> Node {
        let underlay = Arc::new(Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let plane = dataplane::start(underlay.clone(), "node".into(), [1; 4]).unwrap();
        Node { plane, underlay }
    }

    fn send(&self, command: Command) {
        assert!(self.plane.handle.send(command));
    }

    fn serve(&self, tap: Tap) {
        let switch = SwitchConfig {
            vni: vni(),
            mode: Mode::Rewrite,
            endpoint_mac: ENDPOINT,
            policy: Policy::default(),
            limits: Limits::default(),
            gateways: Vec::new(),
            hash_seed: [1; 4],
        };
        let config = NetworkConfig { name: "blue".into(), switch, mss_clamp: true, host: Vec::new() };
        self.send(Command::AddNetwork(Box::new(config)));
        self.send(Command::SetEndpoint(vni(), Some(tap)));
    }

    fn link(&self, role: Role, other: SocketAddr) {
        let material = KeyMaterial::new([7; KEY_MATERIAL_LEN]);
        let (own, theirs) = match role {
            Role::Initiator => (ReceiverIndex(10), ReceiverIndex(20)),
            Role::Responder => (ReceiverIndex(20), ReceiverIndex(10)),
        };
        let opener = Opener::new(Cipher::Aes256Gcm, &material, role);
        let sealer = Sealer::new(Cipher::Aes256Gcm, &material, role, theirs, 1, u64::MAX);
        self.send(Command::AddPeer(PEER, "other".into(), vec![vni()]));
        self.send(Command::SetMembership(PEER, vec![vni()]));
        self.send(Command::AddSession(own, PEER, Box::new(opener)));
        self.send(Command::ArmSession(own, Box::new(sealer)));
        self.send(Command::UseSession(PEER, Some(own)));
        let host = CandidateKind::Host;
        let pair = CandidatePair { local: host, local_address: None, remote: host };
        let offer = Offer { id: PathId(1), route: Route::Direct(other), pair, proven: true };
        self.send(Command::OfferPath(PEER, offer));
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.plane.snapshot.load_full()
    }

    async fn until(&self, what: &str, mut wanted: impl FnMut(&Snapshot) -> bool) {
        let began = Instant::now();
        while !wanted(&self.snapshot()) {
            assert!(began.elapsed() < PATIENCE, "in time: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.plane.handle.send(Command::Stop);
    }
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}
