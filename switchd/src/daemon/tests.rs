//! Whole daemons in one network namespace, told what to be while they run.

use std::net::SocketAddr;
use std::time::Instant;

use switch_core::frame::Tags;
use switch_core::ids::{Generation, Mac, Vni};
use switch_core::switch::{BindingKey, Source, State};
use tempfile::TempDir;

use super::*;
use crate::config::{Dhcp, Network};
use crate::desired::{Applied, Change, DesiredBinding, DesiredPeer, StationReport, Update};
use crate::endpoint::EndpointStatus;
use crate::key::PublicKey;
use crate::netlink::tests::{in_netns, wait_for};
use crate::tap::Tap;
use crate::view::{Link, LinkState, NetworkStatus};

#[test]
fn networks_come_change_and_go() {
    in_netns(|| async {
        let mut node = Running::start("a", "").await;
        let blue = network(7, "a");
        assert_eq!(node.step(vec![set(&blue)]).await.problems, [""; 0]);
        let up = node.network_up(7).await;
        assert_eq!((up.from, up.bridge.as_str(), up.mtu), (Origin::Controller, "br7a", 1500));
        let tap = node.link("sw7a").await.unwrap();
        assert_eq!(tap.master, Some(node.link("br7a").await.unwrap().index));

        // What changes live leaves the TAP alone.
        let policy = Network { dhcp: Dhcp::LocalOnly, ..blue.clone() };
        node.step(vec![set(&policy)]).await;
        assert_eq!(node.link("sw7a").await.unwrap().index, tap.index);
        // The rest makes a new one, on the same bridge or another.
        let moved = Network { mtu: 1400, bridge: "br7b".into(), ..policy };
        node.step(vec![set(&moved)]).await;
        let up = node.network_up(7).await;
        assert_eq!((up.bridge.as_str(), up.mtu), ("br7b", 1400));
        let new = node.link("sw7a").await.unwrap();
        assert_ne!(new.index, tap.index);
        assert_eq!((new.mtu, new.master), (1400, Some(node.link("br7b").await.unwrap().index)));
        node.gone("br7a").await;

        // Two at once, one of which takes over the other's bridge.
        let green = Network { endpoint: "sw8a".into(), bridge: "br7b".into(), ..network(8, "a") };
        node.step(vec![Change::RemoveNetwork(vni(7)), set(&green)]).await;
        node.network_up(8).await;
        node.gone("sw7a").await;
        node.step(vec![Change::RemoveNetwork(vni(8))]).await;
        node.gone("sw8a").await;
        node.gone("br7b").await;
        assert!(node.steering.view.status().networks.is_empty());
        node.stop().await;
    });
}

#[test]
fn the_files_networks_stay_and_a_clash_is_told() {
    in_netns(|| async {
        let file = "[[network]]\nname = \"blue\"\nvni = 7\nbridge = \"br-blue\"\ncreate_bridge = true\n";
        let mut node = Running::start("a", file).await;
        let applied = node.step(vec![set(&network(7, "a")), set(&network(8, "a"))]).await;
        assert!(applied.problems.len() == 1 && applied.problems[0].contains("VNI 7"), "{applied:?}");
        assert_eq!(node.network_up(7).await.from, Origin::File);
        node.network_up(8).await;
        let applied = node.update(Update { reset: true, ..Update::default() }).await;
        assert!(applied.problems.is_empty(), "{applied:?}");
        node.gone("sw8a").await;
        assert_eq!(node.network_up(7).await.from, Origin::File);
        node.stop().await;
    });
}

#[test]
fn a_peer_is_found_at_its_second_address_changes_its_key_and_is_cut_off() {
    in_netns(|| async {
        let (mut a, mut b) = (Running::start("a", "").await, Running::start("b", "").await);
        let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let dialled = peer("b", b.key, vec![nowhere, b.listen()]);
        let since = Instant::now();
        b.step(vec![set(&network(7, "b")), peer("a", a.key, Vec::new())]).await;
        a.step(vec![set(&network(7, "a")), dialled]).await;
        let link = a.link_state(LinkState::Up).await;
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
        assert_eq!((link.address, link.node_id.as_deref()), (Some(b.listen()), Some("node-b")));
        assert_eq!(link.from, Origin::Controller);
        wait_for("the network on the link", LIMIT, async || {
            (a.steering.view.links()[0].networks == ["n7a"]).then_some(())
        })
        .await;

        // b makes itself a new key, and a hears of it later.
        let key = PrivateKey::generate().unwrap();
        let public = key.public();
        b.steering.keys.send(key).await.unwrap();
        wait_for("b's new key", LIMIT, async || {
            (b.steering.view.status().public_key == public).then_some(())
        })
        .await;
        let epoch = link.epoch;
        a.step(vec![peer("b", public, vec![b.listen()])]).await;
        let link = wait_for("a session with the new key", LIMIT, async || {
            let link = a.steering.view.links().remove(0);
            assert_eq!(link.state, LinkState::Up, "the old session serves meanwhile");
            (link.epoch > epoch && link.public_key == public).then_some(link)
        })
        .await;
        assert_eq!(link.reconnects, 0);

        let since = Instant::now();
        a.step(vec![Change::RemovePeer("node-b".into())]).await;
        assert!(a.steering.view.links().is_empty());
        b.link_state(LinkState::Down).await;
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        // b is refused from now on, and taken again once it is a peer again.
        b.step(vec![peer("a", a.key, vec![a.listen()])]).await;
        wait_for("a refusal", LIMIT, async || {
            let link = b.steering.view.links().remove(0);
            link.last_error.filter(|e| e.contains("does not have the other's key"))
        })
        .await;
        a.step(vec![peer("b", public, Vec::new())]).await;
        a.link_state(LinkState::Up).await;
        a.stop().await;
        b.stop().await;
    });
}

#[test]
fn a_hundred_thousand_bindings_do_not_hold_up_the_worker() {
    in_netns(|| async {
        let mut node = Running::start("a", "").await;

        node.step(vec![set(&network(7, "a")), peer("b", PublicKey([7; 32]), Vec::new())]).await;
        node.network_up(7).await;
        let bind = |n: u32, generation| {
            let [_, a, b, c] = n.to_be_bytes();
            let binding = DesiredBinding {
                ips: vec![std::net::IpAddr::from([10, a, b, c])],
                node: Some("node-b".into()),
                generation: Generation(generation),
                source: Source::Controller,
                state: State::Active,
            };
            Change::Binding(vni(7), BindingKey { tags: Tags::NONE, mac: Mac([2, 0, 0, a, b, c]) }, binding)
        };
        let changes = (1..=BINDINGS).map(|n| bind(n, 1)).collect();
        let since = Instant::now();
        let mut applied = node.steering.applied.clone();
        applied.mark_unchanged();
        node.steering.updates.send(Update { changes, ..Update::default() }).await.unwrap();
        let mut slowest = Duration::ZERO;
        let mut pings = 0;
        while !applied.has_changed().unwrap() {
            let asked = Instant::now();
            assert!(node.steering.view.worker_answers().await);
            slowest = slowest.max(asked.elapsed());
            pings += 1;
            tokio::task::yield_now().await;
        }
        println!(
            "{BINDINGS} bindings in {:?}; the slowest of {pings} pings took {slowest:?}",
            since.elapsed()
        );
        assert!(applied.borrow().problems.is_empty());
        // Held up, it would answer once, after all of them. How long it takes is printed: machines differ.
        assert!(pings >= 20, "{pings} pings were answered meanwhile");
        // Beside them the bridge's own kernel may have spoken.
        let rows = node.steering.view.bindings().await;
        let bound = rows.iter().filter(|row| row.binding.generation == 1).count();
        assert_eq!(bound, BINDINGS as usize);

        let since = Instant::now();
        node.step(vec![bind(5, 2)]).await;
        println!("one more in {:?}", since.elapsed());
        node.stop().await;
    });
}

#[test]
fn what_is_learned_on_the_bridge_is_reported() {
    in_netns(|| async {
        let mut node = Running::start("a", "").await;
        node.step(vec![set(&network(7, "a"))]).await;
        node.network_up(7).await;
        let guest = Tap::open("g0", false).unwrap();
        let netlink = Netlink::open().unwrap();
        netlink.attach(guest.index(), node.link("br7a").await.unwrap().index).await.unwrap();
        netlink.set_up(guest.index(), true).await.unwrap();
        // The guest's own kernel speaks too, from the device's own MAC.
        let of_guest = |report: StationReport| {
            assert_eq!((report.vni, report.full), (vni(7), false));
            report.present.into_iter().find(|station| station.key.mac == GUEST)
        };
        // The port carries frames from the moment that it is up; until then they are lost.
        let station = wait_for("a report", LIMIT, async || {
            announce(&guest, [10, 0, 0, 1]);
            node.steering.stations.try_recv().ok().and_then(of_guest)
        })
        .await;
        assert_eq!(station.ips, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(station.seen_generation, Generation(0));

        announce(&guest, [10, 0, 0, 2]);
        let station = wait_for("another report", LIMIT, async || {
            node.steering.stations.try_recv().ok().and_then(of_guest)
        })
        .await;
        assert_eq!(station.ips.len(), 2, "all that it has: {station:?}");
        let all = node.steering.local_stations().await;
        assert_eq!((all.len(), all[0].full), (1, true));
        assert!(all[0].present.contains(&station), "{all:?}");
        node.stop().await;
    });
}

const LIMIT: Duration = Duration::from_secs(10);
const BINDINGS: u32 = 100_000;
const GUEST: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A daemon under way.
struct Running {
    steering: Steering,
    key: PublicKey,
    netlink: Netlink,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

impl Running {
    async fn start(name: &str, file: &str) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[node]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\n[admin]\nsocket = {:?}\n[metrics]\nlisten = \"off\"\n{file}",
            dir.path().join("admin.sock")
        );
        let netlink = Netlink::open().unwrap();
        netlink.set_up(1, true).await.unwrap();
        let key = PrivateKey::generate().unwrap();
        let public = key.public();
        let config = Config::parse(&text, "test").unwrap();
        let (mut daemon, steering) = Daemon::start(config, key).await.unwrap();
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                result = daemon.attend(Path::new("/nonexistent")) => result.unwrap(),
                _ = &mut stopped => {}
            }
            daemon.stop().await;
        });
        Running { steering, key: public, netlink, stop, task, _dir: dir }
    }

    fn listen(&self) -> SocketAddr {
        self.steering.view.status().listen
    }

    async fn step(&mut self, changes: Vec<Change>) -> Applied {
        self.update(Update { changes, ..Update::default() }).await
    }

    /// Waits until the worker has it.
    async fn update(&mut self, update: Update) -> Applied {
        self.steering.applied.mark_unchanged();
        self.steering.updates.send(update).await.unwrap();
        self.steering.applied.changed().await.unwrap();
        self.steering.applied.borrow().clone()
    }

    async fn network_up(&self, vni: u32) -> NetworkStatus {
        wait_for("the network up", LIMIT, async || {
            let networks = self.steering.view.status().networks;
            networks.into_iter().find(|n| n.vni == vni && n.endpoint_state == EndpointStatus::Up)
        })
        .await
    }

    async fn link_state(&self, state: LinkState) -> Link {
        wait_for("the link's state", LIMIT, async || {
            self.steering.view.links().into_iter().find(|link| link.state == state)
        })
        .await
    }

    async fn link(&self, name: &str) -> Option<crate::netlink::Link> {
        self.netlink.link_by_name(name).await.unwrap()
    }

    async fn gone(&self, name: &str) {
        wait_for("the device gone", LIMIT, async || self.link(name).await.is_none().then_some(())).await;
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// `node` is in the devices' names, as all are in one namespace.
fn network(n: u32, node: &str) -> Network {
    Network {
        bridge: format!("br{n}{node}"),
        endpoint: format!("sw{n}{node}"),
        ..Network::with_defaults(format!("n{n}{node}"), vni(n))
    }
}

fn set(network: &Network) -> Change {
    Change::Network(Box::new(network.clone()))
}

fn peer(name: &str, public_key: PublicKey, addresses: Vec<SocketAddr>) -> Change {
    let peer = DesiredPeer { name: name.into(), public_key, addresses, vnis: vec![vni(7)] };
    Change::Peer(format!("node-{name}"), peer)
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

/// A gratuitous ARP request of the guest's.
fn announce(guest: &Tap, ip: [u8; 4]) {
    let header = [0; switch_core::vnet::VNET_HDR_LEN];
    let eth: Vec<u8> = [&[0xff; 6][..], &GUEST.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    let arp: Vec<u8> = [&GUEST.0[..], &ip, &[0; 6], &ip].concat();
    let slices = [&header[..], &eth, &arp, &[0; 18]].map(std::io::IoSlice::new);
    guest.write_vectored(&slices).unwrap();
}
