//! The stations of this bridge, as the shell follows them to announce them.

use super::fixture::*;
use crate::ids::{Generation, Mac};
use crate::switch::*;

/// Whether station `n` changed, and how many IPs it has now if it is here. Nothing else may have changed.
fn change(sw: &mut Switch, n: u8, ms: u64) -> (bool, Option<usize>) {
    let mut changed = events(sw);
    changed.retain(|e| matches!(e, Event::LocalChanged { .. }));
    assert!(changed.len() <= 1, "coalesced: {changed:?}");
    assert!(changed.iter().all(|e| *e == Event::LocalChanged { key: station(n) }), "{changed:?}");
    (!changed.is_empty(), sw.local_station(station(n), at(ms)).map(|s| s.ips.len()))
}

#[test]
fn each_change_is_told_once_and_what_is_known_not_at_all() {
    let mut sw = switch(Mode::Rewrite);
    let plain = other(Mac::BROADCAST, mac(2), 0x88b5);
    local(&mut sw, &plain, at(0));
    assert_eq!(change(&mut sw, 2, 0), (true, Some(0)), "learned");
    local(&mut sw, &plain, at(1));
    assert_eq!(change(&mut sw, 2, 1), (false, Some(0)));
    local(&mut sw, &gratuitous(Family::V4, 2), at(2));
    local(&mut sw, &gratuitous(Family::V6, 2), at(2));
    assert_eq!(change(&mut sw, 2, 2), (true, Some(2)), "its IPs");
    for _ in 0..3 {
        local(&mut sw, &gratuitous(Family::V4, 2), at(3));
        local(&mut sw, &data(Family::V4, 2, 9, mac(9)), at(3));
        hello(&mut sw, 3, Place::Peer(P1), at(3));
    }
    assert_eq!(change(&mut sw, 2, 3), (false, Some(2)));
    // A peer's instance takes an IP over.
    let mut takeover = gratuitous(Family::V4, 3);
    takeover[28..32].copy_from_slice(&v4(2).octets());
    takeover[38..42].copy_from_slice(&v4(2).octets());
    remote(&mut sw, &takeover, P1, at(4));
    assert_eq!(change(&mut sw, 2, 4), (true, Some(1)), "lost to another");
    local(&mut sw, &gratuitous(Family::V4, 2), at(5));
    assert_eq!(change(&mut sw, 2, 5), (true, Some(2)), "and back");
    // It moves.
    remote(&mut sw, &plain, P1, at(6));
    assert_eq!(change(&mut sw, 2, 6), (true, None), "away");
    local(&mut sw, &plain, at(7));
    assert_eq!(change(&mut sw, 2, 7), (true, Some(2)), "and back");
    // It ages, one IP first.
    local(&mut sw, &gratuitous(Family::V6, 2), at(600_000));
    assert_eq!(change(&mut sw, 2, 600_000), (false, Some(2)));
    sw.handle_timeout(at(1_201_000));
    assert_eq!(change(&mut sw, 2, 1_201_000), (true, Some(1)), "an IP");
    sw.handle_timeout(at(1_802_000));
    assert_eq!(change(&mut sw, 2, 1_802_000), (true, None), "the station");
}

#[test]
fn what_expired_and_speaks_before_it_was_swept_is_told_again() {
    let mut sw = switch(Mode::Rewrite);
    let plain = other(Mac::BROADCAST, mac(2), 0x88b5);
    local(&mut sw, &plain, at(0));
    events(&mut sw);
    assert_eq!(change(&mut sw, 2, 400_000), (false, None));
    local(&mut sw, &plain, at(400_000));
    assert_eq!(change(&mut sw, 2, 400_000), (true, Some(0)));
    local(&mut sw, &gratuitous(Family::V4, 2), at(400_000));
    events(&mut sw);
    local(&mut sw, &plain, at(1_500_000));
    assert_eq!(change(&mut sw, 2, 1_610_000), (false, Some(0)));
    local(&mut sw, &gratuitous(Family::V4, 2), at(1_610_000));
    assert_eq!(change(&mut sw, 2, 1_610_000), (true, Some(1)));
}

#[test]
fn what_the_controller_places_is_not_announced() {
    let mut sw = switch(Mode::Rewrite);
    sw.set_binding(binding(1, Place::Local, 1), at(0)).unwrap();
    hello(&mut sw, 1, Place::Local, at(0));
    assert_eq!(sw.local_stations(at(0)).count(), 0);
    hello(&mut sw, 2, Place::Local, at(0));
    assert_eq!(sw.local_stations(at(0)).map(|s| s.key).collect::<Vec<_>>(), [station(2)]);
    sw.set_binding(binding(2, Place::Local, 2), at(0)).unwrap();
    assert_eq!(change(&mut sw, 2, 0), (true, None), "placed");
    sw.remove_binding(station(2), Generation(2), at(0)).unwrap();
    hello(&mut sw, 3, Place::Local, at(0));
    sw.set_binding(Binding { state: State::Prepared, ..binding(3, Place::Local, 2) }, at(0)).unwrap();
    assert_eq!(change(&mut sw, 3, 0), (false, Some(2)), "only prepared");
}

#[test]
fn an_evicted_station_is_told() {
    let limits = Limits { max_macs: 2, ..Limits::default() };
    let mut sw = with(SwitchConfig { limits, ..config(Mode::Rewrite) });
    hello(&mut sw, 1, Place::Local, at(0));
    hello(&mut sw, 2, Place::Local, at(1));
    remote(&mut sw, &gratuitous(Family::V4, 3), P1, at(2));
    assert_eq!(change(&mut sw, 1, 2), (true, None));
}
