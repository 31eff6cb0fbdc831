//! The paths to one peer, and which of them carries frames. Pure: `now` is an argument of all that needs it.
//!
//! Ways to the peer are offered from outside; a way by which an authentic datagram came is taken up too. Each is
//! probed by request and answer:
//!
//! ```text
//!            an answer                      several answers missing
//!   untried -----------> alive (measured) --------------------------> dead (tried ever more rarely)
//!                          ^                                           |
//!                          +-------------------------------------------+  an answer
//! ```
//!
//! Only a path that is alive and passes datagrams of [`FULL`] bytes is selected. Probes are frequent while frames
//! flow or an answer is missing, and rare otherwise. The peer's own requests, which say when it last heard this node,
//! save this node's.

mod mtu;
mod path;
mod policy;
mod schedule;
mod types;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::route::{CandidateKind, CandidatePair, Route};
use path::Path;
use schedule::{BUSY, BUSY_INTERVAL, FLOW, HURRIED};
pub use types::{Offer, PathConfig, PathEvent, PathId, PathProbe, PathState, PathView};

/// What every path that carries frames must pass: bytes of UDP payload (RFC 9000, 14).
pub const FULL: u16 = 1200;
/// Paths of one peer at most.
pub const MAX_PATHS: usize = 8;

/// All paths to one peer.
#[derive(Debug)]
pub struct PathSet {
    config: PathConfig,
    paths: Vec<Path>,
    /// The selected one's place in `paths`.
    selected: Option<usize>,
    /// A session seals for the peer.
    usable: bool,
    /// A path was selected since.
    used: bool,
    /// When frames were last seen.
    framed: Option<Instant>,
    busy_until: Option<Instant>,
    /// Frames that were lost would be missed until then.
    hurried_until: Option<Instant>,
    all_dead: bool,
    /// When an answer last came by any path, or the set became usable.
    answered: Option<Instant>,
    /// When anything did.
    heard: Option<Instant>,
    lost: bool,
    next_own: u32,
    learned_at: Option<Instant>,
    seed: [u64; 2],
    drawn: u64,
    answers: VecDeque<PathProbe>,
    probes: VecDeque<PathProbe>,
    events: VecDeque<PathEvent>,
}

impl PathSet {
    /// No path yet. `seed`: secret randomness, from which the numbers of requests are drawn: who answers with one was
    /// there to read it.
    pub fn new(config: PathConfig, seed: [u64; 2]) -> PathSet {
        PathSet {
            config,
            paths: Vec::with_capacity(MAX_PATHS),
            selected: None,
            usable: false,
            used: false,
            framed: None,
            busy_until: None,
            hurried_until: None,
            all_dead: false,
            answered: None,
            heard: None,
            lost: false,
            next_own: 0,
            learned_at: None,
            seed,
            drawn: 0,
            answers: VecDeque::new(),
            probes: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Other timing.
    pub fn set_config(&mut self, config: PathConfig, now: Instant) {
        self.config = config;
        for path in &mut self.paths {
            path.set_top(config.underlay_mtu);
            path.probe_by(now);
        }
    }

    /// A way to the peer, or news of one. If all places are taken, one that does not answer makes room; without such
    /// a one the offer is ignored.
    pub fn offer(&mut self, offer: Offer, now: Instant) {
        if let Some(other) = self.paths.iter().position(|p| p.id == offer.id && p.route != offer.route) {
            self.remove(other);
        }
        let at = match self.paths.iter().position(|path| path.route == offer.route) {
            Some(at) => {
                let path = &mut self.paths[at];
                let renamed = (path.id, path.pair) != (offer.id, offer.pair);
                (path.id, path.pair, path.learned) = (offer.id, offer.pair, false);
                if renamed && self.selected == Some(at) {
                    self.events.push_back(path.selected_event());
                }
                Some(at)
            }
            None => self.add(Path::new(offer.id, offer.route, offer.pair, false, now), now),
        };
        let Some(at) = at else { return };
        if offer.proven {
            self.paths[at].prove(now);
            self.answered(now);
        } else if self.paths[at].state == PathState::Dead {
            self.paths[at].try_again(now);
        }
        self.reselect(now);
    }

    /// A way is gone for good. If it was selected and no other works, frames have no path any more.
    pub fn withdraw(&mut self, id: PathId, now: Instant) {
        if let Some(at) = self.paths.iter().position(|path| path.id == id) {
            self.remove(at);
            self.reselect(now);
        }
    }

    /// Whether there is a session to seal with. Without one nothing is probed, nor selected, and all that was known of
    /// the paths is forgotten.
    pub fn set_usable(&mut self, usable: bool, now: Instant) {
        if self.usable == usable {
            return;
        }
        self.usable = usable;
        (self.selected, self.used, self.all_dead, self.lost) = (None, false, false, false);
        self.answered = usable.then_some(now);
        self.heard = self.answered;
        self.busy_until = None;
        self.answers.clear();
        self.probes.clear();
        self.paths.retain(|path| !path.learned);
        match usable {
            true => self.paths.iter_mut().for_each(|path| path.try_again(now)),
            false => self.paths.iter_mut().for_each(|path| path.start_over(now)),
        }
        self.reselect(now);
    }

    /// Frames went to the peer or came from it. Both ends ask often then: where one direction is crowded, what the
    /// other end says of it is the surer sign of life. A single frame is worth one request of whoever sent it (`sent`:
    /// to the peer alone, not to all), and no more. `long`: in datagrams of more than [`FULL`] bytes, so that it
    /// matters whether those still pass.
    pub fn handle_frames(&mut self, sent: bool, long: bool, now: Instant) {
        let before = self.framed.replace(now);
        if before.is_some_and(|before| now < before + FLOW) {
            self.busy_until = Some(now + BUSY);
        } else if !sent {
            return;
        }
        self.set_hurried(Some(now + HURRIED));
        let interval = BUSY_INTERVAL.min(self.config.keepalive);
        if let Some(path) = self.selected.map(|at| &mut self.paths[at]) {
            if long {
                path.mtu.used();
            }
            path.probe_by(path.last_sent().map_or(now, |sent| now.max(sent + interval)));
        }
    }

    /// An authentic datagram came by `route`. `newest`: no later one was seen before. True if that was news: there are
    /// probes to send.
    pub fn handle_datagram(&mut self, route: Route, newest: bool, now: Instant) -> bool {
        self.heard = Some(now);
        match self.paths.iter_mut().find(|path| path.route == route) {
            Some(path) => path.heard(now),
            None if newest && self.usable => return self.learn(route, now),
            None => {}
        }
        false
    }

    /// A probe, in a datagram of `received` bytes that [`handle_datagram`](Self::handle_datagram) has had.
    pub fn handle_probe(&mut self, probe: PathProbe, received: usize, now: Instant) {
        let at = self.paths.iter().position(|path| path.route == probe.route);
        if probe.answer_wanted {
            if self.answers.len() < MAX_ANSWERS {
                let len = u16::try_from(received).unwrap_or(u16::MAX);
                let heard = Some(Duration::ZERO);
                self.answers.push_back(PathProbe { answer_wanted: false, heard, len, ..probe });
            }
            if let (Some(at), Some(ago)) = (at, probe.heard) {
                self.echo(at, ago, now);
            }
            if let Some(at) = at {
                self.paths[at].asked(now);
            }
        } else if let Some(at) = at {
            let untried = self.paths[at].state == PathState::Untried;
            if !self.paths[at].answer(&probe, now) {
                return;
            }
            let path = &self.paths[at];
            if untried && path.learned {
                self.events.push_back(PathEvent::Learned { route: path.route });
            }
            self.answered(now);
            self.schedule(at, now);
        }
        self.reselect(now);
    }

    /// The kernel refused a datagram of `len` bytes by this route as too long.
    pub fn handle_too_long(&mut self, route: Route, len: usize, now: Instant) {
        if let Some(path) = self.paths.iter_mut().find(|path| path.route == route) {
            path.mtu.too_long(u16::try_from(len).unwrap_or(u16::MAX), now);
            self.reselect(now);
        }
    }

    /// Asks by every path at once: this node's address may have changed.
    pub fn probe_all(&mut self, now: Instant) {
        self.paths.iter_mut().for_each(|path| path.try_again(now));
    }

    /// The next probe to seal and send.
    pub fn poll_transmit(&mut self) -> Option<PathProbe> {
        self.answers.pop_front().or_else(|| self.probes.pop_front())
    }

    /// What became of the paths.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.usable {
            return None;
        }
        let due = self.paths.iter().enumerate().filter_map(|(at, path)| path.due(self.mode(at)));
        due.chain(self.lost_at()).min()
    }

    /// Notices what is missing, and asks again.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.usable {
            return;
        }
        self.busy_until = self.busy_until.filter(|until| now < *until);
        self.set_hurried(self.hurried_until.filter(|until| now < *until));
        for at in 0..self.paths.len() {
            if self.paths[at].expire(now) {
                self.died(at);
            }
        }
        self.drop_useless(now);
        self.reselect(now);
        self.ask_others(now);
        self.probe(now);
        if self.lost_at().is_some_and(|at| now >= at) {
            self.lost = true;
            self.events.push_back(PathEvent::Lost);
        }
    }

    /// The way of frames.
    #[inline]
    pub fn selected(&self) -> Option<Route> {
        self.selected.map(|at| self.paths[at].route)
    }

    /// The largest UDP payload that frames' datagrams may have, bytes.
    #[inline]
    pub fn datagram_max(&self) -> u16 {
        self.selected.map_or(FULL, |at| self.paths[at].mtu.carried())
    }

    /// Whether datagrams of the peer are expected by this route.
    pub fn has_route(&self, route: Route) -> bool {
        self.paths.iter().any(|path| path.route == route)
    }

    /// All ways to the peer.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        self.paths.iter().map(|path| path.route)
    }

    /// All paths as they stand.
    pub fn paths(&self) -> impl Iterator<Item = PathView> {
        self.paths.iter().enumerate().map(|(at, path)| path.view(self.selected == Some(at)))
    }

    fn add(&mut self, path: Path, now: Instant) -> Option<usize> {
        if self.paths.len() >= MAX_PATHS {
            let spare = self.spare(path.learned, now)?;
            self.remove(spare);
        }
        let mut path = path;
        path.set_top(self.config.underlay_mtu);
        self.paths.push(path);
        Some(self.paths.len() - 1)
    }

    fn remove(&mut self, at: usize) {
        self.paths.remove(at);
        self.selected = match self.selected {
            Some(selected) if selected == at => None,
            Some(selected) if selected > at => Some(selected - 1),
            selected => selected,
        };
    }

    /// The path that is the least loss.
    fn spare(&self, for_learned: bool, now: Instant) -> Option<usize> {
        let candidates = self.paths.iter().enumerate().filter(|(at, path)| {
            self.selected != Some(*at)
                && path.state != PathState::Alive
                && (!for_learned || (path.learned && path.is_old(now)))
        });
        candidates.min_by_key(|(_, path)| (!path.learned, path.state != PathState::Dead)).map(|(at, _)| at)
    }

    /// An unknown way by which the peer's newest datagram came: perhaps the peer moved. It must answer from there
    /// first, since the source of a datagram is not authentic.
    fn learn(&mut self, route: Route, now: Instant) -> bool {
        if self.learned_at.is_some_and(|last| now < last + LEARN_EVERY) {
            return false;
        }
        self.learned_at = Some(now);
        let id = PathId(PathId::OWN | self.next_own);
        self.next_own = (self.next_own + 1) & !PathId::OWN;
        let local = match route {
            Route::Direct(_) => CandidateKind::Host,
            Route::Relayed(..) => CandidateKind::Relayed,
        };
        let pair = CandidatePair { local, local_address: None, remote: CandidateKind::PeerReflexive };
        let Some(at) = self.add(Path::new(id, route, pair, true, now), now) else { return false };
        self.paths[at].heard(now);
        if let Some(selected) = self.selected {
            self.paths[selected].probe_by(now); // is the peer still there?
        }
        self.probe(now);
        true
    }

    fn drop_useless(&mut self, now: Instant) {
        let useless = |set: &PathSet| {
            let spare = |(at, path): (usize, &Path)| {
                set.selected != Some(at) && path.learned && path.state != PathState::Alive && path.is_old(now)
            };
            set.paths.iter().enumerate().position(|(at, path)| spare((at, path)))
        };
        while let Some(at) = useless(self) {
            self.remove(at);
        }
    }

    fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
        self.lost = false;
    }

    /// Where only one direction died, the end that hears nothing ends the link first.
    fn lost_at(&self) -> Option<Instant> {
        let (answered, heard) = (self.answered?, self.heard?);
        let dead_after = self.config.dead_after;
        (!self.lost).then(|| (heard.max(answered) + dead_after).min(answered + 2 * dead_after))
    }
}

/// Unknown ways that are taken up.
const LEARN_EVERY: Duration = Duration::from_millis(100);
/// Answers that wait to be sent; more are not given.
const MAX_ANSWERS: usize = 64;

#[cfg(test)]
mod tests;
