//! What a peer can have this node send to addresses that it names.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nat_traversal::{
    Candidate, CandidateKind, Signal, SignalCandidate, Traversal, TraversalConfig, TraversalTiming,
};

/// A peer that names another's address and asks for checks all the time.
#[test]
fn checks_to_addresses_that_do_not_answer_are_few() {
    let start = Instant::now();
    let config = TraversalConfig {
        controlling: true,
        ufrag: "mineAAAA".into(),
        password: "m".repeat(24),
        generation: 1,
        seed: 7,
        timing: TraversalTiming::default(),
    };
    let mut traversal = Traversal::new(config, start);
    let address = "192.0.2.1:4840".parse().unwrap();
    let own = Candidate { kind: CandidateKind::Host, address, base: address, relay: None };
    traversal.set_local_candidates(&[own], start);
    traversal.wake(start);
    let mut sent = 0;
    for tick in 0..60_000u32 {
        let now = start + Duration::from_millis(10) * tick;
        if tick % 100 == 0 {
            let round = u64::from(tick / 100);
            let named = |n: u16| SignalCandidate {
                kind: CandidateKind::Host,
                address: SocketAddr::new([198, 51, 100, 7].into(), 1000 + n + (round % 50) as u16),
            };
            let signal = Signal {
                version: Signal::VERSION,
                generation: 1,
                sequence: round + 1,
                ufrag: "theirsAA".into(),
                password: "t".repeat(24),
                candidates: (0..30).map(named).collect(),
                heard: None,
                check: round,
                answer: false,
            };
            // One that comes too often is refused, which is as good.
            let _ = traversal.handle_signal(&signal, now);
        }
        if traversal.poll_timeout().is_some_and(|at| at <= now) {
            traversal.handle_timeout(now);
        }
        sent += std::iter::from_fn(|| traversal.poll_transmit()).count();
        while traversal.poll_event().is_some() || traversal.poll_signal().is_some() {}
    }
    // In ten minutes.
    assert!((1500..7600).contains(&sent), "{sent} checks");
}
