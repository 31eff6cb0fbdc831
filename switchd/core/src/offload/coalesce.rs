//! Segments into super-frames, by the kernel's GRO rules (`inet_gro_receive`, `tcp_gro_receive`,
//! `udp_gro_receive_segment`), stricter where that costs nothing.

mod candidate;
mod growth;

use crate::frame::ip::IpVersion;
use crate::frame::transport::{TCP_CHECKSUM, UDP_CHECKSUM};
use crate::ids::{PeerId, Vni};
use crate::vnet::{Gso, PartialCsum, VnetHdr};
use candidate::{Candidate, Flow, Kind, Mask, Protocol, kind};
use growth::RunState;

/// The most frames in one run: what the kernel takes as one UDP super-frame (`UDP_MAX_SEGMENTS`).
pub const MAX_SEGMENTS: usize = 128;

/// Builds runs out of the frames of one batch, in the order of their arrival.
///
/// The frames stay in the caller's buffers: give each with [`Coalescer::push`] under an index of the caller's
/// choice, then take the runs from [`Coalescer::finish`]. A run's frames are named by those indices. The state is
/// kept from batch to batch, so that nothing is allocated once the largest batch has been seen.
///
/// Order: frames of one TCP or UDP flow leave in the order in which they came; so does every other frame, against
/// all that came before and after it. Flows may pass one another.
pub struct Coalescer {
    runs: Vec<RunState>,
    pieces: Vec<Link>,
    /// Runs that may still grow, at most one for each flow.
    open: [Option<Open>; MAX_OPEN],
    /// The slot of `open` that was used last, where the next frame most likely belongs.
    newest: usize,
    uso: bool,
}

/// Where a frame came from. Frames of different sources never share a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameSource {
    /// The network.
    pub vni: Vni,
    /// The peer.
    pub peer: PeerId,
}

/// A slice of one of the caller's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The index that the frame was pushed under.
    pub index: u32,
    /// First byte, from the frame's Ethernet header.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Coalescer {
    /// For batches of up to `frames` frames; a longer one allocates. `uso`: the endpoint takes UDP super-frames.
    pub fn new(frames: usize, uso: bool) -> Coalescer {
        Coalescer {
            runs: Vec::with_capacity(frames),
            pieces: Vec::with_capacity(frames),
            open: [None; MAX_OPEN],
            newest: 0,
            uso,
        }
    }

    /// Adds the next frame of the batch, whole from its Ethernet header. `csum`: its checksum is partial.
    /// `uso`: UDP may join; TCP does not ask.
    pub fn push(
        &mut self,
        source: FrameSource,
        index: u32,
        frame: &[u8],
        csum: Option<PartialCsum>,
        uso: bool,
    ) {
        let uso = uso && self.uso;
        if self.continue_newest(source, index, frame, csum, uso) {
            return;
        }
        let (flow, candidate) = match kind(frame, source, csum, uso) {
            Kind::Opaque => {
                self.open = [None; MAX_OPEN];
                self.runs.push(RunState::single(source, index, frame, csum));
                return;
            }
            Kind::Lone(flow) => (flow, None),
            Kind::Candidate(flow, candidate) => (flow, Some(candidate)),
        };
        let slot = self.slot_of(&flow);
        if let (Some(slot), Some(candidate)) = (slot, &candidate)
            && let Some(open) = self.open[slot]
            && self.runs[open.run as usize].accepts(source, frame, candidate)
            && open.mask.equal(frame, &self.runs[open.run as usize].header)
        {
            self.join(slot, open.run, index, candidate);
            return;
        }
        let run = self.runs.len() as u32;
        match candidate {
            Some(candidate) => {
                let mut state = RunState::first(source, index, frame, csum, &candidate);
                state.head = self.pieces.len() as u32;
                state.tail = state.head;
                self.pieces.push(Link { piece: candidate.piece(index), next: NO_LINK });
                let slot = slot.unwrap_or_else(|| self.free_slot());
                self.open[slot] = state.may_grow.then(|| Open { flow, run, mask: candidate.mask() });
                self.newest = slot;
                self.runs.push(state);
            }
            None => {
                if let Some(slot) = slot {
                    self.open[slot] = None;
                }
                self.runs.push(RunState::single(source, index, frame, csum));
            }
        }
    }

    /// Ends the batch. The returned iterator forgets it when dropped, taken or not.
    pub fn finish(&mut self) -> Batch<'_> {
        Batch { coalescer: self, next: 0 }
    }

    fn slot_of(&self, flow: &Flow) -> Option<usize> {
        let holds = |slot: &Option<Open>| slot.as_ref().is_some_and(|open| open.flow == *flow);
        if holds(&self.open[self.newest]) {
            return Some(self.newest);
        }
        self.open.iter().position(holds)
    }

    /// An empty slot, or the next one in turn: its run then grows no more.
    fn free_slot(&self) -> usize {
        self.open.iter().position(Option::is_none).unwrap_or((self.newest + 1) % MAX_OPEN)
    }

    /// The common case, in which nothing has to be parsed: the frame has the headers of the run that grew last.
    fn continue_newest(
        &mut self,
        source: FrameSource,
        index: u32,
        frame: &[u8],
        csum: Option<PartialCsum>,
        uso: bool,
    ) -> bool {
        let Some(open) = &self.open[self.newest] else { return false };
        let run = &self.runs[open.run as usize];
        if !open.mask.equal(frame, &run.header) || (run.layout.protocol == Protocol::Udp && !uso) {
            return false;
        }
        let Some(candidate) = run.layout.candidate(frame, csum) else { return false };
        if !run.accepts(source, frame, &candidate) {
            return false;
        }
        self.join(self.newest, open.run, index, &candidate);
        true
    }

    /// Appends a frame that the run in `slot` accepts.
    fn join(&mut self, slot: usize, run: u32, index: u32, candidate: &Candidate) {
        let link = self.pieces.len() as u32;
        self.pieces.push(Link { piece: candidate.piece(index), next: NO_LINK });
        let run = &mut self.runs[run as usize];
        self.pieces[run.tail as usize].next = link;
        run.tail = link;
        run.join(candidate);
        self.newest = slot;
        if !run.may_grow {
            self.open[slot] = None;
        }
    }
}

/// The runs of a batch, in order.
pub struct Batch<'a> {
    coalescer: &'a mut Coalescer,
    next: usize,
}

impl Batch<'_> {
    /// The next run; `None` after the last.
    pub fn next_run(&mut self) -> Option<Run<'_>> {
        let state = self.coalescer.runs.get_mut(self.next)?;
        self.next += 1;
        if state.segments > 1 {
            state.patch();
        }
        Some(Run { state, pieces: &self.coalescer.pieces })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.coalescer.runs.clear();
        self.coalescer.pieces.clear();
        self.coalescer.open = [None; MAX_OPEN];
    }
}

/// One frame, or several that make a super-frame.
///
/// Of a single frame nothing was copied: deliver the caller's frame [`Run::index`], untouched. A super-frame is
/// [`Run::header_mut`] followed by the bytes of [`Run::payloads`].
pub struct Run<'a> {
    state: &'a mut RunState,
    pieces: &'a [Link],
}

impl<'a> Run<'a> {
    /// Where its frames came from.
    pub fn source(&self) -> FrameSource {
        self.state.source
    }

    /// The index of its first frame.
    pub fn index(&self) -> u32 {
        self.state.whole.index
    }

    /// How many frames.
    pub fn segments(&self) -> usize {
        usize::from(self.state.segments)
    }

    /// One frame, untouched.
    pub fn is_single(&self) -> bool {
        self.state.segments == 1
    }

    /// The length of the whole frame.
    pub fn frame_len(&self) -> usize {
        if self.is_single() {
            self.state.whole.end as usize
        } else {
            self.state.layout.header_len + self.state.payload_len
        }
    }

    /// The virtio-net header to write in front.
    pub fn vnet(&self) -> VnetHdr {
        let state = &*self.state;
        if self.is_single() {
            return VnetHdr { csum: state.csum, ..VnetHdr::default() };
        }
        let (gso, offset) = match (state.layout.protocol, state.layout.version) {
            (Protocol::Tcp, IpVersion::V4) => (Gso::TcpV4 { ecn: state.cwr }, TCP_CHECKSUM),
            (Protocol::Tcp, IpVersion::V6) => (Gso::TcpV6 { ecn: state.cwr }, TCP_CHECKSUM),
            (Protocol::Udp, _) => (Gso::UdpL4, UDP_CHECKSUM),
        };
        VnetHdr {
            csum: Some(PartialCsum { start: state.layout.l4 as u16, offset: offset as u16 }),
            data_valid: false,
            gso,
            hdr_len: state.layout.header_len as u16,
            gso_size: state.stride as u16,
        }
    }

    /// A super-frame's headers, Ethernet to layer 4, for the switch to rewrite and for `writev`. Empty for a single
    /// frame.
    pub fn header_mut(&mut self) -> &mut [u8] {
        let len = if self.is_single() { 0 } else { self.state.layout.header_len };
        &mut self.state.header[..len]
    }

    /// [`Run::header_mut`], to read.
    pub fn header(&self) -> &[u8] {
        let len = if self.is_single() { 0 } else { self.state.layout.header_len };
        &self.state.header[..len]
    }

    /// A super-frame's payload, frame by frame; for a single frame, the whole of it.
    pub fn payloads(&self) -> impl Iterator<Item = Piece> + use<'a> {
        let pieces = self.pieces;
        let mut single = self.is_single().then_some(self.state.whole);
        let mut next = if self.is_single() { NO_LINK } else { self.state.head };
        std::iter::from_fn(move || {
            if let Some(whole) = single.take() {
                return Some(whole);
            }
            let link = pieces.get(next as usize)?;
            next = link.next;
            Some(link.piece)
        })
    }
}

#[derive(Clone, Copy)]
struct Open {
    flow: Flow,
    run: u32,
    /// Where the next frame's headers must be the run's.
    mask: Mask,
}

/// A run's frames form a list, because frames of other runs may stand between them.
struct Link {
    piece: Piece,
    next: u32,
}

const NO_LINK: u32 = u32::MAX;

/// Flows that are coalesced at a time. The kernel keeps eight a hash bucket (`MAX_GRO_SKBS`).
const MAX_OPEN: usize = 8;

#[cfg(test)]
mod tests;
