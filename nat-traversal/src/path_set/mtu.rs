//! How long a datagram one path carries: searched with padded probes, doubted when they go missing.

use std::time::{Duration, Instant};

use super::FULL;
use super::path::Mode;

/// One path's search.
#[derive(Debug)]
pub(super) struct Mtu {
    /// Known to pass; 0: nothing is.
    ok: u16,
    /// The most to be tried.
    top: u16,
    /// Known, or taken, not to pass.
    bad: u16,
    searching: bool,
    /// [`FULL`] bytes did not pass.
    blocked: bool,
    /// Probes of the present size that were lost.
    tries: u32,
    out: Option<Out>,
    next: Instant,
    raise_at: Instant,
    /// A datagram of more than [`FULL`] bytes was sent since a size was last tried.
    used: bool,
}

/// The one sized probe under way.
#[derive(Clone, Copy, Debug)]
struct Out {
    len: u16,
    sent: Instant,
}

impl Mtu {
    pub(super) fn new(now: Instant) -> Mtu {
        Mtu {
            ok: 0,
            top: FULL,
            bad: FULL + 1,
            searching: true,
            blocked: false,
            tries: 0,
            out: None,
            next: now,
            raise_at: now,
            used: false,
        }
    }

    /// Datagrams of more than [`FULL`] bytes are sent.
    pub(super) fn used(&mut self) {
        self.used = true;
    }

    pub(super) fn set_top(&mut self, top: u16) {
        let top = top.max(FULL);
        if top != self.top {
            (self.top, self.bad, self.searching) = (top, top.saturating_add(1), true);
            self.ok = self.ok.min(top);
        }
    }

    /// [`FULL`] bytes have passed.
    pub(super) fn prove(&mut self) {
        self.ok = self.ok.max(FULL);
        self.blocked = false;
    }

    pub(super) fn full(&self) -> bool {
        self.ok >= FULL
    }

    pub(super) fn blocked(&self) -> bool {
        self.blocked
    }

    /// What frames may have.
    pub(super) fn carried(&self) -> u16 {
        self.ok.max(FULL)
    }

    pub(super) fn top(&self) -> u16 {
        self.top
    }

    pub(super) fn known(&self) -> u16 {
        self.ok
    }

    /// The path was selected: what was known of it may be old.
    pub(super) fn selected(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// The size to try now, if it is time.
    pub(super) fn due_size(&mut self, mode: Mode, now: Instant) -> Option<u16> {
        if self.due(mode).is_none_or(|at| at > now) {
            return None;
        }
        if self.full() && !self.searching && self.raise_due(mode, now) {
            (self.bad, self.searching) = (self.top.saturating_add(1), true);
        }
        self.size(mode)
    }

    /// When a size is to be tried next.
    pub(super) fn due(&self, mode: Mode) -> Option<Instant> {
        if self.out.is_some() {
            return None; // `expire` comes first
        }
        let raise = (mode == Mode::Busy && self.used && self.full() && !self.searching && self.ok < self.top)
            .then_some(self.raise_at.max(self.next));
        self.size(mode).map(|_| self.next).into_iter().chain(raise).min()
    }

    /// When the probe under way counts as lost.
    pub(super) fn expires(&self, wait: Duration) -> Option<Instant> {
        self.out.map(|out| out.sent + wait)
    }

    pub(super) fn sent(&mut self, len: u16, now: Instant) {
        self.out = Some(Out { len, sent: now });
        self.used = false;
    }

    /// A probe of `len` bytes arrived whole.
    pub(super) fn passed(&mut self, len: u16, now: Instant) {
        if self.out.is_some_and(|out| out.len == len) {
            self.out = None;
            self.tries = 0;
        }
        self.ok = self.ok.max(len);
        self.blocked = false;
        if self.searching {
            self.bad = self.bad.max(self.ok.saturating_add(1));
            self.next = now;
            self.end_search(now);
        } else {
            self.next = now + CONFIRM;
        }
    }

    /// Judges the probe under way. `confirmed`: when the path last proved to work with short ones, of which `loss_ppm`
    /// millionths are lost.
    pub(super) fn expire(&mut self, wait: Duration, confirmed: Option<Instant>, loss_ppm: u32, now: Instant) {
        let Some(out) = self.out.filter(|out| now >= out.sent + wait) else { return };
        self.out = None;
        self.next = now;
        if confirmed.is_none_or(|at| at <= out.sent) {
            self.next = now + wait; // the path itself may be down: that is not for this search to judge
            return;
        }
        self.tries += 1;
        // The length is to blame only where chance is not: about once in ten thousand.
        let needed = match loss_ppm {
            0..30_000 => TRIES,
            30_000..150_000 => 5,
            150_000..300_000 => 8,
            _ => 14,
        };
        if self.tries >= needed {
            self.failed(out.len, now);
        }
    }

    /// The kernel refused this size.
    pub(super) fn too_long(&mut self, len: u16, now: Instant) {
        if len <= self.ok {
            self.ok = 0;
        }
        self.out = self.out.filter(|out| out.len < len);
        self.next = now;
        self.failed(len, now);
    }

    fn failed(&mut self, len: u16, now: Instant) {
        self.tries = 0;
        if len <= FULL {
            (self.ok, self.blocked, self.next) = (0, true, now + BLOCKED);
        } else if len == self.ok {
            // A black hole: what passed does not any more. Nothing of it is believed.
            self.ok = 0;
        }
        if len > FULL {
            (self.bad, self.searching) = (self.bad.min(len), true);
            self.end_search(now);
        }
    }

    fn end_search(&mut self, now: Instant) {
        if self.full() && self.bad.saturating_sub(self.ok) <= STEP {
            self.searching = false;
            self.raise_at = now + RAISE;
            self.next = now + CONFIRM;
        }
    }

    fn size(&self, mode: Mode) -> Option<u16> {
        let selected = matches!(mode, Mode::Busy | Mode::Idle);
        if !self.full() {
            Some(FULL)
        } else if selected && self.searching {
            Some(if self.bad > self.top { self.top } else { self.ok + (self.bad - self.ok) / 2 })
        } else if mode == Mode::Busy && self.used && self.ok > FULL {
            Some(self.ok)
        } else {
            None
        }
    }

    fn raise_due(&self, mode: Mode, now: Instant) -> bool {
        mode == Mode::Busy && self.used && self.ok < self.top && now >= self.raise_at
    }
}

/// How often a size in use is proved again while frames flow.
const CONFIRM: Duration = Duration::from_millis(250);
/// Between searches for more.
const RAISE: Duration = Duration::from_secs(60);
/// Between tries of a path that does not pass [`FULL`] bytes.
const BLOCKED: Duration = Duration::from_secs(5);
/// The search ends this close, bytes.
const STEP: u16 = 4;
/// Lost probes of one size before it counts as too long, on a path that loses nothing else.
const TRIES: u32 = 3;
