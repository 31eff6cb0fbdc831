//! One super-frame into segments, as `tcp_gso_segment` and `__udp_gso_segment` do it.

use std::ops::{Deref, Range};

use crate::frame::ip::{Ip, IpVersion};
use crate::frame::transport::{TCP_CHECKSUM, Tcp, UDP_CHECKSUM, Udp, tcp_flags};
use crate::frame::{Eth, FrameError, checksum::Sum};
use crate::offload::MAX_HEADER;
use crate::vnet::{Gso, PartialCsum, VnetHdr};

/// How a super-frame is cut into segments; it does not borrow the frame, which may be overwritten meanwhile.
///
/// All segments but the last carry the same number of payload bytes ([`SplitPlan::stride`]). Each has a partial
/// checksum at [`SplitPlan::csum`] whose field holds the pseudo-header's sum with the segment's own length.
pub struct SplitPlan {
    /// The super-frame's headers; the fields that vary by segment are zero.
    template: [u8; MAX_HEADER],
    header_len: usize,
    payload_len: usize,
    stride: usize,
    max_frame: usize,
    l3: usize,
    l4: usize,
    version: IpVersion,
    /// IPv4: the sum of the header without total length, identification and checksum.
    ip_sum: u16,
    first_id: u16,
    /// The pseudo-header's sum without the length.
    pseudo_sum: u16,
    transport: Transport,
}

#[derive(Clone, Copy)]
enum Transport {
    Tcp { seq: u32, flags: u8 },
    Udp,
}

impl SplitPlan {
    /// Prepares to split `frame` (from its Ethernet header) into segments whose whole Ethernet frame is at most
    /// `max_frame` bytes.
    ///
    /// A TCP segment carries at most `vnet.gso_size` bytes, the sender's MSS, and fewer where `max_frame` asks for
    /// it. UDP datagrams are `gso_size` bytes whatever `max_frame`: see [`SplitPlan::oversized`].
    /// To segment for a device without offloads, pass `usize::MAX`. `vnet.hdr_len` is not looked at.
    pub fn new(frame: &[u8], vnet: &VnetHdr, max_frame: usize) -> Result<SplitPlan, SplitError> {
        let eth = Eth::parse(frame)?;
        let ip = Ip::parse(frame, &eth)?;
        match (vnet.gso, ip.version) {
            (Gso::None, _) => return Err(SplitError::NotSuper),
            (Gso::TcpV4 { .. }, IpVersion::V6) | (Gso::TcpV6 { .. }, IpVersion::V4) => {
                return Err(SplitError::Version);
            }
            _ => {}
        }
        if ip.routed {
            return Err(SplitError::Routed);
        }
        let (transport, payload, checksum) = if vnet.gso == Gso::UdpL4 {
            (Transport::Udp, Udp::parse(frame, &ip)?.payload(), UDP_CHECKSUM)
        } else {
            let tcp = Tcp::parse(frame, &ip)?;
            if tcp.flags() & (tcp_flags::SYN | tcp_flags::RST) != 0 {
                return Err(SplitError::Flags);
            }
            (Transport::Tcp { seq: tcp.seq(), flags: tcp.flags() }, tcp.payload(), TCP_CHECKSUM)
        };
        let csum = vnet.csum.ok_or(SplitError::FullChecksum)?;
        if usize::from(csum.start) != ip.l4 || usize::from(csum.offset) != checksum {
            return Err(SplitError::ChecksumPlace);
        }
        let header_len = payload.start;
        if header_len > MAX_HEADER {
            return Err(SplitError::Header { len: header_len });
        }
        if payload.is_empty() {
            return Err(SplitError::Empty);
        }
        let stride = match transport {
            Transport::Tcp { .. } => usize::from(vnet.gso_size).min(max_frame.saturating_sub(header_len)),
            Transport::Udp => usize::from(vnet.gso_size),
        };
        if stride == 0 {
            return Err(SplitError::NoRoom { max_frame });
        }

        let mut template = [0; MAX_HEADER];
        template[..header_len].copy_from_slice(&frame[..header_len]);
        template[ip.l4 + checksum..][..2].fill(0);
        let (mut ip_sum, mut first_id) = (0, 0);
        if ip.version == IpVersion::V4 {
            let header = &mut template[ip.l3..ip.l4];
            first_id = u16::from_be_bytes([header[4], header[5]]);
            header[2..6].fill(0);
            header[10..12].fill(0);
            ip_sum = Sum::default().bytes(header).fold();
        }
        Ok(SplitPlan {
            template,
            header_len,
            payload_len: payload.len(),
            stride,
            max_frame,
            l3: ip.l3,
            l4: ip.l4,
            version: ip.version,
            ip_sum,
            first_id,
            pseudo_sum: ip.pseudo_header(frame, 0).fold(),
            transport,
        })
    }

    /// How many segments: at least one.
    pub fn count(&self) -> usize {
        self.payload_len.div_ceil(self.stride)
    }

    /// Payload bytes in each segment but the last.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of headers, Ethernet to layer 4, in front of each segment's payload.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Segments are longer than `max_frame`: the caller must fragment them. Only UDP's can be.
    pub fn oversized(&self) -> bool {
        self.header_len + self.stride.min(self.payload_len) > self.max_frame
    }

    /// Where each segment's partial checksum is.
    pub fn csum(&self) -> PartialCsum {
        let offset = match self.transport {
            Transport::Tcp { .. } => TCP_CHECKSUM,
            Transport::Udp => UDP_CHECKSUM,
        };
        PartialCsum { start: self.l4 as u16, offset: offset as u16 }
    }

    /// Where the payload of segment `i` is in the super-frame; empty from [`SplitPlan::count`] on.
    pub fn payload_range(&self, i: usize) -> Range<usize> {
        let start = self.stride.saturating_mul(i).min(self.payload_len);
        let end = start.saturating_add(self.stride).min(self.payload_len);
        self.header_len + start..self.header_len + end
    }

    /// The length of segment `i`, headers and payload.
    pub fn segment_len(&self, i: usize) -> usize {
        self.header_len + self.payload_range(i).len()
    }

    /// Writes the headers of segment `i` to the front of `out` and returns their length,
    /// [`SplitPlan::header_len`]. The payload is at [`SplitPlan::payload_range`].
    ///
    /// # Panics
    ///
    /// If `out` is shorter than the headers.
    pub fn write_header(&self, i: usize, out: &mut [u8]) -> usize {
        let payload_len = self.payload_range(i).len();
        let header = &mut out[..self.header_len];
        header.copy_from_slice(&self.template[..self.header_len]);

        let end = self.header_len + payload_len;
        let l4_len = end - self.l4;
        match self.version {
            IpVersion::V4 => {
                let (total, id) = ((end - self.l3) as u16, self.first_id.wrapping_add(i as u16));
                let sum = Sum::default().word(self.ip_sum).word(total).word(id).finish();
                put_u16(header, self.l3 + 2, total);
                put_u16(header, self.l3 + 4, id);
                put_u16(header, self.l3 + 10, sum);
            }
            IpVersion::V6 => put_u16(header, self.l3 + 4, (end - self.l3 - 40) as u16),
        }
        let seed = Sum::default().word(self.pseudo_sum).word(l4_len as u16).fold();
        match self.transport {
            Transport::Tcp { seq, flags } => {
                let seq = seq.wrapping_add((i * self.stride) as u32);
                header[self.l4 + 4..self.l4 + 8].copy_from_slice(&seq.to_be_bytes());
                let mut not_here = 0;
                if i != 0 {
                    not_here |= tcp_flags::CWR;
                }
                if i + 1 < self.count() {
                    not_here |= tcp_flags::FIN | tcp_flags::PSH;
                }
                header[self.l4 + 13] = flags & !not_here;
                put_u16(header, self.l4 + TCP_CHECKSUM, seed);
            }
            Transport::Udp => {
                put_u16(header, self.l4 + 4, l4_len as u16);
                put_u16(header, self.l4 + UDP_CHECKSUM, seed);
            }
        }
        self.header_len
    }

    /// Makes segment `i` whole inside the super-frame itself: its headers, with `front` bytes before them for the
    /// caller to fill, overwrite the end of the payload of segment `i - 1`, which is lost. Returns where the segment
    /// now is, the front included; `None` if there is no room for that: always for the first one.
    ///
    /// # Panics
    ///
    /// If `frame` is not as long as the one that the plan was made for.
    pub fn write_in_place(&self, i: usize, front: usize, frame: &mut [u8]) -> Option<Range<usize>> {
        let payload = self.payload_range(i);
        let start = payload.start.checked_sub(self.header_len + front)?;
        if i == 0 || self.stride < front {
            return None;
        }
        self.write_header(i, &mut frame[start + front..payload.start]);
        Some(start..payload.end)
    }
}

/// A super-frame with its plan, ready to be written segment by segment.
pub struct Split<'a> {
    plan: SplitPlan,
    frame: &'a [u8],
}

impl<'a> Split<'a> {
    /// See [`SplitPlan::new`].
    pub fn new(frame: &'a [u8], vnet: &VnetHdr, max_frame: usize) -> Result<Split<'a>, SplitError> {
        SplitPlan::new(frame, vnet, max_frame).map(|plan| Split { plan, frame })
    }

    /// The payload of segment `i`; empty from [`SplitPlan::count`] on.
    pub fn payload(&self, i: usize) -> &'a [u8] {
        &self.frame[self.plan.payload_range(i)]
    }

    /// Writes segment `i` to the front of `out` and returns its length, [`SplitPlan::segment_len`].
    ///
    /// # Panics
    ///
    /// If `out` is shorter than the segment.
    pub fn write_segment(&self, i: usize, out: &mut [u8]) -> usize {
        let payload = self.payload(i);
        let header_len = self.write_header(i, out);
        out[header_len..header_len + payload.len()].copy_from_slice(payload);
        header_len + payload.len()
    }
}

impl Deref for Split<'_> {
    type Target = SplitPlan;

    fn deref(&self) -> &SplitPlan {
        &self.plan
    }
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Why a super-frame was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SplitError {
    /// The virtio-net header says `gso_type` none.
    #[error("not a super-frame")]
    NotSuper,
    /// Its headers cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The `gso_type` names the other IP version.
    #[error("super-frame whose IP version is not that of its gso_type")]
    Version,
    /// IPv6 routing header: the addresses of its pseudo-header are not in the IPv6 header.
    #[error("super-frame with an IPv6 routing header")]
    Routed,
    /// SYN or RST, which belong to one segment only.
    #[error("TCP super-frame with SYN or RST")]
    Flags,
    /// Without a partial checksum. The kernel never makes such a super-frame; to sum its segments anew would hide
    /// damage.
    #[error("super-frame with a full checksum")]
    FullChecksum,
    /// The partial checksum is not the layer-4 header's.
    #[error("super-frame whose partial checksum is not in its layer-4 header")]
    ChecksumPlace,
    /// The headers are longer than [`MAX_HEADER`].
    #[error("super-frame with {len} bytes of headers")]
    Header {
        /// Bytes of headers.
        len: usize,
    },
    /// No payload.
    #[error("super-frame without payload")]
    Empty,
    /// Not one byte of payload fits, or `gso_size` is zero.
    #[error("no room for payload in segments of {max_frame} bytes")]
    NoRoom {
        /// The limit that was asked for.
        max_frame: usize,
    },
}

#[cfg(test)]
mod tests;
