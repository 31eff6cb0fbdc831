use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::frame::ecn::Ecn;
use crate::ids::PeerId;
use crate::time::Time;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

fn limits() -> ReassemblyLimits {
    ReassemblyLimits { max_bytes: 64_000, max_messages: 8, timeout: Duration::from_secs(1) }
}

fn at(ms: u64) -> Time {
    Time::from_epoch(Duration::from_millis(ms))
}

fn info(id: u32, offset: u16, total: u16) -> FragmentInfo {
    FragmentInfo { id, offset, total }
}

#[test]
fn fragments_are_even_and_cover_the_message() {
    let message: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
    let mut fragmenter = Fragmenter::new(u32::MAX);
    let fragments: Vec<_> = fragmenter.cut(&message, 1400).unwrap().collect();
    assert_eq!(fragments.iter().map(|(_, data)| data.len()).collect::<Vec<_>>(), [1000, 1000, 1000]);
    assert_eq!(fragments[2].0, info(u32::MAX, 2000, 3000));
    assert_eq!(fragmenter.cut(&message, 1400).unwrap().next().unwrap().0.id, 0);
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let mut fragmenter = Fragmenter::default();
    assert_eq!(fragmenter.cut(&[], 100).unwrap_err(), FragmentError::Empty);
    assert_eq!(fragmenter.cut(&[0; 9], 0).unwrap_err(), FragmentError::NoRoom);
    assert_eq!(fragmenter.cut(&[0; 65_536], 9).unwrap_err(), FragmentError::TooLong { len: 65_536 });
    assert_eq!(fragmenter.cut(&[0; 65_535], 65_535).unwrap().count(), 1);
}

#[test]
fn a_contradicting_fragment_drops_its_message() {
    let cases: &[(FragmentInfo, usize, ReassemblyDrop)] = &[
        (info(7, 0, 300), 0, ReassemblyDrop::Empty),
        (info(7, 250, 300), 51, ReassemblyDrop::OutOfRange),
        (info(7, u16::MAX, 300), 300, ReassemblyDrop::OutOfRange),
        (info(7, 200, 301), 100, ReassemblyDrop::Contradiction),
        (info(7, 100, 300), 100, ReassemblyDrop::Overlap),
        (info(7, 199, 300), 100, ReassemblyDrop::Overlap),
        (info(7, 50, 300), 51, ReassemblyDrop::Overlap),
        (info(7, 0, 300), 300, ReassemblyDrop::Overlap),
        (info(8, 0, 0), 1, ReassemblyDrop::OutOfRange),
    ];
    for (bad, len, reason) in cases {
        let mut r = Reassembler::new(limits());
        assert_eq!(r.handle(A, info(7, 100, 300), &[1; 100], Ecn::NotEct, Time::ZERO), Ok(None));
        assert_eq!(r.handle(A, *bad, &vec![2; *len], Ecn::NotEct, Time::ZERO), Err(*reason), "{bad:?}");
        let dropped = *reason != ReassemblyDrop::Empty && bad.id == 7;
        assert_eq!(r.messages(), usize::from(!dropped), "{bad:?}");
        // The same bytes from another peer are another message.
        assert_eq!(r.handle(B, info(7, 0, 300), &[1; 100], Ecn::NotEct, Time::ZERO), Ok(None));
    }
}

#[test]
fn unfinished_messages_expire() {
    let mut r = Reassembler::new(limits());
    assert_eq!(r.poll_timeout(), None);
    r.handle(A, info(1, 0, 20), &[1; 10], Ecn::NotEct, at(0)).unwrap();
    r.handle(A, info(2, 0, 20), &[1; 10], Ecn::NotEct, at(400)).unwrap();
    assert_eq!(r.poll_timeout(), Some(at(1000)));
    assert_eq!(r.handle_timeout(at(999)), 0);
    assert_eq!(r.handle_timeout(at(1000)), 1);
    assert_eq!(r.poll_timeout(), Some(at(1400)));
    assert_eq!(r.handle(A, info(2, 10, 20), &[2; 10], Ecn::NotEct, at(1300)).unwrap().unwrap().0.len(), 20);
    assert_eq!((r.messages(), r.bytes(), r.poll_timeout()), (0, 0, None));
}

#[test]
fn a_flooding_peer_only_harms_itself() {
    for total in [20u16, 60_000] {
        let mut r = Reassembler::new(limits());
        r.handle(B, info(1, 0, 3000), &[1; 1000], Ecn::NotEct, at(0)).unwrap();
        r.handle(B, info(2, 0, 3000), &[1; 1000], Ecn::NotEct, at(0)).unwrap();
        for id in 0..1000 {
            let dropped = r.handle(A, info(id, 0, total), &[1; 10], Ecn::NotEct, at(1)).err();
            assert_eq!(dropped, (total == 60_000).then_some(ReassemblyDrop::Full));
            assert!(r.messages() <= limits().max_messages && r.bytes() <= limits().max_bytes);
        }
        for id in [1, 2] {
            r.handle(B, info(id, 1000, 3000), &[1; 1000], Ecn::NotEct, at(2)).unwrap();
            assert!(
                r.handle(B, info(id, 2000, 3000), &[1; 1000], Ecn::NotEct, at(2)).unwrap().is_some(),
                "{total}"
            );
        }
    }
}

#[test]
fn a_newcomer_finds_room_among_floods() {
    let mut r = Reassembler::new(limits());
    for peer in [PeerId(3), PeerId(4), PeerId(5)] {
        for id in 0..100 {
            r.handle(peer, info(id, 0, 9000), &[1; 10], Ecn::NotEct, at(0)).unwrap();
        }
    }
    assert_eq!(r.handle(B, info(1, 0, 30), &[7; 20], Ecn::NotEct, at(0)), Ok(None));
    for id in 100..200 {
        r.handle(PeerId(3), info(id, 0, 9000), &[1; 10], Ecn::NotEct, at(0)).unwrap();
    }
    assert_eq!(r.handle(B, info(1, 20, 30), &[7; 10], Ecn::NotEct, at(0)).unwrap().unwrap().0, [7; 30]);
}

#[test]
fn a_message_in_too_many_parts_is_dropped() {
    let mut r = Reassembler::new(limits());
    let last = (0..1000u16)
        .map(|i| r.handle(A, info(1, i * 2, 4000), &[0], Ecn::NotEct, at(0)).err())
        .find(Option::is_some);
    assert_eq!(last, Some(Some(ReassemblyDrop::Scattered)));
    assert_eq!(r.messages(), 0);
}

#[test]
fn forgetting_a_peer_leaves_the_others() {
    let mut r = Reassembler::new(limits());
    for peer in [A, B, A] {
        r.handle(peer, info(r.messages() as u32, 0, 20), &[1; 10], Ecn::NotEct, at(0)).unwrap();
    }
    assert_eq!(r.forget(A), 2);
    assert_eq!((r.messages(), r.bytes()), (1, 20));
}

#[test]
fn impossible_limits_refuse() {
    let mut r = Reassembler::new(ReassemblyLimits { max_bytes: 100, ..limits() });
    assert_eq!(r.handle(A, info(1, 0, 101), &[1], Ecn::NotEct, at(0)), Err(ReassemblyDrop::TooLong));
    let mut r = Reassembler::new(ReassemblyLimits { max_messages: 0, ..limits() });
    assert_eq!(r.handle(A, info(1, 0, 101), &[1], Ecn::NotEct, at(0)), Err(ReassemblyDrop::TooLong));
}

proptest! {
    #[test]
    fn any_order_of_arrival_gives_the_message(
        len in 1usize..20_000, max in 400usize..3000, peers in 1u32..4, seed: u64,
    ) {
        let messages: Vec<Vec<u8>> =
            (0..peers).map(|p| (0..len).map(|i| (i as u32 * 31 + p * 7) as u8).collect()).collect();
        let mut all = Vec::new();
        for (p, message) in messages.iter().enumerate() {
            for (info, data) in Fragmenter::new(9).cut(message, max).unwrap() {
                all.push((PeerId(p as u32), info, data));
            }
        }
        shuffle(&mut all, seed);
        let mut r = Reassembler::new(ReassemblyLimits { max_bytes: 1 << 20, ..limits() });
        let mut whole = 0;
        for (peer, info, data) in all {
            if let Some((message, _)) = r.handle(peer, info, data, Ecn::NotEct, Time::ZERO).unwrap() {
                prop_assert_eq!(&*message, &messages[peer.0 as usize][..]);
                whole += 1;
            }
        }
        prop_assert_eq!(whole, peers);
        prop_assert_eq!((r.messages(), r.bytes()), (0, 0));
    }

    #[test]
    fn a_message_is_marked_if_one_of_its_fragments_was(marks in prop::collection::vec(any::<bool>(), 2..30), seed: u64) {
        let message = vec![7; marks.len() * 100];
        let mut pieces: Vec<_> = Fragmenter::new(9).cut(&message, 100).unwrap().zip(&marks).collect();
        shuffle(&mut pieces, seed);
        let mut r = Reassembler::new(limits());
        let mut got = None;
        for ((info, data), marked) in pieces {
            let outer = if *marked { Ecn::Ce } else { Ecn::Ect0 };
            got = r.handle(A, info, data, outer, Time::ZERO).unwrap().map(|(_, outer)| outer);
        }
        prop_assert_eq!(got, Some(if marks.contains(&true) { Ecn::Ce } else { Ecn::Ect0 }));
    }

    #[test]
    fn bounds_hold_under_any_input(
        inputs in prop::collection::vec((0u32..5, 0u32..12, 0u16..4000, any::<u16>(), 0usize..2000, 0u64..50), 1..400),
    ) {
        let mut r = Reassembler::new(ReassemblyLimits { max_bytes: 50_000, max_messages: 5, ..limits() });
        let mut now = 0;
        for (peer, id, offset, total, len, wait) in inputs {
            now += wait;
            let _ = r.handle(PeerId(peer), info(id, offset, total), &vec![0; len], Ecn::NotEct, at(now));
            prop_assert!(r.messages() <= 5 && r.bytes() <= 50_000);
            r.handle_timeout(at(now));
            prop_assert!(r.poll_timeout().is_none_or(|due| due > at(now)));
        }
        for peer in 0..5 {
            r.forget(PeerId(peer));
        }
        prop_assert_eq!((r.messages(), r.bytes()), (0, 0));
    }
}

fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for i in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, (seed >> 33) as usize % (i + 1));
    }
}
