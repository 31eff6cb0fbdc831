//! Frames that tests write by hand, and what they look for in frames they see.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Error, anyhow};

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// 00:00:00:00:00:00, the unknown target in an ARP request.
    pub const ZERO: Mac = Mac([0; 6]);

    /// The Ethernet group of a multicast IPv6 address (RFC 2464, section 7).
    pub fn of_multicast(ip: Ipv6Addr) -> Mac {
        let o = ip.octets();
        Mac([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mac, Error> {
        let bytes: Option<Vec<u8>> = text.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
        let bytes = bytes.and_then(|b| b.try_into().ok());
        bytes.map(Mac).ok_or_else(|| anyhow!("not a MAC address: {text}"))
    }
}

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// An EtherType for local experiments (IEEE 802, 9.2.3).
pub const EXPERIMENTAL: u16 = 0x88b5;

/// An Ethernet frame; `vlans` are 802.1Q tags, outermost first.
pub fn ethernet(dst: Mac, src: Mac, vlans: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    for (i, tci) in vlans.iter().enumerate() {
        let tpid: u16 = if i + 1 < vlans.len() { 0x88a8 } else { 0x8100 };
        frame.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The fields of an ARP packet (RFC 826).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub op: u16,
    /// Sender's MAC.
    pub sha: Mac,
    /// Sender's address; 0.0.0.0 in a probe (RFC 5227).
    pub spa: Ipv4Addr,
    /// Target's MAC.
    pub tha: Mac,
    /// Target's address.
    pub tpa: Ipv4Addr,
}

impl Arp {
    /// The frame that carries it from its sender to `dst`.
    pub fn frame(&self, dst: Mac) -> Vec<u8> {
        let mut body = vec![0, 1, 8, 0, 6, 4];
        body.extend(self.op.to_be_bytes());
        body.extend(self.sha.0);
        body.extend(self.spa.octets());
        body.extend(self.tha.0);
        body.extend(self.tpa.octets());
        ethernet(dst, self.sha, &[], ARP, &body)
    }

    fn parse(body: &[u8]) -> Option<Arp> {
        let body: &[u8; 28] = body.first_chunk()?;
        let mac = |at: usize| body[at..at + 6].try_into().ok().map(Mac);
        let ip = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
        Some(Arp {
            op: u16::from_be_bytes([body[6], body[7]]),
            sha: mac(8)?,
            spa: ip(14),
            tha: mac(18)?,
            tpa: ip(24),
        })
    }
}

/// The fields of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nd {
    /// 135 solicitation, 136 advertisement.
    pub kind: u8,
    /// Source address; :: in duplicate address detection.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Advertisement: the bits router 0x80, solicited 0x40, override 0x20.
    pub flags: u8,
    /// The target.
    pub target: Ipv6Addr,
    /// The link-layer address option (source in a solicitation, target in an advertisement).
    pub link_layer: Option<Mac>,
}

impl Nd {
    /// The frame that carries it from `src` to `dst`, with a right checksum.
    pub fn frame(&self, dst: Mac, src: Mac) -> Vec<u8> {
        let mut icmp = vec![self.kind, 0, 0, 0, self.flags, 0, 0, 0];
        icmp.extend(self.target.octets());
        if let Some(mac) = self.link_layer {
            icmp.extend([if self.kind == SOLICITATION { 1 } else { 2 }, 1]);
            icmp.extend(mac.0);
        }
        let sum = icmpv6_checksum(self.src, self.dst, &icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((icmp.len() as u16).to_be_bytes());
        packet.extend([58, 255]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(icmp);
        ethernet(dst, src, &[], IPV6, &packet)
    }

    /// The solicited-node group of `target` (RFC 4291, 2.7.1).
    pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
        let o = target.octets();
        Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
    }

    /// True if this is a solicitation.
    pub fn is_solicitation(&self) -> bool {
        self.kind == SOLICITATION
    }

    fn parse(src: Ipv6Addr, dst: Ipv6Addr, icmp: &[u8]) -> Option<Nd> {
        let kind = *icmp.first()?;
        if kind != SOLICITATION && kind != ADVERTISEMENT {
            return None;
        }
        let target: [u8; 16] = icmp.get(8..24)?.try_into().ok()?;
        let option = icmp.get(24..32).filter(|o| (o[0] == 1 || o[0] == 2) && o[1] == 1);
        let link_layer = option.and_then(|o| o[2..8].try_into().ok()).map(Mac);
        Some(Nd { kind, src, dst, flags: icmp[4], target: target.into(), link_layer })
    }
}

/// What tests look for in a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Destination MAC.
    pub dst: Mac,
    /// Source MAC.
    pub src: Mac,
    /// VLAN tags' control information, outermost first.
    pub vlans: Vec<u16>,
    /// EtherType after the tags.
    pub ethertype: u16,
    /// The ARP packet, if it is one.
    pub arp: Option<Arp>,
    /// The neighbour solicitation or advertisement, if it is one.
    pub nd: Option<Nd>,
    /// Source and destination port of UDP over IPv4 or IPv6 (no extension headers, no later fragments).
    pub udp: Option<(u16, u16)>,
    /// What follows the EtherType.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Reads what it can; the rest stays empty.
    pub fn parse(bytes: &[u8]) -> Seen {
        let mac = |at: usize| bytes.get(at..at + 6).and_then(|b| b.try_into().ok()).map_or(Mac::ZERO, Mac);
        let word = |at: usize| bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let mut at = 12;
        let mut vlans = Vec::new();
        while matches!(word(at), 0x8100 | 0x88a8) {
            vlans.push(word(at + 2));
            at += 4;
        }
        let ethertype = word(at);
        let body = bytes.get(at + 2..).unwrap_or_default();
        let mut seen = Seen {
            dst: mac(0),
            src: mac(6),
            vlans,
            ethertype,
            arp: None,
            nd: None,
            udp: None,
            payload: body.to_vec(),
        };
        match ethertype {
            ARP => seen.arp = Arp::parse(body),
            IPV4 if body.len() >= 20
                && body[9] == 17
                && u16::from_be_bytes([body[6], body[7]]) & 0x1fff == 0 =>
            {
                seen.udp = ports(body.get(usize::from(body[0] & 15) * 4..));
            }
            IPV6 if body.len() >= 40 && body[6] == 17 => seen.udp = ports(body.get(40..)),
            IPV6 if body.len() >= 40 && body[6] == 58 => {
                let ip = |at: usize| <[u8; 16]>::try_from(&body[at..at + 16]).map(Ipv6Addr::from).ok();
                if let (Some(src), Some(dst)) = (ip(8), ip(24)) {
                    seen.nd = Nd::parse(src, dst, &body[40..]);
                }
            }
            _ => {}
        }
        seen
    }

    /// True for an ARP request or a neighbour solicitation.
    pub fn asks(&self) -> bool {
        self.arp.is_some_and(|arp| arp.op == 1) || self.nd.is_some_and(|nd| nd.is_solicitation())
    }
}

/// A UDP datagram over IPv4 with no UDP checksum, which IPv4 allows (RFC 768).
pub fn udp_v4(macs: [Mac; 2], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let [dst, src] = macs;
    let mut ip = vec![0x45, 0];
    ip.extend((28 + payload.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(from.0.octets());
    ip.extend(to.0.octets());
    let sum = internet_checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    for word in [from.1, to.1, 8 + payload.len() as u16, 0] {
        ip.extend(word.to_be_bytes());
    }
    ip.extend(payload);
    ethernet(dst, src, &[], IPV4, &ip)
}

fn ports(udp: Option<&[u8]>) -> Option<(u16, u16)> {
    let [a, b, c, d] = *udp?.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn icmpv6_checksum(src: Ipv6Addr, dst: Ipv6Addr, icmp: &[u8]) -> u16 {
    let mut bytes = [src.octets(), dst.octets()].concat();
    bytes.extend((icmp.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(icmp);
    internet_checksum(&bytes)
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_seen() {
        let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let arp = Arp { op: 1, sha: a, spa: [10, 0, 0, 1].into(), tha: Mac::ZERO, tpa: [10, 0, 0, 2].into() };
        let seen = Seen::parse(&arp.frame(Mac::BROADCAST));
        assert_eq!((seen.arp, seen.src, seen.dst), (Some(arp), a, Mac::BROADCAST));

        let target = "fd00::2".parse().unwrap();
        let dst = Nd::solicited_node(target);
        let nd = Nd {
            kind: SOLICITATION,
            src: "fd00::1".parse().unwrap(),
            dst,
            flags: 0,
            target,
            link_layer: Some(a),
        };
        let seen = Seen::parse(&nd.frame(Mac::of_multicast(dst), a));
        assert_eq!(seen.nd, Some(nd));
        assert_eq!(seen.dst, "33:33:ff:00:00:02".parse().unwrap());

        let seen = Seen::parse(&ethernet(b, a, &[5, 7], EXPERIMENTAL, b"hello"));
        assert_eq!(
            (seen.vlans.as_slice(), seen.ethertype, &seen.payload[..5]),
            (&[5, 7][..], 0x88b5, &b"hello"[..])
        );
    }
}
