//! What is read of every frame before anything is decided, and of every datagram before it is opened.

mod micro;

use std::hint::black_box;

use bench_micro::frames::{tcp, udp};
use bench_micro::sealer;
use criterion::{Criterion, criterion_group, criterion_main};
use switch_core::frame::{Eth, ip::Ip, l3::L3};
use switch_core::ids::Vni;
use switch_core::seal::Cipher;
use switch_core::vnet::VnetHdr;
use switch_core::wire::{FrameHeader, Header, Lane, Message, Origin};

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, frame) in [("64 B", udp(64)), ("64 KiB super-frame", tcp(64_000))] {
        let header = frame.vnet.encode();
        micro::measure(&mut group, &format!("frame, {name}"), || {
            let vnet = VnetHdr::parse(black_box(&header)).expect("a good header");
            let eth = Eth::parse(black_box(&frame.bytes)).expect("a good frame");
            let ip = L3::parse(&frame.bytes, &eth).expect("good IP");
            black_box((vnet, ip));
        });
        micro::measure(&mut group, &format!("layout of IP, {name}"), || {
            let eth = Eth::parse(black_box(&frame.bytes)).expect("a good frame");
            black_box(Ip::parse(&frame.bytes, &eth).expect("good IP"));
        });
    }
    let mut datagram = vec![0; 1472];
    sealer(Cipher::Aes256Gcm).seal(Lane::Bulk, &mut datagram).expect("counters are left");
    let vni = Vni::new(100).expect("in range");
    let csum = udp(64).vnet.csum;
    let mut message = FrameHeader { vni, origin: Origin::TcpSegment, csum }.encode().to_vec();
    message.extend(udp(1400).bytes);
    micro::measure(&mut group, "datagram and message", || {
        black_box(Header::parse(black_box(&datagram)).expect("a good datagram"));
        black_box(Message::parse(black_box(&message)).expect("a good message"));
    });
    group.finish();
}

criterion_group! { name = benches; config = micro::criterion(); targets = parse }
criterion_main!(benches);
