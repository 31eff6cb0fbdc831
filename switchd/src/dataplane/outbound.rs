//! Frames on their way to a peer: split to the path, sealed in place in the send buffer.

use nat_traversal::{FULL, Route};
use switch_core::frame::ecn::Ecn;
use switch_core::frame::{ETH_LEN, ethertype};
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::{SplitPlan, clamp_mss};
use switch_core::seal::Sealer;
use switch_core::switch::DropReason;
use switch_core::vnet::{Gso, PartialCsum, VnetHdr};
use switch_core::wire::{
    FRAGMENT_HEADER_LEN, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Lane, Origin, SEAL_OVERHEAD, TAG_LEN,
    encode_fragment,
};

use super::command::Report;
use super::core::Core;
use super::peers::Peer;
use super::transmitter::{Class, Transmitter};
use crate::config::Carriage;

/// The network's part in sending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outbound {
    pub(super) vni: Vni,
    pub(super) mss_clamp: bool,
    pub(super) carriage: Carriage,
    pub(super) lane: Lane,
    /// Nobody needs the frame once it is sealed: it may be overwritten.
    pub(super) spare: bool,
}

impl Core {
    /// Seals a frame or super-frame for a peer; it leaves with the transmitter's next flush. Where there is no link to
    /// send it by, it may wait for one.
    pub(super) fn send_frame(
        &mut self,
        outbound: Outbound,
        to: PeerId,
        vnet: &VnetHdr,
        frame: &mut [u8],
    ) -> Result<(), DropReason> {
        match self.send_now(outbound, to, vnet, frame, false) {
            Err(DropReason::LinkDown) if self.hold(to, |held, now| held.push(outbound, vnet, frame, now)) => {
                Ok(())
            }
            result => result,
        }
    }

    /// Seals a frame by the session and the path that there are. `held`: it is one that waited; others follow those.
    pub(super) fn send_now(
        &mut self,
        outbound: Outbound,
        to: PeerId,
        vnet: &VnetHdr,
        frame: &mut [u8],
        held: bool,
    ) -> Result<(), DropReason> {
        let Core { peers, transmitter, carriage, scratch, reports, rekey_datagrams, paths, .. } = self;
        let (peer, session) = peers.sealing(to).ok_or(DropReason::LinkDown)?;
        let route = peer.paths.selected().ok_or(DropReason::LinkDown)?;
        let sealer = session.sealer.as_deref_mut().ok_or(DropReason::LinkDown)?;
        if !held && !peer.held.is_empty() {
            self.release(to);
            return self.send_now(outbound, to, vnet, frame, true);
        }
        if !std::mem::replace(&mut peer.flows, true) {
            paths.flows.push(to);
        }
        // What is flooded goes by every link, and is answered by few.
        peer.sent |= frame.first().is_some_and(|first| first & 1 == 0);
        peer.long |= frame.len() > usize::from(FULL) - SEAL_OVERHEAD - FRAME_HEADER_LEN;
        if outbound.carriage == Carriage::Quic {
            return carriage.send(session.quic.as_ref(), peer, outbound, vnet, frame, scratch);
        }
        let ecn = if session.ecn { Ecn::of_frame(frame).unwrap_or_default() } else { Ecn::NotEct };
        let class = Class { lane: outbound.lane, ecn };
        let mut line = Line { transmitter, peer, sealer, route, outbound, class, scratch };

        let max_frame = line.peer.max_frame();
        if outbound.mss_clamp {
            clamp_mss(frame, (max_frame - l2_len(frame)) as u16, vnet.csum.is_some());
        }
        match vnet.gso {
            Gso::None => line.frame(Origin::Whole, vnet.csum, frame)?,
            gso => {
                let origin = if gso == Gso::UdpL4 { Origin::UdpSegment } else { Origin::TcpSegment };
                let plan = SplitPlan::new(frame, vnet, max_frame).map_err(|_| DropReason::BadGso)?;
                line.super_frame(origin, &plan, frame, max_frame)?;
            }
        }
        if !session.rekey_reported
            && session.sealer.as_ref().is_some_and(|sealer| sealer.counter() >= *rekey_datagrams)
        {
            session.rekey_reported = true;
            let _ = reports.send(Report::RekeyDue(to));
        }
        Ok(())
    }
}

/// One peer's sending side, borrowed for one frame.
struct Line<'a> {
    transmitter: &'a mut Transmitter,
    peer: &'a mut Peer,
    sealer: &'a mut Sealer,
    route: Route,
    outbound: Outbound,
    class: Class,
    scratch: &'a mut Vec<u8>,
}

impl Line<'_> {
    fn frame(&mut self, origin: Origin, csum: Option<PartialCsum>, frame: &[u8]) -> Result<(), DropReason> {
        let header = FrameHeader { vni: self.outbound.vni, origin, csum }.encode();
        if frame.len() > self.peer.max_frame() {
            self.scratch.clear();
            self.scratch.extend_from_slice(&header);
            self.scratch.extend_from_slice(frame);
            return self.fragments();
        }
        self.seal(FRAME_HEADER_LEN + frame.len(), |message| {
            let (head, body) = message.split_at_mut(FRAME_HEADER_LEN);
            head.copy_from_slice(&header);
            body.copy_from_slice(frame);
        })
    }

    fn super_frame(
        &mut self,
        origin: Origin,
        plan: &SplitPlan,
        frame: &mut [u8],
        max_frame: usize,
    ) -> Result<(), DropReason> {
        let header = FrameHeader { vni: self.outbound.vni, origin, csum: Some(plan.csum()) }.encode();
        if !plan.oversized() {
            return self.segments(&header, plan, frame);
        }
        for i in 0..plan.count() {
            let len = plan.segment_len(i);
            if len > max_frame {
                self.scratch.resize(FRAME_HEADER_LEN + len, 0);
                write_message(&header, plan, i, frame, self.scratch);
                self.fragments()?;
            } else {
                self.seal(FRAME_HEADER_LEN + len, |message| write_message(&header, plan, i, frame, message))?;
            }
        }
        Ok(())
    }

    /// Segments that fit one datagram each. Where the frame may be overwritten, each is made in the frame's own bytes
    /// and sealed from there into the send buffer: its payload is moved once, by the cipher.
    fn segments(
        &mut self,
        header: &[u8; FRAME_HEADER_LEN],
        plan: &SplitPlan,
        frame: &mut [u8],
    ) -> Result<(), DropReason> {
        let Line { transmitter, peer, sealer, route, outbound, class, .. } = self;
        let count = plan.count();
        let mut i = 0;
        while i < count {
            let total = SEAL_OVERHEAD + FRAME_HEADER_LEN + plan.segment_len(i);
            // The last segment may be shorter.
            let alike = if total == SEAL_OVERHEAD + FRAME_HEADER_LEN + plan.segment_len(count - 1) {
                count - i
            } else {
                (count - 1).saturating_sub(i).max(1)
            };
            let run = transmitter.reserve_run(*route, *class, total, alike);
            let (reserved, first) = (run.len() / total, i);
            for slot in run.chunks_exact_mut(total) {
                let in_place =
                    if outbound.spare { plan.write_in_place(i, FRAME_HEADER_LEN, frame) } else { None };
                let sealed = match in_place {
                    Some(at) => {
                        let message = &mut frame[at];
                        message[..FRAME_HEADER_LEN].copy_from_slice(header);
                        sealer.seal_from(class.lane, message, slot)
                    }
                    None => {
                        write_message(header, plan, i, frame, &mut slot[HEADER_LEN..total - TAG_LEN]);
                        sealer.seal(class.lane, slot)
                    }
                };
                if sealed.is_err() {
                    break;
                }
                i += 1;
            }
            let sealed = i - first;
            peer.count_sealed(sealed, sealed * total);
            if sealed < reserved {
                (sealed..reserved).for_each(|_| transmitter.cancel(total));
                return Err(DropReason::CounterExhausted);
            }
        }
        Ok(())
    }

    /// Cuts the message in `scratch`.
    fn fragments(&mut self) -> Result<(), DropReason> {
        let message = std::mem::take(self.scratch);
        let max = self.peer.datagram_max() - SEAL_OVERHEAD - FRAGMENT_HEADER_LEN;
        let result = match self.peer.fragmenter.cut(&message, max) {
            Ok(mut pieces) => pieces.try_for_each(|(info, data)| {
                let header = encode_fragment(self.outbound.vni, &info);
                self.seal(FRAGMENT_HEADER_LEN + data.len(), |message| {
                    let (head, body) = message.split_at_mut(FRAGMENT_HEADER_LEN);
                    head.copy_from_slice(&header);
                    body.copy_from_slice(data);
                })
            }),
            Err(_) => Err(DropReason::TooBig),
        };
        *self.scratch = message;
        result
    }

    /// One datagram whose message is `len` bytes that `fill` writes.
    fn seal(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), DropReason> {
        let total = SEAL_OVERHEAD + len;
        let slot = self.transmitter.reserve(self.route, self.class, total);
        fill(&mut slot[HEADER_LEN..HEADER_LEN + len]);
        if self.sealer.seal(self.class.lane, slot).is_err() {
            self.transmitter.cancel(total);
            return Err(DropReason::CounterExhausted);
        }
        self.peer.count_sealed(1, total);
        Ok(())
    }
}

/// Writes the message of segment `i`, copying its payload.
pub(super) fn write_message(
    header: &[u8; FRAME_HEADER_LEN],
    plan: &SplitPlan,
    i: usize,
    frame: &[u8],
    message: &mut [u8],
) {
    let (head, body) = message.split_at_mut(FRAME_HEADER_LEN);
    head.copy_from_slice(header);
    let payload = &frame[plan.payload_range(i)];
    let header_len = plan.write_header(i, body);
    body[header_len..header_len + payload.len()].copy_from_slice(payload);
}

/// Bytes in front of the IP header: the MSS that fits depends on it.
pub(super) fn l2_len(frame: &[u8]) -> usize {
    let tagged = |at: usize| {
        frame
            .get(at..at + 2)
            .is_some_and(|t| matches!(u16::from_be_bytes([t[0], t[1]]), ethertype::VLAN | ethertype::QINQ))
    };
    match (tagged(ETH_LEN - 2), tagged(ETH_LEN + 2)) {
        (false, _) => ETH_LEN,
        (true, false) => ETH_LEN + 4,
        (true, true) => ETH_LEN + 8,
    }
}
