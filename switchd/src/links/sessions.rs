//! Which of a peer's sessions carries frames, when to dial, when to retire. Pure: `now` is an argument.
//!
//! Both ends may dial at once, and a fresh handshake renews the keys, so a link can have several sessions for a
//! moment. Each end sends by its newest and receives by all. The owner, the end with the lower public key,
//! retires the others once the newest is well established:
//!
//! ```text
//!            dial / be dialled            newest ready            RETIRE_AFTER, owner only
//!   (none) ---------------------> handshake ----------> active -----------------------------> older: retire
//!      ^                                                   | closed, dead
//!      +---------------------------------------------------+  the next newest, else dial again
//! ```

use std::time::{Duration, Instant};

/// A session's number within its link; rises with each.
pub(super) type SessionId = u64;

/// What the shell is asked to do, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Start a handshake; report its end by `ready` or `dial_failed`.
    Dial,
    /// Send frames by this session.
    Use(SessionId),
    /// No session is left.
    LinkDown,
    /// Ask the peer to let go of this session.
    Retire(SessionId),
    /// Close the session's connection; report by `closed`.
    Close(SessionId),
}

/// Timing of a link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Timing {
    /// A fresh handshake is made when a session is this old.
    pub(super) rekey_after: Duration,
}

/// One peer's sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    owner: bool,
    may_dial: bool,
    timing: Timing,
    known: Vec<Session>,
    active: Option<SessionId>,
    dialling: bool,
    /// There was a session when the dial began.
    renewing: bool,
    dial_at: Option<Instant>,
    failures: u32,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    boot: u64,
    dialled: bool,
    ready_at: Instant,
    /// The peer asked to let go of it, or was asked to.
    retired: Option<Instant>,
    closing: bool,
}

impl Sessions {
    /// `owner`: this node's key is the lower one. `may_dial`: the peer's address is known.
    pub(super) fn new(owner: bool, may_dial: bool, timing: Timing, now: Instant) -> Sessions {
        let mut sessions = Sessions {
            owner,
            may_dial,
            timing,
            known: Vec::new(),
            active: None,
            dialling: false,
            renewing: false,
            dial_at: None,
            failures: 0,
            actions: Vec::new(),
        };
        sessions.schedule_dial(now);
        sessions
    }

    /// The peer's address became known or changed: dial soon if the link is down.
    pub(super) fn set_may_dial(&mut self, may_dial: bool, now: Instant) {
        self.may_dial = may_dial;
        if self.active.is_none() && !self.dialling {
            self.failures = 0;
            self.schedule_dial(now);
        }
    }

    /// Either node's key changed, and with it perhaps who retires sessions.
    pub(super) fn set_owner(&mut self, owner: bool) {
        self.owner = owner;
    }

    pub(super) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Both ends can open what the other seals by this session.
    pub(super) fn ready(&mut self, id: SessionId, boot: u64, dialled: bool, now: Instant) {
        if dialled {
            self.dialling = false;
        }
        self.dial_at = None;
        for other in self.known.iter_mut().filter(|s| s.boot != boot && !s.closing) {
            other.closing = true; // the peer's former process holds the other end
            self.actions.push(Action::Close(other.id));
        }
        self.known.push(Session { id, boot, dialled, ready_at: now, retired: None, closing: false });
        self.use_newest(now);
        // A peer that never retires any must not fill our memory.
        if self.known.iter().filter(|s| !s.closing).count() > MAX_SESSIONS
            && let Some(oldest) = spare_of(&mut self.known, self.active)
        {
            oldest.closing = true;
            self.actions.push(Action::Close(oldest.id));
        }
    }

    /// A dial ended without a session. `more`: another address has its turn at once.
    pub(super) fn dial_failed(&mut self, more: bool, now: Instant) {
        self.dialling = false;
        if self.active.is_some() && !self.renewing {
            return; // the peer's own dial made the link meanwhile
        }
        if more {
            self.dial_at = Some(now);
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.schedule_dial(now);
    }

    /// A session's connection is closed or dead.
    pub(super) fn closed(&mut self, id: SessionId, now: Instant) {
        if let Some(at) = self.known.iter().position(|s| s.id == id) {
            let session = self.known.remove(at);
            // Sessions that die young, of a peer with two homes for instance, are not dialled in a tight loop.
            let lived = now.saturating_duration_since(session.ready_at) >= PROVEN_AFTER;
            self.failures = if lived { 0 } else { self.failures.saturating_add(1) };
        }
        if self.active == Some(id) {
            self.use_newest(now);
        }
    }

    /// The peer asks to let go of a session.
    pub(super) fn retire(&mut self, id: SessionId, now: Instant) {
        if let Some(session) = self.known.iter_mut().find(|s| s.id == id) {
            session.retired.get_or_insert(now);
        }
        self.use_newest(now);
    }

    /// Keys are used up, or the path changed under the connection: make a fresh handshake at `when`, or soon after.
    pub(super) fn renew(&mut self, when: Instant) {
        if self.may_dial {
            self.dial_at = Some(self.dial_at.map_or(when, |at| at.min(when)));
        }
    }

    /// What to do by `now`; call after every event and at [`poll_timeout`](Self::poll_timeout).
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Action> {
        if !self.dialling && self.may_dial && self.next_dial().is_some_and(|at| at <= now) {
            self.dial_at = None;
            self.dialling = true;
            self.renewing = self.active.is_some();
            self.actions.push(Action::Dial);
        }
        let active_since = self.known.iter().find(|s| Some(s.id) == self.active).map(|s| s.ready_at);
        if let Some(since) = active_since {
            for session in self.known.iter_mut().filter(|s| Some(s.id) != self.active && !s.closing) {
                match session.retired {
                    None if self.owner && now >= since + RETIRE_AFTER => {
                        session.retired = Some(now);
                        self.actions.push(Action::Retire(session.id));
                    }
                    Some(at) if !self.owner || now >= at + CLOSE_AFTER => {
                        session.closing = true;
                        self.actions.push(Action::Close(session.id));
                    }
                    _ => {}
                }
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// When to call [`poll`](Self::poll) next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let dial = self.next_dial().filter(|_| self.may_dial && !self.dialling);
        let since = self.known.iter().find(|s| Some(s.id) == self.active).map(|s| s.ready_at);
        let retire = self.known.iter().filter(|s| Some(s.id) != self.active && !s.closing).filter_map(|s| {
            match s.retired {
                None => since.filter(|_| self.owner).map(|since| since + RETIRE_AFTER),
                Some(at) => Some(at + CLOSE_AFTER),
            }
        });
        retire.chain(dial).min()
    }

    pub(super) fn active(&self) -> Option<SessionId> {
        self.active
    }

    pub(super) fn dialling(&self) -> bool {
        self.dialling
    }

    /// The time set by an event, else that of the active session's renewal. The end that was dialled waits
    /// longer, so that as a rule only one renews.
    fn next_dial(&self) -> Option<Instant> {
        self.dial_at.or_else(|| {
            let active = self.known.iter().find(|s| Some(s.id) == self.active)?;
            let after = self.timing.rekey_after;
            Some(active.ready_at + if active.dialled { after } else { after + after / 4 })
        })
    }

    fn use_newest(&mut self, now: Instant) {
        let usable = self.known.iter().filter(|s| !s.closing);
        let newest = usable.max_by_key(|s| (s.retired.is_none(), s.id)).map(|s| s.id);
        if newest == self.active {
            return;
        }
        self.active = newest;
        match newest {
            Some(id) => self.actions.push(Action::Use(id)),
            None => {
                self.actions.push(Action::LinkDown);
                if !self.dialling {
                    self.schedule_dial(now);
                }
            }
        }
    }

    fn schedule_dial(&mut self, now: Instant) {
        let backoff = match self.failures {
            0 if self.owner => Duration::ZERO,
            0 => STAGGER,
            n => (FIRST_BACKOFF * 2u32.saturating_pow(n.min(16) - 1)).min(MAX_BACKOFF),
        };
        self.dial_at = Some(now + backoff);
    }
}

fn spare_of(known: &mut [Session], active: Option<SessionId>) -> Option<&mut Session> {
    known.iter_mut().find(|s| Some(s.id) != active && !s.closing)
}

/// Sessions of one link at a time, at most.
const MAX_SESSIONS: usize = 8;
/// A session that lived this long was a good one.
const PROVEN_AFTER: Duration = Duration::from_secs(5);
/// The end with the higher key waits this long before it dials, so that two fresh nodes make one session.
const STAGGER: Duration = Duration::from_millis(100);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// The newest session must have been ready this long before older ones are let go.
const RETIRE_AFTER: Duration = Duration::from_secs(1);
/// The peer gets this long to close a retired session.
const CLOSE_AFTER: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
