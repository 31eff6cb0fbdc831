//! What the paths of all networks share: peers, the sending side, and what is watched.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use switch_core::ids::{PeerId, Vni};
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::wire::Probe;
use tokio::sync::mpsc;

use super::capture::Captures;
use super::command::Report;
use super::drops::{DropLog, Seen};
use super::peers::{Challenge, Peers};
use super::snapshot::DropCounts;
use super::transmitter::Transmitter;

/// The shared parts of the worker.
pub(super) struct Core {
    pub(super) start: Instant,
    pub(super) peers: Peers,
    pub(super) transmitter: Transmitter,
    pub(super) captures: Captures,
    pub(super) drop_log: DropLog,
    /// Drops of datagrams whose network is not known.
    pub(super) datagram_drops: DropCounts,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) rekey_datagrams: u64,
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

    /// Moves the peer to an address from which it answered its challenge.
    pub(super) fn answered(&mut self, id: PeerId, source: SocketAddr, probe: Probe) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let asked = |c: Challenge| c.address == source && c.sequence == probe.sequence;
        if peer.challenge.is_some_and(asked) && peer.address != Some(source) {
            peer.address = Some(source);
            let _ = self.reports.send(Report::Moved(id, source));
        }
    }

    pub(super) fn peer_name(&self, id: PeerId) -> Option<Arc<str>> {
        self.peers.get(id).map(|peer| peer.name.clone())
    }

    pub(super) fn is_member(&self, peer: PeerId, vni: Vni) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.takes_part(vni))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::underlay::Underlay;

    fn core() -> (Core, mpsc::UnboundedReceiver<Report>) {
        let (reports, reported) = mpsc::unbounded_channel();
        let underlay = Arc::new(Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let mut core = Core {
            start: Instant::now(),
            peers: Peers::new([0; 4]),
            transmitter: Transmitter::new(underlay),
            captures: Captures::default(),
            drop_log: DropLog::default(),
            datagram_drops: DropCounts::default(),
            reports,
            rekey_datagrams: u64::MAX,
            scratch: Vec::new(),
        };
        core.peers.add(PeerId(1), "node-b".into(), Vec::new());
        core.peers.get_mut(PeerId(1)).unwrap().address = Some("192.0.2.1:4840".parse().unwrap());
        (core, reported)
    }

    /// A source address alone moves nobody: it could be another's.
    #[test]
    fn a_peer_moves_only_by_the_right_answer_from_the_challenged_address() {
        let (mut core, mut reported) = core();
        let (old, new): (SocketAddr, SocketAddr) =
            ("192.0.2.1:4840".parse().unwrap(), "198.51.100.7:9".parse().unwrap());
        let elsewhere: SocketAddr = "203.0.113.5:9".parse().unwrap();
        let address = |core: &Core| core.peers.get(PeerId(1)).unwrap().address.unwrap();
        let answer = |sequence| Probe { answer_wanted: false, sequence };

        core.answered(PeerId(1), new, answer(0));
        assert_eq!(address(&core), old, "never challenged");
        core.challenge(PeerId(1), new);
        let sequence = core.peers.get(PeerId(1)).unwrap().challenge.unwrap().sequence;
        core.answered(PeerId(1), new, answer(sequence.wrapping_add(1)));
        core.answered(PeerId(1), elsewhere, answer(sequence));
        assert_eq!(address(&core), old, "a guess, and an answer from a third address");
        assert!(reported.try_recv().is_err());

        core.answered(PeerId(1), new, answer(sequence));
        assert_eq!(address(&core), new);
        assert_eq!(reported.try_recv(), Ok(Report::Moved(PeerId(1), new)));
    }

    #[test]
    fn challenges_are_limited() {
        let (mut core, _reported) = core();
        let ask = |core: &mut Core, port| {
            core.challenge(PeerId(1), SocketAddr::new([198, 51, 100, 7].into(), port));
            core.peers.get(PeerId(1)).unwrap().challenge.unwrap().address.port()
        };
        assert_eq!(ask(&mut core, 1), 1);
        assert_eq!(ask(&mut core, 2), 1, "the first is still out");
    }
}
