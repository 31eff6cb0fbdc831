//! The worker's peers and their sessions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use switch_core::fragment::Fragmenter;
use switch_core::ids::{PeerId, ReceiverIndex, Vni};
use switch_core::seal::{Opener, Sealer};
use switch_core::wire::{FRAME_HEADER_LEN, SEAL_OVERHEAD};

use super::snapshot::PeerCounters;

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: Arc<str>,
    pub(super) address: Option<SocketAddr>,
    /// The session that seals; its sealer is armed.
    pub(super) active: Option<ReceiverIndex>,
    /// The largest UDP payload that the path carries.
    pub(super) datagram_max: usize,
    /// Networks that it may take part in.
    pub(super) allowed: Vec<Vni>,
    /// Networks that it says it is in.
    pub(super) member: Vec<Vni>,
    pub(super) fragmenter: Fragmenter,
    pub(super) counters: PeerCounters,
    pub(super) probes: u32,
    /// An address that the peer was seen at, asked to answer from there.
    pub(super) challenge: Option<Challenge>,
}

/// A peer's datagrams are authentic, their source address is not: it could be another's. So the peer is moved there
/// once it has answered a probe that was sent there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Challenge {
    pub(super) address: SocketAddr,
    /// Random: whoever answers with it was there to read it.
    pub(super) sequence: u32,
    pub(super) sent: Instant,
}

impl Peer {
    /// The longest Ethernet frame that one datagram to this peer holds.
    pub(super) fn max_frame(&self) -> usize {
        self.datagram_max - SEAL_OVERHEAD - FRAME_HEADER_LEN
    }

    pub(super) fn count_sealed(&mut self, bytes: usize) {
        self.counters.datagrams_to_peer += 1;
        self.counters.bytes_to_peer += bytes as u64;
    }

    /// Frames of this network are taken from it and sent to it.
    pub(super) fn takes_part(&self, vni: Vni) -> bool {
        self.allowed.contains(&vni) && self.member.contains(&vni)
    }
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) opener: Box<Opener>,
    pub(super) sealer: Option<Box<Sealer>>,
    pub(super) rekey_reported: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Peers {
    peers: HashMap<PeerId, Peer, ahash::RandomState>,
    sessions: HashMap<ReceiverIndex, Session, ahash::RandomState>,
}

impl Peers {
    pub(super) fn new(seed: [u64; 4]) -> Peers {
        let [a, b, c, d] = seed;
        let hash = ahash::RandomState::with_seeds(a, b, c, d);
        Peers { peers: HashMap::with_hasher(hash.clone()), sessions: HashMap::with_hasher(hash) }
    }

    pub(super) fn add(&mut self, id: PeerId, name: Arc<str>, allowed: Vec<Vni>) {
        match self.peers.get_mut(&id) {
            Some(peer) => (peer.name, peer.allowed) = (name, allowed),
            None => {
                let peer = Peer {
                    name,
                    address: None,
                    active: None,
                    datagram_max: MIN_DATAGRAM_MAX,
                    allowed,
                    member: Vec::new(),
                    // A restarted node must not continue its predecessor's messages.
                    fragmenter: Fragmenter::new(random_u32()),
                    counters: PeerCounters::default(),
                    probes: 0,
                    challenge: None,
                };
                self.peers.insert(id, peer);
            }
        }
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        self.peers.remove(&id);
        self.sessions.retain(|_, session| session.peer != id);
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

    /// Whether a peer is reached at this address.
    pub(super) fn is_address(&self, address: SocketAddr) -> bool {
        self.peers.values().any(|peer| peer.address == Some(address))
    }

    pub(super) fn add_session(&mut self, index: ReceiverIndex, peer: PeerId, opener: Box<Opener>) {
        if self.peers.contains_key(&peer) {
            let session = Session { peer, opener, sealer: None, rekey_reported: false };
            self.sessions.insert(index, session);
        }
    }

    pub(super) fn arm_session(&mut self, index: ReceiverIndex, sealer: Box<Sealer>) {
        if let Some(session) = self.sessions.get_mut(&index) {
            session.sealer = Some(sealer);
        }
    }

    pub(super) fn remove_session(&mut self, index: ReceiverIndex) {
        if let Some(session) = self.sessions.remove(&index)
            && let Some(peer) = self.peers.get_mut(&session.peer)
            && peer.active == Some(index)
        {
            peer.active = None;
        }
    }

    /// The session that datagrams with this index belong to, and its peer.
    pub(super) fn session(&mut self, index: ReceiverIndex) -> Option<(&mut Session, &mut Peer)> {
        let session = self.sessions.get_mut(&index)?;
        let peer = self.peers.get_mut(&session.peer)?;
        Some((session, peer))
    }

    /// The peer, and the session that seals for it.
    pub(super) fn sealing(&mut self, id: PeerId) -> Option<(&mut Peer, &mut Session)> {
        let peer = self.peers.get_mut(&id)?;
        let session = self.sessions.get_mut(&peer.active?)?;
        Some((peer, session))
    }
}

pub(super) fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    u32::from_ne_bytes(bytes)
}

/// Before the path is measured: what QUIC asks of every path (RFC 9000, 14).
pub(super) const MIN_DATAGRAM_MAX: usize = 1200;
