//! Datagrams from the socket: opened in place, reassembled, and joined into runs before the switch decides.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use nat_traversal::{Protocol, canonical, classify, is_real_source};
use quinn_udp::RecvMeta;
use switch_core::fragment::{Reassembler, ReassemblyDrop, ReassemblyLimits};
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::FrameSource;
use switch_core::seal::{Newest, OpenError};
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::vnet::PartialCsum;
use switch_core::wire::{FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Header, Message, Origin, Probe, TAG_LEN};
use tokio::sync::mpsc;

use super::core::Core;
use super::drops::Seen;
use super::network::{BATCH_FRAMES, MAX_PARTS};
use super::networks::Networks;
use super::snapshot::Buckets;
use crate::underlay::{QuicDatagram, Underlay};
use crate::view::Direction;

/// The receiving side.
pub(super) struct Inbound {
    bufs: Vec<u8>,
    meta: [RecvMeta; RECEIVES],
    /// Frames of the batch, in order.
    opened: Vec<Opened>,
    /// Frames, by network and index in `opened`, for endpoints that take no super-frames.
    singles: Vec<(Vni, usize)>,
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
            singles: Vec::with_capacity(BATCH_FRAMES),
            bufs: vec![0; RECEIVES * RECEIVE_MAX],
            meta: [RecvMeta::default(); RECEIVES],
            opened: Vec::with_capacity(BATCH_FRAMES),
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
        networks: &mut Networks,
        mut unknown: impl FnMut(&mut Core, &mut Networks),
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
            let source = canonical(meta.addr);
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
        networks: &mut Networks,
        unknown: &mut impl FnMut(&mut Core, &mut Networks),
        source: SocketAddr,
        start: usize,
        end: usize,
        now: Time,
        heard: Instant,
    ) {
        let datagram = &mut self.bufs[start..end];
        let protocol = if is_real_source(source) { classify(datagram, false) } else { Protocol::Unknown };
        match protocol {
            Protocol::Sealed => {}
            Protocol::Quic => {
                // Half of the queue is for peers, so that strangers cannot starve their keepalives.
                let room =
                    self.quic.capacity() > self.quic.max_capacity() / 2 || core.peers.is_address(source);
                let payload = Bytes::copy_from_slice(datagram);
                if !room || self.quic.try_send(QuicDatagram { source, payload }).is_err() {
                    core.datagram_drops.count(DropReason::QueueFull, 1);
                    core.log_drop(None, DropReason::QueueFull, &self.bufs[start..end]);
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
            Ok(Outcome::Fragment { vni, peer }) => {
                self.fragment(core, networks, vni, peer, message_at, message_end, now);
            }
            Ok(Outcome::Probe { peer, probe }) => {
                if probe.answer_wanted {
                    core.send_probe(peer, Some(source), Probe { answer_wanted: false, ..probe });
                } else {
                    core.answered(peer, source, probe);
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
        networks: &mut Networks,
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
    fn accept(&mut self, core: &mut Core, networks: &mut Networks, vni: Vni, opened: Opened, origin: Origin) {
        let frame = slice(&self.bufs, &self.whole, opened);
        let Some((network, coalescer)) = networks.with_coalescer(vni) else {
            core.datagram_drops.count(DropReason::UnknownNetwork, 1);
            return core.log_drop(None, DropReason::UnknownNetwork, frame);
        };
        if !core.is_member(opened.peer, vni) {
            network.remote.drops.count(DropReason::NotAMember, 1);
            let seen = Seen { network: &network.name, direction: Direction::Remote, peer: Some(opened.peer) };
            return core.log_drop(Some(seen), DropReason::NotAMember, frame);
        }
        let offloads = network.offloads();
        if offloads.tso4 || offloads.tso6 {
            let uso = origin == Origin::UdpSegment && offloads.uso;
            let run = FrameSource { vni, peer: opened.peer };
            coalescer.push(run, self.opened.len() as u32, frame, opened.csum, uso);
        } else {
            self.singles.push((vni, self.opened.len()));
        }
        self.opened.push(opened);
    }

    /// Takes every run through its network's switch.
    fn deliver(&mut self, core: &mut Core, networks: &mut Networks, now: Time) {
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

/// Opens one sealed datagram in place and reads its message.
fn open(
    core: &mut Core,
    networks: &mut Networks,
    unknown: &mut impl FnMut(&mut Core, &mut Networks),
    source: SocketAddr,
    datagram: &mut [u8],
    heard: Instant,
) -> Result<Outcome, DropReason> {
    let header = Header::parse(datagram).map_err(|_| DropReason::BadDatagram)?;
    if core.peers.session(header.receiver).is_none() {
        unknown(core, networks);
    }
    let (session, peer) = core.peers.session(header.receiver).ok_or(DropReason::UnknownReceiver)?;
    let len = datagram.len() as u64;
    let (message, newest) = session.opener.open(&header, datagram).map_err(|e| match e {
        OpenError::Replayed => {
            peer.counters.replays_dropped += 1;
            DropReason::Replayed
        }
        OpenError::BadTag => DropReason::BadTag,
    })?;
    peer.counters.datagrams_from_peer += 1;
    peer.counters.bytes_from_peer += len;
    peer.counters.last_heard = Some(heard);
    let elsewhere = newest == Newest(true) && peer.address != Some(source);
    let peer = session.peer;
    let parsed = Message::parse(message);
    let answer = matches!(parsed, Ok(Message::Probe(Probe { answer_wanted: false, .. })));
    if elsewhere && !answer {
        core.challenge(peer, source);
    }
    match parsed.map_err(|_| DropReason::BadInnerHeader)? {
        Message::Frame(header, _) => Ok(Outcome::Frame { vni: header.vni, header, peer }),
        Message::Fragment(vni, ..) => Ok(Outcome::Fragment { vni, peer }),
        Message::Probe(probe) => Ok(Outcome::Probe { peer, probe }),
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

/// Buffers of one receive call, each of which the kernel may fill with many datagrams (UDP GRO).
const RECEIVES: usize = 32;
const RECEIVE_MAX: usize = 65_536;
/// Buffers for reassembled frames that are kept from batch to batch.
const WHOLE_KEPT: usize = 64;
