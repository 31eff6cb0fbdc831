//! Traffic whose content is checked at the far end.

mod beat;
mod flow;
mod multicast;
mod tcp;
mod udp;

pub use beat::{Beat, Heard};
pub use flow::{Sequence, TcpFlow};
pub use multicast::multicast;
pub use tcp::tcp_both_ways;
pub use udp::{UdpEcho, round_trips};

/// Fills `buf` with the stream's bytes from `offset` on. The stream has no short period, so a piece that is lost,
/// doubled, moved or of another packet does not compare equal.
pub(crate) fn fill(buf: &mut [u8], offset: u64) {
    for (i, chunk) in buf.chunks_mut(8).enumerate() {
        let word = mix(offset / 8 + i as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// SplitMix64's output function.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
