//! The Internet checksum: ones' complement sums (RFC 1071) and their incremental update (RFC 1624).

use std::net::{Ipv4Addr, Ipv6Addr};

/// An unfolded ones' complement sum. Order of additions does not matter.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes as big-endian 16-bit words, an odd last byte padded with zero.
    #[must_use]
    pub fn bytes(mut self, data: &[u8]) -> Sum {
        let mut words = data.chunks_exact(4);
        for w in &mut words {
            self.0 += u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
        }
        match *words.remainder() {
            [a] => self.0 += u64::from(u16::from_be_bytes([a, 0])),
            [a, b] => self.0 += u64::from(u16::from_be_bytes([a, b])),
            [a, b, c] => {
                self.0 += u64::from(u16::from_be_bytes([a, b])) + u64::from(u16::from_be_bytes([c, 0]));
            }
            _ => {}
        }
        self
    }

    /// Adds one word.
    #[must_use]
    pub fn word(self, w: u16) -> Sum {
        Sum(self.0 + u64::from(w))
    }

    /// Takes away one word that was part of the sum (RFC 1624, equation 3).
    #[must_use]
    pub fn minus(self, w: u16) -> Sum {
        self.word(!w)
    }

    /// The IPv4 pseudo-header (RFC 9293, 3.1); `len` is that of the layer-4 header and payload.
    #[must_use]
    pub fn pseudo_v4(self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Sum {
        self.bytes(&src.octets()).bytes(&dst.octets()).word(u16::from(protocol)).word(len)
    }

    /// The IPv6 pseudo-header (RFC 8200, 8.1).
    #[must_use]
    pub fn pseudo_v6(self, src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> Sum {
        let [a, b, c, d] = len.to_be_bytes();
        self.bytes(&src.octets())
            .bytes(&dst.octets())
            .word(u16::from_be_bytes([a, b]))
            .word(u16::from_be_bytes([c, d]))
            .word(u16::from(protocol))
    }

    /// The sum folded to 16 bits: what a partial checksum's field holds, and 0xffff over verified data.
    pub fn fold(self) -> u16 {
        let mut s = self.0;
        while s >> 16 != 0 {
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    /// The complement of the folded sum: what a checksum field holds.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// The checksum field `old` after one of the words that it covers changed from `from` to `to` (RFC 1624).
pub fn update(old: u16, from: u16, to: u16) -> u16 {
    Sum::default().word(!old).minus(from).word(to).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc1071_example() {
        assert_eq!(Sum::default().bytes(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    proptest! {
        #[test]
        fn incremental_update_equals_a_fresh_sum(mut data in prop::collection::vec(any::<u8>(), 8..64), word in 0usize..4, to: u16) {
            data.push(1); // never an all-zero buffer, whose two zeros are ambiguous
            let old = Sum::default().bytes(&data).finish();
            let at = word * 2;
            let from = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&to.to_be_bytes());
            prop_assert_eq!(update(old, from, to), Sum::default().bytes(&data).finish());
        }
    }
}
