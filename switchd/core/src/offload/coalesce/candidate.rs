//! What a frame is to the coalescer.

use crate::frame::checksum::Sum;
use crate::frame::ip::{Ip, IpVersion, protocol};
use crate::frame::transport::{TCP_CHECKSUM, Tcp, UDP_CHECKSUM, UDP_LEN, Udp, tcp_flags};
use crate::frame::{Eth, ethertype};
use crate::ids::Vni;
use crate::offload::MAX_HEADER;
use crate::offload::coalesce::{Origin, Piece};
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

/// A frame that may begin or continue a run: plain IP, data, and a checksum that is partial or right.
pub(super) struct Candidate {
    pub(super) protocol: Protocol,
    pub(super) version: IpVersion,
    pub(super) l3: usize,
    pub(super) l4: usize,
    /// Offset of the payload.
    pub(super) header_len: usize,
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
pub(super) fn kind(frame: &[u8], origin: Origin, csum: Option<PartialCsum>, uso: bool) -> Kind {
    let Ok(eth) = Eth::parse(frame) else { return Kind::Opaque };
    if !matches!(eth.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return Kind::Opaque;
    }
    let Ok(ip) = Ip::parse(frame, &eth) else { return Kind::Opaque };
    if ip.fragment || ip.routed {
        return Kind::Opaque;
    }
    let (protocol, checksum, payload, tcp) = match ip.protocol {
        protocol::TCP => {
            let Ok(tcp) = Tcp::parse(frame, &ip) else { return Kind::Opaque };
            (Protocol::Tcp, TCP_CHECKSUM, tcp.payload(), Some(tcp))
        }
        protocol::UDP => {
            let Ok(udp) = Udp::parse(frame, &ip) else { return Kind::Opaque };
            (Protocol::Udp, UDP_CHECKSUM, udp.payload(), None)
        }
        _ => return Kind::Opaque,
    };
    let flow = Flow::new(frame, &ip, origin.vni, protocol);
    let joinable = ip.is_plain()
        && !payload.is_empty()
        && payload.start <= MAX_HEADER
        && match &tcp {
            Some(tcp) => {
                let never = tcp_flags::SYN | tcp_flags::RST | tcp_flags::URG;
                tcp.flags() & (never | tcp_flags::ACK) == tcp_flags::ACK
            }
            None => uso,
        };
    if !joinable || !checksums_fit(frame, &ip, csum, checksum) {
        return Kind::Lone(flow);
    }
    let flags = tcp.as_ref().map_or(0, Tcp::flags);
    let last_flags = flags & LAST_FLAGS;
    let candidate = Candidate {
        protocol,
        version: ip.version,
        l3: ip.l3,
        l4: ip.l4,
        header_len: payload.start,
        end: payload.end,
        seq: tcp.as_ref().map_or(0, Tcp::seq),
        id: if ip.version == IpVersion::V4 { word(frame, ip.l3 + 4) } else { 0 },
        partial: csum.is_some(),
        last: last_flags != 0,
        last_flags,
        cwr: flags & tcp_flags::CWR != 0,
    };
    Kind::Candidate(flow, candidate)
}

/// The IPv4 header's checksum is right, and that of layer 4 is partial at its usual place, or right.
fn checksums_fit(frame: &[u8], ip: &Ip, csum: Option<PartialCsum>, checksum: usize) -> bool {
    if ip.version == IpVersion::V4 && Sum::default().bytes(&frame[ip.l3..ip.l4]).fold() != 0xffff {
        return false;
    }
    match csum {
        Some(csum) => usize::from(csum.start) == ip.l4 && usize::from(csum.offset) == checksum,
        None => {
            // UDP without a checksum must arrive without one.
            let none = checksum == UDP_CHECKSUM && word(frame, ip.l4 + checksum) == 0;
            let sum = || ip.pseudo_header(frame, ip.end - ip.l4).bytes(&frame[ip.l4..ip.end]).fold();
            !none && sum() == 0xffff
        }
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
        self.end - self.header_len
    }

    /// The payload.
    pub(super) fn piece(&self, index: u32) -> Piece {
        Piece { index, start: self.header_len as u32, end: self.end as u32 }
    }

    /// The IPv4 identification of the frame that this is.
    pub(super) fn ids(&self, frame: &[u8]) -> Ids {
        match self.version {
            IpVersion::V6 => Ids::None,
            IpVersion::V4 => Ids::First { id: self.id, df: frame[self.l3 + 6] & DONT_FRAGMENT != 0 },
        }
    }

    /// Whether two headers of this layout are equal but for what may differ inside of a run: lengths,
    /// identification, checksums, sequence number, FIN, PSH and CWR.
    pub(super) fn same_headers(&self, a: &[u8], b: &[u8]) -> bool {
        let (l3, l4) = (self.l3, self.l4);
        let same = |from: usize, to: usize| a[from..to] == b[from..to];
        let ip = match self.version {
            // Version to TOS; flags and offset; TTL and protocol; addresses.
            IpVersion::V4 => same(0, l3 + 2) && same(l3 + 6, l3 + 10) && same(l3 + 12, l4),
            // Version, traffic class and flow label; next header, hop limit, addresses.
            IpVersion::V6 => same(0, l3 + 4) && same(l3 + 6, l4),
        };
        ip && match self.protocol {
            // Ports; acknowledgment and data offset; flags; window; urgent pointer and options.
            Protocol::Tcp => {
                same(l4, l4 + 4)
                    && same(l4 + 8, l4 + 13)
                    && (a[l4 + 13] ^ b[l4 + 13]) & !(LAST_FLAGS | tcp_flags::CWR) == 0
                    && same(l4 + 14, l4 + 16)
                    && same(l4 + 18, self.header_len)
            }
            Protocol::Udp => same(l4, l4 + UDP_LEN - 4),
        }
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
