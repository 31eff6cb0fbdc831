//! Frames on their way to the bridges: reassembled, joined into runs, and taken through their networks' switches.

use std::ops::Range;

use switch_core::fragment::ReassemblyDrop;
use switch_core::frame::ecn::{Congested, Ecn, propagate};
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::FrameSource;
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::wire::Message;

use super::{Inbound, Opened, Place};
use crate::dataplane::core::Core;
use crate::dataplane::drops::Seen;
use crate::dataplane::network::MAX_PARTS;
use crate::dataplane::networks::Networks;
use crate::view::Direction;

impl Inbound {
    #[expect(clippy::too_many_arguments, reason = "one fragment's context, borrowed apart from the buffers")]
    pub(super) fn fragment(
        &mut self,
        core: &mut Core,
        networks: &mut Networks,
        vni: Vni,
        peer: PeerId,
        message: Range<usize>,
        outer: Ecn,
        now: Time,
    ) {
        let Ok(Message::Fragment(_, info, data)) = Message::parse(&self.bufs[message]) else { return };
        let (whole, outer) = match self.reassembler.handle(peer, info, data, outer, now) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            Err(drop) => {
                let reason = match drop {
                    ReassemblyDrop::Full | ReassemblyDrop::TooLong => DropReason::ReassemblyFull,
                    _ => DropReason::BadInnerHeader,
                };
                core.datagram_drops.count(reason, 1);
                core.log_drop(None, reason, data);
                return;
            }
        };
        match Message::parse(whole) {
            Ok(Message::Frame(header, frame)) if header.vni == vni => {
                if self.whole_used == self.whole.len() {
                    self.whole.push(Vec::new());
                }
                let slot = &mut self.whole[self.whole_used];
                slot.clear();
                slot.extend_from_slice(frame);
                if let Err(Congested) = propagate(slot, outer) {
                    core.datagram_drops.count(DropReason::Congested, 1);
                    core.log_drop(None, DropReason::Congested, slot);
                    return;
                }
                let opened = Opened {
                    place: Place::Whole(self.whole_used),
                    start: 0,
                    len: slot.len(),
                    peer,
                    csum: header.csum,
                };
                self.whole_used += 1;
                self.accept(core, networks, &mut None, vni, opened);
            }
            _ => {
                core.datagram_drops.count(DropReason::BadInnerHeader, 1);
                core.log_drop(None, DropReason::BadInnerHeader, whole);
            }
        }
    }

    /// Hands an opened frame to its network's coalescer. `admitted`: a peer that was found to take part in a network.
    pub(super) fn accept(
        &mut self,
        core: &mut Core,
        networks: &mut Networks,
        admitted: &mut Option<(PeerId, Vni)>,
        vni: Vni,
        opened: Opened,
    ) {
        let frame = slice(&self.bufs, &self.whole, opened);
        let Some((network, coalescer)) = networks.with_coalescer(vni) else {
            core.datagram_drops.count(DropReason::UnknownNetwork, 1);
            return core.log_drop(None, DropReason::UnknownNetwork, frame);
        };
        let asked = Some((opened.peer, vni));
        if *admitted != asked && !core.is_member(opened.peer, vni) {
            network.remote.drops.count(DropReason::NotAMember, 1);
            let seen = Seen { network: &network.name, direction: Direction::Remote, peer: Some(opened.peer) };
            return core.log_drop(Some(seen), DropReason::NotAMember, frame);
        }
        *admitted = asked;
        let offloads = network.offloads();
        if offloads.tso4 || offloads.tso6 {
            // Datagrams of one size and flow may join whoever cut them: the receiver's stack parts them again. What a
            // bridge floods may meet ports that need each by itself.
            let uso = offloads.uso && frame.first().is_some_and(|first| first & 1 == 0);
            let run = FrameSource { vni, peer: opened.peer };
            coalescer.push(run, self.opened.len() as u32, frame, opened.csum, uso);
        } else {
            self.singles.push((vni, self.opened.len()));
        }
        self.opened.push(opened);
    }

    /// Takes every run through its network's switch.
    pub(super) fn deliver(&mut self, core: &mut Core, networks: &mut Networks, now: Time) {
        let Inbound { bufs, whole, opened, singles, .. } = self;
        for (network, coalescer) in networks.with_coalescers() {
            let mut batch = coalescer.finish();
            while let Some(mut run) = batch.next_run() {
                let first = opened[run.index() as usize];
                if run.is_single() {
                    network.remote_frame(core, first.peer, first.csum, slice_mut(bufs, whole, first), now);
                    continue;
                }
                let vnet = run.vnet();
                let mut parts: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
                let mut used = 0;
                for p in run.payloads() {
                    let frame = slice(bufs, whole, opened[p.index as usize]);
                    parts[used] = &frame[p.start as usize..p.end as usize];
                    used += 1;
                }
                let len = run.frame_len();
                network.remote_super_frame(
                    core,
                    first.peer,
                    &vnet,
                    run.header_mut(),
                    &parts[..used],
                    len,
                    now,
                );
            }
        }
        for (vni, at) in singles.drain(..) {
            let Some(network) = networks.get_mut(vni) else { continue };
            let single = opened[at];
            let frame = slice_mut(bufs, whole, single);
            network.remote_frame(core, single.peer, single.csum, frame, now);
        }
        opened.clear();
        self.whole_used = 0;
        whole.truncate(WHOLE_KEPT);
    }
}

fn slice<'a>(bufs: &'a [u8], whole: &'a [Vec<u8>], frame: Opened) -> &'a [u8] {
    match frame.place {
        Place::Received => &bufs[frame.start..frame.start + frame.len],
        Place::Whole(i) => &whole[i],
    }
}

fn slice_mut<'a>(bufs: &'a mut [u8], whole: &'a mut [Vec<u8>], frame: Opened) -> &'a mut [u8] {
    match frame.place {
        Place::Received => &mut bufs[frame.start..frame.start + frame.len],
        Place::Whole(i) => &mut whole[i],
    }
}

/// Buffers for reassembled frames that are kept from batch to batch.
const WHOLE_KEPT: usize = 64;
