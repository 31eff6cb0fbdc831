//! Passwords stay out of logs and of what is printed. Alone in its program: a log subscriber sees what its callsites
//! were told first.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nat_traversal::{
    Candidate, CandidateKind, PathNews, Route, Traversal, TraversalConfig, TraversalEvent, TraversalTiming,
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic holds it").extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_password_is_logged_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let printed = tracing::subscriber::with_default(subscriber, connect_and_fail);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("ufrag0"), "the log was taken");
    for secret in ["password0", "password1"] {
        assert!(!log.contains(secret) && !printed.contains(secret));
    }
}

/// A path is found and dies. Gives what could be printed.
fn connect_and_fail() -> String {
    let mut now = Instant::now();
    let addresses: [SocketAddr; 2] =
        [1, 2].map(|host| format!("203.0.113.{host}:4840").parse().expect("an address"));
    let configs = [0, 1].map(|side| TraversalConfig {
        controlling: side == 0,
        ufrag: format!("ufrag{side}"),
        password: format!("password{side}password{side}password"),
        generation: 1,
        seed: side,
        timing: TraversalTiming::default(),
    });
    let mut printed = format!("{configs:?}");
    let mut sides = configs.map(|config| Traversal::new(config, now));
    for (side, address) in sides.iter_mut().zip(addresses) {
        let kind = CandidateKind::Host;
        side.set_local_candidates(&[Candidate { kind, address, base: address, relay: None }], now);
    }
    sides[0].wake(now);
    let mut found = 0;
    for _ in 0..300 {
        now += Duration::from_millis(10);
        for from in 0..2 {
            let to = 1 - from;
            if sides[from].poll_timeout().is_some_and(|at| at <= now) {
                sides[from].handle_timeout(now);
            }
            while let Some(transmit) = sides[from].poll_transmit() {
                let route = Route::Direct(addresses[from]);
                sides[to].handle_stun(route, addresses[to], &transmit.payload, now);
                // A message that was tampered with on its way.
                let last = transmit.payload.len() - 9;
                let mut bad = transmit.payload;
                bad[last] ^= 1;
                sides[to].handle_stun(route, addresses[to], &bad, now);
            }
            while let Some(signal) = sides[from].poll_signal() {
                printed += &format!("{signal:?}");
                sides[to].handle_signal(&signal, now).expect("a good signal");
            }
            while let Some(event) = sides[from].poll_event() {
                found += usize::from(matches!(event, TraversalEvent::Found { .. }));
                printed += &format!("{event:?}");
                sides[from].handle_path(PathNews::AllDead, now);
            }
        }
    }
    assert!(found >= 2);
    printed + &format!("{:?} {:?}", sides[0].report(now), sides[0].report(now).why_relayed())
}
