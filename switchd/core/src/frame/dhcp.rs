//! DHCP as far as a switch looks into it: who sends a message, by its UDP ports (RFC 2131, 4.1; RFC 8415, 7.2),
//! and the routers that a DHCPv4 server names.

use std::net::Ipv4Addr;

use super::ip::{Ip, is_extension, protocol::UDP};
use super::l3::L3;
use super::{Eth, ethertype};

/// Who sends a DHCP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dhcp {
    /// A client, or a relay on its way to a server.
    Client,
    /// A server, or a relay on its way to a client.
    Server,
}

/// What a frame is to DHCPv4 and DHCPv6, by its ports alone, behind IPv6 extension headers too. `None` for
/// fragments but the first.
pub fn classify(frame: &[u8], eth: &Eth) -> Option<Dhcp> {
    let ip = L3::parse(frame, eth).ok()??;
    let (protocol, l4) = if eth.ethertype == ethertype::IPV6 && is_extension(ip.protocol) {
        Ip::upper_v6(frame, eth).ok()??
    } else {
        (ip.protocol, ip.l4?)
    };
    if protocol != UDP {
        return None;
    }
    let ports = frame.get(l4..)?.first_chunk::<4>()?;
    let (src, dst) = (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
    match (eth.ethertype, src, dst) {
        (ethertype::IPV4, 67, 68) => Some(Dhcp::Server),
        (ethertype::IPV4, _, 67) => Some(Dhcp::Client),
        (ethertype::IPV4, _, 68) => Some(Dhcp::Server),
        (ethertype::IPV6, _, 546) => Some(Dhcp::Server),
        (ethertype::IPV6, _, 547) => Some(Dhcp::Client),
        _ => None,
    }
}

/// What a DHCPv4 server tells its client of the way out (RFC 2132, 3.3 and 3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer<'a> {
    /// The subnet mask.
    pub mask: Option<Ipv4Addr>,
    routers: &'a [u8],
}

impl Offer<'_> {
    /// The routers, the preferred one first; at most four are read.
    pub fn routers(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.routers.chunks_exact(4).take(4).map(|r| Ipv4Addr::new(r[0], r[1], r[2], r[3]))
    }
}

/// Reads a server's reply (BOOTREPLY) in a frame that [`classify`] took for DHCPv4.
pub fn offer<'a>(frame: &'a [u8], eth: &Eth) -> Option<Offer<'a>> {
    if eth.ethertype != ethertype::IPV4 {
        return None;
    }
    let l4 = L3::parse(frame, eth).ok()??.l4?;
    let message = frame.get(l4 + UDP_LEN..)?;
    if message.first() != Some(&BOOTREPLY) || message.get(OPTIONS - 4..OPTIONS)? != COOKIE {
        return None;
    }
    let mut offer = Offer { mask: None, routers: &[] };
    let mut rest = message.get(OPTIONS..)?;
    loop {
        match *rest {
            [0, ref tail @ ..] => rest = tail,
            [255, ..] | [] | [_] => return Some(offer),
            [code, len, ref tail @ ..] => {
                let (value, next) = tail.split_at_checked(usize::from(len))?;
                match (code, value) {
                    (1, &[a, b, c, d]) => offer.mask = Some(Ipv4Addr::new(a, b, c, d)),
                    (3, _) => offer.routers = value,
                    _ => {}
                }
                rest = next;
            }
        }
    }
}

const UDP_LEN: usize = 8;
const BOOTREPLY: u8 = 2;
/// Where options begin, behind the magic cookie (RFC 2131, 2 and 3).
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
