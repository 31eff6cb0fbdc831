//! To whom and how often frames are flooded.

use crate::ids::PeerId;
use crate::time::Time;

/// The peers of the network whose link is up, in order.
#[derive(Debug, Default)]
pub(super) struct Links {
    up: Vec<PeerId>,
}

impl Links {
    /// `true` if it was not so before.
    pub(super) fn set(&mut self, peer: PeerId, up: bool) -> bool {
        match (self.up.binary_search(&peer), up) {
            (Err(at), true) => self.up.insert(at, peer),
            (Ok(at), false) => {
                self.up.remove(at);
            }
            _ => return false,
        }
        true
    }

    pub(super) fn is_up(&self, peer: PeerId) -> bool {
        self.up.binary_search(&peer).is_ok()
    }

    pub(super) fn all_up(&self) -> &[PeerId] {
        &self.up
    }
}

/// A token bucket whose last eighth is kept for control frames (ARP, ND, DHCP).
#[derive(Debug)]
pub(super) struct Bucket {
    rate: u64,
    burst: u64,
    /// In billionths of a frame.
    tokens: u64,
    filled: Time,
}

/// What a flooded frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    Bulk,
    Control,
}

impl Bucket {
    pub(super) fn new(rate: u32, burst: u32) -> Bucket {
        let burst = u64::from(burst) * FRAME;
        Bucket { rate: u64::from(rate), burst, tokens: burst, filled: Time::ZERO }
    }

    /// Another rate and burst; tokens beyond the new burst are lost.
    pub(super) fn set(&mut self, rate: u32, burst: u32) {
        self.rate = u64::from(rate);
        self.burst = u64::from(burst) * FRAME;
        self.tokens = self.tokens.min(self.burst);
    }

    pub(super) fn take(&mut self, share: Share, now: Time) -> bool {
        let nanos = u64::try_from(now.since(self.filled).as_nanos()).unwrap_or(u64::MAX);
        if now > self.filled {
            self.filled = now;
            self.tokens = self.tokens.saturating_add(nanos.saturating_mul(self.rate)).min(self.burst);
        }
        let kept = match share {
            Share::Bulk => self.burst / FRAME / 8 * FRAME,
            Share::Control => 0,
        };
        let enough = self.tokens >= kept + FRAME;
        if enough {
            self.tokens -= FRAME;
        }
        enough
    }
}

const FRAME: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bulk_leaves_an_eighth_for_control_and_refills_by_rate() {
        let mut b = Bucket::new(100, 80);
        let at = |ms| Time::from_epoch(Duration::from_millis(ms));
        let taken = (0..200).filter(|_| b.take(Share::Bulk, at(0))).count();
        assert_eq!(taken, 70);
        assert_eq!((0..200).filter(|_| b.take(Share::Control, at(0))).count(), 10);
        assert!(!b.take(Share::Control, at(9)));
        assert!(b.take(Share::Control, at(10)));
        assert_eq!((0..999).filter(|_| b.take(Share::Control, at(100_000))).count(), 80);
        b.set(1, 2);
        assert_eq!((0..9).filter(|_| b.take(Share::Control, at(100_000))).count(), 0);
    }

    #[test]
    fn a_burst_of_one_still_passes_a_frame() {
        assert!(Bucket::new(1, 1).take(Share::Bulk, Time::ZERO));
    }

    #[test]
    fn links_are_a_sorted_set() {
        let mut l = Links::default();
        for (p, news) in [(3, true), (1, true), (2, true), (3, false)] {
            assert_eq!(l.set(PeerId(p), true), news);
        }
        assert!(l.set(PeerId(2), false));
        assert!(!l.set(PeerId(9), false));
        assert_eq!(l.all_up(), [PeerId(1), PeerId(3)]);
        assert!(l.is_up(PeerId(3)) && !l.is_up(PeerId(2)));
    }
}
