//! The worker's peers and their sessions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nat_traversal::{PathConfig, PathSet, Route};
use switch_core::fragment::Fragmenter;
use switch_core::ids::{PeerId, ReceiverIndex, Vni};
use switch_core::seal::{Opener, Sealer};
use switch_core::wire::{FRAME_HEADER_LEN, SEAL_OVERHEAD};

use super::carriage::QuicSender;
use super::held::Held;
use super::snapshot::PeerCounters;

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: Arc<str>,
    pub(super) paths: PathSet,
    /// Frames that wait for a link.
    pub(super) held: Held,
    /// Frames for it may wait for a link.
    pub(super) on_demand: bool,
    /// Its paths are to be seen to in this turn.
    pub(super) stirred: bool,
    /// Frames were exchanged with it in this turn.
    pub(super) flows: bool,
    /// To it, not only from it.
    pub(super) sent: bool,
    /// In datagrams of more than what every path carries.
    pub(super) long: bool,
    /// The session that seals; its sealer is armed.
    pub(super) active: Option<ReceiverIndex>,
    /// Networks that it may take part in.
    pub(super) allowed: Vec<Vni>,
    /// Networks that it says it is in.
    pub(super) member: Vec<Vni>,
    pub(super) fragmenter: Fragmenter,
    pub(super) counters: PeerCounters,
}

impl Peer {
    /// The longest Ethernet frame that one datagram to this peer holds.
    pub(super) fn max_frame(&self) -> usize {
        self.datagram_max() - SEAL_OVERHEAD - FRAME_HEADER_LEN
    }

    /// The largest UDP payload that the path carries.
    pub(super) fn datagram_max(&self) -> usize {
        usize::from(self.paths.datagram_max())
    }

    pub(super) fn count_sealed(&mut self, datagrams: usize, bytes: usize) {
        self.counters.datagrams_to_peer += datagrams as u64;
        self.counters.bytes_to_peer += bytes as u64;
    }

    /// Frames of this network are taken from it and sent to it.
    pub(super) fn takes_part(&self, vni: Vni) -> bool {
        self.allowed.contains(&vni) && self.member.contains(&vni)
    }

    /// Frames of this network may be sent to it, even if they have to wait for a link.
    pub(super) fn is_reachable(&self, vni: Vni) -> bool {
        match self.active {
            Some(_) => self.takes_part(vni),
            None => self.on_demand && self.allowed.contains(&vni),
        }
    }
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) opener: Box<Opener>,
    pub(super) sealer: Option<Box<Sealer>>,
    /// The outer header may say what the inner one does: the peer minds what becomes of it on the way.
    pub(super) ecn: bool,
    /// The way of frames that ride in QUIC datagrams.
    pub(super) quic: Option<QuicSender>,
    pub(super) rekey_reported: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Peers {
    peers: HashMap<PeerId, Peer, ahash::RandomState>,
    sessions: HashMap<ReceiverIndex, Session, ahash::RandomState>,
    path_config: PathConfig,
    /// The routes of all peers, as they were at that time.
    routes: HashSet<Route, ahash::RandomState>,
    routes_at: Option<Instant>,
}

impl Peers {
    pub(super) fn new(seed: [u64; 4]) -> Peers {
        let [a, b, c, d] = seed;
        let hash = ahash::RandomState::with_seeds(a, b, c, d);
        Peers {
            peers: HashMap::with_hasher(hash.clone()),
            sessions: HashMap::with_hasher(hash.clone()),
            path_config: DEFAULT_PATHS,
            routes: HashSet::with_hasher(hash),
            routes_at: None,
        }
    }

    pub(super) fn add(&mut self, id: PeerId, name: Arc<str>, allowed: Vec<Vni>) {
        match self.peers.get_mut(&id) {
            Some(peer) => (peer.name, peer.allowed) = (name, allowed),
            None => {
                let peer = Peer {
                    name,
                    paths: PathSet::new(self.path_config, random()),
                    held: Held::default(),
                    on_demand: false,
                    stirred: false,
                    flows: false,
                    sent: false,
                    long: false,
                    active: None,
                    allowed,
                    member: Vec::new(),
                    // A restarted node must not continue its predecessor's messages.
                    fragmenter: Fragmenter::new(random()[0] as u32),
                    counters: PeerCounters::default(),
                };
                self.peers.insert(id, peer);
            }
        }
    }

    pub(super) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        self.sessions.retain(|_, session| session.peer != id);
        self.peers.remove(&id)
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut Peer)> {
        self.peers.iter_mut().map(|(id, peer)| (*id, peer))
    }

    pub(super) fn set_path_config(&mut self, config: PathConfig, now: Instant) {
        self.path_config = config;
        self.peers.values_mut().for_each(|peer| peer.paths.set_config(config, now));
    }

    /// Whether a peer is, or may be, reached by this route. New ones are seen a moment late, so that strangers cannot
    /// make this costly.
    pub(super) fn is_route(&mut self, route: Route, now: Instant) -> bool {
        if self.routes_at.is_none_or(|at| now >= at + ROUTES_EVERY) {
            self.routes_at = Some(now);
            self.routes.clear();
            self.routes.extend(self.peers.values().flat_map(|peer| peer.paths.routes()));
        }
        self.routes.contains(&route)
    }

    pub(super) fn carry_ecn(&mut self, index: ReceiverIndex) {
        if let Some(session) = self.sessions.get_mut(&index) {
            session.ecn = true;
        }
    }

    pub(super) fn add_session(&mut self, index: ReceiverIndex, peer: PeerId, opener: Box<Opener>) {
        if self.peers.contains_key(&peer) {
            let session =
                Session { peer, opener, sealer: None, ecn: false, quic: None, rekey_reported: false };
            self.sessions.insert(index, session);
        }
    }

    pub(super) fn arm_session(&mut self, index: ReceiverIndex, sealer: Box<Sealer>) {
        if let Some(session) = self.sessions.get_mut(&index) {
            session.sealer = Some(sealer);
        }
    }

    pub(super) fn set_quic_sender(&mut self, index: ReceiverIndex, sender: QuicSender) {
        if let Some(session) = self.sessions.get_mut(&index) {
            session.quic = Some(sender);
        }
    }

    /// The peer that has no session now, if it was this one's.
    pub(super) fn remove_session(&mut self, index: ReceiverIndex) -> Option<PeerId> {
        let session = self.sessions.remove(&index)?;
        let peer = self.peers.get_mut(&session.peer)?;
        (peer.active == Some(index)).then(|| {
            peer.active = None;
            session.peer
        })
    }

    /// The session that datagrams with this index belong to, and its peer.
    pub(super) fn session(&mut self, index: ReceiverIndex) -> Option<(&mut Session, &mut Peer)> {
        let session = self.sessions.get_mut(&index)?;
        let peer = self.peers.get_mut(&session.peer)?;
        Some((session, peer))
    }

    /// Whether frames can be sealed and sent now.
    pub(super) fn can_send(&mut self, id: PeerId) -> bool {
        self.sealing(id)
            .is_some_and(|(peer, session)| session.sealer.is_some() && peer.paths.selected().is_some())
    }

    /// The peer, and the session that seals for it.
    pub(super) fn sealing(&mut self, id: PeerId) -> Option<(&mut Peer, &mut Session)> {
        let peer = self.peers.get_mut(&id)?;
        let session = self.sessions.get_mut(&peer.active?)?;
        Some((peer, session))
    }
}

fn random() -> [u64; 2] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    let both = u128::from_ne_bytes(bytes);
    [both as u64, (both >> 64) as u64]
}

/// Until the link plane says otherwise.
const DEFAULT_PATHS: PathConfig =
    PathConfig { keepalive: Duration::from_secs(3), dead_after: Duration::from_secs(10), underlay_mtu: 1500 };
const ROUTES_EVERY: Duration = Duration::from_millis(100);
