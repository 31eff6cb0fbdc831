//! Messages that came in QUIC datagrams: authentic already, and from here on as those that were sealed.

use switch_core::frame::ecn::Ecn;
use switch_core::ids::{PeerId, Vni};
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::wire::{FRAME_HEADER_LEN, Message};
use tokio::sync::mpsc;

use super::{Inbound, Opened, Place};
use crate::dataplane::carriage::QuicMessages;
use crate::dataplane::core::Core;
use crate::dataplane::networks::Networks;

/// One message in the buffers.
#[derive(Clone, Copy)]
struct Arrived {
    peer: PeerId,
    start: usize,
    end: usize,
    now: Time,
}

impl Inbound {
    /// Carries what QUIC gave to the bridges, a bounded part of it.
    pub(in crate::dataplane) fn take_carried(
        &mut self,
        carried: &mut mpsc::Receiver<QuicMessages>,
        core: &mut Core,
        networks: &mut Networks,
    ) {
        let now = core.now();
        let (mut at, mut admitted, mut bytes) = (0, None, 0);
        for _ in 0..BATCHES {
            let Ok(QuicMessages { peer, messages }) = carried.try_recv() else { break };
            bytes += count(core, peer, &messages);
            for message in messages {
                if at + message.len() > self.bufs.len() {
                    self.deliver(core, networks, now);
                    at = 0;
                }
                let end = at + message.len();
                let Some(room) = self.bufs.get_mut(at..end) else {
                    core.datagram_drops.count(DropReason::TooBig, 1);
                    continue;
                };
                room.copy_from_slice(&message);
                let arrived = Arrived { peer, start: at, end, now };
                self.message(core, networks, &mut admitted, arrived);
                at = end;
            }
        }
        // QUIC does not tell lanes.
        core.bulk |= bytes > BULK_BYTES;
        self.deliver(core, networks, now);
    }

    fn message(
        &mut self,
        core: &mut Core,
        networks: &mut Networks,
        admitted: &mut Option<(PeerId, Vni)>,
        arrived: Arrived,
    ) {
        let Arrived { peer, start, end, now } = arrived;
        match Message::parse(&self.bufs[start..end]) {
            Ok(Message::Frame(header, _)) => {
                let at = start + FRAME_HEADER_LEN;
                let opened =
                    Opened { place: Place::Received, start: at, len: end - at, peer, csum: header.csum };
                self.accept(core, networks, admitted, header.vni, opened);
            }
            // QUIC packets are sent as not capable, and hold several messages.
            Ok(Message::Fragment(vni, ..)) => {
                self.fragment(core, networks, vni, peer, start..end, Ecn::NotEct, now);
            }
            // A probe asks about one path, which QUIC knows nothing of.
            Ok(Message::Probe(_)) | Err(_) => {
                self.drop_datagram(core, DropReason::BadInnerHeader, start, end);
            }
        }
    }
}

/// The messages' bytes, which are counted.
fn count(core: &mut Core, id: PeerId, messages: &[bytes::Bytes]) -> u64 {
    let bytes = messages.iter().map(|message| message.len() as u64).sum();
    let Some(peer) = core.peers.get_mut(id) else { return bytes };
    peer.counters.quic_from_peer += messages.len() as u64;
    peer.counters.quic_bytes_from_peer += bytes;
    if !std::mem::replace(&mut peer.flows, true) {
        core.paths.flows.push(id);
    }
    bytes
}

/// In one turn of the worker's loop.
const BATCHES: usize = 16;
/// More than this in one turn is not what flows of the prompt lane send.
const BULK_BYTES: u64 = 16 << 10;
