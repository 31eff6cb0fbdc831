//! What the switch takes to decide: a unicast frame whose destination is known, and what it answers itself.

mod micro;

use std::hint::black_box;
use std::net::Ipv4Addr;

use bench_micro::frames::{ENDPOINT, Frame, TO, arp_request, tcp, udp, udp_to};
use bench_micro::{PEER, binding, switch};
use criterion::{Criterion, criterion_group, criterion_main};
use switch_core::ids::Mac;
use switch_core::switch::{Mode, Place, Verdict};
use switch_core::time::Time;

const NOW: Time = Time::ZERO;

fn sizes() -> [(&'static str, Frame); 4] {
    [
        ("64 B", udp(64)),
        ("1400 B segment", tcp(1334)),
        ("8 KB", udp(8192)),
        ("64 KiB super-frame", tcp(64_000)),
    ]
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for (mode, to) in [(Mode::Rewrite, ENDPOINT), (Mode::Preserve, TO)] {
        for (name, mut frame) in sizes() {
            let mut switch = switch(mode, Place::Local, Place::Peer(PEER));
            micro::measure(&mut group, &format!("local, {mode:?}, {name}"), || {
                frame.address(to);
                let verdict = switch.handle_local(black_box(&mut frame.bytes), &frame.vnet, NOW);
                assert_eq!(verdict, Verdict::Peer(PEER));
            });
        }
        for (name, mut frame) in sizes() {
            let mut switch = switch(mode, Place::Peer(PEER), Place::Local);
            micro::measure(&mut group, &format!("remote, {mode:?}, {name}"), || {
                frame.address(TO);
                let verdict = switch.handle_remote(black_box(&mut frame.bytes), &frame.vnet, PEER, NOW);
                assert_eq!(verdict, Verdict::Bridge);
            });
        }
    }
    group.finish();
}

/// Each frame for another of many instances: what tables that do not fit the nearest caches cost.
fn many(c: &mut Criterion) {
    const INSTANCES: u32 = 100_000;
    let mut group = c.benchmark_group("decide");
    let mut switch = switch(Mode::Rewrite, Place::Local, Place::Peer(PEER));
    for n in 0..INSTANCES {
        let [_, a, b, c] = n.to_be_bytes();
        let of = binding(Mac([6, 0, 0, a, b, c]), Ipv4Addr::new(11, a, b, c), Place::Peer(PEER));
        switch.set_binding(of, NOW).expect("within the limits");
    }
    let mut frame = udp_to(64, Ipv4Addr::new(11, 0, 0, 0));
    let mut n = 0u32;
    micro::measure(&mut group, "local, Rewrite, 64 B, each to another of 100,000", || {
        frame.address(ENDPOINT);
        // A stride that is odd and large, so that no prefetcher guesses the next.
        n = (n + 61_681) % INSTANCES;
        frame.bytes[31..34].copy_from_slice(&n.to_be_bytes()[1..]);
        let verdict = switch.handle_local(black_box(&mut frame.bytes), &frame.vnet, NOW);
        assert_eq!(verdict, Verdict::Peer(PEER));
    });
    group.finish();
}

fn answer(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for mode in [Mode::Rewrite, Mode::Preserve] {
        let mut switch = switch(mode, Place::Local, Place::Peer(PEER));
        let mut request = arp_request();
        micro::measure(&mut group, &format!("ARP answered, {mode:?}"), || {
            let verdict = switch.handle_local(black_box(&mut request.bytes), &request.vnet, NOW);
            assert_eq!(verdict, Verdict::Answered);
            black_box(switch.poll_transmit());
            while switch.poll_event().is_some() {}
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = micro::criterion(); targets = decide, many, answer }
criterion_main!(benches);
