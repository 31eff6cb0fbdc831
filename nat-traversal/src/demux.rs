//! Telling datagrams apart by their first byte (RFC 7983, RFC 9443).

/// What a datagram on the shared socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// A sealed datagram of the data path.
    Sealed,
    /// QUIC: the link's handshake and control streams. Peers never grease the fixed bit.
    Quic,
    /// STUN (RFC 8489).
    Stun,
    /// TURN channel data (RFC 8656), from a relay only.
    ChannelData,
    /// None of ours.
    Unknown,
}

/// Classifies by the first byte; `from_relay`: the source is the address of a relay in use.
pub fn classify(datagram: &[u8], from_relay: bool) -> Protocol {
    match datagram.first() {
        Some(0..=3) => Protocol::Stun,
        Some(64..=79) if from_relay => Protocol::ChannelData,
        Some(64..=127 | 192..=255) => Protocol::Quic,
        Some(128..=191) => Protocol::Sealed,
        Some(_) | None => Protocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_is_one_thing() {
        for first in 0..=255u8 {
            let expected = match first {
                0..=3 => Protocol::Stun,
                4..=63 => Protocol::Unknown,
                64..=127 => Protocol::Quic,
                128..=191 => Protocol::Sealed,
                192..=255 => Protocol::Quic,
            };
            assert_eq!(classify(&[first, 1, 2], false), expected, "{first}");
            let from_relay = if (64..=79).contains(&first) { Protocol::ChannelData } else { expected };
            assert_eq!(classify(&[first], true), from_relay, "{first}");
        }
        assert_eq!(classify(&[], false), Protocol::Unknown);
    }
}
