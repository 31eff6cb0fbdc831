//! A rate with a burst: how many of something may go, by the time that has passed.

use std::time::{Duration, Instant};

/// What is left of a budget. Pure: time is an argument.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u32,
    burst: u32,
    earn: Duration,
    at: Instant,
}

impl Budget {
    /// A full one of `burst`, that gains one each `earn`.
    pub fn new(burst: u32, earn: Duration, now: Instant) -> Budget {
        Budget { left: burst, burst, earn, at: now }
    }

    /// Spends one; false if there is nothing left.
    pub fn spend(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_nanos() / self.earn.as_nanos().max(1);
        match u32::try_from(earned) {
            Ok(earned) if earned < self.burst => {
                self.left = self.left.saturating_add(earned).min(self.burst);
                self.at += self.earn * earned;
            }
            _ => (self.left, self.at) = (self.burst, now),
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }

    /// Gives one back.
    pub(crate) fn regain(&mut self) {
        self.left = (self.left + 1).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_rate_and_what_is_slower_is_not() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut flood = Budget::new(512, ms(1), start);
        let taken = (0..100_000u32).filter(|n| flood.spend(start + Duration::from_micros(20) * *n)).count();
        assert!((2400..2600).contains(&taken), "{taken} in two seconds");
        assert!(flood.spend(start + ms(2010)));
        let mut slow = Budget::new(512, ms(1), start);
        assert!((0..10_000u32).all(|n| slow.spend(start + ms(5) * n)));
        assert!((0..512).all(|_| slow.spend(start + ms(60_000))));
        assert!(!slow.spend(start + ms(60_000)));
    }
}
