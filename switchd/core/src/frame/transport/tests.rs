use super::super::Eth;
use super::*;
use etherparse::PacketBuilder;

fn builder() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
}

#[test]
fn tcp_header_with_options() {
    let mut frame = Vec::new();
    builder()
        .tcp(1, 2, 0x01020304, 9)
        .ack(7)
        .psh()
        .options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
        .unwrap()
        .write(&mut frame, b"data")
        .unwrap();
    let ip = Ip::parse(&frame, &Eth::parse(&frame).unwrap()).unwrap();
    let tcp = Tcp::parse(&frame, &ip).unwrap();
    assert_eq!(tcp.seq(), 0x01020304);
    assert_eq!(tcp.flags(), tcp_flags::ACK | tcp_flags::PSH);
    assert_eq!(tcp.options().len(), 12);
    assert_eq!(&frame[tcp.payload()], b"data");
    assert!(Udp::parse(&frame, &ip).is_err());

    frame[ip.l4 + 12] = 0x40;
    assert!(matches!(Tcp::parse(&frame, &ip), Err(FrameError::Malformed { what: "data offset", .. })));
    frame[ip.l4 + 12] = 0xf0;
    assert!(matches!(Tcp::parse(&frame, &ip), Err(FrameError::Short { .. })));
}

#[test]
fn udp_length_must_be_the_packets() {
    let mut frame = Vec::new();
    builder().udp(1, 2).write(&mut frame, b"data").unwrap();
    let ip = Ip::parse(&frame, &Eth::parse(&frame).unwrap()).unwrap();
    let udp = Udp::parse(&frame, &ip).unwrap();
    assert_eq!(&frame[udp.payload()], b"data");
    frame[ip.l4 + 5] -= 1;
    assert!(Udp::parse(&frame, &ip).is_err());
}
