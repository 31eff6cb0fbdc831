//! Datagrams from the socket: opened in place, reassembled, and joined into runs before the switch decides.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use nat_traversal::{Protocol, classify};
use quinn_udp::RecvMeta;
use switch_core::fragment::{Reassembler, ReassemblyDrop, ReassemblyLimits};
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::Origin as RunOrigin;
use switch_core::seal::{Newest, OpenError};
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::vnet::{PartialCsum, VnetHdr};
use switch_core::wire::{FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Header, Message, Origin, Probe, TAG_LEN};
use tokio::sync::mpsc;

use super::command::Report;
use super::core::{Core, Seen};
use super::network::{MAX_PARTS, Network};
use super::snapshot::Buckets;
use crate::links::QuicDatagram;
use crate::underlay::Underlay;
use crate::view::Direction;

/// The receiving side.
pub(super) struct Inbound {
    bufs: Vec<u8>,
    meta: [RecvMeta; RECEIVES],
    /// Frames of the batch, in order.
    opened: Vec<Opened>,
    /// Reassembled messages of the batch.
    whole: Vec<Vec<u8>>,
    whole_used: usize,
    pub(super) reassembler: Reassembler,
    pub(super) quic: mpsc::Sender<QuicDatagram>,
    /// Datagrams in each receive.
    pub(super) batches: Buckets<8>,
}

/// A frame in one of the buffers.
#[derive(Clone, Copy)]
struct Opened {
    place: Place,
    start: usize,
    len: usize,
    peer: PeerId,
    csum: Option<PartialCsum>,
}

#[derive(Clone, Copy)]
enum Place {
    Received,
    Whole(usize),
}

/// What is done with one sealed datagram.
enum Outcome {
    Frame { vni: Vni, header: FrameHeader, peer: PeerId },
    Fragment { vni: Vni, peer: PeerId },
    Probe { peer: PeerId, probe: Probe },
}

impl Inbound {
    pub(super) fn new(quic: mpsc::Sender<QuicDatagram>) -> Inbound {
        Inbound {
            bufs: vec![0; RECEIVES * RECEIVE_MAX],
            meta: [RecvMeta::default(); RECEIVES],
            opened: Vec::with_capacity(super::network::BATCH_FRAMES),
            whole: Vec::new(),
            whole_used: 0,
            reassembler: Reassembler::new(ReassemblyLimits::default()),
            quic,
            batches: Buckets::new([1, 2, 4, 8, 16, 32, 64, 128]),
        }
    }

    /// Receives one batch and carries it to the bridges. `Ok(false)`: the socket is empty. `unknown` is called
    /// once when a receiver index is not known, for a session that is being added just now.
    pub(super) fn receive(
        &mut self,
        underlay: &Underlay,
        core: &mut Core,
        networks: &mut [Network],
        mut unknown: impl FnMut(&mut Core, &mut [Network]),
    ) -> io::Result<bool> {
        let mut chunks = self.bufs.chunks_exact_mut(RECEIVE_MAX);
        let mut iovs: [IoSliceMut<'_>; RECEIVES] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let received = match underlay.recv(&mut iovs, &mut self.meta) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        };
        let now = core.now();
        let heard = Instant::now();
        for i in 0..received {
            let meta = self.meta[i];
            let source = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let stride = meta.stride.max(1);
            self.batches.observe(meta.len.div_ceil(stride) as u64);
            let base = i * RECEIVE_MAX;
            let mut at = 0;
            while at < meta.len {
                let end = (at + stride).min(meta.len);
                self.datagram(core, networks, &mut unknown, source, base + at, base + end, now, heard);
                at = end;
            }
        }
        self.deliver(core, networks, now);
        Ok(received == RECEIVES)
    }

    #[expect(clippy::too_many_arguments, reason = "one datagram's context, borrowed apart from the buffers")]
    fn datagram(
        &mut self,
        core: &mut Core,
        networks: &mut [Network],
        unknown: &mut impl FnMut(&mut Core, &mut [Network]),
        source: SocketAddr,
        start: usize,
        end: usize,
        now: Time,
        heard: Instant,
    ) {
        let datagram = &mut self.bufs[start..end];
        match classify(datagram, false) {
            Protocol::Sealed => {}
            Protocol::Quic => {
                let payload = Bytes::copy_from_slice(datagram);
                if self.quic.try_send(QuicDatagram { source, payload }).is_err() {
                    core.datagram_drops.count(DropReason::QueueFull, 1);
                }
                return;
            }
            Protocol::Stun | Protocol::ChannelData | Protocol::Unknown => {
                core.datagram_drops.count(DropReason::BadDatagram, 1);
                core.log_drop(None, DropReason::BadDatagram, datagram);
                return;
            }
        }
        let outcome = open(core, networks, unknown, source, datagram, heard);
        let message_at = start + HEADER_LEN;
        let message_end = end.saturating_sub(TAG_LEN);
        match outcome {
            Ok(Outcome::Frame { vni, header, peer }) => {
                let at = message_at + FRAME_HEADER_LEN;
                let opened = Opened {
                    place: Place::Received,
                    start: at,
                    len: message_end - at,
                    peer,
                    csum: header.csum,
                };
                self.accept(core, networks, vni, opened, header.origin);
            }
            Ok(Outcome::Fragment { vni, peer }) => self.fragment(core, networks, vni, peer, message_at, message_end, now),
            Ok(Outcome::Probe { peer, probe }) => {
                if probe.answer_wanted {
                    core.send_probe(peer, Probe { answer_wanted: false, ..probe });
                }
            }
            Err(reason) => {
                core.datagram_drops.count(reason, 1);
                core.log_drop(None, reason, &self.bufs[start..end]);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one fragment's context, borrowed apart from the buffers")]
    fn fragment(
        &mut self,
        core: &mut Core,
        networks: &mut [Network],
        vni: Vni,
        peer: PeerId,
        start: usize,
        end: usize,
        now: Time,
    ) {
        let Ok(Message::Fragment(_, info, data)) = Message::parse(&self.bufs[start..end]) else { return };
        let whole = match self.reassembler.handle(peer, info, data, now) {
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
                let opened = Opened {
                    place: Place::Whole(self.whole_used),
                    start: 0,
                    len: slot.len(),
                    peer,
                    csum: header.csum,
                };
                self.whole_used += 1;
                self.accept(core, networks, vni, opened, header.origin);
            }
            _ => {
                core.datagram_drops.count(DropReason::BadInnerHeader, 1);
                core.log_drop(None, DropReason::BadInnerHeader, whole);
            }
        }
    }

    /// Hands an opened frame to its network's coalescer.
    fn accept(&mut self, core: &mut Core, networks: &mut [Network], vni: Vni, opened: Opened, origin: Origin) {
        let frame = slice(&self.bufs, &self.whole, opened);
        let Some(network) = networks.iter_mut().find(|network| network.vni == vni) else {
            core.datagram_drops.count(DropReason::UnknownNetwork, 1);
            return core.log_drop(None, DropReason::UnknownNetwork, frame);
        };
        if !core.is_member(opened.peer, vni) {
            network.remote.drops.count(DropReason::NotAMember, 1);
            let seen = Seen { network: &network.name, direction: Direction::Remote, peer: Some(opened.peer) };
            return core.log_drop(Some(seen), DropReason::NotAMember, frame);
        }
        let index = self.opened.len() as u32;
        let origin_of_run = RunOrigin { vni, peer: opened.peer };
        if network.coalesces() {
            network.coalescer.push(origin_of_run, index, frame, opened.csum, origin == Origin::UdpSegment);
        } else {
            network.coalescer.push_single(origin_of_run, index, frame, opened.csum);
        }
        self.opened.push(opened);
    }

    /// Takes every run through its network's switch.
    fn deliver(&mut self, core: &mut Core, networks: &mut [Network], now: Time) {
        let Inbound { bufs, whole, opened, .. } = self;
        for network in networks {
            let mut coalescer = std::mem::replace(&mut network.coalescer, network.spare.take().unwrap_or_else(Network::empty_coalescer));
            let mut batch = coalescer.finish();
            while let Some(mut run) = batch.next_run() {
                let (vnet, len, peer) = (run.vnet(), run.frame_len(), run.origin().peer);
                network.remote.count(len, &vnet);
                let first = opened[run.index() as usize];
                let seen_name = network.name.clone();
                let seen = Seen { network: &seen_name, direction: Direction::Remote, peer: Some(peer) };
                if run.is_single() {
                    let frame = slice_mut(bufs, whole, first);
                    core.capture(seen, &vnet, &[frame]);
                    let verdict = network.switch.handle_remote(frame, &vnet, peer, now);
                    network.act(core, seen, verdict, &vnet, frame);
                    continue;
                }
                if !core.captures.is_empty() {
                    let mut parts = vec![run.header()];
                    parts.extend(run.payloads().map(|p| piece(bufs, whole, opened, p)));
                    core.capture(seen, &vnet, &parts);
                }
                let verdict = network.switch.handle_remote(run.header_mut(), &vnet, peer, now);
                if verdict == switch_core::switch::Verdict::Bridge {
                    let mut parts = [IoSlice::new(&[]); MAX_PARTS];
                    parts[0] = IoSlice::new(run.header());
                    let mut used = 1;
                    for p in run.payloads() {
                        parts[used] = IoSlice::new(piece(bufs, whole, opened, p));
                        used += 1;
                    }
                    network.deliver(&vnet, &parts[..used]);
                    network.drain(core, now);
                } else {
                    network.act(core, seen, verdict, &vnet, run.header_mut());
                }
            }
            drop(batch);
            network.restore_coalescer(coalescer);
        }
        self.opened.clear();
        self.whole_used = 0;
    }
}
