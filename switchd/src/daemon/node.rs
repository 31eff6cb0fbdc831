//! The daemon's [`View`]: what the admin socket and the metrics see.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use switch_core::ids::PeerId;
use switch_core::seal::Cipher;
use tokio::sync::{mpsc, oneshot, watch};

use super::registry;
use crate::config::{Config, Mode, Network};
use crate::dataplane::{Command, Handle, Snapshot};
use crate::endpoint::{EndpointState, EndpointStatus};
use crate::key::PublicKey;
use crate::links::{LinkStatus, Links};
use crate::view::{
    self, CaptureError, CaptureFilter, CapturedFrame, Link, LinkState, NetworkStatus, Origin, Stats, Status,
    View,
};

/// What the view is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) public_key: PublicKey,
    pub(super) listen: SocketAddr,
    pub(super) links: Arc<Links>,
    pub(super) worker: Handle,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    /// In the order of the configuration's networks.
    pub(super) endpoints: Vec<watch::Receiver<EndpointState>>,
    pub(super) peers: Arc<HashMap<String, PeerId>>,
}

/// The node.
pub(super) struct Node {
    config: ArcSwap<Config>,
    peers: ArcSwap<HashMap<String, PeerId>>,
    public_key: PublicKey,
    listen: SocketAddr,
    links: Arc<Links>,
    worker: Handle,
    snapshot: Arc<ArcSwap<Snapshot>>,
    endpoints: Vec<watch::Receiver<EndpointState>>,
    started: Instant,
    captures: Arc<AtomicUsize>,
}

impl Node {
    pub(super) fn new(parts: Parts) -> Node {
        Node {
            config: ArcSwap::from_pointee(parts.config),
            peers: ArcSwap::new(parts.peers),
            public_key: parts.public_key,
            listen: parts.listen,
            links: parts.links,
            worker: parts.worker,
            snapshot: parts.snapshot,
            endpoints: parts.endpoints,
            started: Instant::now(),
            captures: Arc::default(),
        }
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.public_key
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub(super) fn set_config(&self, config: Config, peers: Arc<HashMap<String, PeerId>>) {
        self.config.store(Arc::new(config));
        self.peers.store(peers);
    }

    fn network_status(&self, config: &Config, i: usize, network: &Network) -> NetworkStatus {
        let endpoint = self.endpoints[i].borrow().clone();
        NetworkStatus {
            name: network.name.clone(),
            vni: network.vni.get(),
            mode: match network.mode {
                Mode::Rewrite => "rewrite",
                Mode::Preserve => "preserve",
            }
            .to_owned(),
            bridge: network.bridge.clone(),
            endpoint: network.endpoint.clone(),
            endpoint_state: endpoint.status,
            endpoint_detail: endpoint.detail.clone(),
            from: Origin::File,
            endpoint_mac: network.endpoint_mac.to_string(),
            mtu: network.mtu,
            offloads: endpoint
                .offloads
                .to_string()
                .split(' ')
                .filter(|name| *name != "none")
                .map(str::to_owned)
                .collect(),
            peers: config.peers_of(network).map(|peer| peer.name.clone()).collect(),
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
        let mut not_ready_because = Vec::new();
        for (network, endpoint) in config.networks.iter().zip(&self.endpoints) {
            let endpoint = endpoint.borrow();
            if endpoint.status != EndpointStatus::Up {
                not_ready_because.push(format!("network {}: {}", network.name, endpoint.detail));
            }
        }
        let cipher = if registry::cpu_has_aes() { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.node.name.clone(),
            public_key: self.public_key,
            listen: self.listen,
            uptime: self.started.elapsed(),
            ready: not_ready_because.is_empty(),
            not_ready_because,
            cipher: cipher.name().to_owned(),
            networks: config
                .networks
                .iter()
                .enumerate()
                .map(|(i, network)| self.network_status(&config, i, network))
                .collect(),
        }
    }

    fn links(&self) -> Vec<Link> {
        let (config, peers) = (self.config.load(), self.peers.load());
        let (statuses, snapshot) = (self.links.status(), self.snapshot.load());
        let row = |peer: &crate::config::Peer| {
            let id = peers.get(&peer.name);
            let status = id.and_then(|id| statuses.get(id)).cloned().unwrap_or_default();
            let counters = id.and_then(|id| snapshot.peers.get(id)).copied().unwrap_or_default();
            let carried = config.networks.iter().filter(|network| {
                status.vnis.contains(&network.vni) && config.peers_of(network).any(|p| p.name == peer.name)
            });
            Link {
                peer: peer.name.clone(),
                node_id: None,
                from: Origin::File,
                public_key: peer.public_key,
                state: link_state(&status),
                address: status.path.map(|path| path.remote).or(peer.address),
                path: status.path.map(|path| path.kind.name().to_owned()),
                rtt: status.rtt,
                path_mtu: path_mtu(&status),
                epoch: status.epoch,
                session_age: status.since.map(|since| since.elapsed()),
                last_heard: counters.last_heard.map(|heard| heard.elapsed()),
                cipher: status.cipher.map(str::to_owned),
                datagrams_to_peer: counters.datagrams_to_peer,
                datagrams_from_peer: counters.datagrams_from_peer,
                bytes_to_peer: counters.bytes_to_peer,
                bytes_from_peer: counters.bytes_from_peer,
                replays_dropped: counters.replays_dropped,
                reconnects: status.reconnects,
                last_error: status.last_error.clone(),
                networks: carried.map(|network| network.name.clone()).collect(),
            }
        };
        config.peers.iter().map(row).collect()
    }

    fn stats(&self) -> Stats {
        self.snapshot.load().stats.clone()
    }

    fn worker_answers(&self) -> BoxFuture<'_, bool> {
        let (to, answer) = oneshot::channel();
        self.worker.send(Command::Ping(to));
        async move { answer.await.is_ok() }.boxed()
    }

    fn bindings(&self) -> BoxFuture<'_, Vec<view::BindingRow>> {
        self.ask(Command::Bindings, Vec::new())
    }

    fn macs(&self) -> BoxFuture<'_, Vec<view::MacRow>> {
        self.ask(Command::Macs, Vec::new())
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
            && !self.config.load().networks.iter().any(|network| network.name == *name)
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

fn link_state(status: &LinkStatus) -> LinkState {
    match (status.up, status.connecting) {
        (true, _) => LinkState::Up,
        (false, true) => LinkState::Connecting,
        (false, false) => LinkState::Down,
    }
}

/// The IP packet around the largest datagram.
fn path_mtu(status: &LinkStatus) -> Option<u16> {
    let headers = if status.path?.remote.is_ipv6() { 48 } else { 28 };
    Some(status.datagram_max? + headers)
}

/// Captures at a time.
const MAX_CAPTURES: usize = 8;
/// Frames that may wait for a slow reader.
const CAPTURE_QUEUE: usize = 4096;
