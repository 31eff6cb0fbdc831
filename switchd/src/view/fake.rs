//! A [`View`] with made-up rows, for the tests of whatever shows them.

use std::time::{Duration, SystemTime};

use controller_api::{Binding, BindingSource};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nat_traversal::{
    CandidateKind, CandidatePair, FamilyReport, Filtering, Mapping, NatReport, PairReport, PairState, PathId,
    PathState, PathView, RelayId, Route, ServerReport, SignalCandidate, TraversalReport, TraversalState,
};
use tokio::sync::mpsc;

use super::*;

/// Knobs of the fake.
pub(crate) struct FakeView {
    pub(crate) ready: bool,
    /// The worker hangs: nothing that asks it ends.
    pub(crate) hung: bool,
}

impl Default for FakeView {
    fn default() -> FakeView {
        FakeView { ready: true, hung: false }
    }
}

impl FakeView {
    fn ask<T: Send + 'static>(&self, rows: T) -> BoxFuture<'_, T> {
        if self.hung { std::future::pending().boxed() } else { std::future::ready(rows).boxed() }
    }
}

impl View for FakeView {
    fn status(&self) -> Status {
        Status {
            version: "0.1.0".into(),
            node: "node-a".into(),
            public_key: PublicKey([1; 32]),
            listen: "[::]:4840".parse().unwrap(),
            uptime: Duration::from_millis(90_500),
            ready: self.ready,
            not_ready_because: if self.ready { vec![] } else { vec!["bridge br-blue is missing".into()] },
            cipher: "aes-256-gcm".into(),
            networks: vec![NetworkStatus {
                name: "blue".into(),
                vni: 100,
                mode: "rewrite".into(),
                bridge: "br-blue".into(),
                endpoint: "sw-blue".into(),
                endpoint_state: if self.ready {
                    EndpointStatus::Up
                } else {
                    EndpointStatus::WaitingForBridge
                },
                endpoint_detail: String::new(),
                from: Origin::File,
                endpoint_mac: "02:73:77:00:00:64".into(),
                mtu: 1500,
                offloads: vec!["csum".into(), "tso4".into()],
                carriage: "sealed".into(),
                peers: vec!["node-b".into(), "node-c".into()],
            }],
            controller: Some(Controller {
                cluster: "lab".into(),
                node_id: "node-1".into(),
                connected: true,
                since: Some(Duration::from_secs(75)),
                last_heard: Some(Duration::from_millis(500)),
                epoch: 7,
                revision: 41,
                reconnects: 2,
                refused_claims: 3,
                last_error: None,
                removed: None,
            }),
        }
    }

    fn links(&self) -> Vec<Link> {
        let up = Link {
            peer: "node-b".into(),
            node_id: None,
            from: Origin::File,
            public_key: PublicKey([2; 32]),
            state: LinkState::Up,
            address: Some("192.0.2.2:4840".parse().unwrap()),
            path: Some("host".into()),
            local_candidate: Some("host".into()),
            remote_candidate: Some("host 192.0.2.2:4840".into()),
            why_relayed: None,
            rtt: Some(Duration::from_micros(250)),
            loss: Some(0.0125),
            path_mtu: Some(1500),
            epoch: 3,
            session_age: Some(Duration::from_secs(61)),
            last_heard: Some(Duration::from_millis(300)),
            cipher: Some("aes-256-gcm".into()),
            carriage: vec!["sealed".into(), "quic".into()],
            datagrams_to_peer: 1000,
            datagrams_from_peer: 900,
            bytes_to_peer: 1_400_000,
            bytes_from_peer: 1_200_000,
            quic_datagrams_to_peer: 1,
            quic_datagrams_from_peer: 0,
            quic_bytes_to_peer: 1000,
            quic_bytes_from_peer: 0,
            replays_dropped: 2,
            reconnects: 1,
            last_error: None,
            networks: vec!["blue".into()],
        };
        let down = Link {
            peer: "node-c".into(),
            node_id: Some("node-3".into()),
            from: Origin::Controller,
            state: LinkState::Down,
            address: None,
            path: None,
            local_candidate: None,
            remote_candidate: None,
            why_relayed: None,
            rtt: None,
            loss: None,
            path_mtu: None,
            session_age: None,
            last_heard: None,
            cipher: None,
            last_error: Some("no address: waiting for the peer to dial".into()),
            ..up.clone()
        };
        vec![up, down]
    }

    fn stats(&self) -> Stats {
        let histogram = Histogram { bounds: vec![64, 1518], counts: vec![1, 7, 2], sum: 140_000 };
        let side = DirectionStats {
            frames: 10,
            bytes: 140_000,
            super_frames: 2,
            frame_bytes: histogram.clone(),
            drops: vec![("loop".into(), 4), ("flood_limited".into(), 0)],
        };
        let case = |case: &str, outcome: &str, count| CaseCount {
            case: case.into(),
            outcome: outcome.into(),
            count,
        };
        Stats {
            networks: vec![NetworkStats {
                network: "blue".into(),
                local: side.clone(),
                remote: side,
                arp: vec![case("local_to_remote", "answered", 5)],
                nd: vec![case("solicitation", "answered", 6)],
                tables: vec![TableStats { table: "macs".into(), entries: 3, limit: 65_536, full: 0 }],
                unused_bindings: vec![("stale".into(), 7)],
            }],
            datagram_drops: vec![("bad_tag".into(), 1), ("queue_full".into(), 2168)],
            batches_to_peer: histogram.clone(),
            batches_from_peer: histogram,
            send_errors: vec![("EMSGSIZE".into(), 1)],
            worker: Some(WorkerStats {
                ran: Duration::from_millis(12_500),
                waited: Duration::from_millis(250),
            }),
        }
    }

    fn worker_answers(&self) -> BoxFuture<'_, bool> {
        self.ask(true)
    }

    fn rotate_key(&self) -> BoxFuture<'_, Result<PublicKey, String>> {
        async { Ok(PublicKey([9; 32])) }.boxed()
    }

    fn bindings(&self) -> BoxFuture<'_, Vec<BindingRow>> {
        self.ask(vec![BindingRow {
            network: "blue".into(),
            binding: Binding {
                vni: 100,
                vlans: vec![],
                mac: "02:00:00:00:00:01".into(),
                ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
                node: "node-b".into(),
                generation: 7,
                source: BindingSource::Learned,
            },
            announced: false,
            state: "active".into(),
            age: Duration::from_secs(5),
        }])
    }

    fn macs(&self) -> BoxFuture<'_, Vec<MacRow>> {
        self.ask(vec![MacRow {
            network: "blue".into(),
            mac: "02:00:00:00:00:01".into(),
            vlans: vec![10],
            direction: Direction::Remote,
            peer: Some("node-b".into()),
            age: Duration::from_secs(5),
        }])
    }

    fn netcheck(&self) -> BoxFuture<'_, Result<Netcheck, String>> {
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let server = |server: &str, mapped: Option<&str>| ServerReport {
            server: at(server),
            mapped: mapped.map(at),
            rtt: mapped.map(|_| Duration::from_micros(1500)),
            other: None,
        };
        let relay = |transport: &str, state, relayed: Option<&str>, error: Option<&str>| RelayRow {
            server: "relay.example:3478".into(),
            transport: transport.into(),
            state,
            relayed: relayed.map(at),
            last_error: error.map(str::to_owned),
        };
        let nat = NatReport {
            udp_blocked: false,
            ipv4: Some(FamilyReport {
                mapped: vec![at("198.51.100.1:20000")],
                mapping: Mapping::EndpointIndependent,
                filtering: Filtering::AddressAndPortDependent,
                hairpin: Some(false),
                port_kept: false,
            }),
            ipv6: None,
            servers: vec![
                server("203.0.113.10:3478", Some("198.51.100.1:20000")),
                server("203.0.113.20:3478", None),
            ],
        };
        let relays = vec![
            relay("udp", RelayState::Serving, Some("203.0.113.10:49152"), None),
            relay("tls", RelayState::Waiting, None, Some("the relay does not answer")),
        ];
        self.ask(Ok(Netcheck::new(nat, relays, self.links())))
    }

    fn why_relayed(&self, peer: &str) -> BoxFuture<'_, Result<WhyRelayed, String>> {
        let Some(link) = self.links().into_iter().find(|link| link.peer == peer) else {
            return self.ask(Err(format!("there is no peer named {peer:?}: `switchctl links` lists them")));
        };
        let candidate = |kind, address: &str| SignalCandidate { kind, address: address.parse().unwrap() };
        let (host, peers) = ("10.1.0.2:4840", "203.0.113.10:49153");
        let route = Route::Relayed(RelayId(7), peers.parse().unwrap());
        let direct = Route::Direct("198.51.100.2:20001".parse().unwrap());
        let pair = |route, local, remote, state, sent| PairReport { route, local, remote, state, sent };
        let report = TraversalReport {
            state: TraversalState::Quiet,
            controlling: true,
            selected: Some(CandidateKind::Relayed),
            local: vec![
                candidate(CandidateKind::Host, host),
                candidate(CandidateKind::ServerReflexive, "198.51.100.1:20000"),
            ],
            remote: vec![
                candidate(CandidateKind::ServerReflexive, "198.51.100.2:20001"),
                candidate(CandidateKind::Relayed, peers),
            ],
            pairs: vec![
                pair(direct, CandidateKind::Host, CandidateKind::ServerReflexive, PairState::Unanswered, 9),
                pair(route, CandidateKind::Relayed, CandidateKind::Relayed, PairState::Nominated, 2),
            ],
            heard: Some(Duration::from_millis(2500)),
            told: true,
            local_remaps: true,
            remote_remaps: true,
        };
        let path = PathView {
            id: PathId(1),
            route,
            pair: CandidatePair {
                local: CandidateKind::Relayed,
                local_address: None,
                remote: CandidateKind::Relayed,
            },
            state: PathState::Alive,
            selected: true,
            rtt: Some(Duration::from_millis(12)),
            loss_ppm: 12_000,
            mtu: 1400,
        };
        let link = Link { path: Some("relayed".into()), ..link };
        self.ask(Ok(WhyRelayed::new(link, Some(&report), &[path])))
    }

    fn drops(&self) -> BoxFuture<'_, Vec<DroppedFrame>> {
        let drop = DroppedFrame {
            when: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5),
            network: Some("blue".into()),
            direction: Direction::Local,
            reason: "flood_limited".into(),
            src: Some("02:00:00:00:00:01".into()),
            dst: Some("ff:ff:ff:ff:ff:ff".into()),
            ethertype: Some(0x0806),
            summary: "ARP who-has 10.0.0.9 tell 10.0.0.1".into(),
            peer: None,
            length: 42,
        };
        let other = DroppedFrame {
            network: None,
            direction: Direction::Remote,
            reason: "bad_tag".into(),
            src: None,
            dst: None,
            ethertype: None,
            summary: "datagram from 192.0.2.9:4840".into(),
            ..drop.clone()
        };
        self.ask(vec![drop.clone(), other, drop])
    }

    fn capture(
        &self,
        filter: CaptureFilter,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<CapturedFrame>, CaptureError>> {
        if let Some(name) = filter.network.filter(|name| name != "blue") {
            return self.ask(Err(CaptureError::UnknownNetwork(name)));
        }
        let (to, from) = mpsc::channel(8);
        for (n, direction) in [(0, Direction::Local), (1, Direction::Remote), (2, Direction::Local)] {
            let mut bytes = vec![0x02; 60];
            bytes[12..14].copy_from_slice(&[0x08, 0x06]);
            let frame = CapturedFrame {
                time: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789 + n),
                network: "blue".into(),
                direction,
                peer: (direction == Direction::Remote).then(|| "node-b".into()),
                original_len: 60,
                bytes,
                missed: 0,
            };
            if filter.direction.is_none_or(|wanted| wanted == direction) {
                to.try_send(frame).unwrap();
            }
        }
        self.ask(Ok(from))
    }
}
