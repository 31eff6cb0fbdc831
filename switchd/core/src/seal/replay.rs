//! The sliding replay window (RFC 6479): a ring of bits over the newest counters.

/// Remembers which of the newest [`ReplayWindow::SIZE`] counters were accepted.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    /// One more than the highest counter accepted; 0 before the first.
    next: u64,
    ring: Ring,
}

impl ReplayWindow {
    /// Counters that may arrive late and still be accepted: at 1 M datagrams a second, 8 ms of reordering.
    pub const SIZE: u64 = (WORDS as u64 - 1) * 64;

    /// Neither seen nor too old. Ask before the tag is verified, [`accept`](Self::accept) after.
    pub fn may_accept(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        if self.next - counter > Self::SIZE {
            return false;
        }
        self.ring.0[word(counter)] & bit(counter) == 0
    }

    /// Marks an authentic counter as seen; returns whether it is the highest so far.
    pub fn accept(&mut self, counter: u64) -> bool {
        let newest = counter >= self.next;
        if newest {
            let from = self.next.div_ceil(64);
            let to = counter / 64;
            let fresh = if self.next == 0 { 0 } else { (to + 1).saturating_sub(from).min(WORDS as u64) };
            for i in 0..fresh {
                self.ring.0[((to - i) % WORDS as u64) as usize] = 0;
            }
            self.next = counter.saturating_add(1);
        }
        self.ring.0[word(counter)] |= bit(counter);
        newest
    }
}

#[derive(Debug)]
struct Ring([u64; WORDS]);

impl Default for Ring {
    fn default() -> Ring {
        Ring([0; WORDS])
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

const WORDS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn matches_a_perfect_memory(steps in prop::collection::vec((any::<bool>(), 0u64..20_000), 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let mut base = 0u64;
            for (jump, n) in steps {
                let counter = if jump { base + n } else { base.saturating_sub(n) };
                base = base.max(counter);
                let next = seen.last().map_or(0, |highest| highest + 1);
                let too_old = counter < next && next - counter > ReplayWindow::SIZE;
                let expected = !too_old && !seen.contains(&counter);
                prop_assert_eq!(window.may_accept(counter), expected, "counter {} next {}", counter, next);
                if expected {
                    prop_assert_eq!(window.accept(counter), counter >= next);
                    seen.insert(counter);
                }
            }
        }
    }

    #[test]
    fn the_end_of_the_counter_space() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.may_accept(u64::MAX - 1));
        assert!(!window.may_accept(0));
    }
}
