//! Format checks against etherparse and the rules of RFC 4861.

use super::*;
use crate::frame::{Tags, build};

const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
const B: Mac = Mac([2, 0, 0, 0, 0, 2]);
const SRC: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const TARGET: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);

fn solicit(slla: Option<Mac>) -> Vec<u8> {
    let dst = solicited_node(TARGET);
    let mut f = build::header(multicast_mac(dst), A, Tags::NONE, ethertype::IPV6);
    append_solicit(&mut f, if slla.is_some() { SRC } else { Ipv6Addr::UNSPECIFIED }, dst, TARGET, slla);
    f
}

fn advert() -> Vec<u8> {
    let mut f = build::header(B, A, Tags::NONE, ethertype::IPV6);
    append_advert(&mut f, TARGET, SRC, TARGET, FLAG_ROUTER | FLAG_SOLICITED, A);
    f
}

fn read(frame: &[u8]) -> Result<Option<Nd>, FrameError> {
    Nd::parse(frame, &Eth::parse(frame)?, false)
}

/// The frame with its ICMPv6 checksum made right again.
fn resum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[56..58].fill(0);
    let len = (frame.len() - 54) as u32;
    let sum = Sum::default().pseudo_v6(ipv6(&frame[22..38]), ipv6(&frame[38..54]), 58, len);
    let sum = sum.bytes(&frame[54..]).finish();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn groups() {
    assert_eq!(solicited_node(TARGET), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    assert_eq!(multicast_mac(solicited_node(TARGET)), Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
}

#[test]
fn what_is_built_is_read_back() {
    let s = read(&solicit(Some(A))).unwrap().unwrap();
    assert_eq!((s.src, s.kind, s.tlla), (SRC, NdKind::Solicit { target: TARGET }, None));
    assert_eq!(s.slla, Some(LinkAddr { mac: A, at: 80 }));
    let dad = read(&solicit(None)).unwrap().unwrap();
    assert!(dad.src.is_unspecified() && dad.slla.is_none());
    let a = read(&advert()).unwrap().unwrap();
    let kind = NdKind::Advert { target: TARGET, router: true, solicited: true, override_: false };
    assert_eq!((a.kind, a.tlla.unwrap().mac), (kind, A));
}

#[test]
fn link_addresses_are_replaced_under_a_right_checksum() {
    for mac in [B, Mac([0xff; 6]), Mac::ZERO, Mac([2, 0x73, 0x77, 0, 0, 100])] {
        let mut f = advert();
        let nd = read(&f).unwrap().unwrap();
        set_link_addr(&mut f, &nd, nd.tlla.unwrap(), mac, false);
        let again = read(&f).unwrap().unwrap();
        assert_eq!(again.tlla.unwrap().mac, mac);
        let packet = etherparse::SlicedPacket::from_ethernet(&f).unwrap();
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!() };
        assert!(icmp.is_checksum_valid(TARGET.octets(), SRC.octets()));
    }
}

#[test]
fn rules_of_rfc_4861() {
    let cases: [(&str, usize, u8); 6] = [
        ("hop limit", 21, 254),
        ("code", 55, 1),
        ("group target", 62, 0xff),
        ("empty option", 79, 0),
        ("option past the end", 79, 2),
        ("version", 14, 0x50),
    ];
    for (what, at, byte) in cases {
        let mut f = solicit(Some(A));
        f[at] = byte;
        assert!(read(&resum(f)).is_err(), "{what}");
    }
    let mut bad_sum = solicit(Some(A));
    bad_sum[57] ^= 1;
    assert!(read(&bad_sum).is_err());
    assert!(Nd::parse(&bad_sum, &Eth::parse(&bad_sum).unwrap(), true).is_ok(), "left partial or verified");
    let mut dad_with_option = solicit(Some(A));
    dad_with_option[22..38].fill(0);
    assert!(read(&resum(dad_with_option)).is_err());
    let mut advert_from_nobody = advert();
    advert_from_nobody[22..38].fill(0);
    assert!(read(&resum(advert_from_nobody)).is_err());
    let mut dad_elsewhere = solicit(None);
    dad_elsewhere[53] = 1;
    dad_elsewhere[38..53].copy_from_slice(&ALL_NODES.octets()[..15]);
    assert!(read(&resum(dad_elsewhere)).is_err());
}

#[test]
fn other_frames_are_none_and_prefixes_refused() {
    let whole = solicit(Some(A));
    for len in 54..whole.len() {
        assert!(read(&whole[..len]).is_err(), "{len}");
    }
    let mut echo = whole.clone();
    echo[54] = 128;
    assert_eq!(read(&echo), Ok(None));
    let mut tcp = whole;
    tcp[20] = 6;
    assert_eq!(read(&tcp), Ok(None));
}
