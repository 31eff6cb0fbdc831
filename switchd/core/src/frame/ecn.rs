//! Explicit congestion notification through the tunnel (RFC 6040, normal mode; RFC 9601, 3.1 for frames): the IP
//! packet's two bits go into the outer header, and what the underlay made of them comes back into the packet.

use super::checksum::update;
use super::ip::{IPV4_LEN, IPV6_LEN};
use super::{Eth, ethertype};

/// The ECN field of an IP header (RFC 3168, 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ecn {
    /// Not ECN-capable: congestion shows itself by loss.
    #[default]
    NotEct = 0,
    /// ECN-capable, the codepoint of L4S (RFC 9331).
    Ect1 = 1,
    /// ECN-capable.
    Ect0 = 2,
    /// Congestion was met on the way.
    Ce = 3,
}

impl Ecn {
    /// From the lowest two bits of a TOS or traffic class octet.
    pub fn from_octet(octet: u8) -> Ecn {
        match octet & MASK {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    /// Of the IP packet in a frame; `None` in frames of other protocols, and where the IP header is cut short.
    pub fn of_frame(frame: &[u8]) -> Option<Ecn> {
        Field::find(frame).map(|field| field.ecn)
    }

    /// Whether a packet may have to be changed for what the underlay's header said.
    pub fn is_news(self) -> bool {
        matches!(self, Ecn::Ect1 | Ecn::Ce)
    }

    /// Of a message put together from fragments (RFC 3168, 5.3): what one of them tells of the way is told of all.
    #[must_use]
    pub fn with_fragment(self, other: Ecn) -> Ecn {
        match (self, other) {
            (Ecn::Ce, _) | (_, Ecn::Ce) => Ecn::Ce,
            (Ecn::Ect1, _) | (_, Ecn::Ect1) => Ecn::Ect1,
            (Ecn::Ect0, _) => Ecn::Ect0,
            (Ecn::NotEct, other) => other,
        }
    }
}

/// Gives the frame's IP packet what the underlay's header said on arrival (RFC 6040, 4.2). Frames of other protocols
/// are left alone.
pub fn propagate(frame: &mut [u8], outer: Ecn) -> Result<(), Congested> {
    let Some(field) = Field::find(frame) else { return Ok(()) };
    let to = match (field.ecn, outer) {
        (Ecn::NotEct, Ecn::Ce) => return Err(Congested),
        (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => Ecn::Ce,
        (Ecn::Ect0, Ecn::Ect1) => Ecn::Ect1,
        _ => return Ok(()),
    };
    field.set(frame, to);
    Ok(())
}

/// The underlay met congestion, and the packet's sender would not understand a mark: it has to see a loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("congestion on the underlay, and the packet is not ECN-capable")]
pub struct Congested;

/// Where a frame's ECN field is.
struct Field {
    ecn: Ecn,
    v4: bool,
    l3: usize,
}

impl Field {
    fn find(frame: &[u8]) -> Option<Field> {
        let eth = Eth::parse(frame).ok()?;
        let packet = frame.get(eth.l3..)?;
        let (version, len) = match eth.ethertype {
            ethertype::IPV4 => (4, IPV4_LEN),
            ethertype::IPV6 => (6, IPV6_LEN),
            _ => return None,
        };
        let [first, second, ..] = *packet.get(..len)? else { return None };
        let (v4, octet) = (version == 4, if version == 4 { second } else { second >> 4 });
        (first >> 4 == version).then(|| Field { ecn: Ecn::from_octet(octet), v4, l3: eth.l3 })
    }

    /// The IPv4 header's checksum follows; no other covers the field.
    fn set(&self, frame: &mut [u8], to: Ecn) {
        let Some(header) = frame.get_mut(self.l3..self.l3 + IPV4_LEN) else { return };
        let before = u16::from_be_bytes([header[0], header[1]]);
        let (keep, bits) = if self.v4 { (!MASK, to as u8) } else { (!(MASK << 4), (to as u8) << 4) };
        header[1] = header[1] & keep | bits;
        if self.v4 {
            let after = u16::from_be_bytes([header[0], header[1]]);
            let sum = update(u16::from_be_bytes([header[10], header[11]]), before, after);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

const MASK: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::checksum::Sum;
    use proptest::prelude::*;

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

    /// A UDP datagram in IPv4 or IPv6, behind `tags` VLAN tags, of this TOS or traffic class.
    fn frame(v6: bool, tags: u8, octet: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for vid in 0..tags {
            frame.extend([0x81, 0, 0, 5 + vid]);
        }
        let mut packet = Vec::new();
        if v6 {
            frame.extend(ethertype::IPV6.to_be_bytes());
            let mut header = etherparse::Ipv6Header { traffic_class: octet, ..Default::default() };
            header.set_payload_length(8).unwrap();
            header.write(&mut packet).unwrap();
        } else {
            frame.extend(ethertype::IPV4.to_be_bytes());
            let mut header =
                etherparse::Ipv4Header::new(8, 64, 17.into(), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            header.dscp = (octet >> 2).try_into().unwrap();
            header.ecn = (octet & 3).try_into().unwrap();
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut packet).unwrap();
        }
        frame.extend(packet);
        frame.extend([0; 8]);
        frame
    }

    /// The table of RFC 6040, figure 4.
    fn decapsulated(inner: Ecn, outer: Ecn) -> Option<Ecn> {
        match (inner, outer) {
            (Ecn::NotEct, Ecn::Ce) => None,
            (Ecn::NotEct, _) => Some(Ecn::NotEct),
            (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
            (_, Ecn::Ect1) => Some(Ecn::Ect1),
            (inner, _) => Some(inner),
        }
    }

    proptest! {
        #[test]
        fn the_field_follows_the_table_and_all_else_stays(v6: bool, tags in 0u8..3, octet: u8) {
            for outer in ALL {
                let mut got = frame(v6, tags, octet);
                prop_assert_eq!(Ecn::of_frame(&got), Some(Ecn::from_octet(octet)));
                let result = propagate(&mut got, outer);
                let expected = decapsulated(Ecn::from_octet(octet), outer);
                prop_assert_eq!(result.is_ok(), expected.is_some());
                let octet = octet & !3 | expected.map_or(octet & 3, |ecn| ecn as u8);
                prop_assert_eq!(&got, &frame(v6, tags, octet));
                if !v6 {
                    let at = 14 + 4 * usize::from(tags);
                    prop_assert_eq!(Sum::default().bytes(&got[at..at + 20]).fold(), 0xffff);
                }
            }
        }

        #[test]
        fn nothing_panics_and_no_length_changes(mut bytes: Vec<u8>, ip in 0usize..3, outer in 0usize..4) {
            if let (Some(place), Some(kind)) = (bytes.get_mut(12..14), [[8, 0], [0x86, 0xdd]].get(ip)) {
                place.copy_from_slice(kind);
            }
            let before = bytes.clone();
            if propagate(&mut bytes, ALL[outer]).is_err() {
                prop_assert_eq!(Ecn::of_frame(&bytes), Some(Ecn::NotEct));
            }
            if Ecn::of_frame(&before).is_none() {
                prop_assert_eq!(bytes, before);
            }
        }
    }

    #[test]
    fn other_protocols_and_headers_cut_short_have_no_field() {
        for v6 in [false, true] {
            let whole = frame(v6, 1, 3);
            let header = 18 + if v6 { 40 } else { 20 };
            for len in 0..whole.len() {
                assert_eq!(Ecn::of_frame(&whole[..len]).is_some(), len >= header, "{len}");
            }
        }
        let mut arp = frame(false, 0, 0);
        arp[13] = 6;
        assert_eq!((Ecn::of_frame(&arp), propagate(&mut arp, Ecn::Ce)), (None, Ok(())));
        let mut mixed = frame(false, 0, 0);
        mixed[14] = 0x65;
        assert_eq!(Ecn::of_frame(&mixed), None);
    }

    #[test]
    fn one_marked_fragment_marks_the_message() {
        for one in ALL {
            assert_eq!(one.with_fragment(Ecn::Ce), Ecn::Ce);
            assert_eq!(Ecn::Ce.with_fragment(one), Ecn::Ce);
            for other in ALL {
                assert_eq!(one.with_fragment(other), other.with_fragment(one));
            }
            assert_eq!(Ecn::NotEct.with_fragment(one), one);
        }
    }
}
