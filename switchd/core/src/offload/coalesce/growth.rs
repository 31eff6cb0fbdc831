//! A run, from its first frame to the headers of the super-frame.

use super::candidate::{Candidate, Ids, Layout, Protocol};
use super::{FrameSource, MAX_SEGMENTS, NO_LINK, Piece};
use crate::frame::checksum::Sum;
use crate::frame::ip::{IPV6_LEN, IpVersion};
use crate::frame::transport::{TCP_CHECKSUM, UDP_CHECKSUM};
use crate::offload::{MAX_HEADER, MAX_SUPER_FRAME};
use crate::vnet::PartialCsum;

/// A run as it grows.
pub(super) struct RunState {
    pub(super) source: FrameSource,
    /// The first frame, whole.
    pub(super) whole: Piece,
    pub(super) csum: Option<PartialCsum>,
    pub(super) head: u32,
    pub(super) tail: u32,
    pub(super) segments: u16,
    pub(super) may_grow: bool,
    /// The fields from here on are a candidate's only.
    pub(super) layout: Layout,
    pub(super) stride: usize,
    pub(super) payload_len: usize,
    next_seq: u32,
    ids: Ids,
    pub(super) cwr: bool,
    last_flags: u8,
    pub(super) header: [u8; MAX_HEADER],
}

impl RunState {
    pub(super) fn single(
        source: FrameSource,
        index: u32,
        frame: &[u8],
        csum: Option<PartialCsum>,
    ) -> RunState {
        RunState {
            source,
            whole: Piece { index, start: 0, end: frame.len() as u32 },
            csum,
            head: NO_LINK,
            tail: NO_LINK,
            segments: 1,
            may_grow: false,
            layout: Layout::NONE,
            stride: 0,
            payload_len: 0,
            next_seq: 0,
            ids: Ids::None,
            cwr: false,
            last_flags: 0,
            header: [0; MAX_HEADER],
        }
    }

    pub(super) fn first(
        source: FrameSource,
        index: u32,
        frame: &[u8],
        csum: Option<PartialCsum>,
        candidate: &Candidate,
    ) -> RunState {
        let mut run = RunState::single(source, index, frame, csum);
        run.may_grow = !candidate.last;
        run.layout = candidate.layout;
        run.stride = candidate.payload_len();
        run.payload_len = run.stride;
        run.next_seq = candidate.seq.wrapping_add(run.stride as u32);
        run.ids = candidate.ids(frame);
        run.cwr = candidate.cwr;
        run.last_flags = candidate.last_flags;
        let header_len = candidate.layout.header_len;
        run.header[..header_len].copy_from_slice(&frame[..header_len]);
        run
    }

    /// Whether a frame of the run's flow, whose headers are equal where they must be, continues it.
    pub(super) fn accepts(&self, source: FrameSource, frame: &[u8], c: &Candidate) -> bool {
        self.source == source
            && c.layout == self.layout
            && c.payload_len() <= self.stride
            && self.csum.is_some() == c.partial
            && usize::from(self.segments) < MAX_SEGMENTS
            && self.layout.header_len + self.payload_len + c.payload_len() <= MAX_SUPER_FRAME
            && !c.cwr
            && (c.layout.protocol == Protocol::Udp || c.seq == self.next_seq)
            && self.ids.continued_by(c.ids(frame), self.segments)
    }

    pub(super) fn join(&mut self, c: &Candidate) {
        if self.segments == 1 {
            self.ids = self.ids.settle(c.id);
        }
        self.segments += 1;
        self.payload_len += c.payload_len();
        self.next_seq = self.next_seq.wrapping_add(c.payload_len() as u32);
        self.last_flags = c.last_flags;
        self.may_grow = !c.last && c.payload_len() == self.stride;
    }

    /// Makes the first frame's headers those of the super-frame.
    pub(super) fn patch(&mut self) {
        let Layout { protocol, version, l3, l4, header_len } = self.layout;
        let end = header_len + self.payload_len;
        let l4_len = (end - l4) as u16;
        let header = &mut self.header;
        let addresses = match version {
            IpVersion::V4 => {
                header[l3 + 2..l3 + 4].copy_from_slice(&((end - l3) as u16).to_be_bytes());
                header[l3 + 10..l3 + 12].fill(0);
                let sum = Sum::default().bytes(&header[l3..l4]).finish();
                header[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
                &header[l3 + 12..l3 + 20]
            }
            IpVersion::V6 => {
                header[l3 + 4..l3 + 6].copy_from_slice(&((end - l3 - IPV6_LEN) as u16).to_be_bytes());
                &header[l3 + 8..l3 + 40]
            }
        };
        let seed = Sum::default().bytes(addresses).word(u16::from(protocol.number())).word(l4_len).fold();
        let checksum = match protocol {
            Protocol::Tcp => {
                header[l4 + 13] |= self.last_flags;
                TCP_CHECKSUM
            }
            Protocol::Udp => {
                header[l4 + 4..l4 + 6].copy_from_slice(&l4_len.to_be_bytes());
                UDP_CHECKSUM
            }
        };
        header[l4 + checksum..l4 + checksum + 2].copy_from_slice(&seed.to_be_bytes());
    }
}
