//! Frames: checked views over bytes. After a view's constructor succeeded, no accessor panics.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod dhcp;
pub mod ecn;
pub mod ip;
pub mod l3;
pub mod nd;
pub mod transport;

use crate::ids::Mac;

/// Bytes of an untagged Ethernet II header.
pub const ETH_LEN: usize = 14;
/// EtherTypes (IEEE 802 numbers, IANA).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP (RFC 903), what QEMU sends after a migration.
    pub const RARP: u16 = 0x8035;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag (QinQ).
    pub const QINQ: u16 = 0x88a8;
}

/// The VLAN ids in front of a frame's EtherType, outermost first: at most two. Part of every address key, so
/// that the same MAC in two VLANs is two stations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Tags {
    len: u8,
    vids: [u16; 2],
}

impl Tags {
    /// No tag.
    pub const NONE: Tags = Tags { len: 0, vids: [0; 2] };

    /// From at most two VLAN ids, outermost first; `None` if there are more or one exceeds 12 bits.
    pub fn from_vids(vids: &[u16]) -> Option<Tags> {
        let mut tags = Tags::NONE;
        for vid in vids {
            if *vid > 0xfff || !tags.push(*vid) {
                return None;
            }
        }
        Some(tags)
    }

    /// The VLAN ids, outermost first.
    pub fn vids(&self) -> &[u16] {
        &self.vids[..usize::from(self.len)]
    }

    /// All of it as one number, different for different tags, to be hashed in one step.
    pub fn pack(self) -> u32 {
        u32::from(self.len) << 24 | u32::from(self.vids[0]) << 12 | u32::from(self.vids[1])
    }

    fn push(&mut self, vid: u16) -> bool {
        match self.vids.get_mut(usize::from(self.len)) {
            Some(slot) => {
                *slot = vid;
                self.len += 1;
                true
            }
            None => false,
        }
    }
}

/// The Ethernet header of a frame, tags included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eth {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// VLAN tags, but for priority tags (VID 0).
    pub tags: Tags,
    /// The EtherType behind the tags; below 1536 it is an 802.3 length.
    pub ethertype: u16,
    /// Offset of the payload (layer 3) from the start of the frame: 14, 18 or 22.
    pub l3: usize,
}

impl Eth {
    /// Reads the header. A third tag is left in place as the EtherType 0x8100.
    pub fn parse(frame: &[u8]) -> Result<Eth, FrameError> {
        let Some((head, _)) = frame.split_first_chunk::<ETH_LEN>() else {
            return Err(FrameError::Short { layer: "Ethernet", len: frame.len() });
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *head;
        let mut ethertype = u16::from_be_bytes([t0, t1]);
        let mut l3 = ETH_LEN;
        let mut tags = Tags::NONE;
        while matches!(ethertype, ethertype::VLAN | ethertype::QINQ) && l3 < ETH_LEN + 4 * tags.vids.len() {
            let Some(&[v0, v1, t0, t1]) = frame.get(l3..).and_then(|rest| rest.first_chunk::<4>()) else {
                return Err(FrameError::Short { layer: "VLAN tag", len: frame.len() });
            };
            // VID 0 is a priority without a VLAN (IEEE 802.1Q, 9.6): the station is the untagged one.
            let vid = u16::from_be_bytes([v0, v1]) & 0x0fff;
            if vid != 0 {
                tags.push(vid);
            }
            ethertype = u16::from_be_bytes([t0, t1]);
            l3 += 4;
        }
        Ok(Eth {
            dst: Mac([d0, d1, d2, d3, d4, d5]),
            src: Mac([s0, s1, s2, s3, s4, s5]),
            tags,
            ethertype,
            l3,
        })
    }
}

/// Overwrites the destination of a frame that [`Eth::parse`] accepted.
pub fn set_dst(frame: &mut [u8], mac: Mac) {
    frame[..6].copy_from_slice(&mac.0);
}

/// Overwrites the source of a frame that [`Eth::parse`] accepted.
pub fn set_src(frame: &mut [u8], mac: Mac) {
    frame[6..12].copy_from_slice(&mac.0);
}

/// Why a frame could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame ends inside a header.
    #[error("frame of {len} bytes ends inside its {layer} header")]
    Short {
        /// The header that is cut.
        layer: &'static str,
        /// The frame's length.
        len: usize,
    },
    /// A field contradicts the frame or its standard.
    #[error("malformed {layer}: {what}")]
    Malformed {
        /// The header.
        layer: &'static str,
        /// The field.
        what: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tags: &[(u16, u16)], ethertype: u16) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (tpid, tci) in tags {
            f.extend(tpid.to_be_bytes());
            f.extend(tci.to_be_bytes());
        }
        f.extend(ethertype.to_be_bytes());
        f
    }

    #[test]
    fn tags_are_read_outermost_first() {
        let eth = Eth::parse(&frame(&[(0x88a8, 0x2064), (0x8100, 7)], 0x0800)).unwrap();
        assert_eq!(eth.tags.vids(), [0x64, 7]);
        assert_eq!((eth.ethertype, eth.l3), (0x0800, 22));
        let third = Eth::parse(&frame(&[(0x88a8, 1), (0x8100, 2), (0x8100, 3)], 0x0800)).unwrap();
        assert_eq!((third.ethertype, third.l3), (0x8100, 22));
    }

    #[test]
    fn a_priority_tag_names_no_vlan() {
        for (tags, vids, l3) in [
            (&[(0x8100, 0x6000)][..], &[][..], 18),
            (&[(0x8100, 0), (0x8100, 7)], &[7], 22),
            (&[(0x88a8, 7), (0x8100, 0x2000)], &[7], 22),
            (&[(0x8100, 0), (0x8100, 0)], &[], 22),
        ] {
            let eth = Eth::parse(&frame(tags, 0x0800)).unwrap();
            assert_eq!((eth.tags.vids(), eth.ethertype, eth.l3), (vids, 0x0800, l3));
        }
        let third = Eth::parse(&frame(&[(0x8100, 0), (0x8100, 0), (0x8100, 3)], 0x0800)).unwrap();
        assert_eq!((third.ethertype, third.l3), (0x8100, 22));
    }

    #[test]
    fn every_prefix_is_refused_or_read() {
        let whole = frame(&[(0x8100, 5)], 0x86dd);
        for len in 0..whole.len() {
            assert!(Eth::parse(&whole[..len]).is_err(), "{len}");
        }
        assert!(Eth::parse(&whole).is_ok());
    }
}
