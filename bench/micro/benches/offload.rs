//! Splitting super-frames, joining their segments again, and the MSS clamp, on a path of 1500.

mod micro;

use std::hint::black_box;

use bench_micro::frames::{Frame, tcp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::{Coalescer, FrameSource, Split, SplitPlan, clamp_mss, finish_checksum};
use switch_core::wire::FRAME_HEADER_LEN;

/// The longest Ethernet frame in a sealed datagram on an underlay of 1500 bytes.
const MAX_FRAME: usize = 1432;
/// Payloads: a super-frame as long as TCP makes it, a short one.
const SUPER_FRAMES: [(&str, usize); 2] = [("64 KiB", 64_000), ("8 KB", 8000)];

fn split(c: &mut Criterion) {
    let mut group = c.benchmark_group("split");
    for (name, payload) in SUPER_FRAMES {
        let frame = tcp(payload);
        let (vnet, count) = (frame.vnet, segments(&frame).len());
        group.throughput(Throughput::Elements(count as u64));
        let mut out = vec![0u8; count * MAX_FRAME];
        let mut overwritten = frame.bytes.clone();
        micro::measure(&mut group, &format!("{name}, headers in the frame"), || {
            let frame = black_box(&mut overwritten);
            let plan = SplitPlan::new(frame, &vnet, MAX_FRAME).expect("a super-frame");
            for i in 0..plan.count() {
                black_box(plan.write_in_place(i, FRAME_HEADER_LEN, frame));
            }
        });
        micro::measure(&mut group, &format!("{name}, payload copied"), || {
            let split = Split::new(black_box(&frame.bytes), &vnet, MAX_FRAME).expect("a super-frame");
            for (i, out) in (0..split.count()).zip(out.chunks_mut(MAX_FRAME)) {
                black_box(split.write_segment(i, out));
            }
        });
    }
    group.finish();
}

fn coalesce(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    let source = FrameSource { vni: Vni::new(100).expect("in range"), peer: PeerId(1) };
    let mut inputs = Vec::new();
    for (name, payload) in SUPER_FRAMES {
        let frame = tcp(payload);
        let csum = frame.vnet.csum.expect("partial");
        let partial = segments(&frame);
        let mut full = partial.clone();
        full.iter_mut().for_each(|segment| finish_checksum(segment, csum).expect("inside"));
        inputs.push((format!("{name}, partial checksums"), partial, Some(csum)));
        inputs.push((format!("{name}, full checksums"), full, None));
    }
    let single = tcp(1334);
    inputs.push(("one segment of 1400 B".to_owned(), vec![single.bytes], single.vnet.csum));
    for (name, frames, csum) in inputs {
        group.throughput(Throughput::Elements(frames.len() as u64));
        let mut coalescer = Coalescer::new(frames.len(), true);
        micro::measure(&mut group, &name, || {
            for (i, frame) in frames.iter().enumerate() {
                coalescer.push(source, i as u32, black_box(frame), csum, false);
            }
            let mut batch = coalescer.finish();
            while let Some(run) = batch.next_run() {
                run.payloads().for_each(|piece| {
                    black_box(piece);
                });
            }
        });
    }
    group.finish();
}

fn mss(c: &mut Criterion) {
    let mut group = c.benchmark_group("mss clamp");
    // MSS 1460, SACK permitted, timestamps, window scale.
    let mut syn = tcp(0).bytes;
    syn.truncate(54);
    syn.extend([2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
    syn[17] = 60;
    (syn[46], syn[47]) = (0xa0, 0x02);
    assert_eq!(clamp_mss(&mut syn.clone(), 1400, false), Some(1460));
    micro::measure(&mut group, "SYN", || {
        syn[56..58].copy_from_slice(&1460u16.to_be_bytes());
        black_box(clamp_mss(black_box(&mut syn), 1400, false));
    });
    let mut data = tcp(1334).bytes;
    micro::measure(&mut group, "data, passed by", || {
        black_box(clamp_mss(black_box(&mut data), 1400, true));
    });
    group.finish();
}

fn segments(frame: &Frame) -> Vec<Vec<u8>> {
    let split = Split::new(&frame.bytes, &frame.vnet, MAX_FRAME).expect("a good super-frame");
    (0..split.count())
        .map(|i| {
            let mut segment = vec![0; split.segment_len(i)];
            split.write_segment(i, &mut segment);
            segment
        })
        .collect()
}

criterion_group! { name = benches; config = micro::criterion(); targets = split, coalesce, mss }
criterion_main!(benches);
