//! One path: whether it answers, how fast, and when it is asked next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::mtu::Mtu;
use super::{PathEvent, PathId, PathProbe, PathState, PathView};
use crate::route::{CandidateKind, CandidatePair, Route};

/// How urgently a path is probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Frames flow by it.
    Busy,
    /// It is selected, and nothing flows.
    Idle,
    /// No path works.
    Needed,
    /// Another carries frames.
    Standby,
}

/// A way to the peer.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) route: Route,
    pub(super) pair: CandidatePair,
    /// Known from a datagram's source alone.
    pub(super) learned: bool,
    pub(super) state: PathState,
    pub(super) mtu: Mtu,
    added: Instant,
    first_heard: Option<Instant>,
    last_heard: Option<Instant>,
    /// When both directions were last known to work.
    confirmed: Option<Instant>,
    /// What was said before this time needs no answer any more.
    acked: Option<Instant>,
    out: VecDeque<Out>,
    /// Requests since that have no answer.
    missing: u32,
    missing_since: Option<Instant>,
    /// When there were [`MISSING`] of them.
    many_since: Option<Instant>,
    /// When something was last sent on purpose, answers included.
    said: VecDeque<Instant>,
    last_sent: Option<Instant>,
    next: Instant,
    /// Answers in a row.
    streak: u32,
    srtt: Option<Duration>,
    /// When the round trip was last measured.
    measured: Option<Instant>,
    loss_ppm: u32,
    deaths: u32,
    died: Option<Instant>,
    revived: Option<Instant>,
    retry: Duration,
    /// Nobody waits for frames: a late answer may only be that of a busy host.
    patient: bool,
    /// It was asked because the selected path is in doubt.
    called: bool,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Out {
    sequence: u32,
    sent: Instant,
    /// 0: as short as it gets.
    len: u16,
}

impl Path {
    pub(super) fn new(id: PathId, route: Route, pair: CandidatePair, learned: bool, now: Instant) -> Path {
        Path {
            id,
            route,
            pair,
            learned,
            state: PathState::Untried,
            mtu: Mtu::new(now),
            added: now,
            first_heard: None,
            last_heard: None,
            confirmed: None,
            acked: None,
            out: VecDeque::with_capacity(MAX_OUT),
            missing: 0,
            missing_since: None,
            many_since: None,
            said: VecDeque::with_capacity(MAX_SAID),
            last_sent: None,
            next: now,
            streak: 0,
            srtt: None,
            measured: None,
            loss_ppm: 0,
            deaths: 0,
            died: None,
            revived: None,
            retry: FIRST_RETRY,
            patient: false,
            called: false,
        }
    }

    /// Whether frames may be lost while it is in doubt.
    pub(super) fn set_patient(&mut self, patient: bool) {
        self.patient = patient;
    }

    /// A new session: what was known of the path is no longer.
    pub(super) fn start_over(&mut self, now: Instant) {
        let top = self.mtu.top();
        *self = Path::new(self.id, self.route, self.pair, self.learned, now);
        self.mtu.set_top(top);
    }

    pub(super) fn set_top(&mut self, underlay_mtu: u16) {
        let (relay, remote) = match self.route {
            Route::Direct(remote) => (0, remote),
            Route::Relayed(_, remote) => (CHANNEL_HEADER, remote),
        };
        let headers = relay + if remote.is_ipv6() { IPV6_UDP_HEADERS } else { IPV4_UDP_HEADERS };
        self.mtu.set_top(underlay_mtu.saturating_sub(headers));
    }

    /// A handshake was made by it.
    pub(super) fn prove(&mut self, now: Instant) {
        self.mtu.prove();
        self.confirm(now, now);
        self.heard(now);
        if self.state != PathState::Alive {
            (self.state, self.next, self.streak) = (PathState::Alive, now, 0);
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.first_heard.get_or_insert(now);
        self.last_heard = Some(now);
    }

    pub(super) fn heard_ago(&self, now: Instant) -> Option<Duration> {
        self.last_heard.map(|at| now.saturating_duration_since(at))
    }

    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.last_sent
    }

    /// Ask at `at` at the latest.
    pub(super) fn probe_by(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }

    /// It may have to take over: ask at once, and for full datagrams too.
    pub(super) fn call(&mut self, now: Instant) {
        self.called = true;
        self.try_again(now);
    }

    /// Ask at once, as if it had never failed.
    pub(super) fn try_again(&mut self, now: Instant) {
        self.retry = FIRST_RETRY;
        self.next = now;
    }

    pub(super) fn small_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// The length of a padded probe that is due. A way that the peer was not proved to be at is not sent long ones.
    pub(super) fn sized_due(&mut self, mode: Mode, now: Instant) -> Option<u16> {
        if self.sizes_wait(mode) { None } else { self.mtu.due_size(mode, now) }
    }

    fn sizes_wait(&self, mode: Mode) -> bool {
        match self.state {
            // A relay that the peer holds in reserve: this node has its own.
            PathState::Alive => self.learned && self.relays() > 0 && mode == Mode::Standby && !self.called,
            PathState::Untried => self.learned,
            PathState::Dead => true,
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self, mode: Mode) -> Option<Instant> {
        let death = self.dies_at();
        let sized = self.mtu.due(mode).filter(|_| !self.sizes_wait(mode));
        let give_up = self.out.front().map(|out| out.sent + self.give_up());
        let expires = self.mtu.expires(self.wait());
        [Some(self.next), death, sized, give_up, expires].into_iter().flatten().min()
    }

    /// A request leaves.
    pub(super) fn sent(&mut self, sequence: u32, len: u16, mode: Mode, interval: Duration, now: Instant) {
        if self.out.len() >= MAX_OUT {
            self.out.pop_front();
            self.count(false);
        }
        self.out.push_back(Out { sequence, sent: now, len });
        self.said(now);
        if len != 0 {
            return self.mtu.sent(len, now);
        }
        self.last_sent = Some(now);
        self.missing += 1;
        self.missing_since.get_or_insert(now);
        if self.missing == MISSING {
            self.many_since = Some(now);
        }
        let wait = match self.state {
            PathState::Untried if self.missing <= if self.learned { TRY_LEARNED } else { TRY } => BURST,
            PathState::Alive if mode == Mode::Busy => interval,
            PathState::Alive if self.patient => {
                (self.wait() * (1 << self.missing.clamp(1, 4) >> 1)).min(PATIENT_LIMIT / 3).min(interval)
            }
            PathState::Alive => self.wait().min(interval),
            PathState::Untried | PathState::Dead => {
                let retry = self.retry;
                self.retry = (retry * 2).min(MAX_RETRY);
                if mode == Mode::Needed { retry.min(interval) } else { retry }
            }
        };
        self.next = now + wait;
    }

    /// The peer asked by it, and has its answer. A path that was dead may not be any more.
    pub(super) fn asked(&mut self, now: Instant) {
        self.said(now);
        if self.state == PathState::Dead && self.last_sent.is_none_or(|sent| now >= sent + FIRST_RETRY) {
            self.try_again(now);
        }
    }

    /// Something that the peer should hear leaves.
    fn said(&mut self, now: Instant) {
        if self.said.len() >= MAX_SAID {
            self.said.pop_front();
        }
        self.said.push_back(now);
    }

    /// An answer; false if nothing like it was asked here.
    pub(super) fn answer(&mut self, probe: &PathProbe, now: Instant) -> bool {
        let asked = |out: &Out| out.sequence == probe.sequence && (out.len == 0 || out.len == probe.len);
        let Some(out) = self.out.iter().position(asked).and_then(|at| self.out.remove(at)) else {
            return false;
        };
        self.measure(now.saturating_duration_since(out.sent), now);
        self.count(true);
        self.streak = self.streak.saturating_add(1);
        self.confirm(now, out.sent);
        if out.len != 0 {
            self.mtu.passed(out.len, now);
        }
        match self.state {
            PathState::Alive => {}
            PathState::Untried => self.state = PathState::Alive,
            PathState::Dead => {
                self.state = PathState::Alive;
                self.revived = self.died.map(|_| now);
                (self.streak, self.retry) = (1, FIRST_RETRY);
            }
        }
        true
    }

    /// After an answer: the next request of an undisturbed path.
    pub(super) fn schedule(&mut self, interval: Duration, now: Instant) {
        if self.missing > 0 {
            return;
        }
        let interval = if self.streak < STEADY {
            BURST
        } else if self.holds(now) {
            let young = self.revived.is_some_and(|at| now < at + FIRST_HOLD);
            if young && !self.patient { RECOVERING } else { RECOVERING * 10 }
        } else {
            interval
        };
        self.next = self.last_sent.map_or(now, |sent| now.max(sent + interval));
    }

    /// The peer's request says that it heard this node on the path so long `ago`. If that is as recent as can be,
    /// it serves this node as an answer, and if `saves` it saves this node's own request.
    pub(super) fn echo(&mut self, ago: Duration, interval: Duration, saves: bool, now: Instant) {
        let Some(heard) = now.checked_sub(ago) else { return };
        let before = heard.checked_sub(self.srtt.unwrap_or_default()).unwrap_or(heard);
        self.confirm(heard, before);
        let fresh = ago <= interval + interval / 4 + self.wait();
        let measured = self.last_sent.is_some_and(|at| now < at + (interval * 10).max(MEASURE));
        if saves && fresh && measured && self.missing == 0 && self.streak >= STEADY && !self.holds(now) {
            self.next = self.next.max(now + interval + interval / 4);
        }
    }

    /// Whether the peer has heard nothing of all that was said on the path for long.
    pub(super) fn unheard_by_peer(&self, ago: Duration, now: Instant) -> bool {
        if self.state != PathState::Alive || ago < self.limit() {
            return false;
        }
        let margin = if self.patient { self.limit() } else { self.srtt.unwrap_or(UNKNOWN_RTT) + SLACK };
        let unheard = |at: &&Instant| {
            let age = now.saturating_duration_since(**at);
            age < ago && age >= margin
        };
        self.said.iter().filter(unheard).count() >= MISSING as usize
    }

    /// Minds what did not come; true if the path has just died.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let give_up = self.give_up();
        while self.out.front().is_some_and(|out| now >= out.sent + give_up) {
            if self.out.pop_front().is_some_and(|out| out.len == 0) {
                self.count(false);
                self.streak = 0;
            }
        }
        let confirmed = self.confirmed.filter(|_| self.missing < 2);
        self.mtu.expire(self.wait(), confirmed, self.loss_ppm, now);
        let dies = self.dies_at().is_some_and(|at| now >= at);
        if dies {
            self.die(now);
        }
        dies
    }

    fn dies_at(&self) -> Option<Instant> {
        let (since, many) = (self.missing_since?, self.many_since?);
        (self.state != PathState::Dead).then(|| (since + self.limit()).max(many + self.wait()))
    }

    pub(super) fn die(&mut self, now: Instant) {
        if self.state == PathState::Alive {
            let again = self.died.is_some_and(|at| now < at + FORGIVEN);
            self.deaths = if again { self.deaths + 1 } else { 1 };
            self.died = Some(now);
        }
        self.state = PathState::Dead;
        (self.streak, self.revived, self.retry) = (0, None, FIRST_RETRY);
        self.next = self.next.min(now + FIRST_RETRY);
    }

    /// It died lately, and has not been good for long enough since.
    pub(super) fn holds(&self, now: Instant) -> bool {
        let hold = FIRST_HOLD * (1 << (self.deaths.clamp(1, 5) - 1));
        self.revived.is_some_and(|at| now < at + hold)
    }

    /// It has not been known for long.
    pub(super) fn is_young(&self, now: Instant) -> bool {
        now < self.added + YOUNG
    }

    /// It answered several times in a row.
    pub(super) fn is_steady(&self, now: Instant) -> bool {
        self.streak >= STEADY && !self.holds(now)
    }

    /// It has not answered as soon as it should have.
    pub(super) fn is_doubtful(&self, now: Instant) -> bool {
        self.is_missed_for(self.wait(), now)
    }

    /// It has been doubtful for so long that the others are to be asked.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.is_missed_for(if self.patient { self.limit() / 2 } else { self.wait() }, now)
    }

    fn is_missed_for(&self, time: Duration, now: Instant) -> bool {
        self.state != PathState::Alive || self.missing_since.is_some_and(|since| now >= since + time)
    }

    pub(super) fn missing_since(&self) -> Option<Instant> {
        self.missing_since
    }

    pub(super) fn confirmed(&self) -> Option<Instant> {
        self.confirmed
    }

    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }

    pub(super) fn first_heard(&self) -> Option<Instant> {
        self.first_heard
    }

    pub(super) fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    pub(super) fn loss_ppm(&self) -> u32 {
        self.loss_ppm
    }

    /// Relays on the way.
    pub(super) fn relays(&self) -> u8 {
        let relayed = |kind| u8::from(kind == CandidateKind::Relayed);
        relayed(self.pair.local) + relayed(self.pair.remote)
    }

    pub(super) fn is_old(&self, now: Instant) -> bool {
        now >= self.last_heard.unwrap_or(self.added).max(self.added) + LEARNED_KEPT
    }

    pub(super) fn selected_event(&self) -> PathEvent {
        PathEvent::Selected { id: self.id, route: self.route, pair: self.pair }
    }

    pub(super) fn view(&self, selected: bool) -> PathView {
        PathView {
            id: self.id,
            route: self.route,
            pair: self.pair,
            state: self.state,
            selected,
            rtt: self.srtt,
            loss_ppm: self.loss_ppm,
            mtu: self.mtu.known(),
        }
    }

    /// RFC 6298, 2. What was measured long ago says little: the two ends would judge a path that is seldom asked by
    /// how busy each of them once was.
    fn measure(&mut self, rtt: Duration, now: Instant) {
        let stale = self.measured.replace(now).is_none_or(|last| now >= last + STALE);
        self.srtt = Some(match self.srtt {
            Some(srtt) if stale => rtt.min((srtt + rtt) / 2),
            Some(srtt) => (srtt * 7 + rtt) / 8,
            None => rtt,
        });
    }

    fn confirm(&mut self, at: Instant, acked: Instant) {
        self.confirmed = self.confirmed.max(Some(at));
        self.acked = self.acked.max(Some(acked));
        let acked = self.acked;
        let mut missing = self.out.iter().filter(|out| out.len == 0 && Some(out.sent) > acked);
        self.missing = missing.clone().count() as u32;
        self.missing_since = missing.clone().next().map(|out| out.sent);
        self.many_since = missing.nth(MISSING as usize - 1).map(|out| out.sent);
    }

    fn count(&mut self, answered: bool) {
        let loss = if answered { 0 } else { 1_000_000 };
        self.loss_ppm = (self.loss_ppm * 15 + loss) / 16;
    }

    /// Without any answer for this long, and several missing, it is dead.
    fn limit(&self) -> Duration {
        let least = if self.patient { PATIENT_LIMIT } else { LIMIT };
        self.srtt.map_or(UNKNOWN_LIMIT.max(least), |srtt| (srtt * 3 + SLACK).max(least))
    }

    /// An answer should have come by then.
    fn wait(&self) -> Duration {
        (self.srtt.unwrap_or(UNKNOWN_RTT) * 3 / 2 + SLACK).max(WAIT)
    }

    /// Answers that come later are not waited for.
    fn give_up(&self) -> Duration {
        (self.srtt.unwrap_or(UNKNOWN_RTT) * 4).max(GIVE_UP)
    }
}

const IPV4_UDP_HEADERS: u16 = 28;
const IPV6_UDP_HEADERS: u16 = 48;
/// RFC 8656, 12.4.
const CHANNEL_HEADER: u16 = 4;
const MAX_OUT: usize = 16;
const MAX_SAID: usize = 8;
/// Requests without an answer that make a path dead, once the time is up too.
const MISSING: u32 = 3;
const LIMIT: Duration = Duration::from_millis(330);
/// While no frames flow.
const PATIENT_LIMIT: Duration = Duration::from_millis(1500);
const UNKNOWN_LIMIT: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_millis(100);
const GIVE_UP: Duration = Duration::from_secs(1);
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
const SLACK: Duration = Duration::from_millis(20);
/// Between the first requests on a path.
const BURST: Duration = Duration::from_millis(50);
/// Of them, so many before it is asked more rarely.
const TRY: u32 = 20;
/// Where a peer only seems to be: its datagrams may have had a false source.
const TRY_LEARNED: u32 = 5;
const FIRST_RETRY: Duration = Duration::from_millis(250);
const MAX_RETRY: Duration = Duration::from_secs(15);
/// Answers in a row that make a path fit to replace another.
const STEADY: u32 = 3;
/// A path that died must be good for this long, twice as long each time, before it replaces another.
const FIRST_HOLD: Duration = Duration::from_secs(2);
const RECOVERING: Duration = Duration::from_millis(100);
/// A death this long ago is forgotten.
const FORGIVEN: Duration = Duration::from_secs(60);
/// The round trip is measured at least this often while frames flow.
const MEASURE: Duration = Duration::from_secs(1);
/// So long a path that may be the better one is measured often.
const YOUNG: Duration = Duration::from_secs(60);
/// A round trip of before this time counts less than a new one.
const STALE: Duration = Duration::from_secs(2);
/// A learned way that does not answer is kept this long.
const LEARNED_KEPT: Duration = Duration::from_secs(3);
