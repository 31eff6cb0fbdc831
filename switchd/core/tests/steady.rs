//! The steady path allocates nothing: what a running flow meets between the kernel's calls, on both nodes.

use std::time::Duration;

use bench_micro::frames::{Frame, arp_request, tcp, udp};
use bench_micro::{Counting, PEER, Pair, allocations, allocations_of_all, switch};
use switch_core::switch::{Mode, Place, Verdict};
use switch_core::time::Time;

#[global_allocator]
static COUNTING: Counting = Counting;

/// The UDP payload that an underlay of 1500, and one of 9000, carries over IPv4.
const PATHS: [usize; 2] = [1472, 8972];

/// A frame each five milliseconds: the second of the tables' timers is among what is measured.
fn at(n: u64) -> Time {
    Time::from_epoch(Duration::from_millis(5 * n))
}

/// Allocations for two seconds' frames, after one second's.
fn steady(pair: &mut Pair, mut frame: Frame, expected: (usize, usize)) -> u64 {
    let mut carry = |n| assert_eq!(pair.carry(&mut frame, at(n)), expected);
    (0..200).for_each(&mut carry);
    let before = allocations();
    (200..600).for_each(&mut carry);
    allocations() - before
}

#[test]
fn the_allocator_counts() {
    let before = allocations();
    let mut vec: Vec<u64> = Vec::with_capacity(std::hint::black_box(4));
    vec.reserve(std::hint::black_box(100));
    assert_eq!(std::hint::black_box(vec).len(), 0);
    assert_eq!(allocations() - before, 2);
}

#[test]
fn each_threads_allocations_are_its_own_and_all_are_counted() {
    let (before, of_all) = (allocations(), allocations_of_all());
    let other = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let before = allocations();
            (0..100).for_each(|n| drop(std::hint::black_box(Box::new(n))));
            allocations() - before
        });
        other.join().unwrap()
    });
    assert_eq!(other, 100);
    assert!(allocations_of_all() - of_all >= 100);
    assert!(allocations() - before < 100, "another thread's are its own");
}

#[test]
fn super_frames_are_carried_without_allocation() {
    for mode in [Mode::Rewrite, Mode::Preserve] {
        for (payload, datagrams) in [(64_000, [47, 45]), (8000, [6, 6])] {
            for (path, datagrams) in PATHS.into_iter().zip(datagrams) {
                let mut pair = Pair::new(mode, path);
                assert_eq!(steady(&mut pair, tcp(payload), (datagrams, 1)), 0, "{mode:?} {payload} {path}");
            }
        }
    }
}

#[test]
fn whole_frames_are_carried_without_allocation() {
    for mode in [Mode::Rewrite, Mode::Preserve] {
        for frame in [tcp(1334), udp(64), udp(1400)] {
            let len = frame.bytes.len();
            assert_eq!(steady(&mut Pair::new(mode, 1472), frame, (1, 1)), 0, "{mode:?} {len}");
        }
        assert_eq!(steady(&mut Pair::new(mode, 8972), udp(8192), (1, 1)), 0, "{mode:?}");
    }
}

/// What does not fit the path is cut, and put together in buffers that are used again.
#[test]
fn fragments_are_carried_without_allocation() {
    assert_eq!(steady(&mut Pair::new(Mode::Rewrite, 1472), udp(8192), (6, 1)), 0);
}

/// An answer is a new frame, and the one thing that is allocated for it.
#[test]
fn an_arp_request_is_answered_with_one_allocation() {
    let mut switch = switch(Mode::Rewrite, Place::Local, Place::Peer(PEER));
    let mut request = arp_request();
    let mut ask = |n| {
        assert_eq!(switch.handle_local(&mut request.bytes, &request.vnet, at(n)), Verdict::Answered);
        assert!(switch.poll_transmit().is_some());
        while switch.poll_event().is_some() {}
    };
    (0..100).for_each(&mut ask);
    let before = allocations();
    (100..600).for_each(&mut ask);
    assert_eq!(allocations() - before, 500);
}
