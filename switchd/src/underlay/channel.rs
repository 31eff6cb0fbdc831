//! What travels between this node and a relay (RFC 8656): channel data, Send and Data indications.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// The header of channel data with a payload of `len` bytes (12.4).
pub(crate) fn channel_header(channel: u16, len: usize) -> [u8; CHANNEL_HEADER_LEN] {
    let [c0, c1] = channel.to_be_bytes();
    let [l0, l1] = (len as u16).to_be_bytes();
    [c0, c1, l0, l1]
}

/// Channel and payload.
pub(crate) fn parse_channel(datagram: &[u8]) -> Option<(u16, Range<usize>)> {
    let &[c0, c1, l0, l1] = datagram.first_chunk::<CHANNEL_HEADER_LEN>()?;
    let end = CHANNEL_HEADER_LEN + usize::from(u16::from_be_bytes([l0, l1]));
    (datagram.len() >= end).then_some((u16::from_be_bytes([c0, c1]), CHANNEL_HEADER_LEN..end))
}

/// The peer's address and the payload of a Data indication (11.4).
pub(crate) fn parse_data_indication(datagram: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
    let header = datagram.first_chunk::<STUN_HEADER_LEN>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[..2] != DATA_INDICATION || header[4..8] != MAGIC || STUN_HEADER_LEN + length > datagram.len() {
        return None;
    }
    let end = STUN_HEADER_LEN + length;
    let (mut peer, mut data) = (None, None);
    let mut at = STUN_HEADER_LEN;
    while let Some(&[t0, t1, l0, l1]) = datagram[at..end].first_chunk::<4>() {
        let value = at + 4..at + 4 + usize::from(u16::from_be_bytes([l0, l1]));
        if value.end > end {
            return None;
        }
        match [t0, t1] {
            XOR_PEER_ADDRESS => peer = address(&datagram[value.clone()], header),
            DATA => data = Some(value.clone()),
            _ => {}
        }
        at = (value.start + value.len().next_multiple_of(4)).min(end);
    }
    Some((peer?, data?))
}

/// The bytes in front of a payload of `len` bytes in a Send indication (11.1), and how many of padding follow it.
pub(crate) fn send_indication(peer: SocketAddr, len: usize, transaction: [u8; 12]) -> (Vec<u8>, usize) {
    let pad = len.next_multiple_of(4) - len;
    let mut header = Vec::with_capacity(SEND_HEADER_MAX);
    header.extend(SEND_INDICATION);
    header.extend([0; 2]);
    header.extend(MAGIC);
    header.extend(transaction);
    let mask: [u8; 16] = std::array::from_fn(|i| header[4 + i]);
    let [p0, p1] = (peer.port() ^ u16::from_be_bytes([MAGIC[0], MAGIC[1]])).to_be_bytes();
    let ip: Vec<u8> = match peer.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    header.extend(XOR_PEER_ADDRESS);
    header.extend((4 + ip.len() as u16).to_be_bytes());
    header.extend([0, if peer.is_ipv4() { 1 } else { 2 }, p0, p1]);
    header.extend(ip.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    header.extend(DATA);
    header.extend((len as u16).to_be_bytes());
    let length = (header.len() - STUN_HEADER_LEN + len + pad) as u16;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    (header, pad)
}

fn address(value: &[u8], header: &[u8; STUN_HEADER_LEN]) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([p0 ^ MAGIC[0], p1 ^ MAGIC[1]]);
    let unmask = |i: usize| ip[i] ^ header[4 + i];
    let ip: IpAddr = match (family, ip.len()) {
        (1, 4) => Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(unmask)).into(),
        (2, 16) => Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(unmask)).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

pub(crate) const CHANNEL_HEADER_LEN: usize = 4;
const STUN_HEADER_LEN: usize = 20;
/// With an IPv6 address.
const SEND_HEADER_MAX: usize = STUN_HEADER_LEN + 24 + 4;
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const SEND_INDICATION: [u8; 2] = [0x00, 0x16];
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];
const XOR_PEER_ADDRESS: [u8; 2] = [0x00, 0x12];
const DATA: [u8; 2] = [0x00, 0x13];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_round_trips_with_padding_behind() {
        let mut datagram = channel_header(0x4001, 5).to_vec();
        datagram.extend(b"hello");
        assert_eq!(parse_channel(&datagram), Some((0x4001, 4..9)));
        datagram.extend([0; 3]);
        assert_eq!(parse_channel(&datagram), Some((0x4001, 4..9)));
        assert_eq!(parse_channel(&datagram[..8]), None);
        assert_eq!(parse_channel(&datagram[..3]), None);
    }

    #[test]
    fn an_indication_round_trips_and_no_cut_panics() {
        for peer in ["203.0.113.9:4840", "[2001:db8::9]:4840"] {
            let peer: SocketAddr = peer.parse().unwrap();
            let (mut datagram, pad) = send_indication(peer, 5, [7; 12]);
            let at = datagram.len();
            datagram.extend(b"hello");
            datagram.extend(vec![0; pad]);
            datagram[1] = DATA_INDICATION[1];
            assert_eq!(parse_data_indication(&datagram), Some((peer, at..at + 5)));
            for len in 0..datagram.len() {
                assert_eq!(parse_data_indication(&datagram[..len]), None);
            }
            for at in 0..datagram.len() {
                let mut bad = datagram.clone();
                bad[at] ^= 0xff;
                let _ = parse_data_indication(&bad);
            }
        }
    }
}
