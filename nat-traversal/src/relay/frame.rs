//! What a relay puts around datagrams (RFC 8656): ChannelData, and Send and Data indications. Nothing here
//! allocates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::stun::binding::{HEADER, MAGIC_COOKIE};

/// Length of the header of ChannelData.
pub const CHANNEL_HEADER: usize = 4;

/// The numbers that a channel can have (RFC 8656, 12).
pub const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;

/// The header of ChannelData with a payload of this length. Over UDP the payload follows as it is; on a stream
/// [`stream_padding`] follows the payload.
pub fn channel_header(channel: u16, payload_len: u16) -> [u8; CHANNEL_HEADER] {
    let [a, b] = channel.to_be_bytes();
    let [c, d] = payload_len.to_be_bytes();
    [a, b, c, d]
}

/// How many zeros follow a payload of this length on a stream (RFC 8656, 12.5), and in a Send indication.
pub fn stream_padding(payload_len: usize) -> usize {
    payload_len.wrapping_neg() % 4
}

/// Reads ChannelData: the channel and the payload. What follows the payload (padding is allowed over UDP) is
/// left out.
pub fn parse_channel(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (header, rest) = datagram.split_first_chunk::<CHANNEL_HEADER>()?;
    let channel = u16::from_be_bytes([header[0], header[1]]);
    let length = u16::from_be_bytes([header[2], header[3]]);
    if !CHANNELS.contains(&channel) {
        return None;
    }
    Some((channel, rest.get(..usize::from(length))?))
}

/// Reads a Data indication: the peer, and where in the datagram its payload is.
pub fn parse_data_indication(datagram: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
    parse_indication(datagram, DATA_INDICATION)
}

/// Reads a Send indication, as a relay does: the peer, and where in the datagram the payload is.
pub fn parse_send_indication(datagram: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
    parse_indication(datagram, SEND_INDICATION)
}

/// The head of a Send indication to this peer, which the payload and [`stream_padding`] follow, on UDP too.
/// `None` if the payload is too long for one.
pub fn send_indication(
    peer: SocketAddr,
    payload_len: usize,
    transaction: [u8; 12],
) -> Option<IndicationHead> {
    indication(SEND_INDICATION, peer, payload_len, transaction)
}

/// The head of a Data indication from this peer, as a relay sends it.
pub fn data_indication(
    peer: SocketAddr,
    payload_len: usize,
    transaction: [u8; 12],
) -> Option<IndicationHead> {
    indication(DATA_INDICATION, peer, payload_len, transaction)
}

/// The bytes of an indication that come before its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndicationHead {
    bytes: [u8; MAX_INDICATION_HEAD],
    length: usize,
}

impl IndicationHead {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The longest head of an indication: to an IPv6 peer. To an IPv4 peer it is 12 bytes shorter.
pub const MAX_INDICATION_HEAD: usize = HEADER + 4 + 20 + 4;

fn indication(
    kind: u16,
    peer: SocketAddr,
    payload_len: usize,
    transaction: [u8; 12],
) -> Option<IndicationHead> {
    let payload_field = u16::try_from(payload_len).ok()?;
    let mut head = IndicationHead { bytes: [0; MAX_INDICATION_HEAD], length: HEADER };
    let mut put = |bytes: &[u8]| {
        head.bytes[head.length..head.length + bytes.len()].copy_from_slice(bytes);
        head.length += bytes.len();
    };
    let key = xor_key(&transaction);
    put(&XOR_PEER_ADDRESS.to_be_bytes());
    let port = (peer.port() ^ u16::from_be_bytes([key[0], key[1]])).to_be_bytes();
    match peer.ip() {
        IpAddr::V4(ip) => {
            put(&8u16.to_be_bytes());
            put(&[0, FAMILY_V4, port[0], port[1]]);
            put(&xor(ip.octets(), &key));
        }
        IpAddr::V6(ip) => {
            put(&20u16.to_be_bytes());
            put(&[0, FAMILY_V6, port[0], port[1]]);
            put(&xor(ip.octets(), &key));
        }
    }
    put(&DATA.to_be_bytes());
    put(&payload_field.to_be_bytes());
    let body = head.length - HEADER + payload_len + stream_padding(payload_len);
    head.bytes[..2].copy_from_slice(&kind.to_be_bytes());
    head.bytes[2..4].copy_from_slice(&u16::try_from(body).ok()?.to_be_bytes());
    head.bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
    head.bytes[8..HEADER].copy_from_slice(&transaction);
    Some(head)
}

fn parse_indication(datagram: &[u8], kind: u16) -> Option<(SocketAddr, Range<usize>)> {
    let header = datagram.get(..HEADER)?;
    if header[..2] != kind.to_be_bytes() || header[4..8] != MAGIC_COOKIE {
        return None;
    }
    let end = HEADER + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let message = datagram.get(..end)?;
    let transaction = header[8..].try_into().expect("twelve bytes after the cookie");
    let (mut peer, mut payload) = (None, None);
    let mut at = HEADER;
    while let Some(head) = message.get(at..at + 4) {
        let attribute = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = at + 4..at + 4 + length;
        let bytes = message.get(value.clone())?;
        match attribute {
            XOR_PEER_ADDRESS if peer.is_none() => peer = Some(parse_address(bytes, &transaction)?),
            DATA if payload.is_none() => payload = Some(value.clone()),
            _ => {}
        }
        at = value.end + stream_padding(length);
    }
    Some((peer?, payload?))
}

fn parse_address(value: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let (head, address) = value.split_first_chunk::<4>()?;
    let key = xor_key(transaction);
    let port = u16::from_be_bytes([head[2] ^ key[0], head[3] ^ key[1]]);
    let ip = match head[1] {
        FAMILY_V4 => IpAddr::V4(Ipv4Addr::from(xor::<4>(address.try_into().ok()?, &key))),
        FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(xor::<16>(address.try_into().ok()?, &key))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn xor_key(transaction: &[u8; 12]) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&MAGIC_COOKIE);
    key[4..].copy_from_slice(transaction);
    key
}

fn xor<const N: usize>(mut bytes: [u8; N], key: &[u8; 16]) -> [u8; N] {
    bytes.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    bytes
}

const SEND_INDICATION: u16 = 0x0016;
const DATA_INDICATION: u16 = 0x0017;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;
const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;

#[cfg(test)]
mod tests;
