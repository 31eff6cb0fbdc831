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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &[u8]) -> Result<Option<L3>, FrameError> {
        L3::parse(frame, &Eth::parse(frame)?)
    }

    #[test]
    fn agrees_with_etherparse() {
        let builder = || etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut v4 = Vec::new();
        builder().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2).write(&mut v4, &[0; 5]).unwrap();
        let ip = read(&v4).unwrap().unwrap();
        assert_eq!((ip.src, ip.dst), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        assert_eq!((ip.protocol, ip.l4), (17, Some(34)));
        v4[21] = 1; // fragment offset 1
        assert_eq!(read(&v4).unwrap().unwrap().l4, None);
        let mut v6 = Vec::new();
        builder().ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut v6, &[0; 5]).unwrap();
        let ip = read(&v6).unwrap().unwrap();
        assert_eq!((ip.src, ip.dst), ([1; 16].into(), [2; 16].into()));
        assert_eq!((ip.protocol, ip.l4), (17, Some(54)));
    }

    #[test]
    fn every_prefix_is_refused_or_read() {
        for (ethertype, first, least) in [([8, 0], 0x45, 20), ([0x86, 0xdd], 0x60, 40)] {
            let mut frame = vec![2; 12];
            frame.extend(ethertype);
            frame.push(first);
            frame.extend([0; 60]);
            for len in 14..frame.len() {
                assert_eq!(read(&frame[..len]).is_ok(), len >= 14 + least, "{len}");
            }
            frame[14] = 0x11;
            assert!(read(&frame).is_err());
        }
    }
}
