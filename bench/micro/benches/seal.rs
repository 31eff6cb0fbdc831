//! Sealing and opening a datagram.

mod micro;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench_micro::{opener, sealer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use switch_core::seal::Cipher;
use switch_core::wire::{FRAME_HEADER_LEN, Header, Lane, SEAL_OVERHEAD};

/// Lengths of frames: the smallest that are common, a whole segment, and one that wants a path of 9000.
const FRAMES: [(&str, usize); 3] = [("64 B", 64), ("1400 B", 1400), ("8 KB", 8192)];
/// A 64 KiB super-frame on a path of 1500: so many datagrams of 1472 bytes.
const SEGMENTS: usize = 47;

fn seal(c: &mut Criterion) {
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let mut group = c.benchmark_group(cipher.name());
        for (name, len) in FRAMES {
            group.throughput(Throughput::Bytes(len as u64));
            one(&mut group, name, cipher, SEAL_OVERHEAD + FRAME_HEADER_LEN + len, 1);
        }
        group.throughput(Throughput::Bytes(64_000));
        one(&mut group, "64 KiB in 47 datagrams", cipher, 1472, SEGMENTS);
        group.finish();
    }
}

fn one(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    cipher: Cipher,
    datagram: usize,
    count: usize,
) {
    // A new one before the counters of the last are used up.
    let mut sealing = sealer(cipher);
    let mut buf = vec![0; datagram * count];
    micro::measure(group, &format!("seal, {name}"), || {
        for datagram in buf.chunks_exact_mut(datagram) {
            sealing.seal(Lane::Bulk, black_box(datagram)).expect("counters are left");
        }
    });

    let mut sealing = sealer(cipher);
    let message = vec![0x5a; datagram - SEAL_OVERHEAD];
    micro::measure(group, &format!("seal from elsewhere, {name}"), || {
        for datagram in buf.chunks_exact_mut(datagram) {
            sealing.seal_from(Lane::Bulk, black_box(&message), datagram).expect("counters are left");
        }
    });

    // Opening is in place and wants a new counter each time: what is opened is sealed outside of the measured time,
    // in batches, so that reading the clock costs nothing for each.
    let batch = count * 64;
    let (mut sealing, mut opening) = (sealer(cipher), opener(cipher));
    let mut buf = vec![0; datagram * batch];
    let mut batch_of = |datagrams: usize| {
        for datagram in buf.chunks_exact_mut(datagram).take(datagrams) {
            sealing.seal(Lane::Bulk, datagram).expect("counters are left");
        }
        let began = Instant::now();
        for datagram in buf.chunks_exact_mut(datagram).take(datagrams) {
            let header = Header::parse(datagram).expect("a sealed datagram");
            black_box(opening.open(&header, datagram).expect("a good tag"));
        }
        began.elapsed()
    };
    let each = micro::allocations_of(|| {
        batch_of(count);
    });
    group.bench_function(micro::with_allocations(&format!("open, {name}"), each), |b| {
        b.iter_custom(|runs| {
            let mut left = runs as usize * count;
            let mut took = Duration::ZERO;
            while left > 0 {
                let now = left.min(batch);
                took += batch_of(now);
                left -= now;
            }
            took
        });
    });
}

criterion_group! { name = benches; config = micro::criterion(); targets = seal }
criterion_main!(benches);
