//! As much of IPv4 and IPv6 headers as a layer-2 switch needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Eth, FrameError, ethertype};

/// Source, destination and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L3 {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// The next protocol's number; an IPv6 extension header counts as one.
    pub protocol: u8,
    /// Offset of that protocol's header from the start of the frame; `None` in a fragment but the first.
    pub l4: Option<usize>,
}

impl L3 {
    /// Reads the IPv4 or IPv6 header; `Ok(None)` for other EtherTypes.
    pub fn parse(frame: &[u8], eth: &Eth) -> Result<Option<L3>, FrameError> {
        let rest = frame.get(eth.l3..).unwrap_or_default();
        match eth.ethertype {
            ethertype::IPV4 => {
                let Some(h) = rest.first_chunk::<20>() else {
                    return Err(FrameError::Short { layer: "IPv4", len: frame.len() });
                };
                let header_len = usize::from(h[0] & 0x0f) * 4;
                if h[0] >> 4 != 4 || header_len < 20 {
                    return Err(FrameError::Malformed { layer: "IPv4", what: "version or header length" });
                }
                let first = u16::from_be_bytes([h[6], h[7]]) & 0x1fff == 0;
                Ok(Some(L3 {
                    src: Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
                    dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
                    protocol: h[9],
                    l4: first.then_some(eth.l3 + header_len),
                }))
            }
            ethertype::IPV6 => {
                let Some(h) = rest.first_chunk::<40>() else {
                    return Err(FrameError::Short { layer: "IPv6", len: frame.len() });
                };
                if h[0] >> 4 != 6 {
                    return Err(FrameError::Malformed { layer: "IPv6", what: "version" });
                }
                Ok(Some(L3 {
                    src: ipv6(&h[8..24]).into(),
                    dst: ipv6(&h[24..40]).into(),
                    protocol: h[6],
                    l4: Some(eth.l3 + 40),
                }))
            }
            _ => Ok(None),
        }
    }
}

/// An address from the first 16 bytes, zeros where they end early.
pub(super) fn ipv6(bytes: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (to, from) in octets.iter_mut().zip(bytes) {
        *to = *from;
    }
    octets.into()
}
