//! Anything, in any order; and once it ends the best path comes back.

use std::time::Duration;

use proptest::prelude::*;

use crate::net::{Filter, ms};
use crate::world::{Site, World};

#[derive(Clone, Debug)]
enum Step {
    Cut(bool),
    Rebind(usize),
    Gather(usize),
    Move(usize, u8),
    Restart(usize),
    LoseRelay(usize),
    NewRelay(usize),
    SignallingDown(bool),
    BadSignals(u64),
    Wake(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2usize;
    prop_oneof![
        1 => any::<bool>().prop_map(Step::Cut),
        1 => side.clone().prop_map(Step::Rebind),
        1 => side.clone().prop_map(Step::Gather),
        1 => (side.clone(), 3..200u8).prop_map(|(side, last)| Step::Move(side, last)),
        1 => side.clone().prop_map(Step::Restart),
        1 => side.clone().prop_map(Step::LoseRelay),
        1 => side.clone().prop_map(Step::NewRelay),
        1 => any::<bool>().prop_map(Step::SignallingDown),
        1 => (0..50u64).prop_map(Step::BadSignals),
        1 => side.prop_map(Step::Wake),
        4 => prop_oneof![1..100u64, 100..3_000u64, 3_000..30_000u64].prop_map(Step::Wait),
    ]
}

fn site() -> impl Strategy<Value = Site> {
    prop_oneof![
        Just(Site::Open),
        Just(Site::Behind(Filter::FullCone)),
        Just(Site::Behind(Filter::Port)),
        Just(Site::Behind(Filter::Symmetric)),
        Just(Site::Double(Filter::Port, Filter::Port)),
        Just(Site::Blocked),
    ]
}

fn happen(world: &mut World, step: &Step, count: u32) {
    match *step {
        Step::Cut(cut) => world.net.cut = cut,
        Step::Rebind(side) => {
            let nats = world.net.hosts[side].nats.clone();
            nats.into_iter().for_each(|nat| world.net.nats[nat].rebind());
        }
        Step::Gather(side) => world.gather(side),
        Step::Move(side, last) => {
            let host = &mut world.net.hosts[side];
            let prefix = if host.nats.is_empty() { format!("203.0.{side}") } else { format!("10.{side}.7") };
            host.addresses = vec![format!("{prefix}.{last}").parse().unwrap()];
            world.gather(side);
        }
        Step::Restart(side) => {
            world.restart(side, |config| {
                config.ufrag = format!("again{count}");
                config.generation = u64::from(count % 7);
            });
            world.gather(side);
            world.wake(side);
        }
        Step::LoseRelay(side) => {
            let own = world.net.allocations.iter_mut().filter(|own| own.host == side);
            own.for_each(|own| own.up = false);
            world.gather(side);
        }
        Step::NewRelay(side) => {
            world.allocate(side, 10 + count);
            world.gather(side);
        }
        Step::SignallingDown(down) => world.signalling_down = down,
        Step::BadSignals(bad) => world.bad_signals = bad,
        Step::Wake(side) => world.wake(side),
        Step::Wait(time) => world.run_for(ms(time)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_best_path_comes_back(a in site(), b in site(), steps in proptest::collection::vec(step(), 0..25)) {
        let mut world = World::new(a, b);
        world.begin();
        let best = {
            let mut world = World::new(a, b);
            world.begin();
            prop_assert!(world.run(ms(500), World::connected));
            world.run_for(ms(500));
            world.hops()
        };
        for (count, step) in (0..).zip(&steps) {
            happen(&mut world, step, count);
        }
        world.net.cut = false;
        world.signalling_down = false;
        world.bad_signals = 0;
        for side in 0..2 {
            if !world.net.allocations.iter().any(|own| own.host == side && own.up) {
                world.allocate(side, 90);
            }
            world.gather(side);
        }
        let connected = world.run(Duration::from_secs(100), World::connected);
        prop_assert!(connected, "{:?}", world.nodes.iter().map(|node| node.traversal.report(world.instant())).collect::<Vec<_>>());
        let at_best = world.run(Duration::from_secs(200), |world| world.hops() == best);
        prop_assert!(at_best, "{best:?} {:?} {:?}", world.kinds(), world.nodes.iter().map(|node| node.traversal.report(world.instant())).collect::<Vec<_>>());
        // And it stays, at rest.
        world.run_for(Duration::from_secs(100));
        prop_assert_eq!(world.hops(), best);
        let before: Vec<_> = world.nodes.iter().map(|node| node.stun_bytes).collect();
        world.run_for(Duration::from_secs(300));
        for (node, before) in world.nodes.iter().zip(before) {
            let bits = (node.stun_bytes - before) * 8 / 300;
            prop_assert!(bits < 300, "{bits} bit/s");
        }
    }
}
