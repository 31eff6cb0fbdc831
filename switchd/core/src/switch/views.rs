//! The tables as they stand: for people, and for the shell, which announces what lives here.

use super::Switch;
use super::binding::{BindingKey, BindingView, LocalStation, MacView, Source, State};
use super::tables::{Active, IpEntry, Station};
use crate::time::Time;

impl Switch {
    /// The stations of this bridge that the controller did not place.
    pub fn local_stations(&self, now: Time) -> impl Iterator<Item = LocalStation> {
        self.tables.iter().filter_map(move |s| self.as_local(s, now))
    }

    /// One of them.
    pub fn local_station(&self, key: BindingKey, now: Time) -> Option<LocalStation> {
        self.as_local(self.tables.station(self.tables.find(&key)?), now)
    }

    /// The binding table: the stations that have IPs, and all that the controller named.
    pub fn bindings(&self, now: Time) -> impl Iterator<Item = BindingView> {
        self.tables.iter().filter(move |s| !s.expired(now)).flat_map(move |s| {
            let ips: Vec<_> = self.ips_of(s, now).collect();
            let view = |at, generation, source, state, ips, router| BindingView {
                key: s.key,
                ips,
                at,
                generation,
                source,
                state,
                router,
                age: s.seen.map(|seen| now.since(seen)),
            };
            let active = s
                .active
                .filter(|a| a.source != Source::Learned || !ips.is_empty())
                .map(|a| (a, ips.iter().map(|e| e.ip).collect(), s.router))
                .map(|(a, list, router)| view(a.at, a.generation, a.source, State::Active, list, router));
            let prepared = s
                .prepared
                .as_ref()
                .map(|p| view(p.at, p.generation, Source::Controller, State::Prepared, p.ips.clone(), false));
            active.into_iter().chain(prepared)
        })
    }

    /// The MAC table: every station that runs.
    pub fn macs(&self, now: Time) -> impl Iterator<Item = MacView> {
        self.tables.iter().filter(move |s| !s.expired(now)).filter_map(move |s| {
            s.active.map(|a| MacView {
                key: s.key,
                at: a.at,
                source: a.source,
                age: s.seen.map(|seen| now.since(seen)),
            })
        })
    }

    /// Entries of the MAC and of the IP table, those that expired but were not swept yet included.
    pub fn table_sizes(&self) -> (usize, usize) {
        (self.tables.macs_len(), self.tables.ips_len())
    }

    fn as_local(&self, station: &Station, now: Time) -> Option<LocalStation> {
        let active = station.active.filter(|a| Active::is_ours(*a) && !station.expired(now))?;
        Some(LocalStation {
            key: station.key,
            ips: self.ips_of(station, now).map(|e| e.ip).collect(),
            seen_generation: active.generation,
            source: active.source,
        })
    }

    /// The IPs of a station that have not expired.
    pub(super) fn ips_of(&self, station: &Station, now: Time) -> impl Iterator<Item = &IpEntry> {
        let entries = station.ips.iter().map(|i| self.tables.ip(*i));
        entries.filter(move |e| !e.expired(self.limits.ip_age, now))
    }
}
