//! Where an IP packet lies in a frame: the layer-3 header, the layer-4 header behind any extension headers, and
//! the packet's end (RFC 791, RFC 8200).

use super::checksum::Sum;
use super::{Eth, FrameError, ethertype};

/// IP protocol and next-header numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
}

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header without extension headers.
pub const IPV6_LEN: usize = 40;

/// The version of an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The layout of an IP packet in a frame; all offsets count from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Version, by EtherType and first nibble alike.
    pub version: IpVersion,
    /// The IP header.
    pub l3: usize,
    /// The layer-4 header.
    pub l4: usize,
    /// The end of the packet by its own length field; the frame may be longer (padding).
    pub end: usize,
    /// The layer-4 protocol.
    pub protocol: u8,
    /// Part of a fragmented packet: only a first fragment has a layer-4 header.
    pub fragment: bool,
    /// Has an IPv6 routing header: the pseudo-header's destination is not the one in the IPv6 header.
    pub routed: bool,
}

impl Ip {
    /// Reads the layout of the IP packet behind `eth`. [`FrameError::Malformed`] for another EtherType.
    pub fn parse(frame: &[u8], eth: &Eth) -> Result<Ip, FrameError> {
        match eth.ethertype {
            ethertype::IPV4 => Ip::parse_v4(frame, eth.l3),
            ethertype::IPV6 => Ip::parse_v6(frame, eth.l3),
            _ => Err(FrameError::Malformed { layer: "IP", what: "EtherType" }),
        }
    }

    fn parse_v4(frame: &[u8], l3: usize) -> Result<Ip, FrameError> {
        const LAYER: &str = "IPv4";
        let short = FrameError::Short { layer: LAYER, len: frame.len() };
        let header = frame.get(l3..).and_then(|rest| rest.first_chunk::<IPV4_LEN>()).ok_or(short)?;
        if header[0] >> 4 != 4 {
            return Err(FrameError::Malformed { layer: LAYER, what: "version" });
        }
        let header_len = usize::from(header[0] & 0xf) * 4;
        if header_len < IPV4_LEN {
            return Err(FrameError::Malformed { layer: LAYER, what: "header length" });
        }
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if total < header_len {
            return Err(FrameError::Malformed { layer: LAYER, what: "total length" });
        }
        if l3 + total > frame.len() {
            return Err(short);
        }
        let more_or_offset = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        Ok(Ip {
            version: IpVersion::V4,
            l3,
            l4: l3 + header_len,
            end: l3 + total,
            protocol: header[9],
            fragment: more_or_offset != 0,
            routed: false,
        })
    }

    fn parse_v6(frame: &[u8], l3: usize) -> Result<Ip, FrameError> {
        const LAYER: &str = "IPv6";
        let short = FrameError::Short { layer: LAYER, len: frame.len() };
        let header = frame.get(l3..).and_then(|rest| rest.first_chunk::<IPV6_LEN>()).ok_or(short)?;
        if header[0] >> 4 != 6 {
            return Err(FrameError::Malformed { layer: LAYER, what: "version" });
        }
        let end = l3 + IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if end > frame.len() {
            return Err(short);
        }
        let mut ip = Ip {
            version: IpVersion::V6,
            l3,
            l4: l3 + IPV6_LEN,
            end,
            protocol: header[6],
            fragment: false,
            routed: false,
        };
        ip.skip_extensions(frame)?;
        Ok(ip)
    }

    /// Goes on to the layer-4 header, or behind a fragment header.
    fn skip_extensions(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        const LAYER: &str = "IPv6";
        for _ in 0..MAX_EXTENSIONS {
            if !is_extension(self.protocol) {
                return Ok(());
            }
            let rest = frame[..self.end].get(self.l4..);
            let Some(&[next, units]) = rest.and_then(|rest| rest.first_chunk::<2>()) else {
                return Err(FrameError::Malformed { layer: LAYER, what: "extension header" });
            };
            let fragment = self.protocol == protocol::FRAGMENT;
            self.routed |= self.protocol == protocol::ROUTING;
            self.fragment |= fragment;
            self.l4 += if fragment { 8 } else { (usize::from(units) + 1) * 8 };
            self.protocol = next;
            if self.l4 > self.end {
                return Err(FrameError::Malformed { layer: LAYER, what: "extension header" });
            }
            if fragment {
                return Ok(());
            }
        }
        Err(FrameError::Malformed { layer: LAYER, what: "number of extension headers" })
    }

    /// The protocol and the offset of the upper-layer header of an IPv6 packet, behind all its extension headers,
    /// a first fragment's included; `Ok(None)` in a later fragment. An error where the headers cannot be followed
    /// to their end, or end before the first four bytes of ICMPv6 or UDP: RFC 7112 wants them in one fragment.
    pub fn upper_v6(frame: &[u8], eth: &Eth) -> Result<Option<(u8, usize)>, FrameError> {
        let mut ip = Ip::parse_v6(frame, eth.l3)?;
        let mut fragment = ip.fragment;
        for _ in 0..MAX_EXTENSIONS {
            if fragment && u16::from_be_bytes([frame[ip.l4 - 6], frame[ip.l4 - 5]]) & 0xfff8 != 0 {
                return Ok(None);
            }
            if !is_extension(ip.protocol) {
                let short =
                    matches!(ip.protocol, protocol::ICMPV6 | protocol::UDP) && ip.end - ip.l4 < UPPER_LEAST;
                return if short {
                    Err(FrameError::Short { layer: "IPv6 upper-layer", len: frame.len() })
                } else {
                    Ok(Some((ip.protocol, ip.l4)))
                };
            }
            ip.fragment = false;
            ip.skip_extensions(frame)?;
            fragment = ip.fragment;
        }
        Err(FrameError::Malformed { layer: "IPv6", what: "number of extension headers" })
    }

    /// No IPv4 options and no IPv6 extension headers.
    pub fn is_plain(&self) -> bool {
        self.l4 - self.l3
            == match self.version {
                IpVersion::V4 => IPV4_LEN,
                IpVersion::V6 => IPV6_LEN,
            }
    }

    /// The sum of the pseudo-header of a layer-4 packet of `len` bytes with this packet's addresses. Wrong behind
    /// a routing header ([`Ip::routed`]). `frame` is the one that was parsed.
    pub fn pseudo_header(&self, frame: &[u8], len: usize) -> Sum {
        let addresses = match self.version {
            IpVersion::V4 => self.l3 + 12..self.l3 + 20,
            IpVersion::V6 => self.l3 + 8..self.l3 + 40,
        };
        Sum::default()
            .bytes(&frame[addresses])
            .word(u16::from(self.protocol))
            .word((len >> 16) as u16)
            .word(len as u16)
    }
}

/// Whether an IPv6 next-header number is an extension header that [`Ip::parse`] looks behind.
pub fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION
    )
}

/// Bytes of an upper-layer header that tell what it is: an ICMPv6 type, UDP's ports.
const UPPER_LEAST: usize = 4;
/// More than a sane packet has; the bound keeps a hostile chain cheap.
const MAX_EXTENSIONS: usize = 8;

#[cfg(test)]
mod tests;
