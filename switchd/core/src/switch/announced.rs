//! Bindings that another switch learned and the controller passes on, and its confirmations of what this switch
//! announced.
//!
//! | the station here | announced for a peer | announced for this bridge |
//! |---|---|---|
//! | a controller's | refused | refused |
//! | known with a higher generation | stale | stale |
//! | unknown | bound | not here |
//! | on this bridge, by its frames | moves there if of a higher generation, else overtaken | confirmed |
//! | behind another peer, by its frames | the same | generation noted; not here |
//! | announced for another peer | moves there if of a higher generation, else overtaken | forgotten; not here |
//!
//! The controller numbers places in the order in which it accepted the claims, each against the generation that its
//! claimant had seen. A frame says more than the generation that was known when it came, and less than any later
//! one: whoever still has the station then shows it with its next frame, and claims it anew. A frame from the place
//! that the newest announcement names puts the station back as it was announced.

use std::net::IpAddr;

use super::binding::{Binding, BindingChange, BindingError, BindingKey, Place, Source, State};
use super::tables::{Active, IpBound, StationIndex};
use super::{Event, Switch};
use crate::ids::Generation;
use crate::time::Time;

impl Switch {
    /// Notes what the controller passes on, of checked addresses.
    pub(super) fn set_announced(
        &mut self,
        key: BindingKey,
        binding: &Binding,
        now: Time,
    ) -> Result<BindingChange, BindingError> {
        if binding.state == State::Prepared {
            return Err(BindingError::Prepared(key));
        }
        let found = self.tables.find(&key);
        if let Some(i) = found {
            let station = self.tables.station(i);
            if station.active.is_some_and(|a| a.source == Source::Controller) {
                return Err(BindingError::Controlled(key));
            }
            let current = station.generation();
            if binding.generation < current {
                return Err(BindingError::Stale { key, offered: binding.generation, current });
            }
        }
        match binding.at {
            Place::Local => Ok(self.confirm(key, found, binding.generation, now)),
            Place::Peer(_) => self.bind_announced(key, found, binding, now),
        }
    }

    /// The controller has this switch's claim.
    fn confirm(
        &mut self,
        key: BindingKey,
        found: Option<StationIndex>,
        generation: Generation,
        now: Time,
    ) -> BindingChange {
        let active = found.and_then(|i| Some((i, self.tables.station(i).active?)));
        if let Some((i, active)) = active {
            let here = active.is_ours() && !self.tables.station(i).expired(now);
            if here {
                let next = Active { generation, source: Source::Announced, ..active };
                self.tables.set_active(i, Some(next), now);
                return if next == active { BindingChange::Unchanged } else { BindingChange::Updated };
            }
            if active.source == Source::Announced && !active.is_ours() {
                if active.generation == generation {
                    return BindingChange::Overtaken;
                }
                self.tables.vacate(i, now);
                self.drop_empty(i);
            } else {
                // Seen behind a peer, whose claim will be newer; or expired, and so back with its next frame.
                self.tables.set_active(
                    i,
                    Some(Active { generation, source: Source::Learned, ..active }),
                    now,
                );
                self.tables.station_mut(i).named = Some(Place::Local);
            }
        }
        self.tables.push_change_of(key);
        BindingChange::NotHere
    }

    fn bind_announced(
        &mut self,
        key: BindingKey,
        found: Option<StationIndex>,
        binding: &Binding,
        now: Time,
    ) -> Result<BindingChange, BindingError> {
        let before = found.map(|i| self.tables.station(i)).filter(|s| !s.expired(now)).and_then(|s| s.active);
        if before.is_some_and(|b| b.at != binding.at && b.generation == binding.generation) {
            return Ok(BindingChange::Overtaken);
        }
        let i = match found {
            Some(i) => i,
            None => match self.tables.insert(key, now) {
                Ok(i) => i,
                Err(_) => {
                    self.counters.mac_table_full += 1;
                    return Err(self.announced_full(now));
                }
            },
        };
        let next = Active { at: binding.at, generation: binding.generation, source: Source::Announced };
        self.tables.set_active(i, Some(next), now);
        let news = before.is_none_or(|b| b.generation < binding.generation);
        let ips_changed = self.replace_announced_ips(i, binding, news, now);
        let change = match before {
            Some(b) if b.at != next.at => BindingChange::Moved { from: b.at },
            Some(b) if b == next && ips_changed == Ok(false) => BindingChange::Unchanged,
            None if found.is_none() => BindingChange::Added,
            Some(_) | None => BindingChange::Updated,
        };
        if let BindingChange::Moved { from } = change {
            self.moved(i, from, next, None, now);
        }
        self.release_station(i, now);
        ips_changed.map(|_| change)
    }

    /// Takes the announced list in place of the one before. What was learned from frames besides ages as ever.
    fn replace_announced_ips(
        &mut self,
        i: StationIndex,
        binding: &Binding,
        news: bool,
        now: Time,
    ) -> Result<bool, BindingError> {
        let mut changed = false;
        for ip in self.tables.station(i).ips.clone() {
            let entry = self.tables.ip_mut(ip);
            if binding.ips.contains(&entry.ip) {
                continue;
            }
            entry.listed = false;
            if entry.source == Source::Announced {
                self.tables.remove_ip(ip);
                changed = true;
            }
        }
        for ip in &binding.ips {
            if !self.may_announce(i, *ip, binding, news, now) {
                continue;
            }
            self.note_router(i, *ip, false);
            match self.tables.bind_ip(i, *ip, Source::Announced, None, now) {
                Ok(IpBound::From(from)) => {
                    self.counters.ip_moves += 1;
                    let to = self.tables.station(i).key;
                    self.event(Event::IpMoved { ip: *ip, from, to }, now);
                }
                Ok(_) => {}
                Err(_) if self.tables.ips_len() < self.limits.max_ips => {
                    self.counters.ip_table_full += 1;
                    continue;
                }
                Err(_) => {
                    self.counters.ip_table_full += 1;
                    return Err(self.announced_full(now));
                }
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Whether an announced IP is to be bound: it is not yet, and no better word gives it to another station. That
    /// is the controller's, a frame of this bridge, and an announcement that is not older; and to say the same
    /// again is no news.
    fn may_announce(&self, i: StationIndex, ip: IpAddr, binding: &Binding, news: bool, now: Time) -> bool {
        let Some(e) = self.tables.find_ip(binding.tags, ip, now) else { return true };
        let entry = self.tables.ip(e);
        if entry.station == i {
            // News of an owner that left polls unanswered: it lives.
            return news || entry.source == Source::Learned;
        }
        let owner = self.tables.station(entry.station);
        let here = owner.active.is_some_and(Active::is_ours) && !owner.expired(now);
        entry.source != Source::Controller && !here && news && owner.generation() < binding.generation
    }

    fn announced_full(&mut self, now: Time) -> BindingError {
        self.event(Event::TableFull, now);
        BindingError::TableFull
    }
}
