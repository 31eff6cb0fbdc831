//! What the paths of all networks share: peers, the sending side, and what is watched.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use switch_core::ids::{PeerId, Vni};
use switch_core::lanes::Lanes;
use switch_core::switch::DropReason;
use switch_core::time::Time;
use tokio::sync::mpsc;

use super::capture::Captures;
use super::carriage::CarriageOut;
use super::command::Report;
use super::drops::{DropLog, Seen};
use super::held::HeldFrame;
use super::paths::PathWork;
use super::peers::Peers;
use super::snapshot::DropCounts;
use super::transmitter::Transmitter;

/// The shared parts of the worker.
pub(super) struct Core {
    pub(super) start: Instant,
    pub(super) peers: Peers,
    pub(super) lanes: Lanes,
    /// Something of the bulk lane was carried in this turn.
    pub(super) bulk: bool,
    pub(super) transmitter: Transmitter,
    pub(super) carriage: CarriageOut,
    pub(super) captures: Captures,
    pub(super) drop_log: DropLog,
    /// Drops of datagrams whose network is not known.
    pub(super) datagram_drops: DropCounts,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) rekey_datagrams: u64,
    pub(super) paths: PathWork,
    /// Frames that waited for a link in vain, and why they are dropped.
    pub(super) unheld: Vec<(PeerId, DropReason, HeldFrame)>,
    /// Peers that were removed in this turn.
    pub(super) removed: Vec<PeerId>,
    /// Holds one message on its way to the fragmenter.
    pub(super) scratch: Vec<u8>,
}

impl Core {
    pub(super) fn now(&self) -> Time {
        Time::from_epoch(self.start.elapsed())
    }

    /// Remembers a dropped frame for `why-dropped`.
    pub(super) fn log_drop(&mut self, seen: Option<Seen<'_>>, reason: DropReason, frame: &[u8]) {
        self.drop_log.push(self.start, seen, reason, frame);
    }

    /// Copies the frame to the captures that want it.
    pub(super) fn capture(&mut self, seen: Seen<'_>, parts: &[&[u8]]) {
        if self.captures.is_empty() {
            return;
        }
        let peer = seen.peer.and_then(|id| self.peers.get(id)).map(|peer| peer.name.clone());
        self.captures.offer(SystemTime::now(), seen.network, seen.direction, peer.as_deref(), parts);
    }

    pub(super) fn peer_name(&self, id: PeerId) -> Option<Arc<str>> {
        self.peers.get(id).map(|peer| peer.name.clone())
    }

    pub(super) fn is_member(&self, peer: PeerId, vni: Vni) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.takes_part(vni))
    }
}
