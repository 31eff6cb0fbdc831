//! Unknown targets that are being asked for: how often, and by whom.

use std::collections::HashMap;
use std::net::IpAddr;

use ahash::RandomState;

use super::config::Limits;
use super::hold::Sender;
use crate::frame::Tags;
use crate::ids::{Mac, PeerId};
use crate::time::Time;

/// A bounded table by (VLAN tags, target).
#[derive(Debug)]
pub(super) struct Asks {
    table: HashMap<(Tags, IpAddr), Ask, RandomState>,
    limits: Limits,
    full_sweep: Option<Time>,
    /// Who was told lately that which IP is on its own bridge.
    corrected: HashMap<(Tags, Mac, IpAddr), Time, RandomState>,
}

#[derive(Debug)]
struct Ask {
    /// When a request for the target last went to the peers.
    asked: Option<Time>,
    used: Time,
    /// The latest instance here that wants the target, and when it said so.
    wanted: Option<(Sender, Time)>,
    askers: Vec<Asker>,
}

/// A remote instance that waits for a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asker {
    pub(super) peer: PeerId,
    pub(super) mac: Mac,
    pub(super) ip: Option<IpAddr>,
}

/// Whether a request may go to the peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Permit {
    Ask,
    Limited,
    Full,
}

impl Asks {
    pub(super) fn new(limits: Limits, hash: &RandomState) -> Asks {
        Asks {
            table: HashMap::with_hasher(hash.clone()),
            limits,
            full_sweep: None,
            corrected: HashMap::with_hasher(hash.clone()),
        }
    }

    /// Notes that somebody here wants `target`.
    pub(super) fn permit(&mut self, tags: Tags, target: IpAddr, now: Time) -> Permit {
        let interval = self.limits.ask_interval;
        let Some(ask) = self.entry(tags, target, now) else { return Permit::Full };
        if ask.asked.is_some_and(|last| now.since(last) < interval) {
            return Permit::Limited;
        }
        ask.asked = Some(now);
        Permit::Ask
    }

    /// Notes that an instance here wants `target`, for a peer whose link comes up soon.
    pub(super) fn want(&mut self, tags: Tags, target: IpAddr, sender: Sender, now: Time) {
        if let Some(ask) = self.entry(tags, target, now) {
            ask.wanted = Some((sender, now));
        }
    }

    /// What instances here wanted lately.
    pub(super) fn wanted(&self, now: Time) -> impl Iterator<Item = (Tags, IpAddr, Sender)> {
        let age = self.limits.hold_time;
        self.table.iter().filter_map(move |((tags, target), ask)| {
            let (sender, at) = ask.wanted?;
            (now.since(at) < age).then_some((*tags, *target, sender))
        })
    }

    /// Notes a remote request that went to the bridge, so that its reply finds the way back.
    pub(super) fn remember(&mut self, tags: Tags, target: IpAddr, asker: Asker, now: Time) {
        let Some(ask) = self.entry(tags, target, now) else { return };
        ask.askers.retain(|a| a.ip != asker.ip || a.mac != asker.mac);
        if ask.askers.len() >= MAX_ASKERS {
            ask.askers.remove(0);
        }
        ask.askers.push(asker);
    }

    /// Takes the asker that a reply from `target` to `ip` is for.
    pub(super) fn take(&mut self, tags: Tags, target: IpAddr, ip: IpAddr, now: Time) -> Option<Asker> {
        let ask = self.table.get_mut(&(tags, target))?;
        if now.since(ask.used) > self.limits.hold_time {
            return None;
        }
        let at = ask.askers.iter().rposition(|a| a.ip == Some(ip))?;
        Some(ask.askers.remove(at))
    }

    /// Whether an instance may be told once more that an IP is on its bridge.
    pub(super) fn permit_correction(&mut self, tags: Tags, mac: Mac, ip: IpAddr, now: Time) -> bool {
        let key = (tags, mac, ip);
        let recent = self.corrected.get(&key).is_some_and(|t| now.since(*t) < self.limits.ask_interval);
        if recent || (self.corrected.len() >= self.limits.max_asks && !self.corrected.contains_key(&key)) {
            return false;
        }
        self.corrected.insert(key, now);
        true
    }

    pub(super) fn sweep(&mut self, now: Time) {
        let age = self.limits.hold_time;
        self.corrected.retain(|_, at| now.since(*at) < age);
        self.table.retain(|_, ask| now.since(ask.used) <= age);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty() && self.corrected.is_empty()
    }

    fn entry(&mut self, tags: Tags, target: IpAddr, now: Time) -> Option<&mut Ask> {
        let key = (tags, target);
        if self.table.len() >= self.limits.max_asks && !self.table.contains_key(&key) {
            let may = self.full_sweep.is_none_or(|last| now.since(last) >= self.limits.ask_interval);
            if may {
                self.full_sweep = Some(now);
                self.sweep(now);
            }
            if self.table.len() >= self.limits.max_asks {
                return None;
            }
        }
        let ask =
            self.table.entry(key).or_insert(Ask { asked: None, used: now, wanted: None, askers: Vec::new() });
        ask.used = now;
        Some(ask)
    }
}

const MAX_ASKERS: usize = 8;
