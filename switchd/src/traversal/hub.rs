//! The task: datagrams, signals and timers in, each to the part whose it is; then everything that became due out.

mod inlets;
mod netcheck;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nat_traversal::{
    Budget, Candidate, CandidateKind, NatReport, NetCheck, PathNews, Route, Signal, Slot, StunRouter,
    Traversal, TraversalConfig, TraversalEvent, TraversalTiming,
};
use switch_core::ids::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::gather::Sources;
use super::mapped::Mapped;
use super::relays::Relays;
use super::servers::Servers;
use super::{Ask, News, Start, WhyRelayed};
use crate::config::Nat;
use crate::netlink::{LinkEvent, Netlink};
use crate::portmap::PortMapper;
use crate::session::{self, addresses};
use crate::underlay::{StunDatagram, Underlay};
pub(super) use inlets::Inlets;
use inlets::{Resolved, changed, received_signal, resolve, resolved};

pub(super) struct Hub {
    underlay: Arc<Underlay>,
    listen: SocketAddr,
    netlink: Netlink,
    overlay: Box<dyn Fn() -> Vec<String> + Send>,
    config: Nat,
    to_nodes: Option<mpsc::Sender<session::Signal>>,
    news: mpsc::UnboundedSender<(PeerId, News)>,
    why_relayed: WhyRelayed,

    peers: HashMap<PeerId, Peer>,
    by_node: HashMap<String, PeerId>,
    /// When each peer wants the time.
    due: BTreeSet<(Instant, PeerId)>,
    router: StunRouter,

    sources: Sources,
    /// What the peers were told of.
    candidates: Vec<Candidate>,
    mapped: Mapped,
    relays: Relays,
    port_mapper: Option<PortMapper>,
    servers: Servers,
    /// The addresses behind the servers' names are being looked up.
    resolving: Option<JoinHandle<Resolved>>,
    resolve_at: Option<Instant>,
    /// When to look at the host's addresses again.
    look_at: Option<Instant>,
    /// A path died: the servers were asked at this time whether this node's address is another.
    asked_servers: Option<Instant>,
    netcheck: Option<(NetCheck, Vec<oneshot::Sender<NatReport>>)>,
    /// The last check of the network: when, where it sent to, what it found.
    checked: Option<(Instant, Vec<SocketAddr>, NatReport)>,
}

struct Peer {
    traversal: Traversal,
    node_id: String,
    /// How much of its STUN is looked into: each message costs an HMAC or two and an answer.
    stun: Budget,
    due: Option<Instant>,
    /// Its frames go by a relay: since when the reason that is shown is as it is.
    relayed: Option<Instant>,
}

impl Hub {
    pub(super) fn new(
        start: Start,
        asks: mpsc::UnboundedReceiver<Ask>,
        why_relayed: WhyRelayed,
    ) -> (Hub, Inlets) {
        let now = Instant::now();
        let (streams_to, streams) = mpsc::channel(STREAM_EVENTS);
        let (to_nodes, from_nodes) = match start.signals {
            Some(signals) => (Some(signals.to_nodes), Some(signals.from_nodes)),
            None => (None, None),
        };
        let inlets = Inlets {
            asks,
            received: start.received,
            from_nodes,
            servers: start.servers,
            streams,
            port: None,
            worker: start.worker,
            host: start.netlink.watch(),
        };
        let hub = Hub {
            relays: Relays::new(start.underlay.clone(), streams_to),
            underlay: start.underlay,
            listen: start.listen,
            netlink: start.netlink,
            overlay: start.overlay,
            config: start.config,
            to_nodes,
            news: start.news,
            why_relayed,
            peers: HashMap::new(),
            by_node: HashMap::new(),
            due: BTreeSet::new(),
            router: StunRouter::default(),
            sources: Sources::default(),
            candidates: Vec::new(),
            mapped: Mapped::default(),
            port_mapper: None,
            servers: Servers::default(),
            resolving: None,
            resolve_at: Some(now),
            look_at: Some(now),
            asked_servers: None,
            netcheck: None,
            checked: None,
        };
        (hub, inlets)
    }

    /// Runs until the daemon stops.
    pub(super) async fn run(mut self, mut inlets: Inlets) {
        let named = inlets.servers.as_mut().map(|servers| servers.borrow_and_update().clone());
        self.servers = Servers::new(&self.config, &named.unwrap_or_default());
        // Only of use where peers can be told of it.
        if let Some(port) = NonZeroU16::new(self.listen.port())
            && self.config.port_mapping
            && self.to_nodes.is_some()
        {
            let mapper = PortMapper::start(self.netlink.clone(), port);
            inlets.port = Some(mapper.mapped());
            self.port_mapper = Some(mapper);
        }
        loop {
            let due = self.next_due();
            tokio::select! {
                ask = inlets.asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => return,
                },
                Some(datagram) = inlets.received.recv() => self.received(datagram),
                Some(signal) = received_signal(&mut inlets.from_nodes) => self.signal(&signal),
                Some(external) = changed(&mut inlets.port) => {
                    self.sources.port_mapped = external.into_iter().collect();
                    self.gather(Instant::now());
                }
                Some(servers) = changed(&mut inlets.servers) => {
                    self.servers = Servers::new(&self.config, &servers);
                    self.resolve_at = Some(Instant::now());
                }
                Some((relay, event)) = inlets.streams.recv() => {
                    for message in self.relays.handle_stream(relay, event, Instant::now()) {
                        inlets.worker.stream_message(message).await;
                    }
                }
                Some(resolved) = resolved(&mut self.resolving) => self.resolved(resolved),
                event = inlets.host.next() => match event {
                    Some(LinkEvent::AddressChanged { .. } | LinkEvent::Resync) => {
                        self.look_at.get_or_insert(Instant::now() + SETTLE);
                    }
                    // Perhaps a bridge became the overlay's: its addresses are the host's no more.
                    Some(LinkEvent::LinkNew { master: Some(_), .. }) => {
                        self.look_at.get_or_insert(Instant::now() + SETTLE_BRIDGE);
                    }
                    Some(_) => {}
                    None => tokio::time::sleep(Duration::from_secs(1)).await,
                },
                () = tokio::time::sleep_until(due.into()) => {}
            }
            // What waits already is taken before timers and checks: one round of them serves many datagrams.
            for _ in 0..BATCH {
                let Ok(datagram) = inlets.received.try_recv() else { break };
                self.received(datagram);
            }
            self.settle().await;
        }
    }

    fn ask(&mut self, ask: Ask) {
        let now = Instant::now();
        match ask {
            Ask::Add { peer, node_id, controlling } => self.add(peer, node_id, controlling, now),
            Ask::Remove(peer) => self.remove(peer),
            Ask::Wake(peer) => self.with_peer(peer, |traversal| traversal.wake(now)),
            Ask::Sleep(peer) => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.relayed = None;
                    self.why_relayed.set(peer, None);
                }
                self.with_peer(peer, Traversal::sleep);
            }
            Ask::Path(peer, news) => {
                if matches!(news, PathNews::Dead(_) | PathNews::AllDead) {
                    self.look_around(now);
                }
                if let (PathNews::Selected(_, kind), Some(known)) = (news, self.peers.get_mut(&peer)) {
                    known.relayed = (kind == CandidateKind::Relayed).then(|| now - WHY_EVERY);
                    self.why_relayed.set(peer, None);
                }
                self.with_peer(peer, |traversal| traversal.handle_path(news, now));
            }
            Ask::Report(peer, to) => {
                let report = self.peers.get(&peer).map(|peer| peer.traversal.report(now));
                let _ = to.send(report);
            }
            Ask::Netcheck(to) => self.begin_netcheck(to, now),
            Ask::Relays(to) => drop(to.send(self.relays.rows())),
            Ask::Close(done) => {
                self.relays.close(now);
                let mapper = self.port_mapper.take();
                tokio::spawn(async move {
                    if let Some(mapper) = mapper {
                        mapper.stop().await;
                    }
                    // Who asked may not wait any more.
                    let _ = done.send(());
                });
            }
        }
    }

    fn add(&mut self, peer: PeerId, node_id: String, controlling: bool, now: Instant) {
        if self.peers.get(&peer).is_some_and(|known| known.node_id == node_id) {
            return;
        }
        self.remove(peer);
        let ufrag = random_text(UFRAG);
        let config = TraversalConfig {
            controlling,
            ufrag: ufrag.clone(),
            password: random_text(PASSWORD),
            generation: since_1970(),
            seed: node_session::random(),
            timing: TraversalTiming::default(),
        };
        let mut traversal = Traversal::new(config, now);
        traversal.set_local_candidates(&self.candidates, now);
        self.router.insert(&ufrag, slot(peer));
        self.by_node.insert(node_id.clone(), peer);
        let stun = Budget::new(STUN_BURST, EARN_STUN, now);
        self.peers.insert(peer, Peer { traversal, node_id, stun, due: Some(now), relayed: None });
        self.due.insert((now, peer));
    }

    fn remove(&mut self, peer: PeerId) {
        let Some(known) = self.peers.remove(&peer) else { return };
        self.why_relayed.set(peer, None);
        self.router.remove(slot(peer));
        if self.by_node.get(&known.node_id) == Some(&peer) {
            self.by_node.remove(&known.node_id);
        }
        if let Some(due) = known.due {
            self.due.remove(&(due, peer));
        }
    }

    fn received(&mut self, datagram: StunDatagram) {
        let now = Instant::now();
        let StunDatagram { route, local, payload } = datagram;
        if let Route::Direct(from) = route {
            if self.mapped.handle(from, &payload, now) {
                return;
            }
            if let Some((netcheck, _)) = &mut self.netcheck
                && netcheck.handle(from, &payload, now)
            {
                return;
            }
            if self.relays.handle(from, &payload, now) {
                return;
            }
        }
        let Some(local) = self.local_address(route, local) else { return };
        let Some(peer) = self.router.route(&payload).map(|slot| PeerId(slot.0)) else { return };
        if !self.peers.get_mut(&peer).is_some_and(|peer| peer.stun.spend(now)) {
            return;
        }
        self.with_peer(peer, |traversal| {
            traversal.handle_stun(route, local, &payload, now);
        });
    }

    /// Where a datagram arrived.
    fn local_address(&self, route: Route, local: Option<IpAddr>) -> Option<SocketAddr> {
        match route {
            Route::Relayed(relay, _) => self.relays.relayed_address(relay),
            Route::Direct(from) => {
                let port = self.listen.port();
                let known = local.map(|ip| nat_traversal::canonical(SocketAddr::new(ip, port)));
                let any = || self.sources.host.iter().copied().find(|host| host.is_ipv4() == from.is_ipv4());
                known.filter(|known| self.sources.host.contains(known)).or_else(any)
            }
        }
    }

    fn signal(&mut self, signal: &session::Signal) {
        let now = Instant::now();
        let Some(peer) = self.by_node.get(&signal.node_id).copied() else {
            return tracing::debug!(node = signal.node_id, "a signal of a node that is no peer");
        };
        match serde_json::from_slice::<Signal>(&signal.payload) {
            Ok(word) => self.with_peer(peer, |traversal| {
                if let Err(error) = traversal.handle_signal(&word, now) {
                    tracing::debug!(%error, "a peer's signal is not taken");
                }
            }),
            Err(error) => tracing::debug!(node = signal.node_id, %error, "a peer's signal is not understood"),
        }
    }

    fn with_peer(&mut self, peer: PeerId, change: impl FnOnce(&mut Traversal)) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        change(&mut known.traversal);
        // What it wants to send and say is taken with those that are due.
        let now = Instant::now();
        if let Some(due) = known.due.replace(now) {
            self.due.remove(&(due, peer));
        }
        self.due.insert((now, peer));
    }

    /// A path died or the host moved: the servers tell whether this node is seen elsewhere now.
    fn look_around(&mut self, now: Instant) {
        if self.asked_servers.is_some_and(|asked| now < asked + ASK_EVERY) {
            return;
        }
        self.asked_servers = Some(now);
        self.mapped.refresh(now);
        self.relays.check(now);
    }

    fn resolved(&mut self, (stun, relays): Resolved) {
        let now = Instant::now();
        let complete = relays.iter().all(|(_, addresses)| !addresses.is_empty())
            && stun.len() >= self.servers.stun.len();
        self.resolve_at = Some(now + if complete { RESOLVE_AGAIN } else { RESOLVE_SOON });
        self.mapped.set_servers(&stun, now);
        self.relays.set_servers(relays, now);
        self.relays.set_families(self.families());
    }

    /// Everything that is due, until nothing is.
    async fn settle(&mut self) {
        let now = Instant::now();
        if self.look_at.take_if(|at| now >= *at).is_some() {
            self.look_at_host(now).await;
        }
        if self.resolving.is_none() && self.resolve_at.take_if(|at| now >= *at).is_some() {
            self.resolving = Some(tokio::spawn(resolve(self.servers.clone())));
        }
        let mut changed = self.mapped.drive(&self.underlay, now);
        changed |= self.relays.drive(now);
        if changed {
            self.gather(now);
        }
        self.drive_netcheck(now);
        while let Some((at, peer)) = self.due.first().copied() {
            if at > now {
                break;
            }
            self.due.pop_first();
            self.drive_peer(peer, now);
        }
    }

    async fn look_at_host(&mut self, now: Instant) {
        let host = match addresses::read(&self.netlink, &(self.overlay)(), self.listen).await {
            Ok(host) => host,
            Err(error) => {
                self.look_at = Some(now + Duration::from_secs(1));
                return tracing::warn!(%error, "this host's addresses are not known");
            }
        };
        if self.sources.host != host {
            self.sources.host = host;
            self.relays.set_families(self.families());
            self.asked_servers = None;
            self.look_around(now);
            self.gather(now);
        }
    }

    /// Whether this host has addresses of IPv4 and of IPv6.
    fn families(&self) -> (bool, bool) {
        let host = &self.sources.host;
        (host.iter().any(SocketAddr::is_ipv4), host.iter().any(SocketAddr::is_ipv6))
    }

    /// Tells every peer's part what this node's candidates are now.
    fn gather(&mut self, now: Instant) {
        self.sources.mapped = self.mapped.addresses();
        self.sources.relayed = self.relays.relayed();
        let candidates = self.sources.candidates();
        if candidates == self.candidates {
            return;
        }
        self.candidates = candidates;
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            let candidates = self.candidates.clone();
            self.with_peer(peer, |traversal| traversal.set_local_candidates(&candidates, now));
        }
    }

    fn drive_peer(&mut self, peer: PeerId, now: Instant) {
        let Some(Peer { traversal, node_id, due, relayed, .. }) = self.peers.get_mut(&peer) else { return };
        traversal.handle_timeout(now);
        while let Some(transmit) = traversal.poll_transmit() {
            self.router.sent(slot(peer), &transmit.payload, now);
            // What the kernel refuses is a check without an answer.
            let _ = self.underlay.send_by(transmit.route, &transmit.payload);
        }
        while let Some(signal) = traversal.poll_signal() {
            let Some(to_nodes) = &self.to_nodes else { continue };
            let Ok(payload) = serde_json::to_vec(&signal) else { continue };
            let signal = session::Signal { node_id: node_id.clone(), payload };
            if to_nodes.try_send(signal).is_err() {
                tracing::debug!(node = node_id, "a signal is lost: the session with the controller is slow");
            }
        }
        while let Some(event) = traversal.poll_event() {
            match event {
                TraversalEvent::Found { route, pair } => {
                    if let Route::Relayed(relay, remote) = route {
                        self.relays.bind(relay, remote, now);
                    }
                    let _ = self.news.send((peer, News::Found(route, pair)));
                }
                TraversalEvent::Gone { route } => {
                    let _ = self.news.send((peer, News::Gone(route)));
                }
                TraversalEvent::NeedsRelay { relay, peers } => self.relays.permit(relay, &peers, now),
            }
        }
        if let Some(said) = relayed.filter(|said| now >= *said + WHY_EVERY) {
            *relayed = Some(said.max(now));
            self.why_relayed.set(peer, Some(traversal.report(now).why_relayed().join("; ")));
        }
        *due = traversal.poll_timeout();
        if let Some(at) = due {
            // A part that wants the time at once gets it in the next round, after the datagrams.
            *at = (*at).max(now + Duration::from_millis(1));
            self.due.insert((*at, peer));
        }
    }

    fn next_due(&self) -> Instant {
        let peers = self.due.first().map(|(at, _)| *at);
        let netcheck = self.netcheck.as_ref().and_then(|(netcheck, _)| netcheck.poll_timeout());
        let resolve = self.resolve_at.filter(|_| self.resolving.is_none());
        let timers =
            [peers, self.mapped.poll_timeout(), self.relays.poll_timeout(), netcheck, resolve, self.look_at];
        timers.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + IDLE)
    }
}

fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn slot(peer: PeerId) -> Slot {
    Slot(peer.0)
}

/// Letters and digits, 6 bits each, as RFC 8445, 5.3 allows in credentials.
fn random_text(len: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = vec![0; len];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect()
}

/// 48 bits: at least 24 are asked for, and requests are told apart by it.
const UFRAG: usize = 8;
/// 144 bits; at least 128 are asked for.
const PASSWORD: usize = 24;
/// A peer that checks as fast as it may sends a hundred requests a second, and answers a hundred.
const STUN_BURST: u32 = 512;
const EARN_STUN: Duration = Duration::from_millis(1);
const STREAM_EVENTS: usize = 1024;
/// Datagrams taken before timers.
const BATCH: usize = 256;
/// An interface that comes up gets its addresses one by one.
const SETTLE: Duration = Duration::from_millis(100);
const SETTLE_BRIDGE: Duration = Duration::from_secs(1);
/// Between two rounds of questions to the servers for dead paths.
const ASK_EVERY: Duration = Duration::from_millis(500);
const RESOLVE_AGAIN: Duration = Duration::from_secs(300);
const RESOLVE_SOON: Duration = Duration::from_secs(10);
/// Between two looks at why frames go by a relay.
const WHY_EVERY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);
