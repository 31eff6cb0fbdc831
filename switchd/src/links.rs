//! The link plane: one authenticated link with each peer, kept up, its keys kept fresh.
//!
//! | Module | What |
//! |---|---|
//! | `identity` | keys and TLS |
//! | `socket` | QUIC as a guest on the node's socket |
//! | `sessions`, `dial` | what to do when, and whom to dial where; pure |
//! | `peer` | doing it: the task of one link |
//! | `connect` | a dial, until it is a connection |
//! | `accept` | inbound handshakes, strangers' among them |
//! | `session`, `control` | one QUIC connection and its control stream |
//! | `carriage`, `congestion` | frames in its datagrams |

mod accept;
mod carriage;
mod congestion;
mod connect;
mod connection_id;
mod control;
mod dial;
mod identity;
mod peer;
mod session;
mod sessions;
mod socket;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nat_traversal::{PathConfig, PathTable};
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionError, Endpoint, EndpointConfig, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt,
};
use switch_core::ids::{PeerId, Vni};
use tokio::sync::mpsc;

use crate::dataplane::{Command, Handle, Report, Snapshot};
use crate::key::{PrivateKey, PublicKey};
use crate::traversal::{News, Traversals};
use crate::underlay::{QuicDatagram, Underlay};
use congestion::UnthrottledFactory;
use connection_id::InOrder;
use identity::{Allowed, Identity};
use peer::{Message, PeerTask};
use session::LocalHello;
use socket::{QuicSocket, SharedPaths};

pub use peer::LinkStatus;

/// Timing and limits of all links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// A path that nothing flows by is asked this often.
    pub keepalive: Duration,
    /// A link that no path answers for this long is down.
    pub dead_after: Duration,
    /// Keys this old are renewed.
    pub rekey_after: Duration,
    /// The largest IP packet to try on the underlay, bytes.
    pub underlay_mtu: u16,
    /// Links are made when a frame or a binding needs them.
    pub on_demand: bool,
    /// Frames of some networks ride in QUIC datagrams.
    pub quic_carriage: bool,
}

/// A peer as configured.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerConfig {
    /// The number by which the daemon knows it.
    pub id: PeerId,
    /// Its name.
    pub name: Arc<str>,
    /// The key that it must prove.
    pub key: PublicKey,
    /// Where to dial it, best first; without, it must dial.
    pub addresses: Vec<SocketAddr>,
    /// What the controller calls it: ways to it are looked for then.
    pub node_id: Option<String>,
}

/// All links of this node.
#[derive(Debug)]
pub struct Links {
    shared: Arc<Shared>,
    peers: Mutex<HashMap<PeerId, (PeerTask, PeerConfig)>>,
    last_refusal: Mutex<Option<Instant>>,
}

/// What the links start from.
pub struct Start<'a> {
    /// This node's key.
    pub key: &'a PrivateKey,
    /// This node's name.
    pub node: String,
    /// The CPU has AES instructions.
    pub aes: bool,
    /// The shared socket.
    pub underlay: Arc<Underlay>,
    /// QUIC packets, from the worker.
    pub received: mpsc::Receiver<QuicDatagram>,
    /// The worker.
    pub worker: Handle,
    /// Timing.
    pub config: LinkConfig,
}

impl Links {
    /// Starts listening; peers are added by [`set_peer`](Self::set_peer). Needs a running tokio runtime.
    pub fn start(start: Start<'_>) -> Result<Arc<Links>, LinksError> {
        let identity = Identity::new(start.key, start.aes).map_err(LinksError::Tls)?;
        let allowed = Allowed::default();
        let paths = SharedPaths::new(RwLock::new(PathTable::default()));
        let socket = Arc::new(QuicSocket::new(start.underlay, paths.clone(), start.received));
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(start.key),
            None,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(LinksError::Endpoint)?;
        let hello = LocalHello { node: start.node, boot: random_u64(), vnis: Vec::new() };
        let shared = Arc::new(Shared {
            aes: start.aes,
            identity: ArcSwap::from_pointee((start.key.public(), identity)),
            allowed,
            endpoint,
            paths,
            worker: start.worker,
            hello: ArcSwap::from_pointee(hello),
            config: ArcSwap::from_pointee(start.config),
            traversals: OnceLock::new(),
            dials: connect::Dials::default(),
        });
        shared.worker.send(Command::SetPathConfig(path_config(&start.config)));
        shared.endpoint.set_server_config(Some(shared.server_config().map_err(LinksError::Tls)?));
        let links = Arc::new(Links { shared, peers: Mutex::default(), last_refusal: Mutex::default() });
        tokio::spawn(accept::accept(links.clone()));
        Ok(links)
    }

    /// Adds a peer, or changes it: its link stays up. With another key the former one is good too until the peer has
    /// proved the new one, or for a minute.
    pub fn set_peer(&self, peer: PeerConfig) {
        self.shared.allow(peer.key, peer.id);
        if let (Some(traversals), Some(node_id)) = (self.shared.traversals.get(), &peer.node_id) {
            traversals.add(peer.id, node_id.clone(), self.shared.public_key() < peer.key);
        }
        match self.lock_peers().entry(peer.id) {
            Entry::Occupied(mut known) => {
                let (task, config) = known.get_mut();
                if *config != peer {
                    config.clone_from(&peer);
                    send(task, Message::Reconfigure(peer));
                }
            }
            Entry::Vacant(unknown) => {
                let task = PeerTask::spawn(self.shared.clone(), peer.clone());
                unknown.insert((task, peer));
            }
        }
    }

    /// Cuts a peer off at once; its handshakes are refused from now on.
    pub fn remove_peer(&self, id: PeerId) {
        self.shared.forbid(id);
        if let Some(traversals) = self.shared.traversals.get() {
            traversals.remove(id);
        }
        // The task's own last words come later.
        self.shared.worker.send(Command::RemovePeer(id));
        if let Some((task, _)) = self.lock_peers().remove(&id) {
            send(&task, Message::Stop);
        }
    }

    /// Another key for this node: fresh handshakes with it, spread over some seconds. Links stay up; a peer that does
    /// not know the new key yet is tried again and again.
    pub fn set_key(&self, key: &PrivateKey) -> Result<(), LinksError> {
        let identity = Identity::new(key, self.shared.aes).map_err(LinksError::Tls)?;
        self.shared.identity.store(Arc::new((key.public(), identity)));
        let server = self.shared.server_config().map_err(LinksError::Tls)?;
        self.shared.endpoint.set_server_config(Some(server));
        for (i, (task, _)) in self.lock_peers().values().enumerate() {
            send(task, Message::OwnKey(OWN_KEY_SPREAD * (i % 100) as u32));
        }
        Ok(())
    }

    /// Tells the peers which networks this node is in.
    pub fn set_networks(&self, vnis: &[Vni]) {
        let vnis: Vec<u32> = vnis.iter().map(|vni| vni.get()).collect();
        let hello = LocalHello { vnis, ..LocalHello::clone(&self.shared.hello.load()) };
        self.shared.hello.store(Arc::new(hello));
        for (task, _) in self.lock_peers().values() {
            send(task, Message::AnnounceNetworks);
        }
    }

    /// Timing for new sessions, and for the renewal of keys of all.
    pub fn set_config(&self, config: LinkConfig) -> Result<(), LinksError> {
        self.shared.config.store(Arc::new(config));
        self.shared.worker.send(Command::SetPathConfig(path_config(&config)));
        let server = self.shared.server_config().map_err(LinksError::Tls)?;
        self.shared.endpoint.set_server_config(Some(server));
        for (task, _) in self.lock_peers().values() {
            send(task, Message::SetTiming);
        }
        Ok(())
    }

    /// The search for ways, if there is one.
    pub fn traversals(&self) -> Option<Traversals> {
        self.shared.traversals.get().cloned()
    }

    /// Takes what the worker reports.
    pub fn handle_report(&self, report: Report) {
        let (peer, message) = match report {
            Report::Path(peer, event) => (peer, Message::Path(event)),
            Report::RekeyDue(peer) => (peer, Message::Renew),
            Report::Wanted(peer) => (peer, Message::Wanted),
        };
        if let Some((task, _)) = self.lock_peers().get(&peer) {
            send(task, message);
        }
    }

    /// Begins to look for ways to the nodes of the controller, once. Peers that were set before are not looked for.
    pub fn start_traversal(
        self: &Arc<Links>,
        start: impl FnOnce(mpsc::UnboundedSender<(PeerId, News)>) -> Traversals,
    ) {
        let (news_to, mut news) = mpsc::unbounded_channel();
        if self.shared.traversals.set(start(news_to)).is_err() {
            return;
        }
        let links = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some((peer, news)) = news.recv().await {
                let Some(links) = links.upgrade() else { return };
                if let Some((task, _)) = links.lock_peers().get(&peer) {
                    send(task, Message::News(news));
                }
            }
        });
    }

    /// A binding says that frames will be for this peer.
    pub fn want(&self, peer: PeerId) {
        if self.shared.config.load().on_demand
            && let Some((task, _)) = self.lock_peers().get(&peer)
        {
            send(task, Message::Wanted);
        }
    }

    /// Lets go of links that carried no frame for as long as is configured, and of those that do not come up and are
    /// not asked for any more, for ever.
    pub async fn mind_idle(self: Arc<Links>, idle_after: Duration, snapshot: Arc<ArcSwap<Snapshot>>) {
        let mut look = tokio::time::interval(idle_after / 4);
        loop {
            look.tick().await;
            let (snapshot, now) = (snapshot.load(), Instant::now());
            for (id, (task, _)) in self.lock_peers().iter() {
                let status = task.status.lock().unwrap_or_else(PoisonError::into_inner);
                let framed = snapshot.peers.get(id).and_then(|peer| peer.counters.last_frame);
                let used = framed.max(status.since).max(status.wanted_at);
                if (status.up || status.wanted_at.is_some())
                    && used.is_some_and(|used| now.duration_since(used) >= idle_after)
                {
                    send(task, Message::Idle);
                }
            }
        }
    }

    /// Every link as it stands.
    pub fn status(&self) -> HashMap<PeerId, LinkStatus> {
        let tasks = self.lock_peers();
        let status = |task: &PeerTask| task.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tasks.iter().map(|(id, (task, _))| (*id, status(task))).collect()
    }

    /// Tells every peer that this node goes, and waits a moment for the word to leave.
    pub async fn shutdown(&self) {
        self.shared.endpoint.close(session::CLOSE_STOPPING.into(), b"the node stops");
        for (task, _) in self.lock_peers().values() {
            send(task, Message::Stop);
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), self.shared.endpoint.wait_idle()).await;
    }

    fn lock_peers(&self) -> MutexGuard<'_, HashMap<PeerId, (PeerTask, PeerConfig)>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every link needs.
struct Shared {
    aes: bool,
    identity: ArcSwap<(PublicKey, Identity)>,
    allowed: Allowed,
    endpoint: Endpoint,
    paths: SharedPaths,
    worker: Handle,
    hello: ArcSwap<LocalHello>,
    config: ArcSwap<LinkConfig>,
    traversals: OnceLock<Traversals>,
    dials: connect::Dials,
}

impl Shared {
    fn public_key(&self) -> PublicKey {
        self.identity.load().0
    }

    /// This key is proved by this peer from now on.
    fn allow(&self, key: PublicKey, peer: PeerId) {
        if self.allowed.load().get(&key) == Some(&peer) {
            return;
        }
        self.allowed.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(key, peer);
            known
        });
    }

    fn forbid(&self, peer: PeerId) {
        self.allowed.rcu(|known| {
            let others = known.iter().filter(|(_, id)| **id != peer);
            others.map(|(key, id)| (*key, *id)).collect::<HashMap<_, _>>()
        });
    }

    /// Of this peer's keys only this one is good from now on.
    fn forget_former_keys(&self, peer: PeerId, key: PublicKey) {
        self.allowed.rcu(|known| {
            let rest = known.iter().filter(|(other, id)| **id != peer || **other == key);
            rest.map(|(key, id)| (*key, *id)).collect::<HashMap<_, _>>()
        });
    }

    fn client_config(&self, peer: PublicKey) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::new(Arc::new(self.identity.load().1.client(peer)?));
        config.transport_config(transport(&self.config.load()));
        Ok(config)
    }

    fn server_config(&self) -> Result<ServerConfig, rustls::Error> {
        let mut config =
            ServerConfig::with_crypto(Arc::new(self.identity.load().1.server(self.allowed.clone())?));
        config.transport_config(transport(&self.config.load()));
        Ok(config)
    }

    fn paths(&self) -> RwLockReadGuard<'_, PathTable> {
        self.paths.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn paths_mut(&self) -> RwLockWriteGuard<'_, PathTable> {
        self.paths.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a peer is there is the data path's to say, and how long its datagrams may be. Where QUIC's own datagrams carry
/// frames it looks for more than 1200 bytes itself.
fn transport(config: &LinkConfig) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .keep_alive_interval(Some(KEEPALIVE))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(1u8.into())
        .max_concurrent_uni_streams(0u8.into())
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    if config.quic_carriage {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery
            .upper_bound(config.underlay_mtu - IPV4_UDP_HEADERS)
            .minimum_change(MTU_STEP)
            .interval(MTU_AGAIN)
            .black_hole_cooldown(MTU_AFTER_BLACK_HOLE);
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(ACK_EVERY.into());
        transport
            .mtu_discovery_config(Some(discovery))
            .ack_frequency_config(Some(acks))
            .congestion_controller_factory(Arc::new(UnthrottledFactory));
    }
    Arc::new(transport)
}

fn path_config(config: &LinkConfig) -> PathConfig {
    PathConfig {
        keepalive: config.keepalive,
        dead_after: config.dead_after,
        underlay_mtu: config.underlay_mtu,
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

/// A lasting stateless-reset key makes a restarted node's first word to an old connection its end (RFC 9000, 10.3).
fn endpoint_config(key: &PrivateKey) -> EndpointConfig {
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.pkcs8_der());
    let reset = aws_lc_rs::hmac::sign(&secret, b"switchd stateless reset");
    let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, reset.as_ref());
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.grease_quic_bit(false).cid_generator(|| Box::new(InOrder));
    if config.max_udp_payload_size(MAX_UDP_PAYLOAD).is_err() {
        tracing::debug!("QUIC keeps its default for the largest UDP payload");
    }
    config
}

fn send(task: &PeerTask, order: Message) {
    // A task that has ended was told so before.
    let _ = task.orders.send(order);
}

/// What a failed handshake most likely means, and the library's words for it.
fn explain(error: &ConnectionError) -> String {
    let code = match error {
        ConnectionError::TransportError(e) => u64::from(e.code),
        ConnectionError::ConnectionClosed(e) => u64::from(e.error_code),
        _ => return error.to_string(),
    };
    match code {
        CONNECTION_REFUSED => format!("the peer is stopping or overloaded ({error})"),
        TLS_ALERTS_FIRST..=TLS_ALERTS_LAST => format!(
            "one of the two nodes does not have the other's key: compare `switchd pubkey` on each with public_key on \
             the other ({error})"
        ),
        _ => error.to_string(),
    }
}

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    u64::from_ne_bytes(bytes)
}

/// Why the link plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// rustls refused the key or the configuration.
    #[error("TLS set-up with this node's key")]
    Tls(#[source] rustls::Error),
    /// quinn refused the socket.
    #[error("QUIC on the UDP socket")]
    Endpoint(#[source] std::io::Error),
}

/// RFC 9000, 20.1.
const CONNECTION_REFUSED: u64 = 2;
/// CRYPTO_ERROR of RFC 9000, 20.1, which carries a TLS alert.
const TLS_ALERTS_FIRST: u64 = 0x100;
const TLS_ALERTS_LAST: u64 = 0x1ff;
/// Between the fresh handshakes of two links after a change of this node's key.
const OWN_KEY_SPREAD: Duration = Duration::from_millis(50);
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// QUIC's own keepalive holds nothing up: it finds connections whose other end has gone without a word.
const KEEPALIVE: Duration = Duration::from_secs(25);
const IDLE_TIMEOUT_MS: u32 = 120_000;
const MAX_UDP_PAYLOAD: u16 = 9216;
/// Bytes of QUIC datagrams that may wait in a connection, each way.
const DATAGRAM_BUFFER: usize = 512 << 10;
const IPV4_UDP_HEADERS: u16 = 28;
/// The search for a longer packet ends this close, bytes.
const MTU_STEP: u16 = 4;
const MTU_AGAIN: Duration = Duration::from_secs(60);
const MTU_AFTER_BLACK_HOLE: Duration = Duration::from_secs(1);
/// The peer acknowledges after so many packets, or after its delay.
const ACK_EVERY: u8 = 20;
