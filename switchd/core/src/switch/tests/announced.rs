//! What another switch learned and the controller passes on.

use super::fixture::*;
use crate::ids::{Generation, PeerId};
use crate::switch::*;

/// What the switch knows of station 2 when the announcement comes. Numbers are generations.
#[derive(Clone, Copy, Debug)]
enum Known {
    Nothing,
    /// Seen on this bridge, or from a peer, and never announced.
    Here,
    At(PeerId),
    Announced(PeerId, u64),
    /// Announced for P1, then seen on this bridge, or from P2.
    MovedHere(u64),
    MovedToP2(u64),
    /// Seen here, and confirmed.
    Confirmed(u64),
    Controlled(Place, u64),
    Prepared(u64),
}

fn world(known: Known) -> Switch {
    let mut sw = switch(Mode::Rewrite);
    let set = |sw: &mut Switch, b| assert!(sw.set_binding(b, at(0)).is_ok());
    match known {
        Known::Nothing => {}
        Known::Here => hello(&mut sw, 2, Place::Local, at(0)),
        Known::At(p) => hello(&mut sw, 2, Place::Peer(p), at(0)),
        Known::Announced(p, g) => set(&mut sw, announced(2, Place::Peer(p), g)),
        Known::MovedHere(g) => {
            set(&mut sw, announced(2, Place::Peer(P1), g));
            hello(&mut sw, 2, Place::Local, at(0));
        }
        Known::MovedToP2(g) => {
            set(&mut sw, announced(2, Place::Peer(P1), g));
            hello(&mut sw, 2, Place::Peer(P2), at(0));
        }
        Known::Confirmed(g) => {
            hello(&mut sw, 2, Place::Local, at(0));
            set(&mut sw, announced(2, Place::Local, g));
        }
        Known::Controlled(place, g) => set(&mut sw, binding(2, place, g)),
        Known::Prepared(g) => {
            set(&mut sw, Binding { state: State::Prepared, ..binding(2, Place::Peer(P2), g) });
        }
    }
    drain(&mut sw);
    events(&mut sw);
    sw
}

/// Where station 2 is, by whose word, of which generation.
fn now(sw: &Switch) -> Option<(Place, Source, u64)> {
    sw.bindings(at(1))
        .find(|b| b.key == station(2) && b.state == State::Active)
        .map(|b| (b.at, b.source, b.generation.0))
}

const HERE: Place = Place::Local;
const AT1: Place = Place::Peer(P1);
const AT2: Place = Place::Peer(P2);

#[test]
fn what_an_announcement_changes() {
    use BindingChange::{Added, Moved, NotHere, Overtaken, Unchanged, Updated};
    use Known::*;
    use Source::{Announced as Ann, Controller, Learned};
    let key = station(2);
    let (controlled, stale) = (Err(BindingError::Controlled(key)), |offered, current| {
        Err(BindingError::Stale { key, offered: Generation(offered), current: Generation(current) })
    });
    let from = |from| Ok(Moved { from });
    let table = [
        // For a peer.
        (Nothing, AT1, 5, Ok(Added), Some((AT1, Ann, 5))),
        (Here, AT1, 5, from(HERE), Some((AT1, Ann, 5))),
        (At(P1), AT1, 5, Ok(Updated), Some((AT1, Ann, 5))),
        (At(P2), AT1, 5, from(AT2), Some((AT1, Ann, 5))),
        (Announced(P1, 5), AT1, 4, stale(4, 5), Some((AT1, Ann, 5))),
        (Announced(P1, 5), AT1, 5, Ok(Unchanged), Some((AT1, Ann, 5))),
        (Announced(P1, 5), AT1, 6, Ok(Updated), Some((AT1, Ann, 6))),
        (Announced(P1, 5), AT2, 4, stale(4, 5), Some((AT1, Ann, 5))),
        (Announced(P1, 5), AT2, 5, Ok(Overtaken), Some((AT1, Ann, 5))),
        (Announced(P1, 5), AT2, 6, from(AT1), Some((AT2, Ann, 6))),
        (MovedHere(5), AT1, 4, stale(4, 5), Some((HERE, Learned, 5))),
        (MovedHere(5), AT1, 5, Ok(Overtaken), Some((HERE, Learned, 5))),
        (MovedHere(5), AT2, 6, from(HERE), Some((AT2, Ann, 6))),
        (MovedToP2(5), AT1, 5, Ok(Overtaken), Some((AT2, Learned, 5))),
        (MovedToP2(5), AT2, 6, Ok(Updated), Some((AT2, Ann, 6))),
        (MovedToP2(5), AT1, 6, from(AT2), Some((AT1, Ann, 6))),
        (Confirmed(5), AT1, 4, stale(4, 5), Some((HERE, Ann, 5))),
        (Confirmed(5), AT1, 5, Ok(Overtaken), Some((HERE, Ann, 5))),
        (Confirmed(5), AT1, 6, from(HERE), Some((AT1, Ann, 6))),
        (Controlled(AT2, 5), AT1, 6, controlled, Some((AT2, Controller, 5))),
        (Controlled(HERE, 5), AT1, 4, controlled, Some((HERE, Controller, 5))),
        (Prepared(5), AT1, 4, stale(4, 5), None),
        (Prepared(5), AT1, 6, Ok(Updated), Some((AT1, Ann, 6))),
        // For this bridge.
        (Nothing, HERE, 5, Ok(NotHere), None),
        (Here, HERE, 5, Ok(Updated), Some((HERE, Ann, 5))),
        (At(P1), HERE, 5, Ok(NotHere), Some((AT1, Learned, 5))),
        (Announced(P1, 5), HERE, 4, stale(4, 5), Some((AT1, Ann, 5))),
        (Announced(P1, 5), HERE, 5, Ok(Overtaken), Some((AT1, Ann, 5))),
        (Announced(P1, 5), HERE, 6, Ok(NotHere), None),
        (MovedHere(5), HERE, 4, stale(4, 5), Some((HERE, Learned, 5))),
        (MovedHere(5), HERE, 6, Ok(Updated), Some((HERE, Ann, 6))),
        (MovedToP2(5), HERE, 6, Ok(NotHere), Some((AT2, Learned, 6))),
        (Confirmed(5), HERE, 5, Ok(Unchanged), Some((HERE, Ann, 5))),
        (Confirmed(5), HERE, 6, Ok(Updated), Some((HERE, Ann, 6))),
        (Controlled(AT2, 5), HERE, 6, controlled, Some((AT2, Controller, 5))),
        (Controlled(HERE, 5), HERE, 6, controlled, Some((HERE, Controller, 5))),
        (Prepared(5), HERE, 6, Ok(NotHere), None),
    ];
    for (known, place, generation, result, after) in table {
        let what = format!("{known:?}, announced for {place:?} with {generation}");
        let mut sw = world(known);
        let before = now(&sw);
        assert_eq!(sw.set_binding(announced(2, place, generation), at(1)), result, "{what}");
        assert_eq!(now(&sw), after, "{what}");
        let changed = events(&mut sw).contains(&Event::LocalChanged { key });
        let left =
            matches!(before, Some((HERE, s, _)) if s != Controller) && after.is_some_and(|a| a.0 != HERE);
        assert_eq!(changed, left || result == Ok(NotHere), "{what}");
        let prepared = Binding { state: State::Prepared, ..announced(2, place, 99) };
        assert_eq!(sw.set_binding(prepared, at(1)), Err(BindingError::Prepared(key)), "{what}");
        assert_eq!(now(&sw), after, "{what}");
    }
}

#[test]
fn what_a_withdrawal_changes() {
    use Known::*;
    use Source::{Announced as Ann, Controller, Learned};
    let key = station(2);
    let stale = |offered, current| {
        Err(BindingError::Stale { key, offered: Generation(offered), current: Generation(current) })
    };
    let table = [
        (Nothing, 5, Ok(false), None),
        (Here, 5, Ok(false), Some((HERE, Learned, 0))),
        (At(P1), 5, Ok(false), Some((AT1, Learned, 0))),
        (Announced(P1, 5), 4, stale(4, 5), Some((AT1, Ann, 5))),
        (Announced(P1, 5), 5, Ok(true), None),
        (MovedHere(5), 4, stale(4, 5), Some((HERE, Learned, 5))),
        (MovedHere(5), 5, Ok(true), Some((HERE, Learned, 0))),
        (MovedToP2(5), 5, Ok(true), Some((AT2, Learned, 0))),
        (Confirmed(5), 4, stale(4, 5), Some((HERE, Ann, 5))),
        (Confirmed(5), 5, Ok(true), Some((HERE, Learned, 0))),
        (Controlled(AT1, 5), 4, stale(4, 5), Some((AT1, Controller, 5))),
        (Controlled(AT1, 5), 5, Ok(true), None),
        (Prepared(5), 4, stale(4, 5), None),
        (Prepared(5), 5, Ok(true), None),
    ];
    for (known, generation, result, after) in table {
        let what = format!("{known:?}, removed with {generation}");
        let mut sw = world(known);
        assert_eq!(sw.remove_binding(key, Generation(generation), at(1)), result, "{what}");
        assert_eq!(now(&sw), after, "{what}");
        // The claim is to be made anew.
        let changed = events(&mut sw).contains(&Event::LocalChanged { key });
        assert_eq!(changed, result == Ok(true) && matches!(after, Some((HERE, ..))), "{what}");
        if after.is_none() {
            assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(2)).0, Verdict::Held, "{what}");
            assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, mac(2)), at(2)).0, Verdict::Flood, "{what}");
        }
    }
}

#[test]
fn it_is_answered_for_like_a_learned_one_and_does_not_age() {
    for mode in MODES {
        for family in FAMILIES {
            let mut sw = switch(mode);
            sw.set_binding(announced(2, AT1, 5), at(0)).unwrap();
            let year = 365 * 86_400_000;
            for ms in [1, year] {
                sw.handle_timeout(at(ms));
                hello(&mut sw, 1, Place::Local, at(ms));
                assert_eq!(local(&mut sw, &request(family, 1, 2), at(ms)).0, Verdict::Answered);
                let shown = if mode == Mode::Rewrite { ENDPOINT } else { mac(2) };
                assert_eq!(told(&one(drain(&mut sw)).frame).mac, shown);
                // The owner defends its address itself.
                let ask = probe(family, 3, 2);
                assert_eq!(local(&mut sw, &ask, at(ms)), (Verdict::Peer(P1), ask));
                let to = if mode == Mode::Rewrite { ENDPOINT } else { mac(2) };
                let (verdict, sent) = local(&mut sw, &data(family, 1, 2, to), at(ms));
                assert_eq!((verdict, eth(&sent).dst), (Verdict::Peer(P1), mac(2)));
                assert!(drain(&mut sw).is_empty(), "nothing crosses, nothing is refreshed");
            }
            // Its frames from there change nothing, nor does their end.
            hello(&mut sw, 2, AT1, at(year));
            sw.handle_timeout(at(2 * year));
            assert_eq!(now(&sw), Some((AT1, Source::Announced, 5)));
            // A poll that it leaves unanswered does, until it is announced anew.
            sw.handle_timeout(at(2 * year));
            let ms = 2 * year;
            assert_eq!(
                local(
                    &mut sw,
                    &poll(
                        family,
                        1,
                        2,
                        eth(&data(family, 1, 2, if mode == Mode::Rewrite { ENDPOINT } else { mac(2) })).dst
                    ),
                    at(ms)
                )
                .0,
                Verdict::Peer(P1)
            );
            assert_eq!(local(&mut sw, &request(family, 1, 2), at(ms + 2000)).0, Verdict::Flood);
            sw.set_binding(announced(2, AT1, 6), at(ms + 3000)).unwrap();
            assert_eq!(local(&mut sw, &request(family, 1, 2), at(ms + 3000)).0, Verdict::Answered);
        }
    }
}

#[test]
fn what_is_held_goes_when_it_is_announced() {
    let mut sw = switch(Mode::Rewrite);
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, ENDPOINT), at(0)).0, Verdict::Held);
    drain(&mut sw);
    sw.set_binding(announced(2, AT2, 1), at(1)).unwrap();
    let t = one(drain(&mut sw));
    assert_eq!((t.to, eth(&t.frame).dst), (Destination::Peer(P2), mac(2)));
}

#[test]
fn a_local_frame_moves_it_here_with_its_ips_and_its_generation() {
    for mode in MODES {
        let mut sw = world(Known::Announced(P1, 5));
        if mode == Mode::Preserve {
            sw = switch(mode);
            sw.set_binding(announced(2, AT1, 5), at(0)).unwrap();
        }
        let long = 10_000_000;
        let rarp = other(crate::ids::Mac::BROADCAST, mac(2), 0x8035);
        assert_eq!(local(&mut sw, &rarp, at(long)).0, Verdict::Flood);
        let corrected = drain(&mut sw).iter().filter(|t| t.to == Destination::Bridge).count();
        assert_eq!(corrected, if mode == Mode::Rewrite { 2 } else { 0 }, "both families");
        let changed = events(&mut sw);
        assert!(changed.contains(&Event::LocalChanged { key: station(2) }));
        let s = sw.local_station(station(2), at(long)).unwrap();
        assert_eq!((s.ips.len(), s.seen_generation, s.source), (2, Generation(5), Source::Learned));
        assert_eq!(remote(&mut sw, &request(Family::V4, 3, 2), P2, at(long)).0, Verdict::Answered);
        // From now on it ages, even once it is confirmed.
        assert_eq!(sw.set_binding(announced(2, HERE, 6), at(long)), Ok(BindingChange::Updated));
        let s = sw.local_station(station(2), at(long)).unwrap();
        assert_eq!((s.seen_generation, s.source), (Generation(6), Source::Announced));
        sw.handle_timeout(at(long + 1_202_000));
        assert_eq!(sw.local_stations(at(long + 1_202_000)).count(), 0);
        assert_eq!(sw.table_sizes(), (0, 0));
        assert!(events(&mut sw).contains(&Event::LocalChanged { key: station(2) }));
        // The confirmation once more, from a snapshot, brings nobody back.
        let again = sw.set_binding(announced(2, HERE, 6), at(long + 1_203_000));
        assert_eq!((again, sw.table_sizes()), (Ok(BindingChange::NotHere), (0, 0)));
        assert_eq!(events(&mut sw), [Event::LocalChanged { key: station(2) }], "to be withdrawn");
    }
}

#[test]
fn back_where_it_was_announced_all_is_as_it_was() {
    let mut sw = world(Known::MovedToP2(5));
    hello(&mut sw, 2, AT1, at(600_000));
    assert_eq!(now(&sw), Some((AT1, Source::Announced, 5)));
    let year = 365 * 86_400_000;
    sw.handle_timeout(at(year));
    assert_eq!(local(&mut sw, &request(Family::V4, 1, 2), at(year)).0, Verdict::Answered);
    // So with one of this bridge, but for its age.
    let mut sw = world(Known::Confirmed(5));
    hello(&mut sw, 2, AT1, at(0));
    assert_eq!(now(&sw), Some((AT1, Source::Learned, 5)));
    hello(&mut sw, 2, HERE, at(0));
    assert_eq!(now(&sw), Some((HERE, Source::Announced, 5)));
    sw.handle_timeout(at(1_202_000));
    assert_eq!(sw.table_sizes(), (0, 0));
    // Once it is withdrawn it is nowhere announced.
    let mut sw = world(Known::MovedToP2(5));
    assert_eq!(sw.remove_binding(station(2), Generation(5), at(0)), Ok(true));
    hello(&mut sw, 2, AT1, at(0));
    assert_eq!(now(&sw), Some((AT1, Source::Learned, 0)));
}

#[test]
fn a_station_that_is_prepared_elsewhere_still_ages_here() {
    let mut sw = world(Known::Confirmed(5));
    sw.set_binding(Binding { state: State::Prepared, ..binding(2, AT1, 6) }, at(0)).unwrap();
    sw.handle_timeout(at(1_202_000));
    assert_eq!((sw.local_stations(at(1_202_000)).count(), sw.table_sizes()), (0, (1, 0)));
    assert!(events(&mut sw).contains(&Event::LocalChanged { key: station(2) }));
    assert_eq!(sw.bindings(at(1_202_000)).map(|b| b.state).collect::<Vec<_>>(), [State::Prepared]);
}

#[test]
fn a_station_moved_away_by_an_announcement_is_corrected_on_the_bridge_and_may_come_back() {
    let mut sw = world(Known::Confirmed(5));
    hello(&mut sw, 1, HERE, at(0));
    assert_eq!(sw.set_binding(announced(2, AT1, 6), at(1)), Ok(BindingChange::Moved { from: HERE }));
    let told: Vec<_> = drain(&mut sw).iter().map(|t| told(&t.frame)).collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|t| t.mac == ENDPOINT));
    // It speaks here again: at once, but not for ever.
    let f = other(crate::ids::Mac::BROADCAST, mac(2), 0x88b5);
    let mut verdicts = Vec::new();
    for round in 0..8 {
        verdicts.push(local(&mut sw, &f, at(10 + round)).0);
        let _ = sw.set_binding(announced(2, AT1, 7 + round), at(10 + round));
    }
    assert_eq!(verdicts[..5], [Verdict::Flood; 5]);
    assert_eq!(verdicts[5..], [Verdict::Drop(DropReason::Flapping); 3]);
    // The controller's word is taken even while it is held, or it would be lost.
    assert_eq!(sw.set_binding(announced(2, AT2, 99), at(30)), Ok(BindingChange::Moved { from: AT1 }));
}

#[test]
fn the_list_of_ips_is_replaced() {
    let mut sw = world(Known::Announced(P1, 5));
    let only_v4 = Binding { ips: vec![v4(2).into()], ..announced(2, AT1, 6) };
    assert_eq!(sw.set_binding(only_v4.clone(), at(1)), Ok(BindingChange::Updated));
    assert_eq!(local(&mut sw, &request(Family::V6, 1, 2), at(1)).0, Verdict::Flood);
    assert_eq!(local(&mut sw, &request(Family::V4, 1, 2), at(1)).0, Verdict::Answered);
    // What a frame showed besides stays as long as it would.
    remote(&mut sw, &gratuitous(Family::V6, 2), P1, at(2));
    assert_eq!(sw.set_binding(only_v4, at(3)), Ok(BindingChange::Unchanged));
    let b = sw.bindings(at(3)).find(|b| b.key == station(2)).unwrap();
    assert_eq!(b.ips.len(), 2);
    let b = sw.bindings(at(1_300_000)).find(|b| b.key == station(2)).unwrap();
    assert_eq!(b.ips, [std::net::IpAddr::from(v4(2))]);
}

#[test]
fn who_has_an_ip_that_two_are_announced_with() {
    let with_ip_2 = |n, place, g| Binding { ips: vec![v4(2).into()], ..announced(n, place, g) };
    let owner =
        |sw: &Switch| sw.bindings(at(1)).find(|b| b.ips.contains(&v4(2).into())).map(|b| b.key).unwrap();
    // The newer, in any order.
    for order in [[(2, 5), (3, 6)], [(3, 6), (2, 5)]] {
        let mut sw = switch(Mode::Rewrite);
        for (n, g) in order {
            sw.set_binding(with_ip_2(n, AT1, g), at(0)).unwrap();
        }
        assert_eq!(owner(&sw), station(3));
    }
    // Who showed it here.
    let mut sw = switch(Mode::Rewrite);
    hello(&mut sw, 2, HERE, at(0));
    sw.set_binding(with_ip_2(3, AT1, 6), at(0)).unwrap();
    assert_eq!(owner(&sw), station(2));
    // The controller's.
    let mut sw = switch(Mode::Rewrite);
    sw.set_binding(binding(2, AT1, 1), at(0)).unwrap();
    sw.set_binding(with_ip_2(3, AT2, 6), at(0)).unwrap();
    assert_eq!(owner(&sw), station(2));
    // Who took it since, by frames, until there is news.
    let mut sw = switch(Mode::Rewrite);
    sw.set_binding(with_ip_2(3, AT1, 6), at(0)).unwrap();
    remote(&mut sw, &gratuitous(Family::V4, 2), P2, at(0));
    sw.set_binding(with_ip_2(3, AT1, 6), at(0)).unwrap();
    assert_eq!(owner(&sw), station(2));
    sw.set_binding(with_ip_2(3, AT1, 7), at(0)).unwrap();
    assert_eq!(owner(&sw), station(3));
}

#[test]
fn a_controllers_binding_takes_over_and_what_was_announced_besides_ages() {
    let mut sw = world(Known::Announced(P1, 5));
    let placed = Binding { ips: vec![v4(2).into()], ..binding(2, AT2, 1) };
    assert_eq!(sw.set_binding(placed, at(0)), Ok(BindingChange::Moved { from: AT1 }));
    assert_eq!(now(&sw), Some((AT2, Source::Controller, 1)));
    let ips = |sw: &Switch, ms| sw.bindings(at(ms)).find(|b| b.key == station(2)).unwrap().ips.len();
    assert_eq!((ips(&sw, 1), ips(&sw, 1_300_000)), (2, 1));
}

#[test]
fn removing_the_active_one_leaves_no_ip_to_a_prepared_one() {
    let mut sw = switch(Mode::Rewrite);
    sw.set_binding(binding(2, AT1, 5), at(0)).unwrap();
    sw.set_binding(Binding { state: State::Prepared, ..binding(2, AT2, 6) }, at(0)).unwrap();
    assert_eq!(sw.remove_binding(station(2), Generation(5), at(0)), Ok(true));
    assert_eq!(sw.table_sizes(), (1, 0));
    assert_eq!(local(&mut sw, &request(Family::V4, 1, 2), at(1)).0, Verdict::Flood);
    assert_eq!(local(&mut sw, &data(Family::V4, 1, 2, mac(2)), at(1)).0, Verdict::Flood);
}

#[test]
fn full_tables_evict_announced_ones_too() {
    let limits = Limits { max_macs: 8, max_ips: 16, ..Limits::default() };
    let mut sw = with(SwitchConfig { limits, ..config(Mode::Rewrite) });
    for n in 1..=20 {
        assert_eq!(sw.set_binding(announced(n, AT1, u64::from(n)), at(0)), Ok(BindingChange::Added));
    }
    assert_eq!((sw.table_sizes(), sw.counters().mac_table_full), ((8, 16), 12));
    // A station of this bridge finds room, and one that speaks keeps it.
    hello(&mut sw, 30, HERE, at(1));
    for n in 1..=20 {
        let _ = sw.set_binding(announced(n, AT1, 100), at(2));
    }
    assert_eq!(sw.local_stations(at(2)).map(|s| s.ips.len()).collect::<Vec<_>>(), [2]);
    // Not at the price of a controller's.
    for n in 40..48 {
        sw.set_binding(binding(n, AT1, 1), at(3)).unwrap();
    }
    assert_eq!(sw.set_binding(announced(2, AT1, 200), at(3)), Err(BindingError::TableFull));
    assert_eq!(sw.bindings(at(3)).filter(|b| b.source == Source::Controller).count(), 8);
    // IPs of one station, and of all.
    let many = |n| Binding { ips: (0..100).map(|i| v4(i).into()).collect(), ..announced(n, AT1, 1) };
    let mut sw = switch(Mode::Rewrite);
    let list = Binding { ips: many(2).ips.split_off(1), ..many(2) };
    sw.set_binding(list.clone(), at(0)).unwrap();
    assert_eq!((sw.table_sizes().1, sw.counters().ip_table_full), (64, 35));
}
