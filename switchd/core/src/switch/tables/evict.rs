//! Room: what is forgotten by age, and what must go when the tables are full.

use std::time::Duration;

use super::{BindingKey, IpIndex, Source, StationIndex, Tables};
use crate::time::Time;

/// Learned and announced entries that made room for newer ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::switch) struct Evicted {
    pub(in crate::switch) macs: u64,
    pub(in crate::switch) ips: u64,
}

impl Tables {
    /// Forgets expired entries in a part of the tables; the whole of them in about 32 calls. Returns how many
    /// IPs went, and puts the stations that went into `gone`.
    pub(in crate::switch) fn sweep(&mut self, now: Time, gone: &mut Vec<BindingKey>) -> usize {
        let ips = self.sweep_ips(self.ips.slots() / 32 + 64, now);
        let mut left = self.stations.slots() / 32 + 64;
        while left > 0 && self.stations.slots() > 0 {
            left -= 1;
            self.station_cursor = (self.station_cursor + 1) % self.stations.slots();
            let i = self.station_cursor as u32;
            if let Some(station) = self.stations.get(i)
                && station.lapsed(now)
            {
                if station.prepared.is_none() {
                    gone.push(station.key);
                    self.remove(StationIndex(i));
                } else {
                    self.vacate(StationIndex(i), now);
                }
            }
            if self.station_cursor == 0 {
                break;
            }
        }
        ips
    }

    /// Makes room for a controller's binding, wherever a learned or announced station is.
    pub(in crate::switch) fn evict_learned(&mut self) -> bool {
        self.evict_station(self.stations.slots())
    }

    /// What was evicted since the last call.
    pub(in crate::switch) fn take_evicted(&mut self) -> Evicted {
        std::mem::take(&mut self.evicted)
    }

    /// Forgets the least recently seen station of a sample that the controller did not place, an announced one
    /// that never sent anything here first: rather one without IPs, whose loss costs a flood, or one that hoards
    /// them.
    pub(super) fn evict_station(&mut self, most: usize) -> bool {
        let worst = self
            .sample(most, self.stations.slots())
            .map(StationIndex)
            .filter_map(|i| Some((i, self.stations.get(i.0)?)))
            .filter(|(_, s)| s.evictable())
            .min_by_key(|(_, s)| (!s.ips.is_empty(), !s.hoards(), s.seen))
            .map(|(i, _)| i);
        self.sample_cursor = self.sample_cursor.wrapping_add(SAMPLE);
        if let Some(i) = worst {
            self.remove(i);
            self.evicted.macs += 1;
        }
        worst.is_some()
    }

    /// The same for an IP, by the station that has it.
    pub(super) fn evict_ip(&mut self, most: usize) -> bool {
        let worst = self
            .sample(most, self.ips.slots())
            .map(IpIndex)
            .filter_map(|i| Some((i, self.ips.get(i.0)?)))
            .filter(|(_, e)| e.source != Source::Controller)
            .min_by_key(|(_, e)| {
                let station = self.station(e.station);
                (!station.hoards(), station.seen.max(Some(e.seen)))
            })
            .map(|(i, _)| i);
        self.sample_cursor = self.sample_cursor.wrapping_add(SAMPLE);
        if let Some(i) = worst {
            self.remove_ip(i);
            self.evicted.ips += 1;
        }
        worst.is_some()
    }

    /// Some slots out of so many, others at each eviction.
    fn sample(&self, most: usize, slots: usize) -> impl Iterator<Item = u32> + use<> {
        let first = self.sample_cursor;
        (0..most.min(slots)).map(move |n| (first.wrapping_add(n) % slots) as u32)
    }

    /// Sweeps all, at most once a second: a full table must not make every frame cost a scan.
    pub(super) fn make_room(&mut self, now: Time, roomy: impl Fn(&Tables) -> bool) -> bool {
        if self.full_sweep.is_some_and(|last| now.since(last) < FULL_SWEEP_EVERY) {
            return false;
        }
        self.full_sweep = Some(now);
        self.sweep_ips(self.ips.slots(), now);
        for i in 0..self.stations.slots() as u32 {
            if self.stations.get(i).is_some_and(|s| s.expired(now)) {
                self.remove(StationIndex(i));
            }
        }
        roomy(self)
    }

    fn sweep_ips(&mut self, most: usize, now: Time) -> usize {
        let mut gone = 0;
        for _ in 0..most.min(self.ips.slots()) {
            self.ip_cursor = (self.ip_cursor + 1) % self.ips.slots();
            let i = IpIndex(self.ip_cursor as u32);
            if self.ips.get(i.0).is_some_and(|e| e.expired(self.limits.ip_age, now)) {
                self.remove_ip(i);
                gone += 1;
            }
        }
        gone
    }
}

/// Slots that are looked at to find an entry to evict.
pub(super) const SAMPLE: usize = 16;
const FULL_SWEEP_EVERY: Duration = Duration::from_secs(1);
