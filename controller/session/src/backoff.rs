//! How long to wait before the next dial: "decorrelated jitter", so that the nodes of a restarted controller come
//! back spread out. Pure: the random number is passed in.

use std::time::Duration;

/// The waits of one dialler. Each is drawn between [`Backoff::MIN`] and three times the last one, up to
/// [`Backoff::MAX`].
#[derive(Clone, Debug)]
pub struct Backoff {
    last: Duration,
}

impl Backoff {
    /// The shortest wait.
    pub const MIN: Duration = Duration::from_millis(250);
    /// The longest wait.
    pub const MAX: Duration = Duration::from_secs(15);
    /// A session that lasted so long was no failure.
    pub const LASTED: Duration = Duration::from_secs(10);

    /// Begins with short waits.
    pub fn new() -> Backoff {
        Backoff { last: Backoff::MIN }
    }

    /// The next wait, for a number drawn evenly from all of `u64`.
    pub fn next(&mut self, random: u64) -> Duration {
        let upper = (self.last * 3).min(Backoff::MAX);
        let span = (upper - Backoff::MIN).as_nanos();
        let share = (u128::from(random) * span) >> 64;
        self.last = Backoff::MIN + Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX));
        self.last
    }

    /// A session ended that was up for `lasted`: after a good one the waits begin short again.
    pub fn session_ended(&mut self, lasted: Duration) {
        if lasted >= Backoff::LASTED {
            *self = Backoff::new();
        }
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_in_their_bounds(randoms in prop::collection::vec(any::<u64>(), 1..100)) {
            let mut backoff = Backoff::new();
            let mut last = Backoff::MIN;
            for random in randoms {
                let wait = backoff.next(random);
                prop_assert!(wait >= Backoff::MIN && wait <= Backoff::MAX);
                prop_assert!(wait <= last * 3);
                last = wait;
            }
        }

        #[test]
        fn a_session_that_lasted_makes_waits_short_again(random in any::<u64>(), lasted in 0u64..60) {
            let mut backoff = Backoff::new();
            for _ in 0..10 {
                backoff.next(u64::MAX);
            }
            backoff.session_ended(Duration::from_secs(lasted));
            let wait = backoff.next(random);
            prop_assert!(lasted < 10 || wait <= Backoff::MIN * 3);
        }
    }

    #[test]
    fn failures_in_a_row_reach_the_longest_wait_and_differ_by_their_random_number() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..6).map(|_| backoff.next(u64::MAX)).collect();
        assert!(waits.is_sorted());
        assert!(Backoff::MAX - waits[5] < Duration::from_millis(1));
        assert_eq!(backoff.next(0), Backoff::MIN);
    }
}
