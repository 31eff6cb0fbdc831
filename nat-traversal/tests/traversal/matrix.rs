//! Each kind of site with each.

use std::time::Duration;

use crate::net::{Filter, ms};
use crate::world::{Site, World};

const SITES: [Site; 9] = [
    Site::Open,
    Site::Behind(Filter::FullCone),
    Site::Behind(Filter::Address),
    Site::Behind(Filter::Port),
    Site::Behind(Filter::Symmetric),
    Site::Double(Filter::Port, Filter::Port),
    Site::Double(Filter::FullCone, Filter::Symmetric),
    Site::Blocked,
    Site::V6,
];

/// What can be had at best.
fn fewest_hops(a: Site, b: Site) -> usize {
    let symmetric =
        |site| matches!(site, Site::Behind(Filter::Symmetric) | Site::Double(_, Filter::Symmetric));
    let by_port = |site| symmetric(site) || matches!(site, Site::Behind(Filter::Port) | Site::Double(..));
    match (a, b) {
        (Site::Blocked, Site::Blocked) => 2,
        (Site::Blocked, _) | (_, Site::Blocked) => 1,
        _ if symmetric(a) && by_port(b) || by_port(a) && symmetric(b) => 1,
        _ => 0,
    }
}

#[test]
fn every_pair_of_sites_connects_and_as_directly_as_it_can() {
    let mut failures = Vec::new();
    for a in SITES {
        for b in SITES {
            if (a == Site::V6) != (b == Site::V6) {
                continue;
            }
            let mut world = World::new(a, b);
            world.begin();
            let wanted = fewest_hops(a, b);
            let connected = world.run(Duration::from_secs(20), World::connected);
            let at_best = world.run(Duration::from_secs(20), |world| world.hops() == Some(wanted));
            let best_at = world.now;
            let first = [0, 1].map(|index| world.nodes[index].first.unwrap_or(ms(99_999)));
            println!("{a:?} / {b:?}: first {first:?}, {:?} hops at {best_at:?}", world.hops());
            if !connected || !at_best || first[0].max(first[1]) > ms(300) || best_at > ms(500) {
                failures.push(format!("{a:?} / {b:?}: {first:?} {best_at:?} {:?}", world.kinds()));
            }
            world.run_for(Duration::from_secs(10));
            assert_eq!(world.hops(), Some(wanted), "{a:?} / {b:?} has gone worse");
            assert_eq!(world.net.misuse, 0, "a relay was asked for private addresses");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
