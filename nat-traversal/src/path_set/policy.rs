//! Which path carries frames.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::path::Path;
use super::{PathEvent, PathSet, PathState};
use crate::route::CandidateKind;

impl PathSet {
    /// Moves frames to a better path, or away from one that has died.
    pub(super) fn reselect(&mut self, now: Instant) {
        if !self.usable {
            return;
        }
        if let Some(best) = self.choice(now) {
            self.selected = Some(best);
            self.used = true;
            let path = &mut self.paths[best];
            path.mtu.selected(now);
            self.events.push_back(path.selected_event());
        }
        let works = self.selected.is_some_and(|at| self.paths[at].state == PathState::Alive);
        if self.used && works == self.all_dead {
            self.all_dead = !works;
            self.events.push_back(if works { PathEvent::Alive } else { PathEvent::AllDead });
        }
    }

    /// Another path that is to carry frames.
    fn choice(&self, now: Instant) -> Option<usize> {
        let others = || self.eligible().filter(|(at, _)| self.selected != Some(*at));
        let Some(present) = self.selected.map(|at| &self.paths[at]) else {
            return others().min_by_key(|(_, path)| rank(path)).map(|(at, _)| at);
        };
        if present.state == PathState::Dead || present.mtu.blocked() {
            // One that answered since is the surer one.
            let fresh = |path: &Path| path.confirmed() > present.missing_since();
            return others().min_by_key(|(_, path)| (!fresh(path), rank(path))).map(|(at, _)| at);
        }
        let moved = |path: &Path| {
            present.is_doubtful(now)
                && path.confirmed() > present.missing_since()
                && path.first_heard() > present.last_heard()
        };
        let wins = |path: &Path| moved(path) || (path.is_steady(now) && is_better(path, present));
        others().filter(|(_, path)| wins(path)).min_by_key(|(_, path)| rank(path)).map(|(at, _)| at)
    }

    fn eligible(&self) -> impl Iterator<Item = (usize, &Path)> {
        let fit = |path: &Path| path.state == PathState::Alive && path.mtu.full();
        self.paths.iter().enumerate().filter(move |(_, path)| fit(path))
    }

    /// While the selected path is in doubt, the others are asked at once.
    pub(super) fn ask_others(&mut self, now: Instant) {
        let Some(selected) = self.selected else { return };
        let present = &self.paths[selected];
        let Some(since) = present.missing_since().filter(|_| present.is_suspect(now)) else { return };
        for (at, path) in self.paths.iter_mut().enumerate() {
            if at != selected && path.last_sent().is_none_or(|sent| sent < since) {
                path.call(now);
            }
        }
    }

    /// Whether this path, which carries no frames, would take over if only it were as fast: then it is measured.
    pub(super) fn may_win(&self, at: usize) -> bool {
        let path = &self.paths[at];
        self.selected.is_some_and(|selected| selected != at && precedes(path, &self.paths[selected]))
            && path.state == PathState::Alive
            && path.mtu.full()
    }
}

fn rank(path: &Path) -> (u8, Duration) {
    (path.relays(), path.srtt().unwrap_or(Duration::MAX))
}

fn is_better(path: &Path, present: &Path) -> bool {
    if path.relays() != present.relays() {
        return path.relays() < present.relays();
    }
    let (Some(rtt), Some(now)) = (path.srtt(), present.srtt()) else { return false };
    let as_sure = path.loss_ppm() <= present.loss_ppm() + MIN_LOSS;
    // Half as much again, where the other end would be drawn back.
    let (gain, tenths) = if precedes(present, path) { (MIN_GAIN * 2, 14) } else { (MIN_GAIN, 12) };
    let faster = rtt + gain < now && rtt * tenths / 10 < now && as_sure;
    let surer = path.loss_ppm() + MIN_LOSS < present.loss_ppm() && rtt < now * 3 / 2 + MIN_GAIN;
    let as_good = (rtt <= now + MIN_GAIN || rtt <= now * 6 / 5) && as_sure;
    faster || surer || as_good && precedes(path, present)
}

/// Of two that are as good both ends take the same one: a path that only one end uses is kept alive for itself. An
/// order that both see alike: IPv4 leaves more room than IPv6, and of two relayed paths each end knows the address on
/// the relay, its own or the peer's.
pub(super) fn precedes(path: &Path, other: &Path) -> bool {
    if path.relays() != other.relays() {
        return false;
    }
    match path.mtu.room().cmp(&other.mtu.room()) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => match (on_relay(path), on_relay(other)) {
            (Some(one), Some(two)) => one < two,
            _ => false,
        },
    }
}

/// The lower of its addresses on relays.
fn on_relay(path: &Path) -> Option<SocketAddr> {
    let pair = path.pair;
    let local = pair.local_address.filter(|_| pair.local == CandidateKind::Relayed);
    let remote = (pair.remote == CandidateKind::Relayed).then(|| path.route.remote());
    let known = usize::from(local.is_some()) + usize::from(remote.is_some());
    [local, remote].into_iter().flatten().min().filter(|_| known == usize::from(path.relays()))
}

/// A round trip that is better by less is no reason to move.
const MIN_GAIN: Duration = Duration::from_millis(2);
/// Nor is a loss, in millionths.
const MIN_LOSS: u32 = 50_000;
