//! Which stations of a network's own bridge changed, for the controller: collected for a moment, so that a burst of
//! ARP is one report.

use std::collections::HashSet;
use std::time::Duration;

use switch_core::switch::{BindingKey, Switch};
use switch_core::time::Time;

use crate::desired::StationReport;

/// What is to be reported.
#[derive(Debug, Default)]
pub(super) struct ChangedStations {
    changed: HashSet<BindingKey>,
    /// More changed than is kept: report everything.
    all: bool,
    due: Option<Time>,
}

impl ChangedStations {
    /// Nobody has time for a report: later, of everything.
    pub(super) fn postpone(&mut self, now: Time) {
        self.lost(now);
        self.due = Some(now + POSTPONE);
    }

    /// Changes were lost, or are not to be relied on: the next report is of everything.
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
        let changed = std::mem::take(&mut self.changed);
        let (mut present, mut gone) = (Vec::new(), Vec::new());
        if full {
            present.extend(switch.local_stations(now));
        }
        for key in changed {
            match switch.local_station(key, now) {
                Some(station) => present.push(station),
                None => gone.push(key),
            }
        }
        present.iter_mut().for_each(|station| station.ips.sort_unstable());
        StationReport { vni: switch.vni(), full, present, gone }
    }

    /// A station was learned, is gone or has other IPs.
    pub(super) fn changed(&mut self, key: BindingKey, now: Time) {
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

/// How long changes are collected.
const SETTLE: Duration = Duration::from_millis(50);
/// Until a report that was not taken is offered again.
const POSTPONE: Duration = Duration::from_secs(1);
/// Changed stations that are remembered one by one.
const MAX_CHANGED: usize = 4096;
