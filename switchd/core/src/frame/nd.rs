//! IPv6 neighbour discovery (RFC 4861) over Ethernet (RFC 2464).

use std::net::Ipv6Addr;

use super::checksum::{self, Sum};
use super::ip::{self, Ip, protocol::ICMPV6};
use super::l3::ipv6;
use super::{Eth, FrameError, ethertype};
use crate::ids::Mac;

/// The kind of message, with its ICMPv6 type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NdKind {
    /// Router solicitation, 133.
    RouterSolicit,
    /// Router advertisement, 134; `lifetime` 0: not a default router.
    RouterAdvert {
        /// Router lifetime in seconds.
        lifetime: u16,
    },
    /// Neighbour solicitation, 135.
    Solicit {
        /// The address asked for.
        target: Ipv6Addr,
    },
    /// Neighbour advertisement, 136.
    Advert {
        /// The address told of.
        target: Ipv6Addr,
        /// R flag.
        router: bool,
        /// S flag.
        solicited: bool,
        /// O flag.
        override_: bool,
    },
    /// Redirect, 137.
    Redirect,
}

/// A message, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nd {
    /// IPv6 source; unspecified in duplicate address detection.
    pub src: Ipv6Addr,
    /// IPv6 destination.
    pub dst: Ipv6Addr,
    /// Which message.
    pub kind: NdKind,
    /// Source link-layer address option.
    pub slla: Option<LinkAddr>,
    /// Target link-layer address option.
    pub tlla: Option<LinkAddr>,
    /// Offset of the ICMPv6 header from the start of the frame.
    pub icmp: usize,
}

/// A link-layer address option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkAddr {
    /// The address.
    pub mac: Mac,
    /// Offset of the address from the start of the frame.
    pub at: usize,
}

impl Nd {
    /// Reads the message; `Ok(None)` if the frame is none. Checks what RFC 4861, 6.1 and 7.1 demand: hop limit
    /// 255, code 0, lengths, no empty option, and the checksum unless `csum_given`: the sender left it partial
    /// or the kernel has verified it.
    ///
    /// A message behind an extension header is refused, and so are extension headers that cannot be followed to
    /// their end, where one could hide (RFC 7113): nobody sends such, and RFC 6980 forbids it for fragments.
    pub fn parse(frame: &[u8], eth: &Eth, csum_given: bool) -> Result<Option<Nd>, FrameError> {
        if eth.ethertype != ethertype::IPV6 {
            return Ok(None);
        }
        match frame.get(eth.l3 + 6) {
            Some(&ICMPV6) => {}
            Some(next) if ip::is_extension(*next) => {
                return match Ip::upper_v6(frame, eth)? {
                    Some((ICMPV6, at)) if matches!(frame[at], 133..=137) => {
                        Err(malformed("extension header in front"))
                    }
                    _ => Ok(None),
                };
            }
            _ => return Ok(None),
        }
        let icmp = eth.l3 + IPV6_LEN;
        match frame.get(icmp) {
            Some(133..=137) => {}
            Some(_) => return Ok(None),
            None => return Err(FrameError::Short { layer: "ICMPv6", len: frame.len() }),
        }
        let ip = &frame[eth.l3..icmp];
        let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        let Some(body) = frame.get(icmp..icmp + payload) else {
            return Err(FrameError::Short { layer: "ND", len: frame.len() });
        };
        if ip[0] >> 4 != 6 || ip[7] != 255 || body.len() < 8 || body[1] != 0 {
            return Err(malformed("version, hop limit, length or code"));
        }
        let (src, dst) = (ipv6(&ip[8..24]), ipv6(&ip[24..40]));
        let pseudo = Sum::default().pseudo_v6(src, dst, ICMPV6, payload as u32);
        if !csum_given && pseudo.bytes(body).fold() != 0xffff {
            return Err(malformed("checksum"));
        }
        let (kind, fixed) = read_kind(body)?;
        let mut nd = Nd { src, dst, kind, slla: None, tlla: None, icmp };
        nd.read_options(body, fixed)?;
        let dad = src.is_unspecified();
        if dad && (nd.slla.is_some() || !matches!(kind, NdKind::Solicit { .. } | NdKind::RouterSolicit)) {
            return Err(malformed("unspecified source"));
        }
        if dad && matches!(kind, NdKind::Solicit { .. }) && !is_solicited_node(dst) {
            return Err(malformed("destination of a DAD probe"));
        }
        Ok(Some(nd))
    }

    fn read_options(&mut self, body: &[u8], fixed: usize) -> Result<(), FrameError> {
        let mut at = fixed;
        while at < body.len() {
            let Some([kind, len8]) = body[at..].first_chunk::<2>() else {
                return Err(malformed("option header"));
            };
            let len = usize::from(*len8) * 8;
            let Some(option) = body.get(at..at + len).filter(|o| !o.is_empty()) else {
                return Err(malformed("option length"));
            };
            if len == 8 && matches!(kind, 1 | 2) {
                let mac = Mac([option[2], option[3], option[4], option[5], option[6], option[7]]);
                let addr = Some(LinkAddr { mac, at: self.icmp + at + 2 });
                // The first of its kind counts; a second one is left alone and not learned from.
                let slot = if *kind == 1 { &mut self.slla } else { &mut self.tlla };
                *slot = slot.or(addr);
            }
            at += len;
        }
        Ok(())
    }
}

/// Overwrites a link-layer address, and keeps the checksum right unless it is `partial`: then its field holds
/// the pseudo-header's sum, which does not cover the address.
pub fn set_link_addr(frame: &mut [u8], nd: &Nd, addr: LinkAddr, mac: Mac, partial: bool) {
    let field = nd.icmp + 2;
    let mut sum = u16::from_be_bytes([frame[field], frame[field + 1]]);
    for (word, at) in mac.0.chunks_exact(2).zip((addr.at..).step_by(2)) {
        let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
        sum = checksum::update(sum, old, u16::from_be_bytes([word[0], word[1]]));
        frame[at..at + 2].copy_from_slice(word);
    }
    if !partial {
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Appends an IPv6 header and a neighbour solicitation to an Ethernet header. `slla` must be `None` where
/// `src` is unspecified.
pub fn append_solicit(
    frame: &mut Vec<u8>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    target: Ipv6Addr,
    slla: Option<Mac>,
) {
    append(frame, src, dst, [135, 0, 0, 0, 0, 0, 0, 0], target, slla.map(|mac| (1, mac)));
}

/// Appends an IPv6 header and a neighbour advertisement with a target link-layer address.
pub fn append_advert(
    frame: &mut Vec<u8>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    target: Ipv6Addr,
    flags: u8,
    tlla: Mac,
) {
    append(frame, src, dst, [136, 0, 0, 0, flags, 0, 0, 0], target, Some((2, tlla)));
}

/// The multicast group of an address (RFC 4291, 2.7.1).
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The MAC group of an IPv6 multicast address (RFC 2464, 7).
pub fn multicast_mac(ip: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = ip.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// ff02::1.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// R flag of an advertisement.
pub const FLAG_ROUTER: u8 = 0x80;
/// S flag of an advertisement.
pub const FLAG_SOLICITED: u8 = 0x40;
/// O flag of an advertisement.
pub const FLAG_OVERRIDE: u8 = 0x20;

fn is_solicited_node(ip: Ipv6Addr) -> bool {
    ip.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
}

/// The kind, and the length of the message before its options.
fn read_kind(body: &[u8]) -> Result<(NdKind, usize), FrameError> {
    let target = || match body.get(8..24) {
        Some(t) if t[0] != 0xff => Ok(ipv6(t)),
        _ => Err(malformed("target")),
    };
    Ok(match body[0] {
        133 => (NdKind::RouterSolicit, 8),
        134 if body.len() >= 16 => {
            (NdKind::RouterAdvert { lifetime: u16::from_be_bytes([body[6], body[7]]) }, 16)
        }
        135 => (NdKind::Solicit { target: target()? }, 24),
        136 => {
            let kind = NdKind::Advert {
                target: target()?,
                router: body[4] & FLAG_ROUTER != 0,
                solicited: body[4] & FLAG_SOLICITED != 0,
                override_: body[4] & FLAG_OVERRIDE != 0,
            };
            (kind, 24)
        }
        137 if body.len() >= 40 => (NdKind::Redirect, 40),
        _ => return Err(malformed("length")),
    })
}

fn append(
    frame: &mut Vec<u8>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    head: [u8; 8],
    target: Ipv6Addr,
    link_addr: Option<(u8, Mac)>,
) {
    let payload: u16 = if link_addr.is_some() { 32 } else { 24 };
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(payload.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    let icmp = frame.len();
    frame.extend(head);
    frame.extend(target.octets());
    if let Some((option, mac)) = link_addr {
        frame.extend([option, 1]);
        frame.extend(mac.0);
    }
    let pseudo = Sum::default().pseudo_v6(src, dst, ICMPV6, u32::from(payload));
    let sum = pseudo.bytes(&frame[icmp..]).finish();
    frame[icmp + 2..icmp + 4].copy_from_slice(&sum.to_be_bytes());
}

fn malformed(what: &'static str) -> FrameError {
    FrameError::Malformed { layer: "ND", what }
}

const IPV6_LEN: usize = 40;

#[cfg(test)]
mod tests;
