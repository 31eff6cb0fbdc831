//! Checked views of the TCP and UDP headers of a frame (RFC 9293, RFC 768).

use std::ops::Range;

use super::FrameError;
use super::ip::{Ip, protocol};

/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Offset of TCP's checksum in its header.
pub const TCP_CHECKSUM: usize = 16;
/// Offset of UDP's checksum in its header.
pub const UDP_CHECKSUM: usize = 6;

/// TCP's control bits, as they stand in byte 13 of the header.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// A TCP header in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a [u8],
    l4: usize,
    end: usize,
}

impl<'a> Tcp<'a> {
    /// The header of the packet that `ip` describes. Refuses other protocols and fragments.
    pub fn parse(frame: &'a [u8], ip: &Ip) -> Result<Tcp<'a>, FrameError> {
        const LAYER: &str = "TCP";
        let packet = layer4(frame, ip, protocol::TCP, LAYER)?;
        let Some(offset) = packet.get(12).filter(|_| packet.len() >= TCP_LEN) else {
            return Err(FrameError::Short { layer: LAYER, len: frame.len() });
        };
        let header_len = usize::from(offset >> 4) * 4;
        if header_len < TCP_LEN {
            return Err(FrameError::Malformed { layer: LAYER, what: "data offset" });
        }
        let Some(header) = packet.get(..header_len) else {
            return Err(FrameError::Short { layer: LAYER, len: frame.len() });
        };
        Ok(Tcp { header, l4: ip.l4, end: ip.end })
    }

    /// The header, options included: at least [`TCP_LEN`] bytes.
    pub fn header(&self) -> &'a [u8] {
        self.header
    }

    /// Where the payload lies in the frame.
    pub fn payload(&self) -> Range<usize> {
        self.l4 + self.header.len()..self.end
    }

    /// The sequence number.
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// The control bits of byte 13 ([`tcp_flags`]).
    pub fn flags(&self) -> u8 {
        self.header[13]
    }

    /// The options, padding included.
    pub fn options(&self) -> &'a [u8] {
        &self.header[TCP_LEN..]
    }
}

/// A UDP header in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a [u8; UDP_LEN],
    l4: usize,
    end: usize,
}

impl<'a> Udp<'a> {
    /// The header of the packet that `ip` describes. Refuses other protocols, fragments, and a length field that
    /// is not the packet's.
    pub fn parse(frame: &'a [u8], ip: &Ip) -> Result<Udp<'a>, FrameError> {
        const LAYER: &str = "UDP";
        let packet = layer4(frame, ip, protocol::UDP, LAYER)?;
        let Some(header) = packet.first_chunk::<UDP_LEN>() else {
            return Err(FrameError::Short { layer: LAYER, len: frame.len() });
        };
        if usize::from(u16::from_be_bytes([header[4], header[5]])) != packet.len() {
            return Err(FrameError::Malformed { layer: LAYER, what: "length" });
        }
        Ok(Udp { header, l4: ip.l4, end: ip.end })
    }

    /// The header.
    pub fn header(&self) -> &'a [u8; UDP_LEN] {
        self.header
    }

    /// Where the payload lies in the frame.
    pub fn payload(&self) -> Range<usize> {
        self.l4 + UDP_LEN..self.end
    }

    /// The checksum field; zero stands for none.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }
}

fn layer4<'a>(frame: &'a [u8], ip: &Ip, protocol: u8, layer: &'static str) -> Result<&'a [u8], FrameError> {
    if ip.protocol != protocol {
        return Err(FrameError::Malformed { layer, what: "protocol" });
    }
    if ip.fragment {
        return Err(FrameError::Malformed { layer, what: "fragmentation" });
    }
    frame.get(ip.l4..ip.end).ok_or(FrameError::Short { layer, len: frame.len() })
}

#[cfg(test)]
mod tests;
