//! The daemon's [`View`]: what the admin socket and the metrics see.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nat_traversal::{CandidateKind, PathView, Route};
use switch_core::seal::Cipher;
use tokio::sync::{mpsc, oneshot};

use super::convert;
use super::endpoints::NetworkRow;
use super::registry::PeerRow;
use crate::config::Config;
use crate::dataplane::{Command, Handle, Snapshot, WorkerThread};
use crate::endpoint::EndpointStatus;
use crate::key::PublicKey;
use crate::links::{LinkStatus, Links};
use crate::session::Remote;
use crate::view::{
    self, CaptureError, CaptureFilter, CapturedFrame, Link, LinkState, Netcheck, NetworkStatus, Stats,
    Status, View, WhyRelayed,
};

/// What the view is made of.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) public_key: PublicKey,
    pub(super) listen: SocketAddr,
    pub(super) links: Arc<Links>,
    pub(super) worker: Handle,
    pub(super) worker_thread: WorkerThread,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
}

/// The node.
pub(super) struct Node {
    config: ArcSwap<Config>,
    public_key: ArcSwap<PublicKey>,
    listen: SocketAddr,
    links: Arc<Links>,
    worker: Handle,
    worker_thread: WorkerThread,
    snapshot: Arc<ArcSwap<Snapshot>>,
    networks: ArcSwap<Vec<NetworkRow>>,
    peers: ArcSwap<Vec<PeerRow>>,
    started: Instant,
    captures: Arc<AtomicUsize>,
    controller: OnceLock<Remote>,
}

impl Node {
    pub(super) fn new(parts: Parts) -> Node {
        Node {
            config: ArcSwap::new(parts.config),
            public_key: ArcSwap::from_pointee(parts.public_key),
            listen: parts.listen,
            links: parts.links,
            worker: parts.worker,
            worker_thread: parts.worker_thread,
            snapshot: parts.snapshot,
            networks: ArcSwap::default(),
            peers: ArcSwap::default(),
            started: Instant::now(),
            captures: Arc::default(),
            controller: OnceLock::new(),
        }
    }

    pub(super) fn public_key(&self) -> PublicKey {
        **self.public_key.load()
    }

    pub(super) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The session with the controller, once.
    pub(super) fn set_controller(&self, controller: Remote) {
        // A second one would be a second session.
        let _ = self.controller.set(controller);
    }

    pub(super) fn set_public_key(&self, key: PublicKey) {
        self.public_key.store(Arc::new(key));
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub(super) fn set_config(&self, config: Arc<Config>) {
        self.config.store(config);
    }

    pub(super) fn set_networks(&self, networks: Vec<NetworkRow>) {
        self.networks.store(Arc::new(networks));
    }

    pub(super) fn set_peers(&self, peers: Vec<PeerRow>) {
        self.peers.store(Arc::new(peers));
    }

    fn network_status(&self, row: &NetworkRow) -> NetworkStatus {
        let endpoint = row.state.borrow().clone();
        let network = &row.network;
        let peers = self.peers.load();
        NetworkStatus {
            name: network.name.clone(),
            vni: network.vni.get(),
            mode: network.mode.to_string(),
            bridge: network.bridge.clone(),
            endpoint: network.endpoint.clone(),
            endpoint_state: endpoint.status,
            endpoint_detail: endpoint.detail,
            from: row.from,
            endpoint_mac: network.endpoint_mac.to_string(),
            mtu: network.mtu,
            offloads: endpoint
                .offloads
                .to_string()
                .split(' ')
                .filter(|name| *name != "none")
                .map(str::to_owned)
                .collect(),
            carriage: self.config.load().carriage_of(network).to_string(),
            peers: peers.iter().filter(|p| p.vnis.contains(&network.vni)).map(|p| p.name.clone()).collect(),
        }
    }

    /// Asks the worker; `empty` if it has stopped.
    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
        empty: T,
    ) -> BoxFuture<'_, T> {
        let (to, answer) = oneshot::channel();
        self.worker.send(command(to));
        async move { answer.await.unwrap_or(empty) }.boxed()
    }
}

impl View for Node {
    fn status(&self) -> Status {
        let config = self.config.load();
        let networks = self.networks.load();
        let mut not_ready_because = Vec::new();
        for row in networks.iter() {
            let endpoint = row.state.borrow();
            if endpoint.status != EndpointStatus::Up {
                not_ready_because.push(format!("network {}: {}", row.network.name, endpoint.detail));
            }
        }
        let cipher = if convert::cpu_has_aes() { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.node.name.clone(),
            public_key: self.public_key(),
            listen: self.listen,
            uptime: self.started.elapsed(),
            ready: not_ready_because.is_empty(),
            not_ready_because,
            cipher: cipher.name().to_owned(),
            networks: networks.iter().map(|row| self.network_status(row)).collect(),
            controller: self.controller.get().map(Remote::status),
        }
    }

    fn links(&self) -> Vec<Link> {
        let (networks, peers) = (self.networks.load(), self.peers.load());
        let (statuses, snapshot) = (self.links.status(), self.snapshot.load());
        let config = self.config.load();
        let row = |peer: &PeerRow| {
            let status = statuses.get(&peer.id).cloned().unwrap_or_default();
            let seen = snapshot.peers.get(&peer.id);
            let counters = seen.map(|peer| peer.counters).unwrap_or_default();
            let path = seen.and_then(|peer| peer.paths.iter().find(|path| path.selected));
            let route = path.map(|path| path.route).or(status.route);
            let carried = |vni| status.vnis.contains(&vni) && peer.vnis.contains(&vni);
            let carried: Vec<_> = networks.iter().filter(|row| carried(row.network.vni)).collect();
            let mut carriage: Vec<_> =
                carried.iter().map(|row| config.carriage_of(&row.network).to_string()).collect();
            carriage.sort_unstable_by(|a, b| b.cmp(a));
            carriage.dedup();
            Link {
                peer: peer.name.clone(),
                node_id: peer.node_id.clone(),
                from: peer.from,
                public_key: peer.key,
                state: link_state(&status),
                address: route.map(Route::remote).or(peer.addresses.first().copied()),
                path: path.map(|path| path.pair.kind().name().to_owned()),
                local_candidate: path.map(|path| end(path.pair.local, path.pair.local_address)),
                remote_candidate: path.map(|path| end(path.pair.remote, Some(path.route.remote()))),
                why_relayed: self.links.traversals().and_then(|traversals| traversals.why_relayed(peer.id)),
                rtt: path.and_then(|path| path.rtt),
                loss: path.map(|path| f64::from(path.loss_ppm) / 1e6),
                path_mtu: path.map(path_mtu),
                epoch: status.epoch,
                session_age: status.since.map(|since| since.elapsed()),
                last_heard: counters.last_heard.map(|heard| heard.elapsed()),
                cipher: status.cipher.map(str::to_owned),
                carriage,
                datagrams_to_peer: counters.datagrams_to_peer + counters.quic_to_peer,
                datagrams_from_peer: counters.datagrams_from_peer + counters.quic_from_peer,
                bytes_to_peer: counters.bytes_to_peer + counters.quic_bytes_to_peer,
                bytes_from_peer: counters.bytes_from_peer + counters.quic_bytes_from_peer,
                quic_datagrams_to_peer: counters.quic_to_peer,
                quic_datagrams_from_peer: counters.quic_from_peer,
                quic_bytes_to_peer: counters.quic_bytes_to_peer,
                quic_bytes_from_peer: counters.quic_bytes_from_peer,
                replays_dropped: counters.replays_dropped,
                reconnects: status.reconnects,
                last_error: status.last_error.clone(),
                networks: carried.iter().map(|row| row.network.name.clone()).collect(),
            }
        };
        peers.iter().map(row).collect()
    }

    fn stats(&self) -> Stats {
        let worker = self.worker_thread.stats();
        Stats { worker, ..self.snapshot.load().stats.clone() }
    }

    fn worker_answers(&self) -> BoxFuture<'_, bool> {
        let (to, answer) = oneshot::channel();
        self.worker.send(Command::Ping(to));
        async move { answer.await.is_ok() }.boxed()
    }

    fn rotate_key(&self) -> BoxFuture<'_, Result<PublicKey, String>> {
        let remote = self.controller.get().cloned();
        async move {
            match remote {
                Some(remote) => remote.rotate_key().await,
                None => Err(NOT_JOINED.to_owned()),
            }
        }
        .boxed()
    }

    fn bindings(&self) -> BoxFuture<'_, Vec<view::BindingRow>> {
        self.ask(Command::Bindings, Vec::new())
    }

    fn macs(&self) -> BoxFuture<'_, Vec<view::MacRow>> {
        self.ask(Command::Macs, Vec::new())
    }

    fn netcheck(&self) -> BoxFuture<'_, Result<Netcheck, String>> {
        async {
            let traversals = self.links.traversals().ok_or(NO_TRAVERSAL)?;
            let nat = traversals.netcheck().await.ok_or(STOPPING)?;
            Ok(Netcheck::new(nat, traversals.relays().await, self.links()))
        }
        .boxed()
    }

    fn why_relayed(&self, peer: &str) -> BoxFuture<'_, Result<WhyRelayed, String>> {
        let id = self.peers.load().iter().find(|row| row.name == peer).map(|row| row.id);
        let link = self.links().into_iter().find(|link| link.peer == peer);
        let unknown = format!("there is no peer named {peer:?}: `switchctl links` lists them");
        async move {
            let (id, link) = id.zip(link).ok_or(unknown)?;
            let report = match self.links.traversals() {
                Some(traversals) => traversals.report(id).await,
                None => None,
            };
            let snapshot = self.snapshot.load();
            let paths = snapshot.peers.get(&id).map(|peer| peer.paths.as_slice()).unwrap_or_default();
            Ok(WhyRelayed::new(link, report.as_ref(), paths))
        }
        .boxed()
    }

    fn drops(&self) -> BoxFuture<'_, Vec<view::DroppedFrame>> {
        self.ask(Command::Drops, Vec::new())
    }

    fn capture(
        &self,
        filter: CaptureFilter,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<CapturedFrame>, CaptureError>> {
        let result = self.start_capture(filter);
        async move { result }.boxed()
    }
}

impl Node {
    fn start_capture(&self, filter: CaptureFilter) -> Result<mpsc::Receiver<CapturedFrame>, CaptureError> {
        if let Some(name) = &filter.network
            && !self.networks.load().iter().any(|row| row.network.name == *name)
        {
            return Err(CaptureError::UnknownNetwork(name.clone()));
        }
        let running = self.captures.fetch_add(1, Ordering::Relaxed);
        if running >= MAX_CAPTURES {
            self.captures.fetch_sub(1, Ordering::Relaxed);
            return Err(CaptureError::TooMany(running));
        }
        let (to, frames) = mpsc::channel(CAPTURE_QUEUE);
        let (ended, captures) = (to.clone(), self.captures.clone());
        tokio::spawn(async move {
            ended.closed().await;
            captures.fetch_sub(1, Ordering::Relaxed);
        });
        match self.worker.send(Command::Capture(filter, to)) {
            true => Ok(frames),
            false => Err(CaptureError::WorkerStopped),
        }
    }
}

/// One end of a path.
fn end(kind: CandidateKind, address: Option<SocketAddr>) -> String {
    match address {
        Some(address) => format!("{} {address}", kind.name()),
        None => kind.name().to_owned(),
    }
}

fn link_state(status: &LinkStatus) -> LinkState {
    match (status.up, status.connecting) {
        (true, _) => LinkState::Up,
        (false, true) => LinkState::Connecting,
        (false, false) => LinkState::Down,
    }
}

/// The IP packet around the largest datagram of frames.
fn path_mtu(path: &PathView) -> u16 {
    let headers = if path.route.remote().is_ipv6() { 48 } else { 28 };
    let relay = if matches!(path.route, Route::Relayed(..)) { 4 } else { 0 };
    path.mtu.max(nat_traversal::FULL) + headers + relay
}

/// Captures at a time.
const MAX_CAPTURES: usize = 8;
/// Frames that may wait for a slow reader.
const CAPTURE_QUEUE: usize = 4096;
const NO_TRAVERSAL: &str =
    "this node looks for no ways through NATs: set traversal = true in [nat] of its configuration";
const STOPPING: &str = "the daemon is stopping";
const NOT_JOINED: &str = "this node has joined no controller: with static peers, switchd keygen --force makes a new key, \
     which goes into every peer's configuration";
