//! What the controller, or the node's configuration, says of bindings; and the tables for people.

use super::binding::{
    Binding, BindingChange, BindingError, BindingKey, BindingView, MacView, Place, Source, State,
};
use super::tables::{Active, IpBound, Prepared, Station, StationIndex};
use super::{Event, Switch};
use crate::ids::Generation;
use crate::time::Time;

impl Switch {
    /// Sets a controller's binding. It replaces whatever was learned, and a controller's of the same or a lower
    /// generation; its IPs replace those that the controller gave before.
    pub fn set_binding(&mut self, binding: Binding, now: Time) -> Result<BindingChange, BindingError> {
        self.wind(now);
        let key = BindingKey { tags: binding.tags, mac: binding.mac };
        if !key.mac.is_unicast()
            || key.mac == self.endpoint
            || !binding.ips.iter().all(super::admit::bindable)
        {
            return Err(BindingError::Address(key));
        }
        let result = self.set_checked_binding(key, binding, now);
        self.count_evicted(now);
        result
    }

    fn set_checked_binding(
        &mut self,
        key: BindingKey,
        binding: Binding,
        now: Time,
    ) -> Result<BindingChange, BindingError> {
        let found = self.tables.find(&key);
        if let Some(current) = found.and_then(|i| newest_controlled(self.tables.station(i)))
            && binding.generation < current
        {
            return Err(BindingError::Stale { key, offered: binding.generation, current });
        }
        let i = match found {
            Some(i) => i,
            None => self.insert_bound(key, now)?,
        };
        match binding.state {
            State::Prepared => {
                let station = self.tables.station_mut(i);
                let next = Prepared { at: binding.at, generation: binding.generation, ips: binding.ips };
                if station.prepared.as_deref() == Some(&next) {
                    return Ok(BindingChange::Unchanged);
                }
                station.prepared = Some(Box::new(next));
                Ok(BindingChange::Prepared)
            }
            State::Active => self.activate(i, found.is_none(), &binding, now),
        }
    }

    /// Removes a controller's binding, active or prepared, unless a newer generation has taken its place.
    /// `true` if there was one.
    pub fn remove_binding(
        &mut self,
        key: BindingKey,
        generation: Generation,
        now: Time,
    ) -> Result<bool, BindingError> {
        self.wind(now);
        let Some(i) = self.tables.find(&key) else { return Ok(false) };
        let station = self.tables.station_mut(i);
        let mut removed = false;
        if station.prepared.as_ref().is_some_and(|p| p.generation <= generation) {
            station.prepared = None;
            removed = true;
        }
        if let Some(active) = station.active.filter(|a| a.source == Source::Controller) {
            if active.generation > generation {
                return if removed {
                    Ok(true)
                } else {
                    Err(BindingError::Stale { key, offered: generation, current: active.generation })
                };
            }
            station.active = None;
            removed = true;
        } else if let Some(newer) = station.prepared.as_ref().filter(|_| !removed) {
            return Err(BindingError::Stale { key, offered: generation, current: newer.generation });
        }
        if station.active.is_none() && station.prepared.is_none() {
            self.tables.remove(i);
        }
        Ok(removed)
    }

    /// The binding table: the stations that have IPs, and all that the controller bound.
    pub fn bindings(&self, now: Time) -> impl Iterator<Item = BindingView> {
        self.tables.iter().filter(move |s| !s.expired(now)).flat_map(move |s| {
            let ips: Vec<_> = s
                .ips
                .iter()
                .map(|i| self.tables.ip(*i))
                .filter(|e| !e.expired(self.limits.ip_age, now))
                .collect();
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
                .filter(|a| a.source == Source::Controller || !ips.is_empty())
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

    pub(super) fn activate(
        &mut self,
        i: StationIndex,
        new: bool,
        binding: &Binding,
        now: Time,
    ) -> Result<BindingChange, BindingError> {
        let station = self.tables.station_mut(i);
        let before = station.active;
        let after = Active { at: binding.at, generation: binding.generation, source: Source::Controller };
        station.active = Some(after);
        station.flap = super::tables::Flap::default();
        if station.prepared.as_ref().is_some_and(|p| p.generation <= binding.generation) {
            station.prepared = None;
        }
        let ips_changed = self.replace_controlled_ips(i, binding, now)?;
        let change = match before {
            Some(b) if b.at != after.at => BindingChange::Moved { from: b.at },
            Some(b) if b == after && !ips_changed => BindingChange::Unchanged,
            Some(_) => BindingChange::Updated,
            None if new => BindingChange::Added,
            None => BindingChange::Updated,
        };
        if let BindingChange::Moved { from } = change {
            self.moved(i, from, after, None, now);
        }
        self.release_station(i, now);
        Ok(change)
    }

    fn replace_controlled_ips(
        &mut self,
        i: StationIndex,
        binding: &Binding,
        now: Time,
    ) -> Result<bool, BindingError> {
        let mut changed = false;
        let old: Vec<_> = self
            .tables
            .station(i)
            .ips
            .iter()
            .copied()
            .filter(|ip| {
                let entry = self.tables.ip(*ip);
                entry.source == Source::Controller && !binding.ips.contains(&entry.ip)
            })
            .collect();
        for ip in old {
            self.tables.remove_ip(ip);
            changed = true;
        }
        for ip in &binding.ips {
            let controlled = self
                .tables
                .find_ip(binding.tags, *ip, now)
                .map(|e| self.tables.ip(e))
                .is_some_and(|e| e.source == Source::Controller && e.station == i);
            if controlled {
                continue;
            }
            changed = true;
            self.note_router(i, *ip, false);
            match self.tables.bind_ip(i, *ip, Source::Controller, None, now) {
                Ok(IpBound::From(from)) => {
                    self.counters.ip_moves += 1;
                    let to = self.tables.station(i).key;
                    self.event(Event::IpMoved { ip: *ip, from, to }, now);
                }
                Ok(_) => {}
                Err(_) => {
                    self.counters.ip_table_full += 1;
                    return Err(BindingError::TableFull);
                }
            }
        }
        Ok(changed)
    }

    fn insert_bound(&mut self, key: BindingKey, now: Time) -> Result<StationIndex, BindingError> {
        if let Ok(i) = self.tables.insert(key, now) {
            return Ok(i);
        }
        self.counters.mac_table_full += 1;
        self.event(Event::TableFull, now);
        if !self.tables.evict_learned() {
            return Err(BindingError::TableFull);
        }
        self.tables.insert(key, now).map_err(|_| BindingError::TableFull)
    }
}

/// The highest generation that the controller gave; what is offered must not be below it.
fn newest_controlled(station: &Station) -> Option<Generation> {
    let active = station.active.filter(|a| a.source == Source::Controller).map(|a| a.generation);
    active.max(station.prepared.as_ref().map(|p| p.generation))
}

/// Where a station is, for events.
pub(super) fn place_of(station: &Station) -> Place {
    station.active.map_or(Place::Local, |a| a.at)
}
