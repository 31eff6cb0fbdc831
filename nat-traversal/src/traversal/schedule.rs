//! When to check, and which pairs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::TraversalTiming;
use super::found::Found;
use crate::route::{CandidateKind, Route};

/// Which checks may go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// All pairs.
    All,
    /// Only what would be better than the path in use, so many times each; and one check by that path, at which the
    /// peer begins its own: holes in NATs are punched from both sides.
    Better { tries: u32 },
}

/// Forget what was found, and check anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Restart {
    /// The peer is asked to do the same.
    pub(super) tell: bool,
}

pub(super) struct Schedule {
    active: Option<Active>,
    /// When the next burst begins by itself.
    next: Option<Instant>,
    /// How many bursts there were by themselves.
    bursts: u32,
    pending: Option<Pending>,
    last_restart: Option<Instant>,
    /// Since when a direct path is in use.
    direct_since: Option<Instant>,
    /// Until then the peer's checks are answered but wake nothing: they may be the answer to this side's.
    deaf_until: Option<Instant>,
    last_death: Option<Instant>,
    deaths: u32,
    /// When a death last was a reason to check.
    chased: Option<Instant>,
    /// Bytes sent since the last burst began.
    sent: usize,
    first_upgrade: Duration,
    slowest_upgrade: Duration,
    stable: Duration,
    checking: Duration,
    jitter: u32,
}

struct Active {
    since: Instant,
    until: Instant,
    scope: Scope,
    tries: BTreeMap<Route, u32>,
}

struct Pending {
    at: Instant,
    scope: Scope,
    length: Duration,
    tell: bool,
}

impl Schedule {
    pub(super) fn new(timing: &TraversalTiming, seed: u64) -> Schedule {
        Schedule {
            active: None,
            next: None,
            bursts: 0,
            pending: None,
            last_restart: None,
            direct_since: None,
            deaf_until: None,
            last_death: None,
            deaths: 0,
            chased: None,
            sent: 0,
            first_upgrade: timing.first_upgrade,
            slowest_upgrade: timing.slowest_upgrade,
            stable: timing.stable,
            checking: timing.checking,
            jitter: (seed % 64) as u32,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// With a peer that was not known, at once; `anew` if another instance of it was. If not, the checks that it has
    /// sent already are kept to be answered.
    pub(super) fn begin(&mut self, length: Duration, anew: bool, now: Instant) {
        self.last_restart = None;
        self.direct_since = None;
        self.last_death = None;
        self.chased = None;
        if anew {
            self.check_all(length, false, now);
        } else {
            self.pending = None;
            self.last_restart = Some(now);
            self.activate(Scope::All, length, now);
        }
    }

    /// Checks all pairs anew, at most once a second.
    pub(super) fn check_all(&mut self, length: Duration, tell: bool, now: Instant) {
        self.bursts = 0;
        self.plan(Scope::All, length, tell, now);
    }

    /// The peer asks for it: it has lost a path, or finds none. What begins at both sides counts at both.
    pub(super) fn peer_asks(&mut self, has_path: bool, now: Instant) {
        if self.last_restart.is_some_and(|last| now < last + RESTART_GAP) && self.is_active() {
            return;
        }
        self.plan(Scope::All, SEARCH, false, now);
        if !has_path {
            self.bursts = (self.bursts + 1).min(MAX_DOUBLINGS);
            self.next = None;
        }
    }

    /// A link is wanted now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.bursts = 0;
        self.next = self.next.map(|next| next.min(now + self.first_upgrade));
    }

    /// There are more candidates, or others: goes on with all, `anew` if some are gone.
    pub(super) fn check_more(&mut self, anew: bool, now: Instant) {
        match &mut self.active {
            Some(active) if !anew && active.scope == Scope::All => {
                active.until = active.until.max(now + MORE);
            }
            _ => self.check_all(MORE, false, now),
        }
    }

    /// A path died of which frames may have gone. Those that die again and again are followed ever later, so that
    /// hosts that answer late, since they are busy, are not kept so by checks.
    pub(super) fn path_died(&mut self, now: Instant) {
        self.deaths = match self.last_death.replace(now) {
            // One event kills many paths.
            Some(last) if now.duration_since(last) < RESTART_GAP => self.deaths,
            Some(last) if now.duration_since(last) < FORGIVEN => self.deaths + 1,
            _ => 0,
        };
        self.direct_since = None;
        let gap = RESTART_GAP * 2u32.pow(self.deaths.min(6));
        if self.chased.is_none_or(|last| now.duration_since(last) >= gap) {
            self.chased = Some(now);
            self.check_all(self.checking, true, now);
        }
    }

    /// No path answers. Followed as one path's death is, but followed: later, if it happens again and again.
    pub(super) fn all_died(&mut self, now: Instant) {
        self.path_died(now);
        if self.chased != Some(now) {
            let gap = RESTART_GAP * 2u32.pow(self.deaths.min(LONGEST_CHASE));
            let at = self.chased.map_or(now, |last| (last + gap).max(now));
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    /// Frames go by relays now.
    pub(super) fn relayed(&mut self, now: Instant) {
        self.direct_since = None;
        self.bursts = 0;
        self.next = Some(now + self.first_upgrade);
    }

    /// Frames go by a direct path now.
    pub(super) fn direct(&mut self, now: Instant) {
        self.direct_since = Some(now);
        self.bursts = 0;
        self.next = None;
    }

    /// Nobody waits for a better path.
    pub(super) fn unhurried(&mut self, now: Instant) {
        if let Some(next) = &mut self.next {
            self.bursts = MAX_DOUBLINGS;
            *next = (*next).max(now + self.slowest_upgrade);
        }
    }

    /// The peer checks: it has a reason, and its NAT needs checks from here.
    pub(super) fn peer_checks(&mut self, route: Route, now: Instant) {
        match &mut self.active {
            Some(active) => {
                // Its check has opened the way for one of ours.
                if let Some(tries) = active.tries.get_mut(&route) {
                    *tries = tries.saturating_sub(1);
                }
            }
            None if self.pending.is_some() || self.deaf_until.is_some_and(|until| now < until) => {}
            None => {
                self.deaf_until = Some(now + DEAF);
                match self.next {
                    Some(_) => self.plan_burst(now),
                    None => self.plan(Scope::All, SHORT, false, now),
                }
            }
        }
    }

    /// Whether this check may go out.
    pub(super) fn allows(&mut self, route: Route, hops: usize, found: &Found) -> bool {
        let Some(active) = &mut self.active else { return false };
        let Scope::Better { tries } = active.scope else { return true };
        let most = match found.fewest_hops() {
            Some(fewest) if hops >= fewest => u32::from(found.best() == Some(route)),
            _ => tries,
        };
        let count = active.tries.entry(route).or_default();
        let allowed = *count < most;
        *count += u32::from(allowed);
        allowed
    }

    /// Counts what goes out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes + HEADERS;
    }

    /// Goes on. `selected` is what frames go by, `hops` the fewest relays of any path found.
    pub(super) fn advance(
        &mut self,
        selected: Option<CandidateKind>,
        hops: Option<usize>,
        now: Instant,
    ) -> Option<Restart> {
        if let Some(since) = self.direct_since
            && now >= since + self.settles_within()
            && self.active.as_ref().is_some_and(|active| now >= active.since + SHORT)
        {
            self.rest(now);
        }
        if self.active.as_ref().is_some_and(|active| now >= active.until) {
            self.rest(now);
            let direct = match selected {
                Some(kind) => kind != CandidateKind::Relayed,
                None => hops == Some(0),
            };
            if !direct && self.next.is_none() {
                let bits = if hops.is_some() { UPGRADE_BITS } else { SEARCH_BITS };
                self.next = Some(now + self.interval(bits));
            }
        }
        if self.next.is_some_and(|next| now >= next) {
            match hops {
                Some(_) => self.plan_burst(now),
                None => {
                    self.plan(Scope::All, SEARCH, true, now);
                    self.bursts = (self.bursts + 1).min(MAX_DOUBLINGS);
                    self.next = None;
                }
            }
        }
        let pending = self.pending.take_if(|pending| now >= pending.at)?;
        self.last_restart = Some(now);
        self.activate(pending.scope, pending.length, now);
        Some(Restart { tell: pending.tell })
    }

    /// When `advance` has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let active = self.active.as_ref();
        let until = active.map(|active| active.until);
        let settled = self
            .direct_since
            .zip(active)
            .map(|(since, active)| (since + self.settles_within()).max(active.since + SHORT));
        let pending = self.pending.as_ref().map(|pending| pending.at);
        [until, settled, pending, self.next].into_iter().flatten().min()
    }

    /// After a death all pairs were known and are checked at once.
    fn settles_within(&self) -> Duration {
        if self.chased.is_some() { self.stable.min(SHORT) } else { self.stable }
    }

    fn activate(&mut self, scope: Scope, length: Duration, now: Instant) {
        self.sent = 0;
        self.active = Some(Active { since: now, until: now + length, scope, tries: BTreeMap::new() });
    }

    fn rest(&mut self, now: Instant) {
        self.active = None;
        self.deaf_until = self.deaf_until.max(Some(now + SHORT + SHORT));
    }

    fn plan(&mut self, scope: Scope, length: Duration, tell: bool, now: Instant) {
        let at = self.last_restart.map_or(now, |last| (last + RESTART_GAP).max(now));
        let pending = self.pending.get_or_insert(Pending { at, scope, length, tell });
        if scope == Scope::All {
            pending.scope = Scope::All;
        }
        pending.length = pending.length.max(length);
        pending.tell |= tell;
    }

    fn plan_burst(&mut self, now: Instant) {
        let tries = if self.bursts < 3 { 4 } else { 2 };
        self.plan(Scope::Better { tries }, BURST, false, now);
        self.next = Some(now + self.interval(UPGRADE_BITS));
        self.bursts = (self.bursts + 1).min(MAX_DOUBLINGS);
    }

    /// Until the next burst: twice the last time each time, and so long that bursts cost at most so many bits a second.
    fn interval(&self, bits: usize) -> Duration {
        let doubled = self.first_upgrade * 2u32.pow(self.bursts.min(MAX_DOUBLINGS));
        let interval = doubled.min(self.slowest_upgrade);
        let paid = if doubled < self.slowest_upgrade {
            Duration::ZERO
        } else {
            Duration::from_millis((self.sent * 8 * 1000 / bits) as u64)
        };
        let interval = interval.max(paid);
        interval + interval * self.jitter / 1024
    }
}

const RESTART_GAP: Duration = Duration::from_secs(1);
/// Doublings of the time between two searches while no path answers.
const LONGEST_CHASE: u32 = 4;
/// After so long without a death the next is followed at once.
const FORGIVEN: Duration = Duration::from_secs(60);
/// How long to check after candidates changed.
const MORE: Duration = Duration::from_secs(5);
/// How long a check by the peer wakes this side.
const SHORT: Duration = Duration::from_millis(1500);
/// After a burst that the peer's checks began.
const DEAF: Duration = Duration::from_secs(10);
const BURST: Duration = Duration::from_millis(1500);
/// How long a try lasts while there is no path.
const SEARCH: Duration = Duration::from_secs(3);
const MAX_DOUBLINGS: u32 = 8;
/// What bursts may cost in the long run, of a peer that is reached by relays and of one that is not reached.
const UPGRADE_BITS: usize = 120;
const SEARCH_BITS: usize = 1000;
/// Of IPv4 and UDP.
const HEADERS: usize = 28;
