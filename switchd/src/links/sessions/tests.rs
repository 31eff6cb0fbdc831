use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const TIMING: Timing = Timing { rekey_after: HOUR };

fn sessions(owner: bool) -> (Sessions, Instant) {
    let now = Instant::now();
    (Sessions::new(owner, true, TIMING, now), now)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn the_owner_dials_at_once_the_other_a_little_later() {
    let (mut owner, t) = sessions(true);
    assert_eq!(owner.poll(t), [Action::Dial]);
    let (mut other, t) = sessions(false);
    assert_eq!(other.poll(t), []);
    assert_eq!(other.poll_timeout(), Some(t + STAGGER));
    other.ready(1, 7, false, t + ms(50));
    assert_eq!(other.poll(t + ms(150)), [Action::Use(1)], "dialled in time: no dial of its own");
}

#[test]
fn failures_back_off_and_never_stop() {
    let (mut s, t) = sessions(true);
    let mut at = t;
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(s.poll(at), [Action::Dial]);
        assert_eq!(s.poll(at), [], "one dial at a time");
        s.dial_failed(false, at);
        let next = s.poll_timeout().unwrap();
        waits.push((next - at).as_millis());
        at = next;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
}

#[test]
fn simultaneous_dials_end_in_one_session() {
    let (mut s, t) = sessions(true);
    assert_eq!(s.poll(t), [Action::Dial]);
    s.ready(1, 7, false, t);
    s.ready(2, 7, true, t + ms(5));
    assert_eq!(s.poll(t + ms(5)), [Action::Use(1), Action::Use(2)]);
    assert_eq!(s.poll(t + ms(5) + RETIRE_AFTER), [Action::Retire(1)]);
    s.closed(1, t + ms(1100));
    assert_eq!(s.poll(t + ms(1100)), []);
    assert_eq!(s.active(), Some(2));
}

#[test]
fn the_peer_of_the_owner_switches_and_closes_when_asked() {
    let (mut s, t) = sessions(false);
    s.ready(1, 7, false, t);
    s.ready(2, 7, true, t);
    s.poll(t);
    s.retire(2, t + ms(1000));
    assert_eq!(s.poll(t + ms(1000)), [Action::Use(1), Action::Close(2)]);
}

#[test]
fn the_only_session_outlives_a_request_to_retire_it() {
    let (mut s, t) = sessions(false);
    s.ready(1, 7, false, t);
    s.retire(1, t);
    assert_eq!(s.poll(t), [Action::Use(1)]);
    s.ready(2, 7, false, t);
    assert_eq!(s.poll(t), [Action::Use(2), Action::Close(1)]);
}

#[test]
fn a_restarted_peer_is_used_at_once_and_its_former_sessions_are_closed() {
    let (mut s, t) = sessions(true);
    s.ready(1, 7, true, t);
    s.poll(t);
    s.ready(2, 8, false, t + ms(10));
    assert_eq!(s.poll(t + ms(10)), [Action::Close(1), Action::Use(2)]);
}

#[test]
fn a_lost_link_is_dialled_again() {
    let (mut s, t) = sessions(true);
    s.ready(1, 7, true, t);
    s.poll(t);
    s.closed(1, t + PROVEN_AFTER);
    assert_eq!(s.poll(t + PROVEN_AFTER), [Action::LinkDown, Action::Dial]);
}

#[test]
fn sessions_that_die_young_are_not_dialled_in_a_tight_loop() {
    let (mut s, t) = sessions(true);
    let mut at = t;
    for id in 1..=6 {
        assert!(s.poll(at).contains(&Action::Dial), "{id}");
        s.ready(id, id, true, at);
        s.closed(id, at);
        assert!(!s.poll(at).contains(&Action::Dial), "{id}");
        at = s.poll_timeout().unwrap();
    }
    assert!(at - t > Duration::from_secs(3), "{:?}", at - t);
}

#[test]
fn a_peer_that_never_retires_sessions_has_few() {
    let (mut s, t) = sessions(false);
    let mut closed = 0;
    for id in 1..=50 {
        s.ready(id, 7, false, t);
        closed += s.poll(t).iter().filter(|a| matches!(a, Action::Close(_))).count();
    }
    assert_eq!(closed, 50 - MAX_SESSIONS);
}

#[test]
fn keys_are_renewed_by_the_end_that_dialled_else_by_the_other() {
    for (dialled, after) in [(true, HOUR), (false, HOUR + HOUR / 4)] {
        let (mut s, t) = sessions(true);
        s.poll(t);
        s.ready(1, 7, dialled, t);
        if !dialled {
            s.dial_failed(false, t);
            s.dial_at = None;
        }
        s.poll(t);
        assert_eq!(s.poll_timeout(), Some(t + after));
        assert_eq!(s.poll(t + after), [Action::Dial]);
        s.ready(2, 7, true, t + after);
        assert_eq!(s.poll(t + after), [Action::Use(2)]);
        assert_eq!(s.poll(t + after + RETIRE_AFTER), [Action::Retire(1)]);
        assert_eq!(s.poll(t + after + RETIRE_AFTER + CLOSE_AFTER), [Action::Close(1)]);
    }
}

#[test]
fn a_failed_renewal_is_tried_again_while_the_old_session_serves() {
    let (mut s, t) = sessions(true);
    s.poll(t);
    s.ready(1, 7, true, t);
    s.poll(t);
    assert_eq!(s.poll(t + HOUR), [Action::Dial]);
    s.dial_failed(false, t + HOUR + ms(1));
    assert_eq!(s.active(), Some(1));
    assert_eq!(s.poll(t + HOUR + ms(200)), [Action::Dial]);
}

#[test]
fn without_an_address_the_peer_must_dial() {
    let (mut s, t) = sessions(true);
    s.set_may_dial(false, t);
    assert_eq!(s.poll(t + HOUR), []);
    s.set_may_dial(true, t + HOUR);
    assert_eq!(s.poll(t + HOUR), [Action::Dial]);
}

#[test]
fn a_dial_that_the_peers_own_made_needless_is_not_repeated() {
    let (mut s, t) = sessions(true);
    assert_eq!(s.poll(t), [Action::Dial]);
    s.ready(1, 7, false, t + ms(5));
    assert_eq!(s.poll(t + ms(5)), [Action::Use(1)]);
    s.dial_failed(true, t + ms(2000));
    assert_eq!(s.poll(t + ms(60_000)), []);
    s.closed(1, t + ms(61_000));
    assert_eq!(s.poll(t + ms(61_000)), [Action::LinkDown, Action::Dial]);
}

#[test]
fn a_renewal_that_is_asked_for_while_a_dial_is_under_way_comes_after_it() {
    let (mut s, t) = sessions(true);
    assert_eq!(s.poll(t), [Action::Dial]);
    s.ready(1, 7, false, t + ms(5));
    assert_eq!(s.poll(t + ms(5)), [Action::Use(1)]);
    s.renew(t + ms(1000));
    assert_eq!(s.poll(t + ms(1000)), [], "one dial at a time");
    s.dial_failed(true, t + ms(3000));
    assert_eq!(s.poll(t + ms(3000)), [Action::Dial]);
    // A fresh session is what was wanted, whoever dialled.
    s.renew(t + ms(3100));
    s.ready(2, 7, true, t + ms(3200));
    assert_eq!(s.poll(t + ms(3200)), [Action::Use(2)]);
}
