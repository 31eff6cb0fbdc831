mod world;

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use world::{CONFIG, World, by_relay, direct, ms, relayed};

#[test]
fn the_path_of_the_handshake_is_used_at_once_and_its_mtu_is_found() {
    let mut world = World::new(&[5]).up();
    world.run(ms(1));
    assert_eq!((world.selected(0), world.ends[0].datagram_max()), (Some(0), 1200));
    let took = world.until("MTU", ms(1000), |w| w.ends.iter().all(|end| end.datagram_max() == 1472));
    assert!(took < ms(100), "{took:?}");
    world.run(ms(5000));
    let view = world.view(0, 0);
    assert_eq!(
        (view.state, view.selected, view.loss_ppm, view.rtt),
        (PathState::Alive, true, 0, Some(ms(10)))
    );
    assert_eq!(world.selections(0), 1);
}

#[test]
fn an_mtu_between_the_bounds_is_found_within_some_bytes() {
    for mtu in [1200, 1201, 1228, 1350, 1372, 1470, 1471] {
        let mut world = World::new(&[5]).up();
        world.wires[0].mtu = mtu;
        world.run(ms(4000));
        let found = usize::from(world.ends[0].datagram_max());
        assert!(found <= mtu && mtu - found <= 4, "{found} of {mtu}");
    }
}

#[test]
fn an_idle_link_costs_less_than_a_kilobit_a_second_and_both_ends_know_it_is_alive() {
    let mut world = World::new(&[20, 30]).up();
    world.offer_both(1, direct());
    world.talks = [false; 2];
    world.run(ms(20_000));
    (world.bytes, world.probes) = (0, 0);
    world.run(ms(120_000));
    let bits = world.bytes * 8 / 120;
    assert!(bits <= 700, "{bits} b/s, {} probes", world.probes);
    for end in 0..2 {
        assert!(world.events[end].iter().all(|(_, event)| matches!(event, PathEvent::Selected { .. })));
    }
}

/// What is cut (towards end 0, towards end 1), and the state of traffic.
#[test]
fn a_cut_path_is_left_within_half_a_second_whatever_the_direction() {
    for cut in [[true, true], [true, false], [false, true]] {
        for talks in [[true, true], [true, false]] {
            let mut world = World::new(&[5, 25]).up();
            world.offer_both(1, relayed());
            world.talks = talks;
            world.run(ms(3000));
            assert_eq!([world.selected(0), world.selected(1)], [Some(0), Some(0)]);
            world.wires[0].cut = cut;
            let began = world.now;
            world.run(ms(2000));
            let what = format!("{cut:?} {talks:?} {:?}", world.events);
            for end in (0..2).filter(|end| talks[1 - *end] && (cut[*end] || cut == [true, true])) {
                assert!(world.gap(end, began) <= ms(500), "{:?} at {end}, {what}", world.gap(end, began));
                assert_eq!(world.selected(1 - end), Some(1), "{what}");
            }
            for end in 0..2 {
                assert_eq!(world.count(end, PathEvent::AllDead), 0, "{what}");
            }
        }
    }
}

#[test]
fn a_path_that_comes_back_is_used_again_after_some_good_seconds() {
    let mut world = World::new(&[5, 25]).up();
    world.offer_both(1, relayed());
    world.run(ms(3000));
    world.wires[0].cut = [true; 2];
    world.run(ms(2000));
    assert_eq!(world.selected(0), Some(1));
    world.wires[0].cut = [false; 2];
    let back = world.until("back", ms(10_000), |w| w.selected(0) == Some(0) && w.selected(1) == Some(0));
    assert!(back >= ms(2000), "{back:?}");
}

#[test]
fn a_direct_path_takes_over_from_a_relay_without_loss() {
    let mut world = World::new(&[25, 5]);
    for end in 0..2 {
        world.ends[end].set_usable(true, world.now);
        world.offer(end, 0, relayed(), true);
    }
    world.run(ms(1000));
    world.offer_both(1, direct());
    let took = world.until("direct", ms(1000), |w| w.selected(0) == Some(1) && w.selected(1) == Some(1));
    assert!(took < ms(300), "{took:?}");
    world.run(ms(200));
    world.talks = [false; 2];
    world.run(ms(200));
    for end in 0..2 {
        let mut numbers: Vec<u64> = world.frames[end].iter().map(|(number, _)| *number).collect();
        let late = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!(late <= 3, "{late} frames were overtaken");
        numbers.sort_unstable();
        let sent = (world.now - world.start).as_millis() / 10 - 20;
        assert!(numbers.len() as u128 >= sent - 1, "{} of {sent}", numbers.len());
    }
}

#[test]
fn when_all_die_frames_stay_where_they_were_and_the_word_goes_out() {
    let mut world = World::new(&[5, 25]).up();
    world.offer_both(1, relayed());
    world.run(ms(3000));
    world.wires.iter_mut().for_each(|wire| wire.cut = [true; 2]);
    world.run(ms(2000));
    assert_eq!((world.count(0, PathEvent::AllDead), world.count(0, PathEvent::Lost)), (1, 0));
    assert!(world.ends[0].selected().is_some());
    world.wires[1].cut = [false; 2];
    let took = world.until("alive", ms(2000), |w| (0..2).all(|end| w.count(end, PathEvent::Alive) == 1));
    assert!(took < ms(700), "{took:?}");
    assert_eq!(world.selected(0), Some(1));

    world.wires[1].cut = [true; 2];
    let took = world.until("lost", ms(12_000), |w| (0..2).all(|end| w.count(end, PathEvent::Lost) == 1));
    assert!(took >= ms(9000), "{took:?}");
    world.run(ms(20_000));
    assert_eq!(world.count(0, PathEvent::Lost), 1);
}

#[test]
fn an_idle_link_that_dies_is_noticed_too() {
    let mut world = World::new(&[5]).up();
    world.talks = [false; 2];
    world.run(ms(10_000));
    world.wires[0].cut = [true; 2];
    let dead = world.until("dead", ms(5000), |w| (0..2).any(|end| w.count(end, PathEvent::AllDead) == 1));
    assert!(dead < ms(4500), "{dead:?}");
    let lost = world.until("lost", ms(13_000), |w| (0..2).all(|end| w.count(end, PathEvent::Lost) == 1));
    assert!(dead + lost < ms(14_500), "{:?}", dead + lost);
}

#[test]
fn one_end_that_hears_nothing_is_lost_first() {
    let mut world = World::new(&[5]).up();
    world.run(ms(1000));
    world.wires[0].cut[0] = true;
    world.until("the deaf end", ms(10_100), |w| w.count(0, PathEvent::Lost) == 1);
    assert_eq!(world.count(1, PathEvent::Lost), 0);
    world.until("the other end", ms(10_100), |w| w.count(1, PathEvent::Lost) == 1);
}

#[test]
fn a_peer_behind_a_new_mapping_is_followed_after_it_answered_from_there() {
    let mut world = World::new(&[20]).up();
    world.run(ms(2000));
    // What end 1 sees of end 0 is another port from now on; the old one leads nowhere.
    world.wires[0].seen[0] = "192.0.2.99:9999".parse().unwrap();
    let began = world.now;
    world.run(ms(1500));
    assert_eq!(world.ends[1].selected(), Some(world.route(1, 0)));
    assert!(world.gap(0, began) <= ms(500), "{:?}", world.gap(0, began));
    let learned = world.view(1, 0);
    assert!(learned.id.0 >= PathId::OWN);
    assert_eq!(learned.pair.remote, CandidateKind::PeerReflexive);
    assert_eq!(world.count(1, PathEvent::Lost), 0);
    let route = world.route(1, 0);
    assert_eq!(world.count(1, PathEvent::Learned { route }), 1);
    // The link plane learns of it by itself: the path is its then, and goes on.
    world.offer(1, 0, direct(), false);
    world.run(ms(1));
    let last = world.events[1].last().map(|(_, event)| *event);
    let route = world.route(1, 0);
    assert_eq!(last, Some(PathEvent::Selected { id: PathId(0), route, pair: direct() }));
}

#[test]
fn an_idle_peer_that_moves_is_followed_by_its_first_word() {
    let mut world = World::new(&[20]).up();
    world.talks = [false; 2];
    world.run(ms(10_000));
    world.wires[0].seen[0] = "192.0.2.99:9999".parse().unwrap();
    let now = world.now;
    world.ends[0].probe_all(now);
    let took = world.until("followed", ms(1000), |w| w.ends[1].selected() == Some(w.route(1, 0)));
    assert!(took < ms(300), "{took:?}");
}

#[test]
fn a_spoofed_source_moves_nobody() {
    let mut world = World::new(&[20]).up();
    world.run(ms(1000));
    let elsewhere = Route::Direct("203.0.113.5:9".parse().unwrap());
    for i in 0..50u32 {
        let now = world.now;
        world.ends[0].handle_datagram(elsewhere, true, now);
        let guess = PathProbe { route: elsewhere, answer_wanted: false, sequence: i, heard: None, len: 44 };
        world.ends[0].handle_probe(guess, 44, now);
        world.run(ms(20));
    }
    assert_eq!(world.selected(0), Some(0));
    assert_eq!(world.selections(0), 1);
    world.run(ms(4000));
    assert!(!world.ends[0].has_route(elsewhere), "it is not kept");
    assert_eq!(world.count(0, PathEvent::Learned { route: elsewhere }), 0);
}

/// What one datagram of a peer with a false source makes this node send there.
#[test]
fn a_spoofed_source_is_sent_a_few_small_probes_at_most() {
    let mut now = Instant::now();
    let mut set = PathSet::new(CONFIG, [1, 2]);
    set.set_usable(true, now);
    let elsewhere = Route::Direct("203.0.113.5:9".parse().unwrap());
    set.handle_datagram(elsewhere, true, now);
    let mut sent = Vec::new();
    for _ in 0..500 {
        set.handle_timeout(now);
        sent.extend(std::iter::from_fn(|| set.poll_transmit()));
        now += ms(10);
    }
    assert!(sent.len() <= 20 && sent.iter().all(|probe| probe.len == 0), "{}", sent.len());
}

/// An answer to what was asked on one path says nothing of another.
#[test]
fn answers_count_where_they_were_asked() {
    let now = Instant::now();
    let mut set = PathSet::new(CONFIG, [1, 2]);
    let [one, two] =
        ["192.0.2.1:1", "192.0.2.2:1"].map(|at| Route::Direct(at.parse::<SocketAddr>().unwrap()));
    set.set_usable(true, now);
    set.offer(Offer { id: PathId(1), route: one, pair: direct(), proven: false }, now);
    set.offer(Offer { id: PathId(2), route: two, pair: direct(), proven: false }, now);
    set.handle_timeout(now);
    let asked: Vec<PathProbe> = std::iter::from_fn(|| set.poll_transmit()).collect();
    let of_one = asked.iter().find(|probe| probe.route == one).unwrap();
    set.handle_probe(PathProbe { route: two, answer_wanted: false, ..*of_one }, 44, now);
    assert!(set.paths().all(|path| path.state == PathState::Untried));
    set.handle_probe(PathProbe { answer_wanted: false, ..*of_one }, 44, now);
    assert_eq!(set.paths().filter(|path| path.state == PathState::Alive).count(), 1);
}

#[test]
fn a_faster_path_must_be_clearly_faster() {
    for (other, moves) in [(19, false), (17, false), (14, true), (5, true)] {
        let mut world = World::new(&[20, other]).up();
        world.offer_both(1, direct());
        world.run(ms(3000));
        assert_eq!(world.selected(0) == Some(1), moves, "{other}");
        assert!(world.selections(0) <= 2);
    }
}

#[test]
fn ends_that_began_by_different_families_agree_on_the_roomier_one() {
    let mut world = World::new(&[20, 20]);
    let v6 = |end: u16| SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, end].into(), 4840);
    world.wires[0].seen = [v6(1), v6(2)];
    for (end, made_by) in [(0, 0), (1, 1)] {
        world.ends[end].set_usable(true, world.now);
        world.offer(end, made_by, direct(), true);
        world.offer(end, 1 - made_by, direct(), false);
    }
    world.run(ms(3000));
    assert_eq!([world.selected(0), world.selected(1)], [Some(1), Some(1)]);
    assert!(world.selections(0) <= 2 && world.selections(1) == 1);
}

/// As on hosts that are busy while their links come up.
#[test]
fn a_roomier_path_that_was_slow_at_first_is_taken_soon_by_both() {
    let mut world = World::new(&[1, 40]);
    let v6 = |end: u16| SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, end].into(), 4840);
    world.wires[0].seen = [v6(1), v6(2)];
    world.talks = [false; 2];
    for (end, made_by) in [(0, 0), (1, 1)] {
        world.ends[end].set_usable(true, world.now);
        world.offer(end, made_by, direct(), true);
        world.offer(end, 1 - made_by, direct(), false);
    }
    world.run(ms(1000));
    assert_eq!([world.selected(0), world.selected(1)], [Some(0), Some(0)]);
    world.wires[1].delay = ms(1);
    world.until("both", ms(12_000), |w| [w.selected(0), w.selected(1)] == [Some(1), Some(1)]);
    world.run(ms(300_000));
    assert!(world.selections(0) <= 3 && world.selections(1) <= 3, "{:?}", world.events);
}

#[test]
fn both_ends_take_the_same_of_two_relays() {
    let mut world = World::new(&[20, 20]).up();
    world.talks = [false; 2];
    let address = |n: u8| SocketAddr::new([203, 0, 113, n].into(), 50_000);
    for end in 0..2 {
        world.ends[end].withdraw(PathId(0), world.now);
        for (wire, owner) in [(0, end), (1, 1 - end)] {
            let pair = CandidatePair {
                local: CandidateKind::Relayed,
                local_address: Some(address(if wire == 0 { 9 } else { 5 })),
                remote: CandidateKind::Host,
            };
            // Of the other end it is the relay that it sends to.
            let theirs = CandidatePair { local: CandidateKind::Host, local_address: None, ..relayed() };
            world.wires[wire].seen = [address(if wire == 0 { 9 } else { 5 }); 2];
            world.offer(end, wire, if owner == 0 { pair } else { theirs }, wire == end);
        }
    }
    world.run(ms(5000));
    assert_eq!([world.selected(0), world.selected(1)], [Some(1), Some(1)], "{:?}", world.events);
}

#[test]
fn late_answers_kill_no_path_that_nobody_sends_by() {
    let mut world = World::new(&[5, 25]).up();
    world.offer_both(1, relayed());
    world.talks = [false; 2];
    world.run(ms(20_000));
    for _ in 0..5 {
        world.wires.iter_mut().for_each(|wire| wire.delay += ms(400));
        world.run(ms(1500));
        world.wires.iter_mut().for_each(|wire| wire.delay -= ms(400));
        world.run(ms(10_000));
    }
    for end in 0..2 {
        let moved = |(_, event): &&(Duration, PathEvent)| !matches!(event, PathEvent::Selected { .. });
        assert_eq!(world.events[end].iter().find(moved), None);
    }
}

#[test]
fn a_lossy_path_gives_way_to_a_sure_one_of_its_kind() {
    let mut world = World::new(&[20, 22]).up();
    world.offer_both(1, direct());
    world.wires[0].loss = [20; 2];
    world.run(ms(20_000));
    assert_eq!([world.selected(0), world.selected(1)], [Some(1), Some(1)]);
}

#[test]
fn a_lossy_or_slow_path_alone_stays_in_use() {
    for (delay, loss) in [(5, 10), (100, 5), (400, 0), (900, 0), (300, 3)] {
        let mut world = World::new(&[delay]).up();
        world.wires[0].loss = [loss; 2];
        world.run(ms(60_000));
        for end in 0..2 {
            let dead = world.count(end, PathEvent::AllDead);
            assert!(dead <= 1, "{delay} ms, {loss} %: died {dead} times; {:?}", world.events[end]);
            assert_eq!(world.count(end, PathEvent::Lost), 0);
            assert_eq!(world.count(end, PathEvent::Alive), dead);
        }
    }
}

/// More frames than get through, one way: half of all is lost, probes too.
#[test]
fn a_crowded_direction_kills_no_path() {
    let mut world = World::new(&[5, 30]).up();
    world.offer_both(1, relayed());
    world.talks = [true, false];
    world.run(ms(2000));
    world.wires[0].loss = [0, 50];
    world.run(ms(60_000));
    for end in 0..2 {
        assert_eq!((world.selections(end), world.selected(end)), (1, Some(0)), "{:?}", world.events[end]);
    }
}

#[test]
fn a_path_that_comes_and_goes_is_left_alone_ever_longer() {
    let mut world = World::new(&[5, 25]).up();
    world.offer_both(1, relayed());
    world.run(ms(1000));
    for i in 0..60 {
        world.wires[0].cut = [i % 2 == 0; 2];
        world.run(ms(3000));
    }
    let selections = world.selections(0);
    assert!(selections <= 16, "{selections}: {:?}", world.events[0]);
}

#[test]
fn a_black_hole_for_long_datagrams_is_noticed_within_a_second_of_traffic() {
    let mut world = World::new(&[10]).up();
    world.run(ms(2000));
    assert_eq!(world.ends[0].datagram_max(), 1472);
    world.wires[0].mtu = 1300;
    let took = world.until("lowered", ms(1200), |w| w.ends[0].datagram_max() <= 1300);
    assert!(took <= ms(1000), "{took:?}");
    world.run(ms(3000));
    assert!((1296..=1300).contains(&world.ends[0].datagram_max()));
    assert_eq!(world.selections(0), 1, "the path itself is good");
    world.wires[0].mtu = 1472;
    world.until("raised again", ms(70_000), |w| w.ends[0].datagram_max() == 1472);
}

#[test]
fn the_kernels_word_lowers_the_mtu_at_once() {
    let mut world = World::new(&[10]).up();
    world.run(ms(2000));
    world.wires[0].mtu = 1372;
    let (route, now) = (world.route(0, 0), world.now);
    world.ends[0].handle_too_long(route, 1472, now);
    assert_eq!(world.ends[0].datagram_max(), 1200);
    world.run(ms(2500));
    assert!((1368..=1372).contains(&world.ends[0].datagram_max()), "{}", world.ends[0].datagram_max());
}

#[test]
fn a_path_that_passes_checks_but_no_full_datagrams_is_not_used() {
    let mut world = World::new(&[25, 5]);
    for end in 0..2 {
        world.ends[end].set_usable(true, world.now);
        world.offer(end, 0, relayed(), true);
    }
    world.wires[1].mtu = 1100;
    world.offer_both(1, direct());
    world.run(ms(5000));
    assert_eq!(
        (world.selected(0), world.view(0, 1).state, world.view(0, 1).mtu),
        (Some(0), PathState::Alive, 0)
    );
    world.wires[1].mtu = 1472;
    world.until("it passes", ms(8000), |w| w.selected(0) == Some(1));
    // And one that stops to pass them is left.
    world.wires[1].mtu = 1100;
    world.until("it is left", ms(2500), |w| w.selected(0) == Some(0));
}

#[test]
fn there_are_at_most_eight_paths_and_good_ones_stay() {
    let mut world = World::new(&[5, 6, 7]).up();
    world.offer_both(1, direct());
    world.offer_both(2, direct());
    world.run(ms(1000));
    for port in 1..100 {
        let now = world.now;
        let offer = Offer {
            id: PathId(1000 + u32::from(port)),
            route: by_relay(1, port),
            pair: relayed(),
            proven: false,
        };
        world.ends[0].offer(offer, now);
        world.ends[0].handle_datagram(by_relay(2, port), true, now);
        world.run(ms(110));
    }
    assert_eq!(world.ends[0].paths().count(), MAX_PATHS);
    assert!((0..3).all(|wire| world.view(0, wire).state == PathState::Alive));
    assert!(world.ends[0].has_route(by_relay(1, 99)), "the newest offer has a place");
}

#[test]
fn without_a_session_nothing_is_sent_and_nothing_selected() {
    let mut world = World::new(&[5]);
    world.offer(0, 0, direct(), true);
    world.run(ms(1000));
    assert_eq!((world.probes, world.selected(0)), (0, None));
    let now = world.now;
    (0..2).for_each(|end| world.ends[end].set_usable(true, now));
    world.run(ms(1000));
    assert_eq!(world.selected(0), Some(0), "what was proven before is used at once");
    let now = world.now;
    world.ends[0].set_usable(false, now);
    let probes = world.probes;
    world.talks = [false; 2];
    assert_eq!((world.ends[0].selected(), world.ends[0].poll_timeout()), (None, None));
    world.ends[1].set_usable(false, now);
    world.run(ms(5000));
    assert!(world.probes <= probes + 2, "answers on their way");
}

#[test]
fn a_withdrawn_path_is_left_at_once() {
    let mut world = World::new(&[5, 25]).up();
    world.offer_both(1, relayed());
    world.run(ms(1000));
    let now = world.now;
    world.ends[0].withdraw(PathId(0), now);
    assert_eq!(world.selected(0), Some(1));
    world.ends[0].withdraw(PathId(1), now);
    world.ends[0].withdraw(PathId(77), now);
    assert_eq!(world.selected(0), None);
    world.run(ms(1));
    assert_eq!(world.count(0, PathEvent::AllDead), 1);
}

#[derive(Clone, Debug)]
enum Turn {
    Run(u64),
    Cut(usize, bool, bool),
    Wire(usize, u64, usize),
    Rebind(usize, u16),
    Offer(usize, usize, bool, bool),
    Withdraw(usize, usize),
    Usable(usize, bool),
    Talk(bool, bool),
    TooLong(usize, usize, u16),
    ProbeAll(usize),
    Stranger(usize, u16),
    Answer(usize, u32, u16, u16),
}

fn turn() -> impl Strategy<Value = Turn> {
    let (end, wire) = (0..2usize, 0..4usize);
    prop_oneof![
        6 => (1..3000u64).prop_map(Turn::Run),
        2 => (wire.clone(), any::<bool>(), any::<bool>()).prop_map(|(w, a, b)| Turn::Cut(w, a, b)),
        1 => (wire.clone(), 0..60u64, 1000..1600usize).prop_map(|(w, loss, mtu)| Turn::Wire(w, loss, mtu)),
        1 => (wire.clone(), any::<u16>()).prop_map(|(w, port)| Turn::Rebind(w, port)),
        2 => (end.clone(), wire.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(e, w, relayed, proven)| Turn::Offer(e, w, relayed, proven)),
        1 => (end.clone(), wire.clone()).prop_map(|(e, w)| Turn::Withdraw(e, w)),
        1 => (end.clone(), any::<bool>()).prop_map(|(e, usable)| Turn::Usable(e, usable)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Turn::Talk(a, b)),
        1 => (end.clone(), wire, any::<u16>()).prop_map(|(e, w, len)| Turn::TooLong(e, w, len)),
        1 => end.clone().prop_map(Turn::ProbeAll),
        1 => (end.clone(), any::<u16>()).prop_map(|(e, port)| Turn::Stranger(e, port)),
        1 => (end, any::<u32>(), any::<u16>(), any::<u16>())
            .prop_map(|(e, sequence, heard, len)| Turn::Answer(e, sequence, heard, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// The world itself asserts that no timer stays due and that paths are bounded.
    #[test]
    fn whatever_happens_timers_move_on_and_a_good_wire_is_found(
        turns in proptest::collection::vec(turn(), 1..40),
        delays in proptest::collection::vec(0..400u64, 4),
    ) {
        let mut world = World::new(&delays).up();
        for turn in turns {
            let now = world.now;
            match turn {
                Turn::Run(time) => world.run(ms(time)),
                Turn::Cut(wire, a, b) => world.wires[wire].cut = [a, b],
                Turn::Wire(wire, loss, mtu) => (world.wires[wire].loss, world.wires[wire].mtu) = ([loss; 2], mtu),
                Turn::Rebind(wire, port) => world.wires[wire].seen[0].set_port(port.max(1)),
                Turn::Offer(end, wire, relay, proven) => {
                    world.offer(end, wire, if relay { relayed() } else { direct() }, proven);
                }
                Turn::Withdraw(end, wire) => world.ends[end].withdraw(PathId(wire as u32), now),
                Turn::Usable(end, usable) => world.ends[end].set_usable(usable, now),
                Turn::Talk(a, b) => world.talks = [a, b],
                Turn::TooLong(end, wire, len) => {
                    let route = world.route(end, wire);
                    world.ends[end].handle_too_long(route, len.into(), now);
                }
                Turn::ProbeAll(end) => world.ends[end].probe_all(now),
                Turn::Stranger(end, port) => {
                    world.ends[end].handle_datagram(by_relay(9, port), true, now);
                }
                Turn::Answer(end, sequence, heard, len) => {
                    let heard = Some(ms(heard.into()));
                    let probe = PathProbe { route: by_relay(9, 1), answer_wanted: true, sequence, heard, len };
                    world.ends[end].handle_probe(probe, len.into(), now);
                }
            }
        }
        // All is well again, and both ends are told of the first wire.
        for wire in &mut world.wires {
            (wire.cut, wire.loss, wire.mtu) = ([false; 2], [0; 2], 1472);
        }
        let now = world.now;
        world.talks = [true; 2];
        for end in 0..2 {
            world.ends[end].set_usable(true, now);
            world.offer(end, 0, direct(), true);
        }
        world.run(ms(30_000));
        for end in 0..2 {
            let selected = world.ends[end].paths().find(|path| path.selected);
            prop_assert!(selected.is_some_and(|path| path.state == PathState::Alive), "{:?}", world.events[end]);
            prop_assert!(world.gap(end, world.now - ms(2000)) <= ms(450 + 420), "{:?}", world.events[end]);
        }
    }
}
