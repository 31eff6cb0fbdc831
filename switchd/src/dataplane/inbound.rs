//! Datagrams from the socket: opened in place, reassembled, and joined into runs before the switch decides.

mod carried;
mod deliver;
mod handoff;

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use nat_traversal::frame::{CHANNEL_HEADER, parse_channel, parse_data_indication};
use nat_traversal::{Protocol, RelayId, Route, canonical, classify, is_real_source};
use quinn_udp::RecvMeta;
use switch_core::fragment::{Reassembler, ReassemblyLimits};
use switch_core::frame::ecn::{Congested, Ecn, propagate};
use switch_core::ids::{PeerId, Vni};
use switch_core::seal::{Newest, OpenError};
use switch_core::switch::DropReason;
use switch_core::time::Time;
use switch_core::vnet::PartialCsum;
use switch_core::wire::{FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, Header, Lane, Message, Probe, TAG_LEN};
use tokio::sync::mpsc;

use super::core::Core;
use super::network::BATCH_FRAMES;
use super::networks::Networks;
use super::snapshot::Buckets;
use crate::underlay::{QuicDatagram, Relay, StreamMessage, StunDatagram, Underlay, ecn_of};

/// The receiving side.
pub(super) struct Inbound {
    bufs: Vec<u8>,
    meta: [RecvMeta; RECEIVES],
    /// What became of the sealed datagrams of one buffer.
    outcomes: Vec<(Range<usize>, Result<Outcome, DropReason>)>,
    /// Frames of the batch, in order.
    opened: Vec<Opened>,
    /// Frames, by network and index in `opened`, for endpoints that take no super-frames.
    singles: Vec<(Vni, usize)>,
    /// Reassembled messages of the batch.
    whole: Vec<Vec<u8>>,
    whole_used: usize,
    pub(super) reassembler: Reassembler,
    quic: mpsc::Sender<QuicDatagram>,
    stun: mpsc::Sender<StunDatagram>,
    /// STUN messages of strangers that may still be passed on in this turn.
    strangers: u32,
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

/// One datagram's circumstances.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    route: Route,
    /// The relay whose address it came from.
    relay: Option<(RelayId, &'a Relay)>,
    local: Option<IpAddr>,
    /// Of its IP header.
    outer: Ecn,
    now: Time,
    heard: Instant,
}

#[derive(Clone, Copy)]
enum Place {
    Received,
    Whole(usize),
}

/// What is done with one sealed datagram.
#[derive(Clone, Copy)]
enum Outcome {
    Frame { header: FrameHeader, peer: PeerId },
    Fragment { vni: Vni, peer: PeerId },
    Probe { peer: PeerId, probe: Probe },
}

impl Inbound {
    pub(super) fn new(quic: mpsc::Sender<QuicDatagram>, stun: mpsc::Sender<StunDatagram>) -> Inbound {
        Inbound {
            singles: Vec::with_capacity(BATCH_FRAMES),
            bufs: vec![0; RECEIVES * RECEIVE_MAX],
            meta: [RecvMeta::default(); RECEIVES],
            outcomes: Vec::with_capacity(BURST),
            opened: Vec::with_capacity(BATCH_FRAMES),
            whole: Vec::new(),
            whole_used: 0,
            reassembler: Reassembler::new(ReassemblyLimits::default()),
            quic,
            stun,
            strangers: 0,
            batches: Buckets::new([1, 2, 4, 8, 16, 32, 64, 128]),
        }
    }

    /// A turn of the worker's loop begins.
    pub(super) fn begin_turn(&mut self) {
        self.strangers = handoff::STRANGERS_PER_TURN;
    }

    /// Takes what relays sent by streams, as if it had been received.
    pub(super) fn take_streams(
        &mut self,
        underlay: &Underlay,
        streams: &mut mpsc::Receiver<StreamMessage>,
        core: &mut Core,
        networks: &mut Networks,
        mut unknown: impl FnMut(&mut Core, &mut Networks),
    ) {
        if streams.is_empty() {
            return;
        }
        let table = underlay.relays().load();
        let (now, heard) = (core.now(), Instant::now());
        for base in (0..RECEIVES).map(|i| i * RECEIVE_MAX) {
            let Ok(StreamMessage { relay, message }) = streams.try_recv() else { break };
            let Some(of) = table.get(relay).filter(|_| message.len() <= RECEIVE_MAX) else {
                core.datagram_drops.count(DropReason::BadDatagram, 1);
                core.log_drop(None, DropReason::BadDatagram, &message);
                continue;
            };
            self.bufs[base..base + message.len()].copy_from_slice(&message);
            let range = base..base + message.len();
            match unwrap(of, &self.bufs[range.clone()]) {
                Unwrapped::Inner(peer, inner) => {
                    let route = Route::Relayed(relay, peer);
                    let arrival = Arrival { route, relay: None, local: None, outer: Ecn::NotEct, now, heard };
                    let (start, end) = (base + inner.start, base + inner.end);
                    self.datagram(core, networks, &mut unknown, arrival, start, end);
                }
                Unwrapped::Bare | Unwrapped::Bad => core.datagram_drops.count(DropReason::BadDatagram, 1),
            }
        }
        self.deliver(core, networks, now);
    }

    /// Receives one batch of each lane and carries it to the bridges, the prompt one first. `Ok(false)`: the sockets
    /// are empty. `unknown` is called once when a receiver index is not known, for a session that is being added just
    /// now.
    pub(super) fn receive(
        &mut self,
        underlay: &Underlay,
        core: &mut Core,
        networks: &mut Networks,
        mut unknown: impl FnMut(&mut Core, &mut Networks),
    ) -> io::Result<bool> {
        // The bulk socket is read first, so that whatever came before is in what is read of the other one after it, and
        // all of that is carried first: a flow that turned from prompt to bulk stays in order.
        let bulk = self.fill(PROMPT_RECEIVES..RECEIVES, |bufs, meta| underlay.recv_bulk(bufs, meta))?;
        let mut prompt = Ok(0);
        for _ in 0..PROMPT_CALLS {
            prompt = self.fill(0..PROMPT_RECEIVES, |bufs, meta| underlay.recv(bufs, meta));
            let Ok(received) = prompt else { break };
            self.carry(underlay, core, networks, &mut unknown, 0..received);
            if received < PROMPT_RECEIVES {
                break;
            }
        }
        self.carry(underlay, core, networks, &mut unknown, PROMPT_RECEIVES..PROMPT_RECEIVES + bulk);
        Ok(prompt? == PROMPT_RECEIVES || bulk == RECEIVES - PROMPT_RECEIVES)
    }

    /// Has these buffers filled; how many were.
    fn fill(
        &mut self,
        which: Range<usize>,
        recv: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut chunks = self.bufs[which.start * RECEIVE_MAX..].chunks_exact_mut(RECEIVE_MAX);
        let mut iovs: [IoSliceMut<'_>; RECEIVES] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        match recv(&mut iovs[..which.len()], &mut self.meta[which]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// Carries what was received into these buffers.
    fn carry(
        &mut self,
        underlay: &Underlay,
        core: &mut Core,
        networks: &mut Networks,
        unknown: &mut impl FnMut(&mut Core, &mut Networks),
        received: Range<usize>,
    ) {
        if received.is_empty() {
            return;
        }
        let (now, heard) = (core.now(), Instant::now());
        let table = underlay.relays().load();
        for i in received {
            let meta = self.meta[i];
            let source = canonical(meta.addr);
            let arrival = Arrival {
                route: Route::Direct(source),
                relay: table.at(source),
                local: meta.dst_ip.map(|ip| ip.to_canonical()),
                outer: ecn_of(&meta),
                now,
                heard,
            };
            let all = i * RECEIVE_MAX..i * RECEIVE_MAX + meta.len;
            if arrival.local.is_some_and(|local| networks.is_inside(local)) {
                self.drop_run(core, DropReason::BadDatagram, all, meta.stride);
                continue;
            }
            let stride = meta.stride.max(1);
            self.batches.observe(meta.len.div_ceil(stride) as u64);
            if arrival.relay.is_none() && is_real_source(source) {
                self.burst(core, networks, unknown, arrival, all, stride);
            } else {
                for at in all.clone().step_by(stride) {
                    self.datagram(core, networks, unknown, arrival, at, (at + stride).min(all.end));
                }
            }
        }
        self.deliver(core, networks, now);
    }

    fn datagram(
        &mut self,
        core: &mut Core,
        networks: &mut Networks,
        unknown: &mut impl FnMut(&mut Core, &mut Networks),
        mut arrival: Arrival<'_>,
        mut start: usize,
        mut end: usize,
    ) {
        if let Some((id, relay)) = arrival.relay {
            match unwrap(relay, &self.bufs[start..end]) {
                Unwrapped::Inner(peer, inner) => {
                    arrival.route = Route::Relayed(id, peer);
                    (start, end) = (start + inner.start, start + inner.end);
                }
                Unwrapped::Bare => {}
                Unwrapped::Bad => return self.drop_datagram(core, DropReason::BadDatagram, start, end),
            }
        }
        let real = is_real_source(arrival.route.remote());
        match if real { classify(&self.bufs[start..end], false) } else { Protocol::Unknown } {
            Protocol::Sealed => {
                self.burst(core, networks, unknown, arrival, start..end, (end - start).max(1));
            }
            Protocol::Quic => self.quic(core, arrival, start, end, end - start),
            Protocol::Stun => self.stun(core, arrival, start, end),
            Protocol::ChannelData | Protocol::Unknown => {
                self.drop_datagram(core, DropReason::BadDatagram, start, end);
            }
        }
    }

    fn drop_datagram(&self, core: &mut Core, reason: DropReason, start: usize, end: usize) {
        self.drop_run(core, reason, start..end, end - start);
    }

    /// Counts datagrams that follow one another in a buffer; the first one is logged for all.
    fn drop_run(&self, core: &mut Core, reason: DropReason, run: Range<usize>, stride: usize) {
        let stride = stride.max(1);
        core.datagram_drops.count(reason, run.len().div_ceil(stride).max(1) as u64);
        let first = run.start..(run.start + stride).min(run.end);
        core.log_drop(None, reason, &self.bufs[first]);
    }

    /// Datagrams of one source in one buffer: the sealed ones are opened first, then their frames handed on.
    fn burst(
        &mut self,
        core: &mut Core,
        networks: &mut Networks,
        unknown: &mut impl FnMut(&mut Core, &mut Networks),
        arrival: Arrival<'_>,
        all: Range<usize>,
        stride: usize,
    ) {
        let mut at = all.start;
        while at < all.end {
            let end = (at + stride).min(all.end);
            match classify(&self.bufs[at..end], false) {
                Protocol::Sealed => {
                    at = self.open(core, networks, unknown, arrival, at..all.end, stride);
                    continue;
                }
                Protocol::Quic => {
                    let next = self.quic_run(at..all.end, stride);
                    self.quic(core, arrival, at, next, stride);
                    at = next;
                    continue;
                }
                Protocol::Stun => self.stun(core, arrival, at, end),
                Protocol::ChannelData | Protocol::Unknown => {
                    self.drop_datagram(core, DropReason::BadDatagram, at, end);
                }
            }
            at = end;
        }
        let outcomes = std::mem::take(&mut self.outcomes);
        let mut admitted = None;
        for (datagram, outcome) in &outcomes {
            let message = datagram.start + HEADER_LEN..datagram.end.saturating_sub(TAG_LEN);
            match *outcome {
                Ok(Outcome::Frame { header, peer }) => {
                    let start = message.start + FRAME_HEADER_LEN;
                    let (place, len) = (Place::Received, message.end - start);
                    if arrival.outer.is_news()
                        && let Err(Congested) = propagate(&mut self.bufs[start..message.end], arrival.outer)
                    {
                        self.drop_datagram(core, DropReason::Congested, start, message.end);
                        continue;
                    }
                    let opened = Opened { place, start, len, peer, csum: header.csum };
                    self.accept(core, networks, &mut admitted, header.vni, opened);
                }
                Ok(Outcome::Fragment { vni, peer }) => {
                    self.fragment(core, networks, vni, peer, message, arrival.outer, arrival.now);
                }
                Ok(Outcome::Probe { peer, probe }) => {
                    core.handle_probe(peer, arrival.route, probe, datagram.len(), arrival.heard);
                }
                Err(reason) => self.drop_datagram(core, reason, datagram.start, datagram.end),
            }
        }
        self.outcomes = outcomes;
        self.outcomes.clear();
    }

    /// Opens sealed datagrams in place, as long as they are of one session, and reads their messages. Returns where
    /// the next datagram is.
    fn open(
        &mut self,
        core: &mut Core,
        networks: &mut Networks,
        unknown: &mut impl FnMut(&mut Core, &mut Networks),
        arrival: Arrival<'_>,
        all: Range<usize>,
        stride: usize,
    ) -> usize {
        let Arrival { route, heard, .. } = arrival;
        let first = all.start..(all.start + stride).min(all.end);
        let Ok(mut header) = Header::parse(&self.bufs[first.clone()]) else {
            self.outcomes.push((first.clone(), Err(DropReason::BadDatagram)));
            return first.end;
        };
        if core.peers.session(header.receiver).is_none() {
            unknown(core, networks);
        }
        let Some((session, of)) = core.peers.session(header.receiver) else {
            self.outcomes.push((first.clone(), Err(DropReason::UnknownReceiver)));
            return first.end;
        };
        let (peer, receiver) = (session.peer, header.receiver);
        core.bulk |= header.lane == Lane::Bulk;
        let (mut known, mut learned, mut frames) = (false, false, false);
        let mut datagram = first;
        let next = loop {
            let len = datagram.len() as u64;
            let outcome = match session.opener.open(&header, &mut self.bufs[datagram.clone()]) {
                Ok((message, newest)) => {
                    of.counters.datagrams_from_peer += 1;
                    of.counters.bytes_from_peer += len;
                    if !known {
                        of.counters.last_heard = Some(heard);
                        learned |= of.paths.handle_datagram(route, newest == Newest(true), heard);
                        known = of.paths.has_route(route);
                    }
                    Message::parse(message).map_err(|_| DropReason::BadInnerHeader).map(|message| {
                        match message {
                            Message::Frame(header, _) => Outcome::Frame { header, peer },
                            Message::Fragment(vni, ..) => Outcome::Fragment { vni, peer },
                            Message::Probe(probe) => Outcome::Probe { peer, probe },
                        }
                    })
                }
                Err(OpenError::Replayed) => {
                    of.counters.replays_dropped += 1;
                    Err(DropReason::Replayed)
                }
                Err(OpenError::BadTag) => Err(DropReason::BadTag),
            };
            frames |= matches!(outcome, Ok(Outcome::Frame { .. } | Outcome::Fragment { .. }));
            let end = datagram.end;
            self.outcomes.push((datagram, outcome));
            datagram = end..(end + stride).min(all.end);
            match Header::parse(&self.bufs[datagram.clone()]) {
                Ok(following) if following.receiver == receiver => header = following,
                _ => break end,
            }
        };
        if frames && !std::mem::replace(&mut of.flows, true) {
            core.paths.flows.push(peer);
        }
        if learned {
            core.stir(peer);
        }
        next
    }
}

/// What came from a relay's address.
enum Unwrapped {
    /// A datagram from beyond the relay.
    Inner(std::net::SocketAddr, std::ops::Range<usize>),
    /// The relay's own word.
    Bare,
    /// Channel data of no channel of ours, or not whole.
    Bad,
}

fn unwrap(relay: &Relay, datagram: &[u8]) -> Unwrapped {
    match classify(datagram, true) {
        Protocol::ChannelData => {
            let inner = parse_channel(datagram).and_then(|(channel, payload)| {
                let range = CHANNEL_HEADER..CHANNEL_HEADER + payload.len();
                Some(Unwrapped::Inner(relay.peer(channel)?, range))
            });
            inner.unwrap_or(Unwrapped::Bad)
        }
        Protocol::Stun => match parse_data_indication(datagram) {
            Some((peer, range)) => Unwrapped::Inner(canonical(peer), range),
            None => Unwrapped::Bare,
        },
        Protocol::Sealed | Protocol::Quic | Protocol::Unknown => Unwrapped::Bare,
    }
}

/// Buffers, each of which the kernel may fill with many datagrams (UDP GRO): those of one receive call on the prompt
/// lane's socket, and behind them those of one on the bulk lane's, few, as they hold up the next look at the other.
const RECEIVES: usize = PROMPT_RECEIVES + 4;
const PROMPT_RECEIVES: usize = 32;
/// Calls on the prompt lane's socket before bulk has its turn, whatever floods it.
const PROMPT_CALLS: usize = 8;
const RECEIVE_MAX: usize = 65_536;
/// Datagrams that the kernel puts into one buffer (`UDP_GRO_CNT_MAX`).
const BURST: usize = 64;
