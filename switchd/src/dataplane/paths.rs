//! The peers' path sets: their probes are sealed and sent, their timers minded, their words passed on.

use std::time::{Duration, Instant};

use nat_traversal::{PathProbe, Route};
use switch_core::ids::PeerId;
use switch_core::switch::DropReason;
use switch_core::wire::{HEADER_LEN, MAX_HEARD_MS, PROBE_LEN, Probe, SEAL_OVERHEAD, TAG_LEN};

use super::command::Report;
use super::core::Core;
use super::held::Held;
use super::transmitter::Class;

/// What is to be done for peers' paths in this turn, and when next.
#[derive(Debug, Default)]
pub(super) struct PathWork {
    /// Peers whose path sets have something to say.
    stirred: Vec<PeerId>,
    /// Peers with which frames were exchanged.
    pub(super) flows: Vec<PeerId>,
    /// No path set has a timer before this.
    due: Option<Instant>,
    /// When all were looked at last.
    looked: Option<Instant>,
}

impl Core {
    /// The peer's path set was changed: see to it in this turn.
    pub(super) fn stir(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(id)
            && !std::mem::replace(&mut peer.stirred, true)
        {
            self.paths.stirred.push(id);
        }
    }

    /// An authentic probe of the peer.
    pub(super) fn handle_probe(&mut self, id: PeerId, route: Route, probe: Probe, len: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let probe = PathProbe {
            route,
            answer_wanted: probe.answer_wanted,
            sequence: probe.sequence,
            heard: probe.heard_ms.map(|ms| Duration::from_millis(ms.into())),
            len: probe.datagram_len,
        };
        peer.paths.handle_probe(probe, len, now);
        self.stir(id);
    }

    /// Ends a turn: what was stirred is carried out, and what is due.
    pub(super) fn mind_paths(&mut self, now: Instant) {
        let mut flows = std::mem::take(&mut self.paths.flows);
        for id in flows.drain(..) {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.flows = false;
                let (sent, long) = (std::mem::take(&mut peer.sent), std::mem::take(&mut peer.long));
                peer.paths.handle_frames(sent, long, now);
                peer.counters.last_frame = Some(now);
                let due = peer.paths.poll_timeout();
                self.paths.note(due);
            }
        }
        self.paths.flows = flows;
        if self.path_timeout().is_some_and(|at| at <= now) {
            self.paths.looked = Some(now);
            self.paths.due = None;
            let Core { peers, paths, .. } = self;
            for (id, peer) in peers.iter_mut() {
                let due = [peer.paths.poll_timeout(), peer.held.due()].into_iter().flatten().min();
                if due.is_some_and(|at| at <= now) && !std::mem::replace(&mut peer.stirred, true) {
                    paths.stirred.push(id);
                }
                paths.note(due);
            }
        }
        while let Some(id) = self.paths.stirred.pop() {
            self.pump(id, now);
        }
    }

    /// When to call [`mind_paths`](Self::mind_paths) next.
    pub(super) fn path_timeout(&self) -> Option<Instant> {
        // With many peers, looking at all of them for each one's timer would be most of the work.
        let earliest = self.paths.looked.map(|at| at + LOOK_EVERY);
        self.paths.due.map(|at| earliest.map_or(at, |earliest| at.max(earliest)))
    }

    fn pump(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.stirred = false;
        if peer.paths.poll_timeout().is_some_and(|at| at <= now) {
            peer.paths.handle_timeout(now);
        }
        while let Some(probe) = self.peers.get_mut(id).and_then(|peer| peer.paths.poll_transmit()) {
            self.send_probe(id, probe);
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        while let Some(event) = peer.paths.poll_event() {
            let _ = self.reports.send(Report::Path(id, event));
        }
        while let Some(held) = peer.held.pop_expired(now) {
            self.unheld.push((id, DropReason::LinkDown, held));
        }
        let due = [peer.paths.poll_timeout(), peer.held.due()].into_iter().flatten().min();
        self.paths.note(due);
        self.release(id);
    }

    /// Sends the frames that waited for a link, if there is one now.
    pub(super) fn release(&mut self, id: PeerId) {
        while let Some(peer) = self.peers.get_mut(id)
            && !peer.held.is_empty()
            && self.peers.can_send(id)
        {
            let Some(mut held) = self.peers.get_mut(id).and_then(|peer| peer.held.pop()) else { return };
            let vni = held.outbound.vni;
            let sent = match self.is_member(id, vni) {
                true => self.send_now(held.outbound, id, &held.vnet, &mut held.frame, true),
                false => Err(DropReason::LinkDown),
            };
            if let Err(reason) = sent {
                self.unheld.push((id, reason, held));
            }
        }
    }

    /// Keeps a frame until there is a link, and asks for one.
    pub(super) fn hold(&mut self, id: PeerId, held: impl FnOnce(&mut Held, Instant) -> bool) -> bool {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(id) else { return false };
        if peer.held.wants(now) {
            let _ = self.reports.send(Report::Wanted(id));
        }
        let kept = held(&mut peer.held, now);
        let due = peer.held.due();
        self.paths.note(due);
        kept
    }

    /// Seals a probe and has it sent.
    fn send_probe(&mut self, to: PeerId, probe: PathProbe) {
        let Core { peers, transmitter, .. } = self;
        let Some((peer, session)) = peers.sealing(to) else { return };
        let Some(sealer) = session.sealer.as_deref_mut() else { return };
        let padded = probe.answer_wanted && probe.len != 0;
        let shortest = SEAL_OVERHEAD + PROBE_LEN;
        let len = if padded { usize::from(probe.len).max(shortest) } else { shortest };
        let heard_ms = probe.heard.and_then(|ago| u16::try_from(ago.as_millis()).ok());
        let message = Probe {
            answer_wanted: probe.answer_wanted,
            sequence: probe.sequence,
            heard_ms: heard_ms.filter(|ms| *ms <= MAX_HEARD_MS),
            datagram_len: if probe.answer_wanted { len as u16 } else { probe.len },
        };
        if padded {
            // So that what the kernel says of it is said of nothing else.
            transmitter.flush();
        }
        let slot = transmitter.reserve(probe.route, Class::OWN, len);
        slot[HEADER_LEN..HEADER_LEN + PROBE_LEN].copy_from_slice(&message.encode());
        slot[HEADER_LEN + PROBE_LEN..len - TAG_LEN].fill(0);
        match sealer.seal(Class::OWN.lane, slot) {
            Ok(()) => peer.count_sealed(1, len),
            Err(_) => transmitter.cancel(len),
        }
        if padded {
            transmitter.flush();
            self.mind_too_long();
        }
    }

    /// Tells the path set what the kernel refused.
    pub(super) fn mind_too_long(&mut self) {
        let Some((route, len)) = self.transmitter.too_long.take() else { return };
        let known = self.peers.iter_mut().find(|(_, peer)| peer.paths.has_route(route));
        let Some((id, peer)) = known else { return };
        peer.paths.handle_too_long(route, len, Instant::now());
        self.stir(id);
    }
}

impl PathWork {
    fn note(&mut self, due: Option<Instant>) {
        self.due = [self.due, due].into_iter().flatten().min();
    }
}

/// Between looks at all peers' timers.
const LOOK_EVERY: Duration = Duration::from_millis(5);
