//! An address of the peer's that is an allocation on its relay counts as one, whatever it looked like at first.

use std::time::Instant;

use nat_traversal::{
    CandidateKind, PathNews, Route, Signal, SignalCandidate, Traversal, TraversalConfig, TraversalEvent,
    TraversalTiming,
};

fn traversal(now: Instant) -> Traversal {
    let config = TraversalConfig {
        controlling: true,
        ufrag: "mineAAAA".into(),
        password: "m".repeat(24),
        generation: 1,
        seed: 7,
        timing: TraversalTiming::default(),
    };
    let mut traversal = Traversal::new(config, now);
    traversal.wake(now);
    traversal
}

fn signal(relayed: Route) -> Signal {
    Signal {
        version: Signal::VERSION,
        generation: 1,
        sequence: 1,
        ufrag: "theirsAA".into(),
        password: "t".repeat(24),
        candidates: vec![SignalCandidate { kind: CandidateKind::Relayed, address: relayed.remote() }],
        heard: None,
        check: 0,
        answer: false,
    }
}

fn told_as_relayed(traversal: &mut Traversal, route: Route) -> bool {
    std::iter::from_fn(|| traversal.poll_event()).any(|event| {
        matches!(event, TraversalEvent::Found { route: found, pair }
            if found == route && pair.kind() == CandidateKind::Relayed)
    })
}

#[test]
fn a_peers_relay_that_was_taken_for_a_direct_way_is_told_as_a_relay() {
    let now = Instant::now();
    let relayed = Route::Direct("203.0.113.10:50001".parse().unwrap());
    let seen = PathNews::Selected(relayed, CandidateKind::PeerReflexive);

    let mut known_before = traversal(now);
    known_before.handle_signal(&signal(relayed), now).unwrap();
    known_before.handle_path(seen, now);
    assert!(told_as_relayed(&mut known_before, relayed));

    let mut known_after = traversal(now);
    known_after.handle_path(seen, now);
    assert!(!told_as_relayed(&mut known_after, relayed));
    known_after.handle_signal(&signal(relayed), now).unwrap();
    assert!(told_as_relayed(&mut known_after, relayed));

    let mut direct = traversal(now);
    direct.handle_signal(&signal(relayed), now).unwrap();
    let other = Route::Direct("203.0.113.77:4840".parse().unwrap());
    direct.handle_path(PathNews::Selected(other, CandidateKind::PeerReflexive), now);
    assert!(!told_as_relayed(&mut direct, other));
}
