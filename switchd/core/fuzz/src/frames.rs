//! Frames by checked parse.

use switch_core::frame::Eth;
use switch_core::frame::ecn::{Ecn, propagate};
use switch_core::frame::ip::Ip;
use switch_core::frame::transport::{Tcp, Udp};
use switch_core::offload::{clamp_mss, finish_checksum};
use switch_core::vnet::{PartialCsum, VNET_HDR_LEN, VnetHdr};

/// `data` is a frame: what parses lies inside it, in order; what is changed in place changes nothing else.
pub fn frame_parse(data: &[u8]) {
    vnet(data);
    let Ok(eth) = Eth::parse(data) else {
        assert!(data.len() < 22, "an Ethernet header of at most two tags fits");
        return;
    };
    assert!(eth.l3 <= data.len() && matches!(eth.l3, 14 | 18 | 22));
    assert!(eth.tags.vids().len() <= (eth.l3 - 14) / 4 && !eth.tags.vids().contains(&0));
    assert!(eth.tags.vids().iter().all(|vid| *vid < 4096));
    mss(data);
    congestion(data, eth.l3);
    let Ok(ip) = Ip::parse(data, &eth) else { return };
    assert!(eth.l3 == ip.l3 && ip.l3 < ip.l4 && ip.l4 <= ip.end && ip.end <= data.len());
    assert!(ip.l4 - ip.l3 >= 20);
    if let Ok(tcp) = Tcp::parse(data, &ip) {
        assert!(!ip.fragment);
        let payload = tcp.payload();
        assert!(ip.l4 + tcp.header().len() == payload.start && payload.start <= payload.end);
        assert_eq!(payload.end, ip.end);
        assert_eq!(tcp.options().len() + 20, tcp.header().len());
        checksum(data, &ip, 16);
    }
    if let Ok(udp) = Udp::parse(data, &ip) {
        assert!(ip.l4 + 8 == udp.payload().start && udp.payload().end == ip.end);
        checksum(data, &ip, 6);
    }
}

/// A partial checksum completed is right.
fn checksum(data: &[u8], ip: &Ip, offset: usize) {
    let mut frame = data[..ip.end].to_vec();
    let seed = ip.pseudo_header(&frame, ip.end - ip.l4).fold();
    frame[ip.l4 + offset..ip.l4 + offset + 2].copy_from_slice(&seed.to_be_bytes());
    let csum = PartialCsum { start: ip.l4 as u16, offset: offset as u16 };
    finish_checksum(&mut frame, csum).expect("inside of the frame");
    let sum = ip.pseudo_header(&frame, ip.end - ip.l4).bytes(&frame[ip.l4..]).fold();
    assert_eq!(sum, 0xffff);
}

/// A mark changes the field and IPv4's checksum at most, and once is enough.
fn congestion(data: &[u8], l3: usize) {
    for outer in [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce] {
        let mut frame = data.to_vec();
        if propagate(&mut frame, outer).is_err() {
            assert!(outer == Ecn::Ce && Ecn::of_frame(data) == Some(Ecn::NotEct) && frame == data);
            continue;
        }
        let changed: Vec<_> = (0..data.len()).filter(|at| frame[*at] != data[*at]).collect();
        assert!(changed.iter().all(|at| [l3 + 1, l3 + 10, l3 + 11].contains(at)), "{changed:?}");
        let once = frame.clone();
        assert_eq!((propagate(&mut frame, outer), frame), (Ok(()), once));
    }
}

fn mss(data: &[u8]) {
    for partial in [false, true] {
        let mut frame = data.to_vec();
        let lowered = clamp_mss(&mut frame, 1300, partial);
        let changed = frame.iter().zip(data).filter(|(a, b)| a != b).count();
        match lowered {
            None => assert_eq!(changed, 0),
            Some(old) => {
                assert!(old > 1240 && changed <= if partial { 2 } else { 4 });
                assert_eq!(clamp_mss(&mut frame, 1300, partial), None, "once is enough");
                if !partial {
                    assert_eq!(tcp_sum(&frame) == 0xffff, tcp_sum(data) == 0xffff, "as right as it was");
                }
            }
        }
    }
}

/// 0xffff if the checksum of a clamped frame is right.
fn tcp_sum(frame: &[u8]) -> u16 {
    let ip = Eth::parse(frame).and_then(|eth| Ip::parse(frame, &eth)).expect("a SYN was clamped");
    ip.pseudo_header(frame, ip.end - ip.l4).bytes(&frame[ip.l4..ip.end]).fold()
}

fn vnet(data: &[u8]) {
    let Ok(hdr) = VnetHdr::parse(data) else { return };
    let encoded = hdr.encode();
    assert_eq!(encoded.len(), VNET_HDR_LEN);
    assert_eq!(VnetHdr::parse(&encoded), Ok(hdr));
}
