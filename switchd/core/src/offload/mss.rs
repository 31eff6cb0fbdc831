//! The MSS option of TCP's SYN, clamped to what fits (RFC 9293, 3.7.1; RFC 6691).

use crate::frame::Eth;
use crate::frame::checksum;
use crate::frame::ip::{IPV4_LEN, IPV6_LEN, Ip, IpVersion, protocol};
use crate::frame::transport::{TCP_CHECKSUM, TCP_LEN, Tcp, tcp_flags};

/// Lowers the MSS option of a TCP SYN or SYN-ACK in `frame` to what an IP packet of `ip_mtu` bytes carries behind
/// an IP and a TCP header without options. Never raises it, and adds none where none is.
///
/// `partial`: the frame's checksum is partial, so that its field covers the pseudo-header only and stays as it is.
/// Returns the value that was lowered.
pub fn clamp_mss(frame: &mut [u8], ip_mtu: u16, partial: bool) -> Option<u16> {
    let eth = Eth::parse(frame).ok()?;
    let ip = Ip::parse(frame, &eth).ok()?;
    if ip.protocol != protocol::TCP {
        return None;
    }
    let tcp = Tcp::parse(frame, &ip).ok()?;
    if tcp.flags() & tcp_flags::SYN == 0 {
        return None;
    }
    let at = mss_option(tcp.options())? + TCP_LEN;
    let header = &mut frame[ip.l4..];
    let old = u16::from_be_bytes([header[at], header[at + 1]]);
    let ip_len = match ip.version {
        IpVersion::V4 => IPV4_LEN,
        IpVersion::V6 => IPV6_LEN,
    };
    let max = ip_mtu.saturating_sub((ip_len + TCP_LEN) as u16);
    if old <= max {
        return None;
    }
    header[at..at + 2].copy_from_slice(&max.to_be_bytes());
    if !partial {
        // At an odd offset the two bytes belong to different words of the sum: the same as swapped in one word.
        let (from, to) = if at.is_multiple_of(2) { (old, max) } else { (old.swap_bytes(), max.swap_bytes()) };
        let field = &mut header[TCP_CHECKSUM..TCP_CHECKSUM + 2];
        let sum = checksum::update(u16::from_be_bytes([field[0], field[1]]), from, to);
        field.copy_from_slice(&sum.to_be_bytes());
    }
    Some(old)
}

/// The offset in `options` of the MSS option's value.
fn mss_option(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [END, ..] => return None,
            [NOP, ..] => at += 1,
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
}

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;

#[cfg(test)]
mod tests;
