//! What a frame is to the coalescer.

use crate::frame::checksum::Sum;
use crate::frame::ip::{Ip, IpVersion, protocol};
use crate::frame::transport::{TCP_CHECKSUM, Tcp, UDP_CHECKSUM, UDP_LEN, Udp, tcp_flags};
use crate::frame::{Eth, ethertype};
use crate::ids::Vni;
use crate::offload::MAX_HEADER;
use crate::offload::coalesce::{FrameSource, Piece};
use crate::vnet::PartialCsum;

/// How a frame takes part.
pub(super) enum Kind {
    /// Its flow is not known: it keeps its place among all frames.
    Opaque,
    /// Of a flow, and never part of a run: it keeps its place in its flow.
    Lone(Flow),
    /// May begin or continue a run.
    Candidate(Flow, Candidate),
}

/// What frames must share to be of one flow. Ethernet addresses and tags are left out: frames that differ there do
/// not join, but keep their order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    addresses: [u8; 32],
    ports: [u8; 4],
    vni: Vni,
    version: IpVersion,
    protocol: Protocol,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(super) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
        }
    }
}

/// Where the headers of a frame that may coalesce lie: plain IP, TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) protocol: Protocol,
    pub(super) version: IpVersion,
    pub(super) l3: usize,
    pub(super) l4: usize,
    /// Offset of the payload.
    pub(super) header_len: usize,
}

/// A frame that may begin or continue a run: plain IP, data, and a checksum that is partial or right.
pub(super) struct Candidate {
    pub(super) layout: Layout,
    /// End of the payload; padding may follow.
    pub(super) end: usize,
    pub(super) seq: u32,
    pub(super) id: u16,
    pub(super) partial: bool,
    /// Nothing may follow it in a run.
    pub(super) last: bool,
    /// FIN and PSH, which a run takes from its last frame.
    pub(super) last_flags: u8,
    /// CWR, which only the first frame of a run may carry.
    pub(super) cwr: bool,
}

/// Classifies `frame`. `uso`: UDP may coalesce.
pub(super) fn kind(frame: &[u8], source: FrameSource, csum: Option<PartialCsum>, uso: bool) -> Kind {
    let Ok(eth) = Eth::parse(frame) else { return Kind::Opaque };
    if !matches!(eth.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return Kind::Opaque;
    }
    let Ok(ip) = Ip::parse(frame, &eth) else { return Kind::Opaque };
    if ip.fragment || ip.routed {
        return Kind::Opaque;
    }
    let (protocol, payload, may_join) = match ip.protocol {
        protocol::TCP => {
            let Ok(tcp) = Tcp::parse(frame, &ip) else { return Kind::Opaque };
            let never = tcp_flags::SYN | tcp_flags::RST | tcp_flags::URG;
            let data = tcp.flags() & (never | tcp_flags::ACK) == tcp_flags::ACK;
            (Protocol::Tcp, tcp.payload(), data)
        }
        protocol::UDP => {
            let Ok(udp) = Udp::parse(frame, &ip) else { return Kind::Opaque };
            (Protocol::Udp, udp.payload(), uso)
        }
        _ => return Kind::Opaque,
    };
    let flow = Flow::new(frame, &ip, source.vni, protocol);
    if !may_join || !ip.is_plain() || payload.start > MAX_HEADER {
        return Kind::Lone(flow);
    }
    let layout = Layout { protocol, version: ip.version, l3: ip.l3, l4: ip.l4, header_len: payload.start };
    match layout.candidate(frame, csum) {
        Some(candidate) => Kind::Candidate(flow, candidate),
        None => Kind::Lone(flow),
    }
}

impl Layout {
    /// Of a frame that does not coalesce.
    pub(super) const NONE: Layout =
        Layout { protocol: Protocol::Udp, version: IpVersion::V4, l3: 0, l4: 0, header_len: 0 };

    /// The frame of this layout, if it has data, true lengths, and checksums that are right or partial at the usual
    /// place. It has all the headers.
    pub(super) fn candidate(&self, frame: &[u8], csum: Option<PartialCsum>) -> Option<Candidate> {
        let Layout { protocol, version, l3, l4, header_len } = *self;
        let (end, id) = match version {
            IpVersion::V4 => {
                if Sum::default().bytes(&frame[l3..l4]).fold() != 0xffff {
                    return None;
                }
                (l3 + usize::from(word(frame, l3 + 2)), word(frame, l3 + 4))
            }
            IpVersion::V6 => (l4 + usize::from(word(frame, l3 + 4)), 0),
        };
        if end <= header_len || end > frame.len() {
            return None;
        }
        let (checksum, seq, flags) = match protocol {
            Protocol::Tcp => {
                let seq = u32::from(word(frame, l4 + 4)) << 16 | u32::from(word(frame, l4 + 6));
                (TCP_CHECKSUM, seq, frame[l4 + 13])
            }
            Protocol::Udp if usize::from(word(frame, l4 + 4)) != end - l4 => return None,
            Protocol::Udp => (UDP_CHECKSUM, 0, 0),
        };
        match csum {
            Some(csum) if usize::from(csum.start) != l4 || usize::from(csum.offset) != checksum => {
                return None;
            }
            Some(_) => {}
            // UDP without a checksum must arrive without one.
            None if protocol == Protocol::Udp && word(frame, l4 + checksum) == 0 => return None,
            None => {
                let addresses = match version {
                    IpVersion::V4 => l3 + 12..l3 + 20,
                    IpVersion::V6 => l3 + 8..l3 + 40,
                };
                let pseudo = Sum::default().bytes(&frame[addresses]).word(protocol.number().into());
                if pseudo.word((end - l4) as u16).bytes(&frame[l4..end]).fold() != 0xffff {
                    return None;
                }
            }
        }
        let last_flags = flags & LAST_FLAGS;
        Some(Candidate {
            layout: *self,
            end,
            seq,
            id,
            partial: csum.is_some(),
            last: last_flags != 0,
            last_flags,
            cwr: flags & tcp_flags::CWR != 0,
        })
    }
}

impl Flow {
    /// `ip` was parsed from `frame` with a transport header behind it.
    fn new(frame: &[u8], ip: &Ip, vni: Vni, protocol: Protocol) -> Flow {
        let mut addresses = [0; 32];
        match ip.version {
            IpVersion::V4 => addresses[..8].copy_from_slice(&frame[ip.l3 + 12..ip.l3 + 20]),
            IpVersion::V6 => addresses.copy_from_slice(&frame[ip.l3 + 8..ip.l3 + 40]),
        }
        let ports = [frame[ip.l4], frame[ip.l4 + 1], frame[ip.l4 + 2], frame[ip.l4 + 3]];
        Flow { addresses, ports, vni, version: ip.version, protocol }
    }
}

impl Candidate {
    pub(super) fn payload_len(&self) -> usize {
        self.end - self.layout.header_len
    }

    /// The payload.
    pub(super) fn piece(&self, index: u32) -> Piece {
        Piece { index, start: self.layout.header_len as u32, end: self.end as u32 }
    }

    /// The IPv4 identification of the frame that this is.
    pub(super) fn ids(&self, frame: &[u8]) -> Ids {
        match self.layout.version {
            IpVersion::V6 => Ids::None,
            IpVersion::V4 => Ids::First { id: self.id, df: frame[self.layout.l3 + 6] & DONT_FRAGMENT != 0 },
        }
    }

    /// Where the headers of a run's frames are equal: all but lengths, identification, checksums, sequence number,
    /// FIN, PSH and CWR.
    pub(super) fn mask(&self) -> Mask {
        let Layout { protocol, version, l3, l4, header_len } = self.layout;
        let mut bits = [0; MAX_HEADER];
        bits[..header_len].fill(0xff);
        match version {
            IpVersion::V4 => {
                bits[l3 + 2..l3 + 6].fill(0);
                bits[l3 + 10..l3 + 12].fill(0);
            }
            IpVersion::V6 => bits[l3 + 4..l3 + 6].fill(0),
        }
        match protocol {
            Protocol::Tcp => {
                bits[l4 + 4..l4 + 8].fill(0);
                bits[l4 + 13] = !(LAST_FLAGS | tcp_flags::CWR);
                bits[l4 + TCP_CHECKSUM..l4 + TCP_CHECKSUM + 2].fill(0);
            }
            Protocol::Udp => bits[l4 + 4..l4 + UDP_LEN].fill(0),
        }
        Mask { bits, header_len }
    }
}

/// The bits in which the headers of a run's frames are equal.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    bits: [u8; MAX_HEADER],
    header_len: usize,
}

impl Mask {
    /// Whether `frame` has the headers of `run`.
    pub(super) fn equal(&self, frame: &[u8], run: &[u8; MAX_HEADER]) -> bool {
        if frame.len() < self.header_len {
            return false;
        }
        // Whole 16-byte blocks, for the vector unit; the mask is zero behind the headers.
        let len = self.header_len.next_multiple_of(16).min(frame.len());
        let differs = |((a, b), mask): ((&u8, &u8), &u8)| (a ^ b) & mask;
        frame[..len].iter().zip(run).zip(&self.bits).map(differs).fold(0, |all, bits| all | bits) == 0
    }
}

/// How the IPv4 identifications of a run go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// IPv6.
    None,
    /// One frame so far.
    First { id: u16, df: bool },
    /// Each one more than the one before, from `first`.
    Incrementing { first: u16 },
    /// All the same. Only with DF, where the field means nothing (RFC 6864).
    Fixed { id: u16 },
}

impl Ids {
    /// Whether the frame after the first `count` may have the identification in `next`.
    pub(super) fn continued_by(self, next: Ids, count: u16) -> bool {
        match (self, next) {
            (Ids::None, Ids::None) => true,
            (Ids::First { id: first, df }, Ids::First { id, .. }) => {
                id == first.wrapping_add(1) || (df && id == first)
            }
            (Ids::Incrementing { first }, Ids::First { id, .. }) => id == first.wrapping_add(count),
            (Ids::Fixed { id: fixed }, Ids::First { id, .. }) => id == fixed,
            _ => false,
        }
    }

    /// The rule that the second identification of a run sets.
    pub(super) fn settle(self, second: u16) -> Ids {
        match self {
            Ids::First { id, .. } if id == second => Ids::Fixed { id },
            Ids::First { id, .. } => Ids::Incrementing { first: id },
            other => other,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

const LAST_FLAGS: u8 = tcp_flags::FIN | tcp_flags::PSH;
const DONT_FRAGMENT: u8 = 0x40;
