//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use super::FrameError;
use crate::ids::Mac;

/// Operation "request".
pub const REQUEST: u16 = 1;
/// Operation "reply".
pub const REPLY: u16 = 2;
/// Bytes of a message.
pub const ARP_LEN: usize = 28;

/// A message, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Operation: [`REQUEST`], [`REPLY`] or one of the rare others.
    pub op: u16,
    /// Sender's hardware address.
    pub sha: Mac,
    /// Sender's IP; 0.0.0.0 in a probe (RFC 5227, 1.1).
    pub spa: Ipv4Addr,
    /// Target's hardware address; meaningless in a request.
    pub tha: Mac,
    /// Target's IP.
    pub tpa: Ipv4Addr,
}

impl Arp {
    /// Reads the message at `l3`; padding behind it is ignored.
    pub fn parse(frame: &[u8], l3: usize) -> Result<Arp, FrameError> {
        let Some(m) = frame.get(l3..).and_then(|rest| rest.first_chunk::<ARP_LEN>()) else {
            return Err(FrameError::Short { layer: "ARP", len: frame.len() });
        };
        if m[..6] != [0, 1, 8, 0, 6, 4] {
            return Err(FrameError::Malformed { layer: "ARP", what: "not Ethernet over IPv4" });
        }
        Ok(Arp {
            op: u16::from_be_bytes([m[6], m[7]]),
            sha: Mac([m[8], m[9], m[10], m[11], m[12], m[13]]),
            spa: Ipv4Addr::new(m[14], m[15], m[16], m[17]),
            tha: Mac([m[18], m[19], m[20], m[21], m[22], m[23]]),
            tpa: Ipv4Addr::new(m[24], m[25], m[26], m[27]),
        })
    }

    /// Appends the message to an Ethernet header.
    pub fn append(&self, frame: &mut Vec<u8>) {
        frame.extend([0, 1, 8, 0, 6, 4]);
        frame.extend(self.op.to_be_bytes());
        frame.extend(self.sha.0);
        frame.extend(self.spa.octets());
        frame.extend(self.tha.0);
        frame.extend(self.tpa.octets());
    }
}

/// Overwrites the sender's hardware address of a message that [`Arp::parse`] accepted.
pub fn set_sha(frame: &mut [u8], l3: usize, mac: Mac) {
    frame[l3 + 8..l3 + 14].copy_from_slice(&mac.0);
}

/// Overwrites the target's hardware address of a message that [`Arp::parse`] accepted.
pub fn set_tha(frame: &mut [u8], l3: usize, mac: Mac) {
    frame[l3 + 18..l3 + 24].copy_from_slice(&mac.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Arp {
        Arp {
            op: REPLY,
            sha: Mac([2, 0, 0, 0, 0, 1]),
            spa: Ipv4Addr::new(10, 0, 0, 1),
            tha: Mac([2, 0, 0, 0, 0, 2]),
            tpa: Ipv4Addr::new(10, 0, 0, 2),
        }
    }

    #[test]
    fn round_trip_and_overwrites() {
        let mut bytes = vec![0; 18];
        message().append(&mut bytes);
        bytes.extend([0; 18]); // padding
        assert_eq!(Arp::parse(&bytes, 18), Ok(message()));
        set_sha(&mut bytes, 18, Mac([9; 6]));
        set_tha(&mut bytes, 18, Mac([8; 6]));
        assert_eq!(Arp::parse(&bytes, 18), Ok(Arp { sha: Mac([9; 6]), tha: Mac([8; 6]), ..message() }));
    }

    #[test]
    fn refuses_short_and_foreign_messages() {
        let mut bytes = Vec::new();
        message().append(&mut bytes);
        for len in 0..ARP_LEN {
            assert!(Arp::parse(&bytes[..len], 0).is_err());
        }
        for at in 0..6 {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Arp::parse(&bad, 0).is_err(), "{at}");
        }
        assert!(Arp::parse(&bytes, usize::MAX).is_err());
    }
}
