//! A switch with two peers, instances by number, and frames of every kind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::frame::arp::{self, Arp};
use crate::frame::nd::{self, Nd};
use crate::frame::{Eth, Tags, build, checksum::Sum, ethertype};
use crate::ids::{Generation, Mac, PeerId, Vni};
use crate::switch::*;
use crate::time::Time;
use crate::vnet::VnetHdr;

pub(super) const ENDPOINT: Mac = Mac([2, 0x73, 0x77, 0, 0, 100]);
pub(super) const P1: PeerId = PeerId(1);
pub(super) const P2: PeerId = PeerId(2);
pub(super) const VNET: VnetHdr =
    VnetHdr { csum: None, data_valid: false, gso: crate::vnet::Gso::None, hdr_len: 0, gso_size: 0 };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub(super) const MODES: [Mode; 2] = [Mode::Rewrite, Mode::Preserve];

pub(super) fn config(mode: Mode) -> SwitchConfig {
    SwitchConfig {
        vni: Vni::new(100).unwrap(),
        mode,
        endpoint_mac: ENDPOINT,
        policy: Policy::default(),
        limits: Limits::default(),
        gateways: Vec::new(),
        hash_seed: [1, 2, 3, 4],
    }
}

pub(super) fn switch(mode: Mode) -> Switch {
    with(config(mode))
}

pub(super) fn with(config: SwitchConfig) -> Switch {
    let mut sw = Switch::new(config);
    sw.handle_link(P1, true, at(0));
    sw.handle_link(P2, true, at(0));
    // Nobody waits for anything yet: the second asking is over.
    sw.handle_timeout(at(100));
    sw
}

pub(super) fn at(ms: u64) -> Time {
    Time::from_epoch(Duration::from_millis(ms))
}

pub(super) fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

pub(super) fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

pub(super) fn v6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n))
}

pub(super) fn ip(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => v4(n).into(),
        Family::V6 => v6(n).into(),
    }
}

pub(super) fn station(n: u8) -> BindingKey {
    BindingKey { tags: Tags::NONE, mac: mac(n) }
}

pub(super) fn binding(n: u8, at: Place, generation: u64) -> Binding {
    Binding {
        tags: Tags::NONE,
        mac: mac(n),
        ips: vec![v4(n).into(), v6(n).into()],
        at,
        generation: Generation(generation),
        source: Source::Controller,
        state: State::Active,
    }
}

/// The same, as another switch announced it.
pub(super) fn announced(n: u8, at: Place, generation: u64) -> Binding {
    Binding { source: Source::Learned, ..binding(n, at, generation) }
}

/// "Who has `target`?" of instance `n`, to everybody.
pub(super) fn request(family: Family, n: u8, target: u8) -> Vec<u8> {
    request_to(family, n, target, None)
}

/// The same to one MAC.
pub(super) fn poll(family: Family, n: u8, target: u8, to: Mac) -> Vec<u8> {
    request_to(family, n, target, Some(to))
}

fn request_to(family: Family, n: u8, target: u8, to: Option<Mac>) -> Vec<u8> {
    match family {
        Family::V4 => {
            let op = arp::REQUEST;
            let m = Arp { op, sha: mac(n), spa: v4(n), tha: Mac::ZERO, tpa: v4(target) };
            arp_frame(to.unwrap_or(Mac::BROADCAST), mac(n), &m)
        }
        Family::V6 => {
            let dst = if to.is_some() { v6(target) } else { nd::solicited_node(v6(target)) };
            let mut f =
                build::header(to.unwrap_or(nd::multicast_mac(dst)), mac(n), Tags::NONE, ethertype::IPV6);
            nd::append_solicit(&mut f, v6(n), dst, v6(target), Some(mac(n)));
            f
        }
    }
}

/// A probe of instance `n` for `target`: ARP with sender 0.0.0.0, or duplicate address detection.
pub(super) fn probe(family: Family, n: u8, target: u8) -> Vec<u8> {
    match family {
        Family::V4 => {
            let spa = Ipv4Addr::UNSPECIFIED;
            let m = Arp { op: arp::REQUEST, sha: mac(n), spa, tha: Mac::ZERO, tpa: v4(target) };
            arp_frame(Mac::BROADCAST, mac(n), &m)
        }
        Family::V6 => {
            let dst = nd::solicited_node(v6(target));
            let mut f = build::header(nd::multicast_mac(dst), mac(n), Tags::NONE, ethertype::IPV6);
            nd::append_solicit(&mut f, Ipv6Addr::UNSPECIFIED, dst, v6(target), None);
            f
        }
    }
}

/// "I have my IP" of instance `n` to everybody.
pub(super) fn gratuitous(family: Family, n: u8) -> Vec<u8> {
    match family {
        Family::V4 => {
            let m = Arp { op: arp::REQUEST, sha: mac(n), spa: v4(n), tha: Mac::ZERO, tpa: v4(n) };
            arp_frame(Mac::BROADCAST, mac(n), &m)
        }
        Family::V6 => advert(n, nd::multicast_mac(nd::ALL_NODES), nd::ALL_NODES, nd::FLAG_OVERRIDE),
    }
}

/// The reply of instance `n` to instance `asker`, sent to the MAC `to`.
pub(super) fn reply(family: Family, n: u8, asker: u8, to: Mac) -> Vec<u8> {
    match family {
        Family::V4 => {
            let m = Arp { op: arp::REPLY, sha: mac(n), spa: v4(n), tha: to, tpa: v4(asker) };
            arp_frame(to, mac(n), &m)
        }
        Family::V6 => advert(n, to, v6(asker), nd::FLAG_OVERRIDE | nd::FLAG_SOLICITED),
    }
}

pub(super) fn advert(n: u8, to: Mac, dst: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut f = build::header(to, mac(n), Tags::NONE, ethertype::IPV6);
    nd::append_advert(&mut f, v6(n), dst, v6(n), flags, mac(n));
    f
}

pub(super) fn arp_frame(dst: Mac, src: Mac, m: &Arp) -> Vec<u8> {
    let mut f = build::header(dst, src, Tags::NONE, ethertype::ARP);
    m.append(&mut f);
    f
}

/// A UDP datagram.
pub(super) fn udp(dst: Mac, src: Mac, from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(src.0, dst.0);
    let mut f = Vec::new();
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            builder.ipv4(a.octets(), b.octets(), 64).udp(ports.0, ports.1).write(&mut f, b"payload").unwrap();
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            builder.ipv6(a.octets(), b.octets(), 64).udp(ports.0, ports.1).write(&mut f, b"payload").unwrap();
        }
        _ => panic!("one family"),
    }
    f
}

pub(super) fn data(family: Family, n: u8, to: u8, dst: Mac) -> Vec<u8> {
    udp(dst, mac(n), ip(family, n), ip(family, to), (1000, 2000))
}

pub(super) fn other(dst: Mac, src: Mac, ethertype: u16) -> Vec<u8> {
    let mut f = build::header(dst, src, Tags::NONE, ethertype);
    f.extend([0; 46]);
    f
}

pub(super) fn router_advert(n: u8) -> Vec<u8> {
    let mut f = build::header(nd::multicast_mac(nd::ALL_NODES), mac(n), Tags::NONE, ethertype::IPV6);
    let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(n));
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    icmp.extend(mac(n).0);
    let sum = Sum::default()
        .pseudo_v6(src, nd::ALL_NODES, 58, icmp.len() as u32)
        .bytes(&icmp)
        .finish()
        .to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    f.extend([0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 255]);
    f.extend(src.octets());
    f.extend(nd::ALL_NODES.octets());
    f.extend(icmp);
    f
}

/// What the switch says of a local frame, and the frame as it goes on.
pub(super) fn local(sw: &mut Switch, frame: &[u8], now: Time) -> (Verdict, Vec<u8>) {
    let mut f = frame.to_vec();
    let verdict = sw.handle_local(&mut f, &VNET, now);
    (verdict, f)
}

pub(super) fn remote(sw: &mut Switch, frame: &[u8], from: PeerId, now: Time) -> (Verdict, Vec<u8>) {
    let mut f = frame.to_vec();
    let verdict = sw.handle_remote(&mut f, &VNET, from, now);
    (verdict, f)
}

/// Instance `n` makes itself known, in both families.
pub(super) fn hello(sw: &mut Switch, n: u8, place: Place, now: Time) {
    for family in FAMILIES {
        match place {
            Place::Local => local(sw, &gratuitous(family, n), now),
            Place::Peer(p) => remote(sw, &gratuitous(family, n), p, now),
        };
    }
    drain(sw);
    while sw.poll_event().is_some() {}
}

pub(super) fn drain(sw: &mut Switch) -> Vec<Transmit> {
    std::iter::from_fn(|| sw.poll_transmit()).collect()
}

pub(super) fn events(sw: &mut Switch) -> Vec<Event> {
    std::iter::from_fn(|| sw.poll_event()).collect()
}

pub(super) fn one(mut transmits: Vec<Transmit>) -> Transmit {
    assert_eq!(transmits.len(), 1, "{transmits:?}");
    transmits.remove(0)
}

pub(super) fn eth(frame: &[u8]) -> Eth {
    Eth::parse(frame).unwrap()
}

/// An answer or announcement, by fields that both families have: Ethernet source and destination, IP, the MAC
/// that the message gives for it, and whether it is a reply to an asker. Checked by etherparse too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    pub(super) dst: Mac,
    pub(super) src: Mac,
    pub(super) ip: IpAddr,
    pub(super) mac: Mac,
}

pub(super) fn told(frame: &[u8]) -> Told {
    let e = eth(frame);
    if e.ethertype == ethertype::ARP {
        let a = Arp::parse(frame, e.l3).unwrap();
        let sliced = etherparse::ArpPacketSlice::from_slice(&frame[e.l3..]).unwrap();
        assert_eq!(sliced.sender_hw_addr(), a.sha.0);
        assert_eq!(sliced.sender_protocol_addr(), a.spa.octets());
        return Told { dst: e.dst, src: e.src, ip: a.spa.into(), mac: a.sha };
    }
    check_icmp(frame);
    let n = nd(frame);
    let nd::NdKind::Advert { target, .. } = n.kind else { panic!("{n:?}") };
    Told { dst: e.dst, src: e.src, ip: target.into(), mac: n.tlla.unwrap().mac }
}

pub(super) fn nd(frame: &[u8]) -> Nd {
    Nd::parse(frame, &eth(frame), false).unwrap().unwrap()
}

/// The sender's link-layer address as the message gives it.
pub(super) fn sender_mac(frame: &[u8]) -> Mac {
    let e = eth(frame);
    if e.ethertype == ethertype::ARP {
        return Arp::parse(frame, e.l3).unwrap().sha;
    }
    check_icmp(frame);
    let n = nd(frame);
    n.slla.or(n.tlla).map_or(e.src, |a| a.mac)
}

/// The ICMPv6 checksum, as etherparse computes it.
pub(super) fn check_icmp(frame: &[u8]) {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { panic!("not IPv6") };
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("not ICMPv6") };
    assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()), "bad checksum");
}
