//! How long to wait before the next dial: exponential, with half of each wait drawn at random, so that the nodes of a
//! restarted controller come back spread out and soon. Pure: the random number is passed in.

use std::time::Duration;

/// The waits of one dialler. Each is drawn from the upper half of a bound that doubles from one failure to the next,
/// from twice [`Backoff::MIN`] up to [`Backoff::MAX`].
///
/// A controller that is back within 0.75 s is met at the second dial, at most 1.5 s after it went.
#[derive(Clone, Debug)]
pub struct Backoff {
    bound: Duration,
}

impl Backoff {
    /// The shortest wait.
    pub const MIN: Duration = Duration::from_millis(250);
    /// The longest wait.
    pub const MAX: Duration = Duration::from_secs(15);

    /// Begins with short waits.
    pub fn new() -> Backoff {
        Backoff { bound: Backoff::MIN * 2 }
    }

    /// The next wait, for a number drawn evenly from all of `u64`.
    pub fn next(&mut self, random: u64) -> Duration {
        let half = self.bound / 2;
        let share = (u128::from(random) * half.as_nanos()) >> 64;
        self.bound = (self.bound * 2).min(Backoff::MAX);
        half + Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// A session ended that was up for `lasted`: twice that comes off the bound. One that ends as soon as it is there
    /// is as good as a failure; one that lasted makes the waits short again.
    pub fn session_ended(&mut self, lasted: Duration) {
        self.bound = self.bound.saturating_sub(lasted.saturating_mul(2)).max(Backoff::MIN * 2);
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
            let mut bound = Backoff::MIN * 2;
            for random in randoms {
                let wait = backoff.next(random);
                prop_assert!(wait >= bound / 2 && wait <= bound);
                bound = (bound * 2).min(Backoff::MAX);
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
            prop_assert!(lasted < 8 || wait <= Backoff::MIN * 2);
            prop_assert!(lasted > 0 || wait >= Backoff::MAX / 2);
        }

        /// Whatever is drawn, and however often it was restarted before, if each session lasted two seconds.
        #[test]
        fn a_controller_that_is_back_soon_is_met_within_two_seconds(
            draws in prop::collection::vec((any::<u64>(), any::<u64>()), 1..20),
            away in 0u64..750,
        ) {
            let (mut backoff, away) = (Backoff::new(), Duration::from_millis(away));
            for (first, second) in draws {
                backoff.session_ended(Duration::from_secs(2));
                let mut back = backoff.next(first);
                if back < away {
                    back += backoff.next(second);
                }
                prop_assert!(back >= away && back <= Duration::from_millis(1500), "{:?}", back);
            }
        }
    }

    #[test]
    fn failures_in_a_row_reach_the_longest_wait_and_differ_by_their_random_number() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..6).map(|_| backoff.next(u64::MAX)).collect();
        assert!(waits.is_sorted());
        assert!(Backoff::MAX - waits[5] < Duration::from_millis(1));
        assert_eq!(backoff.next(0), Backoff::MAX / 2);
    }
}
