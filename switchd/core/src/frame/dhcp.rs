//! Telling DHCP messages by their UDP ports (RFC 2131, 4.1; RFC 8415, 7.2).

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

/// What a frame is to DHCPv4 and DHCPv6, by its ports alone. `None` for fragments but the first.
pub fn classify(frame: &[u8], eth: &Eth) -> Option<Dhcp> {
    let ip = L3::parse(frame, eth).ok()??;
    if ip.protocol != UDP {
        return None;
    }
    let ports = frame.get(ip.l4?..)?.first_chunk::<4>()?;
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

const UDP: u8 = 17;
