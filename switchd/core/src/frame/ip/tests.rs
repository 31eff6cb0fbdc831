use super::*;
use etherparse::PacketBuilder;
use proptest::prelude::*;

fn parse(frame: &[u8]) -> Result<Ip, FrameError> {
    Ip::parse(frame, &Eth::parse(frame)?)
}

fn v4_udp(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1, 2)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An IPv6 frame with a chain of extension headers in front of UDP's number.
fn v6_chain(chain: &[(u8, &[u8])]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    let body: usize = chain.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + 8;
    let first = chain.first().map_or(protocol::UDP, |(number, _)| *number);
    frame.extend([0x60, 0, 0, 0, 0, body as u8, first, 64]);
    frame.extend([0xfe; 32]);
    for (i, (_, bytes)) in chain.iter().enumerate() {
        frame.push(chain.get(i + 1).map_or(protocol::UDP, |(number, _)| *number));
        frame.extend(&bytes[1..]);
    }
    frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    frame
}

#[test]
fn padding_lies_behind_the_packets_end() {
    let mut frame = v4_udp(b"hi");
    let len = frame.len();
    frame.extend([0; 20]);
    let ip = parse(&frame).unwrap();
    assert_eq!((ip.l3, ip.l4, ip.end, ip.protocol), (14, 34, len, protocol::UDP));
    assert!(ip.is_plain() && !ip.fragment);
}

#[test]
fn extension_headers_are_walked() {
    let hop = (protocol::HOP_BY_HOP, &[0u8; 8][..]);
    let routing = (protocol::ROUTING, &[0u8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..]);
    let fragment = (protocol::FRAGMENT, &[0u8, 9, 0, 1, 0, 0, 0, 1][..]);

    let ip = parse(&v6_chain(&[hop])).unwrap();
    assert_eq!((ip.l4, ip.protocol, ip.is_plain()), (62, protocol::UDP, false));
    let ip = parse(&v6_chain(&[hop, routing])).unwrap();
    assert_eq!((ip.l4, ip.protocol, ip.routed), (78, protocol::UDP, true));
    let ip = parse(&v6_chain(&[fragment])).unwrap();
    assert_eq!((ip.l4, ip.protocol, ip.fragment), (62, protocol::UDP, true));
    assert!(parse(&v6_chain(&[hop; 9])).is_err());
}

#[test]
fn pseudo_header_agrees_with_the_checksum_of_a_good_packet() {
    let frame = v4_udp(b"payload");
    let ip = parse(&frame).unwrap();
    let sum = ip.pseudo_header(&frame, ip.end - ip.l4).bytes(&frame[ip.l4..ip.end]);
    assert_eq!(sum.fold(), 0xffff);
}

#[test]
fn every_prefix_is_refused() {
    for whole in [v4_udp(b"0123456789"), v6_chain(&[(protocol::HOP_BY_HOP, &[0; 8])])] {
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "{len}");
        }
        assert!(parse(&whole).is_ok());
    }
}

proptest! {
    #[test]
    fn offsets_are_ordered_and_inside_the_frame(v6: bool, rest in prop::collection::vec(any::<u8>(), 0..200), first: u8) {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(if v6 { [0x86, 0xdd, 0x60 | (first & 0xf)] } else { [0x08, 0x00, 0x40 | (first & 0xf)] });
        frame.extend(&rest);
        if let Ok(ip) = parse(&frame) {
            prop_assert!(ip.l3 < ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len());
        }
    }
}
