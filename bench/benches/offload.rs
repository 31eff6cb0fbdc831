//! Time per super-frame of 64 KiB on a path of 1,500 bytes: split, coalescing, the MSS clamp.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

use switch_core::frame::checksum::Sum;
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::{Coalescer, FrameSource, Split, clamp_mss, finish_checksum};
use switch_core::vnet::{Gso, PartialCsum, VnetHdr};

/// The longest Ethernet frame in a sealed datagram on an underlay of 1,500 bytes, give or take its header.
const MAX_FRAME: usize = 1428;
const PAYLOAD: usize = 64_000;

fn super_frame() -> (Vec<u8>, VnetHdr) {
    let mut frame = tcp_frame(0x18, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], PAYLOAD);
    let vnet = VnetHdr {
        csum: Some(PartialCsum { start: 34, offset: 16 }),
        gso: Gso::TcpV4 { ecn: false },
        hdr_len: 66,
        gso_size: 1448,
        ..VnetHdr::default()
    };
    frame[24..26].fill(0);
    let sum = Sum::default().bytes(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    (frame, vnet)
}

fn tcp_frame(flags: u8, options: &[u8], payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend(((40 + options.len() + payload) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x0f, 0xa0, 0x13, 0x89, 0, 0, 0, 1, 0, 0, 0, 2]);
    frame.extend([((20 + options.len()) * 4) as u8, flags, 1, 0, 0, 0, 0, 0]);
    frame.extend(options);
    frame.resize(frame.len() + payload, 0x5a);
    frame
}

fn segments(frame: &[u8], vnet: &VnetHdr) -> Vec<Vec<u8>> {
    let split = Split::new(frame, vnet, MAX_FRAME).expect("a good super-frame");
    (0..split.count())
        .map(|i| {
            let mut segment = vec![0; split.segment_len(i)];
            split.write_segment(i, &mut segment);
            segment
        })
        .collect()
}

fn offload(c: &mut Criterion) {
    let (frame, vnet) = super_frame();
    let csum = vnet.csum.expect("partial");
    let partial = segments(&frame, &vnet);
    let mut full = partial.clone();
    for segment in &mut full {
        finish_checksum(segment, csum).expect("inside");
    }
    let mut group = c.benchmark_group("offload");
    group.throughput(Throughput::Elements(partial.len() as u64));

    let mut out = vec![0u8; partial.len() * MAX_FRAME];
    group.bench_function("split, headers only", |b| {
        b.iter(|| {
            let split = Split::new(black_box(&frame), &vnet, MAX_FRAME).expect("a good super-frame");
            for (i, out) in (0..split.count()).zip(out.chunks_mut(MAX_FRAME)) {
                black_box((split.write_header(i, out), split.payload(i)));
            }
        });
    });
    group.bench_function("split, payload copied", |b| {
        b.iter(|| {
            let split = Split::new(black_box(&frame), &vnet, MAX_FRAME).expect("a good super-frame");
            for (i, out) in (0..split.count()).zip(out.chunks_mut(MAX_FRAME)) {
                black_box(split.write_segment(i, out));
            }
        });
    });

    let source = FrameSource { vni: Vni::new(100).expect("in range"), peer: PeerId(1) };
    let mut coalescer = Coalescer::new(partial.len(), true);
    for (name, frames, csum) in
        [("coalesce, partial checksums", &partial, Some(csum)), ("coalesce, full checksums", &full, None)]
    {
        group.bench_function(name, |b| {
            b.iter(|| {
                for (i, frame) in frames.iter().enumerate() {
                    coalescer.push(source, i as u32, black_box(frame), csum, false);
                }
                let mut batch = coalescer.finish();
                while let Some(run) = batch.next_run() {
                    for piece in run.payloads() {
                        black_box(piece);
                    }
                }
            });
        });
    }
    group.finish();

    let syn = tcp_frame(0x02, &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7], 0);
    let data = &partial[0];
    let mut group = c.benchmark_group("mss clamp");
    group.bench_function("SYN", |b| {
        b.iter_batched_ref(
            || syn.clone(),
            |syn| clamp_mss(black_box(syn), 1400, false),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("data, passed by", |b| {
        let mut data = data.clone();
        b.iter(|| clamp_mss(black_box(&mut data), 1400, true));
    });
    group.finish();
}

criterion_group!(benches, offload);
criterion_main!(benches);
