//! What the controller, or the node's configuration, says of bindings. Those that it only passes on are in
//! `announced`.

use super::binding::{Binding, BindingChange, BindingError, BindingKey, Place, Source, State};
use super::tables::{Active, IpBound, Prepared, Station, StationIndex};
use super::{Event, Switch};
use crate::ids::Generation;
use crate::time::Time;

impl Switch {
    /// Sets a controller's binding, or notes an announced one.
    ///
    /// A controller's replaces whatever was learned or announced, and a controller's of the same or a lower
    /// generation; its IPs replace those that the controller gave before.
    ///
    /// An announced one, of any other [`Source`], is what a switch learned and the controller passes on. It is
    /// believed like what is learned here, without ageing: until it is removed, replaced by the controller's or by
    /// a newer one, or until a frame shows the station elsewhere. Neither a lower generation than the newest known
    /// one, nor the same one for another place, moves a station, so what was seen here while its claim is under
    /// way stays. One for [`Place::Local`] confirms what this switch announced: it notes the generation, and
    /// nothing else.
    pub fn set_binding(&mut self, binding: Binding, now: Time) -> Result<BindingChange, BindingError> {
        self.wind(now);
        let key = BindingKey { tags: binding.tags, mac: binding.mac };
        if !key.mac.is_unicast()
            || key.mac == self.endpoint
            || !binding.ips.iter().all(super::admit::bindable)
        {
            return Err(BindingError::Address(key));
        }
        let result = match binding.source {
            Source::Controller => self.set_controlled(key, binding, now),
            Source::Announced | Source::Learned => self.set_announced(key, &binding, now),
        };
        self.count_evicted(now);
        result
    }

    fn set_controlled(
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

    /// Removes a controller's or an announced binding, active or prepared, unless a newer generation has taken its
    /// place. `true` if there was one. A station that frames showed elsewhere, or on this bridge, since it was
    /// announced stays there, as one without a generation.
    pub fn remove_binding(
        &mut self,
        key: BindingKey,
        generation: Generation,
        now: Time,
    ) -> Result<bool, BindingError> {
        self.wind(now);
        let Some(i) = self.tables.find(&key) else { return Ok(false) };
        let stale = |current| Err(BindingError::Stale { key, offered: generation, current });
        let station = self.tables.station_mut(i);
        let prepared = station.prepared.take_if(|p| p.generation <= generation).is_some();
        let newer = station.prepared.as_ref().map(|p| p.generation);
        let given = station.active.filter(|a| a.source != Source::Learned || a.generation > Generation(0));
        match (given, newer) {
            (Some(active), _) if active.generation > generation => {
                return if prepared { Ok(true) } else { stale(active.generation) };
            }
            (Some(active), _) => self.forget(i, active, now),
            (None, Some(newer)) => return stale(newer),
            (None, None) => {}
        }
        self.drop_empty(i);
        Ok(prepared || given.is_some())
    }

    /// Ends what the controller said of a station. Where frames showed it, it stays, without a generation.
    fn forget(&mut self, i: StationIndex, active: Active, now: Time) {
        let by_frames = active.source == Source::Learned || active.is_ours();
        if by_frames {
            let next = Active { generation: Generation(0), source: Source::Learned, ..active };
            self.tables.set_active(i, Some(next), now);
            // It may be announced anew.
            self.tables.note_change(i);
        } else {
            self.tables.vacate(i, now);
        }
    }

    pub(super) fn drop_empty(&mut self, i: StationIndex) {
        let station = self.tables.station(i);
        if station.active.is_none() && station.prepared.is_none() {
            self.tables.remove(i);
        }
    }

    pub(super) fn activate(
        &mut self,
        i: StationIndex,
        new: bool,
        binding: &Binding,
        now: Time,
    ) -> Result<BindingChange, BindingError> {
        let before = self.tables.station(i).active;
        let after = Active { at: binding.at, generation: binding.generation, source: Source::Controller };
        self.tables.set_active(i, Some(after), now);
        let station = self.tables.station_mut(i);
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
