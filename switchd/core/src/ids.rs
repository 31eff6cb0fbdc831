//! Identifiers, each a type of its own so that one is never taken for another.

use std::fmt;
use std::str::FromStr;

/// A 48-bit MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// 00:00:00:00:00:00, never a valid source or destination.
    pub const ZERO: Mac = Mac([0; 6]);

    /// Group bit set: multicast or broadcast (IEEE 802-2014, 8.2).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Locally administered bit set.
    pub fn is_local_admin(self) -> bool {
        self.0[0] & 2 == 2
    }

    /// A unicast address other than zero: what a source address must be.
    pub fn is_unicast(self) -> bool {
        !self.is_group() && self != Mac::ZERO
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Mac, IdError> {
        let mut mac = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(IdError::Mac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| IdError::Mac)?;
        }
        if parts.next().is_some() {
            return Err(IdError::Mac);
        }
        Ok(Mac(mac))
    }
}

/// A 24-bit virtual network identifier, as in VXLAN (RFC 7348).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier, 2^24 - 1.
    pub const MAX: Vni = Vni(0xff_ffff);

    /// Checks that `value` is 1 to 2^24 - 1.
    pub fn new(value: u32) -> Result<Vni, IdError> {
        if value == 0 || value > Vni::MAX.0 { Err(IdError::Vni(value)) } else { Ok(Vni(value)) }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Big-endian, as on the wire.
    pub fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer, by the number that the shell gave it. Stable for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(pub u32);

/// Chosen by the receiver of sealed datagrams to find the session they belong to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReceiverIndex(pub u32);

/// Orders the places that a binding has had: the higher one wins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Generation(pub u64);

/// Why an identifier was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not six two-digit hexadecimal bytes.
    #[error("not a MAC address: write six hexadecimal bytes like 02:00:5e:10:00:01")]
    Mac,
    /// Zero or more than 24 bits.
    #[error("VNI {0} is out of range: use 1 to 16777215")]
    Vni(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_round_trips_and_refuses_bad_text() {
        let mac: Mac = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:01",
            "2:0:5e:10:0:f",
            "02-00-5e-10-00-ff",
            "zz:00:5e:10:00:ff",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(IdError::Mac), "{bad}");
        }
    }

    #[test]
    fn vni_range() {
        assert!(Vni::new(0).is_err());
        assert!(Vni::new(1 << 24).is_err());
        assert_eq!(Vni::new(0x01_02_03).unwrap().to_bytes(), [1, 2, 3]);
    }
}
