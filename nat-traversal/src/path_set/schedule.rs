//! When each path is asked.

use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use super::path::Mode;
use super::{PathEvent, PathProbe, PathSet, PathState};

impl PathSet {
    /// The peer says, in a request, that it heard this node on the path so long ago.
    pub(super) fn echo(&mut self, at: usize, ago: Duration, now: Instant) {
        let interval = self.interval(at);
        // Of a path that the peer uses and this node does not, its requests say nothing about how fast it is.
        let saves = !self.may_win(at);
        let path = &mut self.paths[at];
        if path.unheard_by_peer(ago, now) {
            path.die(now);
            self.died(at);
        } else if path.state == PathState::Alive {
            path.echo(ago, interval, saves, now);
            self.answered = self.answered.max(now.checked_sub(ago));
        }
    }

    pub(super) fn died(&mut self, at: usize) {
        let path = &self.paths[at];
        if !path.learned || path.confirmed().is_some() {
            self.events.push_back(PathEvent::Dead { id: path.id, route: path.route });
        }
    }

    /// After an answer: when the path is asked next.
    pub(super) fn schedule(&mut self, at: usize, now: Instant) {
        let mut interval = self.interval(at);
        if self.may_win(at) && self.paths[at].is_young(now) {
            interval = interval.min(self.config.keepalive);
        }
        if matches!(self.mode(at), Mode::Idle | Mode::Standby) {
            // Two ends that ask at the same time would do so for ever.
            interval -= interval * (draw(self.seed, &mut self.drawn) % 64) / 512;
        }
        self.paths[at].schedule(interval, now);
    }

    pub(super) fn probe(&mut self, now: Instant) {
        if !self.usable {
            return;
        }
        for at in 0..self.paths.len() {
            let (mode, interval) = (self.mode(at), self.interval(at));
            for sized in [false, true] {
                let path = &mut self.paths[at];
                let len = if sized { path.sized_due(mode, now) } else { path.small_due(now).then_some(0) };
                let Some(len) = len else { continue };
                let sequence = draw(self.seed, &mut self.drawn);
                let path = &mut self.paths[at];
                let probe = PathProbe {
                    route: path.route,
                    answer_wanted: true,
                    sequence,
                    heard: path.heard_ago(now),
                    len,
                };
                path.sent(sequence, len, mode, interval, now);
                self.probes.push_back(probe);
            }
        }
    }

    pub(super) fn set_hurried(&mut self, until: Option<Instant>) {
        self.hurried_until = until;
        self.paths.iter_mut().for_each(|path| path.set_patient(until.is_none()));
    }

    pub(super) fn mode(&self, at: usize) -> Mode {
        match self.selected {
            _ if self.all_dead => Mode::Needed,
            None => Mode::Needed,
            Some(selected) if selected != at => Mode::Standby,
            Some(_) if self.busy_until.is_some() => Mode::Busy,
            Some(_) => Mode::Idle,
        }
    }

    fn interval(&self, at: usize) -> Duration {
        match self.mode(at) {
            Mode::Busy => BUSY_INTERVAL.min(self.config.keepalive),
            Mode::Idle => self.config.keepalive,
            Mode::Needed if self.hurried_until.is_none() => PATIENT_INTERVAL.min(self.config.keepalive),
            Mode::Needed => NEEDED_INTERVAL.min(self.config.keepalive),
            Mode::Standby if self.paths[at].relays() > 0 => RELAYED_STANDBY_INTERVAL,
            Mode::Standby => STANDBY_INTERVAL,
        }
    }
}

/// The next number of a keyed sequence.
fn draw(seed: [u64; 2], drawn: &mut u64) -> u32 {
    let mut hasher = DefaultHasher::new();
    seed.iter().for_each(|half| hasher.write_u64(*half));
    hasher.write_u64(*drawn);
    *drawn += 1;
    hasher.finish() as u32
}

/// Frames flow until this long after the last one.
pub(super) const BUSY: Duration = Duration::from_millis(200);
/// Frames that follow each other within this time are a flow.
pub(super) const FLOW: Duration = Duration::from_millis(500);
pub(super) const BUSY_INTERVAL: Duration = Duration::from_millis(100);
/// Whoever sent a frame may send another, or wait for an answer, for so long.
pub(super) const HURRIED: Duration = Duration::from_secs(3);
/// While nothing works.
const NEEDED_INTERVAL: Duration = Duration::from_millis(250);
/// While nothing works and nobody sends.
const PATIENT_INTERVAL: Duration = Duration::from_secs(1);
/// Often enough for NATs that forget a mapping after half a minute.
const STANDBY_INTERVAL: Duration = Duration::from_secs(25);
/// The allocation on the relay has its own checks.
const RELAYED_STANDBY_INTERVAL: Duration = Duration::from_secs(60);
