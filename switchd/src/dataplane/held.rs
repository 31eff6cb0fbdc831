//! Frames that wait for a link: few, and not for long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use switch_core::vnet::VnetHdr;

use super::outbound::Outbound;

/// One peer's.
#[derive(Debug, Default)]
pub(super) struct Held {
    frames: VecDeque<HeldFrame>,
    bytes: usize,
    wanted: Option<Instant>,
}

/// A frame or super-frame.
#[derive(Debug)]
pub(super) struct HeldFrame {
    pub(super) outbound: Outbound,
    pub(super) vnet: VnetHdr,
    pub(super) frame: Vec<u8>,
    since: Instant,
}

impl Held {
    /// Keeps a copy of the frame, if there is room.
    pub(super) fn push(&mut self, outbound: Outbound, vnet: &VnetHdr, frame: &[u8], now: Instant) -> bool {
        if self.frames.len() >= MAX_FRAMES || self.bytes + frame.len() > MAX_BYTES {
            return false;
        }
        self.bytes += frame.len();
        self.frames.push_back(HeldFrame { outbound, vnet: *vnet, frame: frame.to_vec(), since: now });
        true
    }

    /// Whether a link is to be asked for now.
    pub(super) fn wants(&mut self, now: Instant) -> bool {
        let due = self.wanted.is_none_or(|last| now >= last + WANTED_EVERY);
        if due {
            self.wanted = Some(now);
        }
        due
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The oldest one.
    pub(super) fn pop(&mut self) -> Option<HeldFrame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.frame.len();
        Some(frame)
    }

    /// The oldest one, if it has waited for too long.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<HeldFrame> {
        self.due().filter(|due| *due <= now).and_then(|_| self.pop())
    }

    /// When the oldest one has waited for too long.
    pub(super) fn due(&self) -> Option<Instant> {
        self.frames.front().map(|frame| frame.since + MAX_AGE)
    }
}

const MAX_FRAMES: usize = 32;
/// One super-frame fits.
const MAX_BYTES: usize = 68 << 10;
const MAX_AGE: Duration = Duration::from_secs(2);
const WANTED_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use switch_core::ids::Vni;
    use switch_core::wire::Lane;

    #[test]
    fn held_frames_are_bounded_in_number_size_and_time() {
        let outbound = Outbound { vni: Vni::new(1).unwrap(), mss_clamp: true, lane: Lane::Bulk, spare: true };
        let now = Instant::now();
        let push = |held: &mut Held, len, now| held.push(outbound, &VnetHdr::default(), &vec![7; len], now);
        let mut held = Held::default();
        assert_eq!((0..100).filter(|_| push(&mut held, 60, now)).count(), MAX_FRAMES);
        while held.pop().is_some() {}
        assert!(push(&mut held, 65_550, now) && !push(&mut held, 9000, now));
        assert!(held.pop().is_some() && push(&mut held, 9000, now));
        assert!(held.pop_expired(now).is_none());
        let late = held.due().unwrap();
        assert!(push(&mut held, 60, late));
        assert_eq!(held.pop_expired(late).map(|frame| frame.frame.len()), Some(9000));
        assert!(held.pop_expired(late).is_none() && !held.is_empty());
    }

    #[test]
    fn a_link_is_asked_for_now_and_then() {
        let (mut held, now) = (Held::default(), Instant::now());
        assert!(held.wants(now) && !held.wants(now + WANTED_EVERY / 2) && held.wants(now + WANTED_EVERY));
    }
}
