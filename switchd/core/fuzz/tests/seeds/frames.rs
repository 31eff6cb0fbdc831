//! Frames as they are met on a bridge.

use etherparse::PacketBuilder;

pub(crate) const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ENDPOINT: [u8; 6] = [2, 0x73, 0x77, 0, 0, 1];
const ALL: [u8; 6] = [0xff; 6];
const NONE: [u8; 6] = [0; 6];
const IP_A: [u8; 4] = [10, 0, 0, 1];
const IP_B: [u8; 4] = [10, 0, 0, 2];
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

fn ip6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn eth(dst: [u8; 6], src: [u8; 6], ethertype: u16) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes()].concat()
}

fn arp(dst: [u8; 6], op: u8, sha: [u8; 6], spa: [u8; 4], tha: [u8; 6], tpa: [u8; 4]) -> Vec<u8> {
    let mut frame = eth(dst, sha, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, op]);
    for part in [&sha[..], &spa, &tha, &tpa] {
        frame.extend(part);
    }
    frame
}

/// ARP, in the order of a short life: request, reply, probe, announcement, poll.
pub(crate) fn arps() -> Vec<Vec<u8>> {
    vec![
        arp(ALL, 1, A, IP_A, NONE, IP_B),
        arp(A, 2, B, IP_B, A, IP_A),
        arp(ALL, 1, B, [0; 4], NONE, IP_B),
        arp(ALL, 1, A, IP_A, NONE, IP_A),
        arp(ALL, 2, B, IP_B, B, IP_B),
        arp(ENDPOINT, 1, A, IP_A, NONE, IP_B),
        arp(ALL, 1, ENDPOINT, IP_B, NONE, IP_A),
    ]
}

fn icmp6(dst_mac: [u8; 6], src: [u8; 16], dst: [u8; 16], body: &[u8]) -> Vec<u8> {
    let mut frame = eth(dst_mac, A, 0x86dd);
    frame.extend([0x60, 0, 0, 0, 0, body.len() as u8, 58, 255]);
    frame.extend(src);
    frame.extend(dst);
    let sum = switch_core::frame::checksum::Sum::default()
        .pseudo_v6(src.into(), dst.into(), 58, body.len() as u32)
        .bytes(body)
        .finish();
    frame.extend(body);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Neighbour discovery: solicitation, DAD, poll, advertisements, router messages.
pub(crate) fn nds() -> Vec<Vec<u8>> {
    let solicited =
        [&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0][..], &[2]].concat().try_into().unwrap();
    let nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let routers = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let group = |last| [0x33, 0x33, 0xff, 0, 0, last];
    let slla = [&[1, 1][..], &A].concat();
    let tlla = [&[2, 1][..], &A].concat();
    let ask = |target: u8| [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip6(target)].concat();
    let tell = |flags: u8, of: u8| [&[136, 0, 0, 0, flags, 0, 0, 0][..], &ip6(of), &tlla].concat();
    let router = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &slla].concat();
    vec![
        icmp6(group(2), ip6(1), solicited, &[&ask(2)[..], &slla].concat()),
        icmp6(group(2), [0; 16], solicited, &ask(2)),
        icmp6(B, ip6(1), ip6(2), &[&ask(2)[..], &slla].concat()),
        icmp6(B, ip6(1), ip6(2), &tell(0x60, 1)),
        icmp6([0x33, 0x33, 0, 0, 0, 1], ip6(1), nodes, &tell(0x20, 1)),
        icmp6([0x33, 0x33, 0, 0, 0, 2], ip6(1), routers, &[&[133, 0, 0, 0, 0, 0, 0, 0][..], &slla].concat()),
        icmp6([0x33, 0x33, 0, 0, 0, 1], ip6(1), nodes, &router),
    ]
}

/// TCP, UDP and ICMP over both IPs, with options, extension headers and fragments.
pub(crate) fn ips() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let v4 = || PacketBuilder::ethernet2(A, B).ipv4(IP_A, IP_B, 64);
    let v6 = || PacketBuilder::ethernet2(A, B).ipv6(ip6(1), ip6(2), 64);
    let syn: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        write(&mut frame);
        all.push(frame);
    };
    add(&|f| v4().tcp(4000, 80, 1, 512).syn().options_raw(&syn).unwrap().write(f, &[]).unwrap());
    add(&|f| v6().tcp(4000, 80, 1, 512).syn().ack(3).options_raw(&syn).unwrap().write(f, &[]).unwrap());
    add(&|f| v4().tcp(4000, 80, 1, 512).ack(3).write(f, &[]).unwrap());
    let odd: [u8; 8] = [1, 2, 4, 5, 180, 1, 1, 0];
    add(&|f| v4().tcp(4000, 80, 1, 512).syn().options_raw(&odd).unwrap().write(f, &[]).unwrap());
    add(&|f| {
        v4().tcp(4000, 80, 1, 512).ack(3).psh().options_raw(&TIMESTAMPS).unwrap().write(f, b"GET /").unwrap();
    });
    add(&|f| v4().tcp(4000, 80, 1, 512).rst().write(f, &[]).unwrap());
    add(&|f| v4().udp(5353, 53).write(f, b"a question").unwrap());
    add(&|f| v6().udp(5353, 53).write(f, b"a question").unwrap());
    add(&|f| v4().icmpv4_echo_request(1, 2).write(f, b"ping").unwrap());
    add(&|f| v6().icmpv6_echo_request(1, 2).write(f, b"ping").unwrap());
    let mut fragment = all[6].clone();
    fragment[20..22].copy_from_slice(&[0x20, 0]);
    let mut later = all[6].clone();
    later[20..22].copy_from_slice(&[0, 9]);
    let mut options = all[6].clone();
    options.splice(34..34, [0x94, 4, 0, 0]);
    options[14] = 0x46;
    options[17] += 4;
    all.extend([fragment, later, options]);
    for (number, header) in
        [(0, [17, 0, 1, 4, 0, 0, 0, 0]), (43, [17, 0, 0, 0, 0, 0, 0, 0]), (44, [17, 0, 0, 1, 0, 0, 0, 5])]
    {
        let mut extended = all[7].clone();
        extended.splice(54..54, header);
        extended[20] = number;
        extended[19] += 8;
        all.push(extended);
    }
    all
}

/// DHCP, RARP, STP, LLDP, multicast, an unknown EtherType, a frame of 802.3.
pub(crate) fn others() -> Vec<Vec<u8>> {
    let mut discover = Vec::new();
    let mut bootp = vec![0; 240];
    bootp[..3].copy_from_slice(&[1, 1, 6]);
    bootp[28..34].copy_from_slice(&A);
    bootp[236..].copy_from_slice(&[99, 130, 83, 99]);
    bootp.extend([53, 1, 1, 255]);
    PacketBuilder::ethernet2(A, ALL)
        .ipv4([0; 4], [255; 4], 64)
        .udp(68, 67)
        .write(&mut discover, &bootp)
        .unwrap();
    let mut offer = Vec::new();
    bootp[0] = 2;
    PacketBuilder::ethernet2(B, A).ipv4(IP_B, IP_A, 64).udp(67, 68).write(&mut offer, &bootp).unwrap();
    let mut mdns = Vec::new();
    PacketBuilder::ethernet2(A, [1, 0, 0x5e, 0, 0, 251])
        .ipv4(IP_A, [224, 0, 0, 251], 255)
        .udp(5353, 5353)
        .write(&mut mdns, &[0; 12])
        .unwrap();
    let mut rarp = arp(ALL, 3, A, [0; 4], A, [0; 4]);
    rarp[12..14].copy_from_slice(&[0x80, 0x35]);
    let stp = [&eth([1, 0x80, 0xc2, 0, 0, 0], A, 38)[..], &[0x42, 0x42, 3], &[0; 35]].concat();
    let lldp = [&eth([1, 0x80, 0xc2, 0, 0, 14], A, 0x88cc)[..], &[2, 7, 4], &A, &[0, 0]].concat();
    let unknown = [&eth(B, A, 0x88b5)[..], b"an experiment"].concat();
    vec![discover, offer, mdns, rarp, stp, lldp, unknown]
}

/// All of them, and each first one tagged.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let mut all = [arps(), nds(), ips(), others()].concat();
    for (i, tags) in [(0, 1), (0, 2), (7, 1), (14, 1), (14, 2), (15, 2), (20, 2)] {
        all.push(tagged(&all[i].clone(), tags));
    }
    all
}

/// With a customer tag, or a service tag in front of it.
pub(crate) fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let tag: &[u8] = if tags == 1 { &[0x81, 0, 0x20, 5] } else { &[0x88, 0xa8, 0, 7, 0x81, 0, 0x20, 5] };
    [&frame[..12], tag, &frame[12..]].concat()
}

/// TCP with `payload` bytes from `seq`; its checksum is full.
pub(crate) fn tcp(v6: bool, seq: u32, payload: usize, flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let bytes: Vec<u8> = (0..payload).map(|i| i as u8).collect();
    if v6 {
        let step = PacketBuilder::ethernet2(A, B).ipv6(ip6(1), ip6(2), 64).tcp(4000, 80, seq, 512).ack(3);
        step.options_raw(&TIMESTAMPS).unwrap().write(&mut frame, &bytes).unwrap();
    } else {
        let step = PacketBuilder::ethernet2(A, B).ipv4(IP_A, IP_B, 64).tcp(4000, 80, seq, 512).ack(3);
        step.options_raw(&TIMESTAMPS).unwrap().write(&mut frame, &bytes).unwrap();
    }
    let l4 = if v6 { 54 } else { 34 };
    let (old, new) = (u16::from_be_bytes([frame[l4 + 12], frame[l4 + 13]]), flags);
    frame[l4 + 13] |= new;
    let sum = u16::from_be_bytes([frame[l4 + 16], frame[l4 + 17]]);
    let fixed = switch_core::frame::checksum::update(sum, old, old | u16::from(new));
    frame[l4 + 16..l4 + 18].copy_from_slice(&fixed.to_be_bytes());
    frame
}

/// UDP with `payload` bytes.
pub(crate) fn udp(payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(A, B)
        .ipv4(IP_A, IP_B, 64)
        .udp(4000, 80)
        .write(&mut frame, &vec![7; payload])
        .unwrap();
    frame
}
