//! All that two nodes do with a frame between their system calls: read, decide, clamp, split, seal, open, join, decide.

mod micro;

use std::hint::black_box;

use bench_micro::Pair;
use bench_micro::frames::{tcp, udp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use switch_core::switch::Mode;
use switch_core::time::Time;

fn path(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for (name, mut frame, datagram) in [
        ("64 B", udp(64), 1472),
        ("1400 B segment", tcp(1334), 1472),
        ("8 KB in fragments", udp(8192), 1472),
        ("8 KB, path of 9000", udp(8192), 8972),
        ("64 KiB super-frame", tcp(64_000), 1472),
        ("64 KiB super-frame, path of 9000", tcp(64_000), 8972),
    ] {
        let mut pair = Pair::new(Mode::Rewrite, datagram);
        group.throughput(Throughput::Bytes(frame.bytes.len() as u64));
        micro::measure(&mut group, name, || {
            black_box(pair.carry(black_box(&mut frame), Time::ZERO));
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = micro::criterion(); targets = path }
criterion_main!(benches);
