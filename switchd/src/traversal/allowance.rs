//! How much of one peer's STUN is looked into: each message costs an HMAC or two and an answer. Pure.

use std::time::{Duration, Instant};

/// What is left to a peer.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    at: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Allowance {
        Allowance { left: BURST, at: now }
    }

    /// Spends one message's; false if there is nothing left.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_nanos() / EARN.as_nanos();
        if earned >= u128::from(BURST) {
            (self.left, self.at) = (BURST, now);
        } else if let Ok(earned) = u32::try_from(earned) {
            self.left = (self.left + earned).min(BURST);
            self.at += EARN * earned;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// A peer that checks as fast as it may sends a hundred requests a second, and answers a hundred.
const BURST: u32 = 512;
const EARN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_rate_and_checks_are_not() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut flood = Allowance::new(start);
        let taken = (0..100_000u32).filter(|n| flood.spend(start + Duration::from_micros(20) * *n)).count();
        assert!((2400..2600).contains(&taken), "{taken} in two seconds");
        assert!(flood.spend(start + ms(2010)));
        let mut checks = Allowance::new(start);
        assert!((0..10_000u32).all(|n| checks.spend(start + ms(5) * n)));
        assert!((0..BURST).all(|_| checks.spend(start + ms(60_000))));
        assert!(!checks.spend(start + ms(60_000)));
    }
}
