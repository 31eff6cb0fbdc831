//! Which stations of a network's own bridge changed, for the controller: collected for a moment, so that a burst of
//! ARP is one report.

use std::collections::HashSet;
use std::time::Duration;

use switch_core::switch::{BindingKey, BindingView, Event, Place, Source, State, Switch};
use switch_core::time::Time;

use crate::desired::{LocalStation, StationReport};

/// What is to be reported.
#[derive(Debug, Default)]
pub(super) struct ChangedStations {
    changed: HashSet<BindingKey>,
    /// More changed than is kept: report everything.
    all: bool,
    due: Option<Time>,
}

impl ChangedStations {
    /// Takes what the switch says.
    pub(super) fn note(&mut self, event: &Event, now: Time) {
        match event {
            Event::BindingLearned { key, at: Place::Local, .. } | Event::BindingExpired { key } => {
                self.changed(*key, now);
            }
            Event::BindingMoved { key, from, to, .. } if *from == Place::Local || *to == Place::Local => {
                self.changed(*key, now);
            }
            Event::IpMoved { from, to, .. } => {
                self.changed(*from, now);
                self.changed(*to, now);
            }
            _ => {}
        }
    }

    /// A report was not taken, or is not to be relied on: the next one is of everything.
    pub(super) fn lost(&mut self, now: Time) {
        self.all = true;
        self.changed.clear();
        self.due.get_or_insert(now + SETTLE);
    }

    /// Nobody wants to know.
    pub(super) fn clear(&mut self) {
        *self = ChangedStations::default();
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.due
    }

    /// The changed stations as they are now.
    pub(super) fn report(&mut self, switch: &Switch, now: Time) -> StationReport {
        self.due = None;
        let full = std::mem::take(&mut self.all);
        let mut gone = std::mem::take(&mut self.changed);
        let mut present: Vec<LocalStation> = Vec::new();
        for view in switch.bindings(now).filter(is_local) {
            if full || gone.remove(&view.key) {
                present.push(station(view));
            }
        }
        StationReport { vni: switch.vni(), full, present, gone: gone.into_iter().collect() }
    }

    fn changed(&mut self, key: BindingKey, now: Time) {
        if self.all {
            return;
        }
        self.changed.insert(key);
        if self.changed.len() > MAX_CHANGED {
            self.lost(now);
        }
        self.due.get_or_insert(now + SETTLE);
    }
}

fn is_local(view: &BindingView) -> bool {
    view.at == Place::Local && view.source == Source::Learned && view.state == State::Active
}

fn station(view: BindingView) -> LocalStation {
    let mut ips = view.ips;
    ips.sort_unstable();
    LocalStation { key: view.key, ips, seen_generation: view.generation }
}

/// How long changes are collected.
const SETTLE: Duration = Duration::from_millis(50);
/// Changed stations that are remembered one by one.
const MAX_CHANGED: usize = 4096;
